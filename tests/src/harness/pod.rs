//! A client in a network namespace of its own, as a pod has one. The world's own sockets are in the
//! host's network namespace, which is that of the agent.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU8, Ordering};

use super::client::{Kind, Socket, ToAddress};
use super::factory::Factory;
use super::link;
use super::namespace::Namespace;
use super::routes::{self, Route};
use super::world::World;
use crate::{Backend, Protocol};

/// A pod: its sockets are in the world's cgroup, its backends are outside.
pub struct Pod<'a> {
    factory: Factory,
    namespace: Namespace,
    world: PhantomData<&'a World>,
}

/// Addresses of the world's backends, to which the pod has routes.
const BACKENDS: [(&str, u8); 2] = [("10.244.0.0", 16), ("fd00:244::", 64)];
/// Addresses of Services and nodes: an untranslated connect fails with EACCES.
const PROHIBITED: [(&str, u8); 6] = [
    ("10.96.0.0", 16),
    ("fd00:96::", 64),
    ("203.0.113.0", 24),
    ("2001:db8:c::", 64),
    ("198.51.100.0", 24),
    ("2001:db8:b::", 64),
];

impl World {
    /// Creates a pod that reaches the world's backends.
    ///
    /// # Panics
    /// If the machine lacks something.
    pub fn pod(&self) -> Pod<'_> {
        static NUMBER: AtomicU8 = AtomicU8::new(1);
        // The number is unique within a world: no world has 256 pods.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace::network();
        let other = namespace.run(|| File::open("/proc/thread-self/ns/net"));
        let other = other.expect("a thread's namespace has a file");
        let ends = move |last: u8| -> [(IpAddr, u8); 2] {
            let (number, last) = (u16::from(number), u16::from(last));
            let v4 = IpAddr::from([10, 245, number.to_be_bytes()[1], last.to_be_bytes()[1]]);
            [(v4, 24), (IpAddr::from([0xfd00, 0x245, number, 0, 0, 0, 0, last]), 64)]
        };
        self.inside(move || {
            let near = CString::new(format!("pod{number}")).unwrap();
            link::pair(&near, c"eth0", other.as_fd())
                .and_then(|()| set_up_interface(&near, ends(1)))
                .unwrap_or_else(|error| panic!("cannot create a pod's interfaces: {error}"));
        });
        namespace.run(move || {
            let made = routes::up(c"lo")
                .and_then(|()| set_up_interface(c"eth0", ends(2)))
                .and_then(|()| {
                    for ((address, bits), (neighbour, _)) in BACKENDS.into_iter().zip(ends(1)) {
                        link::route(address.parse().unwrap(), bits, neighbour)?;
                    }
                    for (address, bits) in PROHIBITED {
                        routes::add(Route::Prohibit, address.parse().unwrap(), bits)?;
                    }
                    fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1")
                });
            made.unwrap_or_else(|error| panic!("cannot set up a pod's network: {error}"));
        });
        let factory = Factory::start(&namespace, self.cgroup_handle());
        Pod { factory, namespace, world: PhantomData }
    }
}

fn set_up_interface(interface: &std::ffi::CStr, addresses: [(IpAddr, u8); 2]) -> io::Result<()> {
    for (address, bits) in addresses {
        link::address(interface, address, bits)?;
    }
    routes::up(interface)
}

impl Pod<'_> {
    /// A responder in the pod, for example on its loopback address.
    pub fn backend(&self, name: &str, protocol: Protocol, address: &str) -> Backend {
        Backend::start(&self.namespace, name, protocol, address.to_address())
    }

    /// A socket of the pod.
    ///
    /// # Panics
    /// If it cannot be created.
    pub fn socket(&self, kind: Kind) -> Socket {
        self.factory.sockets(kind, 1).pop().unwrap()
    }

    /// As [`World::dial`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn dial(&self, protocol: Protocol, to: impl ToAddress) -> io::Result<Socket> {
        let to = to.to_address();
        let socket = self.socket(Kind::of(protocol, to));
        socket.dial(to)?;
        Ok(socket)
    }

    /// As [`World::request`].
    ///
    /// # Errors
    /// As [`World::request`].
    pub fn request(&self, protocol: Protocol, to: impl ToAddress) -> io::Result<String> {
        self.dial(protocol, to)?.request()
    }
}
