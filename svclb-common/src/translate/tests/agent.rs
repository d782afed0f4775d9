//! Connections of the agent itself, which the maps must never keep from the API server.

use super::super::*;
use super::maps::{MemoryMaps, peer, socket};

/// A socket of the agent's, or of a process in its cgroup.
#[derive(Clone, Copy)]
struct Own {
    socket: Socket,
    has_priority: bool,
    is_in_cgroup: bool,
}

impl Caller for Own {
    fn protocol(&self) -> Protocol {
        self.socket.protocol
    }
    fn cookie(&self) -> SocketCookie {
        self.socket.cookie
    }
    fn client(&self) -> NetnsCookie {
        self.socket.client()
    }
    fn client_key(&self) -> u32 {
        self.socket.client_key()
    }
    fn is_released(&self) -> bool {
        true
    }
    fn is_connected_to(&self, _: &Peer) -> bool {
        false
    }
    fn is_on_loopback(&self) -> bool {
        false
    }
    fn has_agent_priority(&self) -> bool {
        self.has_priority
    }
    fn is_in_agent_cgroup(&self) -> bool {
        self.is_in_cgroup
    }
}

#[test]
fn agents_own_connections_are_left_alone_whatever_the_maps_say() {
    const API_SERVER: &str = "10.96.0.1:443";
    const OTHER: &str = "10.96.0.10:80";
    for backends in [&["10.244.0.1:6443"][..], &[]] {
        let maps = MemoryMaps::small();
        let line = maps.service(1, API_SERVER, backends);
        maps.line(line).unwrap().set_flags(LineFlags::API_SERVER);
        maps.service(2, OTHER, backends);
        let own = |has_priority, is_in_cgroup| Own {
            socket: socket(7, Protocol::Tcp),
            has_priority,
            is_in_cgroup,
        };
        let served = match backends {
            [] => Verdict::Refuse,
            [backend, ..] => Verdict::Rewrite(peer(backend)),
        };
        let rows = [
            ("the agent's socket", own(true, false), [Verdict::Leave, Verdict::Leave]),
            ("a process of its cgroup", own(false, true), [Verdict::Leave, served]),
            ("another client", own(false, false), [served, served]),
        ];
        for (row, caller, expected) in rows {
            let found = [API_SERVER, OTHER].map(|at| connect(&maps, &caller, &peer(at)));
            assert_eq!(found, expected, "{row}, {backends:?}");
        }
    }
}
