//! Adoption of the maps of another version after an agent died at any point. Only root may mount a bpffs and
//! make maps.

use std::os::unix::fs::symlink;

use aya::maps::MapInfo;
use svclb_core::size::sizes;

use super::*;
use crate::node::privileges;
use crate::pins::bpffs;
use crate::pins::places::Places;
use crate::programs::object::{self, Features, Settings};
use crate::shapes;

/// Runs a task with pins on a private bpffs, where all maps are in use, and with a folder for those of
/// another version.
fn with_maps(task: impl FnOnce(&Pins, &Folder, &Folder) + Send) {
    let folder = tempfile::tempdir().unwrap();
    let run = || {
        bpffs::mount_apart(folder.path()).unwrap();
        privileges::raise_locked_memory();
        let pins = Pins::new(&folder.path().join("pins"));
        pins.make().unwrap();
        let features = Features::of_kernel().unwrap();
        let settings = Settings { sizes: sizes(1, 1), seed: 1, features, cgroup: 1, log: false };
        object::load(&Places::current(&pins), &settings).unwrap().finish().unwrap();
        let old = Folder::new(pins.root().join("v0"));
        task(&pins, &pins.current(), &old);
    };
    thread::scope(|scope| scope.spawn(run).join().unwrap());
}

#[test]
fn a_shared_map_of_another_version_is_taken_over_wherever_a_crash_came() {
    with_maps(|pins, current, old| {
        current.label_all().unwrap();
        let all = || MAPS.map(|it| MapInfo::from_pin(current.map(it.name)).unwrap().id());
        let before = all();
        // The agent died here: all maps before this one are moved, and this one in part.
        for (map, _) in MAPS.iter().enumerate().filter(|(_, shape)| shape.is_shared) {
            for parts in [&[][..], &["layouts"], &["layouts", "maps"]] {
                fs::rename(current.path(), old.path()).unwrap();
                pins.make().unwrap();
                pins.commit().make().unwrap();
                for shape in MAPS.iter().filter(|shape| !shape.is_shared) {
                    pins.commit().take_map(shape.name, old).unwrap();
                }
                for shape in MAPS[..map].iter().filter(|shape| shape.is_shared) {
                    current.take_map(shape.name, old).unwrap();
                }
                for part in parts {
                    let [from, to] =
                        [old, current].map(|it| it.path().join(part).join(MAPS[map].name.as_str()));
                    fs::rename(from, to).unwrap();
                }
                pins.finish().unwrap();
                let row = format!("{}, {parts:?} moved", MAPS[map].name);
                for shape in &MAPS {
                    assert_eq!(current.misfit(shape).unwrap(), None, "{row}");
                }
                assert_eq!(all(), before, "{row}: these are the same maps");
                assert!(!pins.is_decided() && !old.path().exists(), "{row}");
            }
        }
    });
}

#[test]
fn a_map_without_a_label_is_not_taken_over() {
    with_maps(|pins, current, old| {
        fs::rename(current.path(), old.path()).unwrap();
        pins.make().unwrap();
        let origins = shapes::of(MapName::Origins);
        let takes = || current.lacks(origins, old).unwrap();
        assert!(!takes(), "no label");
        let labels = current.path().join("layouts");
        symlink("another layout", labels.join(origins.name.as_str())).unwrap();
        assert!(!takes(), "another layout's label");
        fs::remove_file(labels.join(origins.name.as_str())).unwrap();
        symlink(origins.layout(), labels.join(origins.name.as_str())).unwrap();
        assert!(takes(), "its label");
        symlink("another layout", old.path().join("layouts").join(origins.name.as_str())).unwrap();
        assert!(!takes(), "its own label says otherwise");
    });
}
