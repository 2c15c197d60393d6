//! `image.openshift.io/v1` as its aggregated API serves it: images, streams and the virtual kinds around them.
//! Names hold colons and some resources are subresources, so none of these can be a custom resource definition.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta, Status, Time};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope, SubResourceScope};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::Rest;
use crate::kind::Kind;

/// The API group of everything here.
pub const GROUP: &str = "image.openshift.io";
/// The version of everything here.
pub const VERSION: &str = "v1";

macro_rules! resource {
    ($type:ident, $kind:literal, $segment:literal, $scope:ty, $meta:ty) => {
        impl k8s_openapi::Resource for $type {
            const API_VERSION: &'static str = "image.openshift.io/v1";
            const GROUP: &'static str = GROUP;
            const KIND: &'static str = $kind;
            const VERSION: &'static str = VERSION;
            const URL_PATH_SEGMENT: &'static str = $segment;
            type Scope = $scope;
        }

        impl k8s_openapi::Metadata for $type {
            type Ty = $meta;

            fn metadata(&self) -> &Self::Ty {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut Self::Ty {
                &mut self.metadata
            }
        }
    };
}

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

/// One tag with its image, named `<stream>:<tag>`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageStreamTag {
    /// `apiVersion` and `kind`.
    #[serde(flatten)]
    pub kind: Kind<Self>,
    /// Name is `<stream>:<tag>`.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The spec tag, if there is one.
    #[serde(default)]
    pub tag: Option<TagReference>,
    /// Generation of the current event.
    #[serde(default)]
    pub generation: i64,
    /// The stream's policy.
    #[serde(default)]
    pub lookup_policy: LookupPolicy,
    /// What went wrong at the last import.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub conditions: Vec<TagEventCondition>,
    /// The image.
    #[serde(default)]
    pub image: Image,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}
resource!(ImageStreamTag, "ImageStreamTag", "imagestreamtags", NamespaceResourceScope, ObjectMeta);

/// One image of a stream, named `<stream>@<digest>`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageStreamImage {
    /// `apiVersion` and `kind`.
    #[serde(flatten)]
    pub kind: Kind<Self>,
    /// Name is `<stream>@<digest>`.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The image.
    #[serde(default)]
    pub image: Image,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}
resource!(ImageStreamImage, "ImageStreamImage", "imagestreamimages", NamespaceResourceScope, ObjectMeta);

/// The order to put an image under a tag; named as the stream and never stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageStreamMapping {
    /// `apiVersion` and `kind`.
    #[serde(flatten)]
    pub kind: Kind<Self>,
    /// Name and namespace are the stream's.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The image.
    #[serde(default)]
    pub image: Image,
    /// The tag.
    #[serde(default)]
    pub tag: String,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}
resource!(ImageStreamMapping, "ImageStreamMapping", "imagestreammappings", NamespaceResourceScope, ObjectMeta);

/// The order to import images from another registry; answered with what was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageStreamImport {
    /// `apiVersion` and `kind`.
    #[serde(flatten)]
    pub kind: Kind<Self>,
    /// Name and namespace are the stream's.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What to import.
    #[serde(default)]
    pub spec: ImageStreamImportSpec,
    /// What was found.
    #[serde(default)]
    pub status: ImageStreamImportStatus,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}
resource!(ImageStreamImport, "ImageStreamImport", "imagestreamimports", NamespaceResourceScope, ObjectMeta);

/// What to import.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageStreamImportSpec {
    /// False only looks.
    #[serde(default)]
    pub import: bool,
    /// A whole repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryImportSpec>,
    /// Single images.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub images: Vec<ImageImportSpec>,
}

/// A whole repository to import.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryImportSpec {
    /// A DockerImage without tag.
    #[serde(default)]
    pub from: ObjectReference,
    /// How it is imported.
    #[serde(default)]
    pub import_policy: ImportPolicy,
    /// From where it is pulled.
    #[serde(default)]
    pub reference_policy: ReferencePolicy,
    /// Manifests are part of the answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub include_manifest: bool,
}

/// One image to import.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageImportSpec {
    /// A DockerImage.
    #[serde(default)]
    pub from: ObjectReference,
    /// The tag it gets; the source's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<LocalObjectReference>,
    /// How it is imported.
    #[serde(default)]
    pub import_policy: ImportPolicy,
    /// From where it is pulled.
    #[serde(default)]
    pub reference_policy: ReferencePolicy,
    /// The manifest is part of the answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub include_manifest: bool,
}

/// An object of the same namespace, or a tag of the same stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalObjectReference {
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// What an import found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageStreamImportStatus {
    /// The stream as changed by the import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<ImageStream>,
    /// The repository's outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryImportStatus>,
    /// One outcome per image of the order.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub images: Vec<ImageImportStatus>,
}

/// Outcome for a whole repository.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryImportStatus {
    /// Whether it worked.
    #[serde(default)]
    pub status: Status,
    /// One outcome per tag.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub images: Vec<ImageImportStatus>,
    /// Tags beyond the limit of one import.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub additional_tags: Vec<String>,
}

/// Outcome for one image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageImportStatus {
    /// Whether it worked.
    #[serde(default)]
    pub status: Status,
    /// What was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// The tag it got.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tag: String,
    /// For an index: the images in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub manifests: Vec<Image>,
}

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

/// Go writes an absent list or map as null.
fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_registry_sends_is_read_and_kept() {
        let sent = json!({
            "apiVersion": "image.openshift.io/v1", "kind": "ImageStreamMapping",
            "metadata": { "name": "app", "namespace": "team" },
            "image": {
                "metadata": { "name": "sha256:aa", "annotations": { "openshift.io/image.managed": "true" } },
                "dockerImageMetadata": null, "dockerImageLayers": null, "somethingNew": { "a": [1] },
            },
            "tag": "v1",
        });
        let mapping: ImageStreamMapping = serde_json::from_value(sent).expect("readable");
        assert!(mapping.image.docker_image_layers.is_empty());
        let written = serde_json::to_value(&mapping).expect("writable");
        assert_eq!(written["apiVersion"], "image.openshift.io/v1");
        assert_eq!(written["kind"], "ImageStreamMapping");
        assert_eq!(written["image"]["kind"], "Image");
        assert_eq!(written["image"]["somethingNew"], json!({ "a": [1] }));
        assert_eq!(written["image"].as_object().map(|image| image.len()), Some(5), "{written}");
    }

    #[test]
    fn the_secret_list_is_typed_by_its_own_group() {
        let written = serde_json::to_value(SecretList::default()).expect("writable");
        assert_eq!(written["apiVersion"], "image.openshift.io/v1");
    }
}
