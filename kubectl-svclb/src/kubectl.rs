//! The kubectl that runs, with the flags that select a cluster.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::de::DeserializeOwned;

/// Flags that select a cluster and a user, as those of kubectl.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster, as for kubectl")]
pub(crate) struct Kubectl {
    /// Kubeconfig
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<OsString>,
    /// Context of the kubeconfig
    #[arg(long)]
    context: Option<OsString>,
    /// Cluster of the kubeconfig
    #[arg(long)]
    cluster: Option<OsString>,
    /// User of the kubeconfig
    #[arg(long)]
    user: Option<OsString>,
    /// User to impersonate
    #[arg(long, value_name = "USER", id = "as")]
    impersonated: Option<OsString>,
}

impl Kubectl {
    /// Returns the command line of one of kubectl's commands. Without a namespace, that of the context counts.
    pub(crate) fn command(&self, namespace: Option<&str>, name: &str) -> Command {
        let mut command = Command::new("kubectl");
        command.arg(name);
        let flags = [
            ("--kubeconfig", self.kubeconfig.clone()),
            ("--context", self.context.clone()),
            ("--cluster", self.cluster.clone()),
            ("--user", self.user.clone()),
            ("--as", self.impersonated.clone()),
            ("--namespace", namespace.map(OsString::from)),
        ];
        for (flag, value) in flags {
            let Some(value) = value else { continue };
            // In one word, so that no value is taken for a flag.
            let mut word = OsString::from(flag);
            word.push("=");
            word.push(value);
            command.arg(word);
        }
        command
    }

    /// Gets objects. What kubectl has to say goes to standard error.
    ///
    /// # Errors
    /// kubectl cannot be started, or fails, or its answer cannot be read.
    pub(crate) fn get<T: DeserializeOwned>(
        &self,
        namespace: Option<&str>,
        what: &[&str],
    ) -> Result<T> {
        let mut command = self.command(namespace, "get");
        command.args(["--output", "json"]).args(what).stderr(Stdio::inherit());
        let output = command.output().with_context(|| cannot_start(&command))?;
        if !output.status.success() {
            bail!("`kubectl get {}` failed ({})", what.join(" "), output.status);
        }
        let answer = serde_json::from_slice(&output.stdout);
        answer
            .with_context(|| format!("cannot read the answer of `kubectl get {}`", what.join(" ")))
    }
}

/// The reason when a command cannot be started.
pub(crate) fn cannot_start(command: &Command) -> String {
    format!(
        "cannot start {}: is it installed, in a folder of PATH?",
        command.get_program().display()
    )
}
