//! A kubeconfig with a plugin, an API server that knows tokens, and a follower of it.

use std::cell::Cell;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use svclb_core::budget::Budget;
use svclb_sources::kube::plugin::PluginLimits;
use svclb_sources::kube::{Kube, KubeSettings, SILENCE};
use tempfile::TempDir;

/// Nothing takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(20);
/// The file of the log.
const LOG: &str = "agent.log";

pub(super) struct Stage {
    name: String,
    folder: TempDir,
    exec: Value,
    pub(super) server: Server,
    pub(super) limits: PluginLimits,
    /// The number of batches so far.
    pub(super) batches: Cell<usize>,
}

impl Stage {
    /// A plugin that runs this script, whose `$0` is a folder of its own. The name is unique.
    pub(super) fn new(name: &str, script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let exec = json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "interactiveMode": "Never",
            "command": "sh",
            "args": ["-c", script, folder.path()],
        });
        let limits = PluginLimits {
            guard: env!("CARGO_BIN_EXE_svclb").into(),
            deadline: Duration::from_secs(30),
            backoff: (Duration::from_millis(100), Duration::from_millis(400)),
        };
        let server = Server::new();
        let (name, batches) = (format!("plugin-{name}"), Cell::new(0));
        Self { name, folder, exec, server, limits, batches }
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.exec);
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        let hidden = self.path(&format!(".{name}"));
        fs::write(&hidden, text).unwrap();
        fs::rename(hidden, self.path(name)).unwrap();
    }

    pub(super) fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Follows the server by the plugin's credentials while the task runs, then waits for the run that may
    /// be under way.
    pub(super) fn run(&self, task: impl AsyncFnOnce(&Self, &mut Kube)) {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{ "name": "it", "cluster": { "server": self.server.url } }],
            "users": [{ "name": "it", "user": { "exec": self.exec } }],
            "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it" } }],
        });
        self.write("config", &config.to_string());
        let settings = KubeSettings {
            kubeconfig: Some(self.path("config")),
            api_servers: Vec::new(),
            plugins: self.limits.clone(),
            silence: SILENCE,
            budget: Budget::of_agent(),
        };
        let log = fs::File::options().append(true).create(true).open(self.path(LOG)).unwrap();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(Arc::new(log));
        let _subscriber = tracing::subscriber::set_default(subscriber.finish());
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().thread_name(&self.name).build().unwrap();
        runtime.block_on(async {
            let mut kube = Kube::new(settings, "node-a").await.unwrap();
            task(self, &mut kube).await;
            drop(kube);
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
    }

    /// Follows for so long.
    pub(super) async fn pass(&self, kube: &mut Kube, time: Duration) {
        let follow = async {
            loop {
                kube.next().await;
                self.batches.set(self.batches.get() + 1);
            }
        };
        let _: Result<(), _> = tokio::time::timeout(time, follow).await;
    }

    /// Follows until it is so.
    pub(super) async fn until(&self, kube: &mut Kube, what: &str, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < PATIENCE, "{what}: not so in time; {:#?}", self.log(""));
            self.pass(kube, STEP).await;
        }
    }

    /// Threads of the runtime beside its own one.
    pub(super) fn threads(&self) -> usize {
        let name = &self.name[..self.name.len().min(15)];
        let threads = fs::read_dir("/proc/self/task").unwrap().flatten();
        let names =
            threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
        names.filter(|thread| thread.trim() == name).count()
    }

    /// The lines of the log with these words.
    pub(super) fn log(&self, words: &str) -> Vec<String> {
        self.lines(LOG).into_iter().filter(|line| line.contains(words)).collect()
    }
}

/// Returns true when no such process runs. (A zombie does not run.)
pub(super) fn are_gone(processes: &[String]) -> bool {
    let runs = |process: &&String| {
        let stat = fs::read_to_string(Path::new("/proc").join(process).join("stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    };
    processes.iter().find(runs).is_none()
}

pub(super) fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what}: not so in time");
        thread::sleep(STEP);
    }
}

/// An API server that has nothing, ends each watch after a moment, and knows who may ask.
pub(super) struct Server {
    url: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    accepted: Vec<String>,
    /// The token of each request.
    asked: Vec<String>,
}

impl Server {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        // Ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                thread::spawn(move || serve(&stream, &state));
            }
        });
        Self { url, state }
    }

    pub(super) fn accept(&self, token: &str) {
        self.state.lock().unwrap().accepted.push(token.to_owned());
    }

    pub(super) fn refuse(&self, token: &str) {
        self.state.lock().unwrap().accepted.retain(|accepted| accepted != token);
    }

    /// The number of requests with this token.
    pub(super) fn count(&self, token: &str) -> usize {
        self.state.lock().unwrap().asked.iter().filter(|asked| *asked == token).count()
    }

    /// The number of requests.
    pub(super) fn all(&self) -> usize {
        self.state.lock().unwrap().asked.len()
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(first) = lines.next() {
        let headers: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        let token = headers.iter().find_map(|line| line.strip_prefix("authorization: Bearer "));
        let token = token.unwrap_or_default().to_owned();
        let is_known = {
            let mut state = state.lock().unwrap();
            state.asked.push(token.clone());
            state.accepted.contains(&token)
        };
        if !is_known {
            let status = json!({ "kind": "Status", "status": "Failure", "code": 401 }).to_string();
            let head = "HTTP/1.1 401 X\r\nContent-Type: application/json\r\nContent-Length";
            write(stream, &format!("{head}: {}\r\n\r\n{status}", status.len()))?;
            continue;
        }
        write(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        if first.contains("sendInitialEvents=true") {
            let annotations = json!({ "k8s.io/initial-events-end": "true" });
            let metadata = json!({ "resourceVersion": "1", "annotations": annotations });
            let object = json!({ "kind": "Service", "apiVersion": "v1", "metadata": metadata });
            let event = format!("{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n");
            write(stream, &format!("{:x}\r\n{event}\r\n", event.len()))?;
        }
        thread::sleep(Duration::from_millis(200));
        write(stream, "0\r\n\r\n")?;
    }
    Ok(())
}

fn write(mut stream: &TcpStream, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())
}
