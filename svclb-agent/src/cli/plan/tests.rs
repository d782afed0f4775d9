//! The lines and fields of both commands, for each kind of difference.

use clap::Parser;
use svclb_common::layout::Meta;
use svclb_core::budget::{Budget, Resource};
use svclb_core::model::{
    Endpoint, ObjectName, Protocol, Service, ServicePort, Slice, SlicePort, TrafficPolicy, Unread,
    Update,
};
use svclb_core::plan::{self, Planner};
use svclb_core::table::{Dump, MemoryTable};

use super::*;
use svclb_core::catalog::Catalog;
use svclb_core::model::Node;
use svclb_dataplane::pins::Pins;
use svclb_sources::Batch;

fn name(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

/// A Service at 10.96.0.`last`, port `http`, with these external IPs.
fn service(last: u8, external_ips: &[[u8; 4]]) -> Service {
    Service {
        cluster_ips: vec![[10, 96, 0, last].into()],
        external_ips: external_ips.iter().map(|ip| (*ip).into()).collect(),
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
        ..Service::default()
    }
}

fn slice(of: &str, endpoints: &[(u8, Endpoint)]) -> Update {
    let endpoints =
        endpoints.iter().map(|(last, endpoint)| ([10, 0, 0, *last].into(), endpoint.clone()));
    let slice = Slice {
        service: name(of),
        ports: [SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: endpoints.collect(),
        triggered: None,
        omitted: None,
        notes: 0,
    };
    Update::Slice(name(of), Some(slice))
}

/// A Service with its slice, which has one endpoint.
fn with_slice(of: &str, service: Service, endpoint: u8) -> Vec<Update> {
    let ready = [(endpoint, Endpoint::default())];
    vec![Update::Service(name(of), Some(service)), slice(of, &ready)]
}

const EXTERNAL: [u8; 4] = [192, 0, 2, 1];

fn web() -> Vec<Update> {
    with_slice("web", service(1, &[]), 1)
}

fn old() -> Vec<Update> {
    with_slice("old", service(2, &[EXTERNAL]), 2)
}

fn dump(updates: Vec<Update>) -> Dump {
    let meta = Meta { index_lines: 64, slots: 64, seed: 7, ..Meta::default() };
    let (mut planner, mut table) = (Planner::new(meta), MemoryTable::new(meta));
    let mut catalog = Catalog::new(Node::default());
    updates.into_iter().for_each(|update| catalog.apply(update));
    plan::pass(&mut planner, &mut table, &mut catalog);
    table.load().unwrap()
}

/// A dry run of these objects over maps that hold `web` and `old`.
fn run(updates: Vec<Update>, unread: Unread, budget: Budget) -> DryRun {
    let first = Batch { whole: true, unread: Some(unread), ..Batch::of(updates) };
    let catalog = Catalog::new(Node::default()).with_budget(budget);
    DryRun::new(catalog, Some(dump([web(), old()].concat())), first).unwrap()
}

fn lines(run: &DryRun) -> Vec<String> {
    RowView::all(&compare(run), run).iter().map(RowView::line).collect()
}

#[test]
fn each_difference_is_one_line() {
    let terminating =
        Endpoint { ready: false, serving: true, terminating: true, ..Endpoint::default() };
    let rows: Vec<(&str, Vec<Update>, &[&str])> = vec![
        ("nothing", [web(), old()].concat(), &[]),
        (
            "a Service more, of which no backend is known",
            [web(), old(), vec![Update::Service(name("new"), Some(service(3, &[])))]].concat(),
            &["+ default/new:http/TCP", "+ default/new:http/TCP frontend 10.96.0.3:80"],
        ),
        (
            "a Service less",
            old(),
            &[
                "- default/web:http/TCP",
                "- default/web:http/TCP frontend 10.96.0.1:80",
                "- default/web:http/TCP backend 10.0.0.1:8080: ready in internal",
            ],
        ),
        (
            "another backend",
            [with_slice("web", service(1, &[]), 3), old()].concat(),
            &[
                "- default/web:http/TCP backend 10.0.0.1:8080: ready in internal",
                "+ default/web:http/TCP backend 10.0.0.3:8080: ready in internal",
            ],
        ),
        (
            "a backend that terminates",
            [vec![web().swap_remove(0), slice("web", &[(1, terminating)])], old()].concat(),
            &[
                "~ default/web:http/TCP backend 10.0.0.1:8080: ready in internal -> terminating in internal",
            ],
        ),
        (
            "a frontend changes hands",
            [with_slice("web", service(1, &[EXTERNAL]), 1), with_slice("old", service(2, &[]), 2)]
                .concat(),
            &[
                "- default/old:http/TCP frontend 192.0.2.1:80 (to default/web:http/TCP)",
                "~ default/old:http/TCP backend 10.0.0.2:8080: ready in internal,external -> ready in internal",
                "+ default/web:http/TCP frontend 192.0.2.1:80 (from default/old:http/TCP)",
                "~ default/web:http/TCP backend 10.0.0.1:8080: ready in internal -> ready in internal,external",
            ],
        ),
        (
            "affinity and a policy",
            [
                with_slice(
                    "web",
                    Service {
                        affinity_seconds: Some(10_800),
                        external_policy: TrafficPolicy::Local,
                        ..service(1, &[])
                    },
                    1,
                ),
                old(),
            ]
            .concat(),
            &[
                "~ default/web:http/TCP external_policy Cluster -> Local",
                "~ default/web:http/TCP affinity_seconds 0 -> 10800",
            ],
        ),
    ];
    for (row, updates, expected) in rows {
        let run = run(updates, Unread::default(), Budget::of_agent());
        assert_eq!(lines(&run), expected, "{row}");
    }
}

#[test]
fn service_that_cannot_be_read_is_retained_with_a_note() {
    let unread = Unread { services: [name("web")].into(), ..Unread::default() };
    let run = run([vec![web().swap_remove(1)], old()].concat(), unread, Budget::of_agent());
    assert_eq!(lines(&run), ["~ default/web:http/TCP notes none -> retained"]);
}

#[test]
fn rows_that_are_damaged_without_a_service_that_changes_are_a_difference() {
    let mut dump = dump([web(), old()].concat());
    // Another program wrote a set that no slot was written for.
    let (_, line) = dump.lines.iter_mut().find(|(_, line)| line.port == 80).unwrap();
    line.set.first += 32;
    let updates = [web(), old()].concat();
    let first = Batch { whole: true, unread: Some(Unread::default()), ..Batch::of(updates) };
    let run = DryRun::new(Catalog::new(Node::default()), Some(dump), first).unwrap();
    let lines = lines(&run);
    assert!(run.steps > 0 && lines.len() == 1, "{lines:?}");
    assert!(lines[0].starts_with("~ default/") && lines[0].ends_with(" (renewed)"), "{lines:?}");
}

fn plan_view(run: &DryRun, rejects: &[&str]) -> PlanView {
    let rejects = rejects.iter().map(|&reject| reject.to_owned()).collect();
    PlanView::new(&Pins::new("/sys/fs/bpf/svclb".as_ref()), run, rejects)
}

#[test]
fn plan_has_a_line_for_each_service_and_one_for_what_is_not_served() {
    let limits = Budget::of_agent();
    let of_service = limits.service.with(Resource::Frontends, 1);
    let budget = Budget { service: of_service, ..limits };
    let many: Vec<(u8, Endpoint)> = (1..=12).map(|last| (last, Endpoint::default())).collect();
    let updates = [
        vec![web().swap_remove(0), slice("web", &many)],
        old(),
        with_slice("new", service(3, &[]), 9),
    ];
    let run = run(updates.concat(), Unread::default(), budget);
    let found = plan_view(&run, &["a.yaml:1: no object"]).lines(false);
    let expected = [
        "added default/new:http/TCP: frontends +10.96.0.3:80; backends +10.0.0.9:8080",
        "removed default/old:http/TCP: frontends -10.96.0.2:80 -192.0.2.1:80; backends -10.0.0.2:8080",
        "changed default/web:http/TCP: backends +10.0.0.2:8080 +10.0.0.3:8080 +10.0.0.4:8080 \
         +10.0.0.5:8080 +10.0.0.6:8080 +10.0.0.7:8080 +10.0.0.8:8080 +10.0.0.9:8080 +10.0.0.10:8080 \
         +10.0.0.11:8080 and 1 more",
        "a.yaml:1: no object",
        "refused by a budget: default/old: it has 2 frontends, and one Service may have 1 \
         (--service-frontends); its addresses are left to whatever else serves them",
    ];
    assert_eq!(found[..5], expected);
    assert_eq!(found[5], format!("services: 1 added, 1 changed, 1 removed; steps: {}", run.steps));
    assert_eq!(found.len(), 6);
}

#[test]
fn nothing_to_change_is_one_line() {
    let run = run([web(), old()].concat(), Unread::default(), Budget::of_agent());
    assert_eq!(
        plan_view(&run, &[]).lines(false),
        ["nothing to change: the maps hold what the source says"]
    );
}

#[test]
fn without_maps_the_plan_says_so() {
    let first = Batch { whole: true, unread: Some(Unread::default()), ..Batch::of(web()) };
    let run = DryRun::new(Catalog::new(Node::default()), None, first).unwrap();
    let lines = plan_view(&run, &[]).lines(false);
    assert_eq!(
        lines[..2],
        [
            "no maps are installed in /sys/fs/bpf/svclb: everything would be added to new ones",
            "added default/web:http/TCP: frontends +10.96.0.1:80; backends +10.0.0.1:8080",
        ]
    );
    assert!(lines[2].ends_with("; new maps: 4096 lines of the index, 65536 slots"), "{lines:?}");
}

/// Scripts rely on the names; the page that promises them must know each.
#[test]
fn every_field_and_word_is_documented() {
    let page = include_str!("../../../../docs/commands.md");
    let of = |command: &str| {
        let title = format!("svclb {command}\n");
        let part = page.split("\n## ").find(|part| part.starts_with(&title));
        part.unwrap_or_else(|| panic!("no part on svclb {command}"))
    };
    let limits = Budget::of_agent();
    let of_service = limits.service.with(Resource::Frontends, 1);
    let run = run(old(), Unread::default(), Budget { service: of_service, ..limits });
    let unplaced = (compare(&run).into_keys().next().unwrap(), "why".to_owned());
    let made = Some(svclb_core::size::sizes(1, 1));
    let run = DryRun { unplaced: vec![unplaced], made, ..run };
    let plan = serde_json::to_value(plan_view(&run, &[])).unwrap();
    let row = serde_json::to_value(&RowView::all(&compare(&run), &run)[0]).unwrap();
    let parts = [
        ("plan", &plan),
        ("plan", &plan["services"][0]),
        ("plan", &plan["refused"][0]),
        ("plan", &plan["unplaced"][0]),
        ("plan", &plan["maps"]),
        ("diff", &row),
    ];
    for (command, object) in parts {
        for field in object.as_object().unwrap().keys() {
            assert!(of(command).contains(&format!("`{field}`")), "svclb {command}: {field}");
        }
    }
    let kinds = [
        "service",
        "frontend",
        "backend",
        "internal_policy",
        "external_policy",
        "affinity_seconds",
        "notes",
        "maps",
    ];
    for word in kinds.into_iter().chain(["added", "removed", "changed"]) {
        assert!(of("diff").contains(&format!("| `{word}` |")), "svclb diff: {word}");
    }
}

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    plan: PlanArgs,
}

#[test]
fn the_flags_of_the_agents_source_and_budgets_are_taken() {
    let rows: [(&[&str], bool); 5] = [
        (&["--from", "a.yaml", "--timeout", "5", "-o", "json"], true),
        (&["--kubeconfig", "config", "--node", "a", "--all-frontends", "7"], true),
        (&[], true),
        (&["--timeout", "0"], false),
        (&["--from", "a.yaml", "--kubeconfig", "config"], false),
    ];
    for (arguments, is_taken) in rows {
        let line = ["plan"].into_iter().chain(arguments.iter().copied());
        assert_eq!(Line::try_parse_from(line).is_ok(), is_taken, "{arguments:?}");
    }
}
