//! The members of one service: sorted, and small, since they are most of the memory for a large cluster. And
//! the difference between these and the desired members.
//!
//! Invariant: the pieces of [`Sorted`] are in order, and none is empty.

use std::cmp::Ordering;

use svclb_common::layout::{Address, BackendKey, BackendRow};

use crate::number::ServiceId;

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

/// The most members of a piece: so many have to move for one that is added to it or removed.
const PIECE: usize = if cfg!(test) { 4 } else { 512 };

/// Members by address and port, in pieces: one that is added or removed moves the others of its
/// piece only, so that the time to replace all backends of a service does not grow as their square.
#[derive(Clone, Debug)]
struct Sorted<A> {
    pieces: Vec<Vec<Member<A>>>,
}

impl<A> Default for Sorted<A> {
    fn default() -> Self {
        Self { pieces: Vec::new() }
    }
}

impl<A: Ord + Copy> Sorted<A> {
    /// The piece of a member, or for it: the last that begins at or before it.
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
            // A member behind all others begins a piece, so that the pieces before it stay full.
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
pub(crate) struct Members {
    v4: Sorted<[u8; 4]>,
    v6: Sorted<[u8; 16]>,
}

/// The last four bytes of an IPv4 address, as its v4-mapped form has them.
fn v4(address: Address) -> Option<[u8; 4]> {
    let [.., a, b, c, d] = address.bytes;
    address.is_v4().then_some([a, b, c, d])
}

impl Members {
    pub(crate) fn get(&self, address: Address, port: u16) -> Option<BackendRow> {
        match v4(address) {
            Some(v4) => self.v4.get(v4, port),
            None => self.v6.get(address.bytes, port),
        }
    }

    pub(crate) fn put(&mut self, address: Address, port: u16, row: &BackendRow) {
        match v4(address) {
            Some(v4) => self.v4.put(v4, port, row),
            None => self.v6.put(address.bytes, port, row),
        }
    }

    pub(crate) fn remove(&mut self, address: Address, port: u16) {
        match v4(address) {
            Some(v4) => self.v4.remove(v4, port),
            None => self.v6.remove(address.bytes, port),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Each with its key, of this service.
    pub(crate) fn of(
        &self,
        ServiceId(service): ServiceId,
    ) -> impl Iterator<Item = (BackendKey, BackendRow)> {
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

    /// Gives back unused capacity.
    pub(crate) fn shrink(&mut self) {
        self.v4.shrink();
        self.v6.shrink();
    }
}

/// A desired member: address, port and row.
type DesiredMember = (Address, u16, BackendRow);

/// A member that is desired, in the mirror, or both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemberPair {
    pub(crate) key: BackendKey,
    wanted: Option<BackendRow>,
    installed: Option<BackendRow>,
}

impl MemberPair {
    /// The row to put before any slot names the member. A member that leaves a set stays in it here.
    pub(crate) fn addition(&self) -> Option<BackendRow> {
        let wanted = self.wanted?;
        let sets = wanted.sets | self.installed.map_or(0, |installed| installed.sets);
        Some(BackendRow { sets, ..wanted }).filter(|row| self.installed != Some(*row))
    }

    /// The step for a member that is removed from the service or from a set, once no slot names it there: the row
    /// to put, or none to remove it.
    pub(crate) fn removal(&self) -> Option<Option<BackendRow>> {
        let sets = self.wanted.map_or(0, |wanted| wanted.sets);
        (self.installed?.sets & !sets != 0 || self.wanted.is_none()).then_some(self.wanted)
    }
}

/// Pairs the desired members of one service with those in the mirror, in the order of
/// [`Members::of`]. `wanted` is sorted.
pub(crate) fn pairs<'a>(
    service: ServiceId,
    wanted: &'a [DesiredMember],
    installed: Option<&'a Members>,
) -> impl Iterator<Item = MemberPair> + 'a {
    let mut installed =
        installed.into_iter().flat_map(move |installed| installed.of(service)).peekable();
    let mut wanted = in_order(wanted).peekable();
    std::iter::from_fn(move || {
        let order = match (wanted.peek(), installed.peek()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((address, port, _)), Some((key, _))) => {
                place(*address, *port).cmp(&place(key.address, key.port))
            }
        };
        let wanted = if order.is_le() { wanted.next() } else { None };
        let installed = if order.is_ge() { installed.next() } else { None };
        let key = match (wanted, installed) {
            (_, Some((key, _))) => key,
            (Some((address, port, _)), None) => {
                BackendKey { address: *address, port: *port, _pad: 0, service: service.0 }
            }
            (None, None) => return None,
        };
        Some(MemberPair { key, wanted: wanted.map(|it| it.2), installed: installed.map(|it| it.1) })
    })
}

/// Sorted members in the order of [`Members::of`]: IPv4 first. As v4-mapped addresses these are in a row, behind
/// some IPv6 addresses.
fn in_order(members: &[DesiredMember]) -> impl Iterator<Item = &DesiredMember> {
    let first = members.partition_point(|(address, ..)| *address < Address::from_v4([0; 4]));
    let (before, behind) = members.split_at(first);
    let count = behind.partition_point(|(address, ..)| address.is_v4());
    let (v4, after) = behind.split_at(count);
    v4.iter().chain(before).chain(after)
}

const fn place(address: Address, port: u16) -> (bool, Address, u16) {
    (!address.is_v4(), address, port)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    /// IPv4, and IPv6 in front of and behind v4-mapped addresses.
    fn address(number: u8) -> Address {
        let number = u16::from(number);
        match number % 3 {
            0 => IpAddr::from([10, 0, 0, number.to_be_bytes()[1]]).into(),
            1 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, number]).into(),
            _ => IpAddr::from([0, 0, 0, 0, 0, 0, 1, number]).into(),
        }
    }

    type Model = BTreeMap<(Address, u16), u8>;

    fn model() -> impl Strategy<Value = Model> {
        let one = ((0..9_u8, 0..2_u16).prop_map(|(number, port)| (address(number), port)), 1..4_u8);
        proptest::collection::vec(one, 0..12).prop_map(|all| all.into_iter().collect())
    }

    fn row(sets: u8) -> BackendRow {
        BackendRow { sets, state: 1, _pad: 0, weight: 1 }
    }

    proptest! {
        #[test]
        fn pairs_lead_from_the_members_there_are_to_those_there_should_be(
            before in model(),
            after in model(),
        ) {
            let mut held = Members::default();
            before.iter().for_each(|((address, port), sets)| held.put(*address, *port, &row(*sets)));
            let wanted: Vec<DesiredMember> =
                after.iter().map(|((address, port), sets)| (*address, *port, row(*sets))).collect();
            let pairs: Vec<MemberPair> = pairs(ServiceId(7), &wanted, Some(&held)).collect();
            let mut model = before.clone();
            for pair in &pairs {
                if let Some(row) = pair.addition() {
                    let old = model.insert((pair.key.address, pair.key.port), row.sets);
                    prop_assert_ne!(old, Some(row.sets), "a row is written that is there");
                }
            }
            for (key, sets) in &after {
                let both = sets | before.get(key).copied().unwrap_or(0);
                prop_assert_eq!(model.get(key), Some(&both), "what it should have comes first");
            }
            for pair in &pairs {
                let key = (pair.key.address, pair.key.port);
                match pair.removal() {
                    Some(Some(row)) => drop(model.insert(key, row.sets)),
                    Some(None) => prop_assert!(model.remove(&key).is_some()),
                    None => {}
                }
            }
            prop_assert_eq!(model, after);
        }

        #[test]
        fn members_are_what_was_put_and_not_removed(
            deeds in proptest::collection::vec((0..6_u8, 0..3_u16, 0..4_u8), 0..60),
        ) {
            let (mut members, mut model) = (Members::default(), BTreeMap::new());
            for (number, port, sets) in deeds {
                let address = address(number);
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
                members.of(ServiceId(7)).map(|(key, row)| ((key.address, key.port), row)).collect();
            prop_assert_eq!(found, model);
            prop_assert!(members.of(ServiceId(7)).all(|(key, _)| key.service == 7));
        }
    }
}
