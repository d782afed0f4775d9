//! Each cell of SEMANTICS' table, as rows with names.

use super::*;

/// `r` ready, `s` serving, `t` terminating; `@node`, `n:hint`, `z:hint`.
fn endpoint(text: &str) -> Endpoint {
    let mut endpoint = Endpoint {
        address: IpAddr::from([10, 0, 0, 1]),
        ready: false,
        serving: false,
        terminating: false,
        node: None,
        node_hints: Vec::new(),
        zone_hints: Vec::new(),
    };
    for word in text.split(' ') {
        match word.split_at(word.find(['@', ':']).map_or(0, |at| at + 1)) {
            ("@", node) => endpoint.node = Some(node.into()),
            ("n:", hint) => endpoint.node_hints.push(hint.into()),
            ("z:", hint) => endpoint.zone_hints.push(hint.into()),
            (_, flags) => {
                endpoint.ready = flags.contains('r');
                endpoint.serving = flags.contains('s');
                endpoint.terminating = flags.contains('t');
            }
        }
    }
    endpoint
}

#[test]
fn each_rule_of_selection_holds() {
    use List::{Cluster, Local};
    let rows: &[(&str, List, &[&str], &[usize])] = &[
        ("nothing", Cluster, &[], &[]),
        ("ready ones", Cluster, &["rs", "rs"], &[0, 1]),
        ("not ready is left out", Cluster, &["rs", "s"], &[0]),
        ("ready is enough", Cluster, &["r"], &[0]),
        ("none ready, none serving", Cluster, &["-", "-"], &[]),
        ("serving but not terminating is never used", Cluster, &["s", "s"], &[]),
        ("serving and terminating only when none is ready", Cluster, &["rs", "st"], &[0]),
        ("serving and terminating when none is ready", Cluster, &["s", "st", "st"], &[1, 2]),
        ("terminating without serving is never used", Cluster, &["t"], &[]),
        ("ready though terminating counts as ready", Cluster, &["rst"], &[0]),
        ("elsewhere is fine", Cluster, &["rs @other", "rs @here"], &[0, 1]),
        ("zone hints choose", Cluster, &["rs z:a", "rs z:b"], &[0]),
        ("zone hints, several", Cluster, &["rs z:b z:a", "rs z:b"], &[0]),
        ("one without zone hints turns them off", Cluster, &["rs z:a", "rs"], &[0, 1]),
        ("no zone hint names this zone", Cluster, &["rs z:b", "rs z:c"], &[0, 1]),
        ("an unready one without hints does not matter", Cluster, &["rs z:a", "s"], &[0]),
        ("an unready one's hint does not count", Cluster, &["s z:a", "rs z:b"], &[1]),
        ("node hints choose", Cluster, &["rs n:here", "rs n:other"], &[0]),
        ("node hints before zone hints", Cluster, &["rs n:here z:b", "rs n:other z:a"], &[0]),
        ("no node hint names this node: zones", Cluster, &["rs n:x z:b", "rs n:x z:a"], &[1]),
        ("one without node hints: zones", Cluster, &["rs n:here z:b", "rs z:a"], &[1]),
        ("no usable hints: all", Cluster, &["rs n:x z:b", "rs n:x z:c"], &[0, 1]),
        ("the fallback ignores hints", Cluster, &["st z:b", "st z:a"], &[0, 1]),
        ("local, ready", Local, &["rs @here", "rs @other"], &[0]),
        ("local, none here", Local, &["rs @other", "rs"], &[]),
        ("local, without a node is not local", Local, &["rs"], &[]),
        ("local fallback", Local, &["s @here", "st @here", "rs @other"], &[1]),
        ("local fallback stays here", Local, &["st @other"], &[]),
        ("local prefers ready", Local, &["st @here", "rs @here"], &[1]),
        ("local ignores zone hints", Local, &["rs @here z:b", "rs @here z:a"], &[0, 1]),
        ("local ignores node hints", Local, &["rs @here n:other"], &[0]),
        ("local, unready here, ready elsewhere", Local, &["- @here", "rs @other"], &[]),
    ];
    let node = Node { name: "here".into(), zone: Some("a".into()), addresses: Vec::new() };
    for (name, list, texts, expected) in rows {
        assert_eq!(selected(*list, texts, &node), *expected, "{name}");
    }
}

#[test]
fn without_a_zone_zone_hints_do_not_choose() {
    let node = Node { name: "here".into(), zone: None, addresses: Vec::new() };
    assert_eq!(selected(List::Cluster, &["rs z:a", "rs z:b"], &node), [0, 1]);
}

fn selected(list: List, texts: &[&str], node: &Node) -> Vec<usize> {
    let endpoints: Vec<Endpoint> = texts.iter().map(|text| endpoint(text)).collect();
    let candidates: Vec<Candidate<'_>> = endpoints
        .iter()
        .map(|endpoint| Candidate { address: endpoint.address, port: 80, endpoint })
        .collect();
    select(list, &candidates, node).into_iter().map(|(at, _)| at).collect()
}
