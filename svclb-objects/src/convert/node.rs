//! v1 Node to the model.

use std::sync::Arc;

use svclb_core::model::{Node, Update};

use super::field::{self, Name};
use super::{Invalid, LeftOut, own_name, wire};

/// The number of addresses of a Node that are served. Each serves every node port.
const MOST_ADDRESSES: usize = 1_000;
/// The taint of a node that the cluster autoscaler is about to remove (kube-proxy's `ToBeDeletedTaint`,
/// pkg/proxy/healthcheck/proxy_health.go).
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// Converts a Node, the own one or another: the caller knows its own. The API server takes any text
/// for an address, and so many of them as fit into an object: what cannot be used is ignored.
///
/// # Errors
/// When it has no name.
pub fn node(node: &wire::Node) -> Result<(Update, LeftOut), Invalid> {
    let name = own_name(&node.metadata, Name::Subdomain)?;
    let mut left_out = LeftOut::default();
    let mut addresses = Vec::with_capacity(node.status.addresses.len().min(MOST_ADDRESSES));
    for (i, address) in node.status.addresses.iter().enumerate() {
        if !matches!(&*address.kind, "InternalIP" | "ExternalIP") {
            continue;
        }
        let field = || format!("status.addresses[{i}].address");
        let address = match field::address("", &address.address) {
            Ok(address) => address,
            Err(wrong) => {
                left_out.counts.unusable_addresses += 1;
                left_out.ignore(field, wrong.problem, "address");
                continue;
            }
        };
        let Some(address) = left_out.usable(field, address) else { continue };
        if addresses.contains(&address) {
            continue;
        }
        if addresses.len() < MOST_ADDRESSES {
            addresses.push(address);
        } else {
            left_out.counts.unusable_addresses += 1;
            let problem = format!("a Node has at most {MOST_ADDRESSES} addresses");
            left_out.ignore(field, problem, "address");
        }
    }
    let zone = node.metadata.labels.zone.as_deref().filter(|zone| !zone.is_empty()).map(Arc::from);
    let is_leaving = node.metadata.deletion_timestamp.is_some()
        || node.spec.taints.iter().any(|taint| taint.key == TO_BE_DELETED);
    Ok((Update::Node(Some(Node { name: Arc::from(name), zone, addresses, is_leaving })), left_out))
}
