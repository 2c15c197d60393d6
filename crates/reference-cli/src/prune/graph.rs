//! Which images, history entries, links and blobs nothing needs any more. Pure: no clock, no server.
//!
//! Source: oc pkg/cli/admin/prune/imageprune/prune.go (release-4.6).

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// An Image object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Image {
    pub(super) digest: String,
    /// True when the internal registry holds it, false when it was imported.
    pub(super) managed: bool,
    pub(super) created: Timestamp,
    /// Digests of its layers and configuration.
    pub(super) blobs: Vec<String>,
    /// Digests of the images it lists, for manifest lists.
    pub(super) children: Vec<String>,
    pub(super) size_bytes: i64,
    /// Host of its pull specification.
    pub(super) host: String,
}

/// One entry of a tag's history, the newest first.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    pub(super) image: String,
    pub(super) created: Timestamp,
}

/// An ImageStream with the history of its tags.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stream {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) created: Timestamp,
    pub(super) tags: Vec<(String, Vec<Item>)>,
    /// The largest image the project's limit ranges allow, in bytes.
    pub(super) size_limit_bytes: Option<i64>,
}

impl Stream {
    fn repository(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Something a workload needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    /// The image with this digest.
    Digest(String),
    /// The newest image of a tag.
    Tag { namespace: String, stream: String, tag: String },
}

/// What is kept although nothing uses it.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) keep_revisions: usize,
    pub(super) keep_since: Timestamp,
    pub(super) all: bool,
    /// Only size limits decide what of the history is kept.
    pub(super) over_size: bool,
}

/// History entries to take out of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamCut {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Tag and digest.
    pub(super) items: Vec<(String, String)>,
}

/// A blob or manifest in one repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Link {
    pub(super) repository: String,
    pub(super) digest: String,
}

/// Everything to remove, each list in the order of its names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) streams: Vec<StreamCut>,
    pub(super) layer_links: Vec<Link>,
    pub(super) manifest_links: Vec<Link>,
    pub(super) blobs: Vec<String>,
    pub(super) images: Vec<String>,
}

/// Decides what to remove.
pub(super) fn plan(images: &[Image], streams: &[Stream], uses: &BTreeSet<Use>, rules: &Rules) -> Plan {
    let by_digest: BTreeMap<&str, &Image> = images.iter().map(|image| (image.digest.as_str(), image)).collect();
    let kept = kept(&by_digest, streams, uses, rules);
    let doomed: BTreeSet<&str> = images
        .iter()
        .filter(|image| image.created < rules.keep_since && (rules.all || image.managed))
        .map(|image| image.digest.as_str())
        .filter(|digest| !kept.contains(digest))
        .collect();

    let mut plan = Plan { images: doomed.iter().map(|digest| (*digest).to_owned()).collect(), ..Plan::default() };
    for stream in streams {
        cut(stream, &by_digest, &doomed, &mut plan);
    }
    let left = images.iter().filter(|image| !doomed.contains(image.digest.as_str()));
    let needed: BTreeSet<&str> = left.flat_map(content).collect();
    let freed: BTreeSet<&str> = doomed
        .iter()
        .filter_map(|digest| by_digest.get(digest).copied())
        .filter(|image| image.managed)
        .flat_map(content)
        .filter(|digest| !needed.contains(digest))
        .collect();
    plan.blobs = freed.into_iter().map(str::to_owned).collect();
    plan
}

/// The digests an image's storage consists of: its manifest, configuration and layers.
fn content(image: &Image) -> impl Iterator<Item = &str> {
    image.blobs.iter().map(String::as_str).chain([image.digest.as_str()])
}

fn kept<'a>(
    images: &BTreeMap<&'a str, &'a Image>,
    streams: &'a [Stream],
    uses: &'a BTreeSet<Use>,
    rules: &Rules,
) -> BTreeSet<&'a str> {
    let mut kept = BTreeSet::new();
    for stream in streams {
        for (tag, items) in &stream.tags {
            for (place, item) in items.iter().enumerate() {
                let used = place == 0
                    && uses.contains(&Use::Tag {
                        namespace: stream.namespace.clone(),
                        stream: stream.name.clone(),
                        tag: tag.clone(),
                    });
                let young = stream.created >= rules.keep_since || item.created >= rules.keep_since;
                let size = images.get(item.image.as_str()).map_or(0, |image| image.size_bytes);
                let by_rule = match rules.over_size {
                    true => stream.size_limit_bytes.is_none_or(|limit| size <= limit),
                    false => young || place < rules.keep_revisions,
                };
                if used || by_rule {
                    kept.insert(item.image.as_str());
                }
            }
        }
    }
    kept.extend(uses.iter().filter_map(|one| match one {
        Use::Digest(digest) => Some(digest.as_str()),
        Use::Tag { .. } => None,
    }));
    let young = images.values().filter(|image| image.created >= rules.keep_since);
    let mut open: Vec<&str> = kept.iter().copied().chain(young.map(|image| image.digest.as_str())).collect();
    while let Some(digest) = open.pop() {
        for child in images.get(digest).into_iter().flat_map(|image| &image.children) {
            if kept.insert(child) {
                open.push(child);
            }
        }
    }
    kept
}

fn cut(stream: &Stream, images: &BTreeMap<&str, &Image>, doomed: &BTreeSet<&str>, plan: &mut Plan) {
    let items = || stream.tags.iter().flat_map(|(tag, items)| items.iter().map(move |item| (tag, item.image.as_str())));
    let gone: Vec<(String, String)> = items()
        .filter(|(_, image)| doomed.contains(image))
        .map(|(tag, image)| (tag.clone(), image.to_owned()))
        .collect();
    if gone.is_empty() {
        return;
    }
    let with_children = |digest: &str| {
        let children = images.get(digest).into_iter().flat_map(|image| &image.children);
        children.cloned().chain([digest.to_owned()]).collect::<Vec<_>>()
    };
    let blobs_of = |digests: &BTreeSet<String>| -> BTreeSet<String> {
        digests.iter().filter_map(|digest| images.get(digest.as_str())).flat_map(|image| image.blobs.clone()).collect()
    };
    let staying: BTreeSet<String> =
        items().filter(|(_, image)| !doomed.contains(image)).flat_map(|(_, image)| with_children(image)).collect();
    let leaving: BTreeSet<String> = gone
        .iter()
        .flat_map(|(_, image)| with_children(image))
        .filter(|digest| !staying.contains(digest) && images.get(digest.as_str()).is_some_and(|image| image.managed))
        .collect();
    let repository = stream.repository();
    let link = |digest: String| Link { repository: repository.clone(), digest };
    let needed = blobs_of(&staying);
    plan.layer_links.extend(blobs_of(&leaving).into_iter().filter(|blob| !needed.contains(blob)).map(link));
    plan.manifest_links.extend(leaving.into_iter().map(link));
    plan.streams.push(StreamCut { namespace: stream.namespace.clone(), name: stream.name.clone(), items: gone });
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const CUTOFF: i64 = 1000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    /// `digest@age:blob+blob` words; `*` marks an imported image, `>child` a listed one.
    fn images(text: &str) -> Vec<Image> {
        let image = |word: &str| {
            let (head, blobs) = word.split_once(':').unwrap_or((word, ""));
            let (head, child) = head.split_once('>').map_or((head, None), |(head, child)| (head, Some(child)));
            let (digest, created) = head.split_once('@').unwrap_or((head, "0"));
            Image {
                digest: digest.trim_end_matches('*').to_owned(),
                managed: !digest.ends_with('*'),
                created: at(created.parse().expect("a second")),
                blobs: blobs.split('+').filter(|blob| !blob.is_empty()).map(str::to_owned).collect(),
                children: child.into_iter().map(str::to_owned).collect(),
                size_bytes: 10,
                host: "r".into(),
            }
        };
        text.split_whitespace().map(image).collect()
    }

    /// `stream/tag=new,older` words.
    fn streams(text: &str) -> Vec<Stream> {
        let stream = |word: &str| {
            let (name, items) = word.split_once('=').expect("a history");
            let (name, tag) = name.split_once('/').expect("a tag");
            let item = |image: &str| {
                let (image, created) = image.split_once('@').unwrap_or((image, "0"));
                Item { image: image.to_owned(), created: at(created.parse().expect("a second")) }
            };
            Stream {
                namespace: "ns".into(),
                name: name.to_owned(),
                created: at(0),
                tags: vec![(tag.to_owned(), items.split(',').map(item).collect())],
                size_limit_bytes: Some(5),
            }
        };
        text.split_whitespace().map(stream).collect()
    }

    fn rules() -> Rules {
        Rules { keep_revisions: 1, keep_since: at(CUTOFF), all: true, over_size: false }
    }

    #[rstest]
    #[case::unreferenced("a", "", &[], "a")]
    #[case::young("a@2000", "", &[], "")]
    #[case::current("a", "s/t=a", &[], "")]
    #[case::history("a b c", "s/t=a,b,c", &[], "b c")]
    #[case::recent_history("a b", "s/t=a,b@2000", &[], "")]
    #[case::kept_elsewhere("a b", "s/t=a,b o/t=b", &[], "")]
    #[case::in_use("a b", "s/t=a,b", &["b"], "")]
    #[case::list_keeps_its_images("l>c c", "s/t=l", &[], "")]
    #[case::list_goes_with_its_images("l>c c d", "s/t=d,l", &[], "c l")]
    #[case::imported("a*", "", &[], "a")]
    fn removed_images(#[case] images_: &str, #[case] streams_: &str, #[case] used: &[&str], #[case] expected: &str) {
        let uses = used.iter().map(|digest| Use::Digest(digest.to_string())).collect();
        assert_eq!(plan(&images(images_), &streams(streams_), &uses, &rules()).images.join(" "), expected);
    }

    #[test]
    fn imported_images_stay_when_told() {
        let rules = Rules { all: false, ..rules() };
        assert_eq!(plan(&images("a* b"), &[], &BTreeSet::new(), &rules).images, ["b"]);
    }

    #[test]
    fn a_used_tag_keeps_its_newest_image() {
        let rules = Rules { keep_revisions: 0, ..rules() };
        let uses = BTreeSet::from([Use::Tag { namespace: "ns".into(), stream: "s".into(), tag: "t".into() }]);
        assert_eq!(plan(&images("a b"), &streams("s/t=a,b"), &uses, &rules).images, ["b"]);
        assert_eq!(plan(&images("a b"), &streams("s/t=a,b"), &BTreeSet::new(), &rules).images, ["a", "b"]);
    }

    #[test]
    fn size_limits_replace_revisions() {
        let rules = Rules { over_size: true, keep_since: at(CUTOFF), ..rules() };
        assert_eq!(plan(&images("a"), &streams("s/t=a"), &BTreeSet::new(), &rules).images, ["a"]);
    }

    #[test]
    fn shared_layers_stay() {
        let plan = plan(&images("a:x+y b:y+z"), &streams("s/t=a,b o/t=b2,b"), &BTreeSet::new(), &rules());
        assert_eq!(plan.images, ["b"]);
        assert_eq!(plan.blobs, ["b", "z"], "y belongs to a as well");
        let link = |repository: &str, digest: &str| Link { repository: repository.into(), digest: digest.into() };
        assert_eq!(plan.layer_links, [link("ns/s", "z"), link("ns/o", "y"), link("ns/o", "z")]);
        assert_eq!(plan.manifest_links, [link("ns/s", "b"), link("ns/o", "b")]);
        assert_eq!(plan.streams[0].items, [("t".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn imported_content_is_not_in_the_registry() {
        let plan = plan(&images("a b*:x"), &streams("s/t=a,b"), &BTreeSet::new(), &rules());
        assert_eq!(plan.images, ["b"]);
        assert!(plan.blobs.is_empty() && plan.layer_links.is_empty() && plan.manifest_links.is_empty());
        assert_eq!(plan.streams.len(), 1);
    }
}
