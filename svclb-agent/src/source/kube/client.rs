//! The way to the API server: configuration, credentials that are renewed, a connection whose death is
//! noticed, and requests that are not repeated faster than is good for a server in trouble.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt as _};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use svclb_objects::text::short;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tower::{BoxError, ServiceBuilder, service_fn};

use super::encoding::{self, Encoding, Lines};
use super::health::Health;

/// How long a connection may take to be made, an answer to begin, and one that is no watch to be there.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);
const WHOLE: Duration = Duration::from_secs(60);
/// How long credentials may take: a plugin may have to ask somebody.
const CREDENTIALS: Duration = Duration::from_secs(30);
/// How long a request waits for the first ones: less than a list may stand still (`feed::STALL`), also
/// twice.
const FIRST: Duration = Duration::from_secs(10);
/// A peer that vanished is noticed after this silence, then so many unanswered probes, so far apart.
const KEEPALIVE: (Duration, u32, Duration) = (Duration::from_secs(15), 3, Duration::from_secs(5));
/// A kind's watch is asked for no oftener than so many times in so long. A server that takes a watch and
/// ends it at once, again and again, is no error to the watcher, which would ask as fast as it can.
const PACE: (usize, Duration) = (3, Duration::from_secs(1));
/// Configuration is read again this long after the last time, when the API server does not take our
/// credentials, and when it cannot be reached.
const REFUSED: Duration = Duration::from_secs(2);
const UNREACHED: Duration = Duration::from_secs(60);
/// A name that API servers' certificates are made out to, whatever their address.
const SERVER_NAME: &str = "kubernetes.default.svc";

/// Where the API server is, and who we are to it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A kubeconfig file; otherwise what a cluster gives its pods.
    pub kubeconfig: Option<PathBuf>,
    /// Where the API server is, whatever the configuration says. Its certificate must be good for the
    /// name that the configuration has.
    pub api_server: Option<Uri>,
}

impl Settings {
    /// Reads the configuration as it is now.
    async fn read(&self) -> Result<Config> {
        let mut config = match &self.kubeconfig {
            Some(path) => {
                let read = Kubeconfig::read_from(path)?;
                Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?
            }
            None => self.in_cluster()?,
        };
        trim(&mut config.auth_info);
        config.connect_timeout = Some(CONNECT);
        if let Some(server) = &self.api_server {
            if config.tls_server_name.is_none() {
                config.tls_server_name = match (&self.kubeconfig, config.cluster_url.host()) {
                    (Some(_), Some(host)) => Some(host.trim_matches(['[', ']']).to_owned()),
                    _ => Some(SERVER_NAME.to_owned()),
                };
            }
            config.cluster_url = server.clone();
        }
        Ok(config)
    }

    fn in_cluster(&self) -> Result<Config> {
        let in_cluster = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        ensure!(
            in_cluster || self.api_server.is_some(),
            "this is no pod of a cluster (KUBERNETES_SERVICE_HOST is not set): say where Services come \
             from, by --from PATH or --kubeconfig FILE"
        );
        let config = if in_cluster { Config::incluster_env() } else { Config::incluster_dns() };
        config.context("cannot read what a cluster gives its pods: is the service account mounted?")
    }
}

/// A file with a token may end in a newline, which no header can hold. (Without one the crate reads the
/// file again and again; with one, it is read again when the token is refused.)
fn trim(auth: &mut AuthInfo) {
    let Some(file) = auth.token_file.as_ref().filter(|_| auth.token.is_none()) else { return };
    if let Ok(token) = std::fs::read_to_string(file)
        && token.trim() != token
    {
        auth.token = Some(token.trim().into());
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kubeconfig {
            Some(path) => write!(f, "kubeconfig {}", path.display()),
            None => f.write_str("in-cluster configuration"),
        }
    }
}

/// A connection to the API server that renews itself.
#[derive(Clone)]
pub(super) struct Link {
    settings: Arc<Settings>,
    current: Arc<Mutex<Current>>,
    /// Its successor, which may be late: no second plugin is run beside one that hangs.
    making: Arc<tokio::sync::Mutex<Option<Making>>>,
    /// For the log.
    server: Arc<str>,
}

struct Current {
    /// None, while the first credentials are not there.
    client: Option<Client>,
    read: Instant,
    /// The API server does not take our credentials.
    refused: bool,
    /// It cannot be reached.
    unreached: bool,
    /// That there are no new credentials was told.
    told: bool,
}

impl Current {
    /// Whether what there is does not do, and something else may be had.
    fn is_due(&self, is_being_made: bool) -> bool {
        let age = self.read.elapsed();
        let lacks = self.client.is_none() && (is_being_made || age >= REFUSED);
        lacks || self.refused && age >= REFUSED || self.unreached && age >= UNREACHED
    }
}

/// A client that is being made.
type Making = oneshot::Receiver<Result<Client>>;

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Link {
    /// Reads the configuration; whether the API server answers is seen later, and whether a plugin gives
    /// credentials for it too: somebody else has to answer that, who may be away as well.
    ///
    /// # Errors
    /// When there is no configuration or it cannot be understood.
    pub(super) async fn new(settings: Settings) -> Result<Self> {
        let config = settings.read().await.with_context(|| settings.to_string())?;
        let server = config.cluster_url.to_string().into();
        let has_plugin =
            config.auth_info.exec.is_some() || config.auth_info.auth_provider.is_some();
        let mut making = connect(config)?;
        if has_plugin {
            return Ok(Self::with(None, Some(making), settings, server));
        }
        let client = made(&mut making, CREDENTIALS).await.with_context(|| settings.to_string())?;
        Ok(Self::over(client, settings, server))
    }

    /// Uses a client, until what it has does not do.
    pub(super) fn over(client: Client, settings: Settings, server: Arc<str>) -> Self {
        Self::with(Some(client), None, settings, server)
    }

    fn with(
        client: Option<Client>,
        making: Option<Making>,
        settings: Settings,
        server: Arc<str>,
    ) -> Self {
        let current =
            Current { client, read: Instant::now(), refused: false, unreached: false, told: false };
        Self {
            settings: Arc::new(settings),
            current: Arc::new(Mutex::new(current)),
            making: Arc::new(tokio::sync::Mutex::new(making)),
            server,
        }
    }

    /// Where the API server is.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// A client for one kind, which tells `health` of good answers and `encoding` what they are in.
    pub(super) fn client(&self, health: &Health, encoding: &Encoding) -> Client {
        let (link, health, encoding) = (self.clone(), health.clone(), encoding.clone());
        let asked = Arc::new(Mutex::new(VecDeque::new()));
        let service = service_fn(move |request| {
            let (link, health, encoding) = (link.clone(), health.clone(), encoding.clone());
            let asked = Arc::clone(&asked);
            async move { link.send(request, &health, &encoding, &asked).await }
        });
        Client::new(service, "default")
    }

    async fn send(
        &self,
        mut request: Request<Body>,
        health: &Health,
        encoding: &Encoding,
        asked: &Mutex<VecDeque<Instant>>,
    ) -> Result<Response<Lines>, BoxError> {
        let watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        // The pages of a list follow each other.
        if watch {
            let (times, within) = PACE;
            let early = {
                let mut asked = lock(asked);
                asked.truncate(times);
                asked.back().filter(|_| asked.len() == times).copied()
            };
            if let Some(early) = early {
                sleep(within.saturating_sub(early.elapsed())).await;
            }
            lock(asked).push_front(Instant::now());
            encoding.ask(&mut request);
            ask_for_now(&mut request)?;
        }
        self.renew().await;
        let client = lock(&self.current).client.clone();
        let answer = match client {
            Some(client) => match timeout(ANSWER, client.send(request)).await {
                Ok(answer) => answer.map_err(BoxError::from),
                Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs()).into()),
            },
            None => Err("there are no credentials for it yet".into()),
        };
        let status = answer.as_ref().ok().map(Response::status);
        let good = status.map(|status| status.is_success());
        {
            let mut current = lock(&self.current);
            current.unreached = status.is_none();
            if let Some(status) = status {
                current.refused = status == StatusCode::UNAUTHORIZED;
            }
        }
        let answer = async {
            let answer = answer?;
            Ok(match good {
                Some(true) if watch => encoding.good(answer),
                Some(true) => encoding.good(whole(answer).await?),
                _ => encoding::error(whole(answer).await?).await?,
            })
        }
        .await;
        // A good answer that stops in the middle is no good one.
        health.answered(good.map(|good| good && answer.is_ok()));
        answer
    }

    /// Reads the configuration again when what we have does not do: tokens and certificates expire, and
    /// whoever renews them writes their files.
    async fn renew(&self) {
        // Where one waits already, the others go on with what there is, if there is anything.
        let has_some = lock(&self.current).client.is_some();
        let patience = if has_some { CREDENTIALS } else { FIRST };
        let mut making = match self.making.try_lock() {
            Ok(making) => making,
            Err(_) if has_some => return,
            Err(_) => match timeout(patience, self.making.lock()).await {
                Ok(making) => making,
                Err(_) => return,
            },
        };
        {
            let mut current = lock(&self.current);
            if !current.is_due(making.is_some()) {
                return;
            }
            current.read = Instant::now();
        }
        let renewed = async {
            let started = match &mut *making {
                Some(started) => started,
                none => none.insert(connect(self.settings.read().await?)?),
            };
            let made = made(started, patience).await;
            // One that is late stays, also where nobody waits any more.
            making.take_if(|started| started.is_terminated());
            made
        };
        let renewed = renewed.await;
        let mut current = lock(&self.current);
        match renewed {
            Ok(client) => (current.client, current.told) = (Some(client), false),
            Err(error) if !std::mem::replace(&mut current.told, true) => {
                let error = short(&format!("{error:#}"));
                tracing::warn!(error, "cannot get credentials; trying again");
            }
            Err(_) => {}
        }
    }
}

/// An answer with all of its body.
async fn whole(answer: Response<Body>) -> Result<Response<Body>, BoxError> {
    let (parts, body) = answer.into_parts();
    match timeout(WHOLE, body.collect_bytes()).await {
        Ok(bytes) => Ok(Response::from_parts(parts, Body::from(bytes?))),
        Err(_) => {
            let seconds = WHOLE.as_secs();
            Err(format!("an answer began and was not at its end within {seconds} s").into())
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A streamed list must hold what is true when it is asked for, as lists that are read page by page do.
/// The crate asks for one "no older than version 0", which an API server may answer from a cache that is
/// behind: after a change to another server, Services would be gone again, and old endpoints back. Without
/// a version it first waits until its cache is as new as etcd. client-go asks for its first list so, too
/// (<https://kubernetes.io/docs/reference/using-api/api-concepts/#streaming-lists>).
fn ask_for_now(watch: &mut Request<Body>) -> Result<(), BoxError> {
    let uri = watch.uri();
    let query = uri.query().unwrap_or_default();
    if !query.split('&').any(|pair| pair == "sendInitialEvents=true") {
        return Ok(());
    }
    let rest: Vec<_> = query.split('&').filter(|pair| *pair != "resourceVersion=0").collect();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("{}?{}", uri.path(), rest.join("&")).parse()?);
    *watch.uri_mut() = Uri::from_parts(parts)?;
    Ok(())
}

/// Begins to make a client of this configuration. Exec plugins run now: on a thread of its own, which
/// may hang without keeping the agent from its end.
fn connect(config: Config) -> Result<Making> {
    let runtime = tokio::runtime::Handle::current();
    let (tell, making) = oneshot::channel();
    let thread = std::thread::Builder::new().name("credentials".to_owned());
    thread
        .spawn(move || {
            let _entered = runtime.enter();
            // Nobody may wait any more.
            let _ = tell.send(client(config));
        })
        .context("cannot start a thread that makes a client")?;
    Ok(making)
}

/// Waits for a client, but not for ever.
async fn made(making: &mut Making, patience: Duration) -> Result<Client> {
    match timeout(patience, making).await {
        Ok(made) => made.context("the thread that makes a client died")?,
        Err(_) => bail!(
            "credentials are not there within {} s: does the exec plugin of the kubeconfig hang?",
            patience.as_secs(),
        ),
    }
}

fn client(config: Config) -> Result<Client> {
    if config.proxy_url.is_some() {
        return Ok(Client::try_from(config)?);
    }
    // As the crate does it, but for one thing: it would not notice for five minutes that the other side
    // vanished without a word.
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_nodelay(true);
    let (idle, probes, interval) = KEEPALIVE;
    connector.set_keepalive(Some(idle));
    connector.set_keepalive_retries(Some(probes));
    connector.set_keepalive_interval(Some(interval));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}
