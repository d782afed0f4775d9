//! Files that come, change and go.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;

use svclb_core::model::Unread;

use super::super::{Files, load};
use super::{Bench, PATIENCE, at_once, next, not_yet, nothing, service, short, words};

#[tokio::test]
async fn the_first_batch_holds_everything_and_an_empty_folder_is_synced_too() {
    let two = service("a", 80) + "---\n" + &service("b", 81);
    let (mut bench, first) = Bench::new(&[
        ("two.yaml", &two),
        ("one.yml", &service("c", 82)),
        (
            "j.json",
            r#"{"apiVersion": "v1", "kind": "ServiceList", "items": [{"metadata": {"name": "d"},
            "spec": {"clusterIP": "10.96.0.13", "ports": [{"port": 83}]}}]}"#,
        ),
        ("other.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n"),
        (".hidden.yaml", &service("hidden", 1)),
        (".one.yml.swp", "rubbish"),
        ("one.yml~", &service("leftover", 1)),
        ("#one.yml#", &service("leftover", 1)),
        ("4913", ""),
        ("README.md", "no: [yaml"),
    ])
    .await;
    assert_eq!(short(&first), ["a=80", "b=81", "c=82", "d=83"]);
    assert_eq!((first.rejects.len(), first.standing), (0, 0));
    bench.nothing().await;

    let (_, first) = Bench::new(&[]).await;
    assert!(first.updates.is_empty());
}

#[tokio::test]
async fn the_first_batch_waits_for_a_file_that_is_being_written_but_not_for_ever() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("f.yaml");
    let (half, whole) = (service("a", 80), service("a", 80) + "---\n" + &service("b", 81));
    fs::write(folder.path().join("whole.yaml"), service("c", 82)).unwrap();
    for is_left_alone in [true, false] {
        fs::write(&path, &half).unwrap();
        let mut files = Files::new(&[folder.path()]).unwrap();
        not_yet(&mut files).await;
        if is_left_alone {
            // Closed: it is whole, and what the first batch waited for.
            fs::write(&path, &whole).unwrap();
            files.quiet = super::super::QUIET;
            let first = next(&mut files).await;
            assert!(first.whole);
            assert_eq!(short(&first), ["a=80", "b=81", "c=82"]);
            assert_eq!(first.unread, Some(Unread::default()));
            continue;
        }
        // As if it had been written for so long.
        let mut writer = OpenOptions::new().append(true).open(&path).unwrap();
        files.first = Some(std::time::Instant::now());
        writer.write_all(b"# more\n").unwrap();
        let first = next(&mut files).await;
        assert!(first.whole);
        assert_eq!(short(&first), ["c=82"]);
        assert_eq!(first.unread, Some(Unread::everything()), "it may hold any object");
        writer.write_all(b"---\n").unwrap();
        writer.write_all(service("b", 81).as_bytes()).unwrap();
        drop(writer);
        let second = next(&mut files).await;
        assert_eq!(short(&second), ["a=80", "b=81"]);
        assert_eq!(second.unread, Some(Unread::default()));
        nothing(&mut files).await;
    }
}

#[tokio::test]
async fn removed_file_that_was_never_read_retains_no_state() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("f.yaml");
    fs::write(&path, service("a", 80)).unwrap();
    let mut files = Files::new(&[folder.path()]).unwrap();
    not_yet(&mut files).await;
    files.first = Some(std::time::Instant::now());
    let first = next(&mut files).await;
    assert_eq!((short(&first), first.unread), (vec![], Some(Unread::everything())));
    fs::remove_file(&path).unwrap();
    let second = next(&mut files).await;
    assert_eq!((short(&second), second.unread), (vec![], Some(Unread::default())));
}

#[tokio::test]
async fn missing_path_is_an_error() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("missing");
    let error = Files::new(&[&path]).unwrap_err().to_string();
    let expected =
        format!("--from {}: there is no such file or folder: make it first", path.display());
    assert_eq!(error, expected);
    let error = Files::new(&["/dev/null"]).unwrap_err().to_string();
    assert_eq!(
        error,
        "--from /dev/null: it is neither a file nor a folder: expected Kubernetes YAML"
    );
}

#[tokio::test]
async fn a_write_in_place_is_read_at_once_and_reports_only_what_differs() {
    let two = |port| service("a", 80) + "---\n" + &service("b", port);
    let (mut bench, _) = Bench::new(&[("f.yaml", &two(81))]).await;
    let (path, before) = (bench.path("f.yaml"), std::time::Instant::now());
    let batch = at_once(&mut bench.files, || fs::write(&path, two(82)).unwrap()).await;
    assert_eq!(short(&batch), ["b=82"]);
    assert!(batch.seen >= before);
    assert!(!batch.whole);
    // Written again with the same contents: no change.
    bench.write("f.yaml", &two(82));
    bench.nothing().await;
}

#[tokio::test]
async fn an_editors_write_and_rename_is_read_at_once() {
    let (mut bench, _) = Bench::new(&[("f.yaml", &service("a", 80))]).await;
    let (path, temporary) = (bench.path("f.yaml"), bench.path(".f.yaml.tmp"));
    let batch = at_once(&mut bench.files, || {
        fs::write(&temporary, service("a", 81)).unwrap();
        fs::rename(&temporary, &path).unwrap();
    })
    .await;
    assert_eq!(short(&batch), ["a=81"]);
}

#[tokio::test]
async fn an_editor_that_sets_the_file_aside_first_causes_no_removal() {
    let (mut bench, _) = Bench::new(&[("f.yaml", &service("a", 80))]).await;
    // As vim does with its defaults.
    bench.write("4913", "");
    fs::remove_file(bench.path("4913")).unwrap();
    fs::rename(bench.path("f.yaml"), bench.path("f.yaml~")).unwrap();
    not_yet(&mut bench.files).await;
    bench.write("f.yaml", &service("a", 81));
    fs::remove_file(bench.path("f.yaml~")).unwrap();
    let batch = bench.next().await;
    assert_eq!(short(&batch), ["a=81"], "no removal in between");
    bench.nothing().await;
}

#[tokio::test]
async fn file_removed_and_created_again_at_once_causes_no_removal() {
    let (mut bench, _) = Bench::new(&[("f.yaml", &service("a", 80))]).await;
    fs::remove_file(bench.path("f.yaml")).unwrap();
    not_yet(&mut bench.files).await;
    bench.write("f.yaml", &service("a", 81));
    assert_eq!(short(&bench.next().await), ["a=81"]);
}

#[tokio::test]
async fn a_half_written_file_is_not_read_until_it_is_closed() {
    // Cut first, as most writes in place do, or not.
    for cut in [true, false] {
        let before = if cut { service("a", 80) } else { "# to be continued\n".to_owned() };
        let (mut bench, _) = Bench::new(&[("f.yaml", &before)]).await;
        let mut options = OpenOptions::new();
        if cut {
            options.write(true).truncate(true);
        } else {
            options.append(true);
        }
        let mut file = options.open(bench.path("f.yaml")).unwrap();
        let text = service("a", 90) + "---\n" + &service("b", 91);
        for piece in text.as_bytes().chunks(text.len() / 5 + 1) {
            not_yet(&mut bench.files).await;
            file.write_all(piece).unwrap();
        }
        not_yet(&mut bench.files).await;
        let batch = at_once(&mut bench.files, || drop(file)).await;
        assert_eq!(short(&batch), ["a=90", "b=91"], "cut: {cut}");
    }
}

#[tokio::test]
async fn contents_read_during_a_write_are_discarded() {
    let (mut bench, _) = Bench::new(&[("f.yaml", &service("a", 80))]).await;
    bench.files.quiet = PATIENCE / 2;
    let file = bench.files.files.keys().next().unwrap().clone();
    // A writer begins after the decision to read.
    let mut writer = File::create(bench.path("f.yaml")).unwrap();
    writer.write_all(b"kind: Ser").unwrap();
    assert_eq!(bench.files.read(&file), None);
    not_yet(&mut bench.files).await;
    writer.write_all(b"vice\napiVersion: v1\n").unwrap();
    writer
        .write_all(service("x", 81).replace("apiVersion: v1\nkind: Service\n", "").as_bytes())
        .unwrap();
    let batch = at_once(&mut bench.files, || drop(writer)).await;
    assert_eq!(short(&batch), ["a-", "x=81"]);
}

#[tokio::test]
async fn a_writer_that_does_not_close_is_read_after_a_quiet_time() {
    let (mut bench, _) = Bench::new(&[("f.yaml", &service("a", 80))]).await;
    let mut file = OpenOptions::new().append(true).open(bench.path("f.yaml")).unwrap();
    file.write_all(format!("---\n{}", service("b", 81)).as_bytes()).unwrap();
    assert_eq!(short(&bench.next().await), ["b=81"]);
    drop(file);
}

#[tokio::test]
async fn an_emptied_file_is_really_empty() {
    let (mut bench, _) = Bench::new(&[("f.yaml", &service("a", 80))]).await;
    File::create(bench.path("f.yaml")).unwrap();
    assert_eq!(short(&bench.next().await), ["a-"]);
    // One that only comments are left of is a whole file, and read at once.
    bench.write("f.yaml", &service("a", 80));
    assert_eq!(short(&bench.next().await), ["a=80"]);
    let path = bench.path("f.yaml");
    let batch = at_once(&mut bench.files, || fs::write(&path, "# nothing\n").unwrap()).await;
    assert_eq!(short(&batch), ["a-"]);
}

#[tokio::test]
async fn files_come_to_a_folder_and_go() {
    let (mut bench, _) = Bench::new(&[("f.yaml", &service("a", 80))]).await;
    let (one, two) = (bench.path("g.yaml"), bench.path("h.yaml"));
    let batch = at_once(&mut bench.files, || fs::write(&one, service("b", 81)).unwrap()).await;
    assert_eq!(short(&batch), ["b=81"]);
    let batch = at_once(&mut bench.files, || {
        fs::write(bench.folder.path().join("elsewhere"), service("c", 82)).unwrap();
        fs::rename(bench.folder.path().join("elsewhere"), &two).unwrap();
    })
    .await;
    assert_eq!(short(&batch), ["c=82"]);
    let batch = at_once(&mut bench.files, || {
        fs::hard_link(&two, bench.folder.path().join("d/i.yaml")).unwrap();
        fs::write(&one, service("b", 83)).unwrap();
    })
    .await;
    assert!(short(&batch).contains(&"b=83".to_owned()));
    fs::remove_file(&one).unwrap();
    assert_eq!(short(&bench.next().await), ["b-"]);
    // Renamed within the folder: the objects are the same.
    fs::rename(bench.path("f.yaml"), bench.path("z.yaml")).unwrap();
    bench.nothing().await;
    bench.write("z.yaml", &service("a", 89));
    assert_eq!(short(&bench.next().await), ["a=89"]);
}

#[tokio::test]
async fn a_folder_may_be_removed_and_made_again() {
    let (mut bench, _) = Bench::new(&[("f.yaml", &service("a", 80))]).await;
    fs::remove_dir_all(bench.path("")).unwrap();
    assert_eq!(short(&bench.next().await), ["a-"]);
    fs::create_dir(bench.path("")).unwrap();
    bench.nothing().await;
    bench.write("f.yaml", &service("a", 81));
    assert_eq!(short(&bench.next().await), ["a=81"]);
    let path = bench.path("f.yaml");
    let batch = at_once(&mut bench.files, || fs::write(&path, service("a", 82)).unwrap()).await;
    assert_eq!(short(&batch), ["a=82"]);
}

#[tokio::test]
async fn a_folder_swapped_for_another_is_followed() {
    let (mut bench, _) = Bench::new(&[("f.yaml", &service("a", 80))]).await;
    let other = bench.folder.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("f.yaml"), service("a", 81)).unwrap();
    fs::rename(bench.path(""), bench.folder.path().join("old")).unwrap();
    fs::rename(&other, bench.path("")).unwrap();
    assert_eq!(short(&bench.next().await), ["a=81"], "no removal in between");
    bench.write("f.yaml", &service("a", 82));
    assert_eq!(short(&bench.next().await), ["a=82"]);
    // The folder that was there before is no longer followed.
    fs::write(bench.folder.path().join("old/f.yaml"), service("a", 83)).unwrap();
    bench.nothing().await;
}

#[tokio::test]
async fn a_single_file_is_followed_through_rename_removal_and_return() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("whatever.conf");
    fs::write(&path, service("a", 80)).unwrap();
    fs::write(folder.path().join("neighbour.yaml"), service("b", 80)).unwrap();
    let mut files = Files::new(&[&path]).unwrap();
    assert_eq!(short(&next(&mut files).await), ["a=80"]);
    let batch = at_once(&mut files, || fs::write(&path, service("a", 81)).unwrap()).await;
    assert_eq!(short(&batch), ["a=81"]);
    let batch = at_once(&mut files, || {
        fs::write(folder.path().join("t"), service("a", 82)).unwrap();
        fs::rename(folder.path().join("t"), &path).unwrap();
    })
    .await;
    assert_eq!(short(&batch), ["a=82"]);
    fs::remove_file(&path).unwrap();
    assert_eq!(short(&next(&mut files).await), ["a-"]);
    let batch = at_once(&mut files, || fs::write(&path, service("a", 83)).unwrap()).await;
    assert_eq!(short(&batch), ["a=83"]);
    nothing(&mut files).await;
}

#[tokio::test]
async fn object_in_two_files_counts_from_the_last_and_is_reported_for_the_other() {
    let folder = tempfile::TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("b.yaml"), service("a", 80)).unwrap();
    fs::write(at("a.yaml"), service("x", 1) + "---\n" + &service("a", 81)).unwrap();
    // Path order is the order of the arguments.
    let mut files = Files::new(&[at("b.yaml"), at("a.yaml")]).unwrap();
    let first = next(&mut files).await;
    assert_eq!(short(&first), ["a=81", "x=1"]);
    assert_eq!(
        words(&first, folder.path()),
        [
            "b.yaml: document 1: Service default/a is in a.yaml, document 2, too, and the last in path \
         order counts: remove one of them",
        ]
    );
    // The object that does not count may change without a batch.
    fs::write(at("b.yaml"), service("a", 82)).unwrap();
    nothing(&mut files).await;
    fs::write(at("a.yaml"), service("x", 1)).unwrap();
    let batch = next(&mut files).await;
    assert_eq!((short(&batch), batch.standing), (vec!["a=82".to_owned()], 0));
}

#[tokio::test]
async fn file_that_belongs_to_two_arguments_is_read_once() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("f.yaml");
    fs::write(&path, service("a", 80)).unwrap();
    let mut files = Files::new(&[folder.path(), path.as_path()]).unwrap();
    let first = next(&mut files).await;
    assert_eq!((short(&first), first.standing), (vec!["a=80".to_owned()], 0));
    fs::write(&path, service("a", 81)).unwrap();
    assert_eq!(short(&next(&mut files).await), ["a=81"]);
}

#[tokio::test]
async fn only_the_own_node_counts() {
    let node = |name: &str| format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n");
    let folder = tempfile::TempDir::new().unwrap();
    fs::write(folder.path().join("n.yaml"), node("n1") + "---\n" + &node("n2")).unwrap();
    let mut files = Files::new(&[folder.path()]).unwrap().node("n2");
    assert_eq!(short(&next(&mut files).await), ["node Some(\"n2\")"]);
    fs::write(folder.path().join("n.yaml"), node("n1")).unwrap();
    assert_eq!(short(&next(&mut files).await), ["node None"]);
}

#[tokio::test]
async fn service_that_becomes_headless_is_deleted() {
    let (mut bench, _) = Bench::new(&[("f.yaml", &service("a", 80))]).await;
    bench.write("f.yaml", &service("a", 80).replace("10.96.0.10", "None"));
    assert_eq!(short(&bench.next().await), ["a-"]);
}

#[tokio::test]
async fn cancelled_wait_loses_no_change() {
    let (mut bench, _) = Bench::new(&[("f.yaml", &service("a", 80))]).await;
    for port in 81..90 {
        bench.write("f.yaml", &service("a", port));
        let batch = loop {
            // Broken off again and again, at whatever point.
            if let Ok(batch) =
                tokio::time::timeout(std::time::Duration::from_micros(50), bench.files.next()).await
            {
                break batch;
            }
        };
        assert_eq!(short(&batch), [format!("a={port}")]);
    }
}

/// Each batch leaves a whole state: no Service is missing, and no endpoints.
#[tokio::test]
async fn a_file_rewritten_without_pause_never_shows_half_a_state() {
    let text =
        |port| service("a", port) + "---\n" + &service("b", port) + "---\n" + &service("c", port);
    let (mut bench, _) = Bench::new(&[("f.yaml", &text(1))]).await;
    // However long the writer is kept from its work.
    bench.files.quiet = PATIENCE / 2;
    let path = bench.path("f.yaml");
    let writer = std::thread::spawn(move || {
        for port in 2..400 {
            let mut file = File::create(&path).unwrap();
            for piece in text(port).as_bytes().chunks(40) {
                file.write_all(piece).unwrap();
            }
        }
    });
    let mut last = String::new();
    while last != "399" {
        let batch = bench.next().await;
        assert_eq!(batch.rejects, [], "half a document was read");
        let found = short(&batch);
        assert_eq!(found.len(), 3, "{found:?}");
        last = found[0].trim_start_matches("a=").to_owned();
        assert!(found.iter().all(|word| word.ends_with(&format!("={last}"))), "{found:?}");
    }
    writer.join().unwrap();
}

#[test]
fn a_file_that_is_too_long_is_refused_without_reading_it_whole() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("f.yaml");
    File::create(&path).unwrap().set_len(load::LONGEST + 1).unwrap();
    let contents = svclb_objects::file::contents(&path, load::load(&path), "");
    assert_eq!(
        contents.rejects[0].to_string(),
        format!(
            "{}: cannot be read: it is longer than 128 MiB: split it into several files; its objects keep their state",
            path.display(),
        ),
    );
}
