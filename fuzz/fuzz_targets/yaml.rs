//! A file of YAML or JSON, as `--from` reads it: the first byte says which. Whatever it holds is read to
//! its end, told in one line each, and what the maps say of it in the end is named by an object in it and
//! belongs to the first that claims it, by kind and age.
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
        let told = reject.to_string();
        assert_eq!(text::line(&told), told);
        assert!(told.len() < 10_000);
    }
    if held.objects.is_empty() {
        return;
    }
    let said =
        std::str::from_utf8(bytes).map(|text| plain::objects(text, json)).unwrap_or_default();
    let mut node = TestNode::new();
    for object in held.objects.into_values() {
        node.take(object.update, &said);
    }
    node.pass().unwrap_or_else(|wrong| panic!("{wrong}"));
});
