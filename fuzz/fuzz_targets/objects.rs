//! Objects of an API server: in JSON, one a line, Services, EndpointSlices or Nodes by the first
//! byte of a line; or, where the first byte is 0, in protobuf, all of it the body of a watch (a frame that
//! is not too long begins with a 0). Each is read or rejected alone, and what the maps say in the end,
//! frontends and backends, is named by an object and belongs to the first that claims it, by kind and age.
#![no_main]

use libfuzzer_sys::fuzz_target;
use svclb_core::text;
use svclb_fuzz::node::TestNode;
use svclb_objects::api::{self, Read, Wire};
use svclb_objects::convert::{Kind, wire};
use svclb_objects::events::{Decoder, Encoding, Event};
use svclb_objects::protobuf;

/// The most objects of one input.
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

/// A body that comes in two parts, and of which each event is about an object of one kind at most.
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

/// The events of a body as the watch of a kind reads them: whether the object of each was taken in.
fn events<T: Wire>(body: &[u8], kind: Kind, node: &mut TestNode) -> Vec<bool> {
    let mut decoder = Decoder::new(Encoding::Protobuf);
    let (first, second) = body.split_at(body.len() / 2);
    let (mut taken, mut rest) = (Vec::new(), body);
    for part in [first, second] {
        decoder.push(part);
        while let Ok(Some(event)) = decoder.next(kind)
            && taken.len() < OBJECTS
            && let Some((length, more)) = rest.split_first_chunk()
        {
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

/// An object in JSON as the watch of a kind reads it.
fn object<T: Wire>(text: &str, node: &mut TestNode) {
    let (_, read) = api::read::<T>(text);
    take(read, node, || serde_json::from_str(text).ok());
}

/// Takes in an object, whose JSON is `json`. True when it was accepted.
fn take(read: Read, node: &mut TestNode, json: impl FnOnce() -> Option<serde_json::Value>) -> bool {
    match read.contents {
        Ok(accepted) => {
            node.take(accepted.update, [&json().unwrap_or_default()]);
            true
        }
        Err(invalid) => {
            let told = invalid.to_string();
            assert_eq!(text::line(&told), told);
            assert!(told.len() < 10_000);
            false
        }
    }
}
