//! Exec plugins of a kubeconfig: programs that give credentials
//! (<https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins>).
//! kube's client would run one by itself, on a thread that a hanging plugin occupies for ever. So the agent
//! runs it, and kube's client gets a configuration with a token or a certificate and without a plugin.
//!
//! * One run at a time, as long as [`PluginLimits`] allow; `guard` ends it with all processes that it started.
//! * The delay before the next run grows with each run, until the API server accepts its credentials.
//! * Credentials stay in use until they expire or are refused.
//!
//! `credential`: the input and output of a plugin.

mod credential;
pub mod guard;

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kube::config::AuthInfo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use svclb_core::text::short;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use super::lock;
use super::timing::Backoff;
use credential::Credential;
pub(super) use credential::Plugin;

/// The most bytes that a plugin may print: certificates are some kilobytes.
const OUTPUT: u64 = 1 << 20;
/// The time in which killed processes end, unless they are in an uninterruptible sleep.
const ENDING: Duration = Duration::from_secs(5);

/// The limits within which plugins are run.
#[derive(Clone, Debug)]
pub struct PluginLimits {
    /// The program `svclb`, which guards them.
    pub guard: PathBuf,
    /// The longest time of one run.
    pub deadline: Duration,
    /// The shortest and the longest delay between the ends of two runs; each is up to twice as long at
    /// random, so that the nodes of a cluster do not all run it at once.
    pub backoff: (Duration, Duration),
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self {
            // Also after the program was replaced by another version.
            guard: "/proc/self/exe".into(),
            deadline: Duration::from_secs(30),
            backoff: (Duration::from_secs(1), Duration::from_secs(300)),
        }
    }
}

/// The delay since the last run is not over.
#[derive(Debug, thiserror::Error)]
#[error("the exec plugin ran a moment ago")]
pub(super) struct TooEarly;

/// Runs plugins, and keeps the credentials of the last run.
#[derive(Clone)]
pub(super) struct Plugins(Arc<Mutex<PluginState>>);

struct PluginState {
    limits: PluginLimits,
    /// The plugin that ran last.
    plugin: Option<Plugin>,
    given: Option<Credential>,
    backoff: Backoff,
    /// The earliest time of the next run.
    next: Instant,
    /// A run whose processes could not be ended.
    stuck: Option<Child>,
}

impl Plugins {
    pub(super) fn new(limits: PluginLimits) -> Self {
        let (shortest, longest) = limits.backoff;
        let backoff = Backoff::new(shortest, longest);
        let next = Instant::now();
        let state = PluginState { limits, plugin: None, given: None, backoff, next, stuck: None };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Replaces a configuration's plugin, if it has one, by credentials: the current ones, unless they are
    /// `refused` or expire soon, or else new ones. Returns the time at which they have to be renewed. Must
    /// not be called again before the last call's end.
    ///
    /// # Errors
    /// The plugin gives no credentials; or [`TooEarly`].
    pub(super) async fn resolve(
        &self,
        auth: &mut AuthInfo,
        refused: bool,
    ) -> Result<Option<Instant>> {
        let Some(plugin) = Plugin::take(auth)? else { return Ok(None) };
        if let Some(given) = lock(&self.0).before(&plugin, refused)? {
            return Ok(given.give(auth));
        }
        let ran = self.run(&plugin).await;
        let mut state = lock(&self.0);
        let delay = state.backoff.next();
        state.next = Instant::now() + delay;
        let given = ran?;
        state.given = Some(given.clone());
        Ok(given.give(auth))
    }

    /// Returns true when a certificate is in use. A server that refuses it ends the connection without an
    /// HTTP answer, so it looks unreachable.
    pub(super) fn gave_certificate(&self) -> bool {
        lock(&self.0).given.as_ref().is_some_and(Credential::has_certificate)
    }

    /// Records that the API server accepted the credentials: the next delay is the shortest again.
    pub(super) fn taken(&self) {
        let mut state = lock(&self.0);
        if state.given.is_some() {
            state.backoff.reset();
        }
    }

    async fn run(&self, plugin: &Plugin) -> Result<Credential> {
        let limits = lock(&self.0).limits.clone();
        let mut command = Command::new(&limits.guard);
        command.arg0("svclb").arg(guard::NAME).arg(std::process::id().to_string());
        plugin.fill(&mut command);
        command.stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| {
            format!("cannot start {}, which runs {plugin}", limits.guard.display())
        })?;
        match timeout(limits.deadline, outcome(&mut child)).await {
            Ok(Ok(Output { status, stdout, stderr })) => {
                let errors = short(&String::from_utf8_lossy(&stderr));
                ensure!(status.success(), "{}", plugin.failed(status.code(), &errors));
                plugin.read(&stdout)
            }
            Ok(Err(error)) => {
                self.end(child).await;
                Err(error).with_context(|| format!("{plugin} was ended"))
            }
            Err(_) => {
                self.end(child).await;
                let seconds = limits.deadline.as_secs_f32();
                bail!(
                    "{plugin} gave no credentials within {seconds} s and was ended, with all processes \
                     that it started; run it by hand, as the agent's user, to see what it waits for"
                )
            }
        }
    }

    /// Ends a run with all of its processes.
    async fn end(&self, mut child: Child) {
        // It was not waited for, so the process id is still its own.
        if let Some(process) = child.id() {
            let _ = kill(Pid::from_raw(process.cast_signed()), Signal::SIGTERM);
        }
        if timeout(ENDING, child.wait()).await.is_err() {
            lock(&self.0).stuck = Some(child);
        }
    }
}

impl PluginState {
    /// Returns the credentials of the plugin's last run, if they are still usable; `None` when it must run
    /// now.
    fn before(&mut self, plugin: &Plugin, refused: bool) -> Result<Option<Credential>> {
        let now = Instant::now();
        if self.plugin.as_ref() != Some(plugin) {
            self.plugin = Some(plugin.clone());
            (self.given, self.next) = (None, now);
            self.backoff.reset();
        }
        if refused || self.given.as_ref().is_some_and(|given| given.is_due(now)) {
            self.given = None;
        }
        if self.given.is_some() {
            return Ok(self.given.clone());
        }
        if now < self.next {
            return Err(TooEarly.into());
        }
        if let Some(stuck) = &mut self.stuck {
            let is_gone = stuck.try_wait().map_or(true, |status| status.is_some());
            ensure!(
                is_gone,
                "{plugin} is not run again before the processes of its last run are gone: they cannot be \
                 killed, which the kernel allows while they wait for a disk or a file server"
            );
            self.stuck = None;
        }
        Ok(None)
    }
}

/// Waits for the end of a run.
async fn outcome(child: &mut Child) -> Result<Output> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = tokio::try_join!(all(stdout), all(stderr))?;
    let status = child.wait().await.context("cannot wait for it")?;
    Ok(Output { status, stdout, stderr })
}

async fn all(output: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let Some(output) = output else { return Ok(all) };
    output.take(OUTPUT + 1).read_to_end(&mut all).await.context("cannot read what it printed")?;
    let is_short = u64::try_from(all.len()).is_ok_and(|length| length <= OUTPUT);
    ensure!(is_short, "it printed more than {OUTPUT} bytes, and is to print one ExecCredential");
    Ok(all)
}
