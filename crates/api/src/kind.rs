//! `apiVersion` and `kind` of a type, as a field that takes no space.
//! Written always and from the type; whatever a reader finds is accepted, because the URL already said what it is.

use std::fmt;
use std::marker::PhantomData;

use k8s_openapi::Resource;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Flatten this into a structure that implements [`Resource`] to have its type fields on the wire.
pub struct Kind<K>(PhantomData<fn() -> K>);

impl<K: Resource> Serialize for Kind<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Kind", 2)?;
        fields.serialize_field("apiVersion", K::API_VERSION)?;
        fields.serialize_field("kind", K::KIND)?;
        fields.end()
    }
}

impl<'de, K> Deserialize<'de> for Kind<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Named fields, so that a `rest` map beside this one does not collect them.
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Fields {
            #[serde(rename = "apiVersion")]
            _api_version: Option<String>,
            #[serde(rename = "kind")]
            _kind: Option<String>,
        }
        Fields::deserialize(deserializer).map(|_| Self::default())
    }
}

impl<K> Default for Kind<K> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<K> Clone for Kind<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Kind<K> {}

impl<K> PartialEq for Kind<K> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<K> Eq for Kind<K> {}

impl<K> fmt::Debug for Kind<K> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Kind")
    }
}
