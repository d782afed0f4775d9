//! `--log-bpf`: the hooks say what they decide, and nothing of it is there otherwise.

use svclb_tests::{Tcp, Udp, World, eventually};

#[test]
fn the_hooks_log_their_decisions_when_they_are_asked_to() {
    let world = World::builder("log").agent_args(["--log-bpf"]).start();
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    world.service("default/empty").cluster_ip("10.96.0.11").port(80, Udp).apply();
    assert_eq!(world.ask(Tcp, "10.96.0.10:80").unwrap(), "a");
    world.ask(Udp, "10.96.0.11:80").unwrap_err();
    assert_eq!(world.ask(Tcp, "10.244.0.1:8080").unwrap(), "a");
    // Addresses as the maps have them: IPv4 as v4-mapped.
    for expected in [
        "connect: ::ffff:10.96.0.10:80 becomes ::ffff:10.244.0.1:8080",
        "connect: ::ffff:10.96.0.11:80 refused",
        "connect: ::ffff:10.244.0.1:8080 left alone",
    ] {
        eventually(expected, || {
            let log = world.agent_log();
            if log.contains(expected) { Ok(()) } else { Err(format!("the log is:\n{log}")) }
        });
    }
}

#[test]
fn the_hooks_are_silent_when_they_are_not_asked() {
    let world = World::new("silent");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    assert_eq!(world.ask(Tcp, "10.96.0.10:80").unwrap(), "a");
    world.settle();
    assert!(!world.agent_log().contains("becomes"), "{}", world.agent_log());
}
