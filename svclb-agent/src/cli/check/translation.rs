//! Checks that a connect is translated now: connects a UDP socket to a Service, which sends no packet, and
//! reads the hooks' record of it.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use svclb_common::layout::{LineFlags, Protocol, Scope};
use svclb_core::table::{Dump, Table as _};

use svclb_dataplane::maps::Maps;
use svclb_dataplane::pins::Pins;
use svclb_dataplane::probe::trial::{self, Trial};

use super::Verdict;

/// Connects to a Service from inside the cgroup.
pub(super) fn verdict(pins: &Pins, cgroup: Option<&Path>) -> Result<Verdict> {
    let cgroup = cgroup.context("not every hook is attached to one cgroup that is seen")?;
    let dialled = candidate(&Maps::read(pins)?.load()?).context(
        "no Service has a UDP port with backends and without session affinity, which alone can be \
         dialled without a packet or a trace; the agent's own proof at its start stands above",
    )?;
    judge(dialled, trial::run(pins, cgroup, dialled))
}

fn judge(dialled: SocketAddr, tried: Result<Trial>) -> Result<Verdict> {
    Ok(match tried.context("it cannot be tried")? {
        Trial::Given(given) => {
            Verdict::ok(format!("a UDP socket that dialled {dialled} was given {given}"))
        }
        Trial::LeftAlone(result) => {
            let text = format!("a UDP socket that dialled {dialled} was not translated ({result})");
            Verdict::error(text)
                .advice("see the hooks above; `bpftool cgroup tree` shows what else runs there")
        }
    })
}

/// A frontend that may be dialled: of UDP, for every client, with backends, and one whose service does
/// not remember its clients.
fn candidate(dump: &Dump) -> Option<SocketAddr> {
    let of_everybody = dump
        .frontends
        .iter()
        .filter(|(key, _)| key.protocol == Protocol::Udp as u8 && key.scope == Scope::Any as u8);
    let usable = of_everybody.filter(|(_, row)| {
        dump.line(row.line).is_some_and(|line| {
            line.set.count > 0
                && line.affinity_seconds == 0
                && line.flags & LineFlags::EXTERNAL == 0
        })
    });
    // Clusters of one family have IPv4.
    let keys = usable.map(|(key, _)| SocketAddr::new(key.address.ip(), key.port));
    keys.min_by_key(|at| (at.is_ipv6(), *at))
}

#[cfg(test)]
mod tests {
    use super::super::{CheckState, Finding};
    use super::*;

    #[test]
    fn only_a_socket_that_was_given_a_backend_shows_translation() {
        let at: SocketAddr = "10.96.0.10:53".parse().unwrap();
        let rows = [
            (Ok(Trial::Given("10.244.0.1:53".parse().unwrap())), CheckState::Ok),
            (Ok(Trial::LeftAlone("connected".to_owned())), CheckState::Error),
            (Err(anyhow::anyhow!("read-only")), CheckState::NotLookedAt),
        ];
        for (tried, expected) in rows {
            let finding = Finding::of("translation", judge(at, tried));
            assert_eq!(finding.verdict.state, expected, "{finding:?}");
        }
    }
}
