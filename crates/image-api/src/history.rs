//! The tags of an image stream: what `spec.tags` wants and the history `status.tags` keeps.
//! Rules of OpenShift's openshift-apiserver pkg/image/apiserver/internal/imageutil/helpers.go (main), on JSON so
//! that unknown fields survive.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::reference::{Reference, matches_image};
use crate::store::{name_of, namespace_of};

/// The tag that is meant where none is given.
pub const DEFAULT_TAG: &str = "latest";

/// The current time as Kubernetes writes it.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn field<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn tags_at<'a>(stream: &'a Value, pointer: &str) -> &'a [Value] {
    stream.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn tags_at_mut<'a>(stream: &'a mut Value, section: &str) -> &'a mut Vec<Value> {
    let Some(map) = stream.as_object_mut() else { unreachable!("a stream is an object") };
    let section = map.entry(section).or_insert_with(|| json!({}));
    if !section.is_object() {
        *section = json!({});
    }
    let tags = &mut section["tags"];
    if !tags.is_array() {
        *tags = json!([]);
    }
    let Value::Array(tags) = tags else { unreachable!("just made an array") };
    tags
}

/// All `spec.tags` entries.
pub fn spec_tags(stream: &Value) -> &[Value] {
    tags_at(stream, "/spec/tags")
}

/// All `status.tags` entries.
pub fn status_tags(stream: &Value) -> &[Value] {
    tags_at(stream, "/status/tags")
}

/// The `spec.tags` entry called `tag`.
pub fn spec_tag<'a>(stream: &'a Value, tag: &str) -> Option<&'a Value> {
    spec_tags(stream).iter().find(|entry| field(entry, "name") == tag)
}

/// The `status.tags` entry called `tag`.
pub fn status_tag<'a>(stream: &'a Value, tag: &str) -> Option<&'a Value> {
    status_tags(stream).iter().find(|entry| field(entry, "tag") == tag)
}

/// Events of one `status.tags` entry, newest first.
pub fn items(entry: &Value) -> &[Value] {
    tags_at(entry, "/items")
}

/// The newest event of `tag`.
pub fn latest<'a>(stream: &'a Value, tag: &str) -> Option<&'a Value> {
    let tag = if tag.is_empty() { DEFAULT_TAG } else { tag };
    items(status_tag(stream, tag)?).first()
}

/// Names of all images any tag ever pointed to, without repetition.
pub fn images(stream: &Value) -> BTreeSet<&str> {
    status_tags(stream)
        .iter()
        .flat_map(items)
        .map(|event| field(event, "image"))
        .filter(|image| !image.is_empty())
        .collect()
}

/// One line of a tag's history.
pub fn event(reference: &str, image: &str, generation: i64) -> Value {
    json!({"created": now(), "dockerImageReference": reference, "image": image, "generation": generation})
}

/// Sets the `spec.tags` entry of that name, keeping the list sorted.
pub fn set_spec_tag(stream: &mut Value, entry: Value) {
    let tags = tags_at_mut(stream, "spec");
    match tags.binary_search_by(|other| field(other, "name").cmp(field(&entry, "name"))) {
        Ok(at) => tags[at] = entry,
        Err(at) => tags.insert(at, entry),
    }
}

fn status_entry<'a>(stream: &'a mut Value, tag: &str) -> &'a mut Map<String, Value> {
    let tags = tags_at_mut(stream, "status");
    let at = match tags.binary_search_by(|other| field(other, "tag").cmp(tag)) {
        Ok(at) => at,
        Err(at) => {
            tags.insert(at, json!({"tag": tag, "items": null}));
            at
        }
    };
    let Value::Object(entry) = &mut tags[at] else { unreachable!("entries that are no objects were dropped") };
    entry
}

/// Puts both tag lists in order: objects only, sorted by name, the last of equals wins.
pub fn normalize(stream: &mut Value) {
    for (section, key) in [("spec", "name"), ("status", "tag")] {
        if stream.pointer(&format!("/{section}/tags")).is_none() {
            continue;
        }
        let tags = tags_at_mut(stream, section);
        tags.retain(Value::is_object);
        tags.sort_by(|a, b| field(a, key).cmp(field(b, key)));
        tags.reverse();
        tags.dedup_by(|a, b| field(a, key) == field(b, key));
        tags.reverse();
        if let (true, Some(section)) = (tags.is_empty(), stream[section].as_object_mut()) {
            section.remove("tags");
        }
    }
}

/// Removes `tag` from spec and status; `false` if it was in neither.
pub fn remove(stream: &mut Value, tag: &str) -> bool {
    let mut found = false;
    for (section, key) in [("spec", "name"), ("status", "tag")] {
        if stream.pointer(&format!("/{section}/tags")).is_some() {
            let tags = tags_at_mut(stream, section);
            let before = tags.len();
            tags.retain(|entry| field(entry, key) != tag);
            found |= tags.len() != before;
        }
    }
    found
}

/// Replaces the conditions of a status tag; an empty list clears them.
pub fn set_conditions(stream: &mut Value, tag: &str, conditions: Vec<Value>) {
    let entry = status_entry(stream, tag);
    if conditions.is_empty() {
        entry.remove("conditions");
    } else {
        entry.insert("conditions".into(), Value::Array(conditions));
    }
}

/// Drops status tags that have neither history nor conditions.
pub fn collapse_empty(stream: &mut Value) {
    if stream.pointer("/status/tags").is_some() {
        let empty = |entry: &Value, key| entry.get(key).and_then(Value::as_array).is_none_or(Vec::is_empty);
        tags_at_mut(stream, "status").retain(|entry| !(empty(entry, "items") && empty(entry, "conditions")));
    }
}

/// Records that `tag` now points to `next`; `false` if nothing changed.
///
/// The same image under a new reference, or the same reference with a new image, rewrites the newest event
/// instead of adding one.
pub fn add_event(stream: &mut Value, tag: &str, next: Value) -> bool {
    let entry = status_entry(stream, tag);
    let history = entry.entry("items").or_insert(Value::Null);
    if !history.is_array() {
        *history = json!([]);
    }
    let Some(history) = history.as_array_mut() else { unreachable!("just made an array") };
    let Some(previous) = history.first_mut() else {
        history.push(next);
        return true;
    };
    let same_reference = field(previous, "dockerImageReference") == field(&next, "dockerImageReference");
    let same_image = field(previous, "image") == field(&next, "image");
    if same_reference && same_image && previous["generation"].as_i64() == next["generation"].as_i64() {
        return false;
    }
    if same_reference || same_image {
        for key in ["dockerImageReference", "image", "generation"] {
            previous[key] = next[key].clone();
        }
    } else {
        history.insert(0, next);
    }
    entry.remove("conditions");
    true
}

/// Lets every tag of this stream that follows `updated` point to the same image; returns how many moved.
pub fn update_tracking(stream: &mut Value, updated: &str, next: &Value) -> usize {
    let namespace = namespace_of(stream);
    let name = name_of(stream);
    let followers: Vec<String> = spec_tags(stream)
        .iter()
        .filter(|entry| {
            let Some(from) = entry.get("from") else { return false };
            let elsewhere = !matches!(field(from, "namespace"), "") && field(from, "namespace") != namespace;
            let followed = match field(from, "name").split_once(':') {
                Some((stream, tag)) if stream == name => tag,
                Some(_) => return false,
                None => field(from, "name"),
            };
            field(from, "kind") == "ImageStreamTag" && !elsewhere && followed == updated
        })
        .map(|entry| field(entry, "name").to_owned())
        .collect();
    followers.into_iter().filter(|tag| add_event(stream, tag, next.clone())).count()
}

/// The event of the one image whose name begins with `id`: `Ok(None)` if there is none.
///
/// # Errors
/// All names that match, if they are several.
pub fn resolve_image(stream: &Value, id: &str) -> Result<Option<Value>, Vec<String>> {
    let mut found: Option<&Value> = None;
    let mut names = BTreeSet::new();
    for candidate in status_tags(stream).iter().flat_map(items) {
        if matches_image(field(candidate, "image"), id) {
            found = Some(candidate);
            names.insert(field(candidate, "image").to_owned());
        }
    }
    if names.len() > 1 {
        return Err(names.into_iter().collect());
    }
    Ok(found.map(|event| {
        json!({
            "created": now(),
            "dockerImageReference": event["dockerImageReference"],
            "image": event["image"],
            "generation": 0,
        })
    }))
}

/// The pull spec others should use for an event of `tag`: this stream's own repository if the tag's reference
/// policy is `Local`, otherwise where the image came from.
pub fn pull_spec(stream: &Value, tag: &str, event: &Value) -> String {
    let source = field(event, "dockerImageReference").to_owned();
    let policy = spec_tag(stream, tag).and_then(|entry| entry.pointer("/referencePolicy/type")).and_then(Value::as_str);
    let image = field(event, "image");
    if policy != Some("Local") || image.is_empty() {
        return source;
    }
    let local = stream.pointer("/status/dockerImageRepository").and_then(Value::as_str).unwrap_or_default();
    Reference::parse(local).map_or(source, |repository| repository.at(image).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn stream() -> Value {
        json!({"metadata": {"name": "app", "namespace": "p"}, "spec": {}, "status": {"dockerImageRepository": "r.svc:5000/p/app"}})
    }

    fn events(stream: &Value, tag: &str) -> Vec<(String, String)> {
        let entry = status_tag(stream, tag).expect("the tag is there");
        items(entry).iter().map(|e| (field(e, "image").into(), field(e, "dockerImageReference").into())).collect()
    }

    #[rstest]
    #[case("ref-1", "a", 1, false, &[("a", "ref-1")])]
    #[case("ref-1", "a", 2, true, &[("a", "ref-1")])]
    #[case("ref-2", "a", 1, true, &[("a", "ref-2")])]
    #[case("ref-1", "b", 1, true, &[("b", "ref-1")])]
    #[case("ref-2", "b", 1, true, &[("b", "ref-2"), ("a", "ref-1")])]
    fn history_grows_only_for_another_image_elsewhere(
        #[case] reference: &str,
        #[case] image: &str,
        #[case] generation: i64,
        #[case] changed: bool,
        #[case] expected: &[(&str, &str)],
    ) {
        let mut stream = stream();
        assert!(add_event(&mut stream, "v1", event("ref-1", "a", 1)));
        assert_eq!(add_event(&mut stream, "v1", event(reference, image, generation)), changed);
        let expected: Vec<_> = expected.iter().map(|(i, r)| ((*i).to_owned(), (*r).to_owned())).collect();
        assert_eq!(events(&stream, "v1"), expected);
    }

    #[test]
    fn followers_follow() {
        let mut stream = stream();
        for (name, from) in [("a", "v1"), ("b", "app:v1"), ("c", "other:v1")] {
            set_spec_tag(&mut stream, json!({"name": name, "from": {"kind": "ImageStreamTag", "name": from}}));
        }
        assert_eq!(update_tracking(&mut stream, "v1", &event("ref", "i", 1)), 2);
        assert!(latest(&stream, "a").is_some() && latest(&stream, "b").is_some() && latest(&stream, "c").is_none());
    }

    #[test]
    fn the_last_of_equal_tags_wins() {
        let mut stream = json!({"spec": {"tags": [{"name": "b"}, {"name": "a", "n": 1}, {"name": "a", "n": 2}]}});
        normalize(&mut stream);
        assert_eq!(stream["spec"]["tags"], json!([{"name": "a", "n": 2}, {"name": "b"}]));
    }

    #[test]
    fn a_local_tag_is_pulled_from_the_stream() {
        let mut stream = stream();
        let image = "sha256:0123456789abcdef0123456789abcdef";
        let newest = event("quay.io/x/y:1", image, 1);
        assert_eq!(pull_spec(&stream, "v1", &newest), "quay.io/x/y:1");
        set_spec_tag(&mut stream, json!({"name": "v1", "referencePolicy": {"type": "Local"}}));
        assert_eq!(pull_spec(&stream, "v1", &newest), format!("r.svc:5000/p/app@{image}"));
    }

    #[test]
    fn a_short_id_must_be_unambiguous() {
        let mut stream = stream();
        add_event(&mut stream, "a", event("r1", "sha256:aa11", 1));
        add_event(&mut stream, "b", event("r2", "sha256:aa22", 1));
        assert!(resolve_image(&stream, "aa1").expect("one").is_some());
        assert!(resolve_image(&stream, "ff").expect("none").is_none());
        assert_eq!(resolve_image(&stream, "aa"), Err(vec!["sha256:aa11".into(), "sha256:aa22".into()]));
    }
}
