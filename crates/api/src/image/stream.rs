//! Image streams: repositories with their tags and the history of each.
//! What a stream holds is changed through mappings and imports, see the neighbouring files.

use std::collections::BTreeMap;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Serialize};

use super::null_is_default;
use super::resource;
use crate::Rest;
use crate::kind::Kind;

/// A repository: tags and the history of what each has pointed to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageStream {
    /// `apiVersion` and `kind`.
    #[serde(flatten)]
    pub kind: Kind<Self>,
    /// Name and namespace are the repository's.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What users want.
    #[serde(default)]
    pub spec: ImageStreamSpec,
    /// What is.
    #[serde(default)]
    pub status: ImageStreamStatus,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}
resource!(ImageStream, "ImageStream", "imagestreams", NamespaceResourceScope, ObjectMeta);

/// What users want of a stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageStreamSpec {
    /// Whether workloads may name the stream instead of an image.
    #[serde(default)]
    pub lookup_policy: LookupPolicy,
    /// Another repository whose tags are imported.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub docker_image_repository: String,
    /// Tags that point elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub tags: Vec<TagReference>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Whether workloads may name the stream instead of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupPolicy {
    /// In the stream's own namespace.
    #[serde(default)]
    pub local: bool,
}

/// A tag that points elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TagReference {
    /// The tag.
    #[serde(default)]
    pub name: String,
    /// Notes of users.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
    /// A DockerImage, ImageStreamTag or ImageStreamImage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ObjectReference>,
    /// Nothing is imported; the tag is only a name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reference: bool,
    /// Counts changes of the stream's spec.
    #[serde(default)]
    pub generation: Option<i64>,
    /// How it is imported.
    #[serde(default)]
    pub import_policy: ImportPolicy,
    /// From where it is pulled.
    #[serde(default)]
    pub reference_policy: ReferencePolicy,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// How a tag is imported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportPolicy {
    /// TLS is not asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// Imported again from time to time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scheduled: bool,
    /// `Legacy` or `PreserveOriginal`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub import_mode: String,
}

/// From where a tag is pulled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferencePolicy {
    /// `Source` or `Local`.
    #[serde(rename = "type", default)]
    pub type_: String,
}

/// What a stream has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageStreamStatus {
    /// The repository inside the cluster.
    #[serde(default)]
    pub docker_image_repository: String,
    /// The repository outside the cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub public_docker_image_repository: String,
    /// Per tag, what it has pointed to.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub tags: Vec<NamedTagEventList>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// History of one tag.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NamedTagEventList {
    /// The tag.
    pub tag: String,
    /// Newest first; the first is current.
    #[serde(default, deserialize_with = "null_is_default")]
    pub items: Vec<TagEvent>,
    /// What went wrong at the last import.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub conditions: Vec<TagEventCondition>,
}

/// A tag came to point to an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TagEvent {
    /// When.
    #[serde(default)]
    pub created: Option<Time>,
    /// Where the image can be pulled from.
    #[serde(default)]
    pub docker_image_reference: String,
    /// Digest of the image.
    #[serde(default)]
    pub image: String,
    /// Generation of the spec tag that caused it.
    #[serde(default)]
    pub generation: i64,
}

/// What went wrong at an import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TagEventCondition {
    /// `ImportSuccess`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// When `status` last changed.
    #[serde(default)]
    pub last_transition_time: Option<Time>,
    /// Machine-readable cause.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The cause for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Generation of the spec tag.
    #[serde(default)]
    pub generation: i64,
}
