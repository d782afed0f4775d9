//! Digests of rows: the mirror of a large cluster does not keep all slots just to compare them.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::sync::LazyLock;

use svclb_common::layout::{ServiceRow, Slot};

/// Random in each process, so that rows with one digest cannot be made on purpose. By chance two rows have
/// one digest once in 2^64 comparisons, and then a change is written with the next one.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Equal for equal rows; not valid in another process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest(u64);

impl Digest {
    /// The digest of slots in their order.
    pub fn of_slots(slots: impl IntoIterator<Item = Slot>) -> Self {
        let mut hasher = KEY.build_hasher();
        for Slot { address, port, flags, owner, threshold, alias } in slots {
            hasher.write(&address.bytes);
            hasher.write_u64(u64::from(port) | u64::from(flags) << 16 | u64::from(owner) << 32);
            hasher.write_u64(u64::from(threshold) | u64::from(alias) << 32);
        }
        Self(hasher.finish())
    }

    /// The digest of a service's row.
    pub fn of_row(row: &ServiceRow) -> Self {
        let ServiceRow {
            namespace,
            name,
            port_name,
            protocol,
            internal_policy,
            external_policy,
            frontends,
            internal_backends,
            external_backends,
            notes,
        } = row;
        let mut hasher = KEY.build_hasher();
        (namespace, name, port_name, protocol, internal_policy, external_policy).hash(&mut hasher);
        (frontends, internal_backends, external_backends, notes).hash(&mut hasher);
        Self(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_differs_in_any_field_has_another_digest() {
        let slot = Slot { port: 80, owner: 7, threshold: u32::MAX, ..Slot::default() };
        let rows = [
            ("address", Slot { address: std::net::IpAddr::from([10, 0, 0, 1]).into(), ..slot }),
            ("port", Slot { port: 81, ..slot }),
            ("flags", Slot { flags: 1, ..slot }),
            ("owner", Slot { owner: 8, ..slot }),
            ("threshold", Slot { threshold: 1, ..slot }),
            ("alias", Slot { alias: 1, ..slot }),
        ];
        let digest = Digest::of_slots([slot]);
        assert_eq!(digest, Digest::of_slots([slot]));
        for (name, other) in rows {
            assert_ne!(digest, Digest::of_slots([other]), "{name}");
        }
        assert_ne!(digest, Digest::of_slots([slot, slot]), "one more");
    }
}
