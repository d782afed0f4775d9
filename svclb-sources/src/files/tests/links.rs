//! Symbolic links, above all those of a ConfigMap mount.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use super::super::Files;
use super::{at_once, next, nothing, service, short};

/// Writes a state of a ConfigMap mount and swaps it in, as the kubelet does (pkg/volume/util/atomic_writer.go).
fn mount(folder: &Path, state: &str, files: &[(&str, String)]) {
    let data = folder.join(state);
    fs::create_dir(&data).unwrap();
    for (name, text) in files {
        fs::write(data.join(name), text).unwrap();
    }
    let before = fs::read_link(folder.join("..data")).ok();
    symlink(state, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    for (name, _) in files {
        if folder.join(name).symlink_metadata().is_err() {
            symlink(Path::new("..data").join(name), folder.join(name)).unwrap();
        }
    }
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_symlink() && !entry.path().exists() {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    if let Some(before) = before {
        fs::remove_dir_all(folder.join(before)).unwrap();
    }
}

#[tokio::test]
async fn a_configmap_mount_is_followed_at_once_through_its_swaps() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    mount(path, "..1", &[("f.yaml", service("a", 80)), ("g.yaml", service("b", 80))]);
    let mut files = Files::new(&[path]).unwrap();
    assert_eq!(short(&next(&mut files).await), ["a=80", "b=80"]);
    for state in 2..6 {
        let text = [("f.yaml", service("a", 80 + state)), ("g.yaml", service("b", 80))];
        let batch = at_once(&mut files, || mount(path, &format!("..{state}"), &text)).await;
        assert_eq!(short(&batch), [format!("a={}", 80 + state)]);
        nothing(&mut files).await;
    }
    mount(path, "..7", &[("f.yaml", service("a", 90)), ("h.yaml", service("c", 90))]);
    let mut found = Vec::new();
    while found.len() < 3 {
        found.extend(short(&next(&mut files).await));
    }
    found.sort();
    assert_eq!(found, ["a=90", "b-", "c=90"]);
}

#[tokio::test]
async fn a_file_of_a_configmap_mount_is_followed_by_its_own_name() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    mount(path, "..1", &[("f.yaml", service("a", 80)), ("g.yaml", service("b", 80))]);
    let mut files = Files::new(&[path.join("f.yaml")]).unwrap();
    assert_eq!(short(&next(&mut files).await), ["a=80"]);
    let text = [("f.yaml", service("a", 81)), ("g.yaml", service("b", 81))];
    let batch = at_once(&mut files, || mount(path, "..2", &text)).await;
    assert_eq!(short(&batch), ["a=81"]);
}

#[tokio::test]
async fn a_link_to_a_file_elsewhere_is_followed_in_both_places() {
    let folder = TempDir::new().unwrap();
    let (here, there) = (folder.path().join("here"), folder.path().join("there"));
    fs::create_dir(&here).unwrap();
    fs::create_dir(&there).unwrap();
    fs::write(there.join("one"), service("a", 80)).unwrap();
    fs::write(there.join("two"), service("a", 90)).unwrap();
    symlink("../there/one", here.join("f.yaml")).unwrap();
    let mut files = Files::new(&[&here]).unwrap();
    assert_eq!(short(&next(&mut files).await), ["a=80"]);
    let batch =
        at_once(&mut files, || fs::write(there.join("one"), service("a", 81)).unwrap()).await;
    assert_eq!(short(&batch), ["a=81"], "written where it lies");
    let batch = at_once(&mut files, || {
        symlink("../there/two", here.join("t")).unwrap();
        fs::rename(here.join("t"), here.join("f.yaml")).unwrap();
    })
    .await;
    assert_eq!(short(&batch), ["a=90"], "linked elsewhere");
    fs::write(there.join("one"), service("a", 82)).unwrap();
    nothing(&mut files).await;
    let batch =
        at_once(&mut files, || fs::write(there.join("two"), service("a", 91)).unwrap()).await;
    assert_eq!(short(&batch), ["a=91"]);
}

#[tokio::test]
async fn a_dangling_link_becomes_a_file_when_its_target_appears() {
    let folder = TempDir::new().unwrap();
    let mut files = Files::new(&[folder.path()]).unwrap();
    next(&mut files).await;
    symlink("target", folder.path().join("f.yaml")).unwrap();
    nothing(&mut files).await;
    fs::write(folder.path().join("target"), service("a", 80)).unwrap();
    assert_eq!(short(&next(&mut files).await), ["a=80"]);
}

#[tokio::test]
async fn a_link_that_is_the_argument_may_point_to_another_folder() {
    let folder = TempDir::new().unwrap();
    for (name, port) in [("one", 80), ("two", 81)] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("f.yaml"), service("a", port)).unwrap();
    }
    symlink("one", folder.path().join("current")).unwrap();
    let mut files = Files::new(&[folder.path().join("current")]).unwrap();
    assert_eq!(short(&next(&mut files).await), ["a=80"]);
    symlink("two", folder.path().join("t")).unwrap();
    fs::rename(folder.path().join("t"), folder.path().join("current")).unwrap();
    assert_eq!(short(&next(&mut files).await), ["a=81"]);
    // A loop of links is no file.
    symlink("loop.yaml", folder.path().join("two/loop.yaml")).unwrap();
    nothing(&mut files).await;
}
