//! Folders of versions.

use std::os::unix::fs::symlink;

use super::*;

#[test]
fn only_folders_that_are_named_as_versions_are_versions() {
    let folder = tempfile::tempdir().unwrap();
    let pins = Pins::new(folder.path());
    let current = format!("v{LAYOUT_VERSION}");
    let folders = [
        "v0",
        "v4294967295",
        &current,
        "v4294967296",
        "v",
        "v01",
        "v+1",
        "v-1",
        "v1x",
        "xv1",
        "V1",
        "1",
        "vethernet",
        "cilium",
        "tc",
    ];
    for name in folders {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("v7"), "a file").unwrap();
    symlink("cilium", folder.path().join("v8")).unwrap();
    // Another program may number its folders like this too.
    fs::create_dir_all(folder.path().join("v9/links")).unwrap();
    fs::write(folder.path().join("v9/links/theirs"), "").unwrap();
    let ours = ["v2/maps/svclb_index", "v3/links/connect4", "v4/next/maps/svclb_index"];
    for pin in ours {
        let path = folder.path().join(pin);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let names = |folders: Vec<Folder>| -> Vec<String> {
        let name = |it: &Folder| it.path().file_name().unwrap().to_str().unwrap().to_owned();
        folders.iter().map(name).collect()
    };
    let mut expected = ["v0", "v2", "v3", "v4", "v4294967295"].map(str::to_owned).to_vec();
    assert_eq!(names(pins.others().unwrap()), expected);
    expected.push(current);
    expected.sort_unstable();
    assert_eq!(names(pins.versions().unwrap()), expected);
}

#[test]
fn maps_that_are_not_there_are_not_put_into_use() {
    let folder = tempfile::tempdir().unwrap();
    let pins = Pins::new(&folder.path().join("pins"));
    pins.make().unwrap();
    let said = pins.decide().unwrap_err().to_string();
    assert!(said.contains("next into use"), "{said}");
    assert!(!pins.is_decided());
    pins.next().make().unwrap();
    pins.decide().unwrap();
    assert!(pins.is_decided() && !pins.next().path().exists());
}

#[test]
fn what_is_no_bpffs_is_not_uninstalled_from() {
    let folder = tempfile::tempdir().unwrap();
    let ours = folder.path().join("v0/links");
    fs::create_dir_all(&ours).unwrap();
    let said = Pins::new(folder.path()).uninstall().unwrap_err().to_string();
    assert!(said.contains("is not on a bpffs") && ours.exists(), "{said}");
}
