//! `svclb check` in a healthy world, for each kind of problem, and for checks that it cannot make.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure in a helper fails the test, with its reason"
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use svclb_tests::{Backend, Feature, Tcp, ThirdPartyProgram, Udp, World, eventually};

const DIALLED: &str = "10.96.0.10:53";
/// The values of the field `state`.
const STATES: [&str; 4] = ["ok", "warning", "error", "not_looked_at"];

/// The result of one run of `svclb check`.
struct Report {
    findings: Vec<Value>,
    is_well: bool,
    error: String,
}

impl Report {
    fn of(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        let findings: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("expected JSON ({error}): {output:?}"));
        Self {
            findings: findings.as_array().unwrap().clone(),
            is_well: output.status.success(),
            error: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// All findings of a check: subject, state, and the field `found`.
    fn all(&self, check: &str) -> Vec<[&str; 3]> {
        let of = self.findings.iter().filter(|finding| finding["check"] == check);
        of.map(|it| ["subject", "state", "found"].map(|field| it[field].as_str().unwrap()))
            .collect()
    }

    /// The state of the only finding of a check, whose text must contain these words.
    fn state(&self, check: &str, words: &[&str]) -> &str {
        let all = self.all(check);
        let [[_, state, found]] = all[..] else {
            panic!("expected one finding of {check}, got {all:?}")
        };
        for word in words {
            assert!(found.contains(word), "no {word:?} in {check}: {found}");
        }
        state
    }

    fn hook(&self, name: &str) -> [&str; 2] {
        let found = self.all("hook").into_iter().find(|[subject, ..]| *subject == name);
        let [_, state, text] =
            found.unwrap_or_else(|| panic!("no finding for hook {name}: {:?}", self.findings));
        [state, text]
    }
}

/// Creates a world with a Service that `svclb check` can dial.
fn world(name: &str) -> (World, Backend) {
    let world = World::new(name);
    let a = world.backend("a", Udp, "10.244.0.1:5353");
    world.service("default/dns").cluster_ip("10.96.0.10").port(53, Udp).backends([&a]).apply();
    (world, a)
}

fn check(world: &World) -> Report {
    Report::of(&world.svclb(&["check", "-o", "json"]))
}

/// Runs `svclb check` from a shell after the commands `before`. `$1` is the world's cgroup.
fn check_by(world: &World, wrapper: &[&str], before: &str) -> Report {
    let script = format!("set -e; {before}\n\"$2\" check -o json --pins \"$3\"");
    let arguments = [&["env"], wrapper, &["sh", "-c", &script, "sh"]].concat();
    let mut command = Command::new(arguments[0]);
    command.args(&arguments[1..]).arg(world.cgroup()).arg(world.program()).arg(world.pins());
    Report::of(&world.output(command))
}

#[test]
fn a_healthy_world_has_no_error_and_every_check_is_made() {
    let (world, a) = world("well");
    let report = check(&world);
    assert!(report.is_well, "{}{:#?}", report.error, report.findings);
    assert_eq!(report.state("kernel", &["BTF"]), "ok");
    assert_eq!(report.state("capabilities", &["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]), "ok");
    assert_eq!(report.state("pins", &[world.pins().to_str().unwrap()]), "ok");
    assert_eq!(report.state("maps", &[]), "ok");
    let hooks = report.all("hook");
    assert_eq!(hooks.len(), 9, "{hooks:?}");
    let cgroup = world.cgroup().to_str().unwrap();
    for [hook, state, found] in hooks {
        assert_eq!(state, "ok", "{hook}");
        assert!(
            found.contains(cgroup) && found.contains("which the kernel runs"),
            "{hook}: {found}"
        );
    }
    assert_eq!(report.state("programs", &["all 9"]), "ok");
    assert_eq!(report.state("others", &[]), "ok");
    let agent = world.take_agent();
    assert_eq!(report.state("agent", &[&format!("process {} ", agent.pid())]), "ok");
    assert_eq!(report.state("translation", &[DIALLED, "10.244.0.1:5353"]), "ok");
    let features = report.all("feature");
    assert_eq!(features.len(), 4);
    let [set_retval, netns_cookie] = [Feature::SetRetval, Feature::NetnsCookie];
    let rows = [set_retval, netns_cookie].map(|feature| (feature.name(), feature.is_supported()));
    // On every kernel that tests run on, the BTF has the position of the bit.
    for (name, is_there) in rows.into_iter().chain([("kern_sock", true)]) {
        let found = features.iter().find(|[it, ..]| *it == name).unwrap();
        let expected = if is_there { "used: " } else { "replaced: " };
        assert!(found[1] == "ok" && found[2].starts_with(expected), "{found:?}");
    }
    // The world's cgroup is not the root, and this test runs outside.
    assert_eq!(report.state("cgroup", &[cgroup]), "warning");
    assert_eq!(report.state("processes", &["outside"]), "warning");
    // The check leaves no trace.
    assert_eq!(a.hits(), 0);
    assert_eq!(world.origins(), []);
    let probes = fs::read_dir(world.cgroup()).unwrap().flatten();
    assert_eq!(
        probes.filter(|it| it.path().is_dir()).count(),
        0,
        "the cgroup of the check must be removed"
    );
}

#[test]
fn the_json_output_has_the_documented_fields_and_words() {
    let (world, _a) = world("shape");
    let manual = include_str!("../../docs/commands.md");
    let (_, section) = manual.split_once("## svclb check\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let report = check(&world);
    for finding in &report.findings {
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
    // The table for people has one line per finding below the headings.
    let table = world.svclb(&["check"]).stdout;
    let table = String::from_utf8(table).unwrap();
    assert_eq!(table.lines().count(), report.findings.len() + 1, "{table}");
    let yaml = world.svclb(&["check", "-o", "yaml"]).stdout;
    let yaml: Vec<Value> = serde_saphyr::from_str(&String::from_utf8(yaml).unwrap()).unwrap();
    assert_eq!(yaml.len(), report.findings.len());
}

#[test]
fn a_detached_hook_is_an_error_and_translation_is_not_reported_as_ok() {
    let (world, _a) = world("detached");
    // A running agent would attach it again.
    world.take_agent().kill();
    world.detach("connect4");
    let report = check(&world);
    assert!(
        !report.is_well && report.error.contains("checks found something wrong"),
        "{}",
        report.error
    );
    let [state, found] = report.hook("connect4");
    assert!(state == "error" && found.contains("detached"), "{state}: {found}");
    assert_eq!(report.hook("connect6")[0], "ok");
    for check in ["programs", "others", "cgroup", "processes", "translation"] {
        assert_ne!(
            report.state(check, &[]),
            "ok",
            "{check} must not be ok while a hook is detached"
        );
    }
    // A missing pin is a different finding.
    world.unpin(&world.pinned("links", "connect6"));
    let [state, found] = check(&world).hook("connect6").map(str::to_owned);
    assert!(state == "error" && found.contains("is not there"), "{state}: {found}");
}

#[test]
fn a_missing_agent_is_an_error_and_translation_is_still_ok() {
    let (world, _a) = world("killed");
    let agent = world.take_agent();
    let pid = agent.pid();
    agent.kill();
    let report = check(&world);
    assert!(!report.is_well);
    assert_eq!(report.state("agent", &["no agent", &format!("process {pid}")]), "error");
    assert_eq!(report.state("translation", &["10.244.0.1:5353"]), "ok");
    assert!(report.all("hook").iter().all(|[_, state, _]| *state == "ok"));
    let wrong = report.findings.iter().filter(|it| it["state"] == "error").count();
    assert_eq!(wrong, 1, "{:#?}", report.findings);
}

#[test]
fn without_an_installation_no_check_of_it_is_ok() {
    let world = World::builder("nothing").without_agent().start();
    let report = check(&world);
    assert!(!report.is_well);
    assert_eq!(report.state("pins", &["nothing is installed"]), "error");
    for check in
        ["maps", "hook", "programs", "others", "cgroup", "processes", "agent", "translation"]
    {
        let state = report.state(check, &[]);
        assert!(state == "error" || state == "not_looked_at", "{check}: {state}");
    }
}

#[test]
fn checks_that_lack_a_capability_are_not_reported_as_ok() {
    let (world, _a) = world("bare");
    let wrapper = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
    let report = check_by(&world, &wrapper, "");
    let lacks = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"];
    assert_eq!(report.state("capabilities", &lacks), "warning");
    for check in ["programs", "others"] {
        assert_eq!(report.state(check, &["because"]), "not_looked_at", "{check}");
    }
    for [feature, state, _] in report.all("feature") {
        let needs_capability = ["set_retval", "kern_sock"].contains(&feature);
        assert_eq!(state == "not_looked_at", needs_capability, "{feature}: {state}");
    }
    // The capabilities of an agent suffice for all checks.
    let wrapper = ["setpriv", "--bounding-set=-all,+bpf,+net_admin,+perfmon", "--inh-caps=-all"];
    let report = check_by(&world, &wrapper, "");
    let unseen: Vec<&Value> =
        report.findings.iter().filter(|it| it["state"] == "not_looked_at").collect();
    assert!(unseen.is_empty(), "{unseen:#?}");
    assert_eq!(report.state("programs", &["all 9"]), "ok");
}

#[test]
fn a_pins_folder_open_to_other_users_is_an_error() {
    let (world, _a) = world("open");
    // A running agent would restore the mode.
    world.take_agent().kill();
    let folder = world.version();
    let name = folder.display().to_string();
    world.inside(move || {
        fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    });
    let report = check(&world);
    assert!(!report.is_well);
    assert_eq!(report.state("pins", &[&name, "open to others"]), "error");
}

#[test]
fn third_party_programs_on_the_hooks_are_reported_in_every_cgroup() {
    let (world, _a) = world("others");
    let below = world.cgroup().join("below");
    fs::create_dir(&below).unwrap();
    let on = |cgroup: &Path| {
        let third_party = ThirdPartyProgram::attach(cgroup, false);
        let report = check(&world);
        assert!(report.is_well, "{}", report.error);
        let found = report.all("others")[0];
        assert_eq!(found[1], "warning", "{found:?}");
        assert!(third_party.detach());
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
    let report = check_by(&world, &alone, "");
    assert!(report.is_well, "{}", report.error);
    assert_eq!(
        report.state("processes", &["2 of 2 processes are outside", "1 sh in /"]),
        "warning"
    );
    assert_eq!(report.state("translation", &["10.244.0.1:5353"]), "ok");
    // In the cgroup both are served. Other processes of the machine are not visible.
    let enter = "echo 0 > \"$1/cgroup.procs\"";
    let report = check_by(&world, &alone, enter);
    assert_eq!(report.state("processes", &["does not show"]), "not_looked_at");
    assert_eq!(report.state("translation", &["10.244.0.1:5353"]), "ok");
    // Another child, which is in the cgroup, leaves two of three processes outside.
    let child = "(echo 0 > \"$1/cgroup.procs\"; exec sleep 100) & until grep -q . \
                 \"$1/cgroup.procs\"; do :; done; trap 'kill $!' EXIT";
    let report = check_by(&world, &alone, child);
    assert_eq!(report.state("processes", &["2 of 3 processes are outside"]), "warning");
}

#[test]
fn the_apparent_root_of_a_cgroup_namespace_is_not_taken_for_the_root() {
    let (world, _a) = world("namespace");
    let pod = world.cgroup().join("pod");
    fs::create_dir(&pod).unwrap();
    // The view of a pod: its own cgroup is `/` in /proc, and those of the node are above it.
    let inside = "echo 0 > \"$1/pod/cgroup.procs\"; set -- \"$1\" \"$2\" \"$3\"";
    let script = "exec unshare --cgroup \"$2\" check -o json --pins \"$3\"";
    let report = check_by(&world, &[], &format!("{inside}; {script}"));
    assert!(report.is_well, "{}", report.error);
    assert_eq!(report.state("cgroup", &["is not the root", "cgroup namespace"]), "warning");
    assert_eq!(report.state("processes", &["outside", " in /.."]), "warning");
    assert_eq!(report.state("translation", &["10.244.0.1:5353"]), "ok");
}

#[test]
fn only_a_udp_service_without_affinity_is_dialled_by_the_check() {
    let world = World::new("tcp-only");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    let b = world.backend("b", Udp, "10.244.0.2:53");
    world.service("default/web").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    let sticky = world.service("default/sticky").cluster_ip("10.96.0.11").affinity(600);
    sticky.port(53, Udp).backends([&b]).apply();
    let report = check(&world);
    assert!(report.is_well, "{}", report.error);
    assert_eq!(report.state("agent", &["a connection of its own translated"]), "ok");
    assert_eq!(report.state("translation", &["session affinity"]), "not_looked_at");
    assert_eq!((a.hits(), b.hits()), (0, 0));
}

#[test]
fn the_agent_logs_that_processes_are_outside_of_its_cgroup() {
    let (world, _a) = world("warns");
    let log = world.agent_log();
    let lines = log.lines().filter(|line| line.contains("not every process may be served")).count();
    assert_eq!(lines, 1, "{log}");
    assert!(log.contains("processes are outside, such as"), "{log}");
}

#[test]
fn rejected_objects_are_counted_and_logged_per_namespace() {
    let (world, _a) = world("rejected");
    let reject = |namespace: &str, name: usize| {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: s{name}, namespace: {namespace}}}, \
             spec: {{clusterIP: none.of.these, ports: [{{port: 80}}]}}}}\n"
        )
    };
    world.write_file("noisy.yaml", &(0..28).map(|name| reject("noisy", name)).collect::<String>());
    let words = ["heard", "28 rejected"];
    eventually("28 rejected objects are counted", || match &check(&world).all("source")[..] {
        [[subject, state, found]] if words.iter().all(|word| found.contains(word)) => {
            assert_eq!((*subject, *state), ("files", "warning"));
            Ok(())
        }
        other => Err(format!("{other:?}")),
    });
    // The log has not caught up with the lines of the other namespace yet.
    world.write_file("quiet.yaml", &reject("quiet", 0));
    eventually("the object of the other namespace is logged", || {
        let log = world.agent_log();
        if log.contains("Service quiet/s0") { Ok(()) } else { Err(log) }
    });
    eventually("all rejected objects are logged in the end", || {
        let log = world.agent_log();
        let missing: Vec<usize> =
            (0..28).filter(|name| !log.contains(&format!("Service noisy/s{name}:"))).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} of:\n{log}")) }
    });
    for file in ["noisy.yaml", "quiet.yaml"] {
        world.write_file(file, "# nothing\n");
    }
    eventually("corrected objects are no longer counted", || {
        let report = check(&world);
        let state = report.state("source", &["heard"]);
        if state == "ok" { Ok(()) } else { Err(format!("{:?}", report.all("source"))) }
    });
}
