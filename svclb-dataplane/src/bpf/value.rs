//! The types that may be values of maps.

use aya::Pod;
use svclb_common::layout::{
    AffinityKey, AffinityRow, BackendKey, BackendRow, ClientRow, Counters, FrontendKey,
    FrontendRow, Line, Meta, Origin, Overflow, ServiceRow, Slot,
};

/// A type whose any bit pattern is a value, as all of `svclb_common::layout`.
///
/// # Safety
/// `repr(C)` or `repr(transparent)` over plain integers, no uninitialised padding, alignment at most 8.
pub(crate) unsafe trait MapValue: Copy + 'static {}

/// A layout type as aya wants it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Plain<T>(pub(crate) T);

// SAFETY: a layout type is plain data (`MapValue`).
unsafe impl<T: MapValue> Pod for Plain<T> {}

macro_rules! map_values {
    ($($type:ty),+) => {
        // SAFETY: integers, or `repr(C)` over integers with explicit padding (svclb_common::layout).
        $(unsafe impl MapValue for $type {})+
    };
}

map_values!(
    u32,
    u64,
    Line,
    Slot,
    Origin,
    Overflow,
    FrontendKey,
    FrontendRow,
    ServiceRow,
    BackendKey,
    BackendRow,
    Meta,
    AffinityKey,
    AffinityRow,
    ClientRow,
    Counters
);
