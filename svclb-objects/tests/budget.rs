//! The cost of reading a changed slice of an API server, in numbers that are the same on every machine:
//! allocations, however many endpoints there are.

#[path = "../../svclb-core/tests/common/allocations.rs"]
mod allocations;

use allocations::allocations;
use svclb_core::model::Update;
use svclb_objects::api::Read;
use svclb_objects::convert::Kind;
use svclb_objects::events::{Decoder, Encoding, Event};

/// A field of a message: a text, or a message.
fn field(number: u32, value: impl Into<Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::bytes::encode(number, &value.into(), &mut bytes);
    bytes
}

/// A frame with a slice of so many endpoints on ten nodes.
fn slice(endpoints: u8) -> Vec<u8> {
    let label = [field(1, "kubernetes.io/service-name"), field(2, "hello")].concat();
    let metadata =
        [field(1, "hello-abcde"), field(3, "default"), field(6, "123456"), field(11, label)];
    let mut message = field(1, metadata.concat());
    for number in 0..endpoints {
        // Ready and serving, not terminating.
        let conditions = [1 << 3, 1, 2 << 3, 1, 3 << 3, 0];
        let zone = field(1, field(1, "zone-a"));
        let endpoint = [
            field(1, format!("10.244.1.{number}")),
            field(2, conditions.to_vec()),
            field(6, format!("node-{}", number % 10)),
            field(8, zone),
        ];
        message.extend(field(2, endpoint.concat()));
    }
    let port = [field(1, ""), field(2, "TCP"), vec![3 << 3, 80]];
    message.extend(field(3, port.concat()));
    message.extend(field(4, "IPv4"));
    let kind = [field(1, "discovery.k8s.io/v1"), field(2, "EndpointSlice")].concat();
    let envelope = [field(1, kind), field(2, message)].concat();
    let envelope = [b"k8s\0".as_slice(), &envelope].concat();
    let event = [field(1, "ADDED"), field(2, field(1, envelope))].concat();
    let length = u32::try_from(event.len()).unwrap_or_default();
    [&length.to_be_bytes()[..], &event].concat()
}

fn next(decoder: &mut Decoder) -> Option<Read> {
    match decoder.next(Kind::EndpointSlice) {
        Ok(Some(Event::Object { read, .. })) => Some(read),
        _ => None,
    }
}

/// The allocations for a slice, and for the hints of each of its endpoints.
const MOST: usize = 25;
const EACH: usize = 2;

/// One test only: the allocator counts for the whole process.
#[test]
fn an_endpoint_more_takes_no_allocation_but_for_its_hints() {
    for endpoints in [10, 100] {
        let frame = slice(endpoints);
        let mut decoder = Decoder::new(Encoding::Protobuf);
        decoder.push(&frame);
        let first = next(&mut decoder).unwrap();
        decoder.push(&frame);
        // The second time nodes and zones are known.
        let before = allocations();
        let second = next(&mut decoder).unwrap();
        let allocations = allocations() - before;
        let update = second.contents.unwrap().update;
        let Update::Slice(name, Some(slice)) = update else { panic!("{update:?}") };
        assert_eq!(Some(name), first.name);
        assert_eq!(slice.endpoints.len(), usize::from(endpoints));
        println!("{allocations} allocations for {endpoints} endpoints");
        let most = MOST + EACH * usize::from(endpoints);
        assert!(allocations <= most, "{allocations} for {endpoints} endpoints, at most {most}");
    }
}
