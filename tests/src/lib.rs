//! Tests on the real kernel, and their harness.
//!
//! A test creates a [`World`], gives it backends and Services, opens sockets as a pod would, and asserts
//! which backend answers:
//!
//! ```no_run
//! use svclb_tests::{Tcp, World};
//!
//! let world = World::new("hello");
//! let a = world.backend("a", Tcp, "10.244.0.1:8080");
//! world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
//! assert_eq!(world.request(Tcp, "10.96.0.10:80").unwrap(), "a");
//! ```
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure in the harness fails the test, with its reason"
)]

pub mod cluster;
mod harness;
pub mod oracle;

pub use harness::agent::Agent;
pub use harness::backend::Backend;
pub use harness::client::{AF_SMC, Kind, PATIENCE, Response, Socket, ToAddress, at};
pub use harness::continuous::ContinuousClient;
pub use harness::failing::{Call, Faults, Operation};
pub use harness::fd_passing::{ForkedChild, SocketInFlight};
pub use harness::kernel::Feature;
pub use harness::many_sockets::{ManySockets, SocketUse};
pub use harness::pins::HOOKS;
pub use harness::pod::Pod;
pub use harness::program::{kubectl_plugin, spawn};
pub use harness::routes::loopback_up;
pub use harness::sticky::StickyClients;
pub use harness::third_party::{ProgramKind, ThirdPartyProgram};
pub use harness::view::{Origin, Row, counter};
pub use harness::wait::{LIMIT, at_least, eventually, holds_for, within};
pub use harness::world::{Builder, World};
pub use harness::yaml::{Endpoint, ServiceBuilder};
pub use svclb_common::layout::Protocol::{self, Tcp, Udp};
