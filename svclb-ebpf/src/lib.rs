//! Empty: it exists so that svclb-agent can name this crate as a build dependency, which makes cargo
//! rebuild the agent when the hooks change.
#![no_std]
