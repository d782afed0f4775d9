//! The frontends that follow from a Service's addresses and ports.

use super::*;
use crate::model::Scope;

/// The claimed frontends as text: `+` before those under the external policy, `host` after those for clients
/// in the host's namespace only.
fn shown_claims(service: &Service, port: &ServicePort, node: &Node) -> String {
    let shown = |(key, kind): &(FrontendKey, FrontendKind)| {
        let external = if kind.policy() == Policy::External { "+" } else { "" };
        let host = if key.scope == Scope::Host as u8 { " host" } else { "" };
        format!("{external}{} {}{host}", key.address, key.port)
    };
    claimed(service, port, node).iter().map(shown).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_services_addresses_make_its_frontends() {
    struct Row {
        name: &'static str,
        cluster: &'static [&'static str],
        external: &'static [&'static str],
        balancers: &'static [&'static str],
        ranges: Families,
        expected: &'static str,
    }
    const NONE: Families = Families { v4: false, v6: false };
    let row = Row {
        name: "ClusterIP",
        cluster: &["10.96.0.1"],
        external: &[],
        balancers: &[],
        ranges: NONE,
        expected: "10.96.0.1 80",
    };
    let dual: &[&str] = &["10.96.0.1", "fd00::1"];
    let rows = [
        Row { name: "dual stack", cluster: dual, expected: "10.96.0.1 80, fd00::1 80", ..row },
        Row { name: "IPv6", cluster: &["fd00::1"], expected: "fd00::1 80", ..row },
        Row {
            name: "external IP",
            external: &["192.0.2.1"],
            expected: "10.96.0.1 80, +192.0.2.1 80",
            ..row
        },
        Row {
            name: "external IPs of a family without ClusterIP",
            external: &["fd00::9", "192.0.2.1"],
            balancers: &["fd00::8"],
            expected: "10.96.0.1 80, +192.0.2.1 80",
            ..row
        },
        Row {
            name: "external IPs of both families",
            cluster: dual,
            external: &["fd00::9", "192.0.2.1"],
            expected: "10.96.0.1 80, +192.0.2.1 80, fd00::1 80, +fd00::9 80",
            ..row
        },
        Row {
            name: "load balancer IP",
            balancers: &["192.0.2.2"],
            expected: "10.96.0.1 80, +192.0.2.2 80",
            ..row
        },
        Row {
            name: "load balancer IP with source ranges",
            external: &["192.0.2.1"],
            balancers: &["192.0.2.2"],
            ranges: Families { v4: true, ..NONE },
            expected: "10.96.0.1 80, +192.0.2.1 80",
            ..row
        },
        Row {
            name: "source ranges of one family leave the other's alone",
            cluster: dual,
            balancers: &["192.0.2.2", "fd00::8"],
            ranges: Families { v6: true, ..NONE },
            expected: "10.96.0.1 80, +192.0.2.2 80, fd00::1 80",
            ..row
        },
        Row {
            name: "an external IP that is a load balancer IP too, with source ranges",
            external: &["192.0.2.1"],
            balancers: &["192.0.2.1"],
            ranges: Families { v4: true, ..NONE },
            expected: "10.96.0.1 80, +192.0.2.1 80",
            ..row
        },
        Row {
            name: "an external IP that is the ClusterIP",
            external: &["10.96.0.1"],
            expected: "10.96.0.1 80",
            ..row
        },
        Row {
            name: "addresses on loopback",
            cluster: &["127.0.0.1", "fd00::1"],
            external: &["127.1.2.3", "::1"],
            balancers: &["127.0.0.1"],
            expected: "fd00::1 80",
            ..row
        },
        row,
    ];
    for Row { name, cluster, external, balancers, ranges, expected } in rows {
        let addresses = |texts: &[&str]| texts.iter().map(|text| ip(text)).collect();
        let service = Service {
            cluster_ips: addresses(cluster),
            external_ips: addresses(external),
            load_balancer_ips: addresses(balancers),
            source_ranges: ranges,
            ..service()
        };
        assert_eq!(shown_claims(&service, &port(), &node()), expected, "{name}");
    }
}

#[test]
fn a_node_port_makes_frontends_on_the_nodes_addresses_and_on_loopback() {
    type Row = (&'static str, &'static [&'static str], &'static [&'static str], u16, &'static str);
    let rows: [Row; 8] = [
        (
            "IPv4",
            &["10.96.0.1"],
            &["192.0.2.5"],
            30080,
            "10.96.0.1 80, +127.0.0.1 30080 host, +192.0.2.5 30080",
        ),
        (
            "several addresses, one twice",
            &["10.96.0.1"],
            &["192.0.2.5", "192.0.2.6", "192.0.2.5"],
            30080,
            "10.96.0.1 80, +127.0.0.1 30080 host, +192.0.2.5 30080, +192.0.2.6 30080",
        ),
        ("no address", &["10.96.0.1"], &[], 30080, "10.96.0.1 80, +127.0.0.1 30080 host"),
        (
            "IPv6 only",
            &["fd00::1"],
            &["192.0.2.5", "fd01::5"],
            30080,
            "+::1 30080 host, fd00::1 80, +fd01::5 30080",
        ),
        (
            "IPv4 only on a node of both families",
            &["10.96.0.1"],
            &["192.0.2.5", "fd01::5"],
            30080,
            "10.96.0.1 80, +127.0.0.1 30080 host, +192.0.2.5 30080",
        ),
        (
            "dual stack",
            &["10.96.0.1", "fd00::1"],
            &["192.0.2.5", "fd01::5"],
            30080,
            "+::1 30080 host, 10.96.0.1 80, +127.0.0.1 30080 host, +192.0.2.5 30080, fd00::1 80, \
             +fd01::5 30080",
        ),
        (
            "an address on loopback is loopback's",
            &["10.96.0.1"],
            &["127.0.0.1", "127.0.0.2"],
            30080,
            "10.96.0.1 80, +127.0.0.1 30080 host",
        ),
        (
            "a ClusterIP that is the node's address, with the same port",
            &["192.0.2.5"],
            &["192.0.2.5"],
            80,
            "+127.0.0.1 80 host, 192.0.2.5 80",
        ),
    ];
    for (name, cluster, addresses, number, expected) in rows {
        let texts = |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|text| ip(text)).collect() };
        let service = Service { cluster_ips: texts(cluster), ..service() };
        let node = Node { addresses: texts(addresses), ..node() };
        let port = ServicePort { node_port: Some(number), ..port() };
        assert_eq!(shown_claims(&service, &port, &node), expected, "{name}");
    }
}

#[test]
fn row_of_a_service_notes_why_it_has_fewer_frontends_than_its_object() {
    let ranges = Families { v4: true, v6: false };
    let (v4, v6) = (vec![ip("192.0.2.2")], vec![ip("fd00::8")]);
    let rows = [
        ("no note", service(), 0),
        ("ranges without addresses", Service { source_ranges: ranges, ..service() }, 0),
        (
            "ranges and an address",
            Service { source_ranges: ranges, load_balancer_ips: v4.clone(), ..service() },
            ServiceNotes::SOURCE_RANGES,
        ),
        (
            "ranges and an address of a family without ClusterIP",
            Service {
                source_ranges: Families { v4: true, v6: true },
                load_balancer_ips: v6,
                ..service()
            },
            0,
        ),
        ("SCTP ports", Service { notes: ServiceNotes::SCTP, ..service() }, ServiceNotes::SCTP),
        (
            "both",
            Service {
                notes: ServiceNotes::SCTP,
                source_ranges: ranges,
                load_balancer_ips: v4,
                ..service()
            },
            ServiceNotes::SCTP | ServiceNotes::SOURCE_RANGES,
        ),
    ];
    for (name, service, expected) in rows {
        assert_eq!(compiled(&service, &[]).row.notes, expected, "{name}");
        let other = of_port(&service, &service.ports[0], &[], &node(), false);
        assert_eq!(other.row.notes, expected | ServiceNotes::CONFLICT, "{name}, held by another");
        assert!(other.frontends.is_empty());
    }
}
