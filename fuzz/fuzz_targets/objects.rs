//! Objects as an API server tells them, one a line: Services, EndpointSlices or Nodes by the first byte of
//! a line. Each is read or rejected alone, and what the maps say in the end, frontends and backends, is
//! named by an object and belongs to the oldest that names it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use svclb_fuzz::node::TestNode;
use svclb_objects::convert::wire;
use svclb_objects::{api, text};

fuzz_target!(|bytes: &[u8]| {
    let mut node = TestNode::new();
    for line in bytes.split(|byte| *byte == b'\n').take(16) {
        let Some((kind, line)) = line.split_first() else { continue };
        let Ok(line) = std::str::from_utf8(line) else { continue };
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
    node.pass().unwrap_or_else(|wrong| panic!("{wrong}"));
});
