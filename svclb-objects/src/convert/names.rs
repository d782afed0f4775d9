//! What repeats from object to object, kept once: namespaces, Services, ports, nodes and zones by name,
//! and what is said of endpoints. A cluster has many endpoints, and few of them say something new.
//!
//! The pools are of the thread, so that whoever converts need not hand them round; the agent converts
//! on one. They decide nothing but how much memory an object takes.

use std::cell::RefCell;
use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use svclb_core::model::Endpoint;

thread_local! {
    static NAMES: RefCell<Pool<str>> = const { RefCell::new(Pool::new()) };
    static ENDPOINTS: RefCell<Pool<Endpoint>> = const { RefCell::new(Pool::new()) };
}

/// The name that has this text.
pub(super) fn name(text: &str) -> Arc<str> {
    NAMES.with_borrow_mut(|names| names.one(text, || text.into()))
}

/// What is said of an endpoint, as it was said before.
pub(super) fn endpoint(said: &Endpoint) -> Arc<Endpoint> {
    ENDPOINTS.with_borrow_mut(|pool| pool.one(said, || Arc::new(said.clone())))
}

/// Values of which each is kept once, as long as somebody else has it too.
struct Pool<T: ?Sized> {
    values: Option<HashSet<Arc<T>>>,
    /// When it has grown to this, what nobody else has any more is given up.
    limit: usize,
}

impl<T: ?Sized + Eq + Hash> Pool<T> {
    const LEAST: usize = 1024;

    const fn new() -> Self {
        Self { values: None, limit: Self::LEAST }
    }

    fn one(&mut self, value: &T, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
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
    fn what_repeats_is_kept_once_and_what_nobody_has_is_given_up() {
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
}
