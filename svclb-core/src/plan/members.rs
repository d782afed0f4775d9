//! The members of one service as the mirror keeps them: sorted, and small, since most of what a large
//! cluster takes is these.

use svclb_common::layout::{Address, BackendKey, BackendRow};

/// A backend and its row: 24 bytes, 12 of an IPv4 one.
#[derive(Clone, Copy, Debug)]
struct Member<A> {
    address: A,
    weight: u32,
    port: u16,
    sets: u8,
    state: u8,
}

impl<A: Ord + Copy> Member<A> {
    fn new(address: A, port: u16, row: &BackendRow) -> Self {
        Self { address, weight: row.weight, port, sets: row.sets, state: row.state }
    }

    const fn row(&self) -> BackendRow {
        BackendRow { sets: self.sets, state: self.state, _pad: 0, weight: self.weight }
    }
}

/// By address and port; IPv4 apart.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    v4: Vec<Member<[u8; 4]>>,
    v6: Vec<Member<[u8; 16]>>,
}

/// The last four bytes of an IPv4 address, as its v4-mapped form has them.
fn v4(address: Address) -> Option<[u8; 4]> {
    let [.., a, b, c, d] = address.bytes;
    address.is_v4().then_some([a, b, c, d])
}

fn find<A: Ord + Copy>(members: &[Member<A>], address: A, port: u16) -> Result<usize, usize> {
    members.binary_search_by_key(&(address, port), |member| (member.address, member.port))
}

fn put<A: Ord + Copy>(members: &mut Vec<Member<A>>, address: A, port: u16, row: &BackendRow) {
    let member = Member::new(address, port, row);
    match find(members, address, port) {
        Ok(at) => members[at] = member,
        Err(at) => members.insert(at, member),
    }
}

fn take_out<A: Ord + Copy>(members: &mut Vec<Member<A>>, address: A, port: u16) {
    if let Ok(at) = find(members, address, port) {
        members.remove(at);
    }
}

impl Members {
    pub(super) fn get(&self, address: Address, port: u16) -> Option<BackendRow> {
        match v4(address) {
            Some(v4) => find(&self.v4, v4, port).ok().map(|at| self.v4[at].row()),
            None => find(&self.v6, address.bytes, port).ok().map(|at| self.v6[at].row()),
        }
    }

    pub(super) fn put(&mut self, address: Address, port: u16, row: &BackendRow) {
        match v4(address) {
            Some(v4) => put(&mut self.v4, v4, port, row),
            None => put(&mut self.v6, address.bytes, port, row),
        }
    }

    pub(super) fn remove(&mut self, address: Address, port: u16) {
        match v4(address) {
            Some(v4) => take_out(&mut self.v4, v4, port),
            None => take_out(&mut self.v6, address.bytes, port),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Each with its key, of this service.
    pub(super) fn of(&self, service: u32) -> impl Iterator<Item = (BackendKey, BackendRow)> {
        let key = move |address, port| BackendKey { address, port, _pad: 0, service };
        let v4 = self
            .v4
            .iter()
            .map(move |member| (key(Address::from_v4(member.address), member.port), member.row()));
        let v6 = self
            .v6
            .iter()
            .map(move |member| (key(Address { bytes: member.address }, member.port), member.row()));
        v4.chain(v6)
    }

    /// Gives up room that growing left.
    pub(super) fn shrink(&mut self) {
        self.v4.shrink_to_fit();
        self.v6.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn members_are_what_was_put_and_not_removed(
            deeds in proptest::collection::vec((0..6_u8, 0..3_u16, 0..4_u8), 0..60),
        ) {
            let (mut members, mut model) = (Members::default(), BTreeMap::new());
            for (number, port, sets) in deeds {
                let address: Address = if number.is_multiple_of(2) {
                    IpAddr::from([10, 0, 0, number]).into()
                } else {
                    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)]).into()
                };
                let row = BackendRow { sets, state: 1, _pad: 0, weight: u32::MAX };
                if sets == 0 {
                    members.remove(address, port);
                    model.remove(&(address, port));
                } else {
                    members.put(address, port, &row);
                    model.insert((address, port), row);
                }
                prop_assert_eq!(members.get(address, port), model.get(&(address, port)).copied());
            }
            members.shrink();
            let found: BTreeMap<_, _> =
                members.of(7).map(|(key, row)| ((key.address, key.port), row)).collect();
            prop_assert_eq!(found, model);
            prop_assert!(members.of(7).all(|(key, _)| key.service == 7));
        }
    }
}
