//! Configuration of the connection to the API server: a kubeconfig, or the service account of a pod.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http::Uri;
use kube::Config;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use svclb_core::budget::Budget;

use super::dial::CONNECT;
use super::plugin::{Plugin, PluginLimits};

/// A name that API servers' certificates are made out to, whatever their address.
const SERVER_NAME: &str = "kubernetes.default.svc";

/// The address of the API server, the credentials for it, and limits.
#[derive(Clone, Debug)]
pub struct KubeSettings {
    /// A kubeconfig file; otherwise the configuration of a pod is used.
    pub kubeconfig: Option<PathBuf>,
    /// Further ways to the API server, in the order in which they are tried. Its certificate must be good
    /// for the name that the configuration has.
    pub api_servers: Vec<Uri>,
    /// The limits of exec plugins of a kubeconfig.
    pub plugins: PluginLimits,
    /// Time that a watch may be silent before all is listed; up to twice as long at random.
    pub silence: Duration,
    /// The memory for objects: of all, and of one namespace.
    pub budget: Budget,
}

impl KubeSettings {
    /// Reads the configuration as it is now.
    pub(super) async fn read(&self) -> Result<Config> {
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

    /// Returns the name that certificates of API servers must be good for, whatever their address.
    pub(super) fn server_name(&self, config: &Config) -> String {
        let host = config.cluster_url.host().filter(|_| self.kubeconfig.is_some());
        let host = host.map(|host| host.trim_matches(['[', ']']));
        let name = config.tls_server_name.as_deref().or(host);
        name.unwrap_or(SERVER_NAME).to_owned()
    }

    /// Returns the further ways.
    pub(super) fn given(&self, config: &Config) -> Vec<Uri> {
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
        let mut config =
            config.context("cannot read the service account of this pod: is it mounted?")?;
        if let Some(server) = self.api_servers.first().filter(|_| !in_cluster) {
            config.cluster_url = server.clone();
            config.tls_server_name = Some(SERVER_NAME.to_owned());
        }
        Ok(config)
    }
}

/// Replaces a token file that ends in a newline, which no header can hold, by its token. (kube reads a file
/// without a newline again and again; this one is read again when the token is refused.)
fn trim(auth: &mut AuthInfo) {
    let Some(file) = auth.token_file.as_ref().filter(|_| auth.token.is_none()) else { return };
    if let Ok(token) = std::fs::read_to_string(file)
        && token.trim() != token
    {
        auth.token = Some(token.trim().into());
    }
}

/// Refuses a command that would run outside of the agent's limits, and a plugin without a program.
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

impl fmt::Display for KubeSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kubeconfig {
            Some(path) => write!(f, "kubeconfig {}", path.display()),
            None => f.write_str("in-cluster configuration"),
        }
    }
}
