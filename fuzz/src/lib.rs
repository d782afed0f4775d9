//! Code that the targets share: a node in memory, and the checks of the tests of svclb-objects.

#[path = "../../svclb-objects/tests/untrusted/claims.rs"]
pub mod claims;
#[path = "../../svclb-objects/tests/untrusted/node.rs"]
pub mod node;
pub mod plain;
