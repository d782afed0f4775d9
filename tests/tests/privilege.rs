//! The agent with minimal privileges: three capabilities, no new privileges, and write access only to
//! its pins (docs/privileges.md).
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure in a helper fails the test, with its reason"
)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::json;
use svclb_tests::{Backend, Tcp, World, eventually};

const DIALLED: &str = "10.96.0.10:80";
/// Names of capabilities for setpriv(1).
const NEEDED: [&str; 3] = ["bpf", "net_admin", "perfmon"];
/// NET_ADMIN, PERFMON and BPF, as bits by the numbers of linux/capability.h.
const MASK: u64 = 1 << 12 | 1 << 38 | 1 << 39;

/// Writes a program that starts svclb in the cgroup with these capabilities, with unlimited locked
/// memory if possible (before Linux 5.11 maps count as locked memory), and with everything read-only
/// except the folder of the pins, which is a mount of its own as in the pod.
fn confined(world: &World, capabilities: &[&str]) -> PathBuf {
    let path = world.yaml().parent().unwrap().join(format!("confined-{}", capabilities.join("-")));
    let bounding: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    let script = format!(
        "#!/bin/sh\n\
         set -e\n\
         echo 0 > '{cgroup}/cgroup.procs'\n\
         ulimit -l unlimited 2>/dev/null || true\n\
         exec unshare --mount --propagation private sh -c '\n\
         set -e\n\
         mkdir -p \"{pins}\"\n\
         mount --bind \"{pins}\" \"{pins}\"\n\
         cut -d\" \" -f5 /proc/self/mountinfo | while read -r at; do\n\
           mount -o remount,bind,ro \"$(printf %b \"$at\")\"\n\
         done\n\
         mount -o remount,bind,rw \"{pins}\"\n\
         exec setpriv --bounding-set=-all{bounding} --inh-caps=-all --no-new-privs \"{svclb}\" \"$@\"\n\
         ' sh \"$@\"\n",
        cgroup = world.cgroup().display(),
        pins = world.pins().display(),
        svclb = world.program().display(),
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn start(world: &World, program: &Path) -> u32 {
    world.start_agent_of(program, &[Path::new("--from"), &world.yaml()]);
    // The process that holds the lock is the agent.
    let report = world.svclb(&["check", "-o", "json"]);
    let findings: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    let findings = findings.as_array().unwrap();
    let agent = findings.iter().find(|finding| finding["check"] == "agent").unwrap();
    let words: Vec<&str> = agent["found"].as_str().unwrap().split(' ').collect();
    words[1].parse().unwrap_or_else(|_| panic!("expected a process id in {agent}"))
}

/// Asserts the sets of capabilities and `no_new_privs` of every thread of a process.
fn assert_confined(pid: u32, bounding: u64) {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    for thread in threads {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap().trim().to_owned()
        };
        let sets = ["CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd"];
        let found = sets.map(|set| u64::from_str_radix(&of(set), 16).unwrap());
        assert_eq!(found, [MASK, MASK, 0, 0, bounding], "{sets:?} in {status}");
        assert_eq!(of("NoNewPrivs"), "1", "{status}");
    }
}

/// The writable mounts of a process (proc_pid_mountinfo(5): id, parent, device, root, mount point,
/// options). A mount that is covered by another one at the same mount point cannot be reached.
fn writable_mounts(pid: u32) -> Vec<PathBuf> {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let mounts: Vec<Vec<&str>> = mounts.lines().map(|line| line.split(' ').collect()).collect();
    assert!(mounts.len() > 1, "{mounts:?}");
    let is_covered = |it: &[&str]| mounts.iter().any(|on| on[1] == it[0] && on[4] == it[4]);
    let reached = mounts.iter().filter(|it| !is_covered(it));
    let writable = reached.filter(|it| it[5].split(',').any(|option| option == "rw"));
    writable.map(|it| it[4].into()).collect()
}

fn hello(world: &World, backend: &Backend) {
    let service = world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp);
    service.backends([backend]).write();
}

#[test]
fn an_agent_needs_write_access_only_to_its_pins() {
    let world = World::builder("confined").without_agent().start();
    let program = confined(&world, &NEEDED);
    let [a, b] = [("a", "10.244.0.1:8080"), ("b", "10.244.0.2:8080")]
        .map(|(name, address)| world.backend(name, Tcp, address));
    hello(&world, &a);
    let pid = start(&world, &program);
    world.settle();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    assert_confined(pid, MASK);
    assert_eq!(writable_mounts(pid), [world.pins()]);

    // Services are added and removed.
    hello(&world, &b);
    for number in 0..20 {
        let service = world.service(&format!("default/more-{number}"));
        service.cluster_ip(&format!("10.96.1.{number}")).port(80, Tcp).backends([&a, &b]).write();
    }
    world.settle();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "b");
    for number in 0..20 {
        world.remove(&format!("default/more-{number}"));
    }
    world.settle();

    // A hook and a pin are removed and restored. A new link exists before its pin and would end with the
    // agent until then, so it is logged only once it is pinned.
    world.detach("connect4");
    let pin = world.pinned("maps", "svclb_slots");
    world.unpin(&pin);
    eventually("both are restored", || {
        let log = world.agent_log();
        let gone = [format!("the pin {} was gone", pin.display()), "connect4 was detached".into()];
        match gone.iter().find(|line| !log.contains(*line)) {
            None => Ok(()),
            Some(line) => Err(format!("expected {line:?} in the log:\n{log}")),
        }
    });
    assert!(world.inside(move || pin.exists()));
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "b");

    // The agent is killed; the next one adopts the maps and writes what changed meanwhile.
    world.take_agent().kill();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "b");
    hello(&world, &a);
    let next = start(&world, &program);
    assert_ne!(next, pid);
    world.settle();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    assert_confined(next, MASK);
    assert!(world.take_agent().stop().success());
}

#[test]
fn an_agent_drops_the_capabilities_that_it_does_not_need() {
    let world = World::builder("dropped").without_agent().start();
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    hello(&world, &a);
    let pid = start(&world, world.program());
    world.settle();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    assert_confined(pid, 0);
}

#[test]
fn each_missing_capability_is_named() {
    let world = World::builder("missing").without_agent().start();
    let from = world.yaml();
    for missing in NEEDED {
        let others: Vec<&str> = NEEDED.into_iter().filter(|name| *name != missing).collect();
        let mut command = Command::new(confined(&world, &others));
        command.arg("agent").arg("--from").arg(&from).arg("--pins").arg(world.pins());
        let output = world.output(command);
        let text = String::from_utf8_lossy(&output.stderr);
        let name = format!("it lacks CAP_{};", missing.to_uppercase());
        assert!(!output.status.success() && text.contains(&name), "{missing}: {text}");
        assert_eq!(text.trim().lines().count(), 1, "{missing}: {text}");
    }
    assert!(world.names_in(&world.pins()).is_empty(), "no pin may be created");
}

#[test]
fn processes_of_an_exec_plugin_have_no_capability_and_end_with_a_killed_agent() {
    let world = World::builder("kill-plugin").without_agent().start();
    let folder = world.yaml().parent().unwrap().join("plugin");
    fs::create_dir(&folder).unwrap();
    // A child, and an orphan in a session of its own.
    let script = "
( setsid sleep 300 & echo $! >> \"$0/processes\" )
sleep 301 & echo $! >> \"$0/processes\"
echo $$ >> \"$0/processes\"
wait";
    let user = json!({ "exec": {
        "apiVersion": "client.authentication.k8s.io/v1",
        "interactiveMode": "Never",
        "command": "sh",
        "args": ["-c", script, folder],
    }});
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{ "name": "it", "cluster": { "server": "http://192.0.2.1" } }],
        "users": [{ "name": "it", "user": user }],
        "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it" } }],
    });
    let kubeconfig = folder.join("config");
    fs::write(&kubeconfig, config.to_string()).unwrap();
    let mut command = Command::new(world.program());
    command.args(["agent", "--node", "a", "--kubeconfig"]).arg(kubeconfig);
    command.arg("--pins").arg(world.pins()).arg("--cgroup").arg(world.cgroup());
    let mut agent = world.spawn(command);
    let processes = || {
        let text = fs::read_to_string(folder.join("processes")).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    eventually("the plugin runs", || match processes().len() {
        3 => Ok(()),
        other => Err(other.to_string()),
    });
    let processes = processes();
    for process in &processes {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        for line in ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
            assert!(status.contains(line), "{line}: {status}");
        }
    }
    agent.kill().unwrap();
    agent.wait().unwrap();
    eventually("the plugin's processes have ended", || {
        let left: Vec<_> = processes
            .iter()
            .filter_map(|process| fs::read_to_string(format!("/proc/{process}/stat")).ok())
            .filter(|stat| !stat.contains(") Z "))
            .collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// Asserts that every folder of the pins is accessible to its owner only, and that there are at least
/// `least` folders.
fn assert_closed(world: &World, least: usize) {
    let root = world.pins();
    let modes = world.inside(move || {
        let mut folders = vec![root];
        let mut modes = Vec::new();
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
            folders.extend(entries.filter(|path| path.is_dir()));
            modes.push((fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, folder));
        }
        modes
    });
    assert!(modes.len() >= least, "{modes:?}");
    for (mode, folder) in modes {
        assert_eq!(mode, 0o700, "{}", folder.display());
    }
}

#[test]
fn every_pins_folder_is_accessible_to_its_owner_only() {
    let world = World::new("closed");
    assert_closed(&world, 5);
}

#[test]
fn pins_folders_that_are_open_to_others_are_closed() {
    let world = World::builder("opened").without_agent().start();
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    hello(&world, &a);
    let open = |folder: PathBuf| {
        world.inside(move || {
            fs::create_dir_all(&folder).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        });
    };
    let folders = ["", "links", "maps"].map(|name| world.version().join(name));
    open(world.pins());
    folders.clone().into_iter().for_each(open);
    world.start_agent();
    assert_closed(&world, 5);
    let log = world.agent_log();
    for folder in [world.pins(), folders[0].clone(), folders[2].clone()] {
        // Paths in the log may be quoted.
        let text = format!("{}", folder.display());
        let is_logged = |line: &str| {
            line.contains("open to others") && line.contains(text.trim_end_matches('/'))
        };
        assert!(log.lines().any(is_logged), "{text}: {log}");
    }
    // The running agent closes them too.
    open(world.pins());
    open(folders[1].clone());
    eventually("the folders are closed again", || {
        let all = [world.pins(), folders[1].clone()];
        let modes = world.inside(move || all.map(|it| fs::metadata(it).unwrap().mode() & 0o7777));
        if modes == [0o700; 2] { Ok(()) } else { Err(format!("{modes:?}")) }
    });
    world.settle();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
}

#[test]
fn pins_folders_of_another_user_are_refused() {
    const NOBODY: u32 = 65534;
    let world = World::builder("taken").without_agent().start();
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    hello(&world, &a);
    world.start_agent();
    world.take_agent().stop();
    let give = |folder: &Path, user: u32| {
        let folder = folder.to_owned();
        world.inside(move || chown(folder, Some(user), None).unwrap());
    };
    let start = |program: &Path| {
        let mut command = Command::new("timeout");
        command.arg("120").arg(program).arg("agent").arg("--from").arg(world.yaml());
        command.arg("--pins").arg(world.pins()).arg("--cgroup").arg(world.cgroup());
        let output = world.output(command);
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    // Root with only the agent's capabilities cannot even look into such a folder.
    for program in [world.program().to_owned(), confined(&world, &NEEDED)] {
        for folder in [world.pins(), world.version(), world.version().join("links")] {
            give(&folder, NOBODY);
            let text = start(&program);
            let expected = format!("{} is user {NOBODY}'s", folder.display());
            assert!(text.contains(&expected) && text.contains("remove it"), "{expected}: {text}");
            let checked = world.svclb(&["check"]);
            let found = String::from_utf8(checked.stdout).unwrap();
            assert!(!checked.status.success() && found.contains(&expected), "{found}");
            let uninstalled = world.svclb(&["uninstall"]);
            let text = String::from_utf8(uninstalled.stderr).unwrap();
            assert!(!uninstalled.status.success() && text.contains(&expected), "{text}");
            give(&folder, 0);
        }
    }
    // A symbolic link is not followed either.
    let (root, aside) = (world.pins(), world.pins().with_file_name("aside"));
    world.move_pin(&root, &aside);
    let link = root.clone();
    world.inside(move || symlink(aside, link).unwrap());
    let text = start(world.program());
    assert!(text.contains(&format!("{} is no folder", root.display())), "{text}");
    world.unpin(&root);
    world.move_pin(&root.with_file_name("aside"), &root);
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    world.start_agent();
    world.settle();
}

#[test]
fn the_other_commands_need_only_the_documented_capabilities() {
    let world = World::new("commands");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    hello(&world, &a);
    world.settle();
    let run = |capabilities: &[&str], arguments: &[&str]| -> Output {
        let mut command = Command::new(confined(&world, capabilities));
        command.args(arguments).arg("--pins").arg(world.pins());
        world.output(command)
    };
    for command in ["services", "backends", "sockets", "affinity", "top", "status"] {
        let output = run(&["bpf"], &[command]);
        assert!(output.status.success(), "{command}: {output:?}");
    }
    let ready = run(&["bpf"], &["status", "--ready"]);
    assert!(ready.status.success(), "{ready:?}");
    let checked = run(&NEEDED, &["check"]);
    assert!(checked.status.success(), "{checked:?}");
    world.take_agent().stop();
    let uninstalled = run(&["bpf"], &["uninstall"]);
    assert!(uninstalled.status.success(), "{uninstalled:?}");
    // The folder itself is a mount, so it stays.
    assert!(world.names_in(&world.pins()).is_empty(), "the folder of the pins must be empty");
}

#[test]
fn mounting_a_bpffs_needs_cap_sys_admin() {
    let world = World::builder("mounting").without_agent().start();
    let folder = world.yaml().parent().unwrap().join("mount");
    fs::create_dir(&folder).unwrap();
    let run = |capabilities: &[&str]| {
        let mut command = Command::new(confined(&world, capabilities));
        command.arg("mount-bpffs").arg(&folder);
        let output = world.output(command);
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let (done, text) = run(&NEEDED);
    assert!(!done && text.contains("CAP_SYS_ADMIN is needed"), "{text}");
    let (done, text) = run(&["sys_admin"]);
    assert!(done && text.contains("mounted a bpffs"), "{text}");
}
