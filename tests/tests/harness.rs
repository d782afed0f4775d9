//! The harness itself: the behaviour that every other test relies on.

use std::path::Path;

use svclb_tests::{
    ForkedChild, Kind, SocketInFlight, Tcp, ThirdPartyProgram, Udp, World, at, eventually,
};

#[test]
fn a_client_reaches_a_backend_that_it_dials_directly() {
    let world = World::builder("direct").without_agent().start();
    let rows = [
        (Tcp, "10.244.0.1:8080"),
        (Udp, "10.244.0.1:8080"),
        (Tcp, "[fd00:244::1]:8080"),
        (Udp, "[fd00:244::1]:8080"),
    ];
    for (protocol, address) in rows {
        let backend = world.backend("a", protocol, address);
        assert_eq!(world.request(protocol, address).unwrap(), "a", "{protocol:?} {address}");
        assert_eq!(backend.hits(), 1, "{protocol:?} {address}");
    }
}

#[test]
fn an_untranslated_connect_fails_and_no_packet_leaves() {
    let world = World::builder("prohibited").without_agent().start();
    for address in ["10.96.0.1:80", "[fd00:96::1]:80"] {
        for protocol in [Tcp, Udp] {
            let error = world.dial(protocol, address).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{protocol:?} {address}: {error}");
        }
    }
    for address in ["192.0.2.1:80", "[2001:db8::1]:80"] {
        let error = world.dial(Udp, address).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH), "{address}: {error}");
    }
}

#[test]
fn sockets_of_a_client_belong_to_the_world() {
    let world = World::builder("sockets").without_agent().start();
    let members = std::fs::read_to_string(world.cgroup().join("cgroup.procs")).unwrap();
    assert_eq!(
        members.lines().count(),
        1,
        "expected only the socket factory in the cgroup: {members:?}"
    );
    assert_ne!(members.trim(), std::process::id().to_string());
    let sockets = world.sockets(Kind::Udp4, 1000);
    assert_eq!(sockets.len(), 1000);
    sockets[0].dial("10.244.0.1:9").unwrap();
    assert_eq!(sockets[0].peer().unwrap(), at("10.244.0.1:9"));
    sockets[0].disconnect().unwrap();
    assert_eq!(sockets[0].peer().unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
}

#[test]
fn a_stopped_backend_refuses_and_can_be_started_again() {
    let world = World::builder("stop").without_agent().start();
    let mut first = world.backend("first", Tcp, "10.244.0.1:8080");
    let connection = world.dial(Tcp, &first).unwrap();
    assert_eq!(connection.request().unwrap(), "first");
    first.stop();
    let error = world.request(Tcp, &first).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");
    let _second = world.backend("second", Tcp, "10.244.0.1:8080");
    assert_eq!(world.request(Tcp, &first).unwrap(), "second");
}

#[test]
fn a_world_is_removed_also_when_its_test_fails() {
    let failed = std::thread::spawn(|| {
        let world = World::builder("failing").without_agent().start();
        let folder = world.yaml().parent().unwrap().to_owned();
        std::panic::panic_any((world.cgroup().to_owned(), folder));
    });
    let left = failed.join().unwrap_err();
    let (cgroup, folder) = left.downcast_ref::<(std::path::PathBuf, std::path::PathBuf)>().unwrap();
    let is_removed =
        |path: &Path| if path.exists() { Err("it still exists".to_owned()) } else { Ok(()) };
    eventually("the cgroup is removed", || is_removed(cgroup));
    eventually("the folder is removed", || is_removed(folder));
}

#[test]
fn a_socket_survives_a_fork_and_descriptor_passing() {
    let world = World::builder("hands").without_agent().start();
    let _backend = world.backend("a", Tcp, "10.244.0.1:8080");
    let socket = world.dial(Tcp, "10.244.0.1:8080").unwrap();
    let cookie = socket.cookie();
    let child = ForkedChild::of(&socket);
    assert_eq!(child.peer().unwrap(), at("10.244.0.1:8080"));
    let socket = SocketInFlight::of(socket).take();
    assert_eq!(socket.cookie(), cookie);
    assert_eq!(socket.request().unwrap(), "a");
}

#[test]
fn a_third_party_program_is_attached_until_it_is_detached() {
    let world = World::builder("third-party").without_agent().start();
    for is_exclusive in [true, false] {
        assert!(ThirdPartyProgram::attach(world.cgroup(), is_exclusive).detach());
    }
}
