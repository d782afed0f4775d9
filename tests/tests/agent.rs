//! The agent as a process: what outlives it, what it adopts when it starts, and the errors when it
//! cannot start.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use svclb_tests::{Tcp, ThirdPartyProgram, Udp, World, at, at_least, eventually};

const DIALLED: &str = "10.96.0.10:80";

#[test]
fn translation_goes_on_when_the_agent_is_killed_and_the_next_one_adopts_its_maps() {
    let world = World::new("killed");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    let b = world.backend("b", Tcp, "10.244.0.2:8080");
    let service = world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp);
    service.clone().backends([&a]).apply();
    let old = world.dial(Tcp, DIALLED).unwrap();

    world.take_agent().kill();
    for _ in 0..100 {
        assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    }
    assert_eq!(old.peer().unwrap(), at(DIALLED));

    // The next agent reads a change that was made while no agent ran.
    service.clone().backends([&b]).write();
    world.start_agent();
    world.settle();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "b");
    assert_eq!((old.peer().unwrap(), old.request().unwrap()), (at(DIALLED), "a".to_owned()));
    service.clone().backends([&a]).apply();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
}

#[test]
fn a_service_deleted_while_no_agent_ran_is_removed_by_the_next() {
    let world = World::new("away");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    let service = |name: &str, address: &str| {
        world.service(name).cluster_ip(address).port(80, Tcp).backends([&a]).apply();
    };
    service("default/goes", "10.96.0.10");
    service("default/stays", "10.96.0.11");
    world.take_agent().kill();
    world.remove("default/goes");
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a", "no agent has removed it yet");
    world.start_agent();
    world.settle();
    let error = world.dial(Tcp, DIALLED).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
    assert_eq!(world.request(Tcp, "10.96.0.11:80").unwrap(), "a");
}

#[test]
fn a_corrupted_line_is_repaired_at_the_next_start() {
    let world = World::new("rubbish");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    world.take_agent().kill();
    assert_eq!(world.corrupt_sets(), 1);
    world.start_agent();
    world.settle();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
}

#[test]
fn connects_are_translated_without_interruption_while_agents_restart() {
    let world = World::new("replaced");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    let (rounds, ()) = world.assert_uninterrupted(Tcp, DIALLED, &["a"], || {
        for round in 0..6 {
            let agent = world.take_agent();
            if round % 2 == 0 {
                agent.kill();
            } else {
                agent.stop();
            }
            world.start_agent();
        }
    });
    assert!(rounds >= at_least(100), "expected at least 100 connects, got {rounds}");
}

#[test]
fn sigterm_ends_the_agent_cleanly_and_translation_goes_on() {
    let world = World::new("sigterm");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    let status = world.take_agent().stop();
    assert!(status.success(), "{status}: {}", world.agent_log());
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    // The reading commands need no agent.
    assert_eq!(world.origins(), []);
    world.assert_maps_match();
}

#[test]
fn uninstall_detaches_and_removes_all_pins() {
    let world = World::new("uninstall");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    let socket = world.dial(Tcp, DIALLED).unwrap();
    world.take_agent().stop();
    let output = world.svclb(&["uninstall"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let error = world.dial(Tcp, DIALLED).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
    assert_eq!(socket.request().unwrap(), "a", "an established connection must go on");
    let pins = world.pins();
    let left = world.inside(move || pins.exists());
    assert!(!left, "the folder of the pins must be removed");
    // A second uninstall succeeds and changes nothing.
    let output = world.svclb(&["uninstall"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // An agent can start from nothing again.
    world.start_agent();
    world.settle();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
}

#[test]
fn a_malformed_document_rejects_only_itself_and_keeps_its_previous_state() {
    let world = World::new("malformed");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    let b = world.backend("b", Udp, "10.244.0.2:53");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    let hello = |port: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: hello, namespace: default }}\n\
             spec:\n  clusterIP: 10.96.0.10\n  clusterIPs: [10.96.0.10]\n  ports:\n\
             \x20   - {{ name: \"\", protocol: TCP, port: {port} }}\n"
        )
    };
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
                 name: hello-1\n  namespace: default\n  labels: { kubernetes.io/service-name: hello }\n\
                 addressType: IPv4\nports:\n  - { name: \"\", protocol: TCP, port: 8080 }\nendpoints:\n  \
                 - addresses: [\"10.244.0.1\"]\n";
    world.write_file("default.hello.yaml", &(hello("seventy") + slice));
    // A later change of another object has been applied, so the malformed one was read too.
    world.service("default/dns").cluster_ip("10.96.0.11").port(53, Udp).backends([&b]).apply();
    assert_eq!(world.request(Udp, "10.96.0.11:53").unwrap(), "b");
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a", "the previous state must be kept");
    eventually("the agent logs the file and the field", || {
        let log = world.agent_log();
        match ["default.hello.yaml", "port"].iter().find(|word| !log.contains(**word)) {
            None => Ok(()),
            Some(word) => Err(format!("no {word:?} in its log:\n{log}")),
        }
    });
}

#[test]
fn each_missing_requirement_is_one_line_with_advice() {
    let world = World::builder("lacks").without_agent().start();
    let (yaml, cgroup, pins) = (world.yaml(), world.cgroup().to_owned(), world.pins());
    let plain = yaml.parent().unwrap().join("plain");
    fs::create_dir(&plain).unwrap();
    let nowhere = PathBuf::from("/no/such/folder");
    let rows = [
        ("no cgroup", &yaml, &nowhere, &pins, 0, "/no/such/folder"),
        ("a folder that is not a cgroup", &yaml, &plain, &pins, 0, "cgroup2"),
        ("pins that are not on a bpffs", &yaml, &cgroup, &plain, 0, "mount -t bpf"),
        ("no YAML", &nowhere, &cgroup, &pins, 0, "/no/such/folder"),
        ("not root", &yaml, &cgroup, &pins, 65534, "root"),
    ];
    for (row, from, cgroup, pins, user, expected) in rows {
        let mut command = Command::new(world.program());
        command.arg("agent").arg("--from").arg(from).arg("--cgroup").arg(cgroup);
        command.arg("--pins").arg(pins);
        if user != 0 {
            // The user needs read access to the program.
            fs::copy(world.program(), plain.join("svclb")).unwrap();
            let mut unprivileged = Command::new(plain.join("svclb"));
            unprivileged.args(command.get_args()).uid(user).gid(user);
            command = unprivileged;
        }
        let output = world.output(command);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{row}: {stderr}");
        assert!(stderr.contains(expected), "{row}: {stderr}");
        assert_eq!(stderr.trim().lines().count(), 1, "{row}: {stderr}");
        assert_eq!(output.stdout, b"", "{row}");
    }
    let left = world.inside(move || pins.exists());
    assert!(!left, "no pin may have been created");
}

#[test]
fn an_exclusive_program_on_a_hook_is_reported_and_not_detached() {
    let world = World::builder("exclusive").without_agent().start();
    let third_party = ThirdPartyProgram::attach(world.cgroup(), true);
    let mut command = Command::new(world.program());
    command.arg("agent").arg("--from").arg(world.yaml()).arg("--pins").arg(world.pins());
    command.arg("--cgroup").arg(world.cgroup());
    let output = world.output(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.trim().lines().last().unwrap_or_default();
    assert!(!output.status.success(), "{stderr}");
    for word in ["exclusive", "connect4", "bpftool cgroup tree"] {
        assert!(last.contains(word), "no {word:?} in {stderr}");
    }
    assert!(third_party.detach(), "the program must still be attached");
    // The failed start leaves nothing behind that prevents the next one.
    world.start_agent();
}

#[test]
fn third_party_programs_on_the_same_hook_stay_attached_and_in_order() {
    let world = World::builder("beside").without_agent().start();
    let earlier = ThirdPartyProgram::attach(world.cgroup(), false);
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.start_agent();
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    let later = ThirdPartyProgram::attach(world.cgroup(), false);
    let [first, mut ours, last] = earlier.all()[..] else { panic!("{:?}", earlier.all()) };
    // Neither a start nor larger maps, both of which replace the program, change its position.
    let mut is_in_its_place = || {
        let all = earlier.all();
        assert!(all.len() == 3 && all[0] == first && all[2] == last, "{all:?}");
        assert_ne!(
            std::mem::replace(&mut ours, all[1]),
            all[1],
            "the agent's program must have been replaced"
        );
    };
    world.take_agent().kill();
    world.start_agent();
    is_in_its_place();
    for number in 0..2000 {
        let service = world.service(&format!("more/s-{number}"));
        let address = format!("10.97.{}.{}", number / 250, number % 250 + 1);
        service.cluster_ip(&address).port(80, Tcp).port(81, Tcp).port(82, Tcp).write();
    }
    world.settle();
    assert!(world.agent_log().contains("maps of other sizes are in use"), "{}", world.agent_log());
    is_in_its_place();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    world.take_agent().stop();
    assert!(world.svclb(&["uninstall"]).status.success());
    assert_eq!(earlier.all(), [first, last]);
    assert!(earlier.detach() && later.detach(), "both programs must still be attached");
}

#[test]
fn a_service_at_the_probes_address_does_not_prevent_a_start() {
    let world = World::builder("rival").without_agent().start();
    let _a = world.backend("a", Udp, "10.244.0.1:9");
    world.write_file(
        "rival.yaml",
        "{apiVersion: v1, kind: Service, metadata: {name: rival, namespace: tenant, \
         creationTimestamp: '2001-01-01T00:00:00Z'}, spec: {clusterIP: 10.96.0.66, externalIPs: \
         [192.0.2.1], ports: [{port: 9, protocol: UDP}]}}\n---\n\
         {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: rival-1, \
         namespace: tenant, labels: {kubernetes.io/service-name: rival}}, addressType: IPv4, \
         endpoints: [{addresses: [10.244.0.1]}], ports: [{name: '', port: 9, protocol: UDP}]}\n",
    );
    for round in 0..3 {
        world.start_agent();
        // The probe needed the address for a moment; now the Service has it again.
        for dialled in ["10.96.0.66:9", "192.0.2.1:9"] {
            eventually("the Service has both addresses", || match world.request(Udp, dialled) {
                Ok(name) if name == "a" => Ok(()),
                other => Err(format!("round {round}, {dialled}: {other:?}")),
            });
        }
        world.take_agent().kill();
    }
}

#[test]
fn a_conflict_of_two_services_is_logged_in_one_line() {
    let world = World::new("conflict");
    let service = |name: &str, own: &str, year: u32| {
        let external: Vec<_> = (0..100).map(|number| format!("198.18.0.{number}")).collect();
        world.write_file(
            &format!("{name}.yaml"),
            &format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: default, \
                 creationTimestamp: '{year}-01-01T00:00:00Z'}}, spec: {{clusterIP: {own}, \
                 externalIPs: [{}], ports: [{{port: 80}}]}}}}",
                external.join(", ")
            ),
        );
    };
    service("old", "10.96.0.1", 2001);
    service("young", "10.96.0.2", 2002);
    let lines = || -> Vec<String> {
        let log = world.agent_log();
        let lines = log.lines().filter(|line| line.contains("claim one frontend"));
        lines.map(str::to_owned).collect()
    };
    eventually("the conflict is logged", || {
        (!lines().is_empty()).then_some(()).ok_or_else(|| world.agent_log())
    });
    // Changes of other Services do not log the conflict again.
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).write();
    eventually("another Service is written", || match world.request(Tcp, DIALLED) {
        Ok(name) if name == "a" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let lines = lines();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    for words in ["frontends=100", "owner=default/old", "claimant=default/young", "198.18.0.0"] {
        assert!(lines[0].contains(words), "no {words} in {lines:?}");
    }
}

#[test]
fn an_agent_logs_its_last_changes_when_it_ends() {
    let world = World::new("last-words");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    let before = world.agent_log().len();
    for number in 0..3 {
        let service = world.service(&format!("default/s-{number}"));
        service.cluster_ip(&format!("10.96.1.{number}")).port(80, Tcp).backends([&a]).write();
        world.settle();
    }
    // The log is limited to one line per second; the last changes are logged at the end.
    assert!(world.take_agent().stop().success());
    let log = world.agent_log()[before..].to_owned();
    let lines = log.lines().filter(|line| line.contains("maps changed"));
    let objects =
        lines.flat_map(|line| line.split(' ')).filter_map(|it| it.strip_prefix("objects="));
    let objects: usize = objects.map(|count| count.parse::<usize>().unwrap()).sum();
    // Three Services, and the marker Service written after each.
    assert!(objects >= 6, "{log}");
}
