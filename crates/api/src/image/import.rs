//! The order to import images from another registry, and its outcome.
//! Fetching is the work of who serves the API.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use serde::{Deserialize, Serialize};

use super::content::Image;
use super::null_is_default;
use super::resource;
use super::stream::{ImageStream, ImportPolicy, ReferencePolicy};
use crate::Rest;
use crate::kind::Kind;

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
