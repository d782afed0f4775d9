//! Marks of backends in the index (docs/decisions/0007): gone with the backends, unless a socket remembers
//! one.

use svclb_tests::{Endpoint, Kind, Tcp, Udp, World, at, eventually};

/// Few lines, so that few endpoints mark most of them.
const SMALL: [&str; 4] = ["--index-lines", "64", "--slots", "512"];
/// So many endpoints at a time, so often others.
const ENDPOINTS: u16 = 50;
const ROUNDS: u16 = 60;

#[test]
fn marks_of_former_backends_go_and_a_socket_that_remembers_one_is_told_the_truth() {
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
    // What they were given is no backend any more.
    world.remove("default/kept");
    let most = |(set, all): (u32, u32)| f64::from(set) / f64::from(all);
    let mut highest = 0.0_f64;
    for round in 0..ROUNDS {
        let endpoints = (0..ENDPOINTS).map(|number| {
            let [high, low] = (round * ENDPOINTS + number).to_be_bytes();
            Endpoint::from(at(&format!("10.245.{high}.{low}:8080")))
        });
        let service = world.service("default/random").cluster_ip("10.96.0.11");
        service.port(80, Tcp).backends(endpoints).apply();
        highest = highest.max(most(world.marks()));
    }
    assert!(highest > 0.2, "many marks were set: {highest}");
    world.remove("default/random");
    world.settle();
    // An agent that looks often. The marks are in the maps, and go on to be.
    world.take_agent().kill();
    let yaml = world.yaml();
    let source = ["--from".as_ref(), yaml.as_os_str(), "--audit".as_ref(), "1".as_ref()];
    world.start_agent_with(&source);
    eventually("the marks are gone", || match most(world.marks()) {
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
