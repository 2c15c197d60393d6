//! What the agent has seen of the cluster: the objects of each kind, and the rules they add up to.

use crate::mirror_rules::{MirrorRule, MirrorRules, RuleError, SourcePolicy};
use api::mirror::{
    ImageContentSourcePolicy, ImageContentSourcePolicySpec, ImageDigestMirrorSet, ImageDigestMirrorSetSpec,
    ImageTagMirrorSet, ImageTagMirrorSetSpec, MirrorEntry, MirrorSourcePolicy, RepositoryDigestMirrors,
};
use kube::ResourceExt;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The kinds of object that decide a node's registry configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    DigestMirrorSet,
    TagMirrorSet,
    ContentSourcePolicy,
    ImageConfig,
    ClusterVersion,
}

impl Source {
    pub(super) const ALL: [Source; 5] = [
        Source::DigestMirrorSet,
        Source::TagMirrorSet,
        Source::ContentSourcePolicy,
        Source::ImageConfig,
        Source::ClusterVersion,
    ];

    pub(super) fn resource(self) -> ApiResource {
        match self {
            Source::DigestMirrorSet => ApiResource::erase::<ImageDigestMirrorSet>(&()),
            Source::TagMirrorSet => ApiResource::erase::<ImageTagMirrorSet>(&()),
            Source::ContentSourcePolicy => ApiResource::erase::<ImageContentSourcePolicy>(&()),
            Source::ImageConfig => fixed("Image", "images"),
            Source::ClusterVersion => fixed("ClusterVersion", "clusterversions"),
        }
    }

    /// The one name that counts, for kinds of which there is one object.
    pub(super) fn only_name(self) -> Option<&'static str> {
        match self {
            Source::ImageConfig => Some("cluster"),
            Source::ClusterVersion => Some("version"),
            _ => None,
        }
    }

    fn holds_mirrors(self) -> bool {
        self.only_name().is_none()
    }
}

/// An object says something that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("could not read {kind}/{name}: {source}; correct its spec")]
    Unreadable { kind: String, name: String, source: serde_json::Error },
    #[error(transparent)]
    Rules(#[from] RuleError),
}

#[derive(Default)]
struct Collection {
    objects: BTreeMap<String, DynamicObject>,
    listing: Option<BTreeMap<String, DynamicObject>>,
    complete: bool,
}

/// All objects seen so far, per kind.
#[derive(Default)]
pub(super) struct Observed(BTreeMap<Source, Collection>);

impl Observed {
    /// Takes in one watch event and says whether what is known may have changed.
    pub(super) fn take(&mut self, source: Source, event: watcher::Result<Event<DynamicObject>>) -> bool {
        let collection = self.0.entry(source).or_default();
        match event {
            Ok(Event::Init) => {
                collection.listing = Some(BTreeMap::new());
                false
            }
            Ok(Event::InitApply(object)) => {
                collection.listing.get_or_insert_default().insert(object.name_any(), object);
                false
            }
            Ok(Event::InitDone) => {
                collection.objects = collection.listing.take().unwrap_or_default();
                collection.complete = true;
                true
            }
            Ok(Event::Apply(object)) => {
                collection.objects.insert(object.name_any(), object);
                true
            }
            Ok(Event::Delete(object)) => collection.objects.remove(&object.name_any()).is_some(),
            Err(error) => {
                let absent = is_not_served(&error);
                if absent {
                    tracing::debug!(kind = source.resource().kind, "kind is not served; taken as no objects");
                } else {
                    tracing::warn!(kind = source.resource().kind, %error, "watch interrupted; it is tried again");
                }
                let news = absent && (!collection.complete || !collection.objects.is_empty());
                if absent {
                    *collection = Collection { complete: true, ..Collection::default() };
                }
                news
            }
        }
    }

    /// True when every kind has been listed once, so that an absent object is known to be absent.
    pub(super) fn is_complete(&self) -> bool {
        Source::ALL.iter().all(|source| self.0.get(source).is_some_and(|collection| collection.complete))
    }

    /// The mirror objects and their generations, as `kind/name=generation` joined by commas.
    pub(super) fn versions(&self) -> String {
        let mut versions = Vec::new();
        for (source, collection) in self.0.iter().filter(|(source, _)| source.holds_mirrors()) {
            let plural = source.resource().plural;
            let names = collection.objects.iter();
            versions.extend(
                names.map(|(name, object)| format!("{plural}/{name}={}", object.metadata.generation.unwrap_or(0))),
            );
        }
        versions.join(",")
    }

    /// The rules all objects add up to.
    ///
    /// # Errors
    /// An object's spec has another shape than its kind promises.
    pub(super) fn rules(&self) -> Result<MirrorRules, Refusal> {
        let mut rules = MirrorRules::default();
        for (source, collection) in &self.0 {
            for (name, object) in &collection.objects {
                let unreadable =
                    |error| Refusal::Unreadable { kind: source.resource().kind, name: name.clone(), source: error };
                let part = |key: &str| {
                    object
                        .data
                        .get(key)
                        .filter(|part| !part.is_null())
                        .cloned()
                        .unwrap_or_else(|| serde_json::json!({}))
                };
                rules.any_object |= source.holds_mirrors();
                match source {
                    Source::ImageConfig => {
                        let spec: ImageConfigSpec = serde_json::from_value(part("spec")).map_err(unreadable)?;
                        let lists = spec.registry_sources.unwrap_or_default();
                        rules.insecure = lists.insecure_registries;
                        rules.blocked = lists.blocked_registries;
                        rules.allowed = lists.allowed_registries;
                        rules.search = lists.container_runtime_search_registries.unwrap_or_default();
                    }
                    Source::ClusterVersion => {
                        rules.payload = object.data["status"]["desired"]["image"].as_str().and_then(repository_of);
                    }
                    Source::DigestMirrorSet => {
                        let spec: ImageDigestMirrorSetSpec =
                            serde_json::from_value(part("spec")).map_err(unreadable)?;
                        rules.digest.extend(spec.image_digest_mirrors.into_iter().map(rule));
                    }
                    Source::TagMirrorSet => {
                        let spec: ImageTagMirrorSetSpec = serde_json::from_value(part("spec")).map_err(unreadable)?;
                        rules.tag.extend(spec.image_tag_mirrors.into_iter().map(rule));
                    }
                    Source::ContentSourcePolicy => {
                        let spec: ImageContentSourcePolicySpec =
                            serde_json::from_value(part("spec")).map_err(unreadable)?;
                        let entries = spec.repository_digest_mirrors.into_iter();
                        rules.content_source.extend(entries.map(|RepositoryDigestMirrors { source, mirrors }| {
                            MirrorRule { source, mirrors, policy: SourcePolicy::AllowContactingSource }
                        }));
                    }
                }
            }
        }
        Ok(rules)
    }
}

fn is_not_served(error: &watcher::Error) -> bool {
    use kube::Error::Api;
    matches!(error, watcher::Error::InitialListFailed(Api(status)) | watcher::Error::WatchStartFailed(Api(status)) if status.code == 404)
}

/// The repository of a fully qualified image reference, without tag and digest.
fn repository_of(reference: &str) -> Option<String> {
    let name = reference.split('@').next()?;
    let name = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    };
    name.contains('/').then(|| name.to_owned())
}

fn fixed(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("config.openshift.io", "v1", kind), plural)
}

fn rule(entry: MirrorEntry) -> MirrorRule {
    let policy = match entry.mirror_source_policy.unwrap_or_default() {
        MirrorSourcePolicy::AllowContactingSource => SourcePolicy::AllowContactingSource,
        MirrorSourcePolicy::NeverContactSource => SourcePolicy::NeverContactSource,
    };
    MirrorRule { source: entry.source, mirrors: entry.mirrors, policy }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ImageConfigSpec {
    registry_sources: Option<RegistrySources>,
}

/// Other than the shared type this one tells an absent list from an empty one, which decides who owns the file.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RegistrySources {
    insecure_registries: Option<Vec<String>>,
    blocked_registries: Option<Vec<String>>,
    allowed_registries: Option<Vec<String>>,
    container_runtime_search_registries: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn object(source: Source, name: &str, data: Value) -> DynamicObject {
        DynamicObject::new(name, &source.resource()).data(data)
    }

    fn listed(objects: Vec<(Source, DynamicObject)>) -> Observed {
        let mut observed = Observed::default();
        for source in Source::ALL {
            observed.take(source, Ok(Event::Init));
            for (_, object) in objects.iter().filter(|(kind, _)| *kind == source) {
                observed.take(source, Ok(Event::InitApply(object.clone())));
            }
            assert!(!observed.is_complete());
            assert!(observed.take(source, Ok(Event::InitDone)));
        }
        observed
    }

    #[test]
    fn objects_become_rules() {
        let entry = json!({"source": "s", "mirrors": ["m"], "mirrorSourcePolicy": "NeverContactSource"});
        let observed = listed(vec![
            (
                Source::DigestMirrorSet,
                object(Source::DigestMirrorSet, "d", json!({"spec": {"imageDigestMirrors": [entry]}})),
            ),
            (Source::TagMirrorSet, object(Source::TagMirrorSet, "t", json!({"spec": {"imageTagMirrors": [entry]}}))),
            (
                Source::ContentSourcePolicy,
                object(Source::ContentSourcePolicy, "c", json!({"spec": {"repositoryDigestMirrors": [entry]}})),
            ),
            (
                Source::ImageConfig,
                object(Source::ImageConfig, "cluster", json!({"spec": {"registrySources": {"blockedRegistries": []}}})),
            ),
            (
                Source::ClusterVersion,
                object(
                    Source::ClusterVersion,
                    "version",
                    json!({"status": {"desired": {"image": "quay.io:443/ocp/release@sha256:00"}}}),
                ),
            ),
        ]);
        let rules = observed.rules().expect("rules");
        assert_eq!(rules.digest[0].policy, SourcePolicy::NeverContactSource);
        assert_eq!(rules.tag[0].policy, SourcePolicy::NeverContactSource);
        assert_eq!(rules.content_source[0].policy, SourcePolicy::AllowContactingSource, "a policy never forbids");
        assert_eq!(rules.blocked, Some(Vec::new()));
        assert_eq!(rules.insecure, None);
        assert_eq!(rules.payload.as_deref(), Some("quay.io:443/ocp/release"));
        assert_eq!(
            observed.versions(),
            "imagedigestmirrorsets/d=0,imagetagmirrorsets/t=0,imagecontentsourcepolicies/c=0"
        );
    }

    #[test]
    fn a_relist_forgets_what_is_gone() {
        let set = object(Source::DigestMirrorSet, "d", json!({"spec": {}}));
        let mut observed = listed(vec![(Source::DigestMirrorSet, set.clone())]);
        assert!(observed.rules().expect("rules").any_object);
        observed.take(Source::DigestMirrorSet, Ok(Event::Init));
        observed.take(Source::DigestMirrorSet, Ok(Event::InitDone));
        assert!(!observed.rules().expect("rules").any_object);
        assert!(observed.take(Source::DigestMirrorSet, Ok(Event::Apply(set.clone()))));
        assert!(observed.take(Source::DigestMirrorSet, Ok(Event::Delete(set))));
        assert!(!observed.rules().expect("rules").any_object);
    }

    #[test]
    fn an_unserved_kind_has_no_objects() {
        let mut observed = listed(vec![]);
        let status = kube::core::Status { code: 404, ..Default::default() };
        let error = watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)));
        assert!(!observed.take(Source::TagMirrorSet, Err(error)), "nothing new: it had none");
        assert!(observed.is_complete());
    }

    #[test]
    fn an_unreadable_object_is_named() {
        let broken =
            object(Source::DigestMirrorSet, "bad", json!({"spec": {"imageDigestMirrors": [{"mirrors": ["m"]}]}}));
        let refusal = listed(vec![(Source::DigestMirrorSet, broken)]).rules().expect_err("refused").to_string();
        assert!(refusal.contains("ImageDigestMirrorSet/bad") && refusal.contains("source"), "{refusal}");
    }

    #[rstest]
    #[case("quay.io/ocp/release@sha256:00", Some("quay.io/ocp/release"))]
    #[case("quay.io/ocp/release:4.16", Some("quay.io/ocp/release"))]
    #[case("host:5000/release", Some("host:5000/release"))]
    #[case("release", None)]
    fn repositories(#[case] reference: &str, #[case] expected: Option<&str>) {
        assert_eq!(repository_of(reference).as_deref(), expected);
    }
}
