//! What the group offers, as one table: discovery documents, verbs and kinds are all read from it.

use serde_json::{Value, json};

use crate::request::Verb;
use crate::status::GROUP;

/// One resource or subresource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// `imagestreams/layers`.
    pub name: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
    pub verbs: &'static [Verb],
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
}

const STORED: &[Verb] = &[
    Verb::Create,
    Verb::Delete,
    Verb::DeleteCollection,
    Verb::Get,
    Verb::List,
    Verb::Patch,
    Verb::Update,
    Verb::Watch,
];
const VIRTUAL: &[Verb] = &[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update];

const fn resource(
    name: &'static str,
    singular: &'static str,
    kind: &'static str,
    namespaced: bool,
    verbs: &'static [Verb],
    short_names: &'static [&'static str],
) -> Resource {
    Resource { name, singular, kind, namespaced, verbs, short_names, categories: &[] }
}

/// All resources, in the order discovery lists them (openshift-apiserver pkg/image/apiserver/apiserver.go:288-299).
pub const RESOURCES: &[Resource] = &[
    resource("images", "image", "Image", false, STORED, &[]),
    resource("imagesignatures", "imagesignature", "ImageSignature", false, &[Verb::Create, Verb::Delete], &[]),
    resource("imagestreamimages", "imagestreamimage", "ImageStreamImage", true, &[Verb::Get], &["isimage"]),
    resource("imagestreamimports", "imagestreamimport", "ImageStreamImport", true, &[Verb::Create], &[]),
    resource("imagestreammappings", "imagestreammapping", "ImageStreamMapping", true, &[Verb::Create], &[]),
    Resource { categories: &["all"], ..resource("imagestreams", "imagestream", "ImageStream", true, STORED, &["is"]) },
    resource("imagestreams/layers", "", "ImageStreamLayers", true, &[Verb::Get], &[]),
    resource("imagestreams/secrets", "", "SecretList", true, &[Verb::Get], &[]),
    resource("imagestreams/status", "", "ImageStream", true, &[Verb::Get, Verb::Patch, Verb::Update], &[]),
    resource("imagestreamtags", "imagestreamtag", "ImageStreamTag", true, VIRTUAL, &["istag"]),
    resource("imagetags", "imagetag", "ImageTag", true, VIRTUAL, &["itag"]),
];

/// The resource of that full name.
pub fn find(name: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|resource| resource.name == name)
}

fn group() -> Value {
    let version = json!({"groupVersion": format!("{GROUP}/v1"), "version": "v1"});
    json!({"name": GROUP, "versions": [version], "preferredVersion": version})
}

/// The discovery document at `path`, if there is one.
pub fn document(path: &str) -> Option<Value> {
    match path.trim_end_matches('/') {
        "/apis" => Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group()]})),
        "/apis/image.openshift.io" => {
            let mut document = group();
            document["kind"] = "APIGroup".into();
            document["apiVersion"] = "v1".into();
            Some(document)
        }
        "/apis/image.openshift.io/v1" => Some(json!({
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": format!("{GROUP}/v1"),
            "resources": RESOURCES.iter().map(entry).collect::<Vec<_>>(),
        })),
        _ => None,
    }
}

fn entry(resource: &Resource) -> Value {
    let verbs: Vec<&str> = resource.verbs.iter().map(|verb| verb.as_str()).collect();
    let mut entry = json!({
        "name": resource.name,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": verbs,
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subresource_has_its_resource() {
        for resource in RESOURCES {
            let main = resource.name.split('/').next().unwrap_or_default();
            assert!(find(main).is_some(), "{}", resource.name);
        }
    }

    #[test]
    fn discovery_names_the_short_forms() {
        let list = document("/apis/image.openshift.io/v1/").expect("the group version");
        let resources = list["resources"].as_array().expect("resources");
        let streams = resources.iter().find(|r| r["name"] == "imagestreams").expect("streams");
        assert_eq!(streams["shortNames"], json!(["is"]));
        assert_eq!(document("/apis/other"), None);
    }
}
