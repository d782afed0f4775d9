//! The client that is asked about: a process, or a pod of this node. Session affinity, loopback node ports and the
//! cgroup of the hooks make its answer differ from another client's.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, value_parser};
use schemars::JsonSchema;
use serde::Serialize;
use svclb_common::layout::Protocol;
use svclb_core::model::ObjectName;

use svclb_dataplane::hooks::HOOKS;
use svclb_dataplane::maps::Maps;
use svclb_dataplane::maps::rehearsal::{Answer, Client, Rehearsal};
use svclb_dataplane::node::{cgroups, namespaces};
use svclb_dataplane::pins::Pins;

/// The folder in which a kubelet keeps the logs of its pods, one folder for each: `NAMESPACE_POD_UID`.
const LOGS_OF_PODS: &str = "/var/log/pods";

#[derive(Debug, Args)]
pub(super) struct ClientArgs {
    /// Client: a pod of this node, which is found by the folder of its logs in /var/log/pods
    #[arg(long = "from", value_name = "NAMESPACE/POD", value_parser = parse_pod, conflicts_with = "pid")]
    pod: Option<ObjectName>,
    /// Client: a process, by its number in this command's pid namespace
    #[arg(long, value_name = "PID", value_parser = value_parser!(i32).range(1..))]
    pid: Option<i32>,
}

fn parse_pod(text: &str) -> Result<ObjectName, String> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok(ObjectName::new(namespace, name))
        }
        _ => Err("expected a pod such as shop/web-0".to_owned()),
    }
}

/// The client, and what a connection of a new socket of it gets now.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Client")]
pub(in crate::cli) struct ClientTrace {
    /// Number of the process; of a pod, its lowest one.
    pid: i32,
    /// Its cgroup, as /proc shows it; null when unknown.
    cgroup: Option<String>,
    /// The hooks see its sockets: its cgroup is theirs, or below it; null when unknown.
    in_scope: Option<bool>,
    /// It is in the host's network namespace, taken to be this command's; null when unknown.
    host_network: Option<bool>,
    /// What its connection to each frontend gets, in the order of `frontends`; empty when that is unknown.
    connections: Vec<ConnectionTrace>,
    /// What could not be found out, and why.
    unknown: Vec<String>,
}

/// A connection of the client to a frontend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Connection")]
struct ConnectionTrace {
    /// The frontend: `address:port`, IPv6 in brackets.
    frontend: SocketAddr,
    /// `TCP` or `UDP`.
    protocol: &'static str,
    /// What it gets.
    result: ConnectionResult,
    /// The backend that it keeps; null unless `result` is `kept`.
    backend: Option<SocketAddr>,
    /// Seconds since the client's last connection; null unless `result` is `kept`.
    idle_seconds: Option<u64>,
}

/// What a connection of a client gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ConnectionResult {
    /// The backend that the client has by session affinity.
    Kept,
    /// One of the frontend's backends at random.
    Drawn,
    /// It is refused.
    Refused,
    /// It is not translated.
    LeftAlone,
}

impl ClientArgs {
    /// The process that is asked about; none when no client is.
    ///
    /// # Errors
    /// When a pod is not found.
    pub(super) fn pid(&self) -> Result<Option<i32>> {
        let Some(pod) = &self.pod else { return Ok(self.pid) };
        let folder = Path::new(LOGS_OF_PODS);
        let entries = fs::read_dir(folder).with_context(|| {
            format!(
                "cannot find the pod: cannot read {LOGS_OF_PODS}; run it on the node, or use --pid"
            )
        })?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let uids: Vec<String> = names.filter_map(|name| uid_of(&name, pod)).collect();
        let is_of_pod = |cgroup: &str| uids.iter().any(|uid| is_cgroup_of(cgroup, uid));
        let found = if uids.is_empty() { None } else { cgroups::process_in(is_of_pod)? };
        found.map(Some).with_context(|| {
            format!("no process of the pod {pod} is seen here: is it on this node? --pid names a process")
        })
    }
}

/// The uid in the name of a pod's folder of logs.
fn uid_of(folder: &str, pod: &ObjectName) -> Option<String> {
    let (named, uid) = folder.rsplit_once('_')?;
    (named == format!("{}_{}", pod.namespace, pod.name)).then(|| uid.to_owned())
}

/// Returns true for the name of a pod's cgroup, as the kubelet's driver `systemd` or `cgroupfs` gives it.
fn is_cgroup_of(cgroup: &str, uid: &str) -> bool {
    cgroup == format!("pod{uid}")
        || cgroup.ends_with(&format!("-pod{}.slice", uid.replace('-', "_")))
}

impl ClientTrace {
    /// Traces the connections of a process to frontends.
    ///
    /// # Errors
    /// When there is no such process, or the maps cannot be read.
    pub(super) fn new(
        pid: i32,
        pins: &Pins,
        maps: Option<&Maps>,
        frontends: &[(SocketAddr, Protocol)],
    ) -> Result<Self> {
        fs::metadata(format!("/proc/{pid}"))
            .with_context(|| format!("no process {pid} is seen here"))?;
        let mut unknown = Vec::new();
        let scope = note(scope(pins, pid), &mut unknown);
        let host = namespaces::own_cookie()?;
        let netns = note(namespaces::cookie_of(pid), &mut unknown);
        let is_outside = matches!(scope, Some((_, false)));
        let mut connections = Vec::new();
        if let Some(maps) = maps {
            let rehearsal = Rehearsal::open(pins, maps)?;
            for (frontend, protocol) in frontends {
                let answer = match netns {
                    _ if is_outside => Answer::LeftAlone,
                    Some(netns) => {
                        rehearsal.connect(Client { netns, host }, *protocol, *frontend)?
                    }
                    None => continue,
                };
                connections.push(ConnectionTrace::new(*frontend, *protocol, answer));
            }
        }
        let (cgroup, in_scope) = scope.unzip();
        let host_network = netns.map(|netns| netns == host);
        Ok(Self { pid, cgroup, in_scope, host_network, connections, unknown })
    }

    /// Returns true if each connection is known to get a backend.
    pub(super) fn is_given(&self) -> bool {
        let is_given = |it: &ConnectionTrace| {
            matches!(it.result, ConnectionResult::Kept | ConnectionResult::Drawn)
        };
        self.in_scope == Some(true)
            && !self.connections.is_empty()
            && self.connections.iter().all(is_given)
    }

    /// What people read.
    pub(super) fn add_to(&self, lines: &mut Vec<String>) {
        let Self { pid, .. } = self;
        let cgroup = self.cgroup.as_deref().unwrap_or("unknown");
        lines.push(format!("client: process {pid}, cgroup {cgroup}"));
        if self.in_scope == Some(false) {
            lines.push(
                "  not translated: this process is outside the cgroup that svclb's hooks are attached to"
                    .to_owned(),
            );
        }
        if let Some(is_host) = self.host_network {
            let network = if is_host { "the host's" } else { "its own" };
            lines.push(format!("  network namespace: {network}"));
        }
        for it in &self.connections {
            let result = match (it.result, it.backend) {
                (ConnectionResult::Kept, Some(backend)) => {
                    let idle = it.idle_seconds.unwrap_or_default();
                    format!("keeps {backend} by session affinity (last connection {idle} s ago)")
                }
                (ConnectionResult::Kept | ConnectionResult::Drawn, _) => {
                    "gets one of the backends at random".to_owned()
                }
                (ConnectionResult::Refused, _) => "is refused".to_owned(),
                (ConnectionResult::LeftAlone, _) => "is left alone".to_owned(),
            };
            lines.push(format!("  a new connection to {}/{} {result}", it.frontend, it.protocol));
        }
        lines.extend(self.unknown.iter().map(|why| format!("  unknown: {why}")));
    }
}

impl ConnectionTrace {
    fn new(frontend: SocketAddr, protocol: Protocol, answer: Answer) -> Self {
        let (result, kept): (_, Option<(SocketAddr, Duration)>) = match answer {
            Answer::Kept(backend, idle) => (ConnectionResult::Kept, Some((backend, idle))),
            Answer::Drawn(_) => (ConnectionResult::Drawn, None),
            Answer::Refused => (ConnectionResult::Refused, None),
            Answer::LeftAlone => (ConnectionResult::LeftAlone, None),
        };
        let (backend, idle) = kept.unzip();
        let idle_seconds = idle.map(|idle| idle.as_secs());
        Self { frontend, protocol: protocol.name(), result, backend, idle_seconds }
    }
}

/// The cgroup of a process, and whether the connect hooks see its sockets.
fn scope(pins: &Pins, pid: i32) -> Result<(String, bool)> {
    let hook =
        HOOKS.iter().find(|hook| hook.name == "connect4").context("there is no connect hook")?;
    let link = pins.pinned_link(hook.name).context("cannot read the link of the connect hook")?;
    let attached = link.map(|link| link.cgroup).filter(|id| *id != 0);
    let attached = attached.context("the connect hook is not attached to a cgroup")?;
    let folder = cgroups::find(attached)?.with_context(|| {
        format!("the hooks are attached to the cgroup {attached}, which no cgroup2 that is mounted here shows")
    })?;
    cgroups::is_inside(&folder, pid)
}

/// Takes note of what could not be found out.
fn note<T>(found: Result<T>, unknown: &mut Vec<String>) -> Option<T> {
    found.map_err(|error| unknown.push(format!("{error:#}"))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b8ccd4e-7a0e-4f4c-9d26-0c2e5e0f3a11";

    #[test]
    fn a_pod_is_found_by_the_folder_of_its_logs_and_the_name_of_its_cgroup() {
        let pod = parse_pod("shop/web-0").unwrap();
        let rows = [
            (format!("shop_web-0_{UID}"), Some(UID)),
            (format!("shop_web-01_{UID}"), None),
            (format!("other_web-0_{UID}"), None),
            ("shop_web-0".to_owned(), None),
        ];
        for (folder, expected) in rows {
            assert_eq!(uid_of(&folder, &pod).as_deref(), expected, "{folder}");
        }
        let joined = UID.replace('-', "_");
        let rows = [
            (format!("pod{UID}"), true),
            (format!("kubepods-burstable-pod{joined}.slice"), true),
            (format!("kubepods-pod{joined}.slice"), true),
            (format!("kubepods-pod{joined}.slice.more"), false),
            ("kubepods.slice".to_owned(), false),
        ];
        for (cgroup, expected) in rows {
            assert_eq!(is_cgroup_of(&cgroup, UID), expected, "{cgroup}");
        }
        for text in ["web", "/web", "shop/", "a/b/c"] {
            assert!(parse_pod(text).is_err(), "{text}");
        }
    }
}
