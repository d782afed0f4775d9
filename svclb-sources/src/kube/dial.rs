//! Connections to the API server, over the first way that works (`ways`), by sockets that svclb's own hooks
//! leave alone.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use http::{Extensions, Uri};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connection as _, HttpInfo};
use hyper_util::rt::TokioIo;
use kube::Config;
use kube::client::ConfigExt as _;
use nix::sys::socket::{setsockopt, sockopt};
use svclb_common::layout::AGENT_PRIORITY;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{sleep, timeout};
use tower::{BoxError, Service, ServiceExt as _};

use super::health::words;
use super::ways::{Failed, Way, WayKind, Ways, port};

/// The time within which a connection must be made, TLS included.
pub(super) const CONNECT: Duration = Duration::from_secs(10);
/// The next way is tried in parallel to one that has not worked for so long.
const NEXT: Duration = Duration::from_millis(500);
/// TCP keepalive, which notices a vanished peer: seconds until the first probe, number of probes, seconds
/// between them.
const KEEPALIVE: (u32, u32, u32) = (15, 3, 5);

/// A connection.
pub(super) type Connection = MaybeHttpsStream<TokioIo<TcpStream>>;

/// Makes connections to the API server, whatever the URL of a request.
#[derive(Clone)]
pub(super) struct Dial {
    ways: Ways,
    configured: Way,
    given: Vec<Way>,
    /// Endpoints that the cluster names may be tried.
    learns: bool,
    /// Expects a certificate as configured.
    by_configuration: HttpsConnector<Tcp>,
    /// Expects the same certificate, whatever the address.
    by_name: HttpsConnector<Tcp>,
}

impl Dial {
    /// Dials the configured address, and these further ways, whose certificate must be good for `name`.
    ///
    /// # Errors
    /// When certificates or names cannot be understood.
    pub(super) fn new(config: &Config, ways: &Ways, given: Vec<Uri>, name: &str) -> Result<Self> {
        let mut named = config.clone();
        named.tls_server_name = Some(name.to_owned());
        // The cluster's objects must not decide where credentials are sent: only a server with a certificate
        // of the cluster's own authority is one of its API servers.
        let is_verified = config.root_cert.is_some() && !config.accept_invalid_certs;
        let is_https = config.cluster_url.scheme_str() == Some("https");
        let given = given.into_iter().map(|url| Way::new(WayKind::ApiServer, url)).collect();
        Ok(Self {
            ways: ways.clone(),
            configured: Way::new(WayKind::Configuration, config.cluster_url.clone()),
            given,
            learns: is_https && is_verified,
            by_configuration: config.rustls_https_connector_with_connector(Tcp)?,
            by_name: named.rustls_https_connector_with_connector(Tcp)?,
        })
    }

    /// Connects over the first way that works.
    pub(super) fn dial(&self) -> BoxFuture<'static, Result<Connection, BoxError>> {
        Box::pin(self.clone().try_ways())
    }

    async fn try_ways(self) -> Result<Connection, BoxError> {
        let ways = self.ways.order(&self.configured, &self.given, self.learns);
        let is_only = ways.len() == 1;
        let mut failed: Vec<(Way, BoxError)> = Vec::new();
        let connected = first(ways.into_iter().map(|way| self.attempt(way)), &mut failed).await;
        let errors = failed.iter().map(|(way, error)| (way.clone(), words(&**error)));
        let errors: Vec<Failed> = errors.collect();
        if let Some((way, stream)) = connected {
            self.ways.worked(&way, peer(&stream), errors);
            return Ok(stream);
        }
        self.ways.failed(&errors);
        match failed.pop() {
            Some((_, error)) if is_only => Err(error),
            _ => {
                let errors = errors.iter().map(|(way, error)| format!("{way}: {error}"));
                let errors = errors.collect::<Vec<_>>().join("; ");
                Err(format!("no way to the API server works: {errors}").into())
            }
        }
    }

    async fn attempt(&self, way: Way) -> Result<(Way, Connection), (Way, BoxError)> {
        let connector = match way.kind {
            WayKind::Configuration => &self.by_configuration,
            WayKind::Endpoint | WayKind::ApiServer => &self.by_name,
        };
        match timeout(CONNECT, connector.clone().oneshot(way.url.clone())).await {
            Ok(Ok(stream)) => Ok((way, stream)),
            Ok(Err(error)) => Err((way, error)),
            Err(_) => Err((way, format!("no connection within {} s", CONNECT.as_secs()).into())),
        }
    }
}

/// Returns the address at the other end.
fn peer(stream: &Connection) -> Option<SocketAddr> {
    let mut extensions = Extensions::new();
    stream.connected().get_extras(&mut extensions);
    extensions.get::<HttpInfo>().map(HttpInfo::remote_addr)
}

/// Returns the first success of attempts that begin one after the other: the next one as soon as one has
/// failed, or [`NEXT`] after the one before. Earlier errors are added to `failed`; attempts that are still
/// running are dropped.
async fn first<T, E>(
    attempts: impl IntoIterator<Item = impl Future<Output = Result<T, E>>>,
    failed: &mut Vec<E>,
) -> Option<T> {
    let mut attempts = attempts.into_iter();
    let mut running = FuturesUnordered::new();
    loop {
        let begun = attempts.next().map(|attempt| running.push(attempt)).is_some();
        if running.is_empty() {
            return None;
        }
        let next = async {
            match begun {
                true => sleep(NEXT).await,
                false => pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(done) = running.next() => match done {
                Ok(success) => return Some(success),
                Err(error) => failed.push(error),
            },
            () = next => {}
        }
    }
}

/// Makes plain connections, by sockets that the hooks leave alone.
#[derive(Clone, Debug)]
struct Tcp;

impl Service<Uri> for Tcp {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let mut failed = Vec::new();
            let attempts = addresses(&uri).await?.into_iter().map(connect);
            match first(attempts, &mut failed).await {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => {
                    Err(failed.pop().map_or_else(|| "the name has no address".into(), Into::into))
                }
            }
        })
    }
}

async fn addresses(uri: &Uri) -> Result<Vec<SocketAddr>, BoxError> {
    let host = uri.host().ok_or("a URL without a host")?.trim_matches(['[', ']']);
    Ok(lookup_host((host, port(uri))).await?.collect())
}

async fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    exempt(&socket);
    socket.set_keepalive(true)?;
    let (idle, probes, interval) = KEEPALIVE;
    setsockopt(&socket, sockopt::TcpKeepIdle, &idle)?;
    setsockopt(&socket, sockopt::TcpKeepCount, &probes)?;
    setsockopt(&socket, sockopt::TcpKeepInterval, &interval)?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Marks a socket as one that the hooks leave alone: those of this agent, and those that an earlier one left
/// attached.
fn exempt(socket: &impl AsFd) {
    static IS_LOGGED: AtomicBool = AtomicBool::new(false);
    let priority = i32::from_ne_bytes(AGENT_PRIORITY.to_ne_bytes());
    if let Err(error) = setsockopt(socket, sockopt::Priority, &priority)
        && !IS_LOGGED.swap(true, Ordering::Relaxed)
    {
        tracing::warn!(
            "cannot set SO_PRIORITY: connections to the API server are translated like all others, and \
             depend on the maps: {error}"
        );
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    async fn after(
        seconds: f64,
        result: Result<&'static str, &'static str>,
    ) -> Result<&'static str, &'static str> {
        sleep(Duration::from_secs_f64(seconds)).await;
        result
    }

    #[tokio::test(start_paused = true)]
    async fn next_way_is_tried_after_a_failure_at_once_and_beside_one_that_hangs_after_a_moment() {
        type Attempts = &'static [(f64, Result<&'static str, &'static str>)];
        let rows: [(&str, Attempts, Option<&str>, f64, usize); 5] = [
            ("the first works", &[(0.2, Ok("a")), (0.0, Ok("b"))], Some("a"), 0.2, 0),
            ("one is refused", &[(0.0, Err("a")), (0.1, Ok("b"))], Some("b"), 0.1, 1),
            ("two hang", &[(60.0, Ok("a")), (60.0, Ok("b")), (0.0, Ok("c"))], Some("c"), 1.0, 0),
            ("the first is slow", &[(0.7, Ok("a")), (60.0, Ok("b"))], Some("a"), 0.7, 0),
            ("none works", &[(2.0, Err("a")), (0.0, Err("b"))], None, 2.0, 2),
        ];
        for (row, attempts, expected, seconds, failures) in rows {
            let mut failed = Vec::new();
            let start = Instant::now();
            let attempts = attempts.iter().map(|(seconds, result)| after(*seconds, *result));
            let found = first(attempts, &mut failed).await;
            let took = start.elapsed().as_secs_f64();
            assert_eq!((found, failed.len()), (expected, failures), "{row}");
            assert!((took - seconds).abs() < 0.05, "{row}: {took} s");
        }
    }

    #[test]
    fn endpoints_are_tried_only_where_the_configured_authority_verifies_them() {
        let own = rcgen::generate_simple_self_signed(["kubernetes".to_owned()]).unwrap();
        let authority = || Some(vec![own.cert.der().to_vec()]);
        let rows = [
            ("as in a pod", "https://10.96.0.1", authority(), false, true),
            ("another address", "https://192.0.2.1:6443", authority(), false, true),
            ("plain HTTP", "http://10.96.0.1", authority(), false, false),
            ("public authorities", "https://10.96.0.1", None, false, false),
            ("no verification", "https://10.96.0.1", authority(), true, false),
        ];
        for (row, url, root_cert, accept_invalid_certs, expected) in rows {
            let mut config = Config::new(url.parse().unwrap());
            (config.root_cert, config.accept_invalid_certs) = (root_cert, accept_invalid_certs);
            let dial = Dial::new(&config, &Ways::default(), Vec::new(), "kubernetes").unwrap();
            assert_eq!(dial.learns, expected, "{row}");
        }
    }

    #[tokio::test]
    async fn sockets_to_the_api_server_have_the_priority_that_hooks_leave_alone() {
        use nix::sys::socket::getsockopt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = connect(listener.local_addr().unwrap()).await.unwrap();
        let priority = getsockopt(&stream, sockopt::Priority).unwrap();
        // Without CAP_NET_ADMIN it is what it was.
        let expected = match nix::unistd::geteuid().is_root() {
            true => i32::from_ne_bytes(AGENT_PRIORITY.to_ne_bytes()),
            false => 0,
        };
        assert_eq!(priority, expected);
        assert!(getsockopt(&stream, sockopt::KeepAlive).unwrap());
        assert_eq!(getsockopt(&stream, sockopt::TcpKeepIdle).unwrap(), KEEPALIVE.0);
    }
}
