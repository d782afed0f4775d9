//! Each rule of selection as rows with names, and properties that hold for any endpoints.

use proptest::prelude::*;
use std::collections::BTreeSet;

use super::*;

/// `r` ready, `s` serving, `t` terminating; `@node`, `n:hint`, `z:hint`.
fn endpoint(text: &str) -> Endpoint {
    let mut endpoint = Endpoint { ready: false, serving: false, ..Endpoint::default() };
    let (mut node_hints, mut zone_hints) = (Vec::new(), Vec::new());
    for word in text.split(' ') {
        match word.split_at(word.find(['@', ':']).map_or(0, |at| at + 1)) {
            ("@", node) => endpoint.node = Some(node.into()),
            ("n:", hint) => node_hints.push(hint.into()),
            ("z:", hint) => zone_hints.push(hint.into()),
            (_, flags) => {
                endpoint.ready = flags.contains('r');
                endpoint.serving = flags.contains('s');
                endpoint.terminating = flags.contains('t');
            }
        }
    }
    Endpoint { node_hints: node_hints.into(), zone_hints: zone_hints.into(), ..endpoint }
}

/// A frontend of a Service with these two policies.
#[derive(Clone, Copy)]
struct Dialled(Policy, TrafficPolicy, TrafficPolicy);

/// ClusterIP, internalTrafficPolicy Cluster.
const CLUSTER: Dialled = Dialled(Policy::Internal, TrafficPolicy::Cluster, TrafficPolicy::Cluster);
/// ClusterIP, internalTrafficPolicy Local.
const LOCAL: Dialled = Dialled(Policy::Internal, TrafficPolicy::Local, TrafficPolicy::Cluster);
/// ClusterIP, with externalTrafficPolicy Local, which does not concern it.
const CLUSTER_XL: Dialled = Dialled(Policy::Internal, TrafficPolicy::Cluster, TrafficPolicy::Local);
/// ClusterIP, both Local.
const LOCAL_XL: Dialled = Dialled(Policy::Internal, TrafficPolicy::Local, TrafficPolicy::Local);
/// Node port and the like, both Cluster.
const EXTERNAL: Dialled = Dialled(Policy::External, TrafficPolicy::Cluster, TrafficPolicy::Cluster);
/// Node port and the like, externalTrafficPolicy Local: the short circuit.
const EXTERNAL_XL: Dialled =
    Dialled(Policy::External, TrafficPolicy::Cluster, TrafficPolicy::Local);
/// Node port and the like, internalTrafficPolicy Local, which does not concern it.
const EXTERNAL_IL: Dialled =
    Dialled(Policy::External, TrafficPolicy::Local, TrafficPolicy::Cluster);
/// Node port and the like, both Local.
const EXTERNAL_BOTH: Dialled =
    Dialled(Policy::External, TrafficPolicy::Local, TrafficPolicy::Local);

type Row = (&'static str, Dialled, &'static [&'static str], &'static [usize]);

/// Readiness, in the Cluster list.
const CONDITIONS: &[Row] = &[
    ("nothing", CLUSTER, &[], &[]),
    ("ready ones", CLUSTER, &["rs", "rs"], &[0, 1]),
    ("not ready is left out", CLUSTER, &["rs", "s"], &[0]),
    ("ready is enough", CLUSTER, &["r"], &[0]),
    ("none ready, none serving", CLUSTER, &["-", "-"], &[]),
    ("serving but not terminating is never used", CLUSTER, &["s", "s"], &[]),
    ("serving and terminating only when none is ready", CLUSTER, &["rs", "st"], &[0]),
    ("serving and terminating when none is ready", CLUSTER, &["s", "st", "st"], &[1, 2]),
    ("terminating without serving is never used", CLUSTER, &["t"], &[]),
    ("ready though terminating counts as ready", CLUSTER, &["rst", "st"], &[0]),
    ("ready here and elsewhere", CLUSTER, &["rs @other", "rs @here"], &[0, 1]),
    ("ready elsewhere only", CLUSTER, &["rs @other", "- @here"], &[0]),
    ("terminating here and elsewhere", CLUSTER, &["st @other", "st @here"], &[0, 1]),
    ("ready elsewhere wins over terminating here", CLUSTER, &["rs @other", "st @here"], &[0]),
];

/// Topology hints, in the Cluster list.
const HINTS: &[Row] = &[
    ("zone hints choose", CLUSTER, &["rs z:a", "rs z:b"], &[0]),
    ("zone hints, several", CLUSTER, &["rs z:b z:a", "rs z:b"], &[0]),
    ("zone hints, all for this zone", CLUSTER, &["rs z:a", "rs z:a"], &[0, 1]),
    ("one without zone hints turns them off", CLUSTER, &["rs z:a", "rs"], &[0, 1]),
    ("no zone hint names this zone", CLUSTER, &["rs z:b", "rs z:c"], &[0, 1]),
    ("an unready one without hints does not matter", CLUSTER, &["rs z:a", "s", "rs z:b"], &[0]),
    ("an unready one's hint does not count", CLUSTER, &["s z:a", "rs z:b"], &[1]),
    ("a terminating one's hint does not count", CLUSTER, &["st z:a", "rs z:b"], &[1]),
    (
        "a zone hint of an endpoint on another node counts",
        CLUSTER,
        &["rs @other z:a", "rs @here z:b"],
        &[0],
    ),
    ("node hints choose", CLUSTER, &["rs n:here", "rs n:other"], &[0]),
    ("node hints, several", CLUSTER, &["rs n:other n:here", "rs n:other"], &[0]),
    (
        "a node hint of an endpoint on another node counts",
        CLUSTER,
        &["rs @other n:here", "rs @here n:x"],
        &[0],
    ),
    ("node hints before zone hints", CLUSTER, &["rs n:here z:b", "rs n:other z:a"], &[0]),
    ("no node hint names this node: zones", CLUSTER, &["rs n:x z:b", "rs n:x z:a"], &[1]),
    ("one without node hints: zones", CLUSTER, &["rs n:here z:b", "rs z:a"], &[1]),
    (
        "one without node hints, zones do not match: all",
        CLUSTER,
        &["rs n:here z:b", "rs z:c"],
        &[0, 1],
    ),
    ("no usable hints: all", CLUSTER, &["rs n:x z:b", "rs n:x z:c"], &[0, 1]),
    ("node hints without zone hints, for others: all", CLUSTER, &["rs n:x", "rs n:y"], &[0, 1]),
    ("an unready one's node hint does not count", CLUSTER, &["s n:here", "rs n:x"], &[1]),
    ("the fallback ignores zone hints", CLUSTER, &["st z:b", "st z:a"], &[0, 1]),
    ("the fallback ignores node hints", CLUSTER, &["st n:here", "st n:x"], &[0, 1]),
    ("hints leave no room for the fallback", CLUSTER, &["rs z:b", "st z:a"], &[0]),
];

/// The Local list.
const OF_THIS_NODE: &[Row] = &[
    ("local: nothing", LOCAL, &[], &[]),
    ("local: ready here", LOCAL, &["rs @here", "rs @other"], &[0]),
    ("local: all ready here", LOCAL, &["rs @here", "rs @here"], &[0, 1]),
    ("local: none here", LOCAL, &["rs @other", "rs"], &[]),
    ("local: without a node is not local", LOCAL, &["rs"], &[]),
    ("local: terminating here when none is ready here", LOCAL, &["s @here", "st @here"], &[1]),
    ("local: the same, with others ready elsewhere", LOCAL, &["st @here", "rs @other"], &[0]),
    ("local: terminating elsewhere does not help", LOCAL, &["st @other"], &[]),
    ("local: ready here wins over terminating here", LOCAL, &["st @here", "rs @here"], &[1]),
    ("local: serving here only", LOCAL, &["s @here", "rs @other"], &[]),
    ("local: unready here, ready elsewhere", LOCAL, &["- @here", "rs @other"], &[]),
    ("local: zone hints for another zone", LOCAL, &["rs @here z:b", "rs @here z:a"], &[0, 1]),
    ("local: node hints for another node", LOCAL, &["rs @here n:other", "rs @other n:here"], &[0]),
    ("local: the fallback ignores hints too", LOCAL, &["st @here z:b n:x"], &[0]),
];

/// The list that applies, by frontend and policies.
const POLICIES: &[Row] = &[
    ("ClusterIP, external Local", CLUSTER_XL, &["rs @other", "rs @here"], &[0, 1]),
    ("ClusterIP, external Local, none here", CLUSTER_XL, &["rs @other"], &[0]),
    ("ClusterIP, both Local", LOCAL_XL, &["rs @other", "rs @here"], &[1]),
    ("ClusterIP, both Local, none here", LOCAL_XL, &["rs @other"], &[]),
    ("external", EXTERNAL, &["rs @other", "rs @here"], &[0, 1]),
    ("external, hints", EXTERNAL, &["rs z:a", "rs z:b"], &[0]),
    ("external, fallback", EXTERNAL, &["st @other z:b", "s @here"], &[0]),
    ("short circuit: also elsewhere", EXTERNAL_XL, &["rs @other", "rs @here"], &[0, 1]),
    ("short circuit: none here", EXTERNAL_XL, &["rs @other"], &[0]),
    ("short circuit: hints count", EXTERNAL_XL, &["rs @here z:b", "rs @other z:a"], &[1]),
    ("short circuit: ready elsewhere first", EXTERNAL_XL, &["st @here", "rs @other"], &[1]),
    ("short circuit: fallback anywhere", EXTERNAL_XL, &["st @other", "st @here"], &[0, 1]),
    ("external, internal Local", EXTERNAL_IL, &["rs @other", "rs @here"], &[0, 1]),
    ("external, internal Local, none here", EXTERNAL_IL, &["rs @other"], &[0]),
    ("external, both Local", EXTERNAL_BOTH, &["rs @other", "rs @here"], &[0, 1]),
    ("external, both Local, none here", EXTERNAL_BOTH, &["rs @other"], &[0]),
];

/// Rows for a node whose zone is not known.
const WITHOUT_ZONE: &[Row] = &[
    ("without zone: zone hints do not choose", CLUSTER, &["rs z:a", "rs z:b"], &[0, 1]),
    ("without zone: a hint for no zone is not ours", CLUSTER, &["rs z:", "rs z:b"], &[0, 1]),
    ("without zone: node hints choose", CLUSTER, &["rs n:here z:a", "rs n:x z:b"], &[0]),
    ("without zone: external too", EXTERNAL_XL, &["rs z:a", "rs z:b"], &[0, 1]),
];

fn node(zone: Option<&str>) -> Node {
    Node { name: "here".into(), zone: zone.map(Arc::from), ..Node::default() }
}

#[test]
fn each_rule_of_selection_holds() {
    let (zoned, zoneless) = (node(Some("a")), node(None));
    let tables = [
        (CONDITIONS, &zoned),
        (HINTS, &zoned),
        (OF_THIS_NODE, &zoned),
        (POLICIES, &zoned),
        (WITHOUT_ZONE, &zoneless),
    ];
    let mut names = BTreeSet::new();
    for (rows, node) in tables {
        for (name, Dialled(policy, internal_policy, external_policy), texts, expected) in rows {
            assert!(names.insert(name), "{name}: two rows");
            let service = Service {
                internal_policy: *internal_policy,
                external_policy: *external_policy,
                ..Service::default()
            };
            let endpoints: Vec<Endpoint> = texts.iter().map(|text| endpoint(text)).collect();
            let list = List::of(*policy, &service);
            let found: Vec<usize> =
                selected(list, &endpoints, node).into_iter().map(|(at, _)| at).collect();
            assert_eq!(found, *expected, "{name}");
        }
    }
    assert!(names.len() >= 40);
}

fn selected(list: List, endpoints: &[Endpoint], node: &Node) -> Vec<(usize, BackendState)> {
    let address = IpAddr::from([10, 0, 0, 1]);
    let candidates: Vec<Candidate<'_>> =
        endpoints.iter().map(|endpoint| Candidate { address, port: 80, endpoint }).collect();
    select(list, &candidates, node)
}

fn names() -> impl Strategy<Value = Box<[Arc<str>]>> {
    let name = prop_oneof![Just("here"), Just("there"), Just("a"), Just("b")].prop_map(Arc::from);
    proptest::collection::vec(name, 0..3).prop_map(Vec::into_boxed_slice)
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let node = proptest::option::of(prop_oneof![Just("here"), Just("there")]);
    (any::<[bool; 3]>(), node, names(), names()).prop_map(
        |([ready, serving, terminating], node, node_hints, zone_hints)| Endpoint {
            ready,
            serving,
            terminating,
            node: node.map(Arc::from),
            node_hints,
            zone_hints,
        },
    )
}

fn any_node() -> impl Strategy<Value = Node> {
    proptest::option::of(prop_oneof![Just("a"), Just("c")]).prop_map(node)
}

proptest! {
    #[test]
    fn selection_rules_hold_for_any_endpoints(
        endpoints in proptest::collection::vec(any_endpoint(), 0..6),
        node in any_node(),
    ) {
        let is_local = |endpoint: &Endpoint| endpoint.node.as_deref() == Some("here");
        let goes = |endpoint: &Endpoint| endpoint.serving && endpoint.terminating;
        for list in [List::Cluster, List::Local] {
            let here = |endpoint: &Endpoint| list == List::Cluster || is_local(endpoint);
            let found = selected(list, &endpoints, &node);
            prop_assert!(found.is_sorted_by_key(|(at, _)| *at), "in order, each once");
            for (at, state) in &found {
                let endpoint = &endpoints[*at];
                prop_assert!(endpoint.ready || goes(endpoint), "serving, or on its way out");
                prop_assert!(here(endpoint), "of the list");
                prop_assert_eq!(*state == BackendState::Ready, endpoint.ready, "reports its state");
            }
            let ready = endpoints.iter().filter(|endpoint| endpoint.ready && here(endpoint)).count();
            let going = endpoints.iter().filter(|endpoint| goes(endpoint) && here(endpoint)).count();
            if ready > 0 {
                prop_assert!(!found.is_empty(), "hints never leave a client without a backend");
                prop_assert!(found.iter().all(|(_, state)| *state == BackendState::Ready));
                prop_assert!(list == List::Cluster || found.len() == ready, "all that are local");
            } else {
                prop_assert_eq!(found.len(), going, "all that still serve");
            }
        }
    }

    #[test]
    fn a_reason_names_a_rule_that_the_endpoint_breaks(
        endpoints in proptest::collection::vec(any_endpoint(), 0..6),
        node in any_node(),
    ) {
        for list in [List::Cluster, List::Local] {
            let address = IpAddr::from([10, 0, 0, 1]);
            let candidates: Vec<Candidate<'_>> =
                endpoints.iter().map(|endpoint| Candidate { address, port: 80, endpoint }).collect();
            let rules = Rules::new(list, &candidates, &node);
            let used = selected(list, &endpoints, &node);
            for (at, endpoint) in endpoints.iter().enumerate() {
                let goes = endpoint.serving && endpoint.terminating;
                let found = used.iter().find(|(used, _)| *used == at).map(|(_, state)| *state);
                match rules.judge(endpoint) {
                    Verdict::Used(state) => prop_assert_eq!(found, Some(state)),
                    Verdict::Unused(reason) => {
                        prop_assert_eq!(found, None);
                        let broken = match reason {
                            Reason::NotReady => !endpoint.ready && !goes,
                            Reason::OtherNode => {
                                list == List::Local && endpoint.node.as_deref() != Some("here")
                            }
                            Reason::Terminating => {
                                !endpoint.ready && used.iter().any(|(at, _)| endpoints[*at].ready)
                            }
                            Reason::NodeHints => !endpoint.node_hints.contains(&node.name),
                            Reason::ZoneHints => {
                                !endpoint.zone_hints.contains(node.zone.as_ref().unwrap())
                            }
                        };
                        prop_assert!(broken, "{reason:?}: {endpoint:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn without_hints_every_ready_endpoint_is_used(
        endpoints in proptest::collection::vec(any_endpoint(), 0..6),
        node in any_node(),
    ) {
        let bare: Vec<Endpoint> = endpoints
            .iter()
            .map(|endpoint| Endpoint {
                node_hints: Box::default(), zone_hints: Box::default(), ..endpoint.clone()
            })
            .collect();
        let all = selected(List::Cluster, &bare, &node);
        let ready = bare.iter().filter(|endpoint| endpoint.ready).count();
        prop_assert!(ready == 0 || all.len() == ready);
        // Hints only choose among those; and the Local list does not look at them.
        let hinted = selected(List::Cluster, &endpoints, &node);
        prop_assert!(hinted.iter().all(|found| all.contains(found)));
        prop_assert_eq!(
            selected(List::Local, &endpoints, &node),
            selected(List::Local, &bare, &node)
        );
    }

    #[test]
    fn order_of_the_endpoints_does_not_matter(
        endpoints in proptest::collection::vec(any_endpoint(), 0..6),
        node in any_node(),
    ) {
        let mut turned = endpoints.clone();
        turned.reverse();
        let last = endpoints.len().saturating_sub(1);
        for list in [List::Cluster, List::Local] {
            let mut back: Vec<_> = selected(list, &turned, &node)
                .into_iter()
                .map(|(at, state)| (last - at, state))
                .collect();
            back.reverse();
            prop_assert_eq!(back, selected(list, &endpoints, &node));
        }
    }
}
