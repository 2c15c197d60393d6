//! Images and image streams as collections: the verbs every Kubernetes resource has, with resource versions,
//! dry runs and selectors. What a write does to the object itself is decided in `image` and `image_stream`.

use http::StatusCode;
use serde_json::Value;
use uuid::Uuid;

use crate::handler::{ImageApi, Reply};
use crate::image;
use crate::image_stream::{self, Part};
use crate::limits;
use crate::patch::Patch;
use crate::request::{Call, Query, User, Verb};
use crate::status::StatusError;
use crate::store::{Kind, Place, name_of};
use crate::turns::Turn;
use crate::watch::{self, Wording};

/// How often a write that insists on no resource version is tried again when others write in between.
pub const CONFLICT_RETRIES: usize = 30;

/// Answers a request for `images`, `imagestreams` or `imagestreams/status`.
///
/// # Errors
/// What the store or the rules of the resource refuse.
pub async fn handle(api: &ImageApi, call: &Call, kind: Kind) -> Result<Reply, StatusError> {
    let place = Place { kind, namespace: call.target.namespace.as_deref() };
    match call.verb {
        Verb::Get => Ok(Reply::ok(get(api, place, call.name(), &call.query).await?)),
        Verb::List => {
            let mut list = api.store.list(place, &call.query).await?;
            if let (Kind::ImageStream, Some(items)) = (kind, list["items"].as_array_mut()) {
                items.iter_mut().for_each(|item| api.decorate(item));
            }
            Ok(Reply::ok(list))
        }
        Verb::Watch => {
            let upstream = api.store.watch(place, &call.query).await?;
            let wording =
                Wording { kind, form: call.form, query: call.query.clone(), hostnames: api.hostnames.clone() };
            Ok(Reply::Stream(watch::body(upstream, wording, api.stop.child_token())))
        }
        Verb::Create => {
            let mut object = call.object(kind.name())?;
            generate_name(&mut object);
            let created = create(api, &call.user, place, object, &call.query, Part::Spec).await?;
            Ok(Reply::created(created))
        }
        Verb::Update => {
            let object = call.object(kind.name())?;
            change(api, call, place, &Change::Whole(object)).await
        }
        Verb::Patch => change(api, call, place, &Change::Patch(Patch::read(call)?)).await,
        Verb::Delete => {
            let options = call.delete_options()?;
            let deleted = api.store.delete(place, call.name(), &options, &call.query).await?;
            Ok(Reply::ok(shown(api, kind, deleted)))
        }
        Verb::DeleteCollection => {
            let options = call.delete_options()?;
            Ok(Reply::ok(api.store.delete_collection(place, &options, &call.query).await?))
        }
    }
}

/// The object as clients see it.
///
/// # Errors
/// 404 if it is not there.
pub async fn get(api: &ImageApi, place: Place<'_>, name: &str, query: &Query) -> Result<Value, StatusError> {
    Ok(shown(api, place.kind, api.store.get(place, name, query).await?))
}

/// Prepares and stores a new object.
///
/// # Errors
/// 409 if the name is taken, 422 if the object is no good, 404 if its namespace is missing.
pub async fn create(
    api: &ImageApi,
    user: &User,
    place: Place<'_>,
    mut object: Value,
    query: &Query,
    part: Part,
) -> Result<Value, StatusError> {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        if metadata.get("resourceVersion").and_then(Value::as_str).is_some_and(|version| !version.is_empty()) {
            return Err(StatusError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        for key in ["resourceVersion", "uid", "creationTimestamp", "deletionTimestamp"] {
            metadata.remove(key);
        }
    }
    match place.kind {
        Kind::Image => image::prepare_create(&mut object)?,
        Kind::ImageStream => {
            image_stream::prepare_create(api, user, &mut object, part).await?;
            let namespace = place.namespace.unwrap_or_default();
            limits::check_stream_quota(&api.store, namespace, name_of(&object)).await?;
        }
    }
    Ok(shown(api, place.kind, api.store.create(place, &object, query).await?))
}

/// Prepares and stores a new version of a stream that was read before; its resource version must still hold.
///
/// # Errors
/// 409 if somebody else wrote in between, 422 if the stream is no good.
pub async fn replace_stream(
    api: &ImageApi,
    user: &User,
    old: &Value,
    mut stream: Value,
    query: &Query,
    part: Part,
) -> Result<Value, StatusError> {
    let namespace = crate::store::namespace_of(old).to_owned();
    image_stream::prepare_update(api, user, old, &mut stream, part).await?;
    Ok(shown(api, Kind::ImageStream, api.store.replace(Place::streams(&namespace), &stream, query).await?))
}

fn shown(api: &ImageApi, kind: Kind, mut object: Value) -> Value {
    if kind == Kind::ImageStream && object["kind"] == kind.name() {
        api.decorate(&mut object);
    }
    object
}

enum Change {
    Whole(Value),
    Patch(Patch),
}

impl Change {
    fn resource_version(&self) -> Option<&str> {
        match self {
            Self::Whole(object) => {
                object.pointer("/metadata/resourceVersion").and_then(Value::as_str).filter(|v| !v.is_empty())
            }
            Self::Patch(patch) => patch.resource_version(),
        }
    }

    fn apply(&self, old: &Value, kind: Kind) -> Result<Value, StatusError> {
        match self {
            Self::Whole(object) => Ok(object.clone()),
            Self::Patch(patch) => patch.apply(old, kind.name(), name_of(old)),
        }
    }
}

async fn change(api: &ImageApi, call: &Call, place: Place<'_>, change: &Change) -> Result<Reply, StatusError> {
    let kind = place.kind;
    let part = if call.target.subresource.is_some() { Part::Status } else { Part::Spec };
    let mut tries_left = CONFLICT_RETRIES;
    let mut turn = Turn::default();
    loop {
        let old = match get(api, place, call.name(), &Query::default()).await {
            Ok(old) => old,
            Err(error) if error.is_not_found() && part == Part::Spec => {
                let Change::Patch(Patch::Apply(object)) = change else { return Err(error) };
                let mut object = object.clone();
                call.fit(&mut object, kind.name())?;
                return Ok(Reply::created(create(api, &call.user, place, object, &call.query, part).await?));
            }
            Err(error) => return Err(error),
        };
        let mut new = change.apply(&old, kind)?;
        call.fit(&mut new, kind.name())?;
        check_precondition(&old, &mut new, kind)?;
        match kind {
            Kind::Image => image::prepare_update(&old, &mut new)?,
            Kind::ImageStream => {
                image_stream::prepare_update(api, &call.user, &old, &mut new, part).await?;
                if part == Part::Status {
                    image_stream::check_limits(api, Some(&old), &new).await?;
                }
            }
        }
        match api.store.replace(place, &new, &call.query).await {
            Ok(stored) => return Ok(Reply::Object(StatusCode::OK, shown(api, kind, stored))),
            Err(error) if error.is_conflict() && change.resource_version().is_none() && tries_left > 0 => {
                tries_left -= 1;
                turn.wait(&api.turns, place.namespace.unwrap_or_default(), call.name()).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// A resource version or uid in the new version must be that of the old one; without, the old one's are taken.
fn check_precondition(old: &Value, new: &mut Value, kind: Kind) -> Result<(), StatusError> {
    for key in ["resourceVersion", "uid"] {
        let given = new["metadata"][key].as_str().unwrap_or_default();
        if !given.is_empty() && old["metadata"][key] != given {
            let why = match key {
                "uid" => "the object has been deleted and made anew: the uid in the precondition is another one",
                _ => "the object has been modified; please apply your changes to the latest version and try again",
            };
            return Err(StatusError::conflict(kind.resource(), name_of(old), why));
        }
        new["metadata"][key] = old["metadata"][key].clone();
    }
    new["metadata"]["creationTimestamp"] = old["metadata"]["creationTimestamp"].clone();
    Ok(())
}

/// Makes a name out of `metadata.generateName` where none is given.
fn generate_name(object: &mut Value) {
    let prefix = object.pointer("/metadata/generateName").and_then(Value::as_str).unwrap_or_default();
    if !prefix.is_empty() && name_of(object).is_empty() {
        let suffix = Uuid::new_v4().simple().to_string();
        object["metadata"]["name"] = format!("{prefix}{}", &suffix[..5]).into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case(json!({}), true)]
    #[case(json!({"resourceVersion": "5", "uid": "u"}), true)]
    #[case(json!({"resourceVersion": "4"}), false)]
    #[case(json!({"uid": "other"}), false)]
    fn stale_versions_are_refused(#[case] metadata: Value, #[case] good: bool) {
        let old = json!({"metadata": {"name": "app", "resourceVersion": "5", "uid": "u"}});
        let mut new = json!({"metadata": metadata});
        let outcome = check_precondition(&old, &mut new, Kind::ImageStream);
        assert_eq!(outcome.as_ref().err().map(|e| e.reason.as_str()), (!good).then_some("Conflict"));
        if good {
            assert_eq!(new["metadata"]["resourceVersion"], "5");
        }
    }

    #[test]
    fn a_generated_name_keeps_its_prefix() {
        let mut object = json!({"metadata": {"generateName": "app-"}});
        generate_name(&mut object);
        assert_eq!(name_of(&object).len(), "app-".len() + 5);
    }
}
