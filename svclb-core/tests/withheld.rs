//! Services of which a part cannot be read when an agent starts: they keep what an earlier agent wrote,
//! as long as nothing better is known, and no longer.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeSet;

use common::*;
use svclb_core::catalog::Catalog;
use svclb_core::model::{Node, Update, Withheld};
use svclb_core::plan::{Why, load};
use svclb_core::table::Table as _;

/// What a source says, what it is called, and what is served then.
type Said = (&'static str, Vec<Update>, Option<BTreeSet<String>>);

const OLD: [&str; 2] = ["10.0.0.1", "10.0.0.2"];

/// Maps in which an earlier agent wrote `a` at 10.96.0.1, and a new agent that knows nothing yet.
fn restarted() -> Agent {
    let mut agent = Agent::new(meta(64, 8, 64));
    agent.hear([service("a", &["10.96.0.1"], 1), slice("a", &OLD)]);
    agent.pass();
    agent.catalog = Catalog::new(Node { name: "here".into(), ..Node::default() });
    agent.restart();
    agent
}

/// What the source says first.
fn begin(agent: &mut Agent, withheld: Withheld, updates: impl IntoIterator<Item = Update>) {
    assert!(agent.state.withhold(withheld).is_empty(), "nobody kept anything yet");
    agent.hear(updates);
    agent.mark_all();
    agent.pass();
}

fn of(name: &str) -> Withheld {
    Withheld { objects: [object(name)].into(), unknown: false }
}

/// What an audit does: loads the maps anew, and looks at all.
fn audit(agent: &mut Agent) {
    let dump = agent.table.load().unwrap();
    let (state, heal) = agent.state.reload(&dump);
    assert_eq!(heal, []);
    agent.state = state;
    agent.mark_all();
    assert_eq!(agent.pass().steps, 0, "nothing is left to do");
}

#[test]
fn a_service_keeps_what_is_there_only_where_a_part_of_it_cannot_be_read_and_nothing_is_known() {
    let slice_of = |addresses: &[&str]| slice("a", addresses);
    let service_a = || service("a", &["10.96.0.1"], 1);
    let (kept, refused) = (set(&OLD), set(&[]));
    let live = || slice_of(&["10.0.0.3"]);
    type Row = (&'static str, Withheld, Vec<Update>, Option<BTreeSet<String>>);
    let rows: Vec<Row> = vec![
        ("all is read, nothing is there", Withheld::default(), vec![], None),
        ("all is read, no slice", Withheld::default(), vec![service_a()], refused.clone()),
        ("another is withheld", of("b"), vec![], None),
        ("another is withheld, no slice", of("b"), vec![service_a()], refused.clone()),
        ("its Service object", of("a"), vec![live()], kept.clone()),
        ("both", of("a"), vec![], kept.clone()),
        ("its only slice", of("a"), vec![service_a()], kept.clone()),
        (
            "one slice of two, the other empty",
            of("a"),
            vec![service_a(), slice_of(&[])],
            kept.clone(),
        ),
        ("one slice of two", of("a"), vec![service_a(), live()], set(&["10.0.0.3"])),
        ("a file", Withheld::everything(), vec![], kept.clone()),
        ("a file with its Service", Withheld::everything(), vec![live()], kept.clone()),
        ("a file with its slices", Withheld::everything(), vec![service_a()], kept),
        ("a file, not its own", Withheld::everything(), vec![service_a(), slice_of(&[])], refused),
        ("a file, it lives", Withheld::everything(), vec![service_a(), live()], set(&["10.0.0.3"])),
    ];
    for (row, withheld, updates, expected) in rows {
        let mut agent = restarted();
        let is_kept = expected == set(&OLD);
        begin(&mut agent, withheld, updates);
        for round in ["begins", "goes on", "audits"] {
            assert_eq!(agent.backends("10.96.0.1"), expected, "{row}: {round}");
            assert_eq!(agent.state.kept().count(), usize::from(is_kept), "{row}: {round}");
            assert_eq!(agent.state.lacking().count(), 0, "{row}: {round}: no larger maps help");
            assert_eq!(agent.state.meta().short, 0, "{row}: {round}: it fits");
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
fn what_was_kept_is_as_the_source_says_once_that_can_be_read() {
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
    for withheld in [of("a"), Withheld::everything()] {
        for (row, updates, expected) in &rows {
            let mut agent = restarted();
            begin(&mut agent, withheld.clone(), []);
            assert_eq!(agent.backends("10.96.0.1"), set(&OLD), "{row}");
            assert_eq!(agent.state.withhold(withheld.clone()), [].into(), "{row}: nothing new");
            agent.hear(updates.clone());
            let again = agent.state.withhold(Withheld::default());
            assert_eq!(again, [object("a")].into(), "{row}");
            agent.catalog.mark(again);
            agent.pass();
            assert_eq!(agent.backends("10.96.0.1"), *expected, "{row}");
            assert_eq!(agent.state.kept().count(), 0, "{row}");
            audit(&mut agent);
        }
    }
}

#[test]
fn what_this_agent_wrote_is_not_kept_for_what_is_rejected_later() {
    for withheld in [of("a"), Withheld::everything()] {
        let mut agent = restarted();
        let said = [service("a", &["10.96.0.1"], 1), slice("a", &OLD)];
        begin(&mut agent, Withheld::default(), said);
        assert!(agent.state.withhold(withheld).is_empty());
        agent.hear([slice("a", &[])]);
        agent.pass();
        assert_eq!(agent.backends("10.96.0.1"), set(&[]), "its endpoints are known to be gone");
        agent.hear([gone("a")]);
        agent.pass();
        assert_eq!(agent.backends("10.96.0.1"), None, "it is known to be gone");
    }
}

#[test]
fn live_endpoints_once_known_end_what_was_kept() {
    let mut agent = restarted();
    begin(&mut agent, of("a"), [service("a", &["10.96.0.1"], 1)]);
    agent.hear([slice("a", &["10.0.0.3"])]);
    agent.pass();
    assert_eq!(agent.backends("10.96.0.1"), set(&["10.0.0.3"]));
    // From here on it is as always.
    agent.hear([slice("a", &[])]);
    agent.pass();
    assert_eq!(agent.backends("10.96.0.1"), set(&[]));
}

#[test]
fn an_address_that_another_service_has_now_is_not_kept() {
    // Whoever is known, and asks for it, has it, be it younger or older than who is kept.
    for (created, kept) in [(0, vec![]), (5, vec![]), (5, vec![service("a", &["10.96.0.7"], 1)])] {
        let mut agent = restarted();
        let heir = [service("b", &["10.96.0.1"], created), slice("b", &["10.0.0.9"])];
        begin(&mut agent, of("a"), heir.into_iter().chain(kept));
        assert_eq!(agent.backends("10.96.0.1"), set(&["10.0.0.9"]));
        assert_eq!(agent.backends("10.96.0.7"), None, "nothing new of who is kept");
        audit(&mut agent);
        assert!(!agent.catalog.is_dirty());
        let again = agent.state.withhold(Withheld::default());
        agent.catalog.mark(again);
        agent.pass();
        assert_eq!(agent.backends("10.96.0.1"), set(&["10.0.0.9"]));
        audit(&mut agent);
    }
}

#[test]
fn nobody_waits_for_one_that_is_kept_to_take_an_address_over() {
    let mut agent = restarted();
    agent.hear([service("b", &["10.96.0.5"], 2), slice("b", &["10.0.0.9"])]);
    agent.hear([service("a", &["10.96.0.1"], 1), slice("a", &OLD)]);
    agent.pass();
    agent.catalog = Catalog::new(Node { name: "here".into(), ..Node::default() });
    agent.restart();
    // It asks for the address of one that is gone.
    begin(&mut agent, of("a"), [service("a", &["10.96.0.1", "10.96.0.5"], 1)]);
    assert_eq!(agent.backends("10.96.0.1"), set(&OLD));
    assert_eq!(agent.backends("10.96.0.5"), None);
    assert!(!agent.catalog.is_dirty());
    audit(&mut agent);
}

#[test]
fn what_is_kept_is_rejected_and_says_why() {
    let mut agent = restarted();
    assert!(agent.state.withhold(of("a")).is_empty());
    agent.mark_all();
    let rejected = agent.pass().rejected;
    assert_eq!(rejected.iter().map(|it| it.why).collect::<Vec<_>>(), [Why::Withheld]);
    // The next agent knows as little.
    let dump = agent.table.load().unwrap();
    let (state, heal) = load(&dump, dump.meta);
    assert_eq!(heal, []);
    agent.state = state;
    begin(&mut agent, of("a"), []);
    assert_eq!(agent.backends("10.96.0.1"), set(&OLD));
}
