//! Marks of backends that are no more are taken away, and no socket is misled for it.

use super::maps::{LINES, MemoryMaps, PLACES, peer, socket};
use super::*;
use crate::index;
use proptest::prelude::*;
use std::collections::HashMap;
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

const SOCKETS: u64 = 24;
const VIP: &str = "10.96.0.10:53";

#[derive(Clone, Debug)]
enum Deed {
    /// A socket connects to the Service.
    Connect(u64),
    /// A socket sends to it.
    Send(u64),
    /// A socket connects straight to one of the backends that there ever were.
    ConnectDirectly(u64, u8),
    Close(u64),
    /// The Service has these backends now.
    Change(Vec<u8>),
    /// Members are noted; then, a grace period later, what sockets remember.
    Begin,
    Finish,
}

fn deed() -> impl Strategy<Value = Deed> {
    let socket = || 1..=SOCKETS;
    prop_oneof![
        6 => socket().prop_map(Deed::Connect),
        3 => socket().prop_map(Deed::Send),
        4 => (socket(), any::<u8>()).prop_map(|(s, b)| Deed::ConnectDirectly(s, b)),
        2 => socket().prop_map(Deed::Close),
        4 => proptest::collection::vec(any::<u8>(), 1..4).prop_map(Deed::Change),
        2 => Just(Deed::Begin),
        2 => Just(Deed::Finish),
    ]
}

fn backend(number: u8) -> String {
    format!("10.244.0.{number}:53")
}

fn key(peer: &Peer) -> BackendKey {
    let address = Address::from_words(peer.address);
    BackendKey { address, port: peer.port, ..BackendKey::default() }
}

/// Everything that live sockets remember.
fn remembered(maps: &MemoryMaps) -> Vec<Peer> {
    let places = (0..PLACES).filter_map(|place| maps.origin(place));
    let places = places.filter(|place| place.count() != 0 && place.cookie() != 0);
    let mut found: Vec<Peer> = places.map(|place| record::given_of(place.record())).collect();
    found.extend(
        maps.overflow_records()
            .iter()
            .map(|record| Peer { address: record.given.words(), port: record.given_port }),
    );
    found
}

fn has_marks(maps: &MemoryMaps, given: &Peer) -> bool {
    let mut needed = vec![0; LINES as usize];
    index::need_marks(&mut needed, &key(given), maps.seed());
    let mut words = (0..).zip(needed);
    words.all(|(number, needed)| maps.line(number).unwrap().marks() & needed == needed)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_a_live_socket_remembers_is_always_marked(
        deeds in proptest::collection::vec(deed(), 1..200),
    ) {
        let maps = MemoryMaps::small();
        let first = [backend(1), backend(2)];
        let line = maps.service_of(1, Protocol::Udp, VIP, &[&first[0], &first[1]]);
        let mut members: Vec<String> = first.into();
        let mut needed: Option<Vec<u64>> = None;
        let mut peers: HashMap<u64, Peer> = HashMap::new();
        let mut cookies: HashMap<u64, u64> = (1..=SOCKETS).map(|s| (s, s)).collect();
        let mut next_cookie = SOCKETS + 1;
        for deed in deeds {
            match deed {
                Deed::Connect(s) => {
                    let verdict = connect(&maps, &socket(cookies[&s], Protocol::Udp), &peer(VIP));
                    if let Verdict::Rewrite(given) = verdict {
                        peers.insert(s, given);
                    }
                }
                Deed::Send(s) => {
                    sendmsg(&maps, &socket(cookies[&s], Protocol::Udp), &peer(VIP));
                }
                Deed::ConnectDirectly(s, b) => {
                    // Mostly to what it was given before, which only then can be mistaken.
                    let to = match peers.remove(&s) {
                        Some(given) if b % 4 != 0 => given,
                        _ => peer(&backend(b)),
                    };
                    let udp = socket(cookies[&s], Protocol::Udp);
                    prop_assert_eq!(connect(&maps, &udp, &to), Verdict::Leave);
                    prop_assert_eq!(getpeername(&maps, udp.cookie.0, &to), None, "it is told the truth");
                }
                Deed::Close(s) => {
                    peers.remove(&s);
                    release(&maps, cookies[&s]);
                    cookies.insert(s, next_cookie);
                    next_cookie += 1;
                }
                Deed::Change(numbers) => {
                    members = numbers.into_iter().map(backend).collect();
                    let backends: Vec<&str> = members.iter().map(String::as_str).collect();
                    maps.flip(line, &backends);
                    for member in &members {
                        if let Some(needed) = &mut needed {
                            index::need_marks(needed, &key(&peer(member)), maps.seed());
                        }
                    }
                }
                Deed::Begin => {
                    let mut begun = vec![0; LINES as usize];
                    for member in &members {
                        index::need_marks(&mut begun, &key(&peer(member)), maps.seed());
                    }
                    needed = Some(begun);
                }
                Deed::Finish => {
                    let Some(mut needed) = needed.take() else { continue };
                    for given in remembered(&maps) {
                        index::need_marks(&mut needed, &key(&given), maps.seed());
                    }
                    index::keep_marks(&needed, |number| maps.line(number));
                    for number in 0..LINES {
                        let marks = maps.line(number).unwrap().marks();
                        prop_assert_eq!(marks & !needed[number as usize], 0, "line {}", number);
                    }
                }
            }
            for given in remembered(&maps) {
                prop_assert!(has_marks(&maps, &given), "{:?} has no mark", given);
            }
            for member in &members {
                prop_assert!(has_marks(&maps, &peer(member)), "{} has no mark", member);
            }
        }
    }
}
