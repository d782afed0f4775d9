//! The hooks: which program of the object goes where, and in which order.

use aya_obj::generated::bpf_attach_type::{self, *};

/// A hook: where a program of the object goes.
#[derive(Debug)]
pub struct Hook {
    /// The hook's name, which is its link's pin too.
    pub name: &'static str,
    /// The program's name in the object.
    pub program: &'static str,
    /// The hook's number, `enum bpf_attach_type`.
    pub number: u32,
}

const fn hook(name: &'static str, program: &'static str, kind: bpf_attach_type) -> Hook {
    Hook { name, program, number: kind as u32 }
}

/// Every hook, in the order of attaching: what takes records away and reads them is there before what
/// makes them.
pub const HOOKS: [Hook; 9] = [
    hook("sock_release", "svclb_release", BPF_CGROUP_INET_SOCK_RELEASE),
    hook("getpeername4", "svclb_peername4", BPF_CGROUP_INET4_GETPEERNAME),
    hook("getpeername6", "svclb_peername6", BPF_CGROUP_INET6_GETPEERNAME),
    hook("recvmsg4", "svclb_recvmsg4", BPF_CGROUP_UDP4_RECVMSG),
    hook("recvmsg6", "svclb_recvmsg6", BPF_CGROUP_UDP6_RECVMSG),
    hook("sendmsg4", "svclb_sendmsg4", BPF_CGROUP_UDP4_SENDMSG),
    hook("sendmsg6", "svclb_sendmsg6", BPF_CGROUP_UDP6_SENDMSG),
    hook("connect4", "svclb_connect4", BPF_CGROUP_INET4_CONNECT),
    hook("connect6", "svclb_connect6", BPF_CGROUP_INET6_CONNECT),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hook_has_a_number_of_its_own() {
        let mut numbers = HOOKS.map(|hook| hook.number);
        numbers.sort_unstable();
        assert!(numbers.is_sorted_by(|one, other| one < other), "{numbers:?}");
    }
}
