//! Objects of an API server. If the first byte is 0, the input is the body of a watch in protobuf, as every
//! frame of acceptable length begins with a 0. Otherwise each line is an object in JSON, and its first byte
//! selects Service, EndpointSlice or Node. The target checks that objects are accepted or rejected separately,
//! that each frontend and backend in the maps comes from an object, and that it belongs to the first claimant
//! by kind and age.
#![no_main]

use libfuzzer_sys::fuzz_target;
use svclb_core::text;
use svclb_fuzz::node::TestNode;
use svclb_objects::api::{self, Read, Wire};
use svclb_objects::convert::{Kind, wire};
use svclb_objects::events::{Decoder, Encoding, Event};
use svclb_objects::protobuf;

/// Largest number of objects of one input.
const OBJECTS: usize = 16;

fuzz_target!(|bytes: &[u8]| {
    let mut node = TestNode::new();
    if bytes.first() == Some(&0) {
        body(bytes, &mut node);
    } else {
        for line in bytes.split(|byte| *byte == b'\n').take(OBJECTS) {
            let Some((kind, line)) = line.split_first() else { continue };
            let Ok(line) = std::str::from_utf8(line) else { continue };
            match kind {
                b'S' => object::<wire::Service>(line, &mut node),
                b'E' => object::<wire::EndpointSlice>(line, &mut node),
                _ => object::<wire::Node>(line, &mut node),
            };
        }
    }
    node.pass().unwrap_or_else(|wrong| panic!("{wrong}"));
});

/// Reads a body that arrives in two parts, and checks that each event is about at most one kind of object.
fn body(body: &[u8], node: &mut TestNode) {
    let taken = [
        events::<wire::Service>(body, Kind::Service, node),
        events::<wire::EndpointSlice>(body, Kind::EndpointSlice, node),
        events::<wire::Node>(body, Kind::Node, node),
    ];
    for at in 0..OBJECTS {
        let kinds = taken.iter().filter(|taken| taken.get(at) == Some(&true)).count();
        assert!(kinds <= 1, "event {at} is about {kinds} objects");
    }
}

/// Reads the events of a body as the watch of a kind does. Returns for each event whether its object was
/// accepted.
fn events<T: Wire>(body: &[u8], kind: Kind, node: &mut TestNode) -> Vec<bool> {
    let mut decoder = Decoder::new(Encoding::Protobuf);
    let (first, second) = body.split_at(body.len() / 2);
    let (mut taken, mut rest) = (Vec::new(), body);
    for part in [first, second] {
        decoder.push(part);
        loop {
            let event = match decoder.next(kind) {
                Ok(Some(event)) if taken.len() < OBJECTS => event,
                Ok(None) => break,
                // The watch ends with its first error: what follows is not read.
                Ok(Some(_)) | Err(_) => return taken,
            };
            let Some((length, more)) = rest.split_first_chunk() else { return taken };
            let (message, more) = more.split_at(u32::from_be_bytes(*length) as usize);
            rest = more;
            taken.push(match event {
                Event::Object { read, .. } => take(read, node, || {
                    let (_, envelope) = protobuf::event(message.to_vec().into()).ok()?;
                    serde_json::to_value(envelope.object::<T>().ok()?).ok()
                }),
                Event::Bookmark { .. } | Event::Error(_) => false,
            });
        }
    }
    taken
}

/// Reads an object in JSON as the watch of a kind does.
fn object<T: Wire>(text: &str, node: &mut TestNode) {
    let (_, read) = api::read::<T>(text);
    take(read, node, || serde_json::from_str(text).ok());
}

/// Applies an object, whose JSON is `json`, to the node. Returns true if the object was accepted.
fn take(read: Read, node: &mut TestNode, json: impl FnOnce() -> Option<serde_json::Value>) -> bool {
    match read.contents {
        Ok(accepted) => {
            node.take(accepted.update, [&json().unwrap_or_default()]);
            true
        }
        Err(invalid) => {
            let message = invalid.to_string();
            assert_eq!(text::line(&message), message);
            assert!(message.len() < 10_000);
            false
        }
    }
}
