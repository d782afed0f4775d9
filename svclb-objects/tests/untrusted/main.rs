//! Hostile objects: nothing panics or hangs, each is rejected alone, and no Service gets a frontend that its
//! object does not name or that an older one owns, or a backend that no slice of its namespace names for it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

mod claims;
mod frames;
mod limits;
mod mutate;
mod node;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use svclb_core::model::Update;
use svclb_objects::api;
use svclb_objects::convert::{Accepted, ObjectId, wire};
use svclb_objects::file::{FileObject, contents};

use claims::{Claims, Endpoints};
use mutate::{Kind, Mutator};
use node::TestNode;

/// Mutated objects in all: each goes both through files and as from an API server.
const OBJECTS: u64 = 100_000;
/// Each on a thread of its own, with a seed of its own.
const LANES: u64 = 4;
/// Objects of one file.
const BATCH: u64 = 40;
/// First seed; the others follow it.
const SEED: u64 = 20_261_121;

#[test]
fn hundred_thousand_mutated_objects_never_panic_and_claim_only_what_they_name() {
    let seeds: Vec<u64> = (SEED..SEED + LANES).collect();
    println!("seeds {seeds:?}");
    let counts = std::thread::scope(|scope| {
        // With the stack of a main thread, where the agent reads objects.
        let thread = || std::thread::Builder::new().stack_size(8 << 20);
        let lanes: Vec<_> = seeds
            .iter()
            .map(|seed| thread().spawn_scoped(scope, || lane(*seed)).unwrap())
            .collect();
        lanes.into_iter().map(|lane| lane.join().unwrap()).collect::<Vec<_>>()
    });
    let all = counts.into_iter().reduce(|all, one| Counts {
        objects: all.objects + one.objects,
        taken: all.taken + one.taken,
        rejected: all.rejected + one.rejected,
        frontends: all.frontends + one.frontends,
        conflicts: all.conflicts + one.conflicts,
        backends: all.backends + one.backends,
    });
    let all = all.unwrap();
    println!("{all:?}");
    // Mutations that never hit, or hit always, would show nothing.
    assert_eq!(all.objects, OBJECTS);
    assert!(all.taken > OBJECTS / 10 && all.rejected > OBJECTS / 10, "{all:?}");
    assert!(all.frontends > OBJECTS / 10 && all.conflicts > OBJECTS / 100, "{all:?}");
    assert!(all.backends > OBJECTS / 10, "{all:?}");
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    objects: u64,
    /// Objects that were accepted in files.
    taken: u64,
    /// Objects that were rejected in files.
    rejected: u64,
    /// Frontends that were checked.
    frontends: u64,
    /// Frontends with several claimants.
    conflicts: u64,
    /// Backends that were checked.
    backends: u64,
}

/// A share of the objects, by one seed: some in a file, to one node, and each as from an API server,
/// to another node.
fn lane(seed: u64) -> Counts {
    let mut mutator = Mutator::new(ChaCha8Rng::seed_from_u64(seed));
    let (mut by_file, mut by_api) = (TestNode::new(), TestNode::new());
    let mut counts = Counts::default();
    while counts.objects < OBJECTS / LANES {
        // Now and then all objects are removed, so that others conflict.
        if mutator.rng.random_ratio(1, 20) {
            (by_file, by_api) = (TestNode::new(), TestNode::new());
        }
        let objects: Vec<(Kind, Value)> = (0..BATCH).map(|_| mutator.object()).collect();
        counts.objects += BATCH;
        in_a_file(&mut mutator, &objects, &mut by_file, &mut counts);
        by_an_api_server(&objects, &mut by_api);
        for node in [&mut by_file, &mut by_api] {
            let checked = node.pass().unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
            counts.frontends += checked.frontends;
            counts.conflicts += checked.conflicts;
            counts.backends += checked.backends;
        }
    }
    counts
}

/// Reads the objects from one file, with a valid Service before and after each few of them, which must be
/// accepted.
fn in_a_file(
    mutator: &mut Mutator,
    objects: &[(Kind, Value)],
    node: &mut TestNode,
    counts: &mut Counts,
) {
    // The parser of YAML is slow in a debug build.
    let json = mutator.rng.random_ratio(4, 5);
    let mut texts = Vec::new();
    let mut guards = 0;
    for (at, (_, object)) in objects.iter().enumerate() {
        if at % 5 == 0 {
            texts.push(guard(guards).to_string());
            guards += 1;
        }
        texts.push(mutator.text(object, json));
    }
    texts.push(guard(guards).to_string());
    let (path, text) = match json {
        true => (
            "list.json",
            format!(r#"{{"kind":"List","apiVersion":"v1","items":[{}]}}"#, texts.join(",")),
        ),
        false => ("documents.yaml", texts.join("\n---\n")),
    };
    let read = contents(path.as_ref(), Ok(text.into_bytes()), "here");
    for number in 0..=guards {
        let name = format!("guard-{number}");
        let guard = read.objects.iter().find(|(object, _)| *object.name.name == *name);
        let guard = guard.map(|(_, object)| &object.update);
        assert!(matches!(guard, Some(Update::Service(_, Some(_)))), "{name} in {path}");
    }
    counts.taken += read.objects.len() as u64;
    counts.rejected += read.standing as u64;
    for reject in &read.rejects {
        let text = reject.to_string();
        assert_eq!(svclb_core::text::line(&text), text);
        assert!(text.len() < 10_000, "the message has {} bytes", text.len());
    }
    for (object, FileObject { update, document, .. }) in read.objects {
        if object.name.name.starts_with("guard-") {
            continue;
        }
        if json {
            // They are in one document: any object of this name may have been accepted.
            node.take(update, objects.iter().map(|(_, object)| object));
        } else {
            // The text may be damaged, so it is parsed once more.
            let object: Value = serde_saphyr::from_str(&texts[document - 1]).unwrap();
            node.take(update, [&object]);
        }
    }
}

fn guard(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("guard-{number}")},
        "spec": {"clusterIP": "10.99.0.1", "ports": [{"port": 80}]},
    })
}

/// Reads each object alone, as in a watch.
fn by_an_api_server(objects: &[(Kind, Value)], node: &mut TestNode) {
    for (kind, object) in objects {
        let text = object.to_string();
        let (_, read) = match kind {
            Kind::Service => api::read::<wire::Service>(&text),
            Kind::Slice => api::read::<wire::EndpointSlice>(&text),
            Kind::Node => api::read::<wire::Node>(&text),
        };
        match read.contents {
            Ok(Accepted { update, left_out, .. }) => {
                let of = ObjectId::of(&update);
                assert_eq!(read.name, of.map(|object| object.name));
                if let Some(ignored) = left_out.ignored {
                    let text = ignored.to_string();
                    assert_eq!(svclb_core::text::line(&text), text);
                    assert!(text.len() < 10_000, "the message has {} bytes", text.len());
                }
                node.take(update, [object]);
            }
            Err(invalid) => {
                let text = invalid.to_string();
                assert_eq!(svclb_core::text::line(&text), text);
                assert!(text.len() < 10_000, "the message has {} bytes", text.len());
            }
        }
    }
}

#[test]
fn the_check_sees_a_frontend_that_no_object_names() {
    let service = json!({
        "metadata": {"name": "a"},
        "spec": {"clusterIP": "10.96.0.1", "externalIPs": ["192.0.2.1", "010.0.0.1"],
            "ports": [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]},
    });
    let claims = Claims::of(&service);
    let rows = [
        ("its ClusterIP", "10.96.0.1", 80, 6, true),
        ("the other port", "10.96.0.1", 53, 17, true),
        ("the other port's protocol", "10.96.0.1", 53, 6, false),
        ("an external IP", "192.0.2.1", 80, 6, true),
        ("an external IP with zeros", "10.0.0.1", 80, 6, true),
        ("the address of another Service", "10.96.0.2", 80, 6, false),
        ("a node port at a ClusterIP", "10.96.0.1", 30080, 6, false),
    ];
    for (row, address, port, protocol, named) in rows {
        assert_eq!(claims.name(address.parse().unwrap(), port, protocol), named, "{row}");
    }
    assert!(claims.node_port(30080, 6) && !claims.node_port(30080, 17) && !claims.node_port(80, 6));
}

#[test]
fn the_check_sees_a_backend_that_no_slice_names() {
    let slice = json!({
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080}, {"name": "", "port": 53, "protocol": "UDP"}, {"port": 9},
            {"name": "s", "port": 7, "protocol": "SCTP"}],
        "endpoints": [{"addresses": ["10.244.0.1", "10.244.0.9"]}, {"addresses": ["10.244.0.002"]}, {},
            {"addresses": ["127.0.0.1"]}, {"addresses": ["169.254.169.254"]}, {"addresses": ["fe80::1"]}],
    });
    let endpoints = Endpoints::of(&slice);
    let rows = [
        ("an endpoint", "web", ("http", 6), "10.244.0.1", 8080, true),
        ("another, with zeros", "web", ("http", 6), "10.244.0.2", 8080, true),
        ("a port with an empty name", "web", ("", 17), "10.244.0.2", 53, true),
        ("another protocol", "web", ("http", 17), "10.244.0.1", 8080, false),
        ("another number", "web", ("http", 6), "10.244.0.1", 53, false),
        ("another address", "web", ("http", 6), "10.244.0.3", 8080, false),
        ("a second address of an endpoint", "web", ("http", 6), "10.244.0.9", 8080, false),
        ("another Service", "api", ("http", 6), "10.244.0.1", 8080, false),
        ("a port without a name", "web", ("", 6), "10.244.0.1", 9, true),
        ("SCTP", "web", ("s", 6), "10.244.0.1", 7, false),
        ("loopback", "web", ("http", 6), "127.0.0.1", 8080, false),
        ("a cloud's metadata", "web", ("http", 6), "169.254.169.254", 8080, false),
        ("link-local IPv6", "web", ("http", 6), "fe80::1", 8080, false),
    ];
    for (row, service, its_port, address, port, named) in rows {
        let found = endpoints.name(service, its_port, address.parse().unwrap(), port);
        assert_eq!(found, named, "{row}");
    }
}
