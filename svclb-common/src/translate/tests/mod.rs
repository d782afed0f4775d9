//! The datapath on memory: the very code that runs in the kernel.

mod affinity;
mod affinity_histories;
mod agent;
mod budget;
mod histories;
mod loopback;
mod maps;
mod marks;
mod names;
mod shares;

use super::*;
use crate::layout::{Set, SlotFlags};
use maps::{MemoryMaps, peer, socket};
use std::vec::Vec;

fn recvmsg(maps: &impl Lookup, cookie: u64, source: &Peer) -> Option<Peer> {
    super::recvmsg(maps, SocketCookie(cookie), source)
}

fn getpeername(maps: &impl Lookup, cookie: u64, peer: &Peer) -> Option<Peer> {
    super::getpeername(maps, SocketCookie(cookie), peer)
}

fn release(maps: &impl Lookup, cookie: u64) {
    super::release(maps, SocketCookie(cookie));
}

#[test]
fn a_connect_to_a_frontend_goes_to_one_of_its_backends() {
    let maps = MemoryMaps::small();
    maps.service(1, "10.96.0.10:80", &["10.244.0.1:8080", "10.244.0.2:8080"]);
    let tcp = socket(7, Protocol::Tcp);
    let mut seen = Vec::new();
    for _ in 0..64 {
        match connect(&maps, &tcp, &peer("10.96.0.10:80")) {
            Verdict::Rewrite(given) => seen.push(given),
            other => panic!("{other:?}"),
        }
    }
    assert!(seen.contains(&peer("10.244.0.1:8080")) && seen.contains(&peer("10.244.0.2:8080")));
    assert_eq!(maps.counted(Counter::Translated), 64);
}

#[test]
fn what_is_no_frontend_is_left_alone() {
    let maps = MemoryMaps::small();
    maps.service(1, "10.96.0.10:80", &["10.244.0.1:8080"]);
    let udp = socket(7, Protocol::Udp);
    for (name, protocol, dialled) in [
        ("another address", Protocol::Tcp, "10.96.0.11:80"),
        ("another port", Protocol::Tcp, "10.96.0.10:81"),
        ("another protocol", Protocol::Udp, "10.96.0.10:80"),
        ("a backend", Protocol::Tcp, "10.244.0.1:8080"),
        ("IPv6", Protocol::Tcp, "[fd00::1]:80"),
        ("nothing", Protocol::Tcp, "0.0.0.0:0"),
    ] {
        assert_eq!(connect(&maps, &socket(8, protocol), &peer(dialled)), Verdict::Leave, "{name}");
    }
    assert_eq!(sendmsg(&maps, &udp, &peer("10.96.0.11:80")), Verdict::Leave);
    assert_eq!(maps.held_places(), 0);
}

#[test]
fn one_port_serves_tcp_and_udp_of_different_services() {
    let maps = MemoryMaps::small();
    maps.service(1, "10.96.0.10:53", &["10.244.0.1:53"]);
    maps.service_of(2, Protocol::Udp, "10.96.0.10:53", &["10.244.0.2:53"]);
    let dialled = peer("10.96.0.10:53");
    let tcp = connect(&maps, &socket(1, Protocol::Tcp), &dialled);
    let udp = connect(&maps, &socket(2, Protocol::Udp), &dialled);
    assert_eq!(tcp, Verdict::Rewrite(peer("10.244.0.1:53")));
    assert_eq!(udp, Verdict::Rewrite(peer("10.244.0.2:53")));
}

#[test]
fn a_service_without_backends_refuses() {
    let maps = MemoryMaps::small();
    maps.service(1, "10.96.0.10:80", &[]);
    let dialled = peer("10.96.0.10:80");
    assert_eq!(connect(&maps, &socket(1, Protocol::Tcp), &dialled), Verdict::Refuse);
    let maps = MemoryMaps::small();
    maps.service_of(1, Protocol::Udp, "10.96.0.10:80", &[]);
    assert_eq!(connect(&maps, &socket(1, Protocol::Udp), &dialled), Verdict::Refuse);
    assert_eq!(sendmsg(&maps, &socket(2, Protocol::Udp), &dialled), Verdict::Refuse);
    assert_eq!(maps.counted(Counter::Refused), 2);
}

#[test]
fn a_slot_may_mean_refuse() {
    let maps = MemoryMaps::small();
    let line = maps.service(1, "10.96.0.10:80", &["10.244.0.1:80"]);
    let first = maps.line(line).unwrap().set().first;
    maps.slot(first).unwrap().set_flags(SlotFlags::REFUSE);
    let verdict = connect(&maps, &socket(1, Protocol::Tcp), &peer("10.96.0.10:80"));
    assert_eq!(verdict, Verdict::Refuse);
}

#[test]
fn a_line_that_is_not_yet_written_or_just_emptied_is_no_frontend() {
    let maps = MemoryMaps::small();
    let line = maps.service(1, "10.96.0.10:80", &["10.244.0.1:80"]);
    maps.line(line).unwrap().set_set_word(Set::ABSENT.word());
    let verdict = connect(&maps, &socket(1, Protocol::Tcp), &peer("10.96.0.10:80"));
    assert_eq!(verdict, Verdict::Leave);
}

#[test]
fn a_slot_of_another_service_is_never_given() {
    let maps = MemoryMaps::small();
    let line = maps.service(1, "10.96.0.10:80", &["10.244.0.1:80", "10.244.0.2:80"]);
    let first = maps.line(line).unwrap().set().first;
    maps.slot(first).unwrap().set_owner(9);
    for cookie in 1..200 {
        let verdict = connect(&maps, &socket(cookie, Protocol::Tcp), &peer("10.96.0.10:80"));
        assert_ne!(verdict, Verdict::Rewrite(peer("10.244.0.1:80")));
    }
    assert!(maps.counted(Counter::Redrawn) > 0);
    maps.slot(first + 1).unwrap().set_owner(9);
    let verdict = connect(&maps, &socket(1, Protocol::Tcp), &peer("10.96.0.10:80"));
    assert_eq!(verdict, Verdict::Refuse);
    assert!(maps.counted(Counter::Torn) > 0);
}

#[test]
fn a_frontend_that_changes_hands_is_served_through_every_step() {
    let maps = MemoryMaps::small();
    let line = maps.service(1, "10.96.0.10:80", &["10.244.0.1:80"]);
    let heirs = maps.service(2, "10.96.0.99:80", &["10.244.0.2:80"]);
    let (line, heirs) = (maps.line(line).unwrap(), maps.line(heirs).unwrap());
    let dial = || connect(&maps, &socket(1, Protocol::Tcp), &peer("10.96.0.10:80"));
    let (old, new) =
        (Verdict::Rewrite(peer("10.244.0.1:80")), Verdict::Rewrite(peer("10.244.0.2:80")));
    assert_eq!(dial(), old);
    line.set_heir(2);
    assert_eq!(dial(), old);
    line.set_set_word(heirs.set_word());
    assert_eq!(dial(), new);
    line.set_service(2);
    assert_eq!(dial(), new);
    line.set_heir(0);
    assert_eq!(dial(), new);
}

#[test]
fn draws_keep_weights() {
    let maps = MemoryMaps::small();
    let line = maps.service(1, "10.96.0.10:80", &["10.244.0.1:80", "10.244.0.2:80"]);
    let first = maps.line(line).unwrap().set().first;
    // One to three: the first slot keeps half of its draws and gives the other half to the second.
    maps.slot(first).unwrap().set_threshold(u32::MAX / 2);
    maps.slot(first).unwrap().set_alias(1);
    let draws = 40_000;
    let mut firsts = 0;
    for _ in 0..draws {
        let verdict = connect(&maps, &socket(1, Protocol::Tcp), &peer("10.96.0.10:80"));
        firsts += u32::from(verdict == Verdict::Rewrite(peer("10.244.0.1:80")));
    }
    // 10,000 expected; the generator of the tests is fixed, so this cannot flake.
    assert!((9_700..10_300).contains(&firsts), "{firsts}");
}

#[test]
fn a_frontend_in_the_last_line_of_its_neighbourhood_is_served() {
    let maps = MemoryMaps::small();
    maps.distant_service(1, "10.96.0.10:80", &["10.244.0.1:80"]);
    let verdict = connect(&maps, &socket(1, Protocol::Tcp), &peer("10.96.0.10:80"));
    assert_eq!(verdict, Verdict::Rewrite(peer("10.244.0.1:80")));
}
