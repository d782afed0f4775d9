//! The audit: a running agent compares the maps with the desired state and repairs them.

use svclb_tests::{Tcp, World, eventually};

const DIALLED: &str = "10.96.0.10:80";
/// A short interval of the audit.
const AUDITED: [&str; 2] = ["--audit", "1"];

#[test]
fn corrupted_lines_are_repaired_by_the_running_agent() {
    let world = World::builder("spoilt").agent_args(AUDITED).start();
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    for round in 0..3 {
        assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a", "round {round}");
        assert_eq!(world.corrupt_sets(), 1, "round {round}");
        assert!(
            world.request(Tcp, DIALLED).is_err(),
            "round {round}: the corrupted line must not translate"
        );
        eventually("the line is repaired", || match world.request(Tcp, DIALLED) {
            Ok(name) if name == "a" => Ok(()),
            other => Err(format!("{other:?}; the log:\n{}", world.agent_log())),
        });
    }
    eventually("the repair is logged", || match world.agent_log() {
        log if log.contains("another program changed the maps") => Ok(()),
        log => Err(log),
    });
}
