//! The parts of an archive.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use svclb_core::compile::name_of;
use svclb_core::table::Table as _;
use svclb_core::text;
use svclb_dataplane::maps::Maps;
use svclb_dataplane::pins::{Pins, lock};

/// The most bytes of a part. A longer JSON is left out, of a longer log the end is there.
const LONGEST: u64 = 16 << 20;
/// The most bytes of the log.
const LONGEST_LOG: u64 = 2 << 20;
/// The most rows of one map.
const ROWS: usize = 10_000;
/// The most time for a command.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a part holds.
pub(super) enum Content {
    Json(Value),
    Text(String),
    /// The reason why it is not there.
    Unread(String),
}

/// A part: its file in the archive, and where it comes from.
pub(super) struct Part {
    pub(super) name: &'static str,
    from: From,
}

enum From {
    /// What a command prints with `-o json`.
    Command(&'static str),
    Version,
    Maps,
    Kernel,
    Log,
}

/// The services come first: their names are known to the redaction of the other parts.
pub(super) const PARTS: [Part; 10] = [
    Part { name: "services.json", from: From::Command("services") },
    Part { name: "backends.json", from: From::Command("backends") },
    Part { name: "sockets.json", from: From::Command("sockets") },
    Part { name: "config.json", from: From::Command("config") },
    Part { name: "status.json", from: From::Command("status") },
    Part { name: "check.json", from: From::Command("check") },
    Part { name: "maps.json", from: From::Maps },
    Part { name: "kernel.txt", from: From::Kernel },
    Part { name: "version.txt", from: From::Version },
    Part { name: "agent.log", from: From::Log },
];

impl Part {
    /// Reads the part.
    ///
    /// # Errors
    /// The reason why it is not there.
    pub(super) fn read(&self, pins: &Pins, deadline: Instant, redact: bool) -> Result<Content> {
        ensure!(Instant::now() < deadline, "left out: the parts before it took too long");
        let deadline = deadline.min(Instant::now() + PATIENCE);
        Ok(match self.from {
            From::Command(name) => {
                let mut command = Command::new("/proc/self/exe");
                command.args([name, "-o", "json", "--pins"]).arg(pins.root());
                Content::Json(serde_json::from_str(&printed(command, deadline)?)?)
            }
            From::Version => Content::Text(format!("svclb {}\n", env!("CARGO_PKG_VERSION"))),
            From::Maps => Content::Json(maps(pins)?),
            From::Kernel => Content::Text(kernel()),
            From::Log if redact => bail!(
                "left out because of --redact: its lines have names that cannot be recognized; read it, and \
                 send it apart"
            ),
            From::Log => Content::Text(log(pins, deadline)?),
        })
    }
}

/// Runs a command, and returns what it prints. Exit code 1 of `check` means that it found something.
fn printed(mut command: Command, deadline: Instant) -> Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot be started")?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let stdout = thread::spawn(move || read(stdout));
    let stderr = thread::spawn(move || read(stderr));
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline || stdout.is_finished() && stderr.is_finished() {
            // One whose output is too long waits for a reader.
            child.kill()?;
            child.wait()?;
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let is_late = Instant::now() > deadline;
    let text = |thread: thread::JoinHandle<Result<String>>| {
        thread.join().unwrap_or_else(|_| bail!("the reader died"))
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    ensure!(!is_late, "did not end in time");
    let stdout = stdout?;
    ensure!(!stdout.is_empty(), "{}", text::line(stderr?.trim_end()));
    Ok(stdout)
}

fn read(from: Option<impl Read>) -> Result<String> {
    let mut bytes = Vec::new();
    from.context("no pipe")?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    ensure!(u64::try_from(bytes.len())? <= LONGEST, "left out: longer than {LONGEST} bytes");
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The rows of the maps, [`ROWS`] of each.
fn maps(pins: &Pins) -> Result<Value> {
    let dump = Maps::read(pins)?.load()?;
    let services = dump.services.iter().take(ROWS).map(|(id, row)| {
        json!({
            "id": id, "namespace": name_of(&row.namespace), "name": name_of(&row.name),
            "port_name": name_of(&row.port_name), "protocol": name_of(&row.protocol),
            "frontends": row.frontends, "internal_backends": row.internal_backends,
            "external_backends": row.external_backends, "notes": row.notes,
        })
    });
    let backends = dump.backends.iter().take(ROWS).map(|(key, row)| {
        json!({
            "service": key.service, "address": key.address.ip(), "port": key.port, "sets": row.sets,
            "state": row.state, "weight": row.weight,
        })
    });
    let frontends = dump.frontends.iter().take(ROWS).map(|(key, row)| {
        json!({
            "address": key.address.ip(), "port": key.port, "protocol": key.protocol, "scope": key.scope,
            "service": row.service, "line": row.line,
        })
    });
    let lines = dump.lines.iter().take(ROWS).map(|(number, line)| {
        json!({
            "line": number, "address": line.address.ip(), "port": line.port, "protocol": line.protocol,
            "scope": line.scope, "service": line.service, "generation": line.generation, "heir": line.heir,
            "flags": line.flags, "reach": line.reach, "affinity_seconds": line.affinity_seconds,
        })
    });
    let ranges = dump.ranges.iter().take(ROWS);
    let ranges = ranges.map(|range| json!({"first": range.first, "count": range.count}));
    Ok(json!({
        "rows_at_most": ROWS,
        "rows": {
            "services": dump.services.len(), "backends": dump.backends.len(),
            "frontends": dump.frontends.len(), "lines": dump.lines.len(), "ranges": dump.ranges.len(),
        },
        "services": services.collect::<Vec<_>>(), "backends": backends.collect::<Vec<_>>(),
        "frontends": frontends.collect::<Vec<_>>(), "lines": lines.collect::<Vec<_>>(),
        "ranges": ranges.collect::<Vec<_>>(),
    }))
}

/// Facts of the kernel, each with the reason where it cannot be read.
fn kernel() -> String {
    const FILES: [&str; 9] = [
        "/proc/version",
        "/proc/self/cgroup",
        "/sys/fs/cgroup/cgroup.controllers",
        "/proc/sys/net/core/bpf_jit_enable",
        "/proc/sys/net/core/bpf_jit_harden",
        "/proc/sys/kernel/unprivileged_bpf_disabled",
        "/sys/kernel/security/lsm",
        "/sys/kernel/security/lockdown",
        "/proc/self/mounts",
    ];
    /// File systems whose mounts concern svclb.
    const KINDS: [&str; 5] = ["bpf", "cgroup", "cgroup2", "securityfs", "tracefs"];
    let mut facts = String::new();
    for path in FILES {
        let read = fs::read_to_string(path).unwrap_or_else(|error| format!("not read: {error}"));
        let is_wanted = |line: &&str| {
            !path.ends_with("mounts")
                || line.split(' ').nth(2).is_some_and(|kind| KINDS.contains(&kind))
        };
        for line in read.lines().filter(is_wanted).take(100) {
            let _ = writeln!(facts, "{path}: {}", text::line(line));
        }
    }
    let btf = "/sys/kernel/btf/vmlinux";
    let _ = match fs::metadata(btf) {
        Ok(data) => writeln!(facts, "{btf}: {} bytes", data.len()),
        Err(error) => writeln!(facts, "{btf}: not read: {error}"),
    };
    facts
}

/// The end of the agent's log: of the file that its standard error is, of the journal, or of the pod's log.
fn log(pins: &Pins, deadline: Instant) -> Result<String> {
    let advice = "add it: `kubectl logs` of the agent's pod, also with --previous, or `journalctl -u` its unit";
    let file = lock::seen_holder(pins).map(|pid| PathBuf::from(format!("/proc/{pid}/fd/2")));
    let file = file.filter(|path| fs::metadata(path).is_ok_and(|data| data.is_file()));
    if let Some(path) = file.or_else(log_of_pod) {
        return tail(&path).with_context(|| format!("cannot read {}; {advice}", path.display()));
    }
    let mut command = Command::new("journalctl");
    command.args(["--no-pager", "--quiet", "--lines=5000", "_COMM=svclb"]);
    let journal = printed(command, deadline);
    journal.map_err(|error| {
        anyhow::anyhow!("the log is in no file, and the journal has none ({error:#}); {advice}")
    })
}

/// The newest log of a pod of svclb's that the kubelet keeps on this node.
fn log_of_pod() -> Option<PathBuf> {
    let folders =
        |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|it| it.path());
    let pods = folders("/var/log/pods".into());
    let pods = pods
        .filter(|pod| pod.file_name().is_some_and(|name| name.to_string_lossy().contains("svclb")));
    let logs = pods.flat_map(folders).flat_map(folders);
    let logs = logs.filter(|path| path.extension().is_some_and(|it| it == "log"));
    logs.max_by_key(|path| fs::metadata(path).and_then(|data| data.modified()).ok())
}

fn tail(path: &Path) -> Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LONGEST_LOG)))?;
    let mut bytes = Vec::new();
    file.take(LONGEST_LOG).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
