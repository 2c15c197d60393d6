//! `image.openshift.io/v1` as its aggregated API serves it: images, streams and the virtual kinds around them.
//! Names hold colons and some resources are subresources, so none of these can be a custom resource definition.

mod content;
mod import;
mod layers;
mod stream;
mod tag;

use serde::{Deserialize, Deserializer};

pub use content::{Image, ImageLayer, ImageManifest, ImageSignature};
pub use import::{
    ImageImportSpec, ImageImportStatus, ImageStreamImport, ImageStreamImportSpec, ImageStreamImportStatus,
    LocalObjectReference, RepositoryImportSpec, RepositoryImportStatus,
};
pub use layers::{ImageBlobReferences, ImageLayerData, ImageStreamLayers, SecretList};
pub use stream::{
    ImageStream, ImageStreamSpec, ImageStreamStatus, ImportPolicy, LookupPolicy, NamedTagEventList, ReferencePolicy,
    TagEvent, TagEventCondition, TagReference,
};
pub use tag::{ImageStreamImage, ImageStreamMapping, ImageStreamTag};

/// The API group of everything here.
pub const GROUP: &str = "image.openshift.io";
/// The version of everything here.
pub const VERSION: &str = "v1";

macro_rules! resource {
    ($type:ident, $kind:literal, $segment:literal, $scope:ty, $meta:ty) => {
        impl k8s_openapi::Resource for $type {
            const API_VERSION: &'static str = "image.openshift.io/v1";
            const GROUP: &'static str = $crate::image::GROUP;
            const KIND: &'static str = $kind;
            const VERSION: &'static str = $crate::image::VERSION;
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
use resource;

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
