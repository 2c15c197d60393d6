//! `imagesignatures`: one signature of an image, added or taken away by name `<image>@<signature>`.
//! Rules of openshift-apiserver pkg/image/apiserver/registry/imagesignature/rest.go (main).

use serde_json::{Value, json};

use crate::collection::CONFLICT_RETRIES;
use crate::handler::{ImageApi, Reply};
use crate::request::{Call, Query, Verb};
use crate::status::{Cause, StatusError, success};
use crate::store::{Place, name_of};
use crate::turns::Turn;

/// Resource as errors spell it (with the capital S, as OpenShift does).
const RESOURCE: &str = "imageSignatures";

/// Answers create and delete.
///
/// # Errors
/// 404 if the image is not there, 409 if it has that signature already, 422 for a signature without content.
pub async fn handle(api: &ImageApi, call: &Call) -> Result<Reply, StatusError> {
    if call.verb == Verb::Delete {
        let name = call.name().to_owned();
        alter(api, call, &name, |signatures| {
            let before = signatures.len();
            signatures.retain(|signature| name_of(signature) != name);
            if signatures.len() == before { Err(StatusError::not_found(RESOURCE, &name)) } else { Ok(()) }
        })
        .await?;
        return Ok(Reply::ok(success()));
    }
    let mut signature = call.object("ImageSignature")?;
    validate(&signature)?;
    signature["metadata"]["creationTimestamp"] = crate::history::now().into();
    let name = name_of(&signature).to_owned();
    alter(api, call, &name, |signatures| {
        let same = |other: &Value| {
            name_of(other) == name || (other["type"] == signature["type"] && other["content"] == signature["content"])
        };
        if signatures.iter().any(same) {
            return Err(StatusError::already_exists(RESOURCE, &name));
        }
        signatures.push(signature.clone());
        Ok(())
    })
    .await?;
    Ok(Reply::created(signature))
}

fn validate(signature: &Value) -> Result<(), StatusError> {
    let name = name_of(signature);
    let mut causes = Vec::new();
    if image_of(name).is_none() {
        causes.push(Cause::invalid("metadata.name", name, "name must be of format <imageName>@<signatureName>"));
    }
    for key in ["type", "content"] {
        if signature[key].as_str().unwrap_or_default().is_empty() {
            causes.push(Cause::required(key));
        }
    }
    for key in ["labels", "annotations"] {
        if signature["metadata"][key].as_object().is_some_and(|map| !map.is_empty()) {
            causes.push(Cause::forbidden(format!("metadata.{key}"), "may not be set on signatures"));
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(StatusError::invalid("ImageSignature", name, &causes)) }
}

fn image_of(name: &str) -> Option<&str> {
    let (image, signature) = name.split_once('@')?;
    (!image.is_empty() && !signature.is_empty() && !signature.contains('@')).then_some(image)
}

async fn alter(
    api: &ImageApi,
    call: &Call,
    name: &str,
    change: impl Fn(&mut Vec<Value>) -> Result<(), StatusError>,
) -> Result<(), StatusError> {
    let image_name = image_of(name)
        .ok_or_else(|| StatusError::bad_request("ImageSignatures must be accessed with <imageName>@<signatureName>"))?;
    let mut turn = Turn::default();
    for _ in 0..CONFLICT_RETRIES {
        let mut image = api.store.get(Place::IMAGES, image_name, &Query::default()).await?;
        let mut signatures = match image.get_mut("signatures").map(Value::take) {
            Some(Value::Array(signatures)) => signatures,
            _ => Vec::new(),
        };
        change(&mut signatures)?;
        image["signatures"] = json!(signatures);
        match api.store.replace(Place::IMAGES, &image, &call.query).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_conflict() => turn.wait(&api.turns, "", image_name).await,
            Err(error) => return Err(error),
        }
    }
    Err(StatusError::server_timeout("imagesignatures", call.verb.as_str(), 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("sha256:ab@sig", Some("sha256:ab"))]
    #[case("sha256:ab", None)]
    #[case("@sig", None)]
    #[case("a@b@c", None)]
    fn names_lead_to_their_image(#[case] name: &str, #[case] image: Option<&str>) {
        assert_eq!(image_of(name), image);
    }

    #[rstest]
    #[case(json!({"metadata": {"name": "a@b"}, "type": "AtomicImageV1", "content": "YQ=="}), 0)]
    #[case(json!({"metadata": {"name": "a@b"}}), 2)]
    #[case(json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "type": "t", "content": "YQ=="}), 2)]
    fn signatures_need_a_name_a_type_and_content(#[case] signature: Value, #[case] causes: usize) {
        let seen = validate(&signature).err().map_or(0, |e| e.details["causes"].as_array().map_or(0, Vec::len));
        assert_eq!(seen, causes);
    }
}
