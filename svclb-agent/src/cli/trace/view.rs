//! How `svclb trace` prints its answer. The fields, which docs/commands.md lists, are a contract.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::Serialize;
use svclb_common::layout::{Address, Protocol};

use super::client::ClientTrace;
use super::reasons::Reasons;
use super::target::Target;

/// The answer.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::cli) struct TraceView {
    /// The address or Service that was asked about.
    target: String,
    /// Maps are installed on this node.
    installed: bool,
    /// Its frontends in the maps, with what a connection to each would get now.
    frontends: Vec<FrontendTrace>,
    /// The client that was asked about, with what its connections get; null when none was.
    pub(super) client: Option<ClientTrace>,
    /// The endpoints that the source has for it, each judged for the frontends under one policy.
    endpoints: Vec<EndpointTrace>,
    /// Reasons in the source for which a Service is not served as its object says.
    findings: Vec<String>,
    /// The reason why the source was not read; null when it was.
    source_missing: Option<String>,
}

/// A frontend in the maps.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Frontend")]
pub(super) struct FrontendTrace {
    /// Its address and port: `address:port`, IPv6 in brackets.
    pub(super) frontend: SocketAddr,
    /// `TCP` or `UDP`.
    pub(super) protocol: &'static str,
    /// It is for clients in the host's network namespace only: a node port on loopback.
    pub(super) host_only: bool,
    /// The service that owns it: `namespace/name:port name/protocol`.
    pub(super) service: String,
    /// The policy that it is under: `internal` for ClusterIPs, `external` for the others.
    pub(super) policy: &'static str,
    /// That traffic policy of the Service: `Cluster` or `Local`.
    pub(super) traffic_policy: String,
    /// What a new connection gets.
    pub(super) outcome: Outcome,
    /// The backends of which it gets one at random.
    pub(super) backends: Vec<BackendTrace>,
    /// Session affinity in seconds; 0: none. A client that connected within this time keeps its backend.
    pub(super) affinity_seconds: u32,
    /// Parts of the Service that are not served, as `svclb services` has them.
    pub(super) notes: Vec<&'static str>,
}

/// What a new connection gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// One of the backends.
    Backend,
    /// It is refused: there is no backend.
    Refused,
    /// It is left alone: the frontend is being written or removed.
    LeftAlone,
}

/// A backend of a frontend.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Backend")]
pub(super) struct BackendTrace {
    /// `address:port`, IPv6 in brackets.
    pub(super) address: SocketAddr,
    /// Why it is used: `ready` or `terminating`, as `svclb backends` has it.
    pub(super) state: &'static str,
    /// Its share of new connections in percent.
    pub(super) percent: f64,
}

/// An endpoint in the source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Endpoint")]
pub(super) struct EndpointTrace {
    /// The service: `namespace/name:port name/protocol`.
    pub(super) service: String,
    /// The frontends that it is judged for: `internal` for ClusterIPs, `external` for the others.
    pub(super) policy: &'static str,
    /// `address:port`, IPv6 in brackets.
    pub(super) endpoint: SocketAddr,
    /// Clients of this node may be given it.
    pub(super) used: bool,
    /// The rule: `ready` or `last_serving` of one that is used; otherwise `not_ready`, `other_node`,
    /// `terminating`, `node_hints` or `zone_hints`.
    pub(super) rule: &'static str,
    /// The rule in words.
    pub(super) words: &'static str,
}

/// An address with its port, as it is shown.
pub(super) fn shown(address: Address, port: u16) -> SocketAddr {
    SocketAddr::new(address.ip(), port)
}

impl TraceView {
    pub(super) fn new(
        target: &Target,
        installed: bool,
        frontends: Vec<FrontendTrace>,
        reasons: Result<Reasons, String>,
    ) -> Self {
        let (reasons, source_missing) = match reasons {
            Ok(reasons) => (reasons, None),
            Err(missing) => (Reasons::default(), Some(missing)),
        };
        let Reasons { endpoints, findings } = reasons;
        Self {
            target: target.to_string(),
            installed,
            frontends,
            client: None,
            endpoints,
            findings,
            source_missing,
        }
    }

    /// The address and protocol of each frontend.
    pub(super) fn dialled(&self) -> Vec<(SocketAddr, Protocol)> {
        let protocol =
            |name| [Protocol::Tcp, Protocol::Udp].into_iter().find(|it| it.name() == name);
        let each = self.frontends.iter();
        each.filter_map(|it| Some((it.frontend, protocol(it.protocol)?))).collect()
    }

    /// Returns true if a new connection gets a backend from each frontend that was found, and one was.
    pub(super) fn is_given(&self) -> bool {
        if let Some(client) = &self.client {
            return client.is_given();
        }
        let mut outcomes = self.frontends.iter().map(|frontend| frontend.outcome);
        !self.frontends.is_empty() && outcomes.all(|outcome| outcome == Outcome::Backend)
    }

    /// The answer for people: the frontends with their backends, then the endpoints with their rules.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for frontend in &self.frontends {
            frontend.add_to(&mut lines);
        }
        if !self.installed {
            lines.push("no svclb is installed on this node: connections are left alone".to_owned());
        } else if self.frontends.is_empty() {
            lines.push(format!(
                "{} is no frontend: connections are left alone, and whatever else serves it has them",
                self.target
            ));
        }
        if let Some(client) = &self.client {
            client.add_to(&mut lines);
        }
        let mut last = None;
        for endpoint in &self.endpoints {
            let of = (&endpoint.service, endpoint.policy);
            if last != Some(of) {
                lines.push(format!("endpoints of {}, for its {} frontends:", of.0, of.1));
                last = Some(of);
            }
            let verdict = if endpoint.used { "used" } else { "unused" };
            lines.push(format!("  {} {verdict}: {}", endpoint.endpoint, endpoint.words));
        }
        lines.extend(self.findings.iter().cloned());
        if let Some(missing) = &self.source_missing {
            lines.push(format!("no reasons, since the source is missing: {missing}"));
        }
        lines
    }
}

impl FrontendTrace {
    fn add_to(&self, lines: &mut Vec<String>) {
        let Self { frontend, protocol, service, policy, traffic_policy, .. } = self;
        let scope = if self.host_only { ", for the host's processes only" } else { "" };
        lines.push(format!(
            "{frontend}/{protocol} is a frontend of {service} ({policy}TrafficPolicy {traffic_policy}){scope}"
        ));
        match self.outcome {
            Outcome::Refused => lines.push("  a connection is refused: no backend".to_owned()),
            Outcome::LeftAlone => {
                lines.push(
                    "  a connection is left alone: it is being written or removed".to_owned(),
                );
            }
            Outcome::Backend => {
                lines.push(match self.affinity_seconds {
                    0 => "  a new connection gets one of these at random:".to_owned(),
                    seconds => format!(
                        "  a client that connected in the last {seconds} s keeps its backend; others get one of \
                         these at random:"
                    ),
                });
                for BackendTrace { address, state, percent } in &self.backends {
                    lines.push(format!("    {address} {percent:.1} % {state}"));
                }
            }
        }
        if !self.notes.is_empty() {
            lines.push(format!("  notes: {}", self.notes.join(", ")));
        }
    }
}
