//! The pure part of svclb: from the objects of a cluster to the ordered steps that the maps need.
//!
//! ```text
//! Update → Catalog → select → compile → Desired ┐
//!                         Table::load → Planner ┴→ plan → steps → Table::put, Table::remove
//! ```
//!
//! No socket, no task, no map: Cargo.toml cannot name one.

pub mod budget;
pub mod catalog;
pub mod compile;
pub mod digest;
pub mod frontends;
pub mod index;
pub mod model;
pub mod number;
pub mod plan;
pub mod ranges;
pub mod retained;
pub mod select;
pub mod size;
pub mod table;
pub mod text;
