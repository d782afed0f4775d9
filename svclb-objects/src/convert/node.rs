//! v1 Node to the model.

use std::sync::Arc;

use svclb_core::model::{Node, ObjectName, Update};

use super::field::{self, Name};
use super::{Invalid, Kind, ObjectId, own_name, wire};

/// How many addresses a Node may have. Each serves every node port.
const MOST_ADDRESSES: usize = 1_000;

/// Converts a Node, whichever it is: the caller knows which one is its own.
///
/// # Errors
/// The field that is wrong, with the object it belongs to as far as it has a name.
pub fn node(node: &wire::Node) -> Result<Update, Invalid> {
    let name = own_name(&node.metadata, Name::Subdomain)?;
    let mut addresses = Vec::with_capacity(node.status.addresses.len());
    let of_node = |invalid: Invalid| {
        invalid.of(&ObjectId { kind: Kind::Node, name: ObjectName::new("", name) })
    };
    for (i, address) in node.status.addresses.iter().enumerate() {
        if !matches!(&*address.kind, "InternalIP" | "ExternalIP") {
            continue;
        }
        let field = format!("status.addresses[{i}].address");
        let address = field::address(&field, &address.address).map_err(of_node)?;
        if addresses.len() == MOST_ADDRESSES {
            let problem =
                format!("there are more than {MOST_ADDRESSES}: expected those of one node");
            return Err(of_node(Invalid::new("status.addresses", problem)));
        }
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let zone = node.metadata.labels.zone.as_deref().filter(|zone| !zone.is_empty()).map(Arc::from);
    Ok(Update::Node(Some(Node { name: Arc::from(name), zone, addresses })))
}
