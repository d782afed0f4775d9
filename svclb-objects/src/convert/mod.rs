//! Kubernetes objects to [`Update`]s: the objects that count and the meaning of their fields (the rules are
//! kube-proxy's: pkg/proxy/{serviceport,endpointslicecache}.go). Each is converted without regard to its
//! source and its previous state.
//!
//! Nothing here can panic, whatever the object holds. A part that an API server accepts and that cannot be
//! used (a multicast address, a port without a number) is ignored by itself; what no API server accepts
//! rejects its object, and only it (docs/decisions/0019 has the table).

mod field;
mod names;
mod node;
mod object;
mod service;
mod slice;
#[cfg(test)]
mod tests;
pub mod wire;

use std::fmt;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::LazyLock;

use hashbrown::DefaultHashBuilder;
use svclb_core::model::{Families, ObjectName, Update};

pub use node::node;
pub(crate) use object::one;
pub use object::{Kind, ObjectId, objects};
pub use service::service;
pub use slice::slice;

/// The number of rejects of a document that are kept without the name of an object. Such an item takes two
/// bytes of a list, and its reject a hundred times that.
pub const MOST_NAMELESS: usize = 100;

/// The result of converting a document or an API object.
#[derive(Clone, Debug, Default)]
pub struct Converted {
    /// The objects that count, in their order in the document; one that svclb does not serve (a headless
    /// Service, for example) is `None` in its update. Objects of other kinds are left out.
    pub accepted: Vec<Accepted>,
    /// The objects that were rejected, but only the first [`MOST_NAMELESS`] of those without a readable
    /// name.
    pub rejects: Vec<Invalid>,
    /// The number of rejected objects without a readable name.
    pub nameless: usize,
}

impl Converted {
    fn reject(&mut self, invalid: Invalid) {
        self.nameless += usize::from(invalid.object.is_none());
        if invalid.object.is_some() || self.nameless <= MOST_NAMELESS {
            self.rejects.push(invalid);
        }
    }
}

/// An object that was read, as far as it can be served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// Its state.
    pub update: Update,
    /// Its `metadata.uid`, where it has one.
    pub uid: Option<Uid>,
    /// The parts of it that are left out.
    pub left_out: LeftOut,
}

/// Distinguishes the objects that ever had one name: a hash of `metadata.uid`, which has no meaning in
/// another process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Uid(NonZeroU64);

impl Uid {
    /// Returns the hash of a `metadata.uid`.
    pub fn of(text: &str) -> Self {
        static HASHER: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);
        Self(NonZeroU64::new(HASHER.hash_one(text)).unwrap_or(NonZeroU64::MIN))
    }

    /// Returns true when two objects of one name are certainly not the same: both have a uid, and these
    /// differ.
    pub fn differ(one: Option<Self>, other: Option<Self>) -> bool {
        matches!((one, other), (Some(one), Some(other)) if one != other)
    }
}

/// The parts of an object that are left out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeftOut {
    /// Their number, by reason.
    pub counts: Skipped,
    /// The parts that cannot be used.
    pub ignored: Option<Box<Ignored>>,
}

/// Parts of an object that cannot be used. Each is ignored by itself; all else of the object is served.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ignored {
    /// Path of the first of them in the object, such as `endpoints[3].addresses[0]`.
    pub field: String,
    /// The problem of that part, and what is ignored.
    pub problem: String,
    /// The number of other such parts.
    pub more: u32,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)?;
        match self.more {
            0 => Ok(()),
            more => write!(f, ", and {more} more like it"),
        }
    }
}

impl LeftOut {
    /// Notes a part that is ignored, such as an `"endpoint"`.
    fn ignore(&mut self, field: impl FnOnce() -> String, problem: impl fmt::Display, part: &str) {
        match &mut self.ignored {
            Some(ignored) => ignored.more += 1,
            None => {
                let problem = format!("{problem}; {part} ignored");
                self.ignored = Some(Box::new(Ignored { field: field(), problem, more: 0 }));
            }
        }
    }

    /// Returns an address at which something can be served; counts and ignores any other.
    fn usable(&mut self, field: impl FnOnce() -> String, address: IpAddr) -> Option<IpAddr> {
        let Some(why) = field::unusable(&address) else { return Some(address) };
        self.counts.unusable_addresses += 1;
        self.ignore(field, format_args!("{address} {why}"), "address");
        None
    }

    /// The same for an address beside the ClusterIPs, which is not usable in a family without a ClusterIP either:
    /// there kube-proxy has no Service.
    fn usable_in(
        &mut self,
        families: Families,
        field: impl Fn() -> String,
        address: IpAddr,
    ) -> Option<IpAddr> {
        let address = self.usable(&field, address)?;
        if families.have(&address) {
            return Some(address);
        }
        self.counts.unusable_addresses += 1;
        let why = "is of a family in which the Service has no ClusterIP";
        self.ignore(field, format_args!("{address} {why}"), "address");
        None
    }
}

/// The reason for which an object was rejected.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Invalid {
    /// The object, where its name can be read.
    pub object: Option<ObjectId>,
    /// The Service of an EndpointSlice, where its label can be read.
    pub service: Option<Box<ObjectName>>,
    /// Its `metadata.uid`, where that can be read.
    pub uid: Option<Uid>,
    /// Path of the field in the object, such as `spec.ports[1].port`; empty for the whole of it.
    pub field: String,
    /// Path of the object in its document: empty, or such as `items[3].`.
    pub at: Box<str>,
    /// The problem, and what was expected.
    pub problem: String,
}

impl Invalid {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            object: None,
            service: None,
            uid: None,
            field: field.into(),
            at: Box::default(),
            problem: problem.into(),
        }
    }

    /// Returns the Service that lacks a part now; `None` for a Node, and where it cannot be read.
    pub fn part_of(&self) -> Option<&ObjectName> {
        let object = self.object.as_ref()?;
        match object.kind {
            Kind::Service => Some(&object.name),
            Kind::EndpointSlice => self.service.as_deref(),
            Kind::Node => None,
        }
    }

    fn of(mut self, object: &ObjectId) -> Self {
        self.object = Some(object.clone());
        self
    }

    /// Adds the uid of the object.
    pub(crate) fn with(mut self, uid: Option<Uid>) -> Self {
        self.uid = uid;
        self
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.object {
            Some(object) => write!(f, "{object}: ")?,
            None if !self.at.is_empty() && self.field.is_empty() => {
                write!(f, "{}: ", self.at.trim_end_matches('.'))?;
            }
            None => f.write_str(&self.at)?,
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.problem)
    }
}

/// The number of parts that were left out on purpose, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Skipped {
    /// Ports of Services and EndpointSlices with protocol SCTP.
    pub sctp_ports: u32,
    /// Ports of EndpointSlices without a number, or with one that is no port's.
    pub ports_without_number: u32,
    /// EndpointSlices without the label that names their Service.
    pub slices_without_service: u32,
    /// EndpointSlices labelled `service.kubernetes.io/headless`.
    pub slices_headless: u32,
    /// EndpointSlices of other addresses than IPv4 and IPv6.
    pub slices_of_other_addresses: u32,
    /// Services that other proxies serve (label `service.kubernetes.io/service-proxy-name`).
    pub services_of_others: u32,
    /// Services that have SCTP ports only. `svclb services` shows the others' notes, not these.
    pub services_of_sctp: u32,
    /// Addresses of Services and of the own Node at which nothing can be served.
    pub unusable_addresses: u32,
    /// Endpoints whose address cannot be used.
    pub unusable_endpoints: u32,
}

impl Skipped {
    /// Returns each reason, as metrics and logs name it, with its count.
    pub fn counts(mut self) -> [(&'static str, u32); 9] {
        self.counts_mut().map(|(reason, count)| (reason, *count))
    }

    const fn counts_mut(&mut self) -> [(&'static str, &mut u32); 9] {
        [
            ("sctp_ports", &mut self.sctp_ports),
            ("ports_without_number", &mut self.ports_without_number),
            ("slices_without_service", &mut self.slices_without_service),
            ("slices_headless", &mut self.slices_headless),
            ("slices_of_other_addresses", &mut self.slices_of_other_addresses),
            ("services_of_others", &mut self.services_of_others),
            ("services_of_sctp", &mut self.services_of_sctp),
            ("unusable_addresses", &mut self.unusable_addresses),
            ("unusable_endpoints", &mut self.unusable_endpoints),
        ]
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: Self) {
        for ((_, sum), (_, count)) in self.counts_mut().into_iter().zip(other.counts()) {
            *sum += count;
        }
    }
}

/// Returns the name of an object that has a namespace.
fn object_name(metadata: &wire::Metadata, name: field::Name) -> Result<ObjectName, Invalid> {
    let own = own_name(metadata, name)?;
    let own = match name {
        // Its EndpointSlices name a Service too.
        field::Name::Label => names::name(own),
        field::Name::Subdomain => own.into(),
    };
    let namespace = match metadata.namespace.as_deref() {
        None | Some("") => "default",
        Some(namespace) => field::Name::Label.check("metadata.namespace", namespace)?,
    };
    Ok(ObjectName { namespace: names::name(namespace), name: own })
}

fn own_name(metadata: &wire::Metadata, name: field::Name) -> Result<&str, Invalid> {
    let own = metadata.name.as_deref().unwrap_or_default();
    if own.is_empty() {
        return Err(Invalid::new("metadata.name", "missing: every object needs a name"));
    }
    name.check("metadata.name", own)
}
