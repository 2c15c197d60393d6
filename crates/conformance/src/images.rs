//! The images that a run needs, known before anything is started: what may be pulled, what comes from an archive, and what
//! is made of this program. Getting them is left to the target, which asks a registry for nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use container_image::OWN_REGISTRY;
use serde::Serialize;
use serde_json::Value;

use crate::manifest::Document;

/// One image of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunImage {
    /// The name by which it is asked for, with its digest where whoever asks can give one.
    pub image: String,
    pub source: Source,
    /// The name of what `ci/air-gap` makes in its place, used wherever `--images` brought it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// What needs it, for people.
    pub purpose: String,
}

/// Where an image comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A registry, unless an archive was loaded.
    Registry,
    /// An archive only: it is no longer published.
    Archive,
    /// This program; it is loaded into the nodes.
    Program,
}

/// What the pods of manifests need: the images of containers, and those that an operator is told in variables whose names
/// begin with `IMAGE`.
pub(crate) fn of_manifests(documents: &[Document]) -> Vec<RunImage> {
    let mut named = BTreeMap::<&str, BTreeSet<&str>>::new();
    for document in documents {
        let mut images = BTreeSet::new();
        collect(&document.object.data, &mut images);
        for image in images {
            named.entry(image).or_default().insert(&document.file);
        }
    }
    let images = named.into_iter().map(|(image, files)| RunImage {
        image: image.to_owned(),
        source: if is_own(image) { Source::Program } else { Source::Registry },
        archive: None,
        purpose: files.into_iter().collect::<Vec<_>>().join(", "),
    });
    images.collect()
}

fn is_own(image: &str) -> bool {
    image.strip_prefix(OWN_REGISTRY).is_some_and(|rest| rest.starts_with('/'))
}

fn collect<'a>(value: &'a Value, images: &mut BTreeSet<&'a str>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, images)),
        Value::Object(fields) => {
            let text = |name: &str| fields.get(name).and_then(Value::as_str);
            if let (Some(_), Some(image)) = (text("name"), text("image")) {
                images.insert(image);
            }
            if let (Some(name), Some(value)) = (text("name"), text("value"))
                && name.starts_with("IMAGE")
            {
                images.insert(value);
            }
            fields.values().for_each(|field| collect(field, images));
        }
        _ => {}
    }
}

/// The list for people.
pub(crate) fn text(images: &[RunImage], system: &str, target: &str) -> String {
    if images.is_empty() {
        return format!("{system} on {target} needs no image\n");
    }
    let titles = [
        (Source::Registry, "pulled, unless --images brings the archive"),
        (Source::Archive, "no longer published; --images brings the archive"),
        (Source::Program, "made of this program"),
    ];
    let mut out = format!("{system} on {target} needs {} images\n", images.len());
    for (source, title) in titles {
        let mut some = images.iter().filter(|image| image.source == source).peekable();
        if some.peek().is_some() {
            let _ = writeln!(out, "\n{title}");
        }
        for RunImage { image, archive, purpose, .. } in some {
            let _ = writeln!(out, "  {image}\n    for {purpose}");
            if let Some(archive) = archive {
                let _ = writeln!(out, "    archive {archive}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{data::Data, manifest};

    #[test]
    fn containers_and_an_operators_variables_name_images() {
        let data = Data::find(None).unwrap();
        let documents = manifest::read(&data, Path::new("fixtures/reference/operator.yaml")).unwrap();
        let images = of_manifests(&documents);
        let names: Vec<_> = images.iter().map(|image| image.image.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["cli", "node-ca", "operator", "registry"]);
        assert!(images.iter().all(|image| image.source == Source::Program));
    }

    #[test]
    fn an_image_of_somebody_else_comes_from_a_registry() {
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {
                "initContainers": [{"name": "a", "image": "example.com/a:1"}],
                "containers": [{"name": "b", "image": "registry-conformance.local.example.com/b"}],
            },
        });
        let object: kube::core::DynamicObject = serde_json::from_value(pod).unwrap();
        let types = object.types.clone().unwrap();
        let images = of_manifests(&[Document { file: "p.yaml".to_owned(), object, types }]);
        assert_eq!(images.len(), 2);
        assert!(images.iter().all(|image| image.source == Source::Registry && image.purpose == "p.yaml"));
    }

    #[test]
    fn people_see_each_image_below_where_it_comes_from() {
        let image = |image: &str, source, archive: Option<&str>| RunImage {
            image: image.to_owned(),
            source,
            archive: archive.map(str::to_owned),
            purpose: "a purpose".to_owned(),
        };
        let images = [
            image("example.com/node:v1@sha256:aa", Source::Registry, Some("ours.local/node:v1")),
            image("ours.local/self", Source::Program, None),
        ];
        insta::assert_snapshot!(text(&images, "A system", "kind"), @"
        A system on kind needs 2 images

        pulled, unless --images brings the archive
          example.com/node:v1@sha256:aa
            for a purpose
            archive ours.local/node:v1

        made of this program
          ours.local/self
            for a purpose
        ");
        assert_eq!(text(&[], "A system", "embedded"), "A system on embedded needs no image\n");
    }
}
