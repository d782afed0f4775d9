//! The log lines of rejected objects. Each namespace, and each file, has a rate of its own: an object
//! that is rejected for another reason each time fills no disk, and hides no other tenant's.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use svclb_sources::Reject;

/// Lines of one origin that may be logged at once; after them one each second.
const AT_ONCE: usize = 20;
/// The most rejects of one origin that wait to be logged. The others are counted.
const WAITING: usize = 128;
/// The most origins with a rate of their own. The others share one.
const ORIGINS: usize = 1_000;

/// Rejects that were logged lately or wait to be logged, by origin.
#[derive(Debug, Default)]
pub(super) struct RejectLog(BTreeMap<String, RejectSource>);

/// A limit of log lines: [`AT_ONCE`], and one more with each second.
#[derive(Debug, Default)]
pub(super) struct Rate {
    /// Lines that were logged and count against the next ones.
    used: usize,
    /// The time up to which `used` is computed.
    since: Option<Instant>,
}

impl Rate {
    /// Returns how many of the `wanted` lines may be logged now, and counts them.
    pub(super) fn take(&mut self, wanted: usize, now: Instant) -> usize {
        let since = *self.since.get_or_insert(now);
        let seconds = now.saturating_duration_since(since).as_secs();
        self.used = self.used.saturating_sub(usize::try_from(seconds).unwrap_or(usize::MAX));
        self.since = Some(since + Duration::from_secs(seconds));
        let taken = AT_ONCE.saturating_sub(self.used).min(wanted);
        self.used += taken;
        taken
    }
}

/// The rejects of one origin.
#[derive(Debug, Default)]
struct RejectSource {
    rate: Rate,
    /// With when they were reported.
    waiting: VecDeque<(Instant, Reject)>,
    /// Rejects that did not fit into `waiting`.
    missed: usize,
}

impl RejectLog {
    /// Logs what may be logged now.
    pub(super) fn add(&mut self, rejects: &[Reject]) {
        for reject in rejects {
            self.enqueue(reject);
        }
        self.log_due();
    }

    /// Logs rejects that wait, as far as the rates allow.
    pub(super) fn log_due(&mut self) {
        let now = Instant::now();
        self.0.retain(|name, origin| {
            for (reported, reject) in origin.due(now) {
                reject.log(now.saturating_duration_since(reported));
            }
            if origin.missed > 0 {
                tracing::warn!(
                    more = std::mem::take(&mut origin.missed),
                    origin = name,
                    "more objects are rejected, or ignored in part, than are logged"
                );
            }
            !origin.is_idle()
        });
    }

    fn enqueue(&mut self, reject: &Reject) {
        let mut name = reject.origin().into_owned();
        if !self.0.contains_key(&name) && self.0.len() >= ORIGINS {
            name = "others".to_owned();
        }
        let origin = self.0.entry(name).or_default();
        let entry = || (Instant::now(), reject.clone());
        match origin.waiting.iter().position(|(_, waiting)| reject.replaces(waiting)) {
            Some(place) => origin.waiting[place] = entry(),
            None if origin.waiting.len() < WAITING => origin.waiting.push_back(entry()),
            None => origin.missed += 1,
        }
    }
}

impl RejectSource {
    /// Takes the rejects that may be logged now.
    fn due(&mut self, now: Instant) -> impl Iterator<Item = (Instant, Reject)> {
        let count = self.rate.take(self.waiting.len(), now);
        self.waiting.drain(..count)
    }

    /// True when nothing waits and no logged line counts against the next ones.
    fn is_idle(&self) -> bool {
        self.rate.used == 0 && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use svclb_core::model::ObjectName;

    use super::*;
    use svclb_objects::convert::{Invalid, Kind, ObjectId};

    fn reject(namespace: &str, name: usize, problem: &str) -> Reject {
        let name = ObjectName::new(namespace, &name.to_string());
        let invalid = Invalid {
            object: Some(ObjectId { kind: Kind::Service, name }),
            service: None,
            uid: None,
            field: "spec".to_owned(),
            at: "".into(),
            problem: problem.to_owned(),
        };
        Reject::Object(invalid, true)
    }

    fn enqueue(log: &mut RejectLog, namespace: &str, count: usize) {
        (0..count).for_each(|name| log.enqueue(&reject(namespace, name, "wrong")));
    }

    /// Number of rejects of a namespace that are due at this time.
    fn due(log: &mut RejectLog, namespace: &str, start: Instant, seconds: u64) -> usize {
        let origin = log.0.get_mut(namespace).unwrap();
        origin.due(start + Duration::from_secs(seconds)).count()
    }

    #[test]
    fn some_rejects_are_logged_at_once_and_the_others_one_a_second() {
        let (mut log, start) = (RejectLog::default(), Instant::now());
        enqueue(&mut log, "shop", WAITING + 7);
        let rows = [(0, AT_ONCE), (0, 0), (1, 1), (4, 3), (1_000, AT_ONCE), (2_000, AT_ONCE)];
        for (seconds, expected) in rows {
            assert_eq!(due(&mut log, "shop", start, seconds), expected, "after {seconds} s");
        }
        assert_eq!(log.0["shop"].missed, 7);
    }

    #[test]
    fn rejects_of_one_namespace_hide_no_others() {
        let (mut log, start) = (RejectLog::default(), Instant::now());
        enqueue(&mut log, "noisy", 10_000);
        enqueue(&mut log, "quiet", 1);
        assert_eq!(due(&mut log, "noisy", start, 0), AT_ONCE);
        assert_eq!(due(&mut log, "quiet", start, 0), 1);
    }

    #[test]
    fn an_object_waits_once_with_its_latest_problem() {
        let mut log = RejectLog::default();
        for problem in ["first", "second"] {
            log.enqueue(&reject("shop", 1, problem));
        }
        let waiting = log.0.remove("shop").unwrap().waiting.into_iter();
        let waiting: Vec<Reject> = waiting.map(|(_, reject)| reject).collect();
        assert_eq!(waiting, [reject("shop", 1, "second")]);
    }

    #[test]
    fn origins_are_bounded_and_forgotten_once_nothing_counts() {
        let mut log = RejectLog::default();
        for number in 0..2 * ORIGINS {
            log.enqueue(&reject(&format!("n{number}"), 0, "wrong"));
        }
        assert_eq!(log.0.len(), ORIGINS + 1);
        let start = Instant::now();
        for origin in log.0.values_mut() {
            for hour in 0..10 {
                origin.due(start + Duration::from_secs(3_600 * hour)).for_each(drop);
            }
        }
        log.log_due();
        assert!(log.0.is_empty(), "{:?}", log.0.keys());
    }
}
