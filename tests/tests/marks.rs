//! Marks of backends in the index (docs/decisions/0007): they are cleared when their backends are
//! removed, unless a socket still has a record of one.

use svclb_tests::{Endpoint, Kind, Tcp, Udp, World, at, eventually};

/// Few lines, so that few endpoints mark most of them.
const SMALL: [&str; 4] = ["--index-lines", "64", "--slots", "512"];
/// Endpoints at a time, and the number of times they are replaced.
const ENDPOINTS: u16 = 50;
const ROUNDS: u16 = 60;

#[test]
fn marks_of_removed_backends_are_cleared_and_recorded_sockets_still_see_the_right_peer() {
    let world = World::builder("marks").agent_args(SMALL).start();
    let tcp = world.backend("a", Tcp, "10.244.0.1:8080");
    let udp = world.backend("a", Udp, "10.244.0.1:8080");
    let service = world.service("default/kept").cluster_ip("10.96.0.10");
    service.port(80, Tcp).backends([&tcp]).port(80, Udp).backends([&udp]).apply();
    let dialled = "10.96.0.10:80";
    let sockets = [Kind::Tcp4, Kind::Udp4].map(|kind| {
        let socket = world.socket(kind);
        socket.dial(dialled).unwrap();
        assert_eq!(socket.request().unwrap(), "a");
        socket.disconnect().unwrap();
        socket
    });
    // The backends that the sockets were given are removed.
    world.remove("default/kept");
    let share_set = |(set, all): (u32, u32)| f64::from(set) / f64::from(all);
    let mut highest = 0.0_f64;
    for round in 0..ROUNDS {
        let endpoints = (0..ENDPOINTS).map(|number| {
            let [high, low] = (round * ENDPOINTS + number).to_be_bytes();
            Endpoint::from(at(&format!("10.245.{high}.{low}:8080")))
        });
        let service = world.service("default/random").cluster_ip("10.96.0.11");
        service.port(80, Tcp).backends(endpoints).apply();
        highest = highest.max(share_set(world.marks()));
    }
    assert!(highest > 0.2, "expected many marks to be set: {highest}");
    world.remove("default/random");
    world.settle();
    // The agent restarts with a short audit interval. The marks are kept in the maps.
    world.take_agent().kill();
    let yaml = world.yaml();
    let source = ["--from".as_ref(), yaml.as_os_str(), "--audit".as_ref(), "1".as_ref()];
    world.start_agent_with(&source);
    eventually("the marks are cleared", || match share_set(world.marks()) {
        few if few < 0.01 => Ok(()),
        many => Err(format!("{many} of them are set; the log:\n{}", world.agent_log())),
    });
    for (socket, backend) in sockets.iter().zip([&tcp, &udp]) {
        socket.dial(backend).unwrap();
        assert_eq!(socket.peer().unwrap(), backend.address(), "{:?}", backend.protocol());
        assert_eq!(socket.request().unwrap(), "a");
    }
    assert_eq!(world.origins(), []);
}
