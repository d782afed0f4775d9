//! A run: the machine, how much was measured, and all that came of it.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::benches::Effort;
use crate::book::Book;
use crate::targets;

/// A run, as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Where.
    pub(crate) machine: Machine,
    /// Version of svclb.
    #[serde(default)]
    pub(crate) svclb: String,
    /// What kube-proxy says of its version, as all of the cluster; nothing where a run had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kubernetes: Option<String>,
    /// Rounds of each bench.
    pub(crate) rounds: u32,
    /// Calls of a kind in one round.
    pub(crate) calls: u32,
    /// What came of it.
    pub(crate) book: Book,
}

/// What the figures depend on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Version of the kernel.
    pub(crate) kernel: String,
    /// Model of the first processor.
    pub(crate) processor: String,
    /// How many processors.
    pub(crate) processors: usize,
    /// Memory, bytes.
    pub(crate) memory: u64,
    /// Whether the kernel compiles programs (bpf_jit_enable).
    #[serde(default)]
    pub(crate) jit: bool,
}

impl Machine {
    fn this() -> anyhow::Result<Self> {
        let read =
            |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let processors = read("/proc/cpuinfo")?;
        let value = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
                .unwrap_or_default()
        };
        let memory = value(&read("/proc/meminfo")?, "MemTotal");
        let kilobytes: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            processor: value(&processors, "model name"),
            processors: processors.lines().filter(|line| line.starts_with("processor")).count(),
            memory: kilobytes * 1_024,
            jit: read("/proc/sys/net/core/bpf_jit_enable")?.trim() != "0",
        })
    }
}

impl Run {
    /// Nothing is measured yet.
    pub(crate) fn begin(effort: Effort) -> anyhow::Result<Self> {
        let Effort { rounds, calls } = effort;
        Ok(Self {
            machine: Machine::this()?,
            svclb: env!("CARGO_PKG_VERSION").to_owned(),
            kubernetes: None,
            rounds,
            calls,
            book: Book::default(),
        })
    }

    /// As it is stored.
    pub(crate) fn text(&self) -> anyhow::Result<String> {
        Ok(format!("{}\n", serde_json::to_string_pretty(self)?))
    }

    /// With all that is not stored: percentiles of the calls of each round, what each turn came to, and
    /// the targets.
    pub(crate) fn raw(&self) -> anyhow::Result<String> {
        let mut run = serde_json::to_value(self)?;
        run["distributions"] = self.book.distributions();
        run["turns"] = self.book.turns();
        run["targets"] = targets::judged(&self.book);
        Ok(serde_json::to_string_pretty(&run)?)
    }

    /// Reads a stored one.
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file)
            .with_context(|| format!("cannot read {}: run `cargo xtask bench`", file.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not as a run is stored", file.display()))
    }
}
