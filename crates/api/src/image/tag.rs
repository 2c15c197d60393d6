//! Views of a stream by tag and by digest, and the order to put an image under a tag.
//! None of them is stored; each is computed from streams and images.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::content::Image;
use super::null_is_default;
use super::resource;
use super::stream::{LookupPolicy, TagEventCondition, TagReference};
use crate::Rest;
use crate::kind::Kind;

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
