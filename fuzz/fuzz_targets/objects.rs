//! Objects as an API server tells them: in JSON, one a line, Services, EndpointSlices or Nodes by the first
//! byte of a line; or, where the first byte is 0, in protobuf, all of it the body of a watch (a frame that
//! is not too long begins with a 0). Each is read or rejected alone, and what the maps say in the end,
//! frontends and backends, is named by an object and belongs to the oldest that names it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use svclb_fuzz::node::TestNode;
use svclb_objects::convert::wire;
use svclb_objects::protobuf::Frames;
use svclb_objects::{api, text};

/// The most objects of one input.
const OBJECTS: usize = 16;

fuzz_target!(|bytes: &[u8]| {
    let mut node = TestNode::new();
    if bytes.first() == Some(&0) {
        protobuf(bytes, &mut node);
    } else {
        for line in bytes.split(|byte| *byte == b'\n').take(OBJECTS) {
            let Some((kind, line)) = line.split_first() else { continue };
            let Ok(line) = std::str::from_utf8(line) else { continue };
            object(*kind, line, &mut node);
        }
    }
    node.pass().unwrap_or_else(|wrong| panic!("{wrong}"));
});

/// A body that comes in two parts.
fn protobuf(body: &[u8], node: &mut TestNode) {
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
                let told = &event["object"];
                let kind = told["kind"].as_str().and_then(|kind| kind.bytes().next());
                object(kind.unwrap_or(b'S'), &told.to_string(), node);
            }
        }
    }
}

fn object(kind: u8, line: &str, node: &mut TestNode) {
    let (_, read) = match kind {
        b'S' => api::read::<wire::Service>(line),
        b'E' => api::read::<wire::EndpointSlice>(line),
        _ => api::read::<wire::Node>(line),
    };
    match read.said {
        Ok((update, _)) => {
            let said: Value = serde_json::from_str(line).unwrap_or_default();
            node.take(update, [&said]);
        }
        Err(invalid) => {
            let told = invalid.to_string();
            assert_eq!(text::line(&told), told);
            assert!(told.len() < 10_000);
        }
    }
}
