//! A run: the machine, the effort, and the figures.

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
    /// The machine on which it was measured.
    pub(crate) machine: Machine,
    /// Version of svclb.
    #[serde(default)]
    pub(crate) svclb: String,
    /// Version of kube-proxy and of the other components. None if kube-proxy was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kubernetes: Option<String>,
    /// Number of rounds of each bench.
    pub(crate) rounds: u32,
    /// Number of calls of each kind in one round.
    pub(crate) calls: u32,
    /// The figures.
    pub(crate) book: Book,
}

/// The machine, on which the figures depend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Version of the kernel.
    pub(crate) kernel: String,
    /// Model of the first processor.
    pub(crate) processor: String,
    /// Number of processors.
    pub(crate) processors: usize,
    /// Memory, bytes.
    pub(crate) memory: u64,
    /// True if the kernel compiles eBPF programs (bpf_jit_enable).
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
    /// Starts a run without figures on this machine.
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

    /// Returns the text of a stored run.
    pub(crate) fn text(&self) -> anyhow::Result<String> {
        Ok(format!("{}\n", serde_json::to_string_pretty(self)?))
    }

    /// Returns the run as JSON with everything that is not stored: percentiles of the calls of each round, the
    /// values of the turns, and the targets.
    pub(crate) fn raw(&self) -> anyhow::Result<String> {
        let mut run = serde_json::to_value(self)?;
        run["distributions"] = self.book.distributions();
        run["turns"] = self.book.turns();
        run["targets"] = targets::results(&self.book);
        Ok(serde_json::to_string_pretty(&run)?)
    }

    /// Reads a stored run.
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file)
            .with_context(|| format!("cannot read {}: run `cargo xtask bench`", file.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not a stored run", file.display()))
    }
}
