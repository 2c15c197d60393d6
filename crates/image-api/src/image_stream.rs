//! What happens to an image stream when somebody writes it: defaults, generations, tags that point to other tags.
//! Rules of openshift-apiserver pkg/image/apiserver/registry/imagestream/strategy.go (main).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::authorize::{Attributes, review};
use crate::handler::ImageApi;
use crate::history;
use crate::limits::Limits;
use crate::reference::{Reference, is_tag};
use crate::request::{Query, User};
use crate::status::{Cause, StatusError};
use crate::store::{Place, name_of, namespace_of};

/// Which part of a stream a write may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What users write: the status stays as it was.
    Spec,
    /// `imagestreams/status` and the registry's mappings: the spec stays as it was.
    Status,
    /// Both, as writes through tags and imports do.
    Both,
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn generation(value: &Value) -> i64 {
    value.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0)
}

/// Makes a new stream ready to be stored. With [`Part::Both`] a status that is given is kept.
///
/// # Errors
/// 422 for a bad name, bad tags, or tags that point to what the caller may not pull.
pub async fn prepare_create(api: &ImageApi, user: &User, stream: &mut Value, part: Part) -> Result<(), StatusError> {
    default(stream);
    if part != Part::Both {
        stream["status"] = json!({});
    }
    undecorate(stream);
    stream["metadata"]["generation"] = 1.into();
    for_each_spec_tag(stream, |tag| tag["generation"] = 1.into());
    validate(stream)?;
    verify_sources(api, user, None, stream).await?;
    follow_references(api, None, stream).await?;
    history::collapse_empty(stream);
    check_limits(api, None, stream).await
}

/// Makes the new version of a stream ready to be stored. Limits on a status are left to the caller, who may have
/// read them already.
///
/// # Errors
/// As for [`prepare_create`].
pub async fn prepare_update(
    api: &ImageApi,
    user: &User,
    old: &Value,
    stream: &mut Value,
    part: Part,
) -> Result<(), StatusError> {
    stream["metadata"]["generation"] = generation(old).into();
    if part == Part::Status {
        stream["spec"] = old["spec"].clone();
        for key in ["labels", "annotations", "finalizers", "ownerReferences"] {
            stream["metadata"][key] = old["metadata"][key].clone();
        }
        history::normalize(stream);
        undecorate(stream);
        fill_event_generations(old, stream);
        return Ok(());
    }
    default(stream);
    if part == Part::Spec {
        stream["status"] = old["status"].clone();
    }
    undecorate(stream);
    history::collapse_empty(stream);
    keep_tag_generations(old, stream);
    if old["spec"] != stream["spec"] || generation(stream) == 0 {
        stream["metadata"]["generation"] = (generation(old) + 1).into();
    }
    set_tag_generations(old, stream);
    validate(stream)?;
    verify_sources(api, user, Some(old), stream).await?;
    follow_references(api, Some(old), stream).await?;
    check_limits(api, Some(old), stream).await
}

/// Refuses a stream beyond the limits of its namespace; only one that gains tags or images can be.
///
/// # Errors
/// 403 with "exceeds the maximum limit".
pub async fn check_limits(api: &ImageApi, old: Option<&Value>, stream: &Value) -> Result<(), StatusError> {
    let spec_names = |stream: &Value| -> BTreeSet<String> {
        history::spec_tags(stream).iter().map(|tag| text(tag, "name").to_owned()).collect()
    };
    let (images_before, tags_before) = old.map_or_else(Default::default, |old| (history::images(old), spec_names(old)));
    if history::images(stream).is_subset(&images_before) && spec_names(stream).is_subset(&tags_before) {
        return Ok(());
    }
    Limits::read(&api.store, namespace_of(stream)).await?.check_stream(old, stream)
}

/// Fills what clients may leave out, and sorts the tags.
fn default(stream: &mut Value) {
    if !stream["spec"].is_object() {
        stream["spec"] = json!({});
    }
    if stream["spec"]["lookupPolicy"]["local"].as_bool().is_none() {
        stream["spec"]["lookupPolicy"] = json!({"local": false});
    }
    history::normalize(stream);
    for_each_spec_tag(stream, |tag| {
        for (policy, key, default) in [("importPolicy", "importMode", "Legacy"), ("referencePolicy", "type", "Source")]
        {
            if !tag[policy].is_object() {
                tag[policy] = json!({});
            }
            if text(&tag[policy], key).is_empty() {
                tag[policy][key] = default.into();
            }
        }
        if let Some(entry) = tag.as_object_mut() {
            entry.entry("annotations").or_insert(Value::Null);
        }
    });
}

fn for_each_spec_tag(stream: &mut Value, change: impl FnMut(&mut Value)) {
    if let Some(tags) = stream.pointer_mut("/spec/tags").and_then(Value::as_array_mut) {
        tags.iter_mut().for_each(change);
    }
}

/// The repository names are written by [`crate::hostname::Hostnames::decorate`] and not kept.
fn undecorate(stream: &mut Value) {
    if !stream["status"].is_object() {
        stream["status"] = json!({});
    }
    if let Some(status) = stream["status"].as_object_mut() {
        status.remove("dockerImageRepository");
        status.remove("publicDockerImageRepository");
    }
}

/// Users cannot choose a tag's generation, except 0: "import this again".
fn keep_tag_generations(old: &Value, stream: &mut Value) {
    for_each_spec_tag(stream, |tag| {
        if tag["generation"].as_i64() != Some(0)
            && let Some(before) = history::spec_tag(old, text(tag, "name"))
        {
            tag["generation"] = before["generation"].clone();
        }
    });
}

fn set_tag_generations(old: &Value, stream: &mut Value) {
    let current = generation(stream);
    let namespace = namespace_of(stream).to_owned();
    for_each_spec_tag(stream, |tag| {
        let before = history::spec_tag(old, text(tag, "name"));
        let changed = before.is_none_or(|before| tag_changed(before, tag, &namespace));
        if changed || matches!(tag["generation"].as_i64(), None | Some(0)) {
            tag["generation"] = current.into();
        }
    });
}

/// New events without a generation get that of the tag they fulfil, or of the stream.
fn fill_event_generations(old: &Value, stream: &mut Value) {
    let current = generation(stream);
    let wanted: BTreeMap<String, Value> = history::spec_tags(stream)
        .iter()
        .map(|tag| (text(tag, "name").to_owned(), tag["generation"].clone()))
        .collect();
    let Some(tags) = stream.pointer_mut("/status/tags").and_then(Value::as_array_mut) else { return };
    for entry in tags {
        let tag = text(entry, "tag").to_owned();
        let Some(newest) = entry.pointer_mut("/items/0") else { continue };
        if newest["generation"].as_i64().unwrap_or(0) != 0 {
            continue;
        }
        let moved = history::latest(old, &tag).is_some_and(|before| {
            before["image"] != newest["image"] || before["dockerImageReference"] != newest["dockerImageReference"]
        });
        let from_spec = wanted.get(&tag).filter(|generation| moved && generation.is_i64());
        newest["generation"] = from_spec.cloned().unwrap_or_else(|| current.into());
    }
}

/// Whether a spec tag asks for something else than before.
fn tag_changed(before: &Value, tag: &Value, namespace: &str) -> bool {
    let Some(from) = tag.get("from").filter(|from| from.is_object()) else { return false };
    if text(from, "kind").is_empty() && text(from, "name").is_empty() {
        return false;
    }
    let source = |tag: &Value| {
        let from = tag.get("from").unwrap_or(&Value::Null);
        let at = match text(from, "namespace") {
            "" => namespace,
            given => given,
        };
        let mode = tag.pointer("/importPolicy/importMode").and_then(Value::as_str).unwrap_or("Legacy");
        let reference = tag["reference"].as_bool().unwrap_or(false);
        (text(from, "kind").to_owned(), at.to_owned(), text(from, "name").to_owned(), reference, mode.to_owned())
    };
    source(before) != source(tag) || tag["generation"].as_i64() == Some(0)
}

fn validate(stream: &Value) -> Result<(), StatusError> {
    let name = name_of(stream);
    let mut causes = Vec::new();
    let path_element = |name: &str| Reference::parse(name).is_some_and(|r| r.name == name && r.registry.is_empty());
    if name.is_empty() {
        causes.push(Cause::required("metadata.name"));
    } else if !path_element(name) {
        causes.push(Cause::invalid("metadata.name", name, "must match \"[a-z0-9]+(?:[._-][a-z0-9]+)*\""));
    } else if namespace_of(stream).len() + 1 + name.len() > 255 {
        causes.push(Cause::invalid("metadata.name", name, "'namespace/name' cannot be longer than 255 characters"));
    }
    match stream.pointer("/spec/dockerImageRepository").and_then(Value::as_str) {
        None | Some("") => {}
        Some(spec) => match Reference::parse(spec) {
            Some(reference) if reference.tag.is_empty() && reference.id.is_empty() => {}
            _ => causes.push(Cause::invalid(
                "spec.dockerImageRepository",
                spec,
                "must be a repository without a tag or an ID",
            )),
        },
    }
    for tag in history::spec_tags(stream) {
        validate_tag(tag, &mut causes);
    }
    if causes.is_empty() { Ok(()) } else { Err(StatusError::invalid("ImageStream", name, &causes)) }
}

fn validate_tag(tag: &Value, causes: &mut Vec<Cause>) {
    let name = text(tag, "name");
    let path = format!("spec.tags[{name}]");
    if !is_tag(name) {
        causes.push(Cause::invalid(path.clone(), name, "invalid tag name"));
    }
    if let Some(from) = tag.get("from").filter(|from| from.is_object()) {
        let source = text(from, "name");
        if source.is_empty() {
            causes.push(Cause::required(format!("{path}.from.name")));
        }
        match text(from, "kind") {
            "DockerImage" if !source.is_empty() && Reference::parse(source).is_none() => {
                causes.push(Cause::invalid(format!("{path}.from.name"), source, "invalid reference format"));
            }
            "DockerImage" => {}
            "ImageStreamTag" | "ImageStreamImage" => {
                if tag.pointer("/importPolicy/scheduled").and_then(Value::as_bool) == Some(true) {
                    causes.push(Cause::invalid(
                        format!("{path}.importPolicy.scheduled"),
                        "true",
                        "only tags pointing to Docker repositories may be scheduled for background import",
                    ));
                }
            }
            "" => causes.push(Cause::required(format!("{path}.from.kind"))),
            other => causes.push(Cause::invalid(
                format!("{path}.from.kind"),
                other,
                "valid values are 'DockerImage', 'ImageStreamImage', 'ImageStreamTag'",
            )),
        }
    }
    let policy = tag.pointer("/referencePolicy/type").and_then(Value::as_str).unwrap_or_default();
    if !matches!(policy, "Source" | "Local") {
        causes.push(Cause::invalid(
            format!("{path}.referencePolicy.type"),
            policy,
            "valid values are \"Source\", \"Local\"",
        ));
    }
    let mode = tag.pointer("/importPolicy/importMode").and_then(Value::as_str).unwrap_or_default();
    if !matches!(mode, "Legacy" | "PreserveOriginal") {
        causes.push(Cause::invalid(
            format!("{path}.importPolicy.importMode"),
            mode,
            "valid modes are '', 'Legacy', 'PreserveOriginal'",
        ));
    }
}

/// Stream and tag (or image) a `from` names: `app:v1`, `app@sha256:…`, or just `v1` in the same stream.
fn source_of<'a>(from: &'a Value, own_name: &'a str) -> Option<(&'a str, &'a str)> {
    let name = text(from, "name");
    let separator = match text(from, "kind") {
        "ImageStreamTag" => ':',
        "ImageStreamImage" => '@',
        _ => return None,
    };
    match name.split_once(separator) {
        Some((stream, rest)) if stream.is_empty() || rest.contains('@') => None,
        Some((stream, rest)) => Some((stream, rest)),
        None => Some((own_name, name)),
    }
}

/// The spec tags that ask for something else than in `old`.
fn changed_tags(old: Option<&Value>, stream: &Value) -> Vec<Value> {
    let namespace = namespace_of(stream);
    let unchanged = |tag: &Value| {
        old.and_then(|old| history::spec_tag(old, text(tag, "name")))
            .is_some_and(|before| !tag_changed(before, tag, namespace))
    };
    let has_source = |tag: &Value| tag.get("from").is_some_and(Value::is_object);
    history::spec_tags(stream).iter().filter(|tag| has_source(tag) && !unchanged(tag)).cloned().collect()
}

/// Whoever tags an image of another namespace must be allowed to pull it from there.
async fn verify_sources(api: &ImageApi, user: &User, old: Option<&Value>, stream: &Value) -> Result<(), StatusError> {
    let own_namespace = namespace_of(stream);
    let mut asked: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for tag in changed_tags(old, stream) {
        let from = &tag["from"];
        let namespace = text(from, "namespace");
        if namespace.is_empty() || namespace == own_namespace {
            continue;
        }
        if let Some((source, _)) = source_of(from, name_of(stream)) {
            let tags = asked.entry((namespace.to_owned(), source.to_owned())).or_default();
            tags.insert(text(&tag, "name").to_owned());
        }
    }
    let mut causes = Vec::new();
    for ((namespace, source), tags) in &asked {
        let attributes =
            Attributes { verb: "get", namespace, resource: "imagestreams", subresource: "layers", name: source };
        let decision = review(&api.store, user, attributes).await?;
        if !decision.allowed {
            let why = format!("{namespace}/{source}: {:?}", decision.reason);
            causes.extend(tags.iter().map(|tag| Cause::forbidden(format!("spec.tags[{tag}].from"), &why)));
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(StatusError::invalid("ImageStream", name_of(stream), &causes)) }
}

/// Lets new or changed spec tags that name other tags or images take effect in the status at once.
async fn follow_references(api: &ImageApi, old: Option<&Value>, stream: &mut Value) -> Result<(), StatusError> {
    let internal = api.hostnames.borrow().internal.clone();
    let namespace = namespace_of(stream).to_owned();
    let name = name_of(stream).to_owned();
    let current = generation(stream);
    let mut causes = Vec::new();
    for tag in changed_tags(old, stream) {
        let tag_name = text(&tag, "name").to_owned();
        let path = format!("spec.tags[{tag_name}].from.name");
        let from = &tag["from"];
        let is_reference = tag["reference"].as_bool().unwrap_or(false);
        if text(from, "kind") == "DockerImage" {
            if is_reference {
                history::add_event(stream, &tag_name, history::event(text(from, "name"), "", current));
            }
            continue;
        }
        let Some((source_name, wanted)) = source_of(from, &name) else {
            let why = "must be of the form <tag>, <repo>:<tag>, <id>, or <repo>@<id>";
            causes.push(Cause::invalid(path, text(from, "name"), why));
            continue;
        };
        let source_namespace = match text(from, "namespace") {
            "" => namespace.as_str(),
            given => given,
        };
        let elsewhere = source_namespace != namespace || source_name != name;
        let fetched;
        let source = if elsewhere {
            match api.store.get(Place::streams(source_namespace), source_name, &Query::default()).await {
                Ok(found) => {
                    fetched = found;
                    &fetched
                }
                Err(error) if error.is_not_found() => {
                    causes.push(Cause::not_found(path, text(from, "name")));
                    continue;
                }
                Err(error) => return Err(error),
            }
        } else {
            &*stream
        };
        let found = if text(from, "kind") == "ImageStreamTag" {
            history::latest(source, wanted).cloned()
        } else {
            match history::resolve_image(source, wanted) {
                Ok(Some(event)) => Some(event),
                Ok(None) => {
                    let why = format!("error generating tag event: imagestreamimage {wanted:?} not found");
                    causes.push(Cause::invalid(path, text(from, "name"), &why));
                    continue;
                }
                Err(several) => {
                    let why = format!("multiple images match the prefix {wanted:?}: {}", several.join(", "));
                    causes.push(Cause::invalid(path, text(from, "name"), &why));
                    continue;
                }
            }
        };
        // The tag that is pointed to may come later; then it is followed when it comes.
        let Some(mut event) = found else { continue };
        event["generation"] = current.into();
        if !is_reference
            && let Some(own) = taken_over(&event, &internal, (source_namespace, source_name), (&namespace, &name))
        {
            event["dockerImageReference"] = own.into();
        }
        history::add_event(stream, &tag_name, event);
    }
    if !causes.is_empty() {
        return Err(StatusError::invalid("ImageStream", &name, &causes));
    }
    update_followers(old, stream);
    Ok(())
}

/// The event's pull spec, if it names the source stream in the integrated registry, as one of this stream.
fn taken_over(event: &Value, internal: &str, source: (&str, &str), own: (&str, &str)) -> Option<String> {
    let mut reference = Reference::parse(text(event, "dockerImageReference"))?;
    let at_source = (reference.namespace.as_str(), reference.name.as_str()) == source;
    if internal.is_empty() || reference.registry != internal || !at_source {
        return None;
    }
    (reference.namespace, reference.name) = (own.0.into(), own.1.into());
    Some(reference.to_string())
}

/// Tags that follow a tag whose newest event is another one than in `old` move along.
fn update_followers(old: Option<&Value>, stream: &mut Value) {
    let moved: Vec<(String, Value)> = history::status_tags(stream)
        .iter()
        .filter_map(|entry| {
            let tag = text(entry, "tag");
            let newest = history::items(entry).first()?;
            let before = old.and_then(|old| history::latest(old, tag));
            (before != Some(newest)).then(|| (tag.to_owned(), newest.clone()))
        })
        .collect();
    for (tag, event) in moved {
        history::update_tracking(stream, &tag, &event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn stream(spec: Value) -> Value {
        let mut stream = json!({"metadata": {"name": "app", "namespace": "p", "generation": 3}, "spec": spec});
        default(&mut stream);
        stream
    }

    #[rstest]
    #[case(json!({}), None)]
    #[case(json!({"tags": [{"name": "v1"}]}), None)]
    #[case(json!({"tags": [{"name": "v1", "from": {"kind": "DockerImage", "name": "quay.io/a/b:1"}}]}), None)]
    #[case(json!({"tags": [{"name": "v1", "from": {"kind": "Pod", "name": "x"}}]}), Some("spec.tags[v1].from.kind"))]
    #[case(json!({"tags": [{"name": "v1", "from": {"kind": "DockerImage", "name": "A B"}}]}), Some("spec.tags[v1].from.name"))]
    #[case(json!({"tags": [{"name": "v/1"}]}), Some("spec.tags[v/1]"))]
    #[case(json!({"tags": [{"name": "v1", "referencePolicy": {"type": "Far"}}]}), Some("spec.tags[v1].referencePolicy.type"))]
    #[case(json!({"dockerImageRepository": "quay.io/a/b:1"}), Some("spec.dockerImageRepository"))]
    fn bad_specs_are_refused(#[case] spec: Value, #[case] field: Option<&str>) {
        let seen = validate(&stream(spec)).err();
        let seen = seen.as_ref().map(|e| e.details["causes"][0]["field"].as_str().unwrap_or_default());
        assert_eq!(seen, field);
    }

    #[rstest]
    #[case("my_app", true)]
    #[case("app.v2", true)]
    #[case("App", false)]
    #[case("-app", false)]
    #[case("a/b", false)]
    fn names_are_repository_names(#[case] name: &str, #[case] good: bool) {
        let mut stream = stream(json!({}));
        stream["metadata"]["name"] = name.into();
        assert_eq!(validate(&stream).is_ok(), good);
    }

    #[test]
    fn only_a_real_change_raises_a_tag_generation() {
        let from = |name: &str| json!({"kind": "DockerImage", "name": name});
        let old = stream(json!({"tags": [
            {"name": "a", "from": from("q.io/a:1"), "generation": 2},
            {"name": "b", "from": from("q.io/b:1"), "generation": 2},
            {"name": "c", "from": from("q.io/c:1"), "generation": 2},
        ]}));
        let mut new = stream(json!({"tags": [
            {"name": "a", "from": from("q.io/a:1"), "generation": 9},
            {"name": "b", "from": from("q.io/b:2"), "generation": 2},
            {"name": "c", "from": from("q.io/c:1"), "generation": 0},
        ]}));
        keep_tag_generations(&old, &mut new);
        new["metadata"]["generation"] = 4.into();
        set_tag_generations(&old, &mut new);
        let seen: Vec<_> = history::spec_tags(&new).iter().map(|tag| tag["generation"].as_i64()).collect();
        assert_eq!(seen, [Some(2), Some(4), Some(4)]);
    }

    #[test]
    fn an_image_of_another_stream_is_pulled_from_this_one() {
        let digest = "sha256:0123456789abcdef0123456789abcdef";
        let event = history::event(&format!("r.svc:5000/q/src@{digest}"), digest, 1);
        let own = taken_over(&event, "r.svc:5000", ("q", "src"), ("p", "app"));
        assert_eq!(own, Some(format!("r.svc:5000/p/app@{digest}")));
        assert_eq!(taken_over(&event, "other:5000", ("q", "src"), ("p", "app")), None);
    }
}
