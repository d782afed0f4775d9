//! The input and output of an exec plugin: ExecCredential of client.authentication.k8s.io.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use kube::config::{AuthInfo, ExecInteractiveMode};
use serde::Deserialize;
use serde_json::json;
use svclb_core::text::short;
use tokio::process::Command;
use tokio::time::Instant;

use super::guard::CANNOT_START;

/// Credentials are renewed so long before they expire, or at half of their life, if that is later. (kube's
/// client and client-go renew them in the last minute, too.)
const EARLY: Duration = Duration::from_secs(60);

/// A plugin as the kubeconfig names it. It is not `Debug`, since arguments and variables may be secret.
#[derive(Clone, PartialEq, Eq)]
pub(in super::super) struct Plugin {
    command: String,
    arguments: Vec<String>,
    /// Names and values.
    variables: Vec<(String, String)>,
    without: Vec<String>,
    hint: Option<String>,
    /// It inherits standard input and standard error of the agent.
    is_interactive: bool,
}

impl Plugin {
    /// Takes the plugin out of a configuration. One that has a user name, a token or a token file uses no
    /// plugin, as kube's client has it.
    ///
    /// # Errors
    /// When the plugin is not described as it must be.
    pub(in super::super) fn take(auth: &mut AuthInfo) -> Result<Option<Self>> {
        let Some(exec) = auth.exec.take() else { return Ok(None) };
        let has_others = auth.auth_provider.is_some()
            || auth.username.is_some() && auth.password.is_some()
            || auth.token.is_some()
            || auth.token_file.is_some();
        if has_others {
            return Ok(None);
        }
        let command = exec.command.filter(|command| !command.is_empty());
        let command =
            command.context("users[].user.exec.command: expected the exec plugin's program")?;
        // client-go decides it in the same way. A plugin that asks its user something would wait for ever in
        // a daemon.
        let is_interactive = match exec.interactive_mode {
            Some(ExecInteractiveMode::Never) => false,
            Some(ExecInteractiveMode::Always) => true,
            Some(ExecInteractiveMode::IfAvailable) | None => io::stdin().is_terminal(),
        };
        let mut spec = json!({ "interactive": is_interactive });
        if exec.provide_cluster_info {
            let cluster = exec.cluster.context(
                "users[].user.exec.provideClusterInfo: expected a cluster in the kubeconfig",
            )?;
            spec["cluster"] = serde_json::to_value(cluster)?;
        }
        let info =
            json!({ "kind": "ExecCredential", "apiVersion": exec.api_version, "spec": spec });
        let given = exec.env.unwrap_or_default().into_iter();
        let mut variables: Vec<_> = given
            .filter_map(|mut pair| Some((pair.remove("name")?, pair.remove("value")?)))
            .collect();
        variables.push(("KUBERNETES_EXEC_INFO".to_owned(), info.to_string()));
        Ok(Some(Self {
            command,
            arguments: exec.args.unwrap_or_default(),
            variables,
            without: exec.drop_env.unwrap_or_default(),
            hint: exec.install_hint,
            is_interactive,
        }))
    }

    /// Adds the plugin with its arguments and environment to the command that runs it.
    pub(super) fn fill(&self, command: &mut Command) {
        command.arg("--").arg(&self.command).args(&self.arguments);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        for name in &self.without {
            command.env_remove(name);
        }
        if self.is_interactive {
            command.stdin(Stdio::inherit()).stderr(Stdio::inherit());
        } else {
            command.stdin(Stdio::null()).stderr(Stdio::piped());
        }
    }

    /// Returns the message about a failed run.
    pub(super) fn failed(&self, code: Option<i32>, errors: &str) -> String {
        let code =
            code.map_or_else(|| "by a signal".to_owned(), |code| format!("with exit code {code}"));
        let hint = match &self.hint {
            Some(hint) if code.ends_with(&format!(" {CANNOT_START}")) => format!(" ({hint})"),
            _ => String::new(),
        };
        format!("{self} ended {code}: {errors}{hint}")
    }

    /// Reads the output of a run, JSON or YAML.
    ///
    /// # Errors
    /// When it is not an ExecCredential with credentials. The message holds none of its text, which may be
    /// secret.
    pub(super) fn read(&self, output: &[u8]) -> Result<Credential> {
        let read: ExecCredential = serde_saphyr::from_slice(output).map_err(|error| {
            let place = error.location();
            let place = place.map(|it| format!(" (line {}, column {})", it.line(), it.column()));
            let place = place.unwrap_or_default();
            anyhow::anyhow!("{self} printed something else than an ExecCredential{place}")
        })?;
        let status = read.status.with_context(|| format!("{self} gave no status"))?;
        let token = status.token.filter(|token| !token.is_empty());
        let (certificate, key) = (status.client_certificate_data, status.client_key_data);
        ensure!(
            certificate.is_some() == key.is_some(),
            "{self} gave one of clientCertificateData and clientKeyData: expected both"
        );
        let certificate = certificate.zip(key);
        ensure!(
            token.is_some() || certificate.is_some(),
            "{self} gave a status with neither a token nor a client certificate"
        );
        let renewal = status.expiration_timestamp.map(|text| match text.parse::<Timestamp>() {
            Ok(at) => Ok(Instant::now() + renewal(SystemTime::from(at))),
            Err(_) => {
                bail!("{self} gave expirationTimestamp {:?}: expected RFC 3339", short(&text))
            }
        });
        let renewal = renewal.transpose()?;
        Ok(Credential { token, certificate, renewal })
    }
}

impl fmt::Display for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the exec plugin {:?} of the kubeconfig", self.command)
    }
}

/// Returns the time from now until credentials that expire at this time are renewed.
fn renewal(expires: SystemTime) -> Duration {
    let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
    left - EARLY.min(left / 2)
}

#[derive(Deserialize)]
struct ExecCredential {
    status: Option<CredentialStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CredentialStatus {
    expiration_timestamp: Option<String>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

/// The credentials that a plugin printed.
#[derive(Clone)]
pub(super) struct Credential {
    token: Option<String>,
    /// Certificate and key, PEM.
    certificate: Option<(String, String)>,
    /// The time at which they have to be renewed; `None` if only after a refusal.
    renewal: Option<Instant>,
}

impl Credential {
    /// Returns true when they have to be renewed.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.renewal.is_some_and(|renewal| renewal <= now)
    }

    /// Puts them into a configuration. Returns the time at which they have to be renewed.
    pub(super) fn give(self, auth: &mut AuthInfo) -> Option<Instant> {
        auth.token = self.token.map(Into::into);
        if let Some((certificate, key)) = self.certificate {
            (auth.client_certificate, auth.client_key) = (None, None);
            auth.client_certificate_data = Some(BASE64_STANDARD.encode(certificate));
            // kube's client joins the two texts.
            auth.client_key_data = Some(BASE64_STANDARD.encode(key + "\n").into());
        }
        self.renewal
    }

    pub(super) const fn has_certificate(&self) -> bool {
        self.certificate.is_some()
    }
}

#[cfg(test)]
mod tests {
    use kube::config::ExecConfig;

    use super::*;

    fn plugin() -> Plugin {
        let exec = ExecConfig { command: Some("login".to_owned()), ..ExecConfig::default() };
        Plugin::take(&mut AuthInfo { exec: Some(exec), ..AuthInfo::default() }).unwrap().unwrap()
    }

    #[test]
    fn token_and_certificate_replace_the_plugin() {
        let output = br#"{"status": {"token": "it", "clientCertificateData": "CERTIFICATE",
            "clientKeyData": "KEY", "expirationTimestamp": "2001-01-01T00:00:00Z"}}"#;
        let given = plugin().read(output).unwrap();
        assert!(given.has_certificate() && given.is_due(Instant::now()));
        let file = Some("other.pem".to_owned());
        let mut auth = AuthInfo { client_certificate: file, ..AuthInfo::default() };
        assert!(given.give(&mut auth).is_some());
        let written = serde_json::to_value(&auth).unwrap();
        let certificate = BASE64_STANDARD.encode("CERTIFICATE");
        let key = BASE64_STANDARD.encode("KEY\n");
        let expected = json!({
            "token": "it", "client-certificate-data": certificate, "client-key-data": key,
        });
        assert_eq!(written, expected);
    }

    #[test]
    fn output_without_credentials_is_an_error_that_repeats_no_secret() {
        let rows = [
            ("", "no status"),
            ("{\"status\": {\"token\": [\"secret\"]}}", "something else than an ExecCredential"),
            ("token: secret: {", "something else than an ExecCredential"),
            ("{\"status\": {\"token\": \"\"}}", "neither a token nor a client certificate"),
            ("{\"status\": {\"clientKeyData\": \"secret\"}}", "expected both"),
            (
                "{\"status\": {\"token\": \"secret\", \"expirationTimestamp\": \"soon\"}}",
                "RFC 3339",
            ),
        ];
        for (output, words) in rows {
            let error = format!("{:#}", plugin().read(output.as_bytes()).err().unwrap());
            assert!(error.contains(words), "{output}: {error}");
            assert!(error.contains("the exec plugin \"login\""), "{error}");
            assert!(!error.contains("secret"), "{output}: {error}");
        }
    }

    #[test]
    fn credentials_are_renewed_a_minute_before_they_expire_or_at_half_of_a_short_life() {
        for (left, expected) in [(3600, 3540), (120, 60), (60, 30), (0, 0)] {
            let renewal = renewal(SystemTime::now() + Duration::from_secs(left));
            let expected = Duration::from_secs(expected);
            assert!(renewal.abs_diff(expected) < Duration::from_secs(1), "{left}: {renewal:?}");
        }
        assert_eq!(renewal(SystemTime::UNIX_EPOCH), Duration::ZERO);
    }

    #[test]
    fn plugin_beside_a_token_of_the_kubeconfig_is_not_run() {
        let exec = ExecConfig { command: Some("login".to_owned()), ..ExecConfig::default() };
        let token = Some("it".to_owned().into());
        let mut auth = AuthInfo { exec: Some(exec), token, ..AuthInfo::default() };
        assert!(Plugin::take(&mut auth).unwrap().is_none() && auth.exec.is_none());
    }
}
