//! Random histories of several sockets against a plain model.

use super::maps::{MemoryMaps, peer, socket};
use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::format;
use std::vec::Vec;

/// Number of frontends, each with its own backends, two of them shared with its neighbour.
const FRONTENDS: u8 = 5;
const SOCKETS: u64 = 24;

#[derive(Clone, Debug)]
enum Deed {
    Connect(u64, u8),
    ConnectElsewhere(u64),
    Send(u64, u8),
    Close(u64),
    Churn(u8, u8),
}

fn deed() -> impl Strategy<Value = Deed> {
    let socket = || 1..=SOCKETS;
    prop_oneof![
        4 => (socket(), 0..FRONTENDS).prop_map(|(s, f)| Deed::Connect(s, f)),
        1 => socket().prop_map(Deed::ConnectElsewhere),
        6 => (socket(), 0..FRONTENDS).prop_map(|(s, f)| Deed::Send(s, f)),
        2 => socket().prop_map(Deed::Close),
        2 => (0..FRONTENDS, 0..8_u8).prop_map(|(f, n)| Deed::Churn(f, n)),
    ]
}

fn vip(frontend: u8) -> Peer {
    peer(&format!("10.96.0.{}:53", frontend + 1))
}

/// The members that a bit mask says, of the three that a frontend can have.
fn members(frontend: u8, mask: u8) -> Vec<std::string::String> {
    (0..3)
        .filter(|bit| mask & (1 << bit) != 0)
        .map(|bit| format!("10.244.0.{}:53", frontend + bit + 1))
        .collect()
}

/// The test's model of a live socket: its peer, if it is connected.
#[derive(Default)]
struct Known {
    connected: Option<(Peer, Peer)>,
}

proptest! {
    #[test]
    fn every_socket_gets_members_and_true_names_and_leaves_nothing_behind(
        deeds in proptest::collection::vec(deed(), 1..200),
    ) {
        let maps = MemoryMaps::small();
        let mut masks = [7_u8; FRONTENDS as usize];
        let mut lines = Vec::new();
        for f in 0..FRONTENDS {
            let backends = members(f, 7);
            let backends: Vec<&str> = backends.iter().map(|b| b.as_str()).collect();
            let dialled = format!("10.96.0.{}:53", f + 1);
            lines.push(maps.service_of(u32::from(f) + 1, Protocol::Udp, &dialled, &backends));
        }
        let mut live: HashMap<u64, Known> = HashMap::new();
        // Cookies are never used again: a closed socket comes back as another.
        let mut cookies: HashMap<u64, u64> = (1..=SOCKETS).map(|s| (s, s)).collect();
        let mut next_cookie = SOCKETS + 1;
        for deed in deeds {
            match deed {
                Deed::Connect(s, f) => {
                    let udp = socket(cookies[&s], Protocol::Udp);
                    let known = live.entry(udp.cookie.0).or_default();
                    match connect(&maps, &udp, &vip(f)) {
                        Verdict::Rewrite(given) => {
                            prop_assert!(is_one_of(f, masks[f as usize], &given));
                            known.connected = Some((vip(f), given));
                        }
                        Verdict::Refuse => prop_assert_eq!(masks[f as usize], 0),
                        Verdict::Leave => prop_assert!(false, "a frontend was left alone"),
                    }
                }
                Deed::ConnectElsewhere(s) => {
                    let udp = socket(cookies[&s], Protocol::Udp);
                    prop_assert_eq!(connect(&maps, &udp, &peer("10.9.9.9:53")), Verdict::Leave);
                    live.entry(udp.cookie.0).or_default().connected = None;
                }
                Deed::Send(s, f) => {
                    let udp = socket(cookies[&s], Protocol::Udp);
                    live.entry(udp.cookie.0).or_default();
                    match sendmsg(&maps, &udp, &vip(f)) {
                        Verdict::Rewrite(given) => {
                            prop_assert!(is_one_of(f, masks[f as usize], &given));
                            let recorded = maps.counted(Counter::Unrecorded) == 0;
                            if recorded && live[&udp.cookie.0].connected.is_none() {
                                prop_assert_eq!(recvmsg(&maps, udp.cookie.0, &given), Some(vip(f)));
                            }
                        }
                        Verdict::Refuse => prop_assert_eq!(masks[f as usize], 0),
                        Verdict::Leave => prop_assert!(false, "a frontend was left alone"),
                    }
                }
                Deed::Close(s) => {
                    release(&maps, cookies[&s]);
                    live.remove(&cookies[&s]);
                    cookies.insert(s, next_cookie);
                    next_cookie += 1;
                }
                Deed::Churn(f, mask) => {
                    masks[f as usize] = mask;
                    let backends = members(f, mask);
                    let backends: Vec<&str> = backends.iter().map(|b| b.as_str()).collect();
                    maps.flip(lines[f as usize], &backends);
                }
            }
            if maps.counted(Counter::Unrecorded) == 0 {
                for (cookie, known) in &live {
                    if let Some((dialled, given)) = known.connected {
                        let udp = socket(*cookie, Protocol::Udp);
                        prop_assert_eq!(getpeername(&maps, udp.cookie.0, &given), Some(dialled));
                    }
                }
            }
        }
        for cookie in live.keys() {
            release(&maps, *cookie);
        }
        prop_assert_eq!(maps.held_places(), 0);
        prop_assert_eq!(maps.spilled_sockets(), 0);
        prop_assert_eq!(maps.overflow_entries(), 0);
    }
}

fn is_one_of(frontend: u8, mask: u8, given: &Peer) -> bool {
    members(frontend, mask).iter().any(|member| peer(member) == *given)
}
