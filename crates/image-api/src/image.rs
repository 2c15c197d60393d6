//! An Image: what is kept of a pushed or imported manifest.
//! Fills `dockerImageMetadata`, `dockerImageLayers` and `dockerImageManifests` from manifest and configuration, as
//! openshift-apiserver pkg/image/apiserver/registry/image/strategy.go (main) does, and guards what may not change.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::reference::{Reference, is_digest};
use crate::status::{Cause, StatusError};
use crate::store::name_of;

/// Annotation of images that the integrated registry holds.
pub const MANAGED: &str = "openshift.io/image.managed";
/// Annotation: the registry keeps manifest and configuration as blobs, so the object need not.
pub const MANIFEST_BLOB_STORED: &str = "image.openshift.io/manifestBlobStored";
const LAYERS_ORDER: &str = "image.openshift.io/dockerLayersOrder";

const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// An annotation of any object, or nothing.
pub fn annotation<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get("metadata").and_then(|m| m.get("annotations")).map_or("", |annotations| text(annotations, key))
}

/// Sets an annotation of any object.
pub fn annotate(object: &mut Value, key: &str, value: &str) {
    let annotations = &mut object["metadata"]["annotations"];
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[key] = value.into();
}

/// Whether a media type is that of a list of manifests.
pub fn is_list(media_type: &str) -> bool {
    matches!(media_type, DOCKER_LIST | OCI_INDEX)
}

/// Makes a new image ready to be stored.
///
/// # Errors
/// 422 for a missing pull spec or one that cannot be read.
pub fn prepare_create(image: &mut Value) -> Result<(), StatusError> {
    fill(image);
    blank_stored_texts(image);
    validate(image)
}

/// Makes the new version of an image ready to be stored: metadata and layers cannot be altered, manifest and
/// configuration only to texts that match their digests.
///
/// # Errors
/// As for [`prepare_create`].
pub fn prepare_update(old: &Value, image: &mut Value) -> Result<(), StatusError> {
    for key in ["dockerImageMetadata", "dockerImageMetadataVersion", "dockerImageLayers"] {
        set(image, key, old[key].clone());
    }
    let manifest = text(image, "dockerImageManifest");
    if !manifest.is_empty() && digest(manifest) != name_of(image) {
        set(image, "dockerImageManifest", old["dockerImageManifest"].clone());
    }
    let manifest: Value = serde_json::from_str(text(image, "dockerImageManifest")).unwrap_or_default();
    let config = text(image, "dockerImageConfig");
    if !config.is_empty() && manifest.pointer("/config/digest") != Some(&Value::from(digest(config))) {
        set(image, "dockerImageConfig", old["dockerImageConfig"].clone());
    }
    blank_stored_texts(image);
    validate(image)
}

/// Image as it is shown inside tags and stream images: without the raw texts.
#[must_use]
pub fn without_texts(mut image: Value) -> Value {
    if let Some(map) = image.as_object_mut() {
        map.remove("dockerImageManifest");
        map.remove("dockerImageConfig");
        map.remove("kind");
        map.remove("apiVersion");
    }
    image
}

fn set(image: &mut Value, key: &str, value: Value) {
    let Some(map) = image.as_object_mut() else { return };
    if value.is_null() {
        map.remove(key);
    } else {
        map.insert(key.into(), value);
    }
}

fn digest(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().fold("sha256:".to_owned(), |out, byte| format!("{out}{byte:02x}"))
}

fn validate(image: &Value) -> Result<(), StatusError> {
    let mut causes = Vec::new();
    let name = name_of(image);
    if name.is_empty() {
        causes.push(Cause::required("metadata.name"));
    }
    if name.contains(['/', '%']) || matches!(name, "." | "..") {
        causes.push(Cause::invalid("metadata.name", name, "may not contain '/' or '%'"));
    }
    match text(image, "dockerImageReference") {
        "" => causes.push(Cause::required("dockerImageReference")),
        spec if Reference::parse(spec).is_none() => {
            causes.push(Cause::invalid("dockerImageReference", spec, "invalid reference format"));
        }
        _ => {}
    }
    if causes.is_empty() { Ok(()) } else { Err(StatusError::invalid("Image", name, &causes)) }
}

fn blank_stored_texts(image: &mut Value) {
    if annotation(image, MANIFEST_BLOB_STORED) == "true" {
        set(image, "dockerImageManifest", Value::Null);
        set(image, "dockerImageConfig", Value::Null);
    }
}

/// Reads manifest and configuration into the fields made of them; a text that cannot be read leaves them as they
/// are, as the real API server does.
fn fill(image: &mut Value) {
    let manifest: Value = serde_json::from_str(text(image, "dockerImageManifest")).unwrap_or_default();
    if manifest.is_object() {
        let media_type = match text(&manifest, "mediaType") {
            "" => text(image, "dockerImageManifestMediaType").to_owned(),
            given => given.to_owned(),
        };
        if is_list(&media_type) || manifest.get("manifests").is_some_and(Value::is_array) {
            fill_list(image, &manifest, &media_type);
        } else {
            fill_single(image, &manifest, &media_type);
        }
    }
    if image["dockerImageLayers"].is_null() {
        set(image, "dockerImageLayers", json!([]));
    }
    let metadata = &mut image["dockerImageMetadata"];
    if !metadata.is_object() {
        *metadata = json!({});
    }
    metadata["kind"] = "DockerImage".into();
    metadata["apiVersion"] = "image.openshift.io/1.0".into();
    if metadata["Id"].is_null() {
        metadata["Id"] = "".into();
    }
    if text(image, "dockerImageMetadataVersion").is_empty() {
        set(image, "dockerImageMetadataVersion", "1.0".into());
    }
}

fn fill_list(image: &mut Value, manifest: &Value, media_type: &str) {
    if !media_type.is_empty() {
        set(image, "dockerImageManifestMediaType", media_type.into());
    }
    let children: Vec<Value> = array(manifest, "manifests")
        .iter()
        .filter(|child| is_digest(text(child, "digest")))
        .map(|child| {
            let mut entry = json!({
                "digest": child["digest"],
                "mediaType": child["mediaType"],
                "manifestSize": child["size"].as_i64().unwrap_or(0),
                "architecture": child.pointer("/platform/architecture").and_then(Value::as_str).unwrap_or_default(),
                "os": child.pointer("/platform/os").and_then(Value::as_str).unwrap_or_default(),
            });
            if let Some(variant) = child.pointer("/platform/variant").filter(|v| v.is_string()) {
                entry["variant"] = variant.clone();
            }
            entry
        })
        .collect();
    set(image, "dockerImageManifests", Value::Array(children));
    set(image, "dockerImageLayers", Value::Null);
    let id = name_of(image).to_owned();
    if !image["dockerImageMetadata"].is_object() {
        set(image, "dockerImageMetadata", json!({"Id": id, "Created": crate::history::now()}));
    }
}

fn fill_single(image: &mut Value, manifest: &Value, media_type: &str) {
    let has_layers = image["dockerImageLayers"].as_array().is_some_and(|layers| !layers.is_empty());
    let has_size = image.pointer("/dockerImageMetadata/Size").and_then(Value::as_i64).is_some_and(|size| size > 0);
    if has_layers && has_size && !text(image, "dockerImageManifestMediaType").is_empty() {
        return;
    }
    let schema1 = manifest["schemaVersion"] == 1;
    if !has_layers {
        let layers = if schema1 { schema1_layers(manifest) } else { schema2_layers(manifest) };
        set(image, "dockerImageLayers", Value::Array(layers));
        annotate(image, LAYERS_ORDER, "ascending");
    }
    let config: Value = if schema1 {
        let newest = manifest.pointer("/history/0/v1Compatibility").and_then(Value::as_str).unwrap_or_default();
        serde_json::from_str(newest).unwrap_or_default()
    } else {
        serde_json::from_str(text(image, "dockerImageConfig")).unwrap_or_default()
    };
    let media_type = match media_type {
        _ if schema1 => SCHEMA1,
        "" => DOCKER_MANIFEST,
        given => given,
    };
    set(image, "dockerImageManifestMediaType", media_type.into());
    let mut size = if schema1 { 0 } else { i64::try_from(text(image, "dockerImageConfig").len()).unwrap_or(0) };
    let id = manifest.pointer("/config/digest").cloned().unwrap_or_else(|| config["id"].clone());
    let mut counted = BTreeSet::from([id.as_str().unwrap_or_default().to_owned()]);
    for layer in array(image, "dockerImageLayers") {
        if counted.insert(text(layer, "name").to_owned()) {
            size += layer["size"].as_i64().unwrap_or(0);
        }
    }
    set(image, "dockerImageMetadata", metadata(&config, &id, size));
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn schema2_layers(manifest: &Value) -> Vec<Value> {
    let layer =
        |l: &Value| json!({"name": l["digest"], "size": l["size"].as_i64().unwrap_or(0), "mediaType": l["mediaType"]});
    array(manifest, "layers").iter().map(layer).collect()
}

/// Schema 1 lists the youngest layer first; images list the oldest first.
fn schema1_layers(manifest: &Value) -> Vec<Value> {
    let layer = |l: &Value| json!({"name": l["blobSum"], "size": 0, "mediaType": "application/vnd.docker.container.image.rootfs.diff+x-gtar"});
    array(manifest, "fsLayers").iter().rev().map(layer).collect()
}

/// The `DockerImage` object of an image configuration. An identifier, a size, the time and the parts of the
/// configuration that Docker's own API shows, under the names it uses.
fn metadata(config: &Value, id: &Value, size: i64) -> Value {
    let mut metadata = Map::new();
    metadata.insert("Id".into(), id.clone());
    metadata.insert("Created".into(), config.get("created").cloned().unwrap_or(Value::Null));
    metadata.insert("Size".into(), size.into());
    for (from, to) in [
        ("parent", "Parent"),
        ("comment", "Comment"),
        ("container", "Container"),
        ("docker_version", "DockerVersion"),
        ("author", "Author"),
        ("architecture", "Architecture"),
        ("config", "Config"),
        ("container_config", "ContainerConfig"),
    ] {
        if let Some(value) = config.get(from).filter(|value| !value.is_null()) {
            metadata.insert(to.into(), value.clone());
        }
    }
    metadata.entry("ContainerConfig").or_insert_with(|| json!({}));
    Value::Object(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
    const CONFIG: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

    fn pushed(manifest: &Value, config: &str) -> Value {
        let manifest = manifest.to_string();
        json!({
            "metadata": {"name": digest(&manifest), "annotations": {MANAGED: "true", MANIFEST_BLOB_STORED: "true"}},
            "dockerImageReference": format!("registry.svc:5000/p/app@{}", digest(&manifest)),
            "dockerImageMetadata": null,
            "dockerImageManifest": manifest,
            "dockerImageConfig": config,
            "dockerImageLayers": null,
        })
    }

    #[test]
    fn a_pushed_image_is_read_and_then_blanked() {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"digest": CONFIG, "size": 40},
            "layers": [{"digest": LAYER, "size": 100, "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}],
        });
        let config = r#"{"architecture":"amd64","os":"linux","config":{"Env":["A=b"]}}"#;
        let mut image = pushed(&manifest, config);
        prepare_create(&mut image).expect("a good image");
        assert_eq!(image["dockerImageLayers"][0]["name"], LAYER);
        assert_eq!(image["dockerImageMetadata"]["Id"], CONFIG);
        assert_eq!(image["dockerImageMetadata"]["Size"], 100 + config.len());
        assert_eq!(image["dockerImageMetadata"]["Config"]["Env"][0], "A=b");
        assert_eq!(image["dockerImageManifestMediaType"], "application/vnd.oci.image.manifest.v1+json");
        assert!(image.get("dockerImageManifest").is_none() && image.get("dockerImageConfig").is_none());
    }

    #[test]
    fn the_children_of_a_list_are_read_from_its_manifest() {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [
                {"digest": LAYER, "size": 7, "mediaType": DOCKER_MANIFEST, "platform": {"architecture": "arm64", "os": "linux", "variant": "v8"}},
                {"digest": CONFIG, "size": 8, "mediaType": DOCKER_MANIFEST},
            ],
        });
        let mut image = pushed(&manifest, "");
        prepare_create(&mut image).expect("a good list");
        let children = image["dockerImageManifests"].as_array().expect("children");
        assert_eq!(children[0]["variant"], "v8");
        assert_eq!(children[1]["digest"], CONFIG);
        assert_eq!(image["dockerImageLayers"], json!([]));
    }

    #[test]
    fn an_update_cannot_forge_the_manifest() {
        let manifest = json!({"schemaVersion": 2, "config": {"digest": CONFIG}, "layers": []});
        let mut old = pushed(&manifest, "{}");
        old["metadata"]["annotations"] = json!({});
        prepare_create(&mut old).expect("a good image");
        let mut new = old.clone();
        new["dockerImageManifest"] = "{}".into();
        new["dockerImageLayers"] = json!([{"name": "forged"}]);
        prepare_update(&old, &mut new).expect("a good image");
        assert_eq!(new, old);
    }

    #[test]
    fn a_pull_spec_is_required() {
        let refused = prepare_create(&mut json!({"metadata": {"name": "sha256:ab"}})).expect_err("no reference");
        assert_eq!(refused.code, 422);
        assert!(refused.message.contains("dockerImageReference: Required value"), "{refused}");
    }
}
