//! A client of the API server that renews itself: it reads the configuration again, and requests new
//! credentials, when the current ones expire, are refused or reach no server. The ways to the API server are
//! in `ways` and `dial`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt as _};
use kube::{Client, Config};
use svclb_core::text::short;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tower::{BoxError, ServiceBuilder, service_fn};

use super::dial::Dial;
use super::lock;
use super::plugin::{Plugins, TooEarly};
use super::settings::KubeSettings;
use super::ways::Ways;

/// The time within which an answer must begin.
const ANSWER: Duration = Duration::from_secs(30);
/// The time that a request waits for new credentials where the current ones are not usable.
const CREDENTIALS: Duration = Duration::from_secs(10);
/// The shortest time between two reads of the configuration: where the API server refuses the credentials,
/// and where it cannot be reached.
const REFUSED: Duration = Duration::from_secs(2);
const UNREACHED: Duration = Duration::from_secs(60);

/// A client of the API server that renews itself.
#[derive(Clone)]
pub(super) struct ApiClient {
    pub(super) settings: Arc<KubeSettings>,
    plugins: Plugins,
    current: Arc<Mutex<Current>>,
    /// The ways to the API server.
    pub(super) ways: Ways,
    /// The API server's address, for the log.
    pub(super) server: Arc<str>,
}

struct Current {
    /// `None` while the first credentials are not there.
    client: Option<Client>,
    /// The time at which its credentials have to be renewed, if they expire.
    renewal: Option<Instant>,
    /// The time at which the configuration was last read.
    read: Instant,
    /// Closed when the next client is there, or cannot be made; `None` when none is being made.
    making: Option<watch::Receiver<()>>,
    /// The API server refuses the credentials.
    refused: bool,
    /// It cannot be reached.
    unreached: bool,
    /// An error about new credentials was logged.
    is_logged: bool,
}

impl Current {
    /// Returns true when a new client is needed and may be made.
    fn is_due(&self) -> bool {
        let age = self.read.elapsed();
        let expires = self.renewal.is_some_and(|renewal| renewal <= Instant::now());
        let lacks = self.client.is_none() || self.refused || expires;
        lacks && age >= REFUSED || self.unreached && age >= UNREACHED
    }
}

impl ApiClient {
    /// Reads the configuration. It connects to nothing and waits for no plugin: both may depend on another
    /// server.
    ///
    /// # Errors
    /// When there is no configuration or it cannot be understood.
    pub(super) async fn new(settings: KubeSettings) -> Result<Self> {
        let config = settings.read().await.with_context(|| settings.to_string())?;
        let server = config.cluster_url.to_string().into();
        let api = Self::over(None, settings, server);
        if config.auth_info.exec.is_some() {
            api.begin(&mut lock(&api.current));
        } else {
            let client = client(config, &api.settings, &api.ways);
            let client = client.with_context(|| api.settings.to_string())?;
            lock(&api.current).client = Some(client);
        }
        Ok(api)
    }

    /// Uses this client, if there is one, until its credentials are refused or reach no server.
    pub(super) fn over(client: Option<Client>, settings: KubeSettings, server: Arc<str>) -> Self {
        let current = Current {
            client,
            renewal: None,
            read: Instant::now(),
            making: None,
            refused: false,
            unreached: false,
            is_logged: false,
        };
        Self {
            plugins: Plugins::new(settings.plugins.clone()),
            settings: Arc::new(settings),
            current: Arc::new(Mutex::new(current)),
            ways: Ways::default(),
            server,
        }
    }

    /// Sends a request, with credentials that are renewed where that is due.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
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
        match status {
            Some(status) if status.is_success() => self.plugins.taken(),
            Some(_) => {}
            None => self.ways.unanswered(),
        }
        let mut current = lock(&self.current);
        current.unreached = status.is_none();
        if let Some(status) = status {
            current.refused = status == StatusCode::UNAUTHORIZED;
        }
        answer
    }

    /// Makes a new client where one is due: tokens and certificates expire, and new ones are written to their
    /// files.
    async fn renew(&self) {
        let (mut making, patience) = {
            let mut current = lock(&self.current);
            if current.making.is_none() && current.is_due() {
                self.begin(&mut current);
            }
            let Some(making) = current.making.clone() else { return };
            // A request does not wait while the current credentials work.
            let waits = current.client.is_none() || current.refused || current.unreached;
            (making, if waits { CREDENTIALS } else { Duration::ZERO })
        };
        // An error means that it is closed.
        let _ = timeout(patience, making.changed()).await;
    }

    /// Begins to make another client, one at a time, in a task of its own: a request that stops waiting does
    /// not stop it.
    fn begin(&self, current: &mut Current) {
        let (api, (done, making)) = (self.clone(), watch::channel(()));
        current.read = Instant::now();
        current.making = Some(making);
        let refused = current.refused || current.unreached && self.plugins.gave_certificate();
        tokio::spawn(async move {
            let made = api.make(refused).await;
            let mut current = lock(&api.current);
            current.making = None;
            match made {
                Ok((client, renewal)) => {
                    (current.client, current.renewal) = (Some(client), renewal);
                    (current.refused, current.is_logged) = (false, false);
                }
                Err(error) if error.is::<TooEarly>() => {}
                Err(error) if !std::mem::replace(&mut current.is_logged, true) => {
                    let error = short(&format!("{error:#}"));
                    tracing::warn!(error, "cannot get credentials; trying again");
                }
                Err(_) => {}
            }
            drop(done);
        });
    }

    async fn make(&self, refused: bool) -> Result<(Client, Option<Instant>)> {
        let mut config = self.settings.read().await?;
        let renewal = self.plugins.resolve(&mut config.auth_info, refused).await?;
        Ok((client(config, &self.settings, &self.ways)?, renewal))
    }
}

/// Makes a client of a configuration without an exec plugin.
fn client(mut config: Config, settings: &KubeSettings, ways: &Ways) -> Result<Client> {
    let name = settings.server_name(&config);
    if config.proxy_url.is_some() {
        // The proxy makes the connection, so there is only the way over it.
        if let Some(server) = settings.api_servers.first() {
            config.cluster_url = server.clone();
            config.tls_server_name = Some(name);
        }
        return Ok(Client::try_from(config)?);
    }
    // The layers of kube's own client, over connections of `dial`: those of kube know one way only, and notice
    // a vanished peer after five minutes.
    let dial = Dial::new(&config, ways, settings.given(&config), &name)?;
    let connector = service_fn(move |_: Uri| dial.dial());
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}
