//! Documents to objects: the kind decides whether an object counts, and lists are taken apart.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;
use svclb_core::model::{ObjectName, Update};

use super::field::{Name, quote};
use super::{Accepted, Converted, Invalid, Uid, node, service, slice, wire};

/// The kinds that count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
    /// v1 Node.
    Node,
}

impl Kind {
    /// Each of them.
    pub(crate) const ALL: [Self; 3] = [Self::Service, Self::EndpointSlice, Self::Node];

    /// Its name in Kubernetes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
        }
    }

    /// The `apiVersion` that is read.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Service | Self::Node => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
        }
    }
}

/// The identity of an object: its kind and name. A Node's namespace is empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectId {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: ObjectName,
}

impl ObjectId {
    /// Returns the object that an update changes; `None` for a deleted Node, which has no name there, and
    /// for updates of no object.
    pub fn of(update: &Update) -> Option<Self> {
        Some(match update {
            Update::Service(name, _) => Self { kind: Kind::Service, name: name.clone() },
            Update::Slice(name, _) => Self { kind: Kind::EndpointSlice, name: name.clone() },
            Update::Node(Some(node)) => Self {
                kind: Kind::Node,
                name: ObjectName { namespace: Arc::from(""), name: Arc::clone(&node.name) },
            },
            Update::Node(None) | Update::Interfaces(_) => return None,
        })
    }

    /// Returns the update that deletes this object.
    pub fn gone(&self) -> Update {
        match self.kind {
            Kind::Service => Update::Service(self.name.clone(), None),
            Kind::EndpointSlice => Update::Slice(self.name.clone(), None),
            Kind::Node => Update::Node(None),
        }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Node => write!(f, "{} {}", self.kind.name(), self.name.name),
            kind => write!(f, "{} {}", kind.name(), self.name),
        }
    }
}

/// The meaning of a kind and apiVersion.
enum Meaning {
    One(Kind),
    /// A list; of this kind where its items need not name it.
    List(Option<Kind>),
    Other,
}

/// Converts a document: an object, or a list of them (v1 List, ServiceList,
/// EndpointSliceList, NodeList). Each item of a list counts by itself. Other kinds are ignored.
pub fn objects(document: Value) -> Converted {
    let mut converted = Converted::default();
    take(document, None, String::new(), &mut converted);
    converted
}

/// Converts a value. `at` is its path in the document: empty, or such as `items[3].`.
fn take(value: Value, implied: Option<Kind>, at: String, converted: &mut Converted) {
    let meaning = match meaning(&value, implied) {
        Ok(meaning) => meaning,
        Err(invalid) => return converted.reject(Invalid { at: at.into(), ..invalid }),
    };
    match meaning {
        Meaning::Other => {}
        Meaning::List(of) => match items(value) {
            Ok(items) => {
                for (i, item) in items.into_iter().enumerate() {
                    take(item, of, format!("{at}items[{i}]."), converted);
                }
            }
            Err(invalid) => converted.reject(Invalid { at: at.into(), ..invalid }),
        },
        Meaning::One(kind) => match one(kind, value) {
            Ok(accepted) => converted.accepted.push(accepted),
            Err(invalid) => converted.reject(Invalid { at: at.into(), ..invalid }),
        },
    }
}

/// Converts one object. The error has its identity as far as that can be read.
pub(crate) fn one(kind: Kind, value: Value) -> Result<Accepted, Invalid> {
    let object = identify(kind, &value);
    let service_name = object.as_ref().and_then(|object| service_of(object, &value));
    let uid = value.pointer("/metadata/uid").and_then(Value::as_str).map(Uid::of);
    let converted = match kind {
        Kind::Service => read::<wire::Service>(value).and_then(|it| service(&it)),
        Kind::EndpointSlice => read::<wire::EndpointSlice>(value).and_then(|it| slice(&it)),
        Kind::Node => read::<wire::Node>(value).and_then(|it| node(&it)),
    };
    match converted {
        Ok((update, left_out)) => Ok(Accepted { update, uid, left_out }),
        Err(invalid) => Err(Invalid { object, service: service_name, uid, ..invalid }),
    }
}

/// Reads the fields; an error names the path of the field.
fn read<T: DeserializeOwned>(value: Value) -> Result<T, Invalid> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { String::new() } else { path };
        // serde's words are "invalid type: string \"x\", expected a whole number".
        Invalid::new(field, error.into_inner().to_string())
    })
}

/// Returns the identity of an object, even if the rest of it is invalid.
fn identify(kind: Kind, value: &Value) -> Option<ObjectId> {
    let metadata = value.get("metadata")?;
    let text = |field: &str| metadata.get(field).and_then(Value::as_str);
    let shape = if kind == Kind::Service { Name::Label } else { Name::Subdomain };
    let name = shape.check("", text("name")?).ok()?;
    let namespace = match kind {
        Kind::Node => "",
        _ => match metadata.get("namespace") {
            None | Some(Value::Null) => "default",
            Some(Value::String(namespace)) if namespace.is_empty() => "default",
            Some(Value::String(namespace)) => Name::Label.check("", namespace).ok()?,
            Some(_) => return None,
        },
    };
    Some(ObjectId { kind, name: ObjectName::new(namespace, name) })
}

/// Returns the Service of a slice, even if the rest of it is invalid.
fn service_of(object: &ObjectId, value: &Value) -> Option<Box<ObjectName>> {
    if object.kind != Kind::EndpointSlice {
        return None;
    }
    let label = value.get("metadata")?.get("labels")?.get("kubernetes.io/service-name")?;
    slice::named(&object.name, label.as_str()?)
}

fn meaning(value: &Value, implied: Option<Kind>) -> Result<Meaning, Invalid> {
    let Some(object) = value.as_object() else {
        let problem =
            format!("{} is not a Kubernetes object: expected kind, apiVersion, ...", shape(value));
        return Err(Invalid::new("", problem));
    };
    let text = |field: &str, example: &str| match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(other) => {
            let problem = format!("{} is not a text such as {example}", shape(other));
            Err(Invalid::new(field, problem))
        }
    };
    let missing = |field: &str, example: &str| {
        Invalid::new(field, format!("missing: expected a text such as {example}"))
    };
    let (kind, version) = match (text("kind", "Service")?, text("apiVersion", "v1")?, implied) {
        (Some(kind), Some(version), _) => (kind, version),
        // The API server leaves both out of a typed list's items.
        (None, None, Some(implied)) => return Ok(Meaning::One(implied)),
        (None, ..) => return Err(missing("kind", "Service")),
        (_, None, _) => return Err(missing("apiVersion", "v1")),
    };
    if (kind, version) == ("List", "v1") {
        return Ok(Meaning::List(None));
    }
    let one = kind.strip_suffix("List");
    match Kind::ALL.into_iter().find(|known| known.name() == one.unwrap_or(kind)) {
        Some(known) if is_read(known, version)? => {
            Ok(if one.is_some() { Meaning::List(Some(known)) } else { Meaning::One(known) })
        }
        _ => Ok(Meaning::Other),
    }
}

/// Returns true when a kind of this name is ours, and not another group's. A version that is not read is an
/// error: otherwise such an object would be missed silently.
fn is_read(kind: Kind, version: &str) -> Result<bool, Invalid> {
    let expected = kind.api_version();
    if version == expected {
        return Ok(true);
    }
    // The core group's own kinds are known: an EndpointSlice of it is a mistake.
    if !group(version).is_empty() && group(version) != group(expected) {
        return Ok(false);
    }
    let problem = format!("{} is not read here: expected {expected}", quote(version));
    Err(Invalid::new("apiVersion", problem))
}

/// Returns the API group of a version; empty for the core group.
fn group(version: &str) -> &str {
    version.rsplit_once('/').map_or("", |(group, _)| group)
}

fn items(mut value: Value) -> Result<Vec<Value>, Invalid> {
    match value.get_mut("items").map(Value::take) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => Ok(items),
        Some(other) => {
            Err(Invalid::new("items", format!("{} is not a list of objects", shape(&other))))
        }
    }
}

const fn shape(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
