//! Expiry of rows of a real map, which only root, or CAP_BPF, may make.

use std::os::fd::AsFd as _;

use aya::maps::MapData;
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_HASH;

use super::*;

#[test]
fn rows_go_when_their_services_timeout_is_over_and_not_before() {
    const NOW: Duration = Duration::from_secs(100_000);
    let (key, value) = (size_of::<AffinityKey>(), size_of::<AffinityRow>());
    let [key, value] = [key, value].map(|size| u32::try_from(size).unwrap());
    let object = aya_obj::Map::new_from_params(BPF_MAP_TYPE_HASH as u32, key, value, 64, 1);
    let made = MapData::create(object, "affinity", None);
    let made = made.expect("a map can be made: run this as root");
    let copy = MapData::from_fd(made.fd().as_fd().try_clone_to_owned().unwrap()).unwrap();
    let mut rows = Rows::new(MapName::Affinity, made).unwrap();
    let timeouts = Timeouts::from([(1, Duration::from_secs(100)), (2, NOW)]);
    // Client, service, age in seconds, and whether it goes.
    let all = [
        (1, 1, 0, false),
        (2, 1, 99, false),
        (3, 1, 100, true),
        (4, 2, 90_000, false),
        (5, 3, 599, false),
        (6, 3, 600, true),
    ];
    for (client, service, age, _) in all {
        let key = AffinityKey { client, service, family: 4 };
        let used = u64::try_from((NOW - Duration::from_secs(age)).as_nanos()).unwrap();
        rows.put(&key, &AffinityRow { used, ..AffinityRow::default() }).unwrap();
    }
    let left = Rows::<AffinityKey, AffinityRow>::new(MapName::Affinity, copy).unwrap();
    assert_eq!(remove_old(rows, &timeouts, NOW).unwrap(), 2);
    let mut left: Vec<u64> = left.all().unwrap().iter().map(|(key, _)| key.client).collect();
    left.sort_unstable();
    let stay = all.iter().filter(|(.., goes)| !goes).map(|(client, ..)| *client);
    assert_eq!(left, stay.collect::<Vec<_>>());
}
