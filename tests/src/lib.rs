//! Tests on the real kernel, and the harness they stand on.
//!
//! A test makes a [`World`], gives it backends and Services, opens sockets as a pod would, and looks
//! who answers:
//!
//! ```no_run
//! use svclb_tests::{Tcp, World};
//!
//! let world = World::new("hello");
//! let a = world.backend("a", Tcp, "10.244.0.1:8080");
//! world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
//! assert_eq!(world.ask(Tcp, "10.96.0.10:80").unwrap(), "a");
//! ```
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a tool of tests: what fails in it fails the test, with its reason"
)]

pub mod cluster;
mod harness;
pub mod oracle;

pub use harness::agent::Agent;
pub use harness::backend::Backend;
pub use harness::client::{AF_SMC, Answer, Kind, PATIENCE, Place, Socket, at};
pub use harness::crowd::{Crowd, Deed};
pub use harness::failing::{Call, Faults, Operation};
pub use harness::gap::Dialling;
pub use harness::kernel::Feature;
pub use harness::passing::{Heir, Passage};
pub use harness::pins::HOOKS;
pub use harness::pod::Pod;
pub use harness::program::spawn;
pub use harness::remembered::Remembered;
pub use harness::routes::loopback_up;
pub use harness::stranger::{Stranger, StrangerKind};
pub use harness::view::{Origin, Row, counter};
pub use harness::wait::{LIMIT, at_least, eventually, holds_for, within};
pub use harness::world::{Builder, World};
pub use harness::yaml::{Endpoint, ServiceBuilder};
pub use svclb_common::layout::Protocol::{self, Tcp, Udp};
