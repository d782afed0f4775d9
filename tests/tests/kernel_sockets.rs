//! Sockets of the kernel itself, for which it runs no sock_release: no origin is recorded for them,
//! because it would never be freed. MPTCP sockets are tested in the file `tcp`.

use socket2::{Domain, Type};
use svclb_tests::{Kind, Tcp, Udp, World, at};

/// More than one connect, and few enough for an emulator.
const CONNECTS: usize = 20;
/// An agent with default settings, and one that cannot recognize the kernel's sockets; with the number
/// of origins that each connect leaves.
const AGENTS: [(&str, &[&str], usize); 2] =
    [("default", &[], 0), ("without", &["--without", "kern-sock"], 1)];

fn world(name: &str, arguments: &[&str]) -> World {
    let builder = World::builder(name);
    match *arguments {
        [one, two] => builder.agent_args([one, two]).start(),
        _ => builder.start(),
    }
}

/// Returns true if the kernel supports SMC sockets (RFC 7609), each of which dials through a TCP socket
/// of the kernel.
fn has_smc() -> bool {
    match socket2::Socket::new(Domain::from(svclb_tests::AF_SMC), Type::STREAM, None) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EAFNOSUPPORT), "{error}");
            false
        }
    }
}

#[test]
fn an_smc_socket_is_translated_and_leaves_no_origin() {
    if !has_smc() {
        return;
    }
    for (name, arguments, left) in AGENTS {
        let world = world(&format!("smc-{name}"), arguments);
        let a = world.backend("a", Tcp, "10.244.0.1:8080");
        let service = world.service("default/hello").cluster_ip("10.96.0.10");
        service.port(80, Tcp).backends([&a]).apply();
        for number in 1..=CONNECTS {
            let socket = world.socket(Kind::Smc4);
            socket.dial("10.96.0.10:80").unwrap();
            assert_eq!(socket.request().unwrap(), "a");
            // Without a record, getpeername shows the backend (docs/limits.md).
            let shown = if left == 0 { "10.244.0.1:8080" } else { "10.96.0.10:80" };
            assert_eq!(socket.peer().unwrap(), at(shown), "{name}");
            drop(socket);
            assert_eq!(world.origins().len(), number * left, "{name}");
        }
    }
}

#[test]
fn a_udp_socket_that_the_kernel_connects_is_translated_and_leaves_no_origin() {
    for (name, arguments, left) in AGENTS {
        let world = world(&format!("l2tp-{name}"), arguments);
        if !world.has_tunnels() {
            return;
        }
        let backends = ["10.244.0.1:1701", "[fd00:244::1]:1701"];
        let backends = backends.map(|address| world.backend("a", Udp, address));
        let service = world.service("default/lns").cluster_ip("10.96.0.10");
        let service = service.cluster_ip("fd00:96::10");
        service.port(1701, Udp).backends(&backends).apply();
        // An untranslated connect to a Service fails, and the creation of the tunnel with it.
        world.tunnel(1, "10.244.0.9:2000", "10.96.0.10:1701");
        world.tunnel(2, "[fd00:244::9]:2000", "[fd00:96::10]:1701");
        assert_eq!(world.origins().len(), 2 * left, "{name}");
    }
}
