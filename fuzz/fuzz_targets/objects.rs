//! Objects as an API server tells them: in JSON, one a line, Services, EndpointSlices or Nodes by the first
//! byte of a line; or, where the first byte is 0, in protobuf, all of it the body of a watch (a frame that
//! is not too long begins with a 0). Each is read or rejected alone, and what the maps say in the end,
//! frontends and backends, is named by an object and belongs to the first that claims it, by kind and age.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use svclb_fuzz::node::TestNode;
use svclb_objects::api::{self, Wire};
use svclb_objects::convert::wire;
use svclb_objects::protobuf::{self, Frames};
use svclb_core::text;

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

/// A body that comes in two parts.
fn body(body: &[u8], node: &mut TestNode) {
    let mut frames = Frames::default();
    let (first, second) = body.split_at(body.len() / 2);
    for part in [first, second] {
        frames.take(part);
        while let Ok(Some(lines)) = frames.lines() {
            // Any line is one of JSON.
            let lines = std::str::from_utf8(&lines).unwrap_or_else(|error| panic!("{error}"));
            for line in lines.lines().take(OBJECTS) {
                let event: Value =
                    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                let told = event["object"].to_string();
                // An object is of one kind at most.
                let taken = [
                    object::<wire::Service>(&told, node),
                    object::<wire::EndpointSlice>(&told, node),
                    object::<wire::Node>(&told, node),
                ];
                assert!(taken.iter().filter(|taken| **taken).count() <= 1, "{line}");
            }
        }
    }
}

/// An object as the watch of a kind reads it. True when it was taken in.
fn object<T: Wire>(told: &str, node: &mut TestNode) -> bool {
    match api::read::<T>(told).1.said {
        Ok(accepted) => {
            // A text is protobuf, also in a line of JSON.
            let said = match protobuf::carried(told) {
                Some(carried) => protobuf::object::<T>(carried)
                    .map(|object| serde_json::to_value(object).unwrap_or_default())
                    .unwrap_or_default(),
                None => serde_json::from_str(told).unwrap_or_default(),
            };
            node.take(accepted.update, [&said]);
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
