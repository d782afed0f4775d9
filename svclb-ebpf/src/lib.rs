//! Empty: it exists so that svclb-dataplane can name this crate as a build dependency, which makes cargo
//! build the object again when the hooks change.
#![no_std]
