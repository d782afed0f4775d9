//! Kubernetes objects to [`Update`]s: which objects count and what their fields mean (the rules are
//! kube-proxy's: pkg/proxy/{serviceport,endpointslicecache}.go). Who reads them, and what was known of
//! an object before, is not decided here.
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
use svclb_core::model::{ObjectName, Update};

pub use node::node;
pub use object::{Kind, ObjectId, objects};
pub use service::service;
pub use slice::slice;

/// How many rejects of a document are kept that do not say which object it is. Such an item takes two
/// bytes of a list, and what is said of it a hundred times that.
pub const MOST_NAMELESS: usize = 100;

/// What came of a document or an API object.
#[derive(Clone, Debug, Default)]
pub struct Converted {
    /// Each object that counts, in their order in the document; one that means nothing to svclb (a
    /// headless Service, for example) is `None` in its update. Objects of other kinds are left out.
    pub accepted: Vec<Accepted>,
    /// Each object that was rejected, but of those that cannot be told apart the first
    /// [`MOST_NAMELESS`] only.
    pub rejects: Vec<Invalid>,
    /// How many of those there are.
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
    /// What it says.
    pub update: Update,
    /// Which of all objects of its name it is, where it says so.
    pub uid: Option<Uid>,
    /// What of it is left out.
    pub left_out: LeftOut,
}

/// Which of all objects that ever had one name: its `metadata.uid`, told apart by a hash. It means nothing
/// to another process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Uid(NonZeroU64);

impl Uid {
    /// The one that is written so.
    pub fn of(text: &str) -> Self {
        static HASHER: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);
        Self(NonZeroU64::new(HASHER.hash_one(text)).unwrap_or(NonZeroU64::MIN))
    }

    /// Whether two objects of one name are certainly not the same: both say which they are, and differ.
    pub fn differ(one: Option<Self>, other: Option<Self>) -> bool {
        matches!((one, other), (Some(one), Some(other)) if one != other)
    }
}

/// What is left out of an object.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeftOut {
    /// How much, by reason.
    pub counts: Skipped,
    /// The parts that cannot be used.
    pub ignored: Option<Box<Ignored>>,
}

/// Parts of an object that cannot be used. Each is ignored by itself; all else of the object is served.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ignored {
    /// Path of the first of them in the object, such as `endpoints[3].addresses[0]`.
    pub field: String,
    /// What is wrong with it, and what is ignored.
    pub problem: String,
    /// How many more there are.
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

    /// Passes an address on, unless nothing can be served at it: then it is counted and ignored.
    fn usable(&mut self, field: impl FnOnce() -> String, address: IpAddr) -> Option<IpAddr> {
        let Some(why) = field::unusable(&address) else { return Some(address) };
        self.counts.unusable_addresses += 1;
        self.ignore(field, format_args!("{address} {why}"), "address");
        None
    }
}

/// Why an object was rejected.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Invalid {
    /// The object, where it can be told.
    pub object: Option<ObjectId>,
    /// The Service that an EndpointSlice says it belongs to, where that can be read.
    pub service: Option<Box<ObjectName>>,
    /// Which of all objects of its name it is, where that can be read.
    pub uid: Option<Uid>,
    /// Path of the field in the object, such as `spec.ports[1].port`; empty for the whole of it.
    pub field: String,
    /// Where the object lies in its document: empty, or such as `items[3].`.
    pub at: Box<str>,
    /// What is wrong and what was expected.
    pub problem: String,
}

impl Invalid {
    fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            object: None,
            service: None,
            uid: None,
            field: field.into(),
            at: Box::default(),
            problem: problem.into(),
        }
    }

    /// The Service that lacks a part now; none for a Node, and where it cannot be told.
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

    /// The same of an object that says which it is.
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

/// How much was left out on purpose, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Skipped {
    /// Ports of Services and EndpointSlices with protocol SCTP.
    pub sctp_ports: u32,
    /// Ports of EndpointSlices with no number, or one that no port can have.
    pub ports_without_number: u32,
    /// EndpointSlices that do not say which Service they belong to.
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
    /// Each reason, as metrics and logs name it, with its count.
    pub fn counts(&self) -> [(&'static str, u32); 9] {
        [
            ("sctp_ports", self.sctp_ports),
            ("ports_without_number", self.ports_without_number),
            ("slices_without_service", self.slices_without_service),
            ("slices_headless", self.slices_headless),
            ("slices_of_other_addresses", self.slices_of_other_addresses),
            ("services_of_others", self.services_of_others),
            ("services_of_sctp", self.services_of_sctp),
            ("unusable_addresses", self.unusable_addresses),
            ("unusable_endpoints", self.unusable_endpoints),
        ]
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        self.sctp_ports += other.sctp_ports;
        self.ports_without_number += other.ports_without_number;
        self.slices_without_service += other.slices_without_service;
        self.slices_headless += other.slices_headless;
        self.slices_of_other_addresses += other.slices_of_other_addresses;
        self.services_of_others += other.services_of_others;
        self.services_of_sctp += other.services_of_sctp;
        self.unusable_addresses += other.unusable_addresses;
        self.unusable_endpoints += other.unusable_endpoints;
    }
}

/// The name of an object that has a namespace.
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
