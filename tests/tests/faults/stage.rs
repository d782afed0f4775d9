//! The set-up of the tests with failing calls.

use std::collections::BTreeSet;
use std::time::Duration;

use svclb_tests::{Backend, Builder, Call, Faults, ServiceBuilder, Tcp, World, eventually, within};

pub(crate) const DIALLED: &str = "10.96.0.10:80";

/// A world whose agent's calls can be made to fail, with a Service at [`DIALLED`] and backends for
/// others.
pub(crate) struct Stage {
    pub(crate) faults: Faults,
    pub(crate) pool: Vec<Backend>,
    // Dropped after what belongs to it.
    pub(crate) world: World,
}

impl Stage {
    pub(crate) fn new(name: &str) -> Self {
        Self::of(World::builder(name))
    }

    pub(crate) fn of(world: Builder) -> Self {
        let world = world.without_agent().start();
        let pool = world.backends("b", Tcp, 4);
        let stage = Self { faults: Faults::new(), pool, world };
        stage.service("stays", "10.96.0.10").backends(&stage.pool[..2]).write();
        stage
    }

    pub(crate) fn started(name: &str) -> Self {
        let stage = Self::new(name);
        stage.start();
        stage.world.settle();
        stage
    }

    pub(crate) fn start(&self) {
        self.world.start_agent_with_faults(Some(&self.faults));
    }

    /// The number of failed steps, as `svclb status` shows it.
    pub(crate) fn failures(&self) -> u64 {
        let status = self.world.status();
        status["failures"].as_u64().unwrap_or_else(|| panic!("no failures in {status}"))
    }

    pub(crate) fn service(&self, name: &str, ip: &str) -> ServiceBuilder<'_> {
        self.world.service(&format!("default/{name}")).cluster_ip(ip).port(80, Tcp)
    }

    /// The names of the backends that answer 20 connections to an address.
    pub(crate) fn answers(&self, dialled: &str) -> BTreeSet<String> {
        (0..20).map(|_| self.world.request(Tcp, dialled).unwrap()).collect()
    }

    /// Waits until this many calls have failed.
    pub(crate) fn wait_for_failures(&self, count: usize) -> Vec<Call> {
        eventually(&format!("{count} calls failed"), || match self.faults.failed() {
            failed if failed.len() >= count => Ok(failed),
            failed => Err(format!("{} failed; the log:\n{}", failed.len(), self.world.agent_log())),
        })
    }

    /// Waits until there were this many waits before retries, and returns them.
    pub(crate) fn wait_for_waits(
        &self,
        count: usize,
        between: impl Fn(&[Call]) -> Vec<Duration>,
    ) -> Vec<Duration> {
        let waited = within(Duration::from_secs(120), || match between(&self.faults.calls()) {
            waits if waits.len() >= count => Ok(waits),
            waits => Err(format!("{waits:?}; the log:\n{}", self.world.agent_log())),
        });
        waited.unwrap_or_else(|last| panic!("expected {count} waits between retries: {last}"))
    }

    /// Runs `task` and asserts that no connect to the Service at [`DIALLED`] fails meanwhile.
    pub(crate) fn uninterrupted<R>(&self, task: impl FnOnce() -> R) -> R {
        let (rounds, result) = self.world.assert_uninterrupted(Tcp, DIALLED, &["b-0", "b-1"], task);
        assert!(rounds > 0, "the client must have connected");
        result
    }
}
