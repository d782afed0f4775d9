//! The flags of lines.

use super::*;
use crate::frontends::frontends;

#[test]
fn frontends_of_the_api_servers_own_service_are_flagged_and_no_others() {
    let port =
        ServicePort { name: "https".into(), protocol: Protocol::Tcp, port: 443, node_port: None };
    let service = Service {
        cluster_ips: vec![IpAddr::from([10, 96, 0, 1])],
        external_ips: vec![IpAddr::from([192, 0, 2, 7])],
        ports: vec![port.clone()],
        ..Service::default()
    };
    let rows = [
        ("default", "kubernetes", LineFlags::API_SERVER),
        ("default", "web", 0),
        ("kube-system", "kubernetes", 0),
    ];
    for (namespace, name, expected) in rows {
        let object = ObjectName::new(namespace, name);
        let offers = Offers::of([]);
        let node = Node::default();
        let claims = frontends(&service, &port, &node);
        let desired = compile(&object, &service, &port, claims, &offers, &node, |_| true);
        let mut flags: Vec<u16> = desired.frontends.iter().map(|it| it.flags).collect();
        flags.sort_unstable();
        assert_eq!(flags, [expected, expected | LineFlags::EXTERNAL], "{namespace}/{name}");
    }
}
