//! `struct bpf_sock_addr` (include/uapi/linux/bpf.h) to and from what `translate` speaks.
//!
//! Addresses and ports in the context are in network order; a context word may only be accessed by
//! its own width, so every access here is a whole field.

use aya_ebpf::Global;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::helpers::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_netns_cookie,
    bpf_get_socket_cookie, bpf_set_retval,
};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use aya_log_ebpf::debug;
use core::marker::PhantomData;
use svclb_common::cookie::{NetnsCookie, SocketCookie};
use svclb_common::index;
use svclb_common::layout::{AGENT_PRIORITY, Address, ClientKey, Protocol};
use svclb_common::translate::{Caller, Peer, Verdict};

/// 1 where the kernel has bpf_set_retval on these hooks (5.18). Without it, a TCP connect is sent to
/// port 0 of loopback, which refuses it, and everything else fails with EPERM.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: Global<u8> = Global::new(0);
/// The position of `sk_kern_sock` in the kernel's `struct sock`: its byte, and the bit in that; no bit if the
/// position is unknown or cannot be read.
#[unsafe(no_mangle)]
static KERN_SOCK_BYTE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static KERN_SOCK_BIT: Global<u8> = Global::new(0);
/// 1 where the kernel has `bpf_cast_to_kern_ctx` (6.2), and the agent put its number, and where
/// `sk_kern_sock` lies, in the places of the next two.
#[unsafe(no_mangle)]
static CAN_CAST: Global<u8> = Global::new(0);
/// The number of a call, and the offset of a load, which nothing else has: svclb-dataplane/src/programs/object/
/// kernel.rs replaces them.
const CAST: usize = 0x7fff_5c1b;
const BYTE: usize = 0x7c1b;

/// Id of the cgroup that the hooks are attached to.
#[unsafe(no_mangle)]
static ATTACHED: Global<u64> = Global::new(1);

/// Id of the kernel's first cgroup2: its inode number, whatever namespace the task sees.
const ROOT: u64 = 1;

/// Id of the agent's own cgroup; 0 where that is the root or not known, and nothing is left alone for it.
#[unsafe(no_mangle)]
static AGENT_CGROUP: Global<u64> = Global::new(0);

const AF_UNSPEC: u32 = 0;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const ECONNREFUSED: i32 = 111;

/// Return value of a program that lets the call go on.
const ALLOW: i32 = 1;
/// Return value of a program that fails the call: with EPERM, unless it set another error.
const DENY: i32 = 0;

/// How a hook's context holds an address.
pub(crate) trait Family {
    /// `user_family` of a call that is meant for this hook.
    const FAMILY: u32;
    /// Loopback.
    const LOOPBACK: Address;
    /// Reads the address.
    fn address(at: *const bpf_sock_addr) -> [u64; 2];
    /// Writes the address; false when the context cannot hold it.
    fn set_address(at: *mut bpf_sock_addr, address: [u64; 2]) -> bool;
}

/// The hooks whose name ends in 4.
pub(crate) struct V4;

impl Family for V4 {
    const FAMILY: u32 = AF_INET;
    const LOOPBACK: Address = Address::from_v4([127, 0, 0, 1]);

    #[inline(always)]
    fn address(at: *const bpf_sock_addr) -> [u64; 2] {
        // SAFETY: the context is valid while its program runs.
        let ip = unsafe { (&raw const (*at).user_ip4).read_volatile() };
        Address::from_v4(ip.to_ne_bytes()).words()
    }

    #[inline(always)]
    fn set_address(at: *mut bpf_sock_addr, address: [u64; 2]) -> bool {
        let bytes = Address::from_words(address).bytes;
        let ip = u32::from_ne_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
        // SAFETY: the context is valid while its program runs.
        unsafe { (&raw mut (*at).user_ip4).write_volatile(ip) };
        // A backend of an IPv4 frontend is IPv4; anything else is a fault of the maps.
        Address::from_words(address).is_v4()
    }
}

/// The hooks whose name ends in 6. IPv4 is v4-mapped there.
pub(crate) struct V6;

impl Family for V6 {
    const FAMILY: u32 = AF_INET6;
    const LOOPBACK: Address = Address { bytes: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] };

    #[inline(always)]
    fn address(at: *const bpf_sock_addr) -> [u64; 2] {
        // SAFETY: the context is valid while its program runs; four words lie there.
        let w = unsafe {
            let words = (&raw const (*at).user_ip6).cast::<u32>();
            [
                words.read_volatile(),
                words.add(1).read_volatile(),
                words.add(2).read_volatile(),
                words.add(3).read_volatile(),
            ]
        };
        [join(w[0], w[1]), join(w[2], w[3])]
    }

    #[inline(always)]
    fn set_address(at: *mut bpf_sock_addr, address: [u64; 2]) -> bool {
        let ([a, b], [c, d]) = (split(address[0]), split(address[1]));
        // SAFETY: the context is valid while its program runs; four words lie there.
        unsafe {
            let words = (&raw mut (*at).user_ip6).cast::<u32>();
            words.write_volatile(a);
            words.add(1).write_volatile(b);
            words.add(2).write_volatile(c);
            words.add(3).write_volatile(d);
        }
        true
    }
}

#[inline(always)]
fn join(low: u32, high: u32) -> u64 {
    let (l, h) = (low.to_ne_bytes(), high.to_ne_bytes());
    u64::from_ne_bytes([l[0], l[1], l[2], l[3], h[0], h[1], h[2], h[3]])
}

#[inline(always)]
fn split(word: u64) -> [u32; 2] {
    let b = word.to_ne_bytes();
    [u32::from_ne_bytes([b[0], b[1], b[2], b[3]]), u32::from_ne_bytes([b[4], b[5], b[6], b[7]])]
}

/// One run of a hook, for a TCP or UDP socket and an address of the hook's family.
pub(crate) struct Call<'a, F> {
    ctx: &'a SockAddrContext,
    protocol: Protocol,
    family: PhantomData<F>,
}

impl<'a, F: Family> Call<'a, F> {
    /// None when the call is not ours: another protocol, or another family's address on this socket
    /// (the kernel runs connect4 for it with rubbish in the address, then fails the call). An address
    /// without a family is IPv4's to sendto(2), and comes to no other hook.
    #[inline(always)]
    pub(crate) fn of(ctx: &'a SockAddrContext) -> Option<Self> {
        let at = ctx.sock_addr;
        // SAFETY: the context is valid while its program runs.
        let (family, protocol) = unsafe {
            (
                (&raw const (*at).user_family).read_volatile(),
                (&raw const (*at).protocol).read_volatile(),
            )
        };
        if family != F::FAMILY && family != AF_UNSPEC {
            return None;
        }
        Some(Self { ctx, protocol: Protocol::from_number(protocol)?, family: PhantomData })
    }

    /// The address and port that the call names.
    #[inline(always)]
    pub(crate) fn peer(&self) -> Peer {
        let at = self.ctx.sock_addr;
        // SAFETY: the context is valid while its program runs.
        let port = unsafe { (&raw const (*at).user_port).read_volatile() };
        Peer { address: F::address(at), port: u16::from_be(port as u16) }
    }

    /// The call's socket, whose fields the verifier lets every hook read.
    #[inline(always)]
    fn sk(&self) -> *const bpf_sock {
        // SAFETY: the context is valid while its program runs.
        unsafe { (&raw const (*self.ctx.sock_addr).__bindgen_anon_1.sk).read_volatile() }
    }

    /// Puts another address and port into the call.
    #[inline(always)]
    pub(crate) fn rewrite(&self, to: &Peer) -> bool {
        let at = self.ctx.sock_addr;
        let fits = F::set_address(at, to.address);
        // SAFETY: the context is valid while its program runs.
        unsafe { (&raw mut (*at).user_port).write_volatile(to.port.to_be().into()) };
        fits
    }

    /// Does what a verdict says, and gives what the program returns.
    #[inline(always)]
    pub(crate) fn answer(&self, verdict: Verdict) -> i32 {
        match verdict {
            Verdict::Leave => ALLOW,
            Verdict::Rewrite(given) if self.rewrite(&given) => ALLOW,
            Verdict::Rewrite(_) | Verdict::Refuse => self.refuse(),
        }
    }

    #[inline(always)]
    fn refuse(&self) -> i32 {
        if HAS_SET_RETVAL.load() != 0 {
            // SAFETY: no pointer is passed.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
            return DENY;
        }
        if self.protocol == Protocol::Tcp {
            let mapped = Address::from_words(self.peer().address).is_v4();
            let address = if mapped { V4::LOOPBACK } else { F::LOOPBACK };
            self.rewrite(&Peer { address: address.words(), port: 0 });
            return ALLOW;
        }
        DENY
    }

    /// Says what was decided, when the agent was started with `--log-bpf`; else it is not there.
    #[inline(always)]
    pub(crate) fn log(&self, what: &str, named: &Peer, verdict: &Verdict) {
        let from = Address::from_words(named.address).bytes;
        match verdict {
            Verdict::Leave => {
                debug!(self.ctx, "{}: {:i}:{} left alone", what, from, named.port);
            }
            Verdict::Refuse => {
                debug!(self.ctx, "{}: {:i}:{} refused", what, from, named.port);
            }
            Verdict::Rewrite(to) => {
                let address = Address::from_words(to.address).bytes;
                debug!(
                    self.ctx,
                    "{}: {:i}:{} becomes {:i}:{}", what, from, named.port, address, to.port
                );
            }
        }
    }
}

impl<F: Family> Caller for Call<'_, F> {
    #[inline(always)]
    fn protocol(&self) -> Protocol {
        self.protocol
    }

    #[inline(always)]
    fn cookie(&self) -> SocketCookie {
        // SAFETY: the helper takes the context.
        SocketCookie(unsafe { bpf_get_socket_cookie(self.ctx.sock_addr.cast()) })
    }

    #[inline(always)]
    fn client(&self) -> NetnsCookie {
        // SAFETY: the helper takes the context.
        NetnsCookie(unsafe { bpf_get_netns_cookie(self.ctx.sock_addr.cast()) })
    }

    #[inline(always)]
    fn client_key(&self) -> u32 {
        match workload() {
            0 => ClientKey::of_namespace(self.client()),
            cgroup => ClientKey::of_cgroup(cgroup),
        }
    }

    #[inline(always)]
    fn is_released(&self) -> bool {
        let bit = KERN_SOCK_BIT.load();
        if bit == 0 {
            return true;
        }
        // `inet_release` runs the hook for all but these. The verifier shows of a socket what
        // `struct bpf_sock` has, and this bit is not in there: but the context, as the kernel has it
        // (`struct bpf_sock_addr_kern`), begins with the socket's address.
        if CAN_CAST.load() != 0 {
            // SAFETY: the agent made this the call of a kernel function that takes the context and gives
            // it as the kernel has it, and the offset that of a byte of `struct sock`.
            let byte = unsafe {
                let cast: extern "C" fn(*mut bpf_sock_addr) -> *const *const u8 =
                    core::mem::transmute(CAST);
                let sk = cast(self.ctx.sock_addr).read_volatile();
                sk.add(BYTE).read_volatile()
            };
            return byte & bit == 0;
        }
        let (mut sk, mut byte) = (0_u64, 0_u8);
        // SAFETY: the helper reads what can be read, into places of these sizes.
        let failed = unsafe {
            bpf_probe_read_kernel((&raw mut sk).cast(), 8, self.ctx.sock_addr.cast()) != 0
                || bpf_probe_read_kernel(
                    (&raw mut byte).cast(),
                    1,
                    core::ptr::with_exposed_provenance(
                        sk.wrapping_add(KERN_SOCK_BYTE.load().into()) as usize,
                    ),
                ) != 0
        };
        failed || byte & bit == 0
    }

    #[inline(always)]
    fn is_connected_to(&self, peer: &Peer) -> bool {
        /// TCP_ESTABLISHED (include/net/tcp_states.h), which a connected UDP socket has too.
        const ESTABLISHED: u32 = 1;
        let sk = self.sk();
        if sk.is_null() {
            return false;
        }
        // SAFETY: the socket lives as long as its call. The port is the first half of a word, in network
        // order, as every kernel since 5.10 lets it be read.
        unsafe {
            (&raw const (*sk).state).read_volatile() == ESTABLISHED
                && u16::from_be((&raw const (*sk).dst_port).read_volatile()) == peer.port
                && end(sk, &raw const (*sk).dst_ip4, (&raw const (*sk).dst_ip6).cast())
                    == peer.address
        }
    }

    #[inline(always)]
    fn is_on_loopback(&self) -> bool {
        let sk = self.sk();
        if sk.is_null() {
            return false;
        }
        // SAFETY: the socket lives as long as its call.
        let own = unsafe { end(sk, &raw const (*sk).src_ip4, (&raw const (*sk).src_ip6).cast()) };
        index::is_loopback(own)
    }

    #[inline(always)]
    fn has_agent_priority(&self) -> bool {
        let sk = self.sk();
        // SAFETY: the socket lives as long as its call.
        !sk.is_null() && unsafe { (&raw const (*sk).priority).read_volatile() } == AGENT_PRIORITY
    }

    #[inline(always)]
    fn is_in_agent_cgroup(&self) -> bool {
        let own = AGENT_CGROUP.load();
        // SAFETY: the helper takes nothing and reads the running task.
        own != 0 && unsafe { bpf_get_current_cgroup_id() } == own
    }
}

/// The address of one end of a socket: its IPv6 address, v4-mapped where IPv4 is meant, on an IPv6 socket.
/// What the IPv4 field of such a socket holds means nothing unless it is.
///
/// # Safety
/// The first is a socket that a hook's context names, the others are its fields for that end.
#[inline(always)]
unsafe fn end(sk: *const bpf_sock, v4: *const u32, v6: *const u32) -> [u64; 2] {
    // SAFETY: by the caller.
    unsafe {
        if (&raw const (*sk).family).read_volatile() == AF_INET {
            return Address::from_v4(v4.read_volatile().to_ne_bytes()).words();
        }
        let words = [v6.read_volatile(), v6.add(1).read_volatile()];
        let more = [v6.add(2).read_volatile(), v6.add(3).read_volatile()];
        [join(words[0], words[1]), join(more[0], more[1])]
    }
}

/// The greatest depth of a workload's cgroup below the attached one: kubepods, its quality of service and
/// the pod; of a Guaranteed pod kubepods, the pod and the container; of a user's session user.slice, the
/// user's slice and service. Below these a workload may make cgroups of its own, which count as the workload.
const DEPTH: i32 = 3;
/// The greatest depth below the machine's root at which the attached cgroup is looked for: a node that is a container lies
/// deeper than one that is a machine.
const DEEPEST: i32 = 8;

/// Id of the cgroup that tells the calling task's workload from others; 0 where none does, since the task
/// is in the attached cgroup itself, in the root as the kernel's own threads are, or outside.
#[inline(never)]
fn workload() -> u64 {
    // SAFETY: these helpers take a number or nothing, and read the running task.
    let (own, above) =
        unsafe { (bpf_get_current_cgroup_id(), |level| bpf_get_current_ancestor_cgroup_id(level)) };
    if own == ROOT || own == ATTACHED.load() {
        return 0;
    }
    let mut level = 0;
    while level < DEEPEST {
        if above(level) == ATTACHED.load() {
            return match above(level + DEPTH) {
                0 => own,
                workload => workload,
            };
        }
        level += 1;
    }
    0
}

/// The cookie of a socket that is closed for good.
#[inline(always)]
pub(crate) fn released_cookie(ctx: &SockContext) -> SocketCookie {
    // SAFETY: the helper takes the context.
    SocketCookie(unsafe { bpf_get_socket_cookie(ctx.sock.cast()) })
}
