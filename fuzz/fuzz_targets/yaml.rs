//! A file for `--from`, of JSON if the first byte is odd, otherwise of YAML. The target checks that each
//! reject is one line, that each frontend and backend in the maps comes from an object in the file, and that
//! it belongs to the first claimant by kind and age.
#![no_main]

use libfuzzer_sys::fuzz_target;
use svclb_core::text;
use svclb_fuzz::node::TestNode;
use svclb_fuzz::plain;
use svclb_objects::file::contents;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let json = first & 1 == 1;
    let path = if json { "a.json" } else { "a.yaml" };
    let held = contents(path.as_ref(), Ok(bytes.to_vec()), "here");
    for reject in &held.rejects {
        let message = reject.to_string();
        assert_eq!(text::line(&message), message);
        assert!(message.len() < 10_000);
    }
    if held.objects.is_empty() {
        return;
    }
    let objects =
        std::str::from_utf8(bytes).map(|text| plain::objects(text, json)).unwrap_or_default();
    let mut node = TestNode::new();
    for object in held.objects.into_values() {
        node.take(object.update, &objects);
    }
    node.pass().unwrap_or_else(|wrong| panic!("{wrong}"));
});
