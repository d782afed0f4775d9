//! `svclb check`: what it says of a world that is well, of each thing that is wrong, and of what it could
//! not look at.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: what fails in them fails the test, with its reason"
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use svclb_tests::{Backend, Feature, Tcp, ThirdPartyProgram, Udp, World, eventually};

const DIALLED: &str = "10.96.0.10:53";
/// Words of the field `state`.
const STATES: [&str; 4] = ["ok", "warning", "error", "not_looked_at"];

/// What a check said.
struct Said {
    findings: Vec<Value>,
    is_well: bool,
    error: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        let findings: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {output:?}"));
        Self {
            findings: findings.as_array().unwrap().clone(),
            is_well: output.status.success(),
            error: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Every finding of a check: subject, state, and what was found.
    fn all(&self, check: &str) -> Vec<[&str; 3]> {
        let of = self.findings.iter().filter(|finding| finding["check"] == check);
        of.map(|it| ["subject", "state", "found"].map(|field| it[field].as_str().unwrap()))
            .collect()
    }

    /// The state of the only one, which must have found these words.
    fn state(&self, check: &str, words: &[&str]) -> &str {
        let all = self.all(check);
        let [[_, state, found]] = all[..] else { panic!("not one {check}: {all:?}") };
        for word in words {
            assert!(found.contains(word), "no {word:?} in {check}: {found}");
        }
        state
    }

    fn hook(&self, name: &str) -> [&str; 2] {
        let found = self.all("hook").into_iter().find(|[subject, ..]| *subject == name);
        let [_, state, text] =
            found.unwrap_or_else(|| panic!("no hook {name}: {:?}", self.findings));
        [state, text]
    }
}

/// A world with a Service that `check` can dial.
fn world(name: &str) -> (World, Backend) {
    let world = World::new(name);
    let a = world.backend("a", Udp, "10.244.0.1:5353");
    world.service("default/dns").cluster_ip("10.96.0.10").port(53, Udp).backends([&a]).apply();
    (world, a)
}

fn check(world: &World) -> Said {
    Said::of(&world.svclb(&["check", "-o", "json"]))
}

/// Runs it by a shell, which first does what `before` says; `$1` is the world's cgroup.
fn check_by(world: &World, wrapper: &[&str], before: &str) -> Said {
    let script = format!("set -e; {before}\n\"$2\" check -o json --pins \"$3\"");
    let arguments = [&["env"], wrapper, &["sh", "-c", &script, "sh"]].concat();
    let mut command = Command::new(arguments[0]);
    command.args(&arguments[1..]).arg(world.cgroup()).arg(world.program()).arg(world.pins());
    Said::of(&world.output(command))
}

#[test]
fn a_world_that_is_well_has_no_error_and_each_thing_was_looked_at() {
    let (world, a) = world("well");
    let said = check(&world);
    assert!(said.is_well, "{}{:#?}", said.error, said.findings);
    assert_eq!(said.state("kernel", &["BTF"]), "ok");
    assert_eq!(said.state("capabilities", &["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]), "ok");
    assert_eq!(said.state("pins", &[world.pins().to_str().unwrap()]), "ok");
    assert_eq!(said.state("maps", &[]), "ok");
    let hooks = said.all("hook");
    assert_eq!(hooks.len(), 9, "{hooks:?}");
    let cgroup = world.cgroup().to_str().unwrap();
    for [hook, state, found] in hooks {
        assert_eq!(state, "ok", "{hook}");
        assert!(
            found.contains(cgroup) && found.contains("which the kernel runs"),
            "{hook}: {found}"
        );
    }
    assert_eq!(said.state("programs", &["all 9"]), "ok");
    assert_eq!(said.state("others", &[]), "ok");
    let agent = world.take_agent();
    assert_eq!(said.state("agent", &[&format!("process {} ", agent.pid())]), "ok");
    assert_eq!(said.state("translation", &[DIALLED, "10.244.0.1:5353"]), "ok");
    let features = said.all("feature");
    assert_eq!(features.len(), 4);
    let [set_retval, netns_cookie] = [Feature::SetRetval, Feature::NetnsCookie];
    let rows = [set_retval, netns_cookie].map(|feature| (feature.name(), feature.is_supported()));
    // Every kernel that tests run on says where the bit is.
    for (name, is_there) in rows.into_iter().chain([("kern_sock", true)]) {
        let found = features.iter().find(|[it, ..]| *it == name).unwrap();
        let expected = if is_there { "used: " } else { "replaced: " };
        assert!(found[1] == "ok" && found[2].starts_with(expected), "{found:?}");
    }
    // The world's cgroup is not the machine's, and this test is not in it.
    assert_eq!(said.state("cgroup", &[cgroup]), "warning");
    assert_eq!(said.state("processes", &["outside"]), "warning");
    // Nobody noticed.
    assert_eq!(a.hits(), 0);
    assert_eq!(world.origins(), []);
    let probes = fs::read_dir(world.cgroup()).unwrap().flatten();
    assert_eq!(probes.filter(|it| it.path().is_dir()).count(), 0, "its own cgroup is gone");
}

#[test]
fn its_json_is_what_the_manual_says() {
    let (world, _a) = world("shape");
    let manual = include_str!("../../docs/commands.md");
    let (_, section) = manual.split_once("## svclb check\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let said = check(&world);
    for finding in &said.findings {
        let mut fields: Vec<&String> = finding.as_object().unwrap().keys().collect();
        fields.sort_unstable();
        assert_eq!(fields, ["advice", "check", "found", "state", "subject"]);
        for field in fields {
            assert!(section.contains(&format!("| `{field}` |")), "{field} is not in the manual");
            assert!(finding[field].is_string(), "{finding}");
        }
        assert!(STATES.contains(&finding["state"].as_str().unwrap()), "{finding}");
        let check = finding["check"].as_str().unwrap();
        assert!(section.contains(&format!("| `{check}` |")), "{check} is not in the manual");
        if ["warning", "error"].contains(&finding["state"].as_str().unwrap()) {
            assert_ne!(finding["advice"], "", "{finding}");
        }
    }
    for state in STATES {
        assert!(section.contains(&format!("`{state}`")), "{state} is not in the manual");
    }
    // For people: one line each, below the headings.
    let table = world.svclb(&["check"]).stdout;
    let table = String::from_utf8(table).unwrap();
    assert_eq!(table.lines().count(), said.findings.len() + 1, "{table}");
    let yaml = world.svclb(&["check", "-o", "yaml"]).stdout;
    let yaml: Vec<Value> = serde_saphyr::from_str(&String::from_utf8(yaml).unwrap()).unwrap();
    assert_eq!(yaml.len(), said.findings.len());
}

#[test]
fn a_hook_that_somebody_detached_is_wrong_and_translation_is_not_said_to_work() {
    let (world, _a) = world("detached");
    // It would be put back.
    world.take_agent().kill();
    world.detach("connect4");
    let said = check(&world);
    assert!(!said.is_well && said.error.contains("checks found something wrong"), "{}", said.error);
    let [state, found] = said.hook("connect4");
    assert!(state == "error" && found.contains("detached"), "{state}: {found}");
    assert_eq!(said.hook("connect6")[0], "ok");
    for check in ["programs", "others", "cgroup", "processes", "translation"] {
        assert_ne!(said.state(check, &[]), "ok", "{check} was not seen on every hook");
    }
    // A pin that is gone is another thing.
    world.unpin(&world.pinned("links", "connect6"));
    let [state, found] = check(&world).hook("connect6").map(str::to_owned);
    assert!(state == "error" && found.contains("is not there"), "{state}: {found}");
}

#[test]
fn without_an_agent_that_is_wrong_and_translation_still_works() {
    let (world, _a) = world("killed");
    let agent = world.take_agent();
    let pid = agent.pid();
    agent.kill();
    let said = check(&world);
    assert!(!said.is_well);
    assert_eq!(said.state("agent", &["no agent", &format!("process {pid}")]), "error");
    assert_eq!(said.state("translation", &["10.244.0.1:5353"]), "ok");
    assert!(said.all("hook").iter().all(|[_, state, _]| *state == "ok"));
    let wrong = said.findings.iter().filter(|it| it["state"] == "error").count();
    assert_eq!(wrong, 1, "{:#?}", said.findings);
}

#[test]
fn where_nothing_is_installed_nothing_of_it_is_ok() {
    let world = World::builder("nothing").without_agent().start();
    let said = check(&world);
    assert!(!said.is_well);
    assert_eq!(said.state("pins", &["nothing is installed"]), "error");
    for check in
        ["maps", "hook", "programs", "others", "cgroup", "processes", "agent", "translation"]
    {
        let state = said.state(check, &[]);
        assert!(state == "error" || state == "not_looked_at", "{check}: {state}");
    }
}

#[test]
fn what_it_may_not_look_at_it_does_not_call_ok() {
    let (world, _a) = world("bare");
    let wrapper = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
    let said = check_by(&world, &wrapper, "");
    let lacks = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"];
    assert_eq!(said.state("capabilities", &lacks), "warning");
    for check in ["programs", "others"] {
        assert_eq!(said.state(check, &["because"]), "not_looked_at", "{check}");
    }
    for [feature, state, _] in said.all("feature") {
        let is_asked = ["set_retval", "kern_sock"].contains(&feature);
        assert_eq!(state == "not_looked_at", is_asked, "{feature}: {state}");
    }
    // What an agent has is enough for all of it.
    let wrapper = ["setpriv", "--bounding-set=-all,+bpf,+net_admin,+perfmon", "--inh-caps=-all"];
    let said = check_by(&world, &wrapper, "");
    let unseen: Vec<&Value> =
        said.findings.iter().filter(|it| it["state"] == "not_looked_at").collect();
    assert!(unseen.is_empty(), "{unseen:#?}");
    assert_eq!(said.state("programs", &["all 9"]), "ok");
}

#[test]
fn folders_of_pins_that_others_may_open_are_wrong() {
    let (world, _a) = world("open");
    // It would close it.
    world.take_agent().kill();
    let folder = world.version();
    let name = folder.display().to_string();
    world.inside(move || {
        fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    });
    let said = check(&world);
    assert!(!said.is_well);
    assert_eq!(said.state("pins", &[&name, "open to others"]), "error");
}

#[test]
fn programs_of_others_on_the_hooks_are_named_wherever_they_are() {
    let (world, _a) = world("others");
    let below = world.cgroup().join("below");
    fs::create_dir(&below).unwrap();
    let on = |cgroup: &Path| {
        let stranger = ThirdPartyProgram::attach(cgroup, false);
        let said = check(&world);
        assert!(said.is_well, "{}", said.error);
        let found = said.all("others")[0];
        assert_eq!(found[1], "warning", "{found:?}");
        assert!(stranger.detach());
        found[2].to_owned()
    };
    let found = on(world.cgroup());
    assert!(found.starts_with("connect4 has "), "{found}");
    let found = on(&below);
    assert!(found.contains(below.to_str().unwrap()), "{found}");
    assert_eq!(check(&world).state("others", &[]), "ok");
}

#[test]
fn processes_outside_of_the_cgroup_are_counted_and_named() {
    let (world, _a) = world("outside");
    // A pid namespace with two processes: the shell and the command.
    let alone = ["unshare", "--pid", "--fork", "--mount-proc"];
    let said = check_by(&world, &alone, "");
    assert!(said.is_well, "{}", said.error);
    assert_eq!(said.state("processes", &["2 of 2 processes are outside", "1 sh in /"]), "warning");
    assert_eq!(said.state("translation", &["10.244.0.1:5353"]), "ok");
    // In the cgroup both are served, and of the machine's others nothing is known.
    let enter = "echo 0 > \"$1/cgroup.procs\"";
    let said = check_by(&world, &alone, enter);
    assert_eq!(said.state("processes", &["does not show"]), "not_looked_at");
    assert_eq!(said.state("translation", &["10.244.0.1:5353"]), "ok");
    // Without `$1` in it, one of the two.
    let child = "(echo 0 > \"$1/cgroup.procs\"; exec sleep 100) & until grep -q . \
                 \"$1/cgroup.procs\"; do :; done; trap 'kill $!' EXIT";
    let said = check_by(&world, &alone, child);
    assert_eq!(said.state("processes", &["2 of 3 processes are outside"]), "warning");
}

#[test]
fn in_a_cgroup_namespace_what_looks_like_the_root_is_not_taken_for_it() {
    let (world, _a) = world("namespace");
    let pod = world.cgroup().join("pod");
    fs::create_dir(&pod).unwrap();
    // As a pod sees it: its own cgroup is `/` in /proc, and the node's are above it.
    let inside = "echo 0 > \"$1/pod/cgroup.procs\"; set -- \"$1\" \"$2\" \"$3\"";
    let script = "exec unshare --cgroup \"$2\" check -o json --pins \"$3\"";
    let said = check_by(&world, &[], &format!("{inside}; {script}"));
    assert!(said.is_well, "{}", said.error);
    assert_eq!(said.state("cgroup", &["is not the root", "cgroup namespace"]), "warning");
    assert_eq!(said.state("processes", &["outside", " in /.."]), "warning");
    assert_eq!(said.state("translation", &["10.244.0.1:5353"]), "ok");
}

#[test]
fn without_a_service_that_can_be_dialled_unnoticed_none_is_dialled() {
    let world = World::new("tcp-only");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    let b = world.backend("b", Udp, "10.244.0.2:53");
    world.service("default/web").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    let sticky = world.service("default/sticky").cluster_ip("10.96.0.11").affinity(600);
    sticky.port(53, Udp).backends([&b]).apply();
    let said = check(&world);
    assert!(said.is_well, "{}", said.error);
    assert_eq!(said.state("agent", &["a connection of its own translated"]), "ok");
    assert_eq!(said.state("translation", &["session affinity"]), "not_looked_at");
    assert_eq!((a.hits(), b.hits()), (0, 0));
}

#[test]
fn the_agent_says_when_its_cgroup_does_not_hold_every_process() {
    let (world, _a) = world("warns");
    let log = world.agent_log();
    let told = log.lines().filter(|line| line.contains("not every process may be served")).count();
    assert_eq!(told, 1, "{log}");
    assert!(log.contains("processes are outside, such as"), "{log}");
}

#[test]
fn rejected_objects_are_counted_and_each_namespace_has_its_own_lines_in_the_log() {
    let (world, _a) = world("rejected");
    let reject = |namespace: &str, name: usize| {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: s{name}, namespace: {namespace}}}, \
             spec: {{clusterIP: none.of.these, ports: [{{port: 80}}]}}}}\n"
        )
    };
    world.write_file("noisy.yaml", &(0..28).map(|name| reject("noisy", name)).collect::<String>());
    let words = ["heard", "28 rejected"];
    eventually("the rejects are counted", || match &check(&world).all("source")[..] {
        [[subject, state, found]] if words.iter().all(|word| found.contains(word)) => {
            assert_eq!((*subject, *state), ("files", "warning"));
            Ok(())
        }
        other => Err(format!("{other:?}")),
    });
    // The log still owes the other file lines.
    world.write_file("quiet.yaml", &reject("quiet", 0));
    eventually("the other file is named", || {
        let log = world.agent_log();
        if log.contains("Service quiet/s0") { Ok(()) } else { Err(log) }
    });
    eventually("all are named in the end", || {
        let log = world.agent_log();
        let missing: Vec<usize> =
            (0..28).filter(|name| !log.contains(&format!("Service noisy/s{name}:"))).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} of:\n{log}")) }
    });
    for file in ["noisy.yaml", "quiet.yaml"] {
        world.write_file(file, "# nothing\n");
    }
    eventually("none is counted once they are corrected", || {
        let said = check(&world);
        let state = said.state("source", &["heard"]);
        if state == "ok" { Ok(()) } else { Err(format!("{:?}", said.all("source"))) }
    });
}
