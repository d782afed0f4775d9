//! UDP sockets that were connected to an address before it was a frontend for them: kube-proxy answers
//! them, and continues to.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a client of a test fails it")]

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::SockAddr;
use svclb_tests::{Backend, Kind, Socket, ToAddress as _, Udp, World, at, eventually};

const PROXY: &str = "kube-proxy";
const V4: &str = "10.96.0.10:53";
const MAPPED: &str = "[::ffff:10.96.0.10]:53";
const V6: &str = "[fd00:96::10]:53";

/// How a client sends on its connected socket.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// send(2). On an IPv6 socket connected to a v4-mapped address, the kernel runs sendmsg4 with the
    /// peer as destination. OpenJDK 17 sends so, from such a socket bound to `[::]:0`.
    Plain,
    /// sendto(2) with the address that the socket is connected to.
    Named,
}

/// A client: its socket, the address that it is connected to, and how it sends.
struct Client {
    row: &'static str,
    socket: Socket,
    dialled: SocketAddr,
    way: Way,
}

impl Client {
    fn connected(world: &World, row: &'static str, kind: Kind, dialled: &str, way: Way) -> Self {
        let socket = world.socket(kind);
        if kind == Kind::Udp6 {
            socket.raw().set_only_v6(false).unwrap();
            let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
            socket.raw().bind(&SockAddr::from(any)).unwrap();
        }
        socket.dial(dialled).unwrap_or_else(|error| panic!("{row}: {error}"));
        Self { row, socket, dialled: at(dialled), way }
    }

    /// One client of each kind, connected.
    fn all(world: &World, [v4, mapped, v6]: [&str; 3]) -> Vec<Self> {
        [
            ("IPv4", Kind::Udp4, v4, Way::Plain),
            ("IPv4, named", Kind::Udp4, v4, Way::Named),
            ("v4-mapped", Kind::Udp6, mapped, Way::Plain),
            ("v4-mapped, named", Kind::Udp6, mapped, Way::Named),
            ("IPv6", Kind::Udp6, v6, Way::Plain),
            ("IPv6, named", Kind::Udp6, v6, Way::Named),
        ]
        .into_iter()
        .map(|(row, kind, dialled, way)| Self::connected(world, row, kind, dialled, way))
        .collect()
    }

    fn request(&self) -> io::Result<String> {
        let request = format!("{}?\n", self.row);
        match self.way {
            Way::Plain => self.socket.raw().send(request.as_bytes()),
            Way::Named => {
                self.socket.raw().send_to(request.as_bytes(), &SockAddr::from(self.dialled))
            }
        }?;
        let answer = self.socket.receive_response(&request)?;
        assert_eq!(answer.from, self.dialled, "{}", self.row);
        Ok(answer.backend)
    }

    /// Asserts that each client is answered by this backend, several times.
    fn expect(clients: &[Self], name: &str, when: &str) {
        for client in clients {
            for number in 0..5 {
                let answer = client.request().map_err(|error| error.to_string());
                assert_eq!(answer.as_deref(), Ok(name), "{when}, {}: send {number}", client.row);
                let peer = client.socket.peer().unwrap();
                assert_eq!(peer, client.dialled, "{when}, {}", client.row);
            }
        }
    }
}

/// Starts the stand-ins for kube-proxy, and the backends of the Service.
fn servers(world: &World, addresses: [&str; 2]) -> (Vec<Backend>, Vec<Backend>) {
    let proxies = addresses.map(|address| world.proxy_at(Udp, address)).into();
    let backends = ["10.244.0.1:5353", "[fd00:244::1]:5353"];
    (proxies, backends.map(|address| world.backend("a", Udp, address)).into())
}

fn apply(world: &World, ips: [&str; 2], backends: &[Backend]) {
    let [v4, v6] = ips;
    let service = world.service("default/dns").cluster_ip(v4).cluster_ip(v6);
    service.port(53, Udp).backends(backends).apply();
}

#[test]
fn sockets_connected_before_the_agent_ran_stay_with_kube_proxy() {
    let world = World::builder("peer-before").without_agent().start();
    let (_proxies, backends) = servers(&world, [V4, V6]);
    let clients = Client::all(&world, [V4, MAPPED, V6]);
    Client::expect(&clients, PROXY, "before");
    world.start_agent();
    apply(&world, ["10.96.0.10", "fd00:96::10"], &backends);
    Client::expect(&clients, PROXY, "while the agent runs");
    // New sockets are translated, connected or not, and so are old ones that connect again.
    Client::expect(&Client::all(&world, [V4, MAPPED, V6]), "a", "new");
    for (kind, dialled) in [(Kind::Udp4, V4), (Kind::Udp6, MAPPED), (Kind::Udp6, V6)] {
        assert_eq!(world.socket(kind).request_to(dialled).unwrap().backend, "a", "{dialled}");
    }
    for client in &clients {
        client.socket.dial(client.dialled).unwrap();
    }
    Client::expect(&clients, "a", "connected again");
}

#[test]
fn sockets_connected_before_the_service_was_known_stay_with_kube_proxy() {
    let world = World::new("peer-unknown");
    let (_proxies, backends) = servers(&world, [V4, V6]);
    let clients = Client::all(&world, [V4, MAPPED, V6]);
    Client::expect(&clients, PROXY, "before");
    apply(&world, ["10.96.0.10", "fd00:96::10"], &backends);
    Client::expect(&clients, PROXY, "once the Service is known");
    // Also without a backend, in which case a translated socket would be refused.
    apply(&world, ["10.96.0.10", "fd00:96::10"], &[]);
    Client::expect(&clients, PROXY, "without a backend");
}

#[test]
fn sockets_connected_to_an_address_that_becomes_an_external_ip_stay_with_kube_proxy() {
    let dialled = ["203.0.113.9:53", "[::ffff:203.0.113.9]:53", "[2001:db8:c::9]:53"];
    let world = World::new("peer-external");
    let (_proxies, backends) = servers(&world, [dialled[0], dialled[2]]);
    apply(&world, ["10.96.0.10", "fd00:96::10"], &backends);
    let clients = Client::all(&world, dialled);
    Client::expect(&clients, PROXY, "before");
    let service = world.service("default/dns").cluster_ip("10.96.0.10").cluster_ip("fd00:96::10");
    let service = service.external_ip("203.0.113.9").external_ip("2001:db8:c::9");
    service.port(53, Udp).backends(&backends).apply();
    Client::expect(&clients, PROXY, "an external IP");
    Client::expect(&Client::all(&world, dialled), "a", "new");
}

#[test]
fn sockets_connected_while_a_hook_was_detached_stay_with_kube_proxy() {
    let world = World::new("peer-detached");
    let (_proxies, backends) = servers(&world, [V4, V6]);
    apply(&world, ["10.96.0.10", "fd00:96::10"], &backends);
    let agent = world.take_agent();
    let pid = Pid::from_raw(i32::try_from(agent.pid()).unwrap());
    world.put_agent(agent);
    // The agent is stopped, because it would attach the hooks again before any client could connect.
    kill(pid, Signal::SIGSTOP).unwrap();
    for hook in ["connect4", "connect6"] {
        world.detach(hook);
    }
    let clients = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Client::all(&world, [V4, MAPPED, V6])
    }));
    kill(pid, Signal::SIGCONT).unwrap();
    let clients = clients.unwrap();
    Client::expect(&clients, PROXY, "with sendmsg hooks only");
    eventually("the hooks are attached again", || {
        for dialled in [V4, V6] {
            let answer = world.request(Udp, dialled).map_err(|error| error.to_string())?;
            if answer != "a" {
                return Err(format!("{dialled}: {answer}"));
            }
        }
        Ok(())
    });
    Client::expect(&clients, PROXY, "with all hooks");
}

#[test]
fn socket_whose_backend_becomes_a_frontend_keeps_its_backend() {
    let world = World::new("peer-backend");
    let (_proxies, backends) = servers(&world, [V4, V6]);
    apply(&world, ["10.96.0.10", "fd00:96::10"], &backends);
    let clients = Client::all(&world, [V4, MAPPED, V6]);
    Client::expect(&clients, "a", "before");
    // The addresses of the backends become external IPs of another Service.
    let others = ["10.244.0.2:5353", "[fd00:244::2]:5353"];
    let others = others.map(|address| world.backend("b", Udp, address));
    let service = world.service("default/other").cluster_ip("10.96.0.11").cluster_ip("fd00:96::11");
    let service = service.external_ip("10.244.0.1").external_ip("fd00:244::1");
    service.port(5353, Udp).backends(&others).apply();
    Client::expect(&clients, "a", "after");
    let v6: IpAddr = "fd00:244::1".parse().unwrap();
    for (kind, dialled) in [(Kind::Udp4, at("10.244.0.1:5353")), (Kind::Udp6, (v6, 5353).into())] {
        assert_eq!(
            world.socket(kind).request_to(dialled.to_address()).unwrap().backend,
            "b",
            "{dialled}"
        );
    }
}
