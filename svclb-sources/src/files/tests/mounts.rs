//! One folder that is watched for several reasons, by several paths or one after the other.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use super::super::Files;
use super::super::watch::Watch;
use super::{alone, at_once, next, nothing, service, short};

#[tokio::test]
async fn a_folder_that_is_also_on_the_way_by_another_path_is_followed_all_the_same() {
    let test = "a_folder_that_is_also_on_the_way_by_another_path_is_followed_all_the_same";
    if !alone::is_alone(module_path!(), test) {
        return;
    }
    let folder = TempDir::new().unwrap();
    // By their names, the folder comes once before and once behind the other path to it.
    for (row, other) in ["a", "z"].into_iter().enumerate() {
        let (data, other) = (folder.path().join(format!("data{row}")), folder.path().join(other));
        fs::create_dir_all(data.join("sub")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(data.join("f.yaml"), service("a", 80)).unwrap();
        // The mount is this process's alone, and goes with it.
        let mounted = Command::new("mount").arg("--bind").args([&data, &other]).status().unwrap();
        assert!(mounted.success());
        let mut files = Files::new(&[data.join("f.yaml"), other.join("sub")]).unwrap();
        assert_eq!(short(&next(&mut files).await), ["a=80"]);
        let write = |port| fs::write(data.join("f.yaml"), service("a", port)).unwrap();
        assert_eq!(short(&at_once(&mut files, || write(81)).await), ["a=81"], "{row}");
        fs::write(other.join("sub/g.yaml"), service("b", 80)).unwrap();
        assert_eq!(short(&next(&mut files).await), ["b=80"], "{row}");
        // Also after another look at all of it.
        files.marked.extend(0..2);
        nothing(&mut files).await;
        assert_eq!(short(&at_once(&mut files, || write(82)).await), ["a=82"], "{row}");
    }
}

#[tokio::test]
async fn folder_whose_contents_do_not_matter_any_more_has_no_events_of_writes() {
    let folder = TempDir::new().unwrap();
    let wanted = |contents| [(folder.path().to_owned(), contents)].into();
    let mut watch = Watch::new().unwrap();
    let mut written = |contents| {
        watch.cover(&wanted(contents)).unwrap();
        fs::write(folder.path().join("f"), "text").unwrap();
        watch.drain().unwrap().len()
    };
    assert!(written(true) > 0);
    assert_eq!(written(false), 0);
    assert!(written(true) > 0);
}
