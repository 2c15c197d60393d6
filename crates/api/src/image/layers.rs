//! What the registry asks for besides streams and images: reachable blobs, and pull secrets.
//! Both are subresources of a stream.

use std::collections::BTreeMap;

use k8s_openapi::SubResourceScope;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use serde::{Deserialize, Serialize};

use super::null_is_default;
use super::resource;
use crate::Rest;
use crate::kind::Kind;

/// Blobs and manifests reachable through a stream; subresource `imagestreams/layers`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageStreamLayers {
    /// `apiVersion` and `kind`.
    #[serde(flatten)]
    pub kind: Kind<Self>,
    /// Name and namespace are the stream's.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// By digest; every manifest is a blob too.
    #[serde(default, deserialize_with = "null_is_default")]
    pub blobs: BTreeMap<String, ImageLayerData>,
    /// By digest of the manifest, children of indexes included.
    #[serde(default, deserialize_with = "null_is_default")]
    pub images: BTreeMap<String, ImageBlobReferences>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}
resource!(ImageStreamLayers, "ImageStreamLayers", "layers", SubResourceScope, ObjectMeta);

/// One blob.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageLayerData {
    /// Size in bytes; absent if not known.
    #[serde(default)]
    pub size: Option<i64>,
    /// Media type.
    #[serde(default)]
    pub media_type: String,
}

/// What one manifest refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageBlobReferences {
    /// The Image object is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub image_missing: bool,
    /// Digests of layers.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub layers: Vec<String>,
    /// Digest of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// For an index: digests of its manifests.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub manifests: Vec<String>,
}

/// Pull secrets of a stream's namespace; subresource `imagestreams/secrets`.
///
/// Its apiVersion is this group's: the registry reads a list typed `v1` as empty without saying so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretList {
    /// `apiVersion` and `kind`.
    #[serde(flatten)]
    pub kind: Kind<Self>,
    /// Of the list.
    #[serde(default)]
    pub metadata: ListMeta,
    /// Secrets of the docker configuration types.
    #[serde(default, deserialize_with = "null_is_default")]
    pub items: Vec<Secret>,
}
resource!(SecretList, "SecretList", "secrets", SubResourceScope, ListMeta);
