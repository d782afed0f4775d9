//! The kernel's cookies: numbers that it gives to one object and never again.

/// The cookie of a socket (SO_COOKIE).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct SocketCookie(pub u64);

/// The cookie of a network namespace (SO_NETNS_COOKIE).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct NetnsCookie(pub u64);
