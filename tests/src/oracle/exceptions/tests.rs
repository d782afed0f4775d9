//! The judgement of answers, shown with made-up answers.

use std::net::SocketAddr;

use super::super::address_block::AddressBlock;
use super::super::answers::Answers;
use super::super::frontend::{Allocated, Frontend, Placed};
use super::super::generate;
use super::super::world::{
    Addresses, Endpoint, Family, Host, HostRef, Ingress, Mode, Place, Slice, SlicePort, Type, World,
};
use super::*;
use crate::Protocol::Tcp;

/// Two hosts of the first Service, and one of the second.
const A: &str = "10.64.1.64:8080";
const B: &str = "10.64.1.65:8080";
const C: &str = "10.64.1.72:8080";

/// A name, a world, the kind of frontend, the answers of kube-proxy and svclb, and whether they are
/// right.
type Row<'a> = (&'a str, &'a Placed, Kind, [&'a [Answer]; 2], bool);

fn host(address: &str) -> Answer {
    Answer::Host(address.parse::<SocketAddr>().unwrap())
}

/// A world of plain Services, which `change` then modifies.
fn plain(change: impl Fn(usize, &mut Service), count: usize) -> Placed {
    let mut service = generate::world(1).services[0].clone();
    service.kind = Type::NodePort;
    service.families = Family::ALL.to_vec();
    service.ports.truncate(1);
    service.ports[0].protocol = Transport::Of(Tcp);
    service.ports[0].number = 80;
    service.external.clear();
    service.ranges.clear();
    service.ingress.clear();
    (service.label, service.affinity) = (None, None);
    (service.is_internal_local, service.is_external_local) = (false, false);
    // One host on this node, one on another.
    let host = |place| {
        let alive = Endpoint { node: Some(place), ..Endpoint::default() };
        Host { dying: alive.clone(), alive }
    };
    service.hosts = [Place::Here, Place::There].map(host).to_vec();
    let port = &service.ports[0];
    let (name, protocol) = (Some(port.name), port.protocol);
    service.slices = vec![Slice {
        addresses: Addresses::Of(Family::V4),
        is_owned: true,
        is_headless: false,
        ports: vec![SlicePort { name, protocol, number: Some(8080) }],
        endpoints: [0, 1].map(|host| HostRef { host, is_dying: false, has_second: false }).to_vec(),
    }];
    let mut services = vec![service; count];
    for (at, service) in services.iter_mut().enumerate() {
        change(at, service);
    }
    // The second Service is the older one.
    let allocated = (0..count).map(|at| Allocated {
        created: format!("2026-01-01T00:00:{:02}Z", 30 - at),
        node_ports: vec![30_000 + u16::try_from(at).unwrap()],
    });
    let allocated = allocated.collect();
    Placed { world: World { has_zone: true, services }, block: AddressBlock::new(1), allocated }
}

fn find(placed: &Placed, service: usize, kind: Kind) -> Frontend {
    let all = placed.frontends().into_iter();
    let mut own = all.filter(|it| it.service == service && it.kind == kind);
    own.find(|it| it.family() == Family::V4).expect("there is such a frontend")
}

/// Judges the answers at a frontend, given the answers at other frontends.
fn judge(
    placed: &Placed,
    frontend: Frontend,
    own: [&[Answer]; 2],
    others: &[(Frontend, [&[Answer]; 2])],
) -> (Option<&'static str>, bool) {
    let mut answers = Answers::default();
    for (frontend, sides) in others.iter().chain([&(frontend, own)]) {
        for (side, each) in Side::ALL.into_iter().zip(sides) {
            for answer in *each {
                answers.add(side, Client::Host, *frontend, answer.clone());
            }
        }
    }
    let case = Case { placed, answers: &answers, client: Client::Host, frontend: &frontend };
    let verdict = case.judge();
    (verdict.exception, verdict.problem.is_none())
}

/// Makes all hosts unready, or only those of this node.
fn make_unready(service: &mut Service, is_everywhere: bool) {
    for host in &mut service.hosts {
        if is_everywhere || host.alive.node == Some(Place::Here) {
            host.alive.ready = Some(false);
        }
    }
}

fn local(_: usize, service: &mut Service) {
    service.is_internal_local = true;
}

#[test]
fn without_an_exception_the_answers_must_be_equal() {
    use Answer::{Other, Refused, Silence, Untouched};
    let placed = plain(|_, _| {}, 1);
    let it = find(&placed, 0, Kind::ClusterIp);
    let strange = &[Other("no route".to_owned())][..];
    let rows: [(&str, [&[Answer]; 2], bool); 13] = [
        ("the same hosts", [&[host(A), host(B)], &[host(B), host(A)]], true),
        ("one missing", [&[host(A), host(B)], &[host(A)]], false),
        ("one too many", [&[host(A)], &[host(A), host(B)]], false),
        ("refused by both", [&[Refused], &[Refused]], true),
        ("refused by one", [&[host(A)], &[Refused]], false),
        ("sometimes refused", [&[host(A)], &[host(A), Refused]], false),
        ("sometimes refused by both", [&[host(A), Refused], &[host(A), Refused]], false),
        ("left alone by both", [&[Untouched], &[Untouched]], true),
        ("left alone by one", [&[Refused], &[Untouched]], false),
        ("silence of both", [&[Silence], &[Silence]], false),
        ("sometimes silence of both", [&[host(A), Silence], &[host(A), Silence]], false),
        ("an impossible answer of both", [strange, strange], false),
        ("not dialled", [&[], &[]], false),
    ];
    for (row, answers, expected) in rows {
        assert_eq!(judge(&placed, it, answers, &[]), (None, expected), "{row}");
    }
}

#[test]
fn an_exception_requires_an_answer_of_each_side() {
    use Answer::{Refused, Silence, Untouched};
    let (a, b) = (&[host(A)][..], &[host(B)][..]);
    let both = &[host(A), host(B)][..];
    let proxy_name = plain(|_, it| it.label = Some(Label::ProxyName), 1);
    let headless = plain(|_, it| it.label = Some(Label::Headless), 1);
    let usual = plain(|_, _| {}, 1);
    let labelled = |it: &mut Service| it.label = Some(Label::Headless);
    let headless_empty = plain(
        |_, it| {
            labelled(it);
            make_unready(it, true);
        },
        1,
    );
    let headless_local = plain(
        |at, it| {
            labelled(it);
            local(at, it);
            make_unready(it, false);
        },
        1,
    );
    let rows: [Row<'_>; 18] = [
        ("another's, as wanted", &proxy_name, Kind::ClusterIp, [&[Silence], &[Untouched]], true),
        ("another's, served", &proxy_name, Kind::ClusterIp, [&[Silence], a], false),
        ("another's, absent port", &proxy_name, Kind::AbsentPort, [&[Silence], &[Untouched]], true),
        ("absent port, as wanted", &usual, Kind::AbsentPort, [&[Refused], &[Untouched]], true),
        ("absent port, refused", &usual, Kind::AbsentPort, [&[Refused], &[Refused]], false),
        ("headless", &headless, Kind::ClusterIp, [a, &[Untouched]], true),
        ("headless, by both", &headless, Kind::ClusterIp, [a, a], false),
        ("headless, refused", &headless, Kind::ClusterIp, [&[Refused], &[Untouched]], false),
        ("headless node port", &headless, Kind::NodePort, [a, &[Untouched]], true),
        ("headless node port, refused", &headless, Kind::NodePort, [a, &[Refused]], false),
        (
            "headless, no ready host",
            &headless_empty,
            Kind::NodePort,
            [&[Refused], &[Untouched]],
            true,
        ),
        (
            "headless, no ready host, left alone by both is wrong",
            &headless_empty,
            Kind::NodePort,
            [&[Refused]; 2],
            false,
        ),
        (
            "headless, another's hosts",
            &headless,
            Kind::ClusterIp,
            [&[host(C)], &[Untouched]],
            false,
        ),
        ("headless, none here", &headless_local, Kind::ClusterIp, [&[Silence], &[Untouched]], true),
        ("headless, from outside", &headless_local, Kind::NodePort, [b, &[Untouched]], true),
        ("another node's", &usual, Kind::OtherNode, [&[Untouched], &[Untouched]], true),
        ("node port, left alone", &usual, Kind::NodePort, [both, &[Untouched]], false),
        ("loopback, refused by both", &usual, Kind::Loopback, [&[Refused]; 2], false),
    ];
    for (row, placed, kind, answers, expected) in rows {
        let frontend = find(placed, 0, kind);
        assert_eq!(judge(placed, frontend, answers, &[]).1, expected, "{row}");
    }
}

#[test]
fn without_local_hosts_svclb_refuses_where_kube_proxy_drops() {
    use Answer::{Refused, Silence};
    let name = Some("internalTrafficPolicy Local without local endpoints");
    let none_here = plain(
        |at, it| {
            local(at, it);
            make_unready(it, false);
        },
        1,
    );
    let none = plain(
        |at, it| {
            local(at, it);
            make_unready(it, true);
        },
        1,
    );
    let (some, usual) = (plain(local, 1), plain(|_, it| make_unready(it, false), 1));
    let a = &[host(A)][..];
    type Row<'a> = (&'a str, &'a Placed, [&'a [Answer]; 2], Option<&'a str>, bool);
    let rows: [Row<'_>; 9] = [
        ("none here", &none_here, [&[Silence], &[Refused]], name, true),
        ("none here, silence", &none_here, [&[Silence], &[Silence]], name, false),
        ("none here, served", &none_here, [&[Silence], a], name, false),
        ("none here, refused by both", &none_here, [&[Refused], &[Refused]], name, false),
        ("none at all", &none, [&[Refused], &[Refused]], None, true),
        ("none at all, dropped", &none, [&[Silence], &[Refused]], None, false),
        ("one here", &some, [a, a], None, true),
        ("one here, dropped", &some, [&[Silence], &[Refused]], None, false),
        ("not Local, dropped", &usual, [&[Silence], &[Refused]], None, false),
    ];
    for (row, placed, answers, exception, is_right) in rows {
        let it = find(placed, 0, Kind::ClusterIp);
        assert_eq!(judge(placed, it, answers, &[]), (exception, is_right), "{row}");
    }
}

#[test]
fn a_client_with_affinity_keeps_one_host_through_all_frontends() {
    let sticky = plain(|_, it| it.affinity = Some(600), 1);
    let [ip, port] = [Kind::ClusterIp, Kind::NodePort].map(|kind| find(&sticky, 0, kind));
    let (a, b, both) = (&[host(A)][..], &[host(B)][..], &[host(A), host(B)][..]);
    let rows: [(&str, [&[Answer]; 2], bool); 6] = [
        ("the same host", [both, b], true),
        ("another host", [both, a], false),
        ("all hosts", [both, both], false),
        ("refused", [both, &[Answer::Refused]], false),
        ("a host that kube-proxy does not give", [a, b], false),
        ("left alone", [both, &[Answer::Untouched]], false),
    ];
    for (row, answers, expected) in rows {
        let (exception, is_right) = judge(&sticky, port, answers, &[(ip, [both, b])]);
        assert_eq!((exception, is_right), (Some("session affinity"), expected), "{row}");
    }
    assert!(judge(&sticky, ip, [both, a], &[]).1);
    assert!(!judge(&sticky, ip, [both, both], &[]).1);
}

#[test]
fn a_client_with_affinity_keeps_its_host_while_the_dialled_list_has_it() {
    let external = |is_shared| External { family: Family::V4, is_shared };
    let sticky = plain(
        |at, it| {
            it.affinity = Some(600);
            it.external = vec![external(false)];
            local(at, it);
        },
        1,
    );
    let kinds = [Kind::ClusterIp, Kind::ExternalIp, Kind::NodePort];
    let [ip, external, port] = kinds.map(|kind| find(&sticky, 0, kind));
    let (a, b, both) = (&[host(A)][..], &[host(B)][..], &[host(A), host(B)][..]);
    type AnswerSet<'a> = [&'a [Answer]; 2];
    let rows: [(&str, AnswerSet<'_>, AnswerSet<'_>, AnswerSet<'_>, bool); 6] = [
        ("kept", [a, a], [both, a], [both, a], true),
        ("another host, although the list has the first", [a, a], [both, b], [both, b], false),
        ("drawn again", [a, a], [b, b], [b, b], true),
        ("drawn again each time", [a, a], [b, both], [b, both], false),
        (
            "drawn again through each frontend",
            [&[host(C)], &[host(C)]],
            [both, a],
            [both, b],
            false,
        ),
        ("no affinity", [a, a], [both, both], [both, both], false),
    ];
    let name = Some("session affinity with two lists of backends");
    for (row, by_ip, by_external, by_port, expected) in rows {
        let others = [(ip, by_ip), (external, by_external)];
        assert_eq!(judge(&sticky, port, by_port, &others), (name, expected), "{row}");
    }
    assert!(judge(&sticky, ip, [both, a], &[]).1);
    assert!(!judge(&sticky, ip, [both, both], &[]).1, "one host, of each list by itself");
    assert!(sticky.is_first(&ip) && !sticky.is_first(&external) && !sticky.is_first(&port));

    // With nothing but a ClusterIP there is only one list.
    let alone = plain(
        |at, it| {
            (it.kind, it.affinity) = (Type::Cluster, Some(600));
            local(at, it);
        },
        1,
    );
    let alone = Placed {
        allocated: vec![Allocated { node_ports: vec![0], ..alone.allocated[0].clone() }],
        ..alone
    };
    let ip = find(&alone, 0, Kind::ClusterIp);
    assert_eq!(judge(&alone, ip, [both, b], &[]), (Some("session affinity"), true));
    assert_eq!(judge(&alone, ip, [both, both], &[]), (Some("session affinity"), false));
}

#[test]
fn the_older_service_owns_a_shared_external_ip() {
    let placed = plain(
        |_, it| {
            let family = Family::V4;
            it.external = [false, true].map(|is_shared| External { family, is_shared }).to_vec();
        },
        2,
    );
    let (a, b) = (&[host(A)][..], &[host(B)][..]);
    let own = [0, 1].map(|service| find(&placed, service, Kind::ExternalIp));
    let others = [(own[0], [a, a]), (own[1], [b, b])];
    for service in [0, 1] {
        let shared = find(&placed, service, Kind::SharedIp);
        assert!(judge(&placed, shared, [a, b], &others).1, "kube-proxy may go by the younger");
        assert!(judge(&placed, shared, [b, b], &others).1);
        assert!(!judge(&placed, shared, [a, a], &others).1, "svclb must go by the older");
        assert!(
            !judge(&placed, shared, [&[Answer::Refused], b], &others).1,
            "a refusal by kube-proxy is wrong"
        );
    }
}

#[test]
fn the_owner_of_a_shared_ip_is_recognized_by_its_hosts() {
    let alone = |empty_one: usize| {
        let placed = plain(
            |at, it| {
                it.kind = Type::Cluster;
                it.external = vec![External { family: Family::V4, is_shared: true }];
                local(at, it);
                if at == empty_one {
                    make_unready(it, true);
                }
            },
            2,
        );
        let allocated = placed.allocated.iter();
        let allocated =
            allocated.map(|it| Allocated { node_ports: vec![0], ..it.clone() }).collect();
        Placed { allocated, ..placed }
    };
    let (a, c, refused) = (&[host(A)][..], &[host(C)][..], &[Answer::Refused][..]);
    let (all, without_older) = (alone(9), alone(1));
    let rows: [(&str, &Placed, [&[Answer]; 2], bool); 7] = [
        ("the older", &all, [c, c], true),
        ("kube-proxy goes by the younger", &all, [a, c], true),
        ("svclb goes by the younger", &all, [c, a], false),
        ("both go by the younger", &all, [a, a], false),
        ("svclb refuses", &all, [c, refused], false),
        ("the older has no ready host", &without_older, [a, refused], true),
        ("the older has no ready host, but svclb serves it", &without_older, [a, c], false),
    ];
    for (row, placed, answers, expected) in rows {
        let shared = find(placed, 0, Kind::SharedIp);
        let verdict = judge(placed, shared, answers, &[]);
        assert_eq!(verdict, (Some("one external IP of two Services"), expected), "{row}");
    }
}

#[test]
fn a_node_port_on_loopback_answers_as_on_other_addresses() {
    use Answer::{Refused, Untouched};
    let placed = plain(|_, _| {}, 1);
    let a = &[host(A)][..];
    let others = [(find(&placed, 0, Kind::NodePort), [a, a])];
    let loopback = find(&placed, 0, Kind::Loopback);
    assert!(judge(&placed, loopback, [&[Untouched], a], &others).1);
    assert!(!judge(&placed, loopback, [&[Untouched], &[Refused]], &others).1);
    assert!(!judge(&placed, loopback, [&[Untouched], &[Untouched]], &others).1);
    assert!(!judge(&placed, loopback, [a, a], &others).1);
}

#[test]
fn source_ranges_apply_per_family() {
    let rows: [(&str, &[&str], bool, bool); 6] = [
        ("none", &[], false, false),
        ("IPv4 alone", &["10.0.0.0/8"], true, false),
        ("IPv6 alone", &["fd00::/8"], false, true),
        ("both", &["10.0.0.0/8", "fd00::/8"], true, true),
        ("all of IPv4", &[" 0.0.0.0/0 ", "10.0.0.0/8"], false, false),
        ("all of IPv4, some of IPv6", &["0.0.0.0/0", "fd00::/8"], false, true),
    ];
    for (row, ranges, four, six) in rows {
        assert_eq!(restricted(ranges, Family::V4).is_some(), four, "{row}");
        assert_eq!(restricted(ranges, Family::V6).is_some(), six, "{row}");
    }
    let placed = plain(
        |_, it| {
            it.kind = Type::LoadBalancer;
            it.ingress = vec![Ingress::Address(Family::V4, Some(Mode::Vip))];
            it.ranges = vec!["198.51.100.0/24"];
        },
        1,
    );
    let balancer = find(&placed, 0, Kind::Balancer);
    let a = &[host(A)][..];
    let others = [(find(&placed, 0, Kind::NodePort), [a, a])];
    assert!(judge(&placed, balancer, [&[Answer::Silence], &[Answer::Untouched]], &others).1);
    assert!(
        !judge(&placed, balancer, [a, &[Answer::Untouched]], &others).1,
        "the client's address is not in the ranges"
    );
    assert!(
        !judge(&placed, balancer, [&[Answer::Silence], a], &others).1,
        "svclb must leave the address alone"
    );
}
