//! A limit on the memory of each namespace's objects, also of those that are not served.
//!
//! The catalog, which knows all objects, decides which Services are served (`svclb_core::budget`). Objects
//! that are not served are kept until they are. Without a limit on them, one namespace could fill the memory of
//! every node with Services that are refused, and with slices of no Service.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use svclb_core::budget::{Budget, Resource, memory};
use svclb_core::model::{Omission, Update};

use super::lock;

/// The memory that the objects of all kinds share.
///
/// A namespace may take its share (half, by default) of what all namespaces leave free. So none of them takes
/// all: the first takes a third, and the next one a third of the rest.
#[derive(Clone, Debug)]
pub(super) struct Capacity(Arc<Mutex<Used>>);

#[derive(Debug)]
struct Used {
    limit: usize,
    /// The share of a namespace, as the budgets of one and of all.
    share: (usize, usize),
    all: usize,
    of_namespace: HashMap<Arc<str>, usize>,
}

impl Capacity {
    /// Returns as much as these budgets allow.
    pub(super) fn new(budget: &Budget) -> Self {
        let limit = memory::kept(&budget.cluster);
        let [one, all] =
            [budget.namespace, budget.cluster].map(|amount| amount.of(Resource::Memory));
        let used = Used { limit, share: (one, all), all: 0, of_namespace: HashMap::new() };
        Self(Arc::new(Mutex::new(used)))
    }

    /// Counts an object that counted with `memory` bytes, which is changed. Where it exceeds what its namespace
    /// may take, its contents are left out. Returns the bytes that left-out contents need.
    pub(super) fn take(&self, update: &mut Update, memory: &mut usize) -> Option<usize> {
        self.omit(update, *memory);
        let Counted { namespace, bytes, needs } = counted(update)?;
        self.count(namespace, *memory, bytes);
        *memory = bytes;
        needs
    }

    /// Counts a later state of an object in addition to the one that counts with `before` bytes. It is without
    /// contents, too, where they exceed what its namespace may take.
    pub(super) fn reserve(&self, update: &mut Update, before: usize) {
        self.omit(update, before);
        if let Some(Counted { namespace, bytes, .. }) = counted(update) {
            self.count(namespace, 0, bytes);
        }
    }

    /// Stops counting a state that was [reserved](Self::reserve).
    pub(super) fn release(&self, update: &Update) {
        if let Some(Counted { namespace, bytes, .. }) = counted(update) {
            self.count(namespace, bytes, 0);
        }
    }

    /// Leaves the contents of an object out where they exceed what its namespace may take.
    fn omit(&self, update: &mut Update, before: usize) {
        let Some(Counted { namespace, bytes, .. }) = counted(update) else { return };
        let Err(why) = self.check(namespace, before, bytes) else { return };
        match update {
            Update::Service(_, Some(service)) => *service = service.omit(why),
            Update::Slice(_, Some(slice)) => *slice = slice.omit(why),
            _ => {}
        }
    }

    /// Checks that an object of a namespace may take `bytes` where it took `before`.
    ///
    /// # Errors
    /// The limit that it exceeds. An object that does not grow exceeds none.
    pub(super) fn check(
        &self,
        namespace: &str,
        before: usize,
        bytes: usize,
    ) -> Result<(), Omission> {
        let used = lock(&self.0);
        let others = used.of_namespace.get(namespace).map_or(0, |used| used.saturating_sub(before));
        let free = used.limit.saturating_sub(used.all.saturating_sub(before));
        let limit = used.share_of(others.saturating_add(free));
        if bytes <= before || others + bytes <= limit {
            return Ok(());
        }
        Err(Omission { needs: bytes, used: others, limit })
    }

    /// Counts an object of a namespace with `bytes` where it had `before`.
    pub(super) fn count(&self, namespace: &Arc<str>, before: usize, bytes: usize) {
        let mut used = lock(&self.0);
        let change = |used: usize| (used + bytes).saturating_sub(before);
        used.all = change(used.all);
        let of_namespace = used.of_namespace.entry(Arc::clone(namespace)).or_default();
        *of_namespace = change(*of_namespace);
        if *of_namespace == 0 {
            used.of_namespace.remove(namespace);
        }
    }
}

/// An object as it counts.
struct Counted<'a> {
    namespace: &'a Arc<str>,
    /// Its bytes; 0 without contents.
    bytes: usize,
    /// The bytes that its contents need, if they are left out.
    needs: Option<usize>,
}

fn counted(update: &Update) -> Option<Counted<'_>> {
    let (name, bytes, omitted) = match update {
        Update::Service(name, Some(it)) => (name, it.memory(), it.omitted.as_ref()),
        Update::Slice(name, Some(it)) => (name, it.memory(), it.omitted.as_ref()),
        Update::Service(name, None) | Update::Slice(name, None) => (name, 0, None),
        Update::Node(_) | Update::Interfaces(_) => return None,
    };
    let needs = omitted.map(|omission| omission.needs);
    let bytes = if needs.is_some() { 0 } else { bytes };
    Some(Counted { namespace: &name.namespace, bytes, needs })
}

impl Used {
    /// Returns the most that a namespace may take, where its own and the free bytes are `both` together: it
    /// then has its share of what is free beside it.
    fn share_of(&self, both: usize) -> usize {
        let (one, all) = (self.share.0 as u128, self.share.1 as u128);
        let share = (both as u128 * one).checked_div(one + all).unwrap_or_default();
        usize::try_from(share).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use svclb_core::budget::Amount;

    use super::*;

    /// Returns a capacity where all Services may take so many bytes, and those of one namespace this percentage
    /// of it.
    fn capacity(all: usize, percent: usize) -> Capacity {
        let cluster = Amount::default().with(Resource::Memory, all);
        let namespace = cluster.percent(percent);
        Capacity::new(&Budget { namespace, cluster, ..Budget::UNLIMITED })
    }

    /// Adds objects of one byte until the namespace has its share. Returns their number.
    fn fill(capacity: &Capacity, namespace: &Arc<str>) -> usize {
        let mut taken = 0;
        while capacity.check(namespace, 0, 1).is_ok() {
            capacity.count(namespace, 0, 1);
            taken += 1;
        }
        taken
    }

    #[test]
    fn namespace_takes_a_third_of_what_is_free_and_the_next_a_third_of_the_rest() {
        let capacity = capacity(450, 50);
        let [a, b]: [Arc<str>; 2] = ["a".into(), "b".into()];
        assert_eq!((fill(&capacity, &a), fill(&capacity, &b)), (300, 200));
        let omission = Omission { needs: 7, used: 300, limit: 233 };
        assert_eq!(capacity.check(&a, 0, 7), Err(omission));
        // An object that is there stays, and may become smaller.
        assert_eq!((capacity.check(&a, 7, 7), capacity.check(&a, 7, 6)), (Ok(()), Ok(())));
        capacity.count(&a, 300, 0);
        capacity.count(&b, 200, 0);
        assert_eq!(fill(&capacity, &b), 300);
    }

    #[test]
    fn namespaces_that_are_served_as_far_as_the_budgets_go_are_kept_whole() {
        let rows = [
            (50, vec![200, 200]),
            (50, vec![100; 4]),
            (50, vec![200, 100, 100]),
            (50, vec![1; 400]),
            (100, vec![400]),
            (25, vec![100; 4]),
        ];
        for (percent, shares) in rows {
            let capacity = capacity(400, percent);
            for (number, share) in shares.iter().enumerate() {
                let namespace: Arc<str> = number.to_string().into();
                assert_eq!(capacity.check(&namespace, 0, *share), Ok(()), "{shares:?} {number}");
                capacity.count(&namespace, 0, *share);
            }
        }
    }
}
