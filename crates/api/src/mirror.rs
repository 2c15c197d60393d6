//! Mirror policies: ImageDigestMirrorSet, ImageTagMirrorSet and their ancestor ImageContentSourcePolicy.
//! The schemas are exact, so the API server refuses here what it refuses on OpenShift; merging is the node agent's work.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Rest;
use crate::schema;

/// What a pull does when no mirror has the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum MirrorSourcePolicy {
    /// The image may be pulled from the source.
    #[default]
    AllowContactingSource,
    /// The source is never contacted.
    NeverContactSource,
}

/// One source and where else its images may be found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirrorEntry {
    /// `host[:port][/path]`, or `*.` and a domain.
    #[schemars(schema_with = "schema::mirror_source")]
    pub source: String,
    /// Mirrors in order of preference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::mirrors")]
    pub mirrors: Vec<String>,
    /// Absent counts as [`MirrorSourcePolicy::AllowContactingSource`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror_source_policy: Option<MirrorSourcePolicy>,
}

/// Mirrors for images pulled by digest.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "config.openshift.io", version = "v1", kind = "ImageDigestMirrorSet", shortname = "idms")]
#[kube(status = "MirrorStatus", derive = "PartialEq")]
#[serde(rename_all = "camelCase")]
pub struct ImageDigestMirrorSetSpec {
    /// One entry per source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_digest_mirrors: Vec<MirrorEntry>,
}

/// Mirrors for images pulled by tag.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "config.openshift.io", version = "v1", kind = "ImageTagMirrorSet", shortname = "itms")]
#[kube(status = "MirrorStatus", derive = "PartialEq")]
#[serde(rename_all = "camelCase")]
pub struct ImageTagMirrorSetSpec {
    /// One entry per source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_tag_mirrors: Vec<MirrorEntry>,
}

/// The predecessor of ImageDigestMirrorSet; any string is admitted as source or mirror.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "operator.openshift.io",
    version = "v1alpha1",
    kind = "ImageContentSourcePolicy",
    plural = "imagecontentsourcepolicies"
)]
#[kube(derive = "PartialEq")]
#[serde(rename_all = "camelCase")]
pub struct ImageContentSourcePolicySpec {
    /// One entry per source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repository_digest_mirrors: Vec<RepositoryDigestMirrors>,
}

/// One source of an ImageContentSourcePolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryDigestMirrors {
    /// The repository that is mirrored.
    pub source: String,
    /// Mirrors in order of preference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
}

/// Nobody reports anything here; it exists because upstream serves a status subresource.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MirrorStatus {
    /// Whatever was written.
    #[serde(flatten)]
    pub rest: Rest,
}
