//! The one address type of the maps and of the datapath.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP address of either family: 16 bytes in network order, IPv4 as v4-mapped.
///
/// Aligned to 1 so that it can stand anywhere in a layout; the datapath reads it as two words where
/// its container is aligned (see [`crate::shared`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct Address {
    /// The bytes, in the order of the network.
    pub bytes: [u8; 16],
}

impl Address {
    /// `::`, which no frontend and no backend has.
    pub const UNSPECIFIED: Self = Self { bytes: [0; 16] };

    /// The address made of two words that were loaded from memory in this machine's order.
    #[inline(always)]
    pub const fn from_words(words: [u64; 2]) -> Self {
        let (high, low) = (words[0].to_ne_bytes(), words[1].to_ne_bytes());
        let bytes = [
            high[0], high[1], high[2], high[3], high[4], high[5], high[6], high[7], low[0], low[1],
            low[2], low[3], low[4], low[5], low[6], low[7],
        ];
        Self { bytes }
    }

    /// The two words that a load in this machine's order gives.
    #[inline(always)]
    pub const fn words(self) -> [u64; 2] {
        let b = self.bytes;
        [
            u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            u64::from_ne_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
        ]
    }

    /// The v4-mapped address of these four bytes in network order.
    #[inline(always)]
    pub const fn from_v4(b: [u8; 4]) -> Self {
        Self { bytes: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, b[0], b[1], b[2], b[3]] }
    }

    /// True for an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        let words = self.words();
        words[0] == 0 && words[1] & MAPPED_MASK == MAPPED_PREFIX
    }

    /// The address as the standard library has it: IPv4 comes back as IPv4.
    pub fn ip(self) -> IpAddr {
        if self.is_v4() {
            let b = self.bytes;
            IpAddr::V4(Ipv4Addr::new(b[12], b[13], b[14], b[15]))
        } else {
            IpAddr::V6(Ipv6Addr::from(self.bytes))
        }
    }
}

/// The bits of the second word that hold the v4-mapped prefix, in this machine's order.
const MAPPED_MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
/// The v4-mapped prefix in those bits.
const MAPPED_PREFIX: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);

impl From<IpAddr> for Address {
    /// IPv4 and its v4-mapped form give the same address: they are the same client's destination.
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            IpAddr::V6(v6) => Self { bytes: v6.octets() },
        }
    }
}

impl core::fmt::Display for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.ip(), f)
    }
}

impl core::fmt::Debug for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.ip(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString as _;

    #[test]
    fn an_address_survives_its_words_and_shows_its_family() {
        for text in ["10.96.0.1", "255.255.255.255", "0.0.0.0", "fd00::1", "::1", "::"] {
            let address = Address::from(text.parse::<IpAddr>().unwrap());
            assert_eq!(Address::from_words(address.words()), address);
            assert_eq!(address.to_string(), text);
            assert_eq!(address.is_v4(), text.contains('.'));
        }
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(Address::from(mapped).to_string(), "10.0.0.1");
    }
}
