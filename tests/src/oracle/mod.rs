//! kube-proxy as the oracle: random worlds of Services, and a comparison of the answers on a node with
//! kube-proxy (nftables mode) and on one with svclb. docs/oracle.md explains how to run more worlds.
//!
//! * `world`, `generate`, `settings`: worlds as data; drawing them from seeds; the choice of seeds.
//! * `address_block`, `render`, `frontend`: a world's addresses, its objects, and the frontends that are
//!   dialled.
//! * `network`, `server`, `site`: a node with a pod and hosts, one for each proxy. `dial`: calls.
//! * `stage`: the comparison of worlds on both nodes at once. `answers`: the answers.
//! * `exceptions`, `judge`, `usable`: when answers count as equal. `shrink`: the smallest failing world.
//!   `report`: a run over many worlds.

mod address_block;
mod answers;
mod dial;
mod exceptions;
mod frontend;
mod generate;
mod judge;
mod network;
mod render;
mod report;
mod server;
mod settings;
mod shrink;
mod site;
mod stage;
mod usable;
mod world;

pub use report::{Summary, compare};
pub use settings::Settings;
