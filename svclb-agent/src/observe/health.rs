//! The answers of `/livez`, `/readyz` and `/healthz`, by the meaning that they have for kube-proxy
//! (pkg/proxy/healthcheck/proxy_health.go): an API server that is away fails none of them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::json;
use svclb_core::text;

use super::Observed;
use super::serve::{Answer, Pages};

/// Time without a turn of the reconciler's loop, which turns every two seconds, after which the agent is to be
/// restarted.
const STUCK: Duration = Duration::from_secs(60);
/// Age of a change that is not written at which the node is not healthy: kube-proxy's, twice its sync period of
/// 30 s by default.
const LATE: Duration = Duration::from_secs(60);

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Whether this agent is ready, or why not.
pub type Readiness = Box<dyn Fn() -> Result<&'static str> + Send + Sync>;

/// The pages about the agent's health.
pub struct HealthPages {
    /// What the reconciler published.
    pub observed: Arc<Observed>,
    /// The judgement of `svclb status --ready`.
    pub readiness: Readiness,
}

impl Pages for HealthPages {
    fn page(&self, path: &str) -> Option<Answer> {
        let state = State::of(&self.observed);
        Some(match path {
            "/livez" => state.livez(SystemTime::now()),
            "/healthz" => state.healthz(SystemTime::now()),
            "/readyz" => readyz((self.readiness)()),
            _ => return None,
        })
    }
}

/// The state of the agent at one moment, each time as its age.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// The last turn of the reconciler's loop, or of a start that waits for its sources.
    turned: Option<Duration>,
    /// The earliest change that is not written yet.
    pending: Option<Duration>,
    /// The last time at which all changes were written.
    written: Option<Duration>,
    is_leaving: bool,
}

impl State {
    fn of(observed: &Observed) -> Self {
        let clock = observed.clock;
        Self {
            turned: observed.turned.age(clock),
            pending: observed.pending.age(clock),
            written: observed.written.age(clock),
            is_leaving: observed.is_leaving.load(Relaxed),
        }
    }

    fn is_live(&self) -> bool {
        self.turned.is_some_and(|age| age < STUCK)
    }

    /// As for kube-proxy, an agent that starts is healthy: no change of its sources is pending.
    fn is_healthy(&self) -> bool {
        self.is_live() && self.pending.is_none_or(|age| age < LATE)
    }

    fn livez(&self, now: SystemTime) -> Answer {
        let is_live = self.is_live();
        let updated = if is_live { Some(Duration::ZERO) } else { self.turned };
        json_answer(
            is_live,
            &json!({
                "lastUpdated": time(now, updated),
                "currentTime": time(now, Some(Duration::ZERO)),
            }),
        )
    }

    fn healthz(&self, now: SystemTime) -> Answer {
        let is_healthy = self.is_healthy() && !self.is_leaving;
        // As kube-proxy writes it: the time of a healthy one is always recent.
        let updated = if is_healthy { Some(Duration::ZERO) } else { self.written };
        json_answer(
            is_healthy,
            &json!({
                "lastUpdated": time(now, updated),
                "currentTime": time(now, Some(Duration::ZERO)),
                "nodeEligible": !self.is_leaving,
            }),
        )
    }
}

/// The time so long before, as RFC 3339.
fn time(now: SystemTime, age: Option<Duration>) -> Option<String> {
    let time = Timestamp::try_from(now.checked_sub(age?)?).ok()?;
    Some(format!("{time:.3}"))
}

fn json_answer(is_good: bool, body: &serde_json::Value) -> Answer {
    Answer { status: status(is_good), content_type: JSON, body: format!("{body}\n") }
}

fn readyz(readiness: Result<&'static str>) -> Answer {
    let body = match &readiness {
        Ok(word) => (*word).to_owned(),
        Err(error) => text::line(&format!("{error:#}")),
    };
    Answer { status: status(readiness.is_ok()), content_type: TEXT, body: body + "\n" }
}

const fn status(is_good: bool) -> StatusCode {
    if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use anyhow::anyhow;
    use serde_json::{Value, from_str};

    use super::*;

    const fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn each_answer_follows_from_the_state() {
        let turns = State { turned: seconds(1), ..State::default() };
        let writes = State { written: seconds(5), ..turns };
        let late = State { pending: Some(LATE), ..writes };
        let stuck = State { turned: Some(STUCK), ..writes };
        // (row, state, live, healthy)
        let rows = [
            ("not even begun", State::default(), false, false),
            ("it starts, and its sources are away", turns, true, true),
            ("all is written", writes, true, true),
            ("nothing changed for a day", State { written: seconds(86_400), ..turns }, true, true),
            ("a change is pending", State { pending: seconds(59), ..writes }, true, true),
            ("a change is late", late, true, false),
            ("the first change is late", State { written: None, ..late }, true, false),
            ("the node is leaving", State { is_leaving: true, ..writes }, true, false),
            ("its loop does not turn", stuck, false, false),
            (
                "it is stuck and the node is leaving",
                State { is_leaving: true, ..stuck },
                false,
                false,
            ),
        ];
        for (row, state, is_live, is_healthy) in rows {
            let now = SystemTime::now();
            assert_eq!(state.livez(now).status, status(is_live), "livez: {row}");
            assert_eq!(state.healthz(now).status, status(is_healthy), "healthz: {row}");
        }
    }

    #[test]
    fn bodies_have_the_fields_of_kube_proxy() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let good = State { turned: seconds(1), written: seconds(30), ..State::default() };
        let body = |answer: Answer| from_str::<Value>(&answer.body).unwrap();
        let (earlier, current) = ("2001-09-09T01:46:10.000Z", "2001-09-09T01:46:40.000Z");
        let expected = json!({"lastUpdated": current, "currentTime": current});
        assert_eq!(body(good.livez(now)), expected);
        let expected =
            json!({"lastUpdated": current, "currentTime": current, "nodeEligible": true});
        assert_eq!(body(good.healthz(now)), expected);
        let leaving = State { is_leaving: true, ..good };
        let expected =
            json!({"lastUpdated": earlier, "currentTime": current, "nodeEligible": false});
        assert_eq!(body(leaving.healthz(now)), expected);
        let stuck = State { turned: seconds(100), ..good };
        let expected = json!({"lastUpdated": "2001-09-09T01:45:00.000Z", "currentTime": current});
        assert_eq!(body(stuck.livez(now)), expected);
        let expected = json!({"lastUpdated": null, "currentTime": current});
        assert_eq!(body(State::default().livez(now)), expected);
    }

    #[test]
    fn readyz_is_the_judgement_of_status_ready() {
        let ready = readyz(Ok("ready"));
        assert_eq!((ready.status, &*ready.body), (StatusCode::OK, "ready\n"));
        let not = readyz(Err(anyhow!("not ready: no agent runs\u{1b}[2J")));
        assert_eq!(not.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(not.body.starts_with("not ready: no agent runs"), "{:?}", not.body);
        assert!(!not.body.contains('\u{1b}'), "{:?}", not.body);
    }

    #[test]
    fn there_are_three_pages() {
        let pages = HealthPages { observed: Arc::default(), readiness: Box::new(|| Ok("ready")) };
        let status = |path| pages.page(path).map(|answer| answer.status.as_u16());
        let found = ["/livez", "/readyz", "/healthz", "/", "/metrics"].map(status);
        assert_eq!(found, [Some(503), Some(200), Some(503), None, None]);
    }
}
