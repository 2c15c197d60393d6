//! Images themselves, with their layers, their children if they are an index, and their signatures.
//! An Image is named by its digest and belongs to no namespace; streams point to it.

use k8s_openapi::ByteString;
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::null_is_default;
use super::resource;
use crate::Rest;
use crate::kind::Kind;

/// One image, cluster scoped, named by its manifest's digest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// `apiVersion` and `kind`.
    #[serde(flatten)]
    pub kind: Kind<Self>,
    /// Name is the digest; annotations tell whether the registry holds it.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Where it can be pulled from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub docker_image_reference: String,
    /// The configuration in the old Docker shape (`Id`, `Created`, `Size`, ...).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_image_metadata: Option<Value>,
    /// `1.0`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub docker_image_metadata_version: String,
    /// The manifest's text; dropped by the API after it was read.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub docker_image_manifest: String,
    /// Media type of the manifest.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub docker_image_manifest_media_type: String,
    /// Layers, lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub docker_image_layers: Vec<ImageLayer>,
    /// Signatures of the oldest manifest format.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub docker_image_signatures: Vec<ByteString>,
    /// The configuration's text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub docker_image_config: String,
    /// For an index: the images in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub docker_image_manifests: Vec<ImageManifest>,
    /// Signatures attached to the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub signatures: Vec<ImageSignature>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}
resource!(Image, "Image", "images", ClusterResourceScope, ObjectMeta);

/// One layer of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageLayer {
    /// Digest.
    pub name: String,
    /// Size in bytes.
    #[serde(default)]
    pub size: i64,
    /// Media type.
    #[serde(default)]
    pub media_type: String,
}

/// One image of an index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageManifest {
    /// Digest of the manifest.
    pub digest: String,
    /// Media type of the manifest.
    #[serde(default)]
    pub media_type: String,
    /// Size of the manifest in bytes.
    #[serde(default)]
    pub manifest_size: i64,
    /// CPU architecture.
    #[serde(default)]
    pub architecture: String,
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// Variant of the architecture.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// A signature, named `<digest>@<name>`; created on its own, kept in its image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSignature {
    /// `apiVersion` and `kind`.
    #[serde(flatten)]
    pub kind: Kind<Self>,
    /// Name is `<digest>@<name>`.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// For example `AtomicImageV1`.
    #[serde(default, rename = "type")]
    pub type_: String,
    /// The signature.
    #[serde(default)]
    pub content: ByteString,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}
resource!(ImageSignature, "ImageSignature", "imagesignatures", ClusterResourceScope, ObjectMeta);
