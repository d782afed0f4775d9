//! Services of which a part cannot be read when an agent starts, or later: the earlier state of that part is
//! retained, claims frontends last, and does not affect other services.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeSet;

use common::*;
use svclb_common::layout::{Meta, ServiceNotes};
use svclb_core::catalog::Catalog;
use svclb_core::model::{Node, Protocol, Service, ServicePort, Unread, Update};
use svclb_core::plan::Planner;
use svclb_core::table::{MemoryTable, Table as _};

const OLD: [&str; 2] = ["10.0.0.1", "10.0.0.2"];

fn catalog() -> Catalog {
    Catalog::new(Node { name: "here".into(), ..Node::default() })
}

/// Maps in which an earlier agent wrote `a` at 10.96.0.1, and a new agent that knows nothing yet.
fn restarted() -> Agent {
    let mut agent = Agent::new(meta(64, 64));
    agent.ingest([service("a", &["10.96.0.1"], 1), slice("a", &OLD)]).pass();
    agent.catalog = catalog();
    agent.restart();
    agent
}

/// The first batch of the source.
fn begin(agent: &mut Agent, unread: Unread, updates: impl IntoIterator<Item = Update>) {
    agent.ingest(updates);
    agent.catalog.set_unread(unread);
    let earlier = agent.planner.take_previous(|service| agent.catalog.misses(service));
    agent.catalog.retain(earlier);
    agent.mark_all();
    agent.pass();
}

fn services(names: &[&str]) -> Unread {
    Unread { services: names.iter().map(|name| object(name)).collect(), ..Unread::default() }
}

fn slices(names: &[&str]) -> Unread {
    Unread { slices: names.iter().map(|name| object(name)).collect(), ..Unread::default() }
}

/// Runs an audit: loads the maps again, and marks all objects.
fn audit(agent: &mut Agent) {
    let dump = agent.table.load().unwrap();
    assert_eq!(agent.planner.reload(&dump), []);
    agent.mark_all();
    assert_eq!(agent.pass().steps, 0, "nothing is left to do");
}

fn notes(agent: &mut Agent, name: &str) -> u32 {
    let dump = agent.table.load().unwrap();
    let named =
        |row: &&svclb_common::layout::ServiceRow| svclb_core::compile::name_of(&row.name) == name;
    dump.services.iter().map(|(_, row)| row).find(named).map_or(0, |row| row.notes)
}

#[test]
fn each_half_of_a_service_that_cannot_be_read_is_as_an_earlier_agent_wrote_it() {
    let slice_of = |addresses: &[&str]| slice("a", addresses);
    let service_a = || service("a", &["10.96.0.1"], 1);
    let (kept, refused, live) = (set(&OLD), set(&[]), set(&["10.0.0.3"]));
    let live_slice = || slice_of(&["10.0.0.3"]);
    type Row = (&'static str, Unread, Vec<Update>, Option<BTreeSet<String>>, bool);
    let both = || Unread { slices: [object("a")].into(), ..services(&["a"]) };
    let rows: Vec<Row> = vec![
        ("all is read, nothing is there", Unread::default(), vec![], None, false),
        ("all is read, no slice", Unread::default(), vec![service_a()], refused.clone(), false),
        ("another's Service object", services(&["b"]), vec![], None, false),
        ("its Service object", services(&["a"]), vec![live_slice()], live.clone(), true),
        ("its Service object, no endpoint", services(&["a"]), vec![], refused.clone(), true),
        ("both", both(), vec![], kept.clone(), true),
        ("its only slice", slices(&["a"]), vec![service_a()], kept.clone(), true),
        ("its slice, and the Service is gone", slices(&["a"]), vec![], None, false),
        (
            "one slice of two, the other empty",
            slices(&["a"]),
            vec![service_a(), slice_of(&[])],
            kept.clone(),
            true,
        ),
        ("one slice of two", slices(&["a"]), vec![service_a(), live_slice()], live.clone(), false),
        ("a file", Unread::everything(), vec![], kept.clone(), true),
        ("a file with its Service", Unread::everything(), vec![live_slice()], live.clone(), true),
        ("a file with its slices", Unread::everything(), vec![service_a()], kept, true),
        (
            "a file, not its own",
            Unread::everything(),
            vec![service_a(), slice_of(&[])],
            refused,
            false,
        ),
        ("a file, it lives", Unread::everything(), vec![service_a(), live_slice()], live, false),
    ];
    for (row, unread, updates, expected, is_retained) in rows {
        let mut agent = restarted();
        begin(&mut agent, unread, updates);
        for round in ["begins", "goes on", "audits"] {
            assert_eq!(agent.backends("10.96.0.1"), expected, "{row}: {round}");
            let retained = agent.catalog.retained().count();
            assert_eq!(retained, usize::from(is_retained), "{row}: {round}");
            let is_noted = notes(&mut agent, "a") & ServiceNotes::RETAINED != 0;
            assert_eq!(is_noted, is_retained, "{row}: {round}");
            assert_eq!(agent.planner.meta().short, 0, "{row}: {round}: it fits");
            if round == "begins" {
                agent.mark_all();
                agent.pass();
            } else {
                audit(&mut agent);
            }
        }
    }
}

#[test]
fn what_was_retained_is_as_the_source_says_once_that_can_be_read() {
    type Said = (&'static str, Vec<Update>, Option<BTreeSet<String>>);
    let rows: [Said; 4] = [
        ("gone", vec![], None),
        ("no endpoints", vec![service("a", &["10.96.0.1"], 1)], set(&[])),
        (
            "others",
            vec![service("a", &["10.96.0.1"], 1), slice("a", &["10.0.0.3"])],
            set(&["10.0.0.3"]),
        ),
        ("the same", vec![service("a", &["10.96.0.1"], 1), slice("a", &OLD)], set(&OLD)),
    ];
    for (row, updates, expected) in &rows {
        let mut agent = restarted();
        begin(&mut agent, Unread::everything(), []);
        assert_eq!(agent.backends("10.96.0.1"), set(&OLD), "{row}");
        agent.ingest(updates.clone());
        agent.catalog.set_unread(Unread::default());
        agent.pass();
        assert_eq!(agent.backends("10.96.0.1"), *expected, "{row}");
        assert_eq!(agent.catalog.retained().count(), 0, "{row}");
        assert_eq!(notes(&mut agent, "a") & ServiceNotes::RETAINED, 0, "{row}");
        audit(&mut agent);
    }
}

#[test]
fn what_this_agent_wrote_is_not_retained_for_what_is_rejected_later() {
    let mut agent = restarted();
    begin(&mut agent, Unread::default(), [service("a", &["10.96.0.1"], 1), slice("a", &OLD)]);
    agent.catalog.set_unread(Unread::everything());
    agent.ingest([slice("a", &[])]).pass();
    assert_eq!(agent.backends("10.96.0.1"), set(&[]), "its endpoints are known to be gone");
    agent.ingest([gone("a")]).pass();
    assert_eq!(agent.backends("10.96.0.1"), None, "it is known to be gone");
}

#[test]
fn live_endpoints_once_known_end_what_was_retained() {
    let mut agent = restarted();
    begin(&mut agent, slices(&["a"]), [service("a", &["10.96.0.1"], 1)]);
    agent.ingest([slice("a", &["10.0.0.3"])]).pass();
    assert_eq!(agent.backends("10.96.0.1"), set(&["10.0.0.3"]));
    // From here on the usual rules apply.
    agent.ingest([slice("a", &[])]).pass();
    assert_eq!(agent.backends("10.96.0.1"), set(&[]));
}

#[test]
fn frontends_follow_a_readable_service_while_its_backends_are_retained() {
    let mut agent = restarted();
    begin(&mut agent, slices(&["a"]), [service("a", &["10.96.0.9"], 1)]);
    assert_eq!(agent.backends("10.96.0.9"), set(&OLD));
    assert_eq!(agent.backends("10.96.0.1"), None, "it does not name that any more");
    audit(&mut agent);
}

#[test]
fn retained_state_gives_its_frontends_to_every_readable_claimant() {
    for by_cluster_ip in [true, false] {
        for comes_later in [true, false] {
            let mut agent = restarted();
            let Update::Service(name, Some(mut other)) = service("b", &["10.96.0.8"], 9) else {
                panic!("a Service")
            };
            if by_cluster_ip {
                other.cluster_ips = vec![ip("10.96.0.1")];
            } else {
                other.external_ips = vec![ip("10.96.0.1")];
            }
            let other = [Update::Service(name, Some(other)), slice("b", &["10.0.0.9"])];
            if comes_later {
                begin(&mut agent, Unread::everything(), []);
                assert_eq!(agent.backends("10.96.0.1"), set(&OLD));
                agent.ingest(other).pass();
            } else {
                begin(&mut agent, services(&["a"]), other);
            }
            assert_eq!(agent.backends("10.96.0.1"), set(&["10.0.0.9"]));
            audit(&mut agent);
            // It is deleted: the retained state is the next claimant.
            agent.ingest([gone("b")]).pass();
            let expected = if comes_later { set(&OLD) } else { set(&[]) };
            assert_eq!(agent.backends("10.96.0.1"), expected);
            audit(&mut agent);
        }
    }
}

/// A Service with a ClusterIP and this node port.
fn with_node_port(name: &str, own: &str, node_port: u16, created: i64) -> Update {
    let port = ServicePort {
        name: "".into(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: Some(node_port),
    };
    let it = Service {
        created: Some(created),
        cluster_ips: vec![ip(own)],
        ports: vec![port],
        ..Service::default()
    };
    Update::Service(object(name), Some(it))
}

#[test]
fn a_rejected_service_keeps_no_node_port_that_the_api_server_gave_to_another() {
    let mut agent = Agent::new(meta(64, 64));
    agent.catalog = Catalog::new(Node {
        name: "here".into(),
        addresses: vec![ip("192.0.2.5")],
        ..Node::default()
    });
    agent.ingest([with_node_port("old", "10.96.0.1", 30080, 1), slice("old", &["10.0.0.1"])]);
    agent.pass();
    let at_node_port = |agent: &mut Agent| {
        let dump = agent.table.load().unwrap();
        let at = |key: &svclb_common::layout::FrontendKey| {
            (key.address, key.port) == (ip("192.0.2.5").into(), 30080)
        };
        let row = dump.frontends.iter().find(|(key, _)| at(key)).map(|(_, row)| row.service);
        let name = dump.services.iter().find(|(id, _)| Some(*id) == row);
        name.map(|(_, row)| svclb_core::compile::name_of(&row.name)).unwrap_or_default()
    };
    assert_eq!(at_node_port(&mut agent), "old");
    // The older Service moves to 30081 and cannot be read; a younger one is given 30080.
    agent.catalog.set_unread(services(&["old"]));
    agent.pass();
    assert_eq!(at_node_port(&mut agent), "old", "no other Service claims it");
    assert_eq!(notes(&mut agent, "old"), ServiceNotes::RETAINED);
    agent.ingest([with_node_port("victim", "10.96.0.2", 30080, 9), slice("victim", &["10.0.0.2"])]);
    agent.pass();
    assert_eq!(at_node_port(&mut agent), "victim");
    assert_eq!(agent.backends("10.96.0.1"), set(&["10.0.0.1"]), "the rest is served");
    audit(&mut agent);
    // And back, once it can be read and claims it by its age.
    agent.catalog.set_unread(Unread::default());
    agent.pass();
    assert_eq!(at_node_port(&mut agent), "old");
    audit(&mut agent);
}

#[test]
fn retained_state_moves_into_new_maps_like_everything_else() {
    let mut agent = restarted();
    begin(&mut agent, slices(&["a"]), [service("a", &["10.96.0.1"], 1)]);
    let larger = agent.planner.staging(Meta { seed: 8, ..meta(256, 256) });
    agent.table = svclb_core::table::FailingTable::new(MemoryTable::new(*larger.meta()));
    agent.planner = larger;
    agent.mark_all();
    assert!(agent.pass().unplaced.is_empty());
    agent.planner.forget_inherited_ids();
    assert_eq!(agent.backends("10.96.0.1"), set(&OLD));
    audit(&mut agent);
}

#[test]
fn thousands_of_new_services_beside_a_rejected_one_are_served_after_a_restart() {
    let mut agent = Agent::new(meta(16_384, 16_384));
    agent.ingest([service("a", &["10.96.0.1"], 1), slice("a", &OLD)]).pass();
    agent.catalog = catalog();
    agent.restart();
    let address = |number: u32| {
        let [_, _, high, low] = number.to_be_bytes();
        format!("10.97.{high}.{low}")
    };
    let new = (0..6_000_u32).flat_map(|number| {
        let name = format!("s{number}");
        [service(&name, &[&address(number)], 2), slice(&name, &["10.0.1.1"])]
    });
    begin(&mut agent, services(&["a"]), new.chain([slice("a", &OLD)]));
    assert_eq!(agent.planner.lacking().count(), 0);
    for number in 0..6_000 {
        assert_eq!(agent.backends(&address(number)), set(&["10.0.1.1"]));
    }
    assert_eq!(agent.backends("10.96.0.1"), set(&OLD));
}

#[test]
fn an_agent_that_dies_while_something_is_retained_is_continued_by_one_that_knows_as_little() {
    let steps = {
        let mut agent = restarted();
        let before = agent.table.operations;
        begin(&mut agent, Unread::everything(), [service("b", &["10.96.0.2"], 1)]);
        agent.table.operations - before
    };
    for cut in 0..=steps {
        let mut agent = restarted();
        agent.ingest([service("b", &["10.96.0.2"], 1)]);
        agent.catalog.set_unread(Unread::everything());
        let earlier = agent.planner.take_previous(|service| agent.catalog.misses(service));
        agent.catalog.retain(earlier);
        agent.mark_all();
        agent.cut(cut);
        assert_eq!(agent.backends("10.96.0.1"), set(&OLD), "cut after {cut} steps");
        agent.catalog = catalog();
        agent.restart();
        begin(&mut agent, Unread::everything(), [service("b", &["10.96.0.2"], 1)]);
        assert_eq!(agent.backends("10.96.0.1"), set(&OLD), "cut after {cut} steps");
        let found: Planner = agent.planner.clone();
        let mut fresh = restarted();
        begin(&mut fresh, Unread::everything(), [service("b", &["10.96.0.2"], 1)]);
        assert_eq!(found.services(), fresh.planner.services());
        audit(&mut agent);
    }
}
