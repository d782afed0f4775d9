//! One object of an API server, converted at once to the model. No contents of an object fail the watch that it
//! is in: an invalid object is a result.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::{BuildHasher as _, DefaultHasher, Hash, Hasher as _};
use std::sync::LazyLock;

use hashbrown::DefaultHashBuilder;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use svclb_core::model::{ObjectName, Update};

use crate::convert::wire::{self, Text};
use crate::convert::{self, Accepted, Invalid, Kind, LeftOut, ObjectId, Uid};
use crate::protobuf::{Encoded, Envelope};
use svclb_core::text::short;

/// An object that was read.
#[derive(Clone, Debug)]
pub struct Read {
    /// Its name; `None` where even that cannot be read.
    pub name: Option<ObjectName>,
    /// A hash of all fields that are read, the same in every encoding.
    pub hash: u64,
    /// Its contents, or the reason why it is rejected.
    pub contents: Result<Accepted, Invalid>,
}

impl Read {
    /// Its UID, where that can be read.
    pub fn uid(&self) -> Option<Uid> {
        match &self.contents {
            Ok(accepted) => accepted.uid,
            Err(invalid) => invalid.uid,
        }
    }
}

/// The part of an object that is read, and how.
pub trait Wire:
    Encoded + Serialize + DeserializeOwned + Clone + Debug + Hash + Send + 'static
{
    /// Its metadata.
    fn metadata(&self) -> &wire::Metadata;
    /// Converts it. Returns the parts that are left out, too.
    ///
    /// # Errors
    /// The object as a whole is rejected.
    fn convert(&self) -> Result<(Update, LeftOut), Invalid>;
}

impl Wire for wire::Service {
    fn metadata(&self) -> &wire::Metadata {
        &self.metadata
    }

    fn convert(&self) -> Result<(Update, LeftOut), Invalid> {
        convert::service(self)
    }
}

impl Wire for wire::EndpointSlice {
    fn metadata(&self) -> &wire::Metadata {
        &self.metadata
    }

    fn convert(&self) -> Result<(Update, LeftOut), Invalid> {
        convert::slice(self)
    }
}

impl Wire for wire::Node {
    fn metadata(&self) -> &wire::Metadata {
        &self.metadata
    }

    fn convert(&self) -> Result<(Update, LeftOut), Invalid> {
        convert::node(self)
    }
}

/// Reads one object in JSON: its `resourceVersion`, where it has one, and the object.
pub fn read<T: Wire>(text: &str) -> (Option<Text>, Read) {
    finish(serde_json::from_str::<T>(text).map_err(|_| Cow::Borrowed(text)))
}

/// Reads one object in protobuf: its `resourceVersion`, where it has one, and the object.
pub fn read_protobuf<T: Wire>(envelope: Envelope) -> (Option<Text>, Read) {
    finish(envelope.object::<T>().map_err(|wrong| wrong.to_string().into()))
}

/// Converts an object, or examines the JSON of one that does not fit.
fn finish<T: Wire>(object: Result<T, Cow<'_, str>>) -> (Option<Text>, Read) {
    let (version, hash, contents) = match object {
        Ok(object) => {
            let version = object.metadata().resource_version.clone();
            let uid = object.metadata().uid.as_deref().map(Uid::of);
            let contents = match object.convert() {
                Ok((update, left_out)) => Ok(Accepted { update, uid, left_out }),
                Err(invalid) => Err(invalid.with(uid)),
            };
            (version, hash(&object), contents)
        }
        Err(wrong) => {
            let (version, contents) = examine(T::KIND, &wrong);
            (version, hash_of_text(&wrong), contents)
        }
    };
    // A server's text is stored and reported up to a limit.
    let contents = contents.map_err(|invalid| Invalid {
        field: short(&invalid.field),
        problem: short(&invalid.problem),
        ..invalid
    });
    let name = match &contents {
        Ok(accepted) => ObjectId::of(&accepted.update).map(|object| object.name),
        Err(invalid) => invalid.object.as_ref().map(|object| object.name.clone()),
    };
    (version, Read { name, hash, contents })
}

/// Hashes all fields that are read of an object, its version included; protobuf brings no others. The version
/// alone is not enough: an API server whose store was restored gives the same versions again, to other states.
fn hash(object: &impl Hash) -> u64 {
    static HASHER: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);
    HASHER.hash_one(object)
}

/// Hashes the JSON of an object that cannot be read, without kind and apiVersion: the items of a list do not
/// have them, unlike the same objects in a watch.
fn hash_of_text(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    match serde_json::from_str::<BTreeMap<Cow<'_, str>, &RawValue>>(text) {
        Ok(fields) => {
            let fields =
                fields.iter().filter(|(name, _)| !matches!(&***name, "kind" | "apiVersion"));
            fields.for_each(|(name, value)| (name, value.get()).hash(&mut hasher));
        }
        Err(_) => text.hash(&mut hasher),
    }
    hasher.finish()
}

/// Finds the name of an object that cannot be read, and the field that is wrong, by parsing it step by step.
fn examine(kind: Kind, text: &str) -> (Option<Text>, Result<Accepted, Invalid>) {
    let nameless = |problem| Invalid::new("", format!("{}: {problem}", kind.name()));
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => return (None, Err(nameless(error.to_string()))),
    };
    if !value.is_object() {
        return (None, Err(nameless(format!("is not an object but {text}"))));
    }
    let version = value.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    (version.map(Text::from), convert::one(kind, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_json_value_is_read_or_rejected_alone() {
        let rows = [
            ("no object", "7"),
            ("a text", r#""foo""#),
            ("an empty text", r#""""#),
            ("texts", r#"["foo", "bar"]"#),
            ("nothing", "null"),
            ("empty", "{}"),
            ("metadata is a text", r#"{"metadata":"x"}"#),
            (
                "a number that is none",
                r#"{"metadata":{"name":"a"},"spec":{"ports":[{"port":1e99}]}}"#,
            ),
            (
                "ports are a text",
                r#"{"metadata":{"name":"a"},"spec":{"clusterIP":"10.0.0.1","ports":"x"}}"#,
            ),
        ];
        for (row, text) in rows {
            assert!(read::<wire::Service>(text).1.contents.is_err(), "{row}");
        }
    }

    #[test]
    fn malformed_object_keeps_its_name_and_version_and_names_the_field() {
        let text = r#"{"metadata":{"name":"a","namespace":"n","resourceVersion":"7"},
            "spec":{"clusterIP":"10.0.0.1","ports":[{"port":80},{"port":"seventy"}]}}"#;
        let (version, object) = read::<wire::Service>(text);
        assert_eq!(version.as_deref(), Some("7"));
        assert_eq!(object.name, Some(ObjectName::new("n", "a")));
        let invalid = object.contents.unwrap_err();
        assert_eq!(invalid.field, "spec.ports[1].port");
        assert_eq!(invalid.object.unwrap().to_string(), "Service n/a");
    }

    #[test]
    fn hash_of_an_object_depends_on_its_read_fields_only() {
        let of = |text: &str| read::<wire::Node>(text).1.hash;
        let listed = of(r#"{"metadata":{"name":"a","resourceVersion":"1"},"spec":{}}"#);
        let watched = r#"{"kind":"Node","apiVersion":"v1","metadata":{"name":"a","resourceVersion":"1"},"spec":{}}"#;
        let rows = [
            ("the same", r#"{"metadata":{"name":"a","resourceVersion":"1"},"spec":{}}"#, true),
            ("watched", watched, true),
            (
                "a later version",
                r#"{"metadata":{"name":"a","resourceVersion":"2"},"spec":{}}"#,
                false,
            ),
            (
                "more that is read",
                r#"{"metadata":{"name":"a","resourceVersion":"1"},"status":{"addresses":[{"type":"Hostname","address":"a"}]}}"#,
                false,
            ),
            (
                "more that is not read",
                r#"{"metadata":{"name":"a","resourceVersion":"1"},"spec":{"podCIDR":"x"},"status":{}}"#,
                true,
            ),
            ("no object", "7", false),
        ];
        for (row, text, same) in rows {
            assert_eq!(of(text) == listed, same, "{row}");
        }
        assert_ne!(of("7"), of("8"));
        // The hash of an unreadable object does not depend on its kind either.
        let wrong = r#""metadata":{"name":7}}"#;
        assert_eq!(of(&format!("{{{wrong}")), of(&format!(r#"{{"kind":"Node",{wrong}"#)));
    }

    #[test]
    fn report_about_an_object_is_bounded() {
        let long = "x".repeat(100_000);
        let text = format!(
            r#"{{"metadata":{{"name":"a","namespace":"n"}},
                "spec":{{"clusterIP":"{long}","ports":[{{"port":80}}]}}}}"#
        );
        let invalid = read::<wire::Service>(&text).1.contents.unwrap_err();
        assert!(invalid.problem.len() < 1000, "{}", invalid.problem.len());
    }
}
