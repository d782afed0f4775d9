//! Tests with real files, folders, editors' habits and inotify.

mod alone;
mod follow;
mod links;
mod mounts;
mod refused;
mod rejects;
mod tracked;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use svclb_core::model::Update;
use tempfile::TempDir;

use super::Files;
use crate::batch::Batch;

/// Long enough for a slow machine; nothing waits for it unless a test fails.
const PATIENCE: Duration = Duration::from_secs(20);
/// The time in which no batch may come where none is expected: several times the quiet time.
const SILENCE: Duration = Duration::from_millis(400);

/// A folder with files, followed.
struct Bench {
    folder: TempDir,
    files: Files,
}

impl Bench {
    /// Follows a folder `d` that holds these files. Returns the first batch, too.
    async fn new(files: &[(&str, &str)]) -> (Self, Batch) {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("d")).unwrap();
        for (name, text) in files {
            fs::write(folder.path().join("d").join(name), text).unwrap();
        }
        let files = Files::new(&[folder.path().join("d")]).unwrap();
        let mut bench = Self { folder, files };
        let first = bench.next().await;
        assert!(first.whole);
        (bench, first)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("d").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    async fn next(&mut self) -> Batch {
        next(&mut self.files).await
    }

    async fn nothing(&mut self) {
        nothing(&mut self.files).await;
    }
}

async fn next(files: &mut Files) -> Batch {
    tokio::time::timeout(PATIENCE, files.next()).await.expect("no batch came")
}

async fn nothing(files: &mut Files) {
    if let Ok(batch) = tokio::time::timeout(SILENCE, files.next()).await {
        panic!("expected nothing, got {batch:?}");
    }
}

/// A Service with a port that distinguishes its states.
fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: 10.96.0.10\n  \
         ports:\n  - port: {port}\n"
    )
}

/// Updates in short: `web=80`, or `web-` when it is gone.
fn short(batch: &Batch) -> Vec<String> {
    let mut words: Vec<String> = batch
        .updates
        .iter()
        .map(|update| match update {
            Update::Service(name, Some(service)) => {
                let ports: Vec<String> =
                    service.ports.iter().map(|port| port.port.to_string()).collect();
                format!("{}={}", name.name, ports.join(","))
            }
            Update::Service(name, None) => format!("{}-", name.name),
            Update::Slice(name, slice) => {
                format!("slice {}{}", name.name, if slice.is_some() { "" } else { "-" })
            }
            Update::Node(node) => format!("node {:?}", node.as_ref().map(|node| &*node.name)),
            Update::Interfaces(addresses) => format!("interfaces {addresses:?}"),
        })
        .collect();
    words.sort();
    words
}

/// The rejects' texts, without the folder.
fn words(batch: &Batch, folder: &Path) -> Vec<String> {
    let prefix = format!("{}/", folder.display().to_string().trim_end_matches('/'));
    batch.rejects.iter().map(|reject| reject.to_string().replace(&prefix, "")).collect()
}

/// Returns the batch of a lone change, which must not wait for the quiet time: that is endless here.
async fn at_once(files: &mut Files, change: impl FnOnce()) -> Batch {
    let quiet = std::mem::replace(&mut files.quiet, PATIENCE * 2);
    change();
    let batch = next(files).await;
    assert!(batch.seen <= Instant::now());
    files.quiet = quiet;
    batch
}

/// Checks that no batch comes before a quiet time is over, and makes that long.
async fn not_yet(files: &mut Files) {
    files.quiet = PATIENCE / 2;
    if let Ok(batch) = tokio::time::timeout(Duration::from_millis(25), files.next()).await {
        panic!("expected nothing yet, got {batch:?}");
    }
}
