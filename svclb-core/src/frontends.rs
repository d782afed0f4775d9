//! The frontends that a port of a Service claims.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use svclb_common::layout::{FrontendKey, Policy, Scope};

use crate::model::{Families, Node, Service, ServicePort};

/// The field in which a Service names a frontend. Of several claimants of one frontend the first in this order owns it:
/// the API server gives out ClusterIPs and node ports, and each only once, while every tenant may write an
/// external IP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FrontendKind {
    /// `clusterIPs`.
    ClusterIp,
    /// `ports[].nodePort` at an address of the node.
    NodePort,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancerIp,
    /// `externalIPs`.
    ExternalIp,
}

impl FrontendKind {
    /// The policy that frontends of this kind are under.
    pub const fn policy(self) -> Policy {
        match self {
            Self::ClusterIp => Policy::Internal,
            Self::NodePort | Self::LoadBalancerIp | Self::ExternalIp => Policy::External,
        }
    }
}

/// Every frontend that a port of a Service claims, with how it names it, by key. Those that another
/// claimant owns are taken out by the catalog.
///
/// * Each ClusterIP; and of the families that it has ClusterIPs of, each external IP and each load
///   balancer IP that no source ranges restrict: kube-proxy knows no Service in a family without
///   ClusterIP.
/// * For its node port each address of the node, and loopback for clients in the host's network
///   namespace, in those families too.
/// * Addresses on loopback make no frontend otherwise: connects to them are looked up with
///   [`Scope::Host`] only.
///
/// Source of the rules: kube-proxy's serviceport.go and servicechangetracker.go.
pub fn frontends(
    service: &Service,
    port: &ServicePort,
    node: &Node,
) -> Vec<(FrontendKey, FrontendKind)> {
    let families = Families::of(&service.cluster_ips);
    let key = |address: IpAddr, port_number: u16, scope: Scope| FrontendKey {
        address: address.into(),
        port: port_number,
        protocol: port.protocol as u8,
        scope: scope as u8,
        _pad: 0,
    };
    // An address that is named twice is one frontend, of the first kind.
    let mut found = BTreeMap::new();
    let mut take = |address: &IpAddr, number: u16, kind: FrontendKind| {
        if families.have(address) && !address.is_loopback() {
            found.entry(key(*address, number, Scope::Any)).or_insert(kind);
        }
    };
    for address in &service.cluster_ips {
        take(address, port.port, FrontendKind::ClusterIp);
    }
    if let Some(number) = port.node_port {
        for address in &node.addresses {
            take(address, number, FrontendKind::NodePort);
        }
    }
    let balancers = service.load_balancer_ips.iter();
    for address in balancers.filter(|address| !service.source_ranges.have(address)) {
        take(address, port.port, FrontendKind::LoadBalancerIp);
    }
    for address in &service.external_ips {
        take(address, port.port, FrontendKind::ExternalIp);
    }
    if let Some(number) = port.node_port {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        for address in loopback.into_iter().filter(|address| families.have(address)) {
            found.entry(key(address, number, Scope::Host)).or_insert(FrontendKind::NodePort);
        }
    }
    found.into_iter().collect()
}
