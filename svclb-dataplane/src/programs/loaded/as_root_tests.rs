//! Programs of the running kernel, which only root, or CAP_BPF and CAP_PERFMON, may load and read.

use super::*;

/// Loads a program of the kind that every hook but one has, with a map and a name.
#[test]
fn a_program_is_read_with_its_name_and_its_maps() {
    let map = sys::make_array(None).unwrap();
    let fd = i32::try_from(sys::fd(map.as_fd()).unwrap()).unwrap();
    // A map's descriptor is loaded by an instruction of 16 bytes.
    let code = [
        instruction(0x18, 1, 1, 0, fd),
        [0; 8],
        instruction(MOVE_NUMBER, 0, 0, 0, 1),
        instruction(EXIT, 0, 0, 0, 0),
    ];
    let programs = all().unwrap();
    let _program = sys::load_for_test(&code, c"svclb_test_name").unwrap();
    let more = all().unwrap();
    let new: Vec<_> = more.iter().filter(|(id, _)| !programs.contains_key(id)).collect();
    let ours = |it: &(&u32, &Program)| it.1.name == "svclb_test_name";
    let found: Vec<_> = new.into_iter().filter(ours).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    let maps = &found[0].1.maps;
    assert_eq!(maps.len(), 1, "{maps:?}");
    assert!(maps[0].0 > 0 && maps[0].1.is_empty(), "{maps:?}");
}
