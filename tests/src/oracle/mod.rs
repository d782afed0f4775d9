//! kube-proxy as the oracle: random worlds of Services, and who answers on a node with kube-proxy
//! (nftables mode) and on one with svclb. docs/oracle.md says how to run more of them.
//!
//! * `world`, `generate`, `settings`: worlds as data, drawn from seeds; which seeds.
//! * `lane`, `render`, `frontend`: a world's addresses, its objects, and what of it is dialled.
//! * `network`, `server`, `site`: a node with a pod and hosts, twice. `dial`: calls.
//! * `stage`: worlds put before both at once. `answers`: what was heard.
//! * `exceptions`, `judge`, `usable`: what counts as equal. `shrink`: the smallest world that
//!   fails.

mod answers;
mod dial;
mod exceptions;
mod frontend;
mod generate;
mod judge;
mod lane;
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
