//! Names of the maps.

use std::fmt;

/// A map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapName {
    /// `svclb_index`
    Index,
    /// `svclb_slots`
    Slots,
    /// `svclb_origins`
    Origins,
    /// `svclb_overflow`
    Overflow,
    /// `svclb_frontends`
    Frontends,
    /// `svclb_services`
    Services,
    /// `svclb_backends`
    Backends,
    /// `svclb_affinity`
    Affinity,
    /// `svclb_clients`
    Clients,
    /// `svclb_counters`
    Counters,
    /// `svclb_meta`
    Meta,
}

impl MapName {
    /// The name in the object, in the kernel, and of the pin.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Index => "svclb_index",
            Self::Slots => "svclb_slots",
            Self::Origins => "svclb_origins",
            Self::Overflow => "svclb_overflow",
            Self::Frontends => "svclb_frontends",
            Self::Services => "svclb_services",
            Self::Backends => "svclb_backends",
            Self::Affinity => "svclb_affinity",
            Self::Clients => "svclb_clients",
            Self::Counters => "svclb_counters",
            Self::Meta => "svclb_meta",
        }
    }
}

impl fmt::Display for MapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
