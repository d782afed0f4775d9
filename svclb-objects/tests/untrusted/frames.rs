//! Protobuf of a real API server with changed bytes.

use rand::rngs::ChaCha8Rng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use svclb_objects::api::{self, Read, Wire};
use svclb_objects::convert::{Kind, wire};
use svclb_objects::events::{Decoder, Encoding, Event, Malformed};
use svclb_objects::protobuf;

use super::SEED;
use super::node::TestNode;

/// Mutated frames in all.
const FRAMES: usize = 20_000;
/// Frames of one body.
const BATCH: usize = 8;

/// Frames that tests/tests/kube/protobuf.rs recorded.
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

/// Makes one change: of a bit, or of a few bytes that are removed, inserted or repeated.
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
fn mutated_frames_never_panic_and_claim_only_what_they_name() {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let messages = messages();
    let (mut node, mut taken_in, mut rejected, mut malformed) = (TestNode::new(), 0, 0, 0);
    for round in 0..FRAMES / BATCH {
        if round % 20 == 0 {
            node = TestNode::new();
        }
        let (mut body, mut sent) = (Vec::new(), Vec::new());
        for _ in 0..BATCH {
            let mut message = messages.choose(&mut rng).unwrap().to_vec();
            // A malformed frame ends the body, so most frames stay as they are.
            if rng.random_ratio(1, 3) {
                change(&mut rng, &mut message);
            }
            body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
            body.extend(&message);
            sent.push(message);
        }
        let parts = rng.random_range(1..=body.len());
        let [(services, end), (slices, _), (nodes, _)] =
            [Kind::Service, Kind::EndpointSlice, Kind::Node]
                .map(|kind| read(kind, body.chunks(parts)));
        assert!(services.len() == slices.len() && slices.len() == nodes.len());
        for (((service, slice), of_node), message) in
            services.into_iter().zip(slices).zip(nodes).zip(&sent)
        {
            let taken = [
                object::<wire::Service>(service, message, &mut node),
                object::<wire::EndpointSlice>(slice, message, &mut node),
                object::<wire::Node>(of_node, message, &mut node),
            ];
            match taken.iter().filter(|taken| **taken == Some(true)).count() {
                0 => rejected += usize::from(taken.contains(&Some(false))),
                count => {
                    assert_eq!(count, 1, "it is of one kind: {message:?}");
                    taken_in += 1;
                }
            }
        }
        if let Err(wrong) = end {
            let text = wrong.to_string();
            assert!(text.starts_with("the API server's protobuf ") && text.len() < 1000, "{text}");
            malformed += 1;
        }
        node.pass().unwrap_or_else(|wrong| panic!("seed {SEED}, round {round}: {wrong}"));
    }
    println!("{taken_in} taken, {rejected} rejected, {malformed} bodies malformed");
    // Changes that never hit, or hit always, would show nothing.
    assert!(taken_in > FRAMES / 10 && rejected > FRAMES / 100 && malformed > FRAMES / 100);
}

/// Returns the events of a body in parts, as the watch of a kind reads them, and the error after them.
fn read<'a>(
    kind: Kind,
    parts: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Event>, Result<(), Malformed>) {
    let (mut decoder, mut events) = (Decoder::new(Encoding::Protobuf), Vec::new());
    for part in parts {
        decoder.push(part);
        loop {
            match decoder.next(kind) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(malformed) => return (events, Err(malformed)),
            }
        }
    }
    (events, decoder.end())
}

/// Applies the object of an event, read as one of a kind. Returns true when it was accepted, and `None` where
/// the event has no object.
fn object<T: Wire>(event: Event, message: &[u8], node: &mut TestNode) -> Option<bool> {
    let (version, Read { name, hash, contents }) = match event {
        Event::Object { version, read, .. } => (version, read),
        Event::Bookmark { .. } | Event::Error(_) => return None,
    };
    let accepted = match contents {
        Ok(accepted) => accepted,
        Err(invalid) => {
            let text = invalid.to_string();
            assert_eq!(svclb_core::text::line(&text), text);
            assert!(text.len() < 10_000);
            return Some(false);
        }
    };
    let (_, envelope) = protobuf::event(message.to_vec().into()).unwrap();
    let json = serde_json::to_value(envelope.object::<T>().unwrap()).unwrap();
    // The same object in JSON.
    let (json_version, of_json) = api::read::<T>(&json.to_string());
    let update = accepted.update.clone();
    let expected = (version, name, Ok(accepted));
    assert_eq!((json_version, of_json.name, of_json.contents), expected, "{json:#}");
    assert_eq!(of_json.hash, hash, "{json:#}");
    node.take(update, [&json]);
    Some(true)
}
