//! Errors of the system that pass: svclb tries again, and loses nothing meanwhile.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use caps::CapSet;
use svclb_core::model::{ObjectName, Unread};
use tempfile::TempDir;

use super::super::tracked::{Failing, FileState, PAUSES};
use super::super::{Files, load};
use super::{Bench, PATIENCE, alone, at_once, next, nothing, service, short, words};

/// The number of inotify watches of this user namespace (`fs.inotify.max_user_watches` is the whole machine's).
const MOST_WATCHES: &str = "/proc/sys/user/max_inotify_watches";

/// As [`alone::is_alone`], for the tests of this file.
fn is_alone(test: &str) -> bool {
    alone::is_alone(module_path!(), test)
}

/// Opens all files that this process may.
fn hog() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

/// Checks that no batch comes while failed steps are tried again.
async fn nothing_for_long(files: &mut Files) {
    let wait = tokio::time::timeout(PAUSES.0 * 5 / 2, files.next()).await;
    assert!(wait.is_err(), "expected nothing, got {wait:?}");
}

/// The number of files that could not be read and are tried again, and of those that were read.
fn failed_and_read(files: &Files) -> (usize, usize) {
    let failed = files.files.values().filter(|it| matches!(it.state, FileState::Failed(_)));
    (failed.count(), files.files.values().filter(|it| it.stamp.is_some()).count())
}

const UNREAD: &str =
    "f.yaml: cannot be read: Too many open files (os error 24); its objects keep their state";

#[tokio::test]
async fn a_file_that_cannot_be_read_at_the_start_is_read_later() {
    if !is_alone("a_file_that_cannot_be_read_at_the_start_is_read_later") {
        return;
    }
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("f.yaml"), service("a", 80)).unwrap();
    let mut files = Files::new(&[folder.path()]).unwrap();
    let all = hog();
    let first = next(&mut files).await;
    assert!(first.whole);
    assert_eq!((short(&first), first.unread), (vec![], Some(Unread::everything())));
    nothing_for_long(&mut files).await;
    drop(all);
    let batch = next(&mut files).await;
    assert_eq!((short(&batch), batch.standing), (vec!["a=80".to_owned()], 0));
    assert_eq!(batch.unread, Some(Unread::default()));
}

#[tokio::test]
async fn a_change_that_cannot_be_read_is_read_later_and_what_was_there_stays() {
    if !is_alone("a_change_that_cannot_be_read_is_read_later_and_what_was_there_stays") {
        return;
    }
    let (mut bench, _) = Bench::new(&[("f.yaml", &service("a", 80))]).await;
    let path = bench.path("f.yaml");
    let other = |port: u16| bench.folder.path().join(port.to_string());
    for port in [81, 82] {
        fs::write(other(port), service("a", port)).unwrap();
    }
    let (other, last) = (other(81), other(82));
    let all = hog();
    fs::rename(other, &path).unwrap();
    let batch = bench.next().await;
    assert_eq!((short(&batch), batch.standing), (vec![], 1));
    assert_eq!(words(&batch, &bench.path("")), [UNREAD]);
    nothing_for_long(&mut bench.files).await;
    drop(all);
    let batch = bench.next().await;
    assert_eq!((short(&batch), batch.standing), (vec!["a=81".to_owned()], 0));
    // That it goes is noticed, too.
    let all = hog();
    fs::rename(last, &path).unwrap();
    assert_eq!(words(&bench.next().await, &bench.path("")), [UNREAD]);
    fs::remove_file(&path).unwrap();
    assert_eq!(short(&bench.next().await), ["a-"]);
    assert_eq!(failed_and_read(&bench.files).0, 0);
    drop(all);
}

#[tokio::test]
async fn a_folder_that_cannot_be_listed_is_listed_later_and_what_was_there_stays() {
    if !is_alone("a_folder_that_cannot_be_listed_is_listed_later_and_what_was_there_stays") {
        return;
    }
    let (mut bench, _) = Bench::new(&[("f.yaml", &service("a", 80))]).await;
    let other = bench.folder.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("f.yaml"), service("a", 81)).unwrap();
    let all = hog();
    fs::rename(bench.path(""), bench.folder.path().join("old")).unwrap();
    fs::rename(&other, bench.path("")).unwrap();
    nothing_for_long(&mut bench.files).await;
    drop(all);
    assert_eq!(short(&bench.next().await), ["a=81"], "no removal in between");
    let path = bench.path("f.yaml");
    let batch = at_once(&mut bench.files, || fs::write(&path, service("a", 82)).unwrap()).await;
    assert_eq!(short(&batch), ["a=82"]);
    assert!(bench.files.blind.is_none());
}

#[tokio::test]
async fn folder_that_cannot_be_watched_is_looked_at_by_a_timer_until_it_can() {
    if !is_alone("folder_that_cannot_be_watched_is_looked_at_by_a_timer_until_it_can") {
        return;
    }
    let (mut bench, _) = Bench::new(&[("f.yaml", &service("a", 80))]).await;
    let log = bench.folder.path().join("log");
    let lines = tracing_subscriber::fmt().with_writer(Arc::new(File::create(&log).unwrap()));
    let _logged = tracing::subscriber::set_default(lines.finish());
    let before = fs::read_to_string(MOST_WATCHES).unwrap();
    fs::write(MOST_WATCHES, "1").unwrap();
    fs::rename(bench.path(""), bench.folder.path().join("old")).unwrap();
    fs::create_dir(bench.path("")).unwrap();
    bench.write("f.yaml", &service("a", 81));
    assert_eq!(short(&bench.next().await), ["a=81"]);
    let (_, logged) = bench.files.blind.clone().unwrap();
    let advice =
        "No space left on device (os error 28): raise the sysctl fs.inotify.max_user_watches";
    assert!(logged.ends_with(advice), "{logged}");
    bench.write("f.yaml", &service("a", 82));
    assert_eq!(short(&bench.next().await), ["a=82"], "not watched, but looked at");
    fs::write(MOST_WATCHES, before.trim()).unwrap();
    tokio::time::timeout(PATIENCE, async {
        while bench.files.blind.is_some() {
            bench.nothing().await;
        }
    })
    .await
    .expect("not watched again");
    let path = bench.path("f.yaml");
    let batch = at_once(&mut bench.files, || fs::write(&path, service("a", 83)).unwrap()).await;
    assert_eq!(short(&batch), ["a=83"], "watched again");
    let log = fs::read_to_string(log).unwrap();
    for words in ["a change of files may be missed", "all changes of files are followed again"] {
        assert_eq!(log.matches(words).count(), 1, "{log}");
    }
}

#[tokio::test]
async fn a_file_in_a_folder_that_may_only_be_entered_is_looked_at_by_a_timer() {
    if !is_alone("a_file_in_a_folder_that_may_only_be_entered_is_looked_at_by_a_timer") {
        return;
    }
    let folder = TempDir::new().unwrap();
    let [way, last] = ["way", "way/last"].map(|name| folder.path().join(name));
    fs::create_dir_all(&last).unwrap();
    let path = last.join("f.yaml");
    fs::write(&path, service("a", 80)).unwrap();
    // A capability of root's is all that reads such folders, and it is this thread's.
    caps::clear(None, CapSet::Effective).unwrap();
    let mode = |folder, mode| fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
    mode(&way, 0o311);
    let mut files = Files::new(&[&path]).unwrap();
    assert_eq!(short(&next(&mut files).await), ["a=80"]);
    assert!(files.blind.is_none(), "what is only on the way need not be read");
    let batch = at_once(&mut files, || fs::write(&path, service("a", 81)).unwrap()).await;
    assert_eq!(short(&batch), ["a=81"]);

    mode(&last, 0o311);
    let mut files = Files::new(&[&path]).unwrap();
    assert_eq!(short(&next(&mut files).await), ["a=81"]);
    let (_, logged) = files.blind.clone().unwrap();
    let advice =
        "last: Permission denied (os error 13): let svclb read the folder, not only enter it";
    assert!(logged.ends_with(advice), "{logged}");
    fs::write(&path, service("a", 82)).unwrap();
    assert_eq!(short(&next(&mut files).await), ["a=82"], "not watched, but looked at");
    mode(&last, 0o711);
    tokio::time::timeout(PATIENCE, async {
        while files.blind.is_some() {
            nothing(&mut files).await;
        }
    })
    .await
    .expect("not watched");
    let batch = at_once(&mut files, || fs::write(&path, service("a", 83)).unwrap()).await;
    assert_eq!(short(&batch), ["a=83"], "watched");
}

#[tokio::test]
async fn an_entry_that_cannot_be_looked_at_keeps_what_it_held() {
    let files = [("f.yaml", &*service("a", 80)), ("g.yaml", &*service("b", 80))];
    let (mut bench, _) = Bench::new(&files).await;
    let (path, other) = (bench.path("f.yaml"), bench.folder.path().join("other"));
    // A link to itself.
    std::os::unix::fs::symlink(&path, &other).unwrap();
    fs::rename(&other, &path).unwrap();
    nothing_for_long(&mut bench.files).await;
    let (_, logged) = bench.files.blind.clone().unwrap();
    assert!(
        logged.ends_with("f.yaml: Too many levels of symbolic links (os error 40)"),
        "{logged}"
    );
    bench.write("g.yaml", &service("b", 81));
    assert_eq!(short(&bench.next().await), ["b=81"], "others are followed as before");
    fs::write(&other, service("a", 81)).unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(short(&bench.next().await), ["a=81"]);
}

#[tokio::test]
async fn invalid_file_is_not_read_again_by_a_timer() {
    let (mut bench, first) = Bench::new(&[("f.yaml", "broken: [\n")]).await;
    assert_eq!(first.standing, 1);
    let path = bench.path("f.yaml");
    let no_text = || fs::write(&path, b"\xff\xfe\x00").unwrap();
    let too_long = || File::create(&path).unwrap().set_len(load::LONGEST + 1).unwrap();
    assert_eq!(failed_and_read(&bench.files), (0, 1));
    for change in [&no_text as &dyn Fn(), &too_long] {
        change();
        assert_eq!(bench.next().await.rejects.len(), 1);
        assert_eq!(failed_and_read(&bench.files), (0, 1));
    }
}

#[tokio::test]
async fn rejected_object_stays_unread_while_its_file_cannot_be_parsed() {
    let bad = service("a", 80).replace("port: 80", "port: 70000");
    let (mut bench, first) = Bench::new(&[("f.yaml", &bad)]).await;
    let services = [ObjectName::new("default", "a")].into();
    assert_eq!(first.unread, Some(Unread { services, ..Unread::default() }));
    bench.write("f.yaml", "[");
    let batch = bench.next().await;
    assert_eq!((batch.rejects.len(), batch.unread), (1, None));
    bench.write("f.yaml", &service("b", 80));
    assert_eq!(bench.next().await.unread, Some(Unread::default()));
}

#[test]
fn pauses_double_from_a_second_to_thirty() {
    let start = Instant::now();
    let mut now = start;
    let pauses = std::iter::repeat_with(|| {
        let pause = Failing::again(start, now).until - now;
        now += pause;
        pause.as_secs()
    });
    assert_eq!(pauses.take(8).collect::<Vec<_>>(), [1, 1, 2, 4, 8, 16, 30, 30]);
}

/// Without a bound, the loop would not return to the runtime: the test waits for it on another thread.
#[test]
fn events_that_cannot_be_read_are_replaced_by_looks_of_a_timer() {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut bench, _) = Bench::new(&[("f.yaml", &service("a", 80))]).await;
            bench.files.watch.break_reads(true);
            bench.write("f.yaml", &service("a", 81));
            sender.send(short(&bench.next().await)).unwrap();
            bench.files.watch.break_reads(false);
            bench.write("f.yaml", &service("a", 82));
            sender.send(short(&bench.next().await)).unwrap();
            nothing_for_long(&mut bench.files).await;
            sender.send(vec![bench.files.blind.is_none().to_string()]).unwrap();
        });
    });
    for expected in ["a=81", "a=82", "true"] {
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), [expected]);
    }
}
