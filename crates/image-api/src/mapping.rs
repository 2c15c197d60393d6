//! `imagestreammappings`: what the registry posts after a push. Stores the image and lets the tag point to it.
//! Rules of openshift-apiserver pkg/image/apiserver/registry/imagestreammapping/rest.go (main).

use http::Method;
use serde_json::{Value, json};

use crate::collection::{CONFLICT_RETRIES, get, replace_stream};
use crate::handler::{ImageApi, Reply};
use crate::history;
use crate::image::{MANAGED, annotation, prepare_create};
use crate::image_stream::Part;
use crate::limits::Limits;
use crate::reference::Reference;
use crate::request::{Call, Query, percent_encode};
use crate::status::{Cause, StatusError, success};
use crate::store::{Kind, Place, name_of};
use crate::turns::Turn;

/// Answers a posted mapping. The same mapping again is no error and changes nothing.
///
/// # Errors
/// 404 with kind `imagestreammappings` and the stream's name if the stream is missing, which makes the registry
/// create it and come again; 404 with kind `namespaces` if the namespace is missing, which it reports as denied.
pub async fn handle(api: &ImageApi, call: &Call) -> Result<Reply, StatusError> {
    let mapping = call.object("ImageStreamMapping")?;
    let namespace = call.namespace()?;
    validate(&mapping)?;
    let (stream, limits) = tokio::join!(find_stream(api, namespace, &mapping), Limits::read(&api.store, namespace));
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) if error.is_not_found() => {
            check_namespace(api, namespace).await?;
            return Err(error.about("imagestreammappings"));
        }
        Err(error) => return Err(error),
    };
    record(api, call, &limits?, &mapping, stream).await.map_err(|error| error.about("imagestreammappings"))?;
    Ok(Reply::created(success()))
}

async fn check_namespace(api: &ImageApi, namespace: &str) -> Result<(), StatusError> {
    let path = format!("/api/v1/namespaces/{}", percent_encode(namespace));
    match api.store.call(Method::GET, &path, &Query::default(), None).await {
        Err(error) if error.is_not_found() => Err(StatusError::namespace_not_found(namespace)),
        _ => Ok(()),
    }
}

fn validate(mapping: &Value) -> Result<(), StatusError> {
    let mut causes = Vec::new();
    let repository = mapping["dockerImageRepository"].as_str().unwrap_or_default();
    if name_of(mapping).is_empty() && repository.is_empty() {
        causes.push(Cause::required("name"));
        causes.push(Cause::required("dockerImageRepository"));
    }
    if !repository.is_empty() && Reference::parse(repository).is_none() {
        causes.push(Cause::invalid("dockerImageRepository", repository, "invalid reference format"));
    }
    if mapping["tag"].as_str().unwrap_or_default().is_empty() {
        causes.push(Cause::required("tag"));
    }
    if name_of(&mapping["image"]).is_empty() {
        causes.push(Cause::required("image.metadata.name"));
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(StatusError::invalid("ImageStreamMapping", name_of(mapping), &causes))
}

/// By name, or by the repository the stream stands for.
async fn find_stream(api: &ImageApi, namespace: &str, mapping: &Value) -> Result<Value, StatusError> {
    let place = Place::streams(namespace);
    if !name_of(mapping).is_empty() {
        return get(api, place, name_of(mapping), &Query::default()).await;
    }
    let repository = &mapping["dockerImageRepository"];
    let mut streams = api.store.list(place, &Query::default()).await?;
    let found = streams["items"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .find(|stream| stream.pointer("/spec/dockerImageRepository") == Some(repository));
    let Some(stream) = found else {
        let cause = Cause::not_found("dockerImageStream", repository.as_str().unwrap_or_default());
        return Err(StatusError::invalid("ImageStreamMapping", "", &[cause]));
    };
    let mut stream = stream.take();
    api.decorate(&mut stream);
    debug_assert_eq!(stream["kind"], Kind::ImageStream.name());
    Ok(stream)
}

async fn record(
    api: &ImageApi,
    call: &Call,
    limits: &Limits,
    mapping: &Value,
    mut stream: Value,
) -> Result<(), StatusError> {
    let own_repository = stream.pointer("/status/dockerImageRepository").and_then(Value::as_str).unwrap_or_default();
    let own = Reference::parse(own_repository).map(|r| r.at(name_of(&mapping["image"])).to_string());
    let mut image = mapping["image"].clone();
    image["kind"] = "Image".into();
    if image["dockerImageReference"].as_str().unwrap_or_default().is_empty()
        && let Some(own) = &own
    {
        image["dockerImageReference"] = own.clone().into();
    }
    if let Some(map) = image.as_object_mut() {
        // Signatures come in through their own resource only.
        map.remove("signatures");
    }
    prepare_create(&mut image)?;
    limits.check_image(&image)?;
    let mut reference = image["dockerImageReference"].as_str().unwrap_or_default().to_owned();
    match api.store.create(Place::IMAGES, &image, &call.query).await {
        Ok(_) => {}
        Err(error) if error.is_already_exists() => {
            // Most likely pushed into another stream first: pulls of this tag shall come to this one.
            if let (Some(own), "true") = (own, annotation(&image, MANAGED)) {
                reference = own;
            }
        }
        Err(error) => return Err(error),
    }
    let tag = mapping["tag"].as_str().unwrap_or(history::DEFAULT_TAG);
    let mut turn = Turn::default();
    for _ in 0..CONFLICT_RETRIES {
        let generation = stream.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        let next = history::event(&reference, name_of(&image), generation);
        let seen = history::latest(&stream, tag).cloned();
        let mut changed = stream.clone();
        if !history::add_event(&mut changed, tag, next.clone()) {
            return Ok(());
        }
        history::update_tracking(&mut changed, tag, &next);
        limits.check_stream(Some(&stream), &changed)?;
        match replace_stream(api, &call.user, &stream, changed, &call.query, Part::Status).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_conflict() => {
                turn.wait(&api.turns, call.namespace()?, name_of(&stream)).await;
                stream = get(api, Place::streams(call.namespace()?), name_of(&stream), &Query::default()).await?;
                if moved(seen.as_ref(), history::latest(&stream, tag)) {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Err(StatusError::conflict("imagestreams", name_of(&stream), "other writers kept coming first"))
}

/// Whether somebody else let the tag point elsewhere; a tag that had no history yet is anybody's.
fn moved(before: Option<&Value>, now: Option<&Value>) -> bool {
    let target = |event: &Value| json!([event["image"], event["dockerImageReference"]]);
    before.is_some() && before.map(target) != now.map(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(json!({"metadata": {"name": "app"}, "tag": "v1", "image": {"metadata": {"name": "sha256:ab"}}}), &[])]
    #[case(json!({"metadata": {}, "tag": "v1", "image": {"metadata": {"name": "sha256:ab"}}}), &["name", "dockerImageRepository"])]
    #[case(json!({"metadata": {"name": "app"}, "image": {"metadata": {"name": "sha256:ab"}}}), &["tag"])]
    #[case(json!({"metadata": {"name": "app"}, "tag": "v1"}), &["image.metadata.name"])]
    fn mappings_are_checked(#[case] mapping: Value, #[case] fields: &[&str]) {
        let seen = validate(&mapping).err().map_or_else(Vec::new, |error| {
            let causes = error.details["causes"].as_array().cloned().unwrap_or_default();
            causes.iter().filter_map(|c| c["field"].as_str().map(str::to_owned)).collect()
        });
        assert_eq!(seen, fields);
    }

    #[test]
    fn a_race_for_a_new_tag_is_no_conflict() {
        let a = history::event("r", "a", 1);
        let b = history::event("r", "b", 2);
        assert!(!moved(None, Some(&b)));
        assert!(!moved(Some(&a), Some(&history::event("r", "a", 9))));
        assert!(moved(Some(&a), Some(&b)));
    }
}
