//! A server on loopback with the answers of a test, for behaviour that a real API server cannot be made to
//! show.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;

/// The answer to a request.
pub(super) enum Answer {
    /// A status and a body.
    Whole(u16, String),
    /// Lines of a watch, which then stays open.
    Watch(Vec<String>),
    /// Lines of a watch, which ends with them.
    Ends(Vec<String>),
}

/// A request: its path with the query, and whether it accepts protobuf.
pub(super) struct Request(pub(super) String, pub(super) bool);

impl Request {
    pub(super) fn is_for(&self, resource: &str) -> bool {
        self.0.split('?').next().is_some_and(|path| path.ends_with(resource))
    }

    pub(super) fn has(&self, words: &str) -> bool {
        self.0.contains(words)
    }
}

pub(super) struct Server {
    folder: TempDir,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(super) fn new(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "{{apiVersion: v1, kind: Config, current-context: it, \
             clusters: [{{name: it, cluster: {{server: \"http://{address}\"}}}}], \
             users: [{{name: it, user: {{}}}}], \
             contexts: [{{name: it, context: {{cluster: it, user: it}}}}]}}"
        );
        std::fs::write(folder.path().join("config"), config).unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&requests));
        // Ends with the process: a watch may be open.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                thread::spawn(move || serve(&stream, &*answer, &log));
            }
        });
        Self { folder, requests }
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("config")
    }

    /// The targets of all requests so far.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(stream: &TcpStream, answer: &dyn Fn(&Request) -> Answer, log: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(first) = lines.next() {
        // No request here has a body.
        let headers: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        let mut accept = headers.iter().filter(|line| line.starts_with("accept:"));
        let protobuf = accept.any(|line| line.contains("application/vnd.kubernetes.protobuf"));
        let target = first.split(' ').nth(1).unwrap_or_default().to_owned();
        log.lock().unwrap().push(target.clone());
        let sent = match answer(&Request(target, protobuf)) {
            Answer::Whole(status, body) => write(
                stream,
                &format!(
                    "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ),
            ),
            Answer::Watch(events) => watch(stream, &events),
            Answer::Ends(events) => {
                watch(stream, &events).and_then(|()| write(stream, "0\r\n\r\n"))
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

fn watch(stream: &TcpStream, events: &[String]) -> std::io::Result<()> {
    write(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    events
        .iter()
        .try_for_each(|event| write(stream, &format!("{:x}\r\n{event}\n\r\n", event.len() + 1)))
}

fn write(mut stream: &TcpStream, text: &str) -> std::io::Result<()> {
    stream.write_all(text.as_bytes())
}
