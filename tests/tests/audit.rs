//! A running agent that looks now and then whether the maps hold what they should.

use std::time::Duration;

use svclb_common::layout::{Origin, Record, RecordFlags};
use svclb_tests::{Feature, Tcp, Udp, World, at, eventually, holds_for};

const DIALLED: &str = "10.96.0.10:80";
/// Often, for a test.
const AUDITED: [&str; 2] = ["--audit", "1"];

#[test]
fn lines_that_somebody_spoils_are_put_right_by_the_agent_that_runs() {
    let world = World::builder("spoilt").agent_args(AUDITED).start();
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    for round in 0..3 {
        assert_eq!(world.ask(Tcp, DIALLED).unwrap(), "a", "round {round}");
        assert_eq!(world.spoil_sets(), 1, "round {round}");
        assert!(world.ask(Tcp, DIALLED).is_err(), "round {round}: the line was good after all");
        eventually("the line is right again", || match world.ask(Tcp, DIALLED) {
            Ok(name) if name == "a" => Ok(()),
            other => Err(format!("{other:?}; the log:\n{}", world.agent_log())),
        });
    }
    eventually("the log says so", || match world.agent_log() {
        log if log.contains("somebody else changed the maps") => Ok(()),
        log => Err(log),
    });
}

#[test]
fn origins_of_sockets_that_no_longer_exist_are_swept_and_live_ones_never() {
    let world = World::builder("swept").agent_args(AUDITED).start();
    let a = world.backend("a", Udp, "10.244.0.1:53");
    world.service("default/dns").cluster_ip("10.96.0.10").port(53, Udp).backends([&a]).apply();
    let dialled = "10.96.0.10:53";
    let live = world.dial(Udp, dialled).unwrap();
    let (place, origin) = world.place_of(live.cookie());
    assert_eq!((origin.cookie, origin.count), (live.cookie(), 1));
    // Both as the hooks leave a socket of the kernel's own, and one of them is gone.
    let unreleased = Origin { record: marked(origin), ..origin };
    world.put_origin(place, unreleased);
    let gone = live.cookie() + (1 << 60) + 1;
    let (beside, free) = world.place_of(gone);
    assert_eq!(free.count, 0, "the place is taken: {free:?}");
    world.put_origin(beside, Origin { cookie: gone, ..unreleased });

    // The hooks mark sockets of the machine's first network namespace then, which this agent is not in.
    if !Feature::NetnsCookie.is_there() {
        const SAID: &str = "that are gone are not looked for";
        eventually("the log says so", || match world.agent_log() {
            log if log.contains(SAID) => Ok(()),
            log => Err(log),
        });
        holds_for(Duration::from_secs(4), "nothing is swept", || {
            let counts = [gone, live.cookie()].map(|cookie| world.place_of(cookie).1.count);
            if counts == [1, 1] { Ok(()) } else { Err(format!("{counts:?}")) }
        });
        assert_eq!(world.agent_log().matches(SAID).count(), 1, "{}", world.agent_log());
        return;
    }
    eventually("the one that is gone is forgotten", || match world.place_of(gone).1.count {
        0 => Ok(()),
        count => Err(format!("count {count}; the log:\n{}", world.agent_log())),
    });
    eventually("the log says so", || match world.agent_log() {
        log if log.contains("forgot sockets of the kernel's own that are gone gone=1") => Ok(()),
        log => Err(log),
    });
    assert_eq!(world.place_of(live.cookie()).1, unreleased, "the live one's");
    assert_eq!(live.peer().unwrap(), at(dialled));
    assert_eq!(live.ask().unwrap(), "a");
    drop(live);
    world.wait_until_forgotten();
}

fn marked(origin: Origin) -> Record {
    let flags = origin.record.flags | RecordFlags::UNRELEASED;
    Record { flags, ..origin.record }
}
