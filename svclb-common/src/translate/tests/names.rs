//! The peer names that a socket is shown, and the records that are kept for them.

use super::maps::{Client, HOST, Kernels, MemoryMaps, PLACES, Placed, peer, socket};
use super::*;
use std::format;
use std::string::String;

fn given(verdict: Verdict) -> Peer {
    match verdict {
        Verdict::Rewrite(given) => given,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_connected_socket_is_shown_what_it_dialled_while_its_peer_is_what_it_was_given() {
    let maps = MemoryMaps::small();
    maps.service(1, "10.96.0.10:80", &["10.244.0.1:8080"]);
    let (tcp, vip, pod) =
        (socket(1, Protocol::Tcp), peer("10.96.0.10:80"), peer("10.244.0.1:8080"));
    assert_eq!(given(connect(&maps, &tcp, &vip)), pod);
    assert_eq!(getpeername(&maps, tcp.cookie.0, &pod), Some(vip));
    assert_eq!(getpeername(&maps, tcp.cookie.0, &peer("10.244.0.9:8080")), None);
    assert_eq!(getpeername(&maps, socket(2, Protocol::Tcp).cookie.0, &pod), None);
    // Straight to the pod: no Service any more.
    assert_eq!(connect(&maps, &tcp, &pod), Verdict::Leave);
    assert_eq!(getpeername(&maps, tcp.cookie.0, &pod), None);
    assert_eq!(maps.held_places(), 0);
}

#[test]
fn a_refused_connect_keeps_the_peer_that_the_socket_has() {
    let maps = MemoryMaps::small();
    maps.service_of(1, Protocol::Udp, "10.96.0.10:53", &["10.244.0.1:53"]);
    maps.service_of(2, Protocol::Udp, "10.96.0.11:53", &[]);
    let udp = socket(1, Protocol::Udp);
    let pod = given(connect(&maps, &udp, &peer("10.96.0.10:53")));
    assert_eq!(connect(&maps, &udp, &peer("10.96.0.11:53")), Verdict::Refuse);
    assert_eq!(getpeername(&maps, udp.cookie.0, &pod), Some(peer("10.96.0.10:53")));
}

#[test]
fn two_live_sockets_of_one_place_both_stay_right() {
    let maps = MemoryMaps::small();
    maps.service(1, "10.96.0.10:80", &["10.244.0.1:80"]);
    maps.service(2, "10.96.0.11:80", &["10.244.0.2:80"]);
    let (first, second) = (socket(3, Protocol::Tcp), socket(3 + u64::from(PLACES), Protocol::Tcp));
    let (one, two) = (peer("10.96.0.10:80"), peer("10.96.0.11:80"));
    let (pod1, pod2) = (given(connect(&maps, &first, &one)), given(connect(&maps, &second, &two)));
    assert_eq!(maps.overflow_entries(), 1);
    assert_eq!(getpeername(&maps, first.cookie.0, &pod1), Some(one));
    assert_eq!(getpeername(&maps, second.cookie.0, &pod2), Some(two));
    assert_eq!(getpeername(&maps, second.cookie.0, &pod1), None);
    release(&maps, first.cookie.0);
    assert_eq!(getpeername(&maps, second.cookie.0, &pod2), Some(two));
    release(&maps, second.cookie.0);
    assert_eq!((maps.held_places(), maps.spilled_sockets(), maps.overflow_entries()), (0, 0, 0));
}

#[test]
fn a_socket_without_a_release_leaves_nothing_behind() {
    let maps = MemoryMaps::small();
    maps.service(1, "10.96.0.10:80", &["10.244.0.1:80"]);
    maps.service_of(2, Protocol::Udp, "10.96.0.10:53", &["10.244.0.1:53"]);
    given(connect(&maps, &Kernels(socket(1, Protocol::Tcp)), &peer("10.96.0.10:80")));
    let udp = Kernels(socket(2, Protocol::Udp));
    given(connect(&maps, &udp, &peer("10.96.0.10:53")));
    // Its answers could not be shown as coming from what it dialled.
    assert_eq!(sendmsg(&maps, &udp, &peer("10.96.0.10:53")), Verdict::Leave);
    assert_eq!((maps.held_places(), maps.overflow_entries()), (0, 0));
}

#[test]
fn an_unconnected_socket_keeps_its_backend_and_hears_from_what_it_dialled() {
    let maps = MemoryMaps::small();
    let backends = ["10.244.0.1:53", "10.244.0.2:53", "10.244.0.3:53"];
    let line = maps.service_of(1, Protocol::Udp, "10.96.0.10:53", &backends);
    let (udp, vip) = (socket(1, Protocol::Udp), peer("10.96.0.10:53"));
    let pod = given(sendmsg(&maps, &udp, &vip));
    for _ in 0..100 {
        assert_eq!(given(sendmsg(&maps, &udp, &vip)), pod);
        assert_eq!(recvmsg(&maps, udp.cookie.0, &pod), Some(vip));
    }
    assert_eq!(maps.counted(Counter::Translated), 1);
    // Members change, this one stays: it is kept.
    maps.flip(line, &[&text(pod), "10.244.0.9:53"]);
    assert_eq!(given(sendmsg(&maps, &udp, &vip)), pod);
    let generation = maps.line(line).unwrap().generation();
    assert_eq!(maps.record(1).unwrap().generation, generation);
    // It goes: the next send moves on.
    maps.flip(line, &["10.244.0.9:53"]);
    assert_eq!(given(sendmsg(&maps, &udp, &vip)), peer("10.244.0.9:53"));
    maps.flip(line, &[]);
    assert_eq!(sendmsg(&maps, &udp, &vip), Verdict::Refuse);
}

fn text(peer: Peer) -> String {
    format!("{}:{}", Address::from_words(peer.address), peer.port)
}

#[test]
fn a_send_to_what_is_no_frontend_leaves_the_records_alone() {
    let maps = MemoryMaps::small();
    maps.service_of(1, Protocol::Udp, "10.96.0.10:53", &["10.244.0.1:53"]);
    let (udp, vip) = (socket(1, Protocol::Udp), peer("10.96.0.10:53"));
    let pod = given(connect(&maps, &udp, &vip));
    // A v6 socket that is connected to a mapped address: every plain send comes with the backend.
    assert_eq!(sendmsg(&maps, &udp, &pod), Verdict::Leave);
    assert_eq!(getpeername(&maps, udp.cookie.0, &pod), Some(vip));
}

#[test]
fn a_plain_send_of_a_connected_socket_is_not_translated_again() {
    let maps = MemoryMaps::small();
    maps.service_of(1, Protocol::Udp, "10.96.0.10:53", &["10.96.0.20:53"]);
    maps.service_of(2, Protocol::Udp, "10.96.0.20:53", &["10.244.0.1:53"]);
    let udp = socket(1, Protocol::Udp);
    let pod = given(connect(&maps, &udp, &peer("10.96.0.10:53")));
    assert_eq!(sendmsg(&maps, &connected(udp, pod), &pod), Verdict::Leave);
    // A send that names what it dialled is not one to its peer.
    let vip = peer("10.96.0.10:53");
    assert_eq!(sendmsg(&maps, &connected(udp, pod), &vip), Verdict::Rewrite(pod));
}

fn connected(socket: Socket, peer: Peer) -> Placed {
    let client = Client { namespace: HOST, socket };
    Placed { client, peer: Some(peer), is_on_loopback: false }
}

#[test]
fn a_send_to_the_own_peer_of_a_socket_that_was_not_translated_is_left_alone() {
    let maps = MemoryMaps::small();
    maps.service_of(1, Protocol::Udp, "10.96.0.10:53", &["10.244.0.1:53"]);
    maps.service_of(2, Protocol::Udp, "10.96.0.11:53", &[]);
    let udp = socket(1, Protocol::Udp);
    for vip in ["10.96.0.10:53", "10.96.0.11:53"] {
        assert_eq!(sendmsg(&maps, &connected(udp, peer(vip)), &peer(vip)), Verdict::Leave, "{vip}");
    }
    assert_eq!(maps.held_places(), 0);
    // Another frontend, or the same address with another port, is not its peer.
    let other = connected(udp, peer("10.96.0.10:54"));
    given(sendmsg(&maps, &other, &peer("10.96.0.10:53")));
}

#[test]
fn a_send_with_an_address_on_a_connected_socket_leaves_its_peer_alone() {
    let maps = MemoryMaps::small();
    maps.service_of(1, Protocol::Udp, "10.96.0.10:53", &["10.244.0.1:53"]);
    maps.service_of(2, Protocol::Udp, "10.96.0.11:53", &["10.244.0.2:53"]);
    let udp = socket(1, Protocol::Udp);
    let pod = given(connect(&maps, &udp, &peer("10.96.0.10:53")));
    for round in 0..20 {
        let other = given(sendmsg(&maps, &udp, &peer("10.96.0.11:53")));
        assert_eq!(other, peer("10.244.0.2:53"));
        assert_eq!(getpeername(&maps, udp.cookie.0, &pod), Some(peer("10.96.0.10:53")), "{round}");
    }
    assert_eq!(given(sendmsg(&maps, &udp, &peer("10.96.0.10:53"))), pod);
}

#[test]
fn one_socket_to_several_services_with_the_same_backends_hears_from_each() {
    for backends in [&["10.244.0.1:53", "10.244.0.2:53"][..], &["10.244.0.1:53"]] {
        for frontends in 2..=8 {
            let maps = MemoryMaps::small();
            let vips: Vec<String> = (1..=frontends).map(|n| format!("10.96.0.{n}:53")).collect();
            for (id, vip) in (1..).zip(&vips) {
                maps.service_of(id, Protocol::Udp, vip, backends);
            }
            let udp = socket(1, Protocol::Udp);
            for round in 0..5 {
                for vip in &vips {
                    let pod = given(sendmsg(&maps, &udp, &peer(vip)));
                    let name = format!("{} backends, {vip}, round {round}", backends.len());
                    assert_eq!(recvmsg(&maps, udp.cookie.0, &pod), Some(peer(vip)), "{name}");
                }
            }
            release(&maps, 1);
            assert_eq!((maps.held_places(), maps.overflow_entries()), (0, 0));
        }
    }
}

#[test]
fn two_frontends_of_a_socket_get_different_backends_where_there_are_enough() {
    let maps = MemoryMaps::small();
    let backends = ["10.244.0.1:53", "10.244.0.2:53"];
    maps.service_of(1, Protocol::Udp, "10.96.0.1:53", &backends);
    maps.service_of(2, Protocol::Udp, "10.96.0.2:53", &backends);
    for cookie in 1..100 {
        let udp = socket(cookie, Protocol::Udp);
        let one = given(sendmsg(&maps, &udp, &peer("10.96.0.1:53")));
        let two = given(sendmsg(&maps, &udp, &peer("10.96.0.2:53")));
        assert_ne!(one, two);
        release(&maps, cookie);
    }
}

#[test]
fn a_socket_to_more_frontends_than_are_kept_is_translated_all_the_same() {
    let maps = MemoryMaps::small();
    for n in 1..=20 {
        maps.service_of(
            n,
            Protocol::Udp,
            &format!("10.96.0.{n}:53"),
            &[&format!("10.244.0.{n}:53")],
        );
    }
    let udp = socket(1, Protocol::Udp);
    for round in 0..3 {
        for n in 1..=20 {
            let vip = peer(&format!("10.96.0.{n}:53"));
            let pod = given(sendmsg(&maps, &udp, &vip));
            assert_eq!(pod, peer(&format!("10.244.0.{n}:53")), "round {round}");
            assert_eq!(recvmsg(&maps, udp.cookie.0, &pod), Some(vip), "round {round}");
        }
    }
    release(&maps, 1);
    assert_eq!((maps.held_places(), maps.spilled_sockets(), maps.overflow_entries()), (0, 0, 0));
}

#[test]
fn a_full_overflow_translates_without_a_record() {
    let maps = MemoryMaps::small();
    maps.service(1, "10.96.0.10:80", &["10.244.0.1:80"]);
    let cookies = 1..=u64::from(PLACES) + 40;
    for cookie in cookies.clone() {
        given(connect(&maps, &socket(cookie, Protocol::Tcp), &peer("10.96.0.10:80")));
    }
    assert!(maps.counted(Counter::Unrecorded) > 0);
    for cookie in cookies {
        release(&maps, cookie);
    }
    assert_eq!((maps.held_places(), maps.spilled_sockets(), maps.overflow_entries()), (0, 0, 0));
}
