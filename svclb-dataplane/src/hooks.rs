//! The hooks: which program of the object goes where, and in which order.

/// A hook: where a program of the object goes.
#[derive(Debug)]
pub struct Hook {
    /// The hook's name, which is its link's pin too.
    pub name: &'static str,
    /// The program's name in the object.
    pub program: &'static str,
}

const fn hook(name: &'static str, program: &'static str) -> Hook {
    Hook { name, program }
}

/// Every hook, in the order of attaching: what takes records away and reads them is there before what
/// makes them.
pub const HOOKS: [Hook; 9] = [
    hook("sock_release", "svclb_release"),
    hook("getpeername4", "svclb_peername4"),
    hook("getpeername6", "svclb_peername6"),
    hook("recvmsg4", "svclb_recvmsg4"),
    hook("recvmsg6", "svclb_recvmsg6"),
    hook("sendmsg4", "svclb_sendmsg4"),
    hook("sendmsg6", "svclb_sendmsg6"),
    hook("connect4", "svclb_connect4"),
    hook("connect6", "svclb_connect6"),
];
