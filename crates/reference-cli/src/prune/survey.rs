//! What the cluster has and uses: images, image streams, and every image reference of a workload.

use super::graph::{Image, Item, Stream, Use};
use super::reference;
use crate::failure::Failure;
use crate::resource::Catalogue;
use crate::session::Session;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Kinds that refer to images, by plural and group; what a server does not serve uses none.
const WORKLOADS: [(&str, &str); 12] = [
    ("pods", ""),
    ("replicationcontrollers", ""),
    ("deployments", "apps"),
    ("replicasets", "apps"),
    ("statefulsets", "apps"),
    ("daemonsets", "apps"),
    ("jobs", "batch"),
    ("cronjobs", "batch"),
    ("deploymentconfigs", "apps.openshift.io"),
    ("buildconfigs", "build.openshift.io"),
    ("builds", "build.openshift.io"),
    ("imagestreams", "image.openshift.io"),
];

/// Everything the decision needs.
pub(super) struct Survey {
    pub(super) images: Vec<Image>,
    pub(super) streams: Vec<Stream>,
    pub(super) uses: BTreeSet<Use>,
}

impl Survey {
    /// Asks the server for all of it.
    ///
    /// # Errors
    /// A list cannot be read, or a reference cannot be understood and that is not to be ignored.
    pub(super) async fn of(session: &Session, ignore_invalid: bool) -> Result<Survey, Failure> {
        let catalogue = session.catalogue().await?;
        let images: Vec<Image> =
            list(session, catalogue, "images", "image.openshift.io").await?.iter().map(image).collect();
        let stream_objects = list(session, catalogue, "imagestreams", "image.openshift.io").await?;
        let limits = size_limits(&list(session, catalogue, "limitranges", "").await?);
        let hosts = hosts(&images, &stream_objects);
        let mut uses = BTreeSet::new();
        let mut invalid = Vec::new();
        for (plural, group) in WORKLOADS.into_iter().filter(|(plural, group)| catalogue.served(plural, group).is_some())
        {
            let objects = match plural {
                "imagestreams" => stream_objects.clone(),
                _ => list(session, catalogue, plural, group).await?,
            };
            for object in objects.iter().filter(|object| is_live(plural, object)) {
                for text in references(plural, object) {
                    match reference::parse(&text, &hosts) {
                        Ok(found) => uses.extend(found),
                        Err(why) => {
                            let metadata = &object["metadata"];
                            invalid.push(format!(
                                "{plural}[{}/{}]: {why}",
                                word(&metadata["namespace"]),
                                word(&metadata["name"])
                            ));
                        }
                    }
                }
                uses.extend(tag_references(object));
            }
        }
        if !invalid.is_empty() && !ignore_invalid {
            return Err(Failure::usage(format!(
                "failed to build graph!\n\nThe following objects have invalid references:\n\n  {}\n\nEither fix the references \
                 or delete the objects to make the pruner proceed, or pass --ignore-invalid-refs=true.",
                invalid.join("\n  ")
            )));
        }
        let streams = stream_objects.iter().map(|object| stream(object, &limits)).collect();
        Ok(Survey { images, streams, uses })
    }

    /// The host under which the internal registry's images are known.
    pub(super) fn registry_host(&self) -> Option<String> {
        self.images.iter().find(|image| image.managed && !image.host.is_empty()).map(|image| image.host.clone())
    }
}

async fn list(session: &Session, catalogue: &Catalogue, plural: &str, group: &str) -> Result<Vec<Value>, Failure> {
    let resource = catalogue.served(plural, group).ok_or_else(|| {
        Failure::usage(format!("the server doesn't have a resource type {plural:?}; the image API is not there"))
    })?;
    let mut list = session.get(&resource.collection(None)).await?;
    Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn time(value: &Value) -> Timestamp {
    // What has no readable time counts as new, so that it is never removed for its age.
    word(value).parse().unwrap_or(Timestamp::MAX)
}

fn image(object: &Value) -> Image {
    let names = |list: &Value, key: &str| -> Vec<String> {
        list.as_array()
            .into_iter()
            .flatten()
            .map(|item| word(&item[key]).to_owned())
            .filter(|name| !name.is_empty())
            .collect()
    };
    let mut blobs = names(&object["dockerImageLayers"], "name");
    let metadata = &object["dockerImageMetadata"];
    let config = ["Id", "id"].iter().map(|key| word(&metadata[*key])).find(|id| id.starts_with("sha256:"));
    blobs.extend(config.map(str::to_owned));
    let size = ["Size", "size"].iter().find_map(|key| metadata[*key].as_i64());
    let layers =
        object["dockerImageLayers"].as_array().into_iter().flatten().filter_map(|layer| layer["size"].as_i64());
    Image {
        digest: word(&object["metadata"]["name"]).to_owned(),
        managed: object["metadata"]["annotations"]["openshift.io/image.managed"] == "true",
        created: time(&object["metadata"]["creationTimestamp"]),
        children: names(&object["dockerImageManifests"], "digest"),
        size_bytes: size.filter(|size| *size > 0).unwrap_or_else(|| layers.sum()),
        host: word(&object["dockerImageReference"]).split('/').next().unwrap_or_default().to_owned(),
        blobs,
    }
}

fn stream(object: &Value, limits: &BTreeMap<String, i64>) -> Stream {
    let namespace = word(&object["metadata"]["namespace"]).to_owned();
    let item = |item: &Value| Item { image: word(&item["image"]).to_owned(), created: time(&item["created"]) };
    let tags = object["status"]["tags"].as_array().into_iter().flatten();
    let tags = tags.map(|tag| {
        (word(&tag["tag"]).to_owned(), tag["items"].as_array().into_iter().flatten().map(item).collect::<Vec<_>>())
    });
    Stream {
        tags: tags.collect(),
        name: word(&object["metadata"]["name"]).to_owned(),
        created: time(&object["metadata"]["creationTimestamp"]),
        size_limit_bytes: limits.get(&namespace).copied(),
        namespace,
    }
}

/// The names of the internal registry, from managed images and from the streams' own repositories.
fn hosts(images: &[Image], streams: &[Value]) -> Vec<String> {
    let managed = images.iter().filter(|image| image.managed).map(|image| image.host.clone());
    let repositories = streams.iter().flat_map(|object| {
        ["dockerImageRepository", "publicDockerImageRepository"]
            .map(|key| word(&object["status"][key]).split('/').next().unwrap_or_default().to_owned())
    });
    let hosts: BTreeSet<String> = managed.chain(repositories).filter(|host| !host.is_empty()).collect();
    hosts.into_iter().collect()
}

/// The smallest image size each project's limit ranges allow, in bytes.
fn size_limits(ranges: &[Value]) -> BTreeMap<String, i64> {
    let mut limits = BTreeMap::new();
    for range in ranges {
        let namespace = word(&range["metadata"]["namespace"]).to_owned();
        for limit in range["spec"]["limits"].as_array().into_iter().flatten() {
            if limit["type"] == "openshift.io/Image"
                && let Some(bytes) = quantity(word(&limit["max"]["storage"]))
            {
                let smallest = limits.entry(namespace.clone()).or_insert(bytes);
                *smallest = bytes.min(*smallest);
            }
        }
    }
    limits
}

/// A Kubernetes quantity of bytes such as `1Gi`, `500M` or `1024`.
fn quantity(text: &str) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: i64 = text[..digits].parse().ok()?;
    let factor: i64 = match &text[digits..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// A pod that has ended needs its image no more.
fn is_live(plural: &str, object: &Value) -> bool {
    plural != "pods" || !["Succeeded", "Failed"].contains(&word(&object["status"]["phase"]))
}

/// The image references of an object's pod template, and those of a running pod as the node resolved them.
fn references(plural: &str, object: &Value) -> Vec<String> {
    let spec = match plural {
        "pods" => &object["spec"],
        "cronjobs" => &object["spec"]["jobTemplate"]["spec"]["template"]["spec"],
        "buildconfigs" | "builds" | "imagestreams" => &Value::Null,
        _ => &object["spec"]["template"]["spec"],
    };
    let containers =
        ["containers", "initContainers"].into_iter().flat_map(|key| spec[key].as_array().into_iter().flatten());
    let mut found: Vec<String> =
        containers.map(|container| word(&container["image"]).to_owned()).filter(|image| !image.is_empty()).collect();
    if plural.starts_with("build") {
        let strategy = &object["spec"]["strategy"];
        for part in ["sourceStrategy", "dockerStrategy", "customStrategy"] {
            if strategy[part]["from"]["kind"] == "DockerImage" {
                found.push(word(&strategy[part]["from"]["name"]).to_owned());
            }
        }
    }
    found
}

/// References to image stream tags and images by name: of builds' strategies and of other streams' tags.
fn tag_references(object: &Value) -> Vec<Use> {
    let own = word(&object["metadata"]["namespace"]);
    let strategy = &object["spec"]["strategy"];
    let builds = ["sourceStrategy", "dockerStrategy", "customStrategy"].into_iter().map(|part| &strategy[part]["from"]);
    let tags = object["spec"]["tags"].as_array().into_iter().flatten().map(|tag| &tag["from"]);
    let mut uses = Vec::new();
    for from in builds.chain(tags) {
        let namespace = from["namespace"].as_str().unwrap_or(own).to_owned();
        match (word(&from["kind"]), word(&from["name"])) {
            ("ImageStreamTag", name) => {
                if let Some((stream, tag)) = name.split_once(':') {
                    uses.push(Use::Tag { namespace, stream: stream.to_owned(), tag: tag.to_owned() });
                }
            }
            ("ImageStreamImage", name) => {
                uses.extend(name.split_once('@').map(|(_, digest)| Use::Digest(digest.to_owned())));
            }
            _ => {}
        }
    }
    uses
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case("1Gi", Some(1 << 30))]
    #[case("500M", Some(500_000_000))]
    #[case("7", Some(7))]
    #[case("x", None)]
    fn quantities(#[case] text: &str, #[case] expected: Option<i64>) {
        assert_eq!(quantity(text), expected);
    }

    #[test]
    fn every_container_counts() {
        let template = json!({"spec": {"containers": [{"image": "a"}], "initContainers": [{"image": "b"}]}});
        assert_eq!(references("deployments", &json!({"spec": {"template": template}})), ["a", "b"]);
        assert_eq!(
            references("cronjobs", &json!({"spec": {"jobTemplate": {"spec": {"template": template}}}})),
            ["a", "b"]
        );
        assert_eq!(references("pods", &template), ["a", "b"]);
    }

    #[test]
    fn an_image_is_read() {
        let image = image(&json!({
            "metadata": {"name": "sha256:m", "annotations": {"openshift.io/image.managed": "true"}, "creationTimestamp": "2024-01-01T00:00:00Z"},
            "dockerImageReference": "r:5000/ns/s@sha256:m", "dockerImageLayers": [{"name": "sha256:l", "size": 7}],
            "dockerImageMetadata": {"Id": "sha256:c"}, "dockerImageManifests": [{"digest": "sha256:k"}],
        }));
        assert!(image.managed);
        assert_eq!(
            (image.blobs, image.children),
            (vec!["sha256:l".to_owned(), "sha256:c".to_owned()], vec!["sha256:k".to_owned()])
        );
        assert_eq!((image.size_bytes, image.host.as_str()), (7, "r:5000"));
    }
}
