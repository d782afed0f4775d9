//! Random histories of clients with affinity against a plain model.

use super::maps::{Client, MemoryMaps, peer};
use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::format;
use std::string::String;
use std::vec::Vec;

/// Services 1 and 2; each has two frontends and three possible backends, one of them in common.
const SERVICES: u8 = 2;
const CLIENTS: u64 = 4;
const TIMEOUT: u32 = 3;

#[derive(Clone, Debug)]
enum Deed {
    /// Client, service, which of its frontends.
    Connect(u64, u8, u8),
    Send(u64, u8, u8),
    /// Milliseconds.
    Wait(u64),
    Churn(u8, u8),
    /// The agent drops a row.
    Evict,
}

fn deed() -> impl Strategy<Value = Deed> {
    let dial = || (0..CLIENTS, 0..SERVICES, 0..2_u8);
    prop_oneof![
        6 => dial().prop_map(|(c, s, f)| Deed::Connect(c, s, f)),
        4 => dial().prop_map(|(c, s, f)| Deed::Send(c, s, f)),
        3 => prop_oneof![Just(1_u64), Just(2_999), Just(3_000), 0..4_000_u64].prop_map(Deed::Wait),
        2 => (0..SERVICES, 0..8_u8).prop_map(|(s, mask)| Deed::Churn(s, mask)),
        1 => Just(Deed::Evict),
    ]
}

fn vip(service: u8, frontend: u8) -> String {
    format!("10.96.{frontend}.{}:53", service + 1)
}

fn members(service: u8, mask: u8) -> Vec<String> {
    let some = (0..3).filter(|bit| mask & (1 << bit) != 0);
    some.map(|bit| format!("10.244.0.{}:53", service * 2 + bit + 1)).collect()
}

proptest! {
    #[test]
    fn a_client_keeps_its_backend_while_it_may_and_never_gets_anothers(
        deeds in proptest::collection::vec(deed(), 1..200),
    ) {
        let maps = MemoryMaps::small();
        let mut masks = [7_u8; SERVICES as usize];
        let mut lines = HashMap::new();
        for s in 0..SERVICES {
            for f in 0..2 {
                let backends = members(s, 7);
                let backends: Vec<&str> = backends.iter().map(|it| it.as_str()).collect();
                let id = u32::from(s) + 1;
                let line = maps.service_of(id, Protocol::Udp, &vip(s, f), &backends);
                maps.line(line).unwrap().set_affinity_seconds(TIMEOUT);
                lines.insert((s, f), line);
            }
        }
        // The backend that each client was given by its latest new connection, and the time of it.
        let mut model: HashMap<(u64, u8), (Peer, u64)> = HashMap::new();
        let mut cookie = 0;
        for deed in deeds {
            match deed {
                Deed::Connect(c, s, f) | Deed::Send(c, s, f) => {
                    cookie += 1;
                    let socket = Socket { cookie: SocketCookie(cookie), protocol: Protocol::Udp };
                    let client = Client { namespace: c, socket };
                    let to = peer(&vip(s, f));
                    let verdict = if matches!(deed, Deed::Connect(..)) {
                        connect(&maps, &client, &to)
                    } else {
                        sendmsg(&maps, &client, &to)
                    };
                    let members = members(s, masks[s as usize]);
                    let is_member = |it: &Peer| members.iter().any(|member| peer(member) == *it);
                    let now = maps.clock.get();
                    match verdict {
                        Verdict::Rewrite(given) => {
                            prop_assert!(is_member(&given), "{given:?} is none of {members:?}");
                            if let Some((kept, used)) = model.get(&(c, s))
                                && now - used < u64::from(TIMEOUT) * 1_000_000_000
                                && is_member(kept)
                            {
                                prop_assert_eq!(given, *kept);
                            }
                            model.insert((c, s), (given, now));
                        }
                        Verdict::Refuse => prop_assert!(members.is_empty()),
                        Verdict::Leave => prop_assert!(false, "a frontend was left alone"),
                    }
                    release(&maps, cookie);
                }
                Deed::Wait(milliseconds) => {
                    maps.clock.set(maps.clock.get() + milliseconds * 1_000_000);
                }
                Deed::Churn(s, mask) => {
                    masks[s as usize] = mask;
                    let backends = members(s, mask);
                    let backends: Vec<&str> = backends.iter().map(|it| it.as_str()).collect();
                    for f in 0..2 {
                        maps.flip(lines[&(s, f)], &backends);
                    }
                }
                Deed::Evict => {
                    if let Some(key) = maps.remove_affinity() {
                        model.remove(&(key.client, u8::try_from(key.service - 1).unwrap()));
                    }
                }
            }
        }
    }
}
