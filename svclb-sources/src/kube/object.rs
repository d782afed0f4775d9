//! One object as the API server tells it, for kube's watcher. What it says is read by
//! [`svclb_objects::api`], at once, and nothing else of it is kept.

use std::borrow::Cow;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::DynamicResourceScope;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use svclb_objects::api;
pub(super) use svclb_objects::api::{Read, Wire};

use super::resources::Watched;

/// An object for kube's watcher, which wants its version and nothing else.
#[derive(Clone, Debug)]
pub(super) struct Object<T> {
    version: ObjectMeta,
    pub(super) read: Read,
    wire: PhantomData<fn() -> T>,
}

impl<'de, T: Wire> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A whole value first: an error in the middle of it would leave the rest unread.
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let (version, read) = api::read::<T>(text.get());
        let version = ObjectMeta { resource_version: version, ..ObjectMeta::default() };
        Ok(Self { version, read, wire: PhantomData })
    }
}

impl<T: Wire> Resource for Object<T> {
    type DynamicType = ();
    type Scope = DynamicResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        T::KIND.name().into()
    }

    fn group((): &()) -> Cow<'_, str> {
        Watched::of(T::KIND).group.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        Watched::of(T::KIND).version.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        Watched::of(T::KIND).resource.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.version
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.version
    }
}

#[cfg(test)]
mod tests {
    use svclb_objects::convert::wire;

    use super::*;

    #[test]
    fn what_is_no_object_fails_not_the_stream_and_a_version_is_the_watchers() {
        let object: Object<wire::Service> = serde_json::from_str("7").unwrap();
        assert!(object.read.said.is_err() && object.meta().resource_version.is_none());
        let text = r#"{"metadata":{"name":"a","resourceVersion":"7"},"spec":{"ports":"x"}}"#;
        let object: Object<wire::Service> = serde_json::from_str(text).unwrap();
        assert_eq!(object.meta().resource_version.as_deref(), Some("7"));
    }
}
