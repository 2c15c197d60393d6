//! The two views of one tag of a stream: `imagestreamtags` (`oc tag`, triggers) and `imagetags`.
//! Neither is stored; both read and write the stream behind them.
//! Rules of openshift-apiserver pkg/image/apiserver/registry/{imagestreamtag,imagetag}/rest.go (main).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::collection::{CONFLICT_RETRIES, create, get, replace_stream};
use crate::handler::{ImageApi, Reply};
use crate::history;
use crate::image::without_texts;
use crate::image_stream::Part;
use crate::patch::Patch;
use crate::request::{Call, Query, Verb};
use crate::status::{GROUP, StatusError, success};
use crate::store::{Kind, Place, name_of, namespace_of, split_term};
use crate::turns::Turn;

/// Which of the two views is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    ImageStreamTag,
    ImageTag,
}

impl View {
    fn kind(self) -> &'static str {
        match self {
            Self::ImageStreamTag => "ImageStreamTag",
            Self::ImageTag => "ImageTag",
        }
    }

    fn resource(self) -> &'static str {
        match self {
            Self::ImageStreamTag => "imagestreamtags",
            Self::ImageTag => "imagetags",
        }
    }

    /// Under which key the view holds the spec tag.
    fn spec_key(self) -> &'static str {
        match self {
            Self::ImageStreamTag => "tag",
            Self::ImageTag => "spec",
        }
    }

    /// The view of `tag`; with `allow_empty` also of a tag that is not (or not yet) there.
    fn show(self, stream: &Value, tag: &str, image: Option<Value>, allow_empty: bool) -> Result<Value, StatusError> {
        match self {
            Self::ImageStreamTag => image_stream_tag(stream, tag, image, allow_empty),
            Self::ImageTag => image_tag(stream, tag, image, allow_empty),
        }
    }
}

/// Answers a request for either view.
///
/// # Errors
/// 400 for a name that is not `<stream>:<tag>`, 404 for a tag that is not there, and what writing a stream refuses.
pub async fn handle(api: &ImageApi, call: &Call, view: View) -> Result<Reply, StatusError> {
    let outcome = match call.verb {
        Verb::Get => read(api, call, view).await,
        Verb::List => list(api, call, view).await,
        Verb::Create => make(api, call, view).await,
        Verb::Update => change(api, call, view, None).await,
        Verb::Patch => {
            let patch = Patch::read(call)?;
            change(api, call, view, Some(&patch)).await
        }
        Verb::Delete => remove(api, call, view).await,
        Verb::Watch | Verb::DeleteCollection => {
            Err(StatusError::method_not_supported(view.resource(), call.verb.as_str()))
        }
    };
    outcome.map_err(|error| error.about(view.resource()))
}

fn stream_and_tag(name: &str, view: View) -> Result<(&str, &str), StatusError> {
    match name.split_once(':') {
        Some((stream, tag)) if !stream.is_empty() && !tag.is_empty() && !tag.contains(':') => Ok((stream, tag)),
        _ => Err(StatusError::bad_request(format!("{}s must be retrieved with <name>:<tag>", view.kind()))),
    }
}

/// The image a tag points to: 404 in the words of the view if it points to none.
async fn image_of(api: &ImageApi, stream: &Value, tag: &str, view: View) -> Result<Value, StatusError> {
    let image = history::latest(stream, tag).and_then(|event| event["image"].as_str()).unwrap_or_default();
    if image.is_empty() {
        return Err(StatusError::not_found(view.resource(), &format!("{}:{tag}", name_of(stream))));
    }
    api.store.get(Place::IMAGES, image, &Query::default()).await
}

async fn image_if_any(api: &ImageApi, stream: &Value, tag: &str, view: View) -> Result<Option<Value>, StatusError> {
    match image_of(api, stream, tag, view).await {
        Ok(image) => Ok(Some(image)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn read(api: &ImageApi, call: &Call, view: View) -> Result<Reply, StatusError> {
    let (name, tag) = stream_and_tag(call.name(), view)?;
    let stream = get(api, Place::streams(call.namespace()?), name, &call.query).await?;
    let image = match view {
        View::ImageStreamTag => Some(image_of(api, &stream, tag, view).await?),
        View::ImageTag => image_if_any(api, &stream, tag, view).await?,
    };
    Ok(Reply::ok(view.show(&stream, tag, image, false)?))
}

async fn list(api: &ImageApi, call: &Call, view: View) -> Result<Reply, StatusError> {
    let place = Place { kind: Kind::ImageStream, namespace: call.target.namespace.as_deref() };
    let query = call.query.only(&["labelSelector", "resourceVersion", "resourceVersionMatch"]);
    let mut streams = api.store.list(place, &query).await?;
    let mut items = Vec::new();
    for stream in streams["items"].as_array_mut().into_iter().flatten() {
        api.decorate(stream);
        let mut tags: BTreeSet<&str> = history::status_tags(stream).iter().filter_map(|t| t["tag"].as_str()).collect();
        if view == View::ImageTag {
            tags.extend(history::spec_tags(stream).iter().filter_map(|t| t["name"].as_str()));
        }
        for tag in tags {
            match view.show(stream, tag, None, false) {
                Ok(item) if selected(&item, call.query.get("fieldSelector"))? => items.push(item),
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Reply::ok(json!({
        "kind": format!("{}List", view.kind()),
        "apiVersion": format!("{GROUP}/v1"),
        "metadata": {"resourceVersion": streams["metadata"]["resourceVersion"]},
        "items": items,
    })))
}

fn selected(item: &Value, selector: Option<&str>) -> Result<bool, StatusError> {
    for term in selector.unwrap_or_default().split(',').filter(|term| !term.is_empty()) {
        let (field, operator, wanted) =
            split_term(term).ok_or_else(|| StatusError::bad_request(format!("invalid field selector {term:?}")))?;
        let seen = match field {
            "metadata.name" => name_of(item),
            "metadata.namespace" => namespace_of(item),
            _ => return Err(StatusError::bad_request(format!("field label not supported: {field}"))),
        };
        if (seen == wanted) == (operator == "!=") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A stream that does not exist yet, as the tag's writer would have it.
fn new_stream(namespace: &str, name: &str) -> Value {
    json!({
        "kind": "ImageStream",
        "apiVersion": format!("{GROUP}/v1"),
        "metadata": {"name": name, "namespace": namespace},
        "spec": {},
    })
}

async fn make(api: &ImageApi, call: &Call, view: View) -> Result<Reply, StatusError> {
    let given = call.object(view.kind())?;
    let full_name = name_of(&given).to_owned();
    let (name, tag) = stream_and_tag(&full_name, view)?;
    let namespace = call.namespace()?;
    let place = Place::streams(namespace);
    let mut turn = Turn::default();
    for _ in 0..CONFLICT_RETRIES {
        let existing = match get(api, place, name, &Query::default()).await {
            Ok(stream) => Some(stream),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let mut stream = existing.clone().unwrap_or_else(|| new_stream(namespace, name));
        if history::spec_tag(&stream, tag).is_some() {
            return Err(StatusError::already_exists(view.resource(), &full_name));
        }
        if let Some(mut entry) = given.get(view.spec_key()).filter(|entry| entry.is_object()).cloned() {
            entry["name"] = tag.into();
            history::set_spec_tag(&mut stream, entry);
        }
        let written = match &existing {
            Some(old) => replace_stream(api, &call.user, old, stream, &call.query, Part::Both).await,
            None => create(api, &call.user, place, stream, &call.query, Part::Both).await,
        };
        match written {
            Ok(stream) => {
                let image = image_if_any(api, &stream, tag, view).await?;
                return Ok(Reply::created(view.show(&stream, tag, image, true)?));
            }
            Err(error) if error.is_conflict() || error.is_already_exists() => {
                turn.wait(&api.turns, namespace, name).await;
            }
            Err(error) => return Err(error),
        }
    }
    Err(StatusError::server_timeout(view.resource(), "create", 2))
}

/// A whole new version (the body) or a patch of the tag. Makes tag and stream if they are missing.
async fn change(api: &ImageApi, call: &Call, view: View, patch: Option<&Patch>) -> Result<Reply, StatusError> {
    let (name, tag) = stream_and_tag(call.name(), view)?;
    let namespace = call.namespace()?;
    let place = Place::streams(namespace);
    let mut tries_left = CONFLICT_RETRIES;
    let mut turn = Turn::default();
    loop {
        let existing = match get(api, place, name, &Query::default()).await {
            Ok(stream) => Some(stream),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let mut stream = existing.clone().unwrap_or_else(|| new_stream(namespace, name));
        let shown = view.show(&stream, tag, None, true)?;
        let mut wanted = match patch {
            Some(patch) => patch.apply(&shown, view.kind(), call.name())?,
            None => call.object(view.kind())?,
        };
        call.fit(&mut wanted, view.kind())?;
        let insists = match patch {
            Some(patch) => patch.resource_version(),
            None => wanted.pointer("/metadata/resourceVersion").and_then(Value::as_str).filter(|v| !v.is_empty()),
        };
        match (insists, &existing) {
            (Some(_), None) => return Err(StatusError::not_found(view.resource(), call.name())),
            (Some(version), Some(stream)) if stream["metadata"]["resourceVersion"] != version => {
                let current = stream["metadata"]["resourceVersion"].as_str().unwrap_or_default();
                let why = format!("another caller has updated the resource version to {current}");
                return Err(StatusError::conflict(view.resource(), call.name(), &why));
            }
            _ => {}
        }
        let may_retry = insists.is_none();
        let existed = history::spec_tag(&stream, tag).is_some();
        set_tag(&mut stream, tag, &wanted, view)?;
        let written = match &existing {
            Some(old) => replace_stream(api, &call.user, old, stream, &call.query, Part::Both).await,
            None => create(api, &call.user, place, stream, &call.query, Part::Both).await,
        };
        match written {
            Ok(stream) => {
                let image = image_if_any(api, &stream, tag, view).await?;
                let shown = view.show(&stream, tag, image, true)?;
                return Ok(if existed { Reply::ok(shown) } else { Reply::created(shown) });
            }
            Err(error) if error.is_conflict() && may_retry && tries_left > 0 => {
                tries_left -= 1;
                turn.wait(&api.turns, namespace, name).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Writes what a view holds into the spec of the stream.
fn set_tag(stream: &mut Value, tag: &str, wanted: &Value, view: View) -> Result<(), StatusError> {
    let given = wanted.get(view.spec_key()).filter(|entry| entry.is_object());
    let before = history::spec_tag(stream, tag).cloned();
    match (view, given, before) {
        (_, Some(entry), _) => {
            let mut entry = entry.clone();
            entry["name"] = tag.into();
            if view == View::ImageStreamTag {
                entry["annotations"] = wanted["metadata"]["annotations"].clone();
            }
            history::set_spec_tag(stream, entry);
        }
        (View::ImageStreamTag, None, Some(mut entry)) => {
            entry["annotations"] = wanted["metadata"]["annotations"].clone();
            history::set_spec_tag(stream, entry);
        }
        (View::ImageStreamTag, None, None) => {
            return Err(StatusError::bad_request(format!(
                "imagestreamtag {tag} is not a spec tag in imagestream {}/{}, cannot be updated",
                namespace_of(stream),
                name_of(stream),
            )));
        }
        (View::ImageTag, None, _) => {
            if let Some(tags) = stream.pointer_mut("/spec/tags").and_then(Value::as_array_mut) {
                tags.retain(|entry| entry["name"] != tag);
            }
        }
    }
    Ok(())
}

async fn remove(api: &ImageApi, call: &Call, view: View) -> Result<Reply, StatusError> {
    let (name, tag) = stream_and_tag(call.name(), view)?;
    let options = call.delete_options()?;
    let wanted_uid = options.pointer("/preconditions/uid").and_then(Value::as_str);
    let mut turn = Turn::default();
    for _ in 0..CONFLICT_RETRIES {
        let old = get(api, Place::streams(call.namespace()?), name, &Query::default()).await?;
        if wanted_uid.is_some_and(|uid| old["metadata"]["uid"] != uid) {
            return Err(StatusError::conflict(view.resource(), call.name(), "the UID precondition was not met"));
        }
        let mut stream = old.clone();
        if !history::remove(&mut stream, tag) {
            return Err(StatusError::not_found(view.resource(), call.name()));
        }
        match replace_stream(api, &call.user, &old, stream, &call.query, Part::Both).await {
            Ok(_) => return Ok(Reply::ok(success())),
            Err(error) if error.is_not_found() => return Ok(Reply::ok(success())),
            Err(error) if error.is_conflict() => turn.wait(&api.turns, call.namespace()?, name).await,
            Err(error) => return Err(error),
        }
    }
    Err(StatusError::server_timeout(view.resource(), "delete", 2))
}

fn image_stream_tag(stream: &Value, tag: &str, image: Option<Value>, allow_empty: bool) -> Result<Value, StatusError> {
    let name = format!("{}:{tag}", name_of(stream));
    let event = history::latest(stream, tag).filter(|event| !event["image"].as_str().unwrap_or_default().is_empty());
    if event.is_none() && !allow_empty {
        return Err(StatusError::not_found("imagestreamtags", &name));
    }
    let spec = history::spec_tag(stream, tag);
    let annotations = spec.and_then(|entry| entry["annotations"].as_object()).cloned().unwrap_or_default();
    let mut shown_image = match (image, event) {
        (Some(image), _) => without_texts(image),
        (None, Some(event)) => json!({"metadata": {"name": event["image"]}}),
        (None, None) => json!({"metadata": {}}),
    };
    for (key, value) in &annotations {
        crate::image::annotate(&mut shown_image, key, value.as_str().unwrap_or_default());
    }
    for key in ["dockerImageMetadata", "dockerImageLayers"] {
        if let Some(map) = shown_image.as_object_mut() {
            map.entry(key).or_insert(Value::Null);
        }
    }
    if let Some(event) = event {
        shown_image["dockerImageReference"] = history::pull_spec(stream, tag, event).into();
    }
    let metadata = &stream["metadata"];
    let mut shown_metadata = Map::new();
    shown_metadata.insert("name".into(), name.into());
    shown_metadata.insert("namespace".into(), metadata["namespace"].clone());
    let created = event.map_or(&metadata["creationTimestamp"], |event| &event["created"]);
    for (key, value) in [
        ("uid", &metadata["uid"]),
        ("resourceVersion", &metadata["resourceVersion"]),
        ("creationTimestamp", created),
        ("labels", &metadata["labels"]),
    ] {
        if !value.is_null() {
            shown_metadata.insert(key.into(), value.clone());
        }
    }
    if !annotations.is_empty() {
        shown_metadata.insert("annotations".into(), Value::Object(annotations));
    }
    let mut shown = json!({
        "kind": "ImageStreamTag",
        "apiVersion": format!("{GROUP}/v1"),
        "metadata": shown_metadata,
        "tag": spec.cloned().unwrap_or(Value::Null),
        "generation": event.map_or(json!(0), |event| event["generation"].clone()),
        "lookupPolicy": stream.pointer("/spec/lookupPolicy").cloned().unwrap_or_else(|| json!({"local": false})),
        "image": shown_image,
    });
    if let Some(conditions) = history::status_tag(stream, tag).and_then(|entry| entry.get("conditions")) {
        shown["conditions"] = conditions.clone();
    }
    Ok(shown)
}

fn image_tag(stream: &Value, tag: &str, image: Option<Value>, allow_empty: bool) -> Result<Value, StatusError> {
    let name = format!("{}:{tag}", name_of(stream));
    let (spec, status) = (history::spec_tag(stream, tag), history::status_tag(stream, tag));
    if spec.is_none() && status.is_none() && !allow_empty {
        return Err(StatusError::not_found("imagetags", &name));
    }
    let mut metadata = stream["metadata"].clone();
    metadata["name"] = name.into();
    let shown_image = image.map(|image| {
        let mut image = without_texts(image);
        if let Some(event) = history::latest(stream, tag) {
            image["dockerImageReference"] = history::pull_spec(stream, tag, event).into();
        }
        image
    });
    Ok(json!({
        "kind": "ImageTag",
        "apiVersion": format!("{GROUP}/v1"),
        "metadata": metadata,
        "spec": spec.cloned().unwrap_or(Value::Null),
        "status": status.cloned().unwrap_or(Value::Null),
        "image": shown_image.unwrap_or(Value::Null),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn stream() -> Value {
        let mut stream = new_stream("p", "app");
        stream["metadata"]["resourceVersion"] = "5".into();
        stream["metadata"]["uid"] = "u".into();
        history::add_event(&mut stream, "v1", history::event("r:5000/p/app@sha256:aa", "sha256:aa", 2));
        stream
    }

    #[rstest]
    #[case("app:v1", true)]
    #[case("app", false)]
    #[case(":v1", false)]
    #[case("app:", false)]
    #[case("app:v1:v2", false)]
    fn names_have_two_parts(#[case] name: &str, #[case] good: bool) {
        assert_eq!(stream_and_tag(name, View::ImageStreamTag).is_ok(), good);
    }

    #[test]
    fn a_tag_carries_the_identity_of_its_stream() {
        let shown = image_stream_tag(&stream(), "v1", None, false).expect("the tag is there");
        assert_eq!(shown["metadata"]["name"], "app:v1");
        assert_eq!(shown["metadata"]["uid"], "u");
        assert_eq!(shown["metadata"]["resourceVersion"], "5");
        assert_eq!(shown["generation"], 2);
        assert_eq!(shown["image"]["metadata"]["name"], "sha256:aa");
        assert_eq!(shown["image"]["dockerImageReference"], "r:5000/p/app@sha256:aa");
    }

    #[test]
    fn a_tag_that_is_not_there_is_not_found() {
        let missing = image_stream_tag(&stream(), "v2", None, false).expect_err("no such tag");
        assert_eq!(missing, StatusError::not_found("imagestreamtags", "app:v2"));
        assert!(image_tag(&stream(), "v2", None, false).is_err());
    }

    #[test]
    fn only_spec_tags_can_be_annotated() {
        let mut stream = stream();
        let wanted = json!({"metadata": {"annotations": {"a": "b"}}});
        assert_eq!(set_tag(&mut stream, "v1", &wanted, View::ImageStreamTag).expect_err("no spec tag").code, 400);
        history::set_spec_tag(&mut stream, json!({"name": "v1"}));
        set_tag(&mut stream, "v1", &wanted, View::ImageStreamTag).expect("a spec tag");
        assert_eq!(stream["spec"]["tags"][0]["annotations"]["a"], "b");
    }
}
