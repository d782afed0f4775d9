//! The node: its kernel, what this process may do there, and which processes the hooks serve.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use caps::{CapSet, Capability};

use svclb_dataplane::bpf::btf::BTF;
use svclb_dataplane::node::cgroups;
use svclb_dataplane::node::environment;
use svclb_dataplane::node::kernel;
use svclb_dataplane::node::privileges;
use svclb_dataplane::programs::object::Features;

use super::{Finding, Verdict};

/// Checks that svclb runs on this kernel.
pub(super) fn kernel() -> Verdict {
    let looked = kernel::running().and_then(|(release, _)| {
        environment::check_kernel(&release)?;
        environment::check_btf(Path::new(BTF))?;
        Ok(release)
    });
    match looked {
        Ok(release) => Verdict::ok(format!("{release}, with BTF")),
        Err(error) => Verdict::error(format!("{error:#}")),
    }
}

/// Reports the capabilities of this command. Fewer than an agent's are enough; checks that need more say so.
pub(super) fn capabilities() -> Result<Verdict> {
    let held = caps::read(None, CapSet::Effective).context("cannot read capabilities")?;
    let missing = privileges::missing(&held);
    if !missing.is_empty() {
        let names = privileges::names(&missing);
        return Ok(Verdict::warning(format!("this command lacks {names}"))
            .advice("an agent cannot start so, and some of what follows is not looked at"));
    }
    let of_agent = |capability: &&Capability| {
        **capability == Capability::CAP_SYS_ADMIN || privileges::NEEDS.contains(capability)
    };
    let names = privileges::names(held.iter().filter(of_agent));
    Ok(Verdict::ok(format!("this command has {names}")))
}

/// Reports the hooks' cgroup, and the processes outside of it.
pub(super) fn processes(cgroup: Option<&Path>) -> [Finding; 2] {
    let looked = cgroup
        .context("no cgroup is known that all hooks are attached to")
        .and_then(|folder| Ok((folder, cgroups::coverage(folder)?)));
    let (cgroup, processes) = match looked {
        Ok((folder, found)) => (place(folder, found.is_root), judge(&found)),
        Err(why) => (Verdict::not_looked_at(&why), Verdict::not_looked_at(&why)),
    };
    [Finding::of("cgroup", Ok(cgroup)), Finding::of("processes", Ok(processes))]
}

fn place(folder: &Path, is_root: bool) -> Verdict {
    let id = fs::metadata(folder).map_or(0, |data| data.ino());
    let mut text = format!("{} (id {id})", folder.display());
    if cgroups::is_hybrid() {
        text += ", beside cgroup v1";
    }
    if is_root {
        text += ", is the root of the machine's cgroup2";
        return Verdict::ok(text);
    }
    text += ", is not the root of the machine's cgroup2";
    if cgroups::in_namespace() {
        text += "; this command is in a cgroup namespace, which shows another one as the root";
    }
    Verdict::warning(text).advice(
        "what is outside is not served: if that is not wanted, `svclb uninstall`, and start the agent \
         with --cgroup at the root, seen from outside of containers",
    )
}

fn judge(found: &cgroups::Coverage) -> Verdict {
    let count = found.processes;
    if found.is_root {
        return Verdict::ok("every process of the machine is in it");
    }
    if found.outside > 0 {
        let (outside, examples) = (found.outside, found.examples());
        let text = format!("{outside} of {count} processes are outside of it: {examples}");
        return Verdict::warning(text).advice("their connections to Services are not translated");
    }
    match found.unseen {
        None => Verdict::ok(format!("all {count} processes of the machine are in it")),
        Some(why) => Verdict::not_looked_at(why)
            .advice(format!("the {count} that are seen are in it; run it on the node itself")),
    }
}

/// Reports the features of the kernel beyond the oldest one, and the consequences of missing ones.
pub(super) fn features() -> Result<[(&'static str, Verdict); 4]> {
    let (_, version) = kernel::running()?;
    let features = Features::of_kernel();
    let helper = |get: fn(&Features) -> bool, used: &str, replaced: &str| match &features {
        Ok(features) => feature(get(features), used, replaced),
        Err(error) => Verdict::not_looked_at(error),
    };
    let set_retval = helper(
        |it| it.set_retval,
        "a refused call fails with ECONNREFUSED at once",
        "a refused TCP connect is sent to port 0 of loopback, which refuses it, and the rest fails with \
         EPERM",
    );
    let kern_sock = helper(
        |it| it.kern_sock.is_some(),
        "sockets of the kernel's own (subflows of MPTCP, NFS) are told apart, and leave no record",
        "sockets of the kernel's own are not told apart: each connect of theirs leaves a record",
    );
    let netns_cookie = feature(
        version >= (5, 14),
        "the host's network namespace is known by its cookie",
        "the machine's first network namespace counts as the host's",
    );
    let memory_cgroup = feature(
        version >= kernel::MEMORY_OF_CGROUP,
        "maps count as memory of the agent's cgroup",
        "maps count as locked memory, whose limit must allow them",
    );
    Ok([
        ("set_retval", set_retval),
        ("kern_sock", kern_sock),
        ("netns_cookie", netns_cookie),
        ("memory_cgroup", memory_cgroup),
    ])
}

fn feature(has: bool, used: &str, replaced: &str) -> Verdict {
    Verdict::ok(if has { format!("used: {used}") } else { format!("replaced: {replaced}") })
}

#[cfg(test)]
mod tests {
    use super::super::CheckState;
    use super::*;
    use cgroups::{Coverage, Outside};

    #[test]
    fn only_what_was_seen_is_ok() {
        let seen = Coverage {
            is_root: false,
            processes: 7,
            outside: 0,
            examples: Vec::new(),
            has_us: true,
            unseen: None,
        };
        let other = Outside { pid: 5, name: "init".into(), cgroup: "/".into() };
        let rows = [
            (
                "the root",
                Coverage { is_root: true, unseen: Some("why"), ..seen.clone() },
                CheckState::Ok,
            ),
            ("all seen", seen.clone(), CheckState::Ok),
            (
                "not all seen",
                Coverage { unseen: Some("why"), ..seen.clone() },
                CheckState::NotLookedAt,
            ),
            (
                "one is outside",
                Coverage { outside: 1, examples: vec![other], ..seen },
                CheckState::Warning,
            ),
        ];
        for (row, coverage, expected) in rows {
            let finding = judge(&coverage);
            assert_eq!(finding.state, expected, "{row}: {finding:?}");
            assert_eq!(finding.found.contains("5 init in /"), row == "one is outside", "{row}");
        }
    }
}
