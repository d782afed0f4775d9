//! A small HTTP/1 server of pages for every client that can connect: GET and HEAD, one request for each
//! connection, a few connections at once, and a limit for every wait.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// The most connections at once. When there are as many and another one comes, the oldest is closed: idle ones
/// keep no probe away.
const CONNECTIONS: usize = 16;
/// Time for a client to send its request.
const HEADERS: Duration = Duration::from_secs(5);
/// Time for a connection, from its first byte to the last one of the answer.
const ALL: Duration = Duration::from_secs(15);
/// Bytes of a request that are kept.
const BUFFER: usize = 16 << 10;
/// The waits before an address that is taken is tried again.
const RETRY: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(250))
    .with_max_delay(LONGEST)
    .without_max_times();
const LONGEST: Duration = Duration::from_secs(10);

/// Pages by their paths.
pub trait Pages: Send + Sync + 'static {
    /// The page at this path, if there is one. It may take a while: the server has a thread of its own.
    fn page(&self, path: &str) -> Option<Answer>;
}

/// A page.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Media type.
    pub content_type: &'static str,
    /// Contents.
    pub body: String,
}

/// Serves pages at an address, on a thread of its own, as long as the process runs. An address that is taken is
/// tried again. `name` is the thread's, and the server's in the log.
///
/// # Errors
/// When no thread can be started.
pub fn start(name: &'static str, address: SocketAddr, pages: impl Pages) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.with_context(|| format!("cannot serve {name}"))?;
    let serve = move || runtime.block_on(serve(name, address, pages));
    let started = thread::Builder::new().name(name.to_owned()).spawn(serve);
    started.with_context(|| format!("cannot serve {name}")).map(drop)
}

async fn serve(name: &'static str, address: SocketAddr, pages: impl Pages) {
    let listener = listen(name, address).await;
    let pages = Arc::new(pages);
    let mut connections = VecDeque::new();
    let mut fails = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                fails = false;
                make_room(&mut connections).await;
                let answering = timeout(ALL, converse(stream, pages.clone()));
                connections.push_back(tokio::spawn(async move { drop(answering.await) }));
            }
            Err(error) => {
                // As with too many open files.
                if !std::mem::replace(&mut fails, true) {
                    warn(name, address, "cannot accept a connection", &error);
                }
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Closes the oldest connections until there is room for one more.
async fn make_room(connections: &mut VecDeque<JoinHandle<()>>) {
    connections.retain(|connection| !connection.is_finished());
    while connections.len() >= CONNECTIONS
        && let Some(oldest) = connections.pop_front()
    {
        oldest.abort();
        // Until it is closed.
        drop(oldest.await);
    }
}

/// Listens at an address. Logs once that it cannot, and tries again until it can.
async fn listen(name: &str, address: SocketAddr) -> TcpListener {
    let mut delays = RETRY.build();
    let mut was_refused = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "serving {name}");
                return listener;
            }
            Err(error) => {
                if !std::mem::replace(&mut was_refused, true) {
                    warn(name, address, "cannot listen", &error);
                }
                sleep(delays.next().unwrap_or(LONGEST)).await;
            }
        }
    }
}

fn warn(name: &str, address: SocketAddr, problem: &str, error: &dyn fmt::Display) {
    tracing::warn!(
        %address, %error,
        "{problem} for {name}; trying again, and Services are served meanwhile; --{name}-address names \
         another address"
    );
}

/// Answers the request of a connection.
async fn converse(stream: TcpStream, pages: Arc<impl Pages>) {
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let response = respond(&*pages, request.method(), request.uri().path());
        ready(Ok::<_, Infallible>(response))
    });
    let done = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(BUFFER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // A client that leaves early or sends no HTTP concerns only itself.
    if let Err(error) = done {
        tracing::trace!(%error, "a connection ended");
    }
}

fn respond(pages: &impl Pages, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let is_reading = matches!(*method, Method::GET | Method::HEAD);
    let plain = |status: StatusCode| {
        let body = format!("{status}\n");
        Answer { status, content_type: "text/plain; charset=utf-8", body }
    };
    let answer = if is_reading {
        pages.page(path).unwrap_or_else(|| plain(StatusCode::NOT_FOUND))
    } else {
        plain(StatusCode::METHOD_NOT_ALLOWED)
    };
    let mut response = Response::new(Full::from(answer.body));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !is_reading {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use super::*;

    struct Hello;

    impl Pages for Hello {
        fn page(&self, path: &str) -> Option<Answer> {
            let body = "hello\n".to_owned();
            let answer = Answer { status: StatusCode::OK, content_type: "text/plain", body };
            (path == "/hello").then_some(answer)
        }
    }

    /// A free address of loopback, which the test holds.
    fn taken() -> (std::net::TcpListener, SocketAddr) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// A server at an address of its own.
    fn server() -> SocketAddr {
        let (listener, address) = taken();
        drop(listener);
        start("hello", address, Hello).unwrap();
        address
    }

    /// Connects as soon as the server listens.
    fn connect(address: SocketAddr) -> TcpStream {
        let tries = (0..1_000).map(|_| {
            TcpStream::connect(address).inspect_err(|_| thread::sleep(Duration::from_millis(10)))
        });
        tries.flatten().next().expect("the server listens")
    }

    fn exchange(address: SocketAddr, request: &str) -> String {
        let mut stream = connect(address);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn pages_are_read_by_get_and_head_and_nothing_else_is_done() {
        let address = server();
        let rows = [
            ("GET /hello", "200", "hello\n"),
            ("GET /hello?a=b", "200", "hello\n"),
            ("HEAD /hello", "200", ""),
            ("GET /other", "404", "404 Not Found\n"),
            ("POST /hello", "405", "405 Method Not Allowed\n"),
            ("nothing", "400", ""),
        ];
        for (line, status, expected) in rows {
            let answer = exchange(address, &format!("{line} HTTP/1.1\r\nhost: a\r\n\r\n"));
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {head}");
            assert_eq!(body, expected, "{line}");
            let head = head.to_lowercase();
            assert!(status == "400" || head.contains("connection: close"), "{line}: {head}");
            assert_eq!(head.contains("\r\nallow: get, head"), status == "405", "{line}: {head}");
        }
    }

    #[test]
    fn more_idle_connections_than_there_may_be_keep_no_request_away() {
        let address = server();
        let idle: Vec<TcpStream> = (0..3 * CONNECTIONS).map(|_| connect(address)).collect();
        let answer = exchange(address, "GET /hello HTTP/1.1\r\nhost: a\r\n\r\n");
        assert!(answer.ends_with("hello\n"), "{answer}");
        // The oldest were closed.
        assert_eq!((&idle[0]).read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn an_address_that_is_taken_is_served_once_it_is_free() {
        let (listener, address) = taken();
        start("hello", address, Hello).unwrap();
        thread::sleep(Duration::from_millis(50));
        drop(listener);
        let answer = exchange(address, "GET /hello HTTP/1.1\r\nhost: a\r\n\r\n");
        assert!(answer.ends_with("hello\n"), "{answer}");
    }
}
