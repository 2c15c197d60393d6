//! Which blobs and manifests an image stream makes readable: `imagestreams/layers` and `imagestreamimages`.
//! Both reach every image in any tag's history and the children of manifest lists, as
//! openshift-apiserver pkg/image/apiserver/registry/imagestream/etcd/etcd.go (main) does.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{self, StreamExt, TryStreamExt};
use serde_json::{Map, Value, json};

use crate::collection::get;
use crate::handler::{ImageApi, Reply};
use crate::history;
use crate::image::without_texts;
use crate::reference::matches_image;
use crate::request::{Call, Query};
use crate::status::{GROUP, StatusError};
use crate::store::{Place, Store};

/// Images fetched at the same time for one request.
const PARALLEL_READS: usize = 16;

/// All images a stream leads to; `None` for those that are named but not there.
async fn reachable(api: &ImageApi, roots: BTreeSet<String>) -> Result<BTreeMap<String, Option<Value>>, StatusError> {
    let mut found = BTreeMap::new();
    let mut wanted = roots;
    while !wanted.is_empty() {
        let reads: Vec<_> = wanted.into_iter().map(|name| read(api.store.clone(), name)).collect();
        let batch: Vec<_> = stream::iter(reads).buffer_unordered(PARALLEL_READS).try_collect().await?;
        wanted = BTreeSet::new();
        found.extend(batch.iter().cloned());
        for image in batch.into_iter().filter_map(|(_, image)| image) {
            wanted.extend(children(&image).map(str::to_owned).filter(|child| !found.contains_key(child)));
        }
    }
    Ok(found)
}

async fn read(store: Store, name: String) -> Result<(String, Option<Value>), StatusError> {
    match store.get(Place::IMAGES, &name, &Query::default()).await {
        Ok(image) => Ok((name, Some(image))),
        Err(error) if error.is_not_found() => Ok((name, None)),
        Err(error) => Err(error),
    }
}

fn children(image: &Value) -> impl Iterator<Item = &str> {
    list(image, "dockerImageManifests").iter().filter_map(|child| child["digest"].as_str())
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Answers `GET imagestreams/NAME/layers`.
///
/// # Errors
/// 404 if the stream is not there.
pub async fn handle(api: &ImageApi, call: &Call) -> Result<Reply, StatusError> {
    let stream = get(api, Place::streams(call.namespace()?), call.name(), &call.query).await?;
    let roots = history::images(&stream).into_iter().map(str::to_owned).collect();
    let images = reachable(api, roots).await?;
    Ok(Reply::ok(stream_layers(&stream, &images)))
}

fn stream_layers(stream: &Value, images: &BTreeMap<String, Option<Value>>) -> Value {
    let mut blobs = Map::new();
    let mut references = Map::new();
    for (name, image) in images {
        let Some(image) = image else {
            references.insert(name.clone(), json!({"layers": null, "manifests": null, "imageMissing": true}));
            continue;
        };
        let mut layers = Vec::new();
        for layer in list(image, "dockerImageLayers") {
            let digest = layer["name"].as_str().unwrap_or_default();
            layers.push(Value::from(digest));
            blobs.entry(digest).or_insert_with(|| json!({"size": layer["size"], "mediaType": layer["mediaType"]}));
        }
        let mut reference = json!({"layers": layers});
        let config = image.pointer("/dockerImageMetadata/Id").and_then(Value::as_str).unwrap_or_default();
        if config.contains(':') && config != name {
            reference["config"] = config.into();
            let media_type = config_media_type(image);
            blobs.entry(config).or_insert_with(|| json!({"size": null, "mediaType": media_type}));
        }
        let manifests: Vec<&str> = children(image).collect();
        if !manifests.is_empty() {
            reference["manifests"] = json!(manifests);
        }
        blobs
            .entry(name.clone())
            .or_insert_with(|| json!({"size": null, "mediaType": image["dockerImageManifestMediaType"]}));
        references.insert(name.clone(), reference);
    }
    json!({
        "kind": "ImageStreamLayers",
        "apiVersion": format!("{GROUP}/v1"),
        "metadata": stream["metadata"],
        "blobs": blobs,
        "images": references,
    })
}

fn config_media_type(image: &Value) -> &'static str {
    match image["dockerImageManifestMediaType"].as_str() {
        Some("application/vnd.oci.image.manifest.v1+json") => "application/vnd.oci.image.config.v1+json",
        _ => "application/vnd.docker.container.image.v1+json",
    }
}

/// Answers `GET imagestreamimages/STREAM@DIGEST`, which every podman and skopeo pull needs for the signatures.
///
/// # Errors
/// 400 for a name of another form, 404 if the stream does not lead to that image.
pub async fn handle_image(api: &ImageApi, call: &Call) -> Result<Reply, StatusError> {
    stream_image(api, call).await.map(Reply::ok).map_err(|error| error.about("imagestreamimages"))
}

async fn stream_image(api: &ImageApi, call: &Call) -> Result<Value, StatusError> {
    let Some((stream_name, asked)) = call.name().split_once('@').filter(|(s, i)| !s.is_empty() && !i.is_empty()) else {
        return Err(StatusError::bad_request("ImageStreamImages must be retrieved with <name>@<id>"));
    };
    let stream = get(api, Place::streams(call.namespace()?), stream_name, &Query::default()).await?;
    let roots: BTreeSet<String> = history::images(&stream).into_iter().map(str::to_owned).collect();
    let image = if roots.contains(asked) {
        Some(api.store.get(Place::IMAGES, asked, &Query::default()).await?)
    } else {
        let images = reachable(api, roots).await?;
        images.into_iter().find(|(name, _)| matches_image(name, asked)).and_then(|(_, image)| image)
    };
    let image = image.ok_or_else(|| StatusError::not_found("imagestreamimages", call.name()))?;
    let mut metadata = json!({
        "name": call.name(),
        "namespace": stream["metadata"]["namespace"],
        "creationTimestamp": image["metadata"]["creationTimestamp"],
    });
    if let Some(annotations) = stream["metadata"].get("annotations") {
        metadata["annotations"] = annotations.clone();
    }
    Ok(json!({
        "kind": "ImageStreamImage",
        "apiVersion": format!("{GROUP}/v1"),
        "metadata": metadata,
        "image": without_texts(image),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_hold_layers_configurations_and_manifests() {
        let stream = json!({"metadata": {"name": "app"}});
        let image = json!({
            "dockerImageLayers": [{"name": "sha256:l", "size": 5, "mediaType": "layer"}],
            "dockerImageMetadata": {"Id": "sha256:c"},
            "dockerImageManifestMediaType": "application/vnd.oci.image.manifest.v1+json",
        });
        let index =
            json!({"dockerImageManifests": [{"digest": "sha256:m"}], "dockerImageMetadata": {"Id": "sha256:i"}});
        let images = BTreeMap::from([
            ("sha256:m".to_owned(), Some(image)),
            ("sha256:i".to_owned(), Some(index)),
            ("sha256:gone".to_owned(), None),
        ]);
        let layers = stream_layers(&stream, &images);
        let blobs: Vec<&str> = layers["blobs"].as_object().expect("blobs").keys().map(String::as_str).collect();
        assert_eq!(blobs, ["sha256:c", "sha256:i", "sha256:l", "sha256:m"]);
        assert_eq!(layers["blobs"]["sha256:l"], json!({"size": 5, "mediaType": "layer"}));
        assert_eq!(layers["images"]["sha256:m"], json!({"layers": ["sha256:l"], "config": "sha256:c"}));
        assert_eq!(layers["images"]["sha256:i"]["manifests"], json!(["sha256:m"]));
        assert_eq!(layers["images"]["sha256:gone"]["imageMissing"], true);
    }
}
