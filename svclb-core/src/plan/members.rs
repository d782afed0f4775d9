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

/// How many members a piece has at most: so many have to move for one that comes or goes among them.
const PIECE: usize = if cfg!(test) { 4 } else { 512 };

/// Members by address and port, in pieces: one that comes or goes moves the others of its piece only, so
/// that a service whose backends are all replaced takes no time that grows as their square.
#[derive(Clone, Debug)]
struct Sorted<A> {
    /// In order, none empty.
    pieces: Vec<Vec<Member<A>>>,
}

impl<A> Default for Sorted<A> {
    fn default() -> Self {
        Self { pieces: Vec::new() }
    }
}

impl<A: Ord + Copy> Sorted<A> {
    /// The piece in which a member is, or would be: the last that begins at or before it.
    fn piece(&self, address: A, port: u16) -> usize {
        let begins_before = |piece: &Vec<Member<A>>| {
            piece.first().is_some_and(|first| (first.address, first.port) <= (address, port))
        };
        self.pieces.partition_point(begins_before).saturating_sub(1)
    }

    /// Its piece, and its place there.
    fn find(&self, address: A, port: u16) -> Option<(usize, usize)> {
        let piece = self.piece(address, port);
        Some((piece, find(self.pieces.get(piece)?, address, port).ok()?))
    }

    fn get(&self, address: A, port: u16) -> Option<BackendRow> {
        self.find(address, port).map(|(piece, at)| self.pieces[piece][at].row())
    }

    fn put(&mut self, address: A, port: u16, row: &BackendRow) {
        let member = Member::new(address, port, row);
        let number = self.piece(address, port);
        let Some(piece) = self.pieces.get_mut(number) else {
            self.pieces.push(vec![member]);
            return;
        };
        match find(piece, address, port) {
            Ok(at) => piece[at] = member,
            Err(at) if piece.len() < PIECE => piece.insert(at, member),
            // One behind all others begins a piece, so that those before it stay full.
            Err(at) => {
                let middle = if at == PIECE { PIECE } else { PIECE / 2 };
                let mut behind = piece.split_off(middle);
                if at < middle {
                    piece.insert(at, member);
                } else {
                    behind.insert(at - middle, member);
                }
                self.pieces.insert(number + 1, behind);
            }
        }
    }

    fn remove(&mut self, address: A, port: u16) {
        let Some((number, at)) = self.find(address, port) else { return };
        let piece = &mut self.pieces[number];
        piece.remove(at);
        if piece.is_empty() {
            self.pieces.remove(number);
        }
    }

    fn len(&self) -> usize {
        self.pieces.iter().map(Vec::len).sum()
    }

    fn iter(&self) -> impl Iterator<Item = &Member<A>> {
        self.pieces.iter().flatten()
    }

    fn shrink(&mut self) {
        self.pieces.iter_mut().for_each(Vec::shrink_to_fit);
        self.pieces.shrink_to_fit();
    }
}

fn find<A: Ord + Copy>(members: &[Member<A>], address: A, port: u16) -> Result<usize, usize> {
    members.binary_search_by_key(&(address, port), |member| (member.address, member.port))
}

/// By address and port; IPv4 apart.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    v4: Sorted<[u8; 4]>,
    v6: Sorted<[u8; 16]>,
}

/// The last four bytes of an IPv4 address, as its v4-mapped form has them.
fn v4(address: Address) -> Option<[u8; 4]> {
    let [.., a, b, c, d] = address.bytes;
    address.is_v4().then_some([a, b, c, d])
}

impl Members {
    pub(super) fn get(&self, address: Address, port: u16) -> Option<BackendRow> {
        match v4(address) {
            Some(v4) => self.v4.get(v4, port),
            None => self.v6.get(address.bytes, port),
        }
    }

    pub(super) fn put(&mut self, address: Address, port: u16, row: &BackendRow) {
        match v4(address) {
            Some(v4) => self.v4.put(v4, port, row),
            None => self.v6.put(address.bytes, port, row),
        }
    }

    pub(super) fn remove(&mut self, address: Address, port: u16) {
        match v4(address) {
            Some(v4) => self.v4.remove(v4, port),
            None => self.v6.remove(address.bytes, port),
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
        self.v4.shrink();
        self.v6.shrink();
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
