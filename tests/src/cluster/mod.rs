//! A real cluster for tests: unmodified etcd, kube-apiserver, kube-controller-manager and CoreDNS, while
//! the test does the work of the kubelet.
//!
//! A [`ControlPlane`] has a network namespace of its own. A [`World`](crate::World) reaches it through a
//! [`Relay`] at the same address, so that one kubeconfig is right on both sides:
//!
//! ```no_run
//! use svclb_tests::World;
//! use svclb_tests::cluster::ControlPlane;
//!
//! let plane = ControlPlane::new("hello");
//! let world = World::builder("hello").without_agent().start();
//! let _relay = plane.relay(&world);
//! plane.api().apply("{apiVersion: v1, kind: Namespace, metadata: {name: other}}");
//! ```

mod api;
mod bulk;
mod certificates;
mod components;
mod control_plane;
mod coredns;
mod folder;
mod http;
pub(crate) mod kube_proxy;
mod kubeconfig;
mod kubelet;
mod large;
mod process;
mod relay;

pub use api::{Client, Reference, documents};
pub use components::component;
pub use control_plane::{Builder, ControlPlane, eventually};
pub use coredns::{CoreDns, resolve_by};
pub use http::HttpServer;
pub use kubelet::{Kubelet, Pod};
pub use large::Large;
pub use process::Process;
pub use relay::Relay;
