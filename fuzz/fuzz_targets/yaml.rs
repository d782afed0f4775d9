//! A file of YAML or JSON, as `--from` reads it: the first byte says which. Whatever it holds is read to
//! its end, told in one line each, and claims only what it names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use svclb_fuzz::node::TestNode;
use svclb_objects::file::contents;
use svclb_objects::text;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let path = if first & 1 == 0 { "a.yaml" } else { "a.json" };
    let held = contents(path.as_ref(), Ok(bytes.to_vec()), "here");
    for reject in &held.rejects {
        let told = reject.to_string();
        assert_eq!(text::line(&told), told);
        assert!(told.len() < 10_000);
    }
    // What an object names is checked by the target `objects`, which knows where it ends.
    let mut node = TestNode::new();
    for (update, _) in held.objects.into_values() {
        node.take_unchecked(update);
    }
    node.pass().unwrap_or_else(|wrong| panic!("{wrong}"));
});
