//! Counts of real maps, which only root, or CAP_BPF, may make.

use aya::maps::MapData;
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_HASH;

use super::*;

fn map(name: &'static str, key: u32, value: usize) -> MapData {
    let value = u32::try_from(value).unwrap();
    let kind = BPF_MAP_TYPE_HASH as u32;
    let object = aya_obj::Map::new_from_params(kind, key, value, 64, 1);
    MapData::create(object, name, None).expect("a map can be made: run this as root")
}

fn shares() -> Shares {
    let clients = map("clients", 4, size_of::<ClientRow>());
    let overflow = map("overflow", 8, size_of::<Overflow>());
    let affinity = map("affinity", 16, size_of::<AffinityRow>());
    Shares {
        clients: Rows::new(MapName::Clients, clients).unwrap(),
        overflow: Rows::new(MapName::Overflow, overflow).unwrap(),
        affinity: Rows::new(MapName::Affinity, affinity).unwrap(),
    }
}

fn row(overflow: i32) -> ClientRow {
    ClientRow { overflow, affinity: 0 }
}

#[test]
fn rows_of_affinity_count_for_the_client_that_made_them() {
    let mut shares = shares();
    for (service, counted_for) in [(1, 7), (2, 7), (3, 8), (4, ClientKey::ALL)] {
        let key = AffinityKey { client: 100, service, family: 4 };
        let row = AffinityRow { counted_for, ..AffinityRow::default() };
        shares.affinity.put(&key, &row).unwrap();
    }
    let of = |affinity| ClientRow { overflow: 0, affinity };
    let expected = [(ClientKey::ALL, of(3)), (7, of(2)), (8, of(1))];
    assert_eq!(shares.count().unwrap(), expected.into());
}

#[test]
fn counts_become_what_the_entries_say_and_idle_clients_lose_their_rows() {
    let mut shares = shares();
    for (cookie, client) in [(1, 7), (2, 7), (3, 8), (4, ClientKey::ALL)] {
        shares.overflow.put(&cookie, &Overflow { client, ..Overflow::EMPTY }).unwrap();
    }
    // Too many, missing, below zero, and right with nothing.
    for (client, count) in [(ClientKey::ALL, 900), (7, 40), (9, -3), (10, 0)] {
        shares.clients.put(&client, &row(count)).unwrap();
    }
    let once = |shares: &mut Shares| {
        let (before, counted) = (shares.counts().unwrap(), shares.count().unwrap());
        shares.write(&changes(&before, &counted, &before)).unwrap()
    };
    assert_eq!(once(&mut shares), 4);
    let expected = [(ClientKey::ALL, row(3)), (7, row(2)), (8, row(1))];
    assert_eq!(shares.counts().unwrap(), expected.into());
    assert_eq!(once(&mut shares), 0, "a second look finds nothing");
    (1..=4).for_each(|cookie| shares.overflow.remove(&cookie).unwrap());
    once(&mut shares);
    assert_eq!(shares.counts().unwrap(), [(ClientKey::ALL, row(0))].into());
}
