//! A dry run against an agent that starts over the same maps, and what it leaves alone.

use svclb_core::budget::{Budget, Resource};
use svclb_core::compile::service_of;
use svclb_core::model::{
    Endpoint, Node, Protocol, Service, ServicePort, Slice, SlicePort, Unread, Update,
};
use svclb_core::plan::{self, Planner};
use svclb_core::table::{MemoryTable, Table as _};

use super::*;

fn name(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

/// A Service at 10.96.0.`last`, with `more` external IPs.
fn service(of: &str, last: u8, more: u8) -> Update {
    let service = Service {
        cluster_ips: vec![[10, 96, 0, last].into()],
        external_ips: (0..more).map(|last| [192, 0, 2, last].into()).collect(),
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
        ..Service::default()
    };
    Update::Service(name(of), Some(service))
}

/// The slice of a Service, with these endpoints in 10.0.0.0/24.
fn slice(of: &str, endpoints: &[u8]) -> Update {
    let endpoints = endpoints.iter().map(|last| ([10, 0, 0, *last].into(), Endpoint::default()));
    let slice = Slice {
        service: name(of),
        ports: [SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: endpoints.collect(),
        triggered: None,
        omitted: None,
        notes: 0,
    };
    Update::Slice(name(of), Some(slice))
}

fn batch(updates: Vec<Update>, unread: Unread) -> Batch {
    Batch { whole: true, unread: Some(unread), ..Batch::of(updates) }
}

fn catalog() -> Catalog {
    Catalog::new(Node::default())
}

/// Maps that hold `web` with one endpoint and `old` with one.
fn installed(lines: u32) -> MemoryTable {
    let meta = Meta { index_lines: lines, slots: 64, seed: 7, ..Meta::default() };
    let (mut planner, mut table, mut catalog) =
        (Planner::new(meta), MemoryTable::new(meta), catalog());
    let updates =
        [service("web", 1, 0), slice("web", &[1]), service("old", 2, 1), slice("old", &[2])];
    updates.into_iter().for_each(|update| catalog.apply(update));
    assert!(plan::pass(&mut planner, &mut table, &mut catalog).failed.is_empty());
    table
}

/// Name, and a first batch of the source.
fn rows() -> Vec<(&'static str, Batch)> {
    let web = || vec![service("web", 1, 0), slice("web", &[1])];
    let old = || vec![service("old", 2, 1), slice("old", &[2])];
    let with = |updates: Vec<Vec<Update>>| updates.concat();
    let retained = Unread { services: [name("web")].into(), ..Unread::default() };
    let known = Unread::default;
    vec![
        ("nothing", batch(with(vec![web(), old()]), known())),
        ("no object", batch(Vec::new(), known())),
        ("a Service less", batch(web(), known())),
        ("a Service more", batch(with(vec![web(), old(), vec![service("new", 3, 0)]]), known())),
        (
            "other endpoints",
            batch(with(vec![old(), vec![service("web", 1, 0), slice("web", &[3, 4])]]), known()),
        ),
        (
            "a frontend changes hands",
            batch(vec![service("web", 1, 1), slice("web", &[1])], known()),
        ),
        ("an object that cannot be read", batch(old(), retained)),
    ]
}

#[test]
fn dry_run_ends_as_an_agent_that_starts_does_and_touches_no_map() {
    for (row, first) in rows() {
        let mut table = installed(64);
        let dump = table.load().unwrap();
        let run = DryRun::new(catalog(), Some(dump.clone()), first.clone()).unwrap();
        assert_eq!(table.load().unwrap(), dump, "{row}: no map is touched");
        assert_eq!(run.before, Rows::of(&dump), "{row}");
        let (meta, sizing) = (Meta::default(), Sizing::default());
        let mut agent =
            Reconciler::over(catalog(), table, &meta, sizing, at_once(), std::sync::Arc::default())
                .unwrap();
        agent.ingest(first.clone());
        assert!(agent.pass().failed.is_empty(), "{row}");
        let dump = agent.table.load().unwrap();
        assert_eq!(run.after, Rows::of(&dump), "{row}");
        assert_eq!(run.steps == 0, row == "nothing", "{row}: {} steps", run.steps);
        assert!(run.made.is_none() && run.refused.is_empty() && run.unplaced.is_empty(), "{row}");
        let again = DryRun::new(catalog(), Some(dump), first).unwrap();
        assert_eq!((again.steps, &again.before), (0, &again.after), "{row}: nothing is left");
    }
}

#[test]
fn without_maps_everything_is_new_and_the_sizes_are_those_that_the_source_needs() {
    let first = batch(vec![service("web", 1, 0), slice("web", &[1])], Unread::default());
    let run = DryRun::new(catalog(), None, first).unwrap();
    assert!(!run.is_installed && run.steps > 0);
    assert_eq!(run.before, Rows::default());
    let Rows { services, backends, frontends, .. } = &run.after;
    assert_eq!((services.len(), backends.len(), frontends.len()), (1, 1, 1));
    assert_eq!(run.made, Some(svclb_core::size::sizes(1, 1)));
}

#[test]
fn services_that_need_larger_maps_are_in_the_outcome() {
    let dump = installed(8).load().unwrap();
    let first = batch(vec![service("web", 1, 20), slice("web", &[1])], Unread::default());
    let run = DryRun::new(catalog(), Some(dump), first).unwrap();
    assert!(run.made.is_some_and(|sizes| sizes.index_lines > 8), "{:?}", run.made);
    assert_eq!((run.after.frontends.len(), run.after.services.len()), (21, 1));
    assert!(run.unplaced.is_empty(), "{:?}", run.unplaced);
    let id = |rows: &Rows| {
        let is_web = |row: &ServiceRow| service_of(row).is_some_and(|it| it.object == name("web"));
        rows.services.iter().find(|(_, row)| is_web(row)).map(|(id, _)| *id)
    };
    assert!(id(&run.before).is_some());
    assert_eq!(id(&run.before), id(&run.after), "services keep their ids");
}

#[test]
fn service_over_a_budget_is_refused_as_an_agent_would() {
    let dump = installed(64).load().unwrap();
    let Budget { service: limits, .. } = Budget::of_agent();
    let service_budget = limits.with(Resource::Frontends, 1);
    let budget = Budget { service: service_budget, ..Budget::of_agent() };
    let first = batch(
        vec![service("web", 1, 0), slice("web", &[1]), service("old", 2, 1), slice("old", &[2])],
        Unread::default(),
    );
    let run = DryRun::new(catalog().with_budget(budget), Some(dump), first).unwrap();
    let refused: Vec<String> = run.refused.iter().map(|(object, _)| object.to_string()).collect();
    assert_eq!(refused, ["default/old"]);
    assert_eq!(run.after.services.len(), 1);
}

#[test]
fn dry_run_over_five_thousand_services_takes_steps_for_the_one_that_changed() {
    let meta = svclb_core::size::sizes(5_000, 15_000).meta();
    let objects = |last: u8| -> Vec<Update> {
        let of_one = |number: u16| {
            let [high, low] = number.to_be_bytes();
            let Update::Service(object, Some(mut service)) = service(&format!("s{number}"), 0, 0)
            else {
                return Vec::new();
            };
            service.cluster_ips = vec![[10, 97, high, low].into()];
            let third = if number == 2_500 { last } else { 3 };
            let slice = slice(&object.name, &[1, 2, third]);
            vec![Update::Service(object, Some(service)), slice]
        };
        (0..5_000).flat_map(of_one).collect()
    };
    let (mut planner, mut table, mut known) =
        (Planner::new(meta), MemoryTable::new(meta), catalog());
    objects(3).into_iter().for_each(|update| known.apply(update));
    plan::pass(&mut planner, &mut table, &mut known);
    let dump = table.load().unwrap();
    let first = batch(objects(4), Unread::default());
    let run = DryRun::new(catalog(), Some(dump), first).unwrap();
    assert_eq!((run.after.services.len(), run.after.backends.len()), (5_000, 15_000));
    assert!((1..20).contains(&run.steps), "{} steps", run.steps);
}
