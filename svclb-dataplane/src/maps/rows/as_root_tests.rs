//! Rows of real hash maps, which only root, or CAP_BPF, may make.

use super::*;

/// A map of the real kernel's, with room for so many rows.
fn map(rows: u32) -> Rows<u32, u64> {
    let kind = aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_HASH as u32;
    let object = aya_obj::Map::new_from_params(kind, 4, 8, rows, 0);
    let made = MapData::create(object, "svclb_test", None);
    Rows::new(MapName::Services, made.expect("a map can be made: run this as root")).unwrap()
}

fn sorted(mut rows: Vec<(u32, u64)>) -> Vec<(u32, u64)> {
    rows.sort_unstable();
    rows
}

#[test]
fn rows_that_are_buffered_are_all_there_in_the_end() {
    let rows: Vec<(u32, u64)> = (0..10_000).map(|key| (key, u64::from(key) * 3)).collect();
    let mut map = map(20_000);
    map.buffer_rows();
    rows.iter().for_each(|(key, value)| map.put(key, value).unwrap());
    let before = map.all().unwrap().len();
    assert!(before < rows.len() && before >= rows.len() - batch::ROWS, "{before} are written");
    map.flush().unwrap();
    assert_eq!(sorted(map.all().unwrap()), rows);
    // From here on each is written at once.
    map.put(&7, &0).unwrap();
    map.remove(&8).unwrap();
    let changed = sorted(map.all().unwrap());
    assert_eq!((changed.len(), changed[7], changed[8]), (rows.len() - 1, (7, 0), (9, 27)));
}

#[test]
fn a_row_that_does_not_fit_is_refused_at_once_also_where_rows_are_buffered() {
    let mut map = map(5_000);
    map.buffer_rows();
    (0..5_000).for_each(|key| map.put(&key, &1).unwrap());
    let refused = map.put(&5_000, &1);
    assert!(matches!(refused, Err(TableError::Full { capacity: 5_000, .. })), "{refused:?}");
    assert_eq!(map.all().unwrap().len(), 5_000);
}

#[test]
fn a_row_that_goes_after_it_was_buffered_is_gone() {
    let mut map = map(100);
    map.buffer_rows();
    map.put(&1, &1).unwrap();
    map.put(&2, &2).unwrap();
    map.remove(&1).unwrap();
    map.flush().unwrap();
    assert_eq!(map.all().unwrap(), [(2, 2)]);
}

#[test]
fn rows_that_the_kernel_gives_together_are_made_room_for() {
    assert_eq!(map(10).all().unwrap(), []);
    let mut map = map(1_000);
    (0..1_000).for_each(|key| map.put(&key, &1).unwrap());
    // There are buckets with more than one.
    let mut rows = Vec::new();
    let mut see = |key: &u32, value: &u64| rows.push((*key, *value));
    batch::read(1, map.fd(), &mut see).unwrap();
    assert_eq!(sorted(rows), (0..1_000).map(|key| (key, 1)).collect::<Vec<_>>());
}
