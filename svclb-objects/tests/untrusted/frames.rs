//! Protobuf of a real API server, changed in its bytes.

use rand::rngs::ChaCha8Rng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use svclb_objects::api::{self, Wire};
use svclb_objects::convert::wire;
use svclb_objects::protobuf::{self, Frames};

use super::SEED;
use super::node::TestNode;

/// Mutated frames in all.
const FRAMES: usize = 20_000;
/// Frames of one body.
const BATCH: usize = 8;

/// As tests/tests/kube/protobuf.rs recorded them.
const RECORDED: [&[u8]; 3] = [
    include_bytes!("../protobuf/services.frames"),
    include_bytes!("../protobuf/endpointslices.frames"),
    include_bytes!("../protobuf/nodes.frames"),
];

/// The messages of all recorded frames.
fn messages() -> Vec<&'static [u8]> {
    let mut messages = Vec::new();
    for mut body in RECORDED {
        while let Some((length, rest)) = body.split_first_chunk() {
            let (message, next) = rest.split_at(u32::from_be_bytes(*length) as usize);
            messages.push(message);
            body = next;
        }
    }
    messages
}

/// One change: a byte, or a few that go, come, or come again.
fn change(rng: &mut ChaCha8Rng, message: &mut Vec<u8>) {
    let at = rng.random_range(0..=message.len());
    let end = (at + rng.random_range(0..8)).min(message.len());
    match rng.random_range(0..8) {
        0..=4 if at < message.len() => message[at] ^= 1 << rng.random_range(0..8),
        5 => drop(message.drain(at..end)),
        6 => drop(message.splice(at..at, rng.random::<[u8; 3]>())),
        _ => {
            let again = message[at..end].to_vec();
            drop(message.splice(at..at, again));
        }
    }
}

#[test]
fn mutated_frames_crash_nothing_and_claim_only_what_they_name() {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let messages = messages();
    let (mut node, mut taken, mut rejected, mut malformed) = (TestNode::new(), 0, 0, 0);
    for round in 0..FRAMES / BATCH {
        if round % 20 == 0 {
            node = TestNode::new();
        }
        let mut body = Vec::new();
        for _ in 0..BATCH {
            let mut message = messages.choose(&mut rng).unwrap().to_vec();
            // What is wrong with one frame hides those behind it.
            if rng.random_ratio(1, 3) {
                change(&mut rng, &mut message);
            }
            body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
            body.extend(message);
        }
        let (mut frames, mut rest) = (Frames::default(), &body[..]);
        let end = loop {
            match frames.lines() {
                Ok(Some(lines)) => {
                    for line in std::str::from_utf8(&lines).unwrap().lines() {
                        match line_of(line, &mut node) {
                            Some(true) => taken += 1,
                            Some(false) => rejected += 1,
                            None => {}
                        }
                    }
                }
                Ok(None) if rest.is_empty() => break frames.end(),
                Ok(None) => {
                    let (part, next) = rest.split_at(rng.random_range(1..=rest.len()));
                    frames.take(part);
                    rest = next;
                }
                Err(malformed) => break Err(malformed),
            }
        };
        if let Err(wrong) = end {
            let told = wrong.to_string();
            assert!(told.starts_with("the API server's protobuf ") && told.len() < 1000, "{told}");
            malformed += 1;
        }
        node.pass().unwrap_or_else(|wrong| panic!("seed {SEED}, round {round}: {wrong}"));
    }
    println!("{taken} taken, {rejected} rejected, {malformed} bodies malformed");
    // Changes that never hit, or hit always, would show nothing.
    assert!(taken > FRAMES / 10 && rejected > FRAMES / 100 && malformed > FRAMES / 100);
}

/// An event as the agent reads it: whether its object was taken in. None where it carries no object.
fn line_of(line: &str, node: &mut TestNode) -> Option<bool> {
    let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let text = event["object"].to_string();
    let taken = [
        object::<wire::Service>(&text, node),
        object::<wire::EndpointSlice>(&text, node),
        object::<wire::Node>(&text, node),
    ];
    let count = taken.into_iter().filter(|taken| *taken).count();
    if protobuf::carried(&text).is_none() {
        assert_eq!(count, 0, "a bookmark or an error says nothing: {line}");
        return None;
    }
    assert!(count <= 1, "it is of one kind: {line}");
    Some(count == 1)
}

/// An object as the watch of a kind reads it. True when it was taken in.
fn object<T: Wire>(text: &str, node: &mut TestNode) -> bool {
    let (version, read) = api::read::<T>(text);
    let accepted = match read.said {
        Ok(accepted) => accepted,
        Err(invalid) => {
            let told = invalid.to_string();
            assert_eq!(svclb_core::text::line(&told), told);
            assert!(told.len() < 10_000);
            return false;
        }
    };
    let message: T = protobuf::object(protobuf::carried(text).unwrap()).unwrap();
    let json = serde_json::to_value(message).unwrap();
    // In JSON it says the same.
    let (json_version, of_json) = api::read::<T>(&json.to_string());
    let update = accepted.update.clone();
    let said = (version, read.name, Ok(accepted));
    assert_eq!((json_version, of_json.name, of_json.said), said, "{json:#}");
    assert_eq!(of_json.hash, read.hash, "{json:#}");
    node.take(update, [&json]);
    true
}
