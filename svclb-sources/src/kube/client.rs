//! Requests to the API server: configuration, credentials that are renewed, and requests that are not repeated
//! faster than is good for a server in trouble. How it is reached is in `ways` and `dial`.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpInfo;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt as _};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use svclb_core::budget::Budget;
use svclb_core::text::short;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tower::{BoxError, ServiceBuilder, service_fn};

use super::dial::{CONNECT, Dial};
use super::encoding::{self, Encoding, Lines};
use super::health::Health;
use super::plugin::{Limits, Plugin, Plugins, TooEarly};
use super::ways::Ways;

/// How long an answer may take to begin, and one that is no watch to be there.
const ANSWER: Duration = Duration::from_secs(30);
const WHOLE: Duration = Duration::from_secs(60);
/// How long a request waits for credentials where the ones that there are do not do: less than a list may
/// stand still (`feed::STALL`), also twice.
const CREDENTIALS: Duration = Duration::from_secs(10);
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
    /// Further ways to the API server, in the order in which they are tried. Its certificate must be good
    /// for the name that the configuration has.
    pub api_servers: Vec<Uri>,
    /// How exec plugins of a kubeconfig are run.
    pub plugins: Limits,
    /// How long a watch may be silent before all is listed; up to twice as long by chance.
    pub silence: Duration,
    /// The memory of objects: of all, and of those of one namespace.
    pub budget: Budget,
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
        check(&config.auth_info)?;
        config.connect_timeout = Some(CONNECT);
        Ok(config)
    }

    /// The name that certificates of API servers must be good for, whatever their address.
    fn server_name(&self, config: &Config) -> String {
        let host = match &self.kubeconfig {
            Some(_) => config.cluster_url.host().map(|host| host.trim_matches(['[', ']'])),
            None => None,
        };
        let name = config.tls_server_name.as_deref().or(host);
        name.unwrap_or(SERVER_NAME).to_owned()
    }

    /// The further ways.
    fn given(&self, config: &Config) -> Vec<Uri> {
        let given = self.api_servers.iter().filter(|server| **server != config.cluster_url);
        given.cloned().collect()
    }

    fn in_cluster(&self) -> Result<Config> {
        let in_cluster = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        ensure!(
            in_cluster || !self.api_servers.is_empty(),
            "this is no pod of a cluster (KUBERNETES_SERVICE_HOST is not set): say where Services come \
             from, by --from PATH or --kubeconfig FILE"
        );
        let config = if in_cluster { Config::incluster_env() } else { Config::incluster_dns() };
        let mut config = config.context(
            "cannot read what a cluster gives its pods: is the service account mounted?",
        )?;
        if let Some(server) = self.api_servers.first().filter(|_| !in_cluster) {
            config.cluster_url = server.clone();
            config.tls_server_name = Some(SERVER_NAME.to_owned());
        }
        Ok(config)
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

/// Refuses what would run outside of the agent's limits, and what no plugin can be.
fn check(auth: &AuthInfo) -> Result<()> {
    Plugin::take(&mut auth.clone())?;
    let command = auth.auth_provider.as_ref().and_then(|it| it.config.get("cmd-path"));
    if let Some(command) = command {
        bail!(
            "users[].user.auth-provider.config.cmd-path: {command:?} is not run (kubectl runs no such \
             command since 1.26, either): name an exec plugin in users[].user.exec"
        );
    }
    Ok(())
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
    plugins: Plugins,
    current: Arc<Mutex<Current>>,
    ways: Ways,
    /// For the log.
    server: Arc<str>,
}

struct Current {
    /// None, while the first credentials are not there.
    client: Option<Client>,
    /// When its credentials are to be renewed, if they expire.
    renewal: Option<Instant>,
    read: Instant,
    /// Its successor is being made; closed when that came to its end.
    making: Option<watch::Receiver<()>>,
    /// The API server does not take our credentials.
    refused: bool,
    /// It cannot be reached.
    unreached: bool,
    /// That there are no new credentials was told.
    told: bool,
}

impl Current {
    /// Whether what there is does not do, and something else may be had.
    fn is_due(&self) -> bool {
        let age = self.read.elapsed();
        let expires = self.renewal.is_some_and(|renewal| renewal <= Instant::now());
        let lacks = self.client.is_none() || self.refused || expires;
        lacks && age >= REFUSED || self.unreached && age >= UNREACHED
    }
}

/// A client and when its credentials are to be renewed, if they expire.
type Made = (Client, Option<Instant>);

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
        let link = Self::with(None, settings, server);
        if config.auth_info.exec.is_some() {
            link.begin(&mut lock(&link.current));
        } else {
            let client = client(config, &link.settings, &link.ways);
            let client = client.with_context(|| link.settings.to_string())?;
            lock(&link.current).client = Some(client);
        }
        Ok(link)
    }

    /// Uses a client, until what it has does not do.
    #[cfg(test)]
    pub(super) fn over(client: Client, settings: Settings, server: Arc<str>) -> Self {
        Self::with(Some(client), settings, server)
    }

    fn with(client: Option<Client>, settings: Settings, server: Arc<str>) -> Self {
        let current = Current {
            client,
            renewal: None,
            read: Instant::now(),
            making: None,
            refused: false,
            unreached: false,
            told: false,
        };
        Self {
            plugins: Plugins::new(settings.plugins.clone()),
            settings: Arc::new(settings),
            current: Arc::new(Mutex::new(current)),
            ways: Ways::default(),
            server,
        }
    }

    /// What is known of the ways to the API server.
    pub(super) const fn ways(&self) -> &Ways {
        &self.ways
    }

    /// Where the API server is.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    /// How long a watch may be silent.
    pub(super) fn silence(&self) -> Duration {
        self.settings.silence
    }

    /// The memory of objects.
    pub(super) fn budget(&self) -> &Budget {
        &self.settings.budget
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
        match &answer {
            Ok(answer) if good == Some(true) => {
                let peer = answer.extensions().get::<HttpInfo>().map(HttpInfo::remote_addr);
                health.answered_by(peer.map(|peer| (peer, self.ways.kind_of(peer))));
            }
            Ok(_) => {}
            Err(_) => self.ways.unanswered(),
        }
        {
            let mut current = lock(&self.current);
            current.unreached = status.is_none();
            if let Some(status) = status {
                current.refused = status == StatusCode::UNAUTHORIZED;
            }
        }
        if good == Some(true) {
            self.plugins.taken();
        }
        let answer = async {
            let answer = answer?;
            Ok(match good {
                Some(true) if watch => encoding.good(answer, health),
                Some(true) => encoding.good(whole(answer).await?, health),
                _ => encoding::error(whole(answer).await?).await?,
            })
        }
        .await;
        // A good answer that stops in the middle is no good one.
        health.answered(good.map(|good| good && answer.is_ok()));
        answer
    }

    /// Reads the configuration again when what we have does not do: tokens and certificates expire, and
    /// whatever renews them writes their files.
    async fn renew(&self) {
        let (mut making, patience) = {
            let mut current = lock(&self.current);
            if current.making.is_none() && current.is_due() {
                self.begin(&mut current);
            }
            let Some(making) = current.making.clone() else { return };
            // With credentials that do, if only for a while, a request goes on meanwhile.
            let waits = current.client.is_none() || current.refused || current.unreached;
            (making, if waits { CREDENTIALS } else { Duration::ZERO })
        };
        // An error says that it is closed.
        let _ = timeout(patience, making.changed()).await;
    }

    /// Begins to make another client, with all that may take long: a request waits for it with patience, and
    /// it goes on without. One at a time.
    fn begin(&self, current: &mut Current) {
        let (link, (done, making)) = (self.clone(), watch::channel(()));
        current.read = Instant::now();
        current.making = Some(making);
        let refused = current.refused || current.unreached && self.plugins.gave_certificate();
        tokio::spawn(async move {
            let made = link.make(refused).await;
            let mut current = lock(&link.current);
            current.making = None;
            match made {
                Ok((client, renewal)) => {
                    (current.client, current.renewal) = (Some(client), renewal);
                    (current.refused, current.told) = (false, false);
                }
                Err(error) if error.is::<TooEarly>() => {}
                Err(error) if !std::mem::replace(&mut current.told, true) => {
                    let error = short(&format!("{error:#}"));
                    tracing::warn!(error, "cannot get credentials; trying again");
                }
                Err(_) => {}
            }
            drop(done);
        });
    }

    async fn make(&self, refused: bool) -> Result<Made> {
        let mut config = self.settings.read().await?;
        let renewal = self.plugins.resolve(&mut config.auth_info, refused).await?;
        Ok((client(config, &self.settings, &self.ways)?, renewal))
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

/// A client of a configuration without an exec plugin.
fn client(mut config: Config, settings: &Settings, ways: &Ways) -> Result<Client> {
    let name = settings.server_name(&config);
    if config.proxy_url.is_some() {
        // The proxy makes the connection: there is one way, and it is the proxy's.
        if let Some(server) = settings.api_servers.first() {
            config.cluster_url = server.clone();
            config.tls_server_name = Some(name);
        }
        return Ok(Client::try_from(config)?);
    }
    // As the crate does it, but for the ways, and for one thing: it would not notice for five minutes that
    // the other side vanished without a word.
    let connector = Dial::new(&config, ways, settings.given(&config), &name)?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}
