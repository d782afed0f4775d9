//! The hooks. Nothing is decided here: a hook reads its context, asks `svclb_common::translate`, and
//! writes the answer back.
#![no_std]
#![no_main]

mod context;
mod maps;

use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use svclb_common::translate::{self, Caller as _, Verdict};

use crate::context::{Call, V4, V6};
use crate::maps::HookMaps;

/// Return value of a program that lets the call go on.
const ALLOW: i32 = 1;

#[cgroup_sock_addr(connect4)]
fn svclb_connect4(ctx: SockAddrContext) -> i32 {
    connect::<V4>(&ctx)
}

#[cgroup_sock_addr(connect6)]
fn svclb_connect6(ctx: SockAddrContext) -> i32 {
    connect::<V6>(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
#[inline(always)]
fn svclb_sendmsg4(ctx: SockAddrContext) -> i32 {
    sendmsg::<V4>(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
#[inline(always)]
fn svclb_sendmsg6(ctx: SockAddrContext) -> i32 {
    sendmsg::<V6>(&ctx)
}

#[cgroup_sock_addr(recvmsg4)]
fn svclb_recvmsg4(ctx: SockAddrContext) -> i32 {
    recvmsg::<V4>(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
fn svclb_recvmsg6(ctx: SockAddrContext) -> i32 {
    recvmsg::<V6>(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
fn svclb_peername4(ctx: SockAddrContext) -> i32 {
    getpeername::<V4>(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
fn svclb_peername6(ctx: SockAddrContext) -> i32 {
    getpeername::<V6>(&ctx)
}

#[cgroup_sock(sock_release)]
fn svclb_release(ctx: SockContext) -> i32 {
    translate::release(&HookMaps, context::released_cookie(&ctx));
    ALLOW
}

#[inline(always)]
fn connect<F: context::Family>(ctx: &SockAddrContext) -> i32 {
    let Some(call) = Call::<F>::of(ctx) else { return ALLOW };
    let dialled = call.peer();
    let verdict = translate::connect(&HookMaps, &call, &dialled);
    call.log("connect", &dialled, &verdict);
    call.answer(verdict)
}

#[inline(always)]
fn sendmsg<F: context::Family>(ctx: &SockAddrContext) -> i32 {
    let Some(call) = Call::<F>::of(ctx) else { return ALLOW };
    let dialled = call.peer();
    let verdict = translate::sendmsg(&HookMaps, &call, &dialled);
    call.log("sendmsg", &dialled, &verdict);
    call.answer(verdict)
}

#[inline(always)]
fn recvmsg<F: context::Family>(ctx: &SockAddrContext) -> i32 {
    if let Some(call) = Call::<F>::of(ctx) {
        let source = call.peer();
        if let Some(dialled) = translate::recvmsg(&HookMaps, call.cookie(), &source) {
            call.log("recvmsg", &source, &Verdict::Rewrite(dialled));
            call.rewrite(&dialled);
        }
    }
    ALLOW
}

#[inline(always)]
fn getpeername<F: context::Family>(ctx: &SockAddrContext) -> i32 {
    if let Some(call) = Call::<F>::of(ctx) {
        let peer = call.peer();
        if let Some(dialled) = translate::getpeername(&HookMaps, call.cookie(), &peer) {
            call.log("getpeername", &peer, &Verdict::Rewrite(dialled));
            call.rewrite(&dialled);
        }
    }
    ALLOW
}

/// The verifier lets programs use GPL-only helpers for this licence; the source is MIT or Apache-2.0.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
