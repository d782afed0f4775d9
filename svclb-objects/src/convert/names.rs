//! Pools of values that repeat from object to object, each kept once: the names of namespaces, Services,
//! ports, nodes and zones, and the traits of endpoints. A cluster has many endpoints with few traits.
//!
//! The pools belong to the thread, so that converters need not pass them on; the agent converts on one
//! thread. They affect nothing but how much memory an object takes.

use std::cell::RefCell;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hashbrown::{Equivalent, HashSet};
use svclb_core::model::Endpoint;

use super::wire;

thread_local! {
    static NAMES: RefCell<Pool<str>> = const { RefCell::new(Pool::new()) };
    static ENDPOINTS: RefCell<Pool<Endpoint>> = const { RefCell::new(Pool::new()) };
}

/// Returns the pooled name of this text.
pub(super) fn name(text: &str) -> Arc<str> {
    NAMES.with_borrow_mut(|names| names.one(text, || text.into()))
}

/// Returns the pooled traits of an endpoint.
pub(super) fn endpoint(endpoint: &wire::Endpoint) -> Arc<Endpoint> {
    let traits = Traits(endpoint);
    ENDPOINTS.with_borrow_mut(|pool| pool.one(&traits, || Arc::new(traits.pooled())))
}

/// The traits of an endpoint, to look them up.
struct Traits<'a>(&'a wire::Endpoint);

impl Traits<'_> {
    fn conditions(&self) -> [bool; 3] {
        let wire::Conditions { ready, serving, terminating } = self.0.conditions;
        [ready.unwrap_or(true), serving.unwrap_or(true), terminating.unwrap_or(false)]
    }

    fn node(&self) -> Option<&str> {
        self.0.node_name.as_deref().filter(|node| !node.is_empty())
    }

    fn pooled(&self) -> Endpoint {
        let [ready, serving, terminating] = self.conditions();
        let hints = |hints: &[wire::Hint]| hints.iter().map(|hint| name(&hint.name)).collect();
        Endpoint {
            ready,
            serving,
            terminating,
            node: self.node().map(name),
            node_hints: hints(&self.0.hints.for_nodes),
            zone_hints: hints(&self.0.hints.for_zones),
        }
    }
}

/// Hashes as `Endpoint` does, since equal keys need equal hashes.
impl Hash for Traits<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.conditions().iter().for_each(|condition| condition.hash(state));
        self.node().hash(state);
        for hints in [&self.0.hints.for_nodes, &self.0.hints.for_zones] {
            state.write_usize(hints.len());
            hints.iter().for_each(|hint| hint.name.hash(state));
        }
    }
}

impl Equivalent<Arc<Endpoint>> for Traits<'_> {
    fn equivalent(&self, kept: &Arc<Endpoint>) -> bool {
        let Endpoint { ready, serving, terminating, node, node_hints, zone_hints } = &**kept;
        let same = |hints: &[wire::Hint], kept: &[Arc<str>]| {
            hints.iter().map(|hint| &*hint.name).eq(kept.iter().map(|hint| &**hint))
        };
        self.conditions() == [*ready, *serving, *terminating]
            && self.node() == node.as_deref()
            && same(&self.0.hints.for_nodes, node_hints)
            && same(&self.0.hints.for_zones, zone_hints)
    }
}

/// Values that are kept once each, as long as they are in use elsewhere.
struct Pool<T: ?Sized> {
    values: Option<HashSet<Arc<T>>>,
    /// The size at which values that are in use nowhere else are dropped.
    limit: usize,
}

impl<T: ?Sized + Eq + Hash> Pool<T> {
    const LEAST: usize = 1024;

    const fn new() -> Self {
        Self { values: None, limit: Self::LEAST }
    }

    fn one<Q>(&mut self, value: &Q, make: impl FnOnce() -> Arc<T>) -> Arc<T>
    where
        Q: ?Sized + Hash + Equivalent<Arc<T>>,
    {
        let values = self.values.get_or_insert_default();
        if let Some(known) = values.get(value) {
            return Arc::clone(known);
        }
        if values.len() >= self.limit {
            values.retain(|value| Arc::strong_count(value) > 1);
            values.shrink_to_fit();
            self.limit = Self::LEAST.max(2 * values.len());
        }
        let new = make();
        values.insert(Arc::clone(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_are_kept_once_and_unused_ones_are_dropped() {
        fn one(pool: &mut Pool<str>, text: &str) -> Arc<str> {
            pool.one(text, || text.into())
        }
        let mut pool: Pool<str> = Pool::new();
        let kept = one(&mut pool, "kept");
        for number in 0..10_000 {
            one(&mut pool, &number.to_string());
        }
        assert!(pool.values.as_ref().unwrap().len() <= Pool::<str>::LEAST);
        assert!(Arc::ptr_eq(&kept, &one(&mut pool, "kept")));
        let held: Vec<_> =
            (0..10_000).map(|number| one(&mut pool, &format!("n{number}"))).collect();
        assert!(pool.values.as_ref().unwrap().len() > held.len());
    }

    #[test]
    fn equal_endpoints_share_their_traits_in_any_encoding() {
        let endpoint_of = |text: &str| endpoint(&serde_json::from_str(text).unwrap());
        let rows = [
            "{}",
            r#"{"conditions":{"ready":false}}"#,
            r#"{"conditions":{"serving":false}}"#,
            r#"{"conditions":{"terminating":true}}"#,
            r#"{"nodeName":"a"}"#,
            r#"{"nodeName":"b"}"#,
            r#"{"nodeName":"a","hints":{"forZones":[{"name":"z"}]}}"#,
            r#"{"nodeName":"a","hints":{"forNodes":[{"name":"z"}]}}"#,
            r#"{"hints":{"forZones":[{"name":"y"},{"name":"z"}],"forNodes":[{"name":"b"}]}}"#,
        ];
        let all = rows.map(endpoint_of);
        for (row, known) in rows.iter().zip(&all) {
            assert!(Arc::ptr_eq(known, &endpoint_of(row)), "{row}");
            assert_eq!(all.iter().filter(|other| *other == known).count(), 1, "{row}");
        }
        let plain = r#"{"addresses":["10.0.0.1"],"nodeName":"","hints":null,
            "conditions":{"ready":true,"serving":true,"terminating":false}}"#;
        assert!(Arc::ptr_eq(&all[0], &endpoint_of(plain)));
        assert_eq!(*all[0], Endpoint::default());
    }
}
