//! The node: its kernel, what this process may do there, and which processes the hooks serve.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use caps::{CapSet, Capability};

use svclb_dataplane::bpf::btf::BTF;
use svclb_dataplane::node::cgroups;
use svclb_dataplane::node::environment;
use svclb_dataplane::node::kernel;
use svclb_dataplane::node::privileges;
use svclb_dataplane::programs::object::Features;

use super::Finding;

/// Checks that svclb runs on this kernel.
pub(super) fn kernel() -> Finding {
    let looked = kernel::running().and_then(|(release, _)| {
        environment::check_kernel(&release)?;
        environment::check_btf(Path::new(BTF))?;
        Ok(release)
    });
    match looked {
        Ok(release) => Finding::ok("kernel", format!("{release}, with BTF")),
        Err(error) => Finding::error("kernel", format!("{error:#}")),
    }
}

/// Reports the capabilities of this command. Fewer than an agent's are enough; checks that need more say so.
pub(super) fn capabilities() -> Finding {
    let held = match caps::read(None, CapSet::Effective) {
        Ok(held) => held,
        Err(error) => return Finding::not_looked_at("capabilities", error),
    };
    let missing = privileges::missing(&held);
    if !missing.is_empty() {
        let names = privileges::names(&missing);
        return Finding::warning("capabilities", format!("this command lacks {names}"))
            .advice("an agent cannot start so, and some of what follows is not looked at");
    }
    let of_agent = |capability: &&Capability| {
        **capability == Capability::CAP_SYS_ADMIN || privileges::NEEDS.contains(capability)
    };
    let names = privileges::names(held.iter().filter(of_agent));
    Finding::ok("capabilities", format!("this command has {names}"))
}

/// Reports the hooks' cgroup, and the processes outside of it.
pub(super) fn processes(cgroup: Option<&Path>) -> [Finding; 2] {
    let Some(folder) = cgroup else {
        let why = "no cgroup is known that all hooks are attached to";
        return ["cgroup", "processes"].map(|check| Finding::not_looked_at(check, why));
    };
    match cgroups::coverage(folder) {
        Ok(found) => [place(folder, found.is_root), judge(&found)],
        Err(error) => ["cgroup", "processes"].map(|it| Finding::not_looked_at(it, &error)),
    }
}

fn place(folder: &Path, is_root: bool) -> Finding {
    let id = fs::metadata(folder).map_or(0, |data| data.ino());
    let mut text = format!("{} (id {id})", folder.display());
    if cgroups::is_hybrid() {
        text += ", beside cgroup v1";
    }
    if is_root {
        text += ", is the root of the machine's cgroup2";
        return Finding::ok("cgroup", text);
    }
    text += ", is not the root of the machine's cgroup2";
    if cgroups::in_namespace() {
        text += "; this command is in a cgroup namespace, which shows another one as the root";
    }
    Finding::warning("cgroup", text).advice(
        "what is outside is not served: if that is not wanted, `svclb uninstall`, and start the agent \
         with --cgroup at the root, seen from outside of containers",
    )
}

fn judge(found: &cgroups::Coverage) -> Finding {
    let count = found.processes;
    if found.is_root {
        return Finding::ok("processes", "every process of the machine is in it");
    }
    if found.outside > 0 {
        let (outside, examples) = (found.outside, found.examples());
        let text = format!("{outside} of {count} processes are outside of it: {examples}");
        return Finding::warning("processes", text)
            .advice("their connections to Services are not translated");
    }
    match found.unseen {
        None => Finding::ok("processes", format!("all {count} processes of the machine are in it")),
        Some(why) => Finding::not_looked_at("processes", why)
            .advice(format!("the {count} that are seen are in it; run it on the node itself")),
    }
}

/// Reports the features of the kernel beyond the oldest one, and the consequences of missing ones.
pub(super) fn features() -> Vec<Finding> {
    let check = "feature";
    let version = match kernel::running() {
        Ok((_, version)) => version,
        Err(error) => return vec![Finding::not_looked_at(check, error)],
    };
    let features = Features::of_kernel();
    let helper =
        |name: &str, get: fn(&Features) -> bool, used: &str, replaced: &str| match &features {
            Ok(features) => told(get(features), used, replaced).of(name),
            Err(error) => Finding::not_looked_at(check, error).of(name),
        };
    vec![
        helper(
            "set_retval",
            |it| it.set_retval,
            "a refused call fails with ECONNREFUSED at once",
            "a refused TCP connect is sent to port 0 of loopback, which refuses it, and the rest fails \
             with EPERM",
        ),
        helper(
            "kern_sock",
            |it| it.kern_sock.is_some(),
            "sockets of the kernel's own (subflows of MPTCP, NFS) are told apart, and leave no record",
            "sockets of the kernel's own are not told apart: each connect of theirs leaves a record",
        ),
        told(
            version >= (5, 14),
            "the host's network namespace is known by its cookie",
            "the machine's first network namespace counts as the host's",
        )
        .of("netns_cookie"),
        told(
            version >= kernel::MEMORY_OF_CGROUP,
            "maps count as memory of the agent's cgroup",
            "maps count as locked memory, whose limit must allow them",
        )
        .of("memory_cgroup"),
    ]
}

fn told(has: bool, used: &str, replaced: &str) -> Finding {
    let text = if has { format!("used: {used}") } else { format!("replaced: {replaced}") };
    Finding::ok("feature", text)
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
