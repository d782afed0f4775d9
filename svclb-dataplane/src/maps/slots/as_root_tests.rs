//! Slots of real arrays, which only root, or CAP_BPF, may make.

use std::ops::Range;

use aya::maps::MapData;

use super::*;
use crate::bpf::batch;

/// An array of the real kernel's, with so many slots.
fn slots(length: u32, flags: u32) -> Slots {
    let kind = aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    let size = u32::try_from(size_of::<Slot>()).unwrap();
    let object = aya_obj::Map::new_from_params(kind, 4, size, length, flags);
    let made = MapData::create(object, "svclb_test", None);
    Slots::new(NAME, made.expect("a map can be made: run this as root")).unwrap()
}

fn mapped(length: u32) -> Slots {
    slots(length, aya_obj::generated::BPF_F_MMAPABLE)
}

/// A set whose slots say where they stand, and by whom they were written.
fn set(owner: u32, numbers: Range<u32>) -> Vec<Slot> {
    numbers.map(|number| Slot { owner, alias: number, port: 80, ..Slot::default() }).collect()
}

fn put(slots: &mut Slots, owner: u32, numbers: Range<u32>) {
    slots.put_set(numbers.start, &set(owner, numbers)).unwrap();
}

/// Every slot, in its order.
fn all(slots: &Slots) -> Vec<Slot> {
    let mut reader = slots.reader();
    let all = (0..slots.capacity).map(|number| reader.slot(number).unwrap()).collect();
    reader.end().unwrap();
    all
}

#[test]
fn a_set_stands_at_its_numbers_and_nothing_beside_it_changes() {
    let mut slots = mapped(300);
    let mut expected = vec![Slot::default(); 300];
    for (row, owner, numbers) in [
        ("the first", 1, 0..3),
        ("beside it", 2, 3..4),
        ("across a page", 3, 120..140),
        ("none", 4, 50..50),
        ("in another", 5, 130..133),
        ("the last", 6, 290..300),
        ("none behind it", 7, 300..300),
    ] {
        put(&mut slots, owner, numbers.clone());
        expected[numbers.start as usize..numbers.end as usize]
            .copy_from_slice(&set(owner, numbers));
        assert_eq!(all(&slots), expected, "{row}");
    }
}

#[test]
fn sets_that_are_buffered_are_all_there_in_the_end() {
    let mut slots = mapped(20_000);
    let mut expected = vec![Slot::default(); 20_000];
    slots.buffer_rows();
    // Sets of three, then one that is longer than a call's rows.
    for first in (0..10_000).step_by(3) {
        put(&mut slots, 1, first..first + 3);
    }
    put(&mut slots, 2, 10_500..15_500);
    put(&mut slots, 3, 16_000..16_003);
    let written = all(&slots).iter().filter(|slot| slot.owner != 0).count();
    assert!(written > batch::ROWS && written < 10_002 + 5_000 + 3, "{written} are written");
    slots.flush().unwrap();
    expected[..10_002].copy_from_slice(&set(1, 0..10_002));
    expected[10_500..15_500].copy_from_slice(&set(2, 10_500..15_500));
    expected[16_000..16_003].copy_from_slice(&set(3, 16_000..16_003));
    assert!(all(&slots) == expected);
    // From here on each is written at once.
    put(&mut slots, 4, 7..9);
    expected[7..9].copy_from_slice(&set(4, 7..9));
    assert!(all(&slots) == expected);
    slots.flush().unwrap();
    assert!(all(&slots) == expected);
}

#[test]
fn of_two_sets_that_are_buffered_at_one_place_the_last_counts() {
    let mut slots = mapped(10);
    slots.buffer_rows();
    put(&mut slots, 1, 0..6);
    put(&mut slots, 2, 4..8);
    slots.flush().unwrap();
    let none = vec![Slot::default(); 2];
    assert_eq!(all(&slots), [set(1, 0..4), set(2, 4..8), none].concat());
}

#[test]
fn a_set_that_does_not_fit_is_refused_at_once_and_writes_nothing() {
    for keeps in [false, true] {
        let mut slots = mapped(100);
        if keeps {
            slots.buffer_rows();
        }
        for (row, first, count) in [
            ("its last slot", 98, 3),
            ("all of it", 100, 1),
            ("none of it, and it is beyond", 101, 0),
            ("more than there are", 0, 101),
            ("beyond all numbers", u32::MAX, 2),
        ] {
            let refused = slots.put_set(first, &set(1, 0..count));
            let expected = matches!(refused, Err(TableError::Full { map: NAME, capacity: 100 }));
            assert!(expected, "{row}: {refused:?}");
        }
        slots.flush().unwrap();
        assert_eq!(all(&slots), vec![Slot::default(); 100]);
        put(&mut slots, 1, 0..100);
        assert_eq!(all(&slots), set(1, 0..100), "what just fits");
    }
}

#[test]
fn a_number_beyond_the_array_is_no_slot_and_no_error() {
    let mut slots = mapped(10);
    put(&mut slots, 1, 0..10);
    let mut reader = slots.reader();
    for number in [10, 11, 127, 128, WINDOW, u32::MAX] {
        assert_eq!(reader.slot(number), None, "{number}");
    }
    assert_eq!(reader.slot(9), set(1, 9..10).pop());
    reader.end().unwrap();
}

#[test]
fn slots_of_several_windows_are_read_in_any_order() {
    // The last window is not whole.
    let length = 2 * WINDOW + 7;
    let mut slots = mapped(length);
    let around = [WINDOW, 2 * WINDOW].map(|at| at - 3..at + 3);
    around.iter().for_each(|numbers| put(&mut slots, 1, numbers.clone()));
    let found = all(&slots);
    for number in 0..length {
        let is_set = around.iter().any(|numbers| numbers.contains(&number));
        let expected = if is_set { set(1, number..number + 1)[0] } else { Slot::default() };
        assert_eq!(found[number as usize], expected, "{number}");
    }
    // To and fro: each is in another window than the one before.
    let mut reader = slots.reader();
    for step in 0..3 {
        for number in [WINDOW + step, WINDOW - 1 - step, 2 * WINDOW + step, length - 1] {
            assert_eq!(reader.slot(number), Some(found[number as usize]), "{number}");
        }
    }
    reader.end().unwrap();
}

#[test]
fn what_cannot_be_read_is_an_error_in_the_end() {
    // This array cannot be mapped.
    let mut slots = slots(10, 0);
    put(&mut slots, 1, 0..10);
    let mut reader = slots.reader();
    assert_eq!([reader.slot(10), reader.slot(3), reader.slot(4)], [None; 3]);
    let failed = reader.end();
    assert!(matches!(failed, Err(TableError::System { map: NAME, .. })), "{failed:?}");
}
