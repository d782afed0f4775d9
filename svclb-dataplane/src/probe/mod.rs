//! The probe: a connect of the agent's own that proves translation before the agent is ready.
//!
//! For its time the maps hold a service of the agent's: `192.0.2.1:9/UDP` (TEST-NET-1, RFC 5737, and
//! the discard port, RFC 863) with the backend `127.0.0.1:9`. This process, or else a child in the
//! cgroup that is served, connects a UDP socket to it, which sends no packet, and looks which local
//! address the kernel chose: 127.0.0.1 when the connect was translated, and any other, or an error, when
//! it was not.
//!
//! * [`trial`]: a connect to a Service that exists, which leaves no trace.

pub mod trial;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use svclb_core::model::{
    Endpoint, ObjectName, Protocol, Service, ServicePort, Slice, SlicePort, Update,
};

use crate::node::cgroups;

/// The subcommand, hidden, that runs in the child.
pub const CLIENT: &str = "probe-client";
/// Begins the name of a probe's cgroup; the number of the process follows.
const HOME: &str = "svclb-probe-";
const DIALLED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);
const GIVEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

/// The Service object of the agent's. No namespace of a cluster has a dot in its name.
pub fn name() -> ObjectName {
    ObjectName::new("svclb.probe", "probe")
}

/// The updates that make the agent's service.
pub fn appear() -> Vec<Update> {
    let service = Service {
        cluster_ips: vec![DIALLED.ip()],
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Udp,
            port: DIALLED.port(),
            node_port: None,
        }],
        // The oldest of all: another claimant of its address waits for the moment that the probe takes.
        created: Some(i64::MIN),
        ..Service::default()
    };
    let slice = Slice {
        service: name(),
        ports: [SlicePort { name: "".into(), protocol: Protocol::Udp, port: GIVEN.port() }].into(),
        endpoints: [(GIVEN.ip(), Endpoint::default())].into_iter().collect(),
        triggered: None,
        omitted: None,
        notes: 0,
    };
    vec![Update::Service(name(), Some(service)), Update::Slice(name(), Some(slice))]
}

/// The updates that remove it.
pub fn vanish() -> Vec<Update> {
    vec![Update::Service(name(), None), Update::Slice(name(), None)]
}

/// Connects from inside the cgroup, and logs a warning about processes that it does not serve.
///
/// # Errors
/// When the connect was not translated, or could not be tried.
pub fn run(cgroup: &Path) -> Result<()> {
    Home::clear(cgroup);
    connect(cgroup)?;
    match cgroups::warning(cgroup) {
        Ok(None) => {}
        Ok(Some(why)) => {
            tracing::warn!(cgroup = %cgroup.display(), "not every process may be served: {why}");
        }
        Err(error) => tracing::warn!("cannot tell which processes are served: {error:#}"),
    }
    Ok(())
}

fn connect(cgroup: &Path) -> Result<()> {
    // Mostly this process is in the cgroup, and in a pod it may not leave its own: the kernel forbids
    // it (nsdelegate), and the node's cgroups are mounted read-only.
    if client() == GIVEN.ip().to_string() {
        return Ok(());
    }
    ask_inside(cgroup, None, |said| {
        ensure!(
            said == GIVEN.ip().to_string(),
            "the hooks are attached to {} but a connect there is not translated (the probe said \
             {said:?}): another program on the same hooks may undo it; see `bpftool cgroup tree`",
            cgroup.display(),
        );
        Ok(())
    })
}

/// Starts a child in the cgroup, which dials this address, or else the agent's own Service. Gives the line
/// that it prints to `see`; a child that dialled an address keeps its socket until then.
fn ask_inside<T>(
    cgroup: &Path,
    dialled: Option<SocketAddr>,
    see: impl FnOnce(&str) -> Result<T>,
) -> Result<T> {
    // A cgroup of its own: one with controllers below it may hold no process itself.
    let home = Home::make(cgroup)?;
    let mut command = home.command();
    command.args(dialled.map(|it| it.to_string()));
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start the probe in the cgroup {}", home.0.display()))?;
    let mut line = String::new();
    let output = child.stdout.take().context("a child has an output")?;
    let read = BufReader::new(output).read_line(&mut line);
    let seen = read.context("cannot read what the probe said").and_then(|_| see(line.trim()));
    // It waits for the end of its input.
    drop(child.stdin.take());
    child.wait().context("cannot wait for the probe")?;
    seen
}

/// The child's part: prints the local address of its connect, or the error.
pub fn client() -> String {
    let local = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect(DIALLED)?;
        socket.local_addr()
    });
    match local {
        Ok(local) => local.ip().to_string(),
        Err(error) => error.to_string(),
    }
}

/// A cgroup that is removed when the probe is done.
#[derive(Debug)]
struct Home(PathBuf);

impl Home {
    /// Makes one below a cgroup, which with controllers may hold no process itself.
    fn make(cgroup: &Path) -> Result<Self> {
        let path = cgroup.join(format!("{HOME}{}", std::process::id()));
        // A process of the same number that was killed: in a container it is always the same.
        let _ = fs::remove_dir(&path);
        fs::create_dir(&path).with_context(|| {
            format!(
                "cannot make the cgroup {} for the probe: is cgroup2 mounted read-only?",
                path.display()
            )
        })?;
        Ok(Self(path))
    }

    /// Removes what processes left that were killed while they probed. What cannot be removed is
    /// either in use, which the kernel knows best, or harmless: an empty cgroup.
    fn clear(cgroup: &Path) {
        let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let process =
                name.to_str().and_then(|name| name.strip_prefix(HOME)?.parse::<u32>().ok());
            if process.is_some_and(|it| !Path::new(&format!("/proc/{it}")).exists()) {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }

    /// The child that connects, in here; the parent reads its output.
    fn command(&self) -> Command {
        let processes = self.0.join("cgroup.procs");
        let mut command = Command::new("/proc/self/exe");
        command.arg(CLIENT).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        // SAFETY: only an open, a write and a close between fork and exec; no lock and no allocation is
        // shared with the parent, whose path is already made.
        unsafe { command.pre_exec(move || fs::write(&processes, "0")) };
        command
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::warn!(cgroup = %self.0.display(), %error, "cannot remove the probe's cgroup");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_killed_processes_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let own = format!("{HOME}{}", std::process::id());
        // No process has the number 0, and one always has 1.
        let names = [&format!("{HOME}0"), &format!("{HOME}1"), &own, "svclb-probe-x", "other"];
        for name in names {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Home::clear(folder.path());
        let left = names.map(|name| folder.path().join(name).exists());
        assert_eq!(left, [false, true, true, true, true], "{names:?}");

        // Its own name is free for the next one too.
        let home = Home::make(folder.path()).unwrap();
        drop(home);
        assert!(!folder.path().join(own).exists());
    }
}
