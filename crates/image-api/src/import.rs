//! `imagestreamimports`: looks at images elsewhere and, if asked to, tags them into a stream.
//! Rules of openshift-apiserver pkg/image/apiserver/registry/imagestreamimport/rest.go (main).

use serde_json::{Value, json};

use crate::collection::{CONFLICT_RETRIES, create, get, replace_stream};
use crate::credentials::Keyring;
use crate::handler::{ImageApi, Reply};
use crate::history;
use crate::image::{is_list, prepare_create, without_texts};
use crate::image_stream::Part;
use crate::reference::Reference;
use crate::remote::{Manifest, Repository};
use crate::request::{Call, Query};
use crate::secrets::pull_secrets;
use crate::status::{Cause, GROUP, StatusError, success};
use crate::store::{Place, name_of};
use crate::turns::Turn;

/// Annotation with the time of the last import of a stream.
const CHECKED: &str = "openshift.io/image.dockerRepositoryCheck";
/// As many tags of a repository are imported; the others are only named.
const TAGS_PER_REPOSITORY: usize = 50;

/// Answers a posted import. What cannot be fetched is reported per image, not as an error of the request.
///
/// # Errors
/// 422 for a spec that names nothing to import, 409 if the stream has another resource version than given, and
/// what writing images and streams refuses.
pub async fn handle(api: &ImageApi, call: &Call) -> Result<Reply, StatusError> {
    let mut import = call.object("ImageStreamImport")?;
    let namespace = call.namespace()?;
    validate(&mut import)?;
    let secrets = pull_secrets(&api.store, namespace, &Query::default()).await?;
    let keyring = Keyring::from_secrets(&secrets);
    let mut wanted = Vec::new();
    for spec in array(&import["spec"], "images") {
        wanted.push(fetch(api, &keyring, Wanted::image(spec)).await);
    }
    let repository = match import["spec"].get("repository").filter(|r| r.is_object()) {
        Some(spec) => Some(fetch_repository(api, &keyring, spec).await?),
        None => None,
    };
    let stream = if import["spec"]["import"] == true {
        let tagged = wanted.iter().chain(repository.iter().flat_map(|r| &r.images));
        Some(record(api, call, namespace, &import, tagged.collect()).await?)
    } else {
        None
    };
    import["status"] = json!({"images": wanted.iter().map(Outcome::show).collect::<Vec<_>>()});
    if let Some(repository) = repository {
        import["status"]["repository"] = repository.show();
    }
    if let Some(stream) = stream {
        import["status"]["import"] = stream;
    }
    import["metadata"]["creationTimestamp"] = history::now().into();
    Ok(Reply::created(import))
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Checks the spec, and fills the tag an image goes to from the tag it comes from.
fn validate(import: &mut Value) -> Result<(), StatusError> {
    let mut causes = Vec::new();
    if name_of(import).is_empty() {
        causes.push(Cause::required("metadata.name"));
    }
    if array(&import["spec"], "images").is_empty() && !import["spec"]["repository"].is_object() {
        causes.push(Cause::invalid("spec", "", "you must specify at least one repository or image to import"));
    }
    for (at, spec) in import["spec"]["images"].as_array_mut().into_iter().flatten().enumerate() {
        let name = text(spec, "/from/name").to_owned();
        match (text(spec, "/from/kind"), Reference::parse(&name)) {
            ("DockerImage", Some(reference)) => {
                if !spec["to"].is_object() && !reference.tag.is_empty() {
                    spec["to"] = json!({"name": reference.tag});
                }
            }
            ("DockerImage", None) => {
                let path = format!("spec.images[{at}].from.name");
                causes.push(Cause::invalid(path, &name, "invalid reference format"));
            }
            (other, _) => {
                let path = format!("spec.images[{at}].from.kind");
                causes.push(Cause::invalid(path, other, "only DockerImage is supported"));
            }
        }
    }
    if let Some(spec) = import["spec"].get("repository").filter(|r| r.is_object()) {
        match Reference::parse(text(spec, "/from/name")) {
            Some(reference) if reference.tag.is_empty() && reference.id.is_empty() => {}
            _ => causes.push(Cause::invalid(
                "spec.repository.from.name",
                text(spec, "/from/name"),
                "must be a repository without a tag or an ID",
            )),
        }
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(StatusError::invalid("ImageStreamImport", name_of(import), &causes))
}

/// One image to be looked at.
struct Wanted {
    from: String,
    tag: String,
    import_policy: Value,
    reference_policy: Value,
    include_manifest: bool,
}

impl Wanted {
    fn image(spec: &Value) -> Self {
        Self {
            from: text(spec, "/from/name").to_owned(),
            tag: text(spec, "/to/name").to_owned(),
            import_policy: policy(&spec["importPolicy"]),
            reference_policy: policy(&spec["referencePolicy"]),
            include_manifest: spec["includeManifest"] == true,
        }
    }
}

fn policy(value: &Value) -> Value {
    if value.is_object() { value.clone() } else { json!({}) }
}

/// What came of one image.
struct Outcome {
    wanted: Wanted,
    fetched: Result<Fetched, StatusError>,
}

struct Fetched {
    image: Value,
    children: Vec<Value>,
}

impl Outcome {
    fn show(&self) -> Value {
        let mut shown = match &self.fetched {
            Ok(fetched) => {
                let keep = |image: &Value| {
                    if self.wanted.include_manifest { image.clone() } else { without_texts(image.clone()) }
                };
                let mut shown = json!({"status": success(), "image": keep(&fetched.image)});
                if !fetched.children.is_empty() {
                    shown["manifests"] = fetched.children.iter().map(keep).collect();
                }
                shown
            }
            Err(error) => json!({"status": error.to_value()}),
        };
        if !self.wanted.tag.is_empty() {
            shown["tag"] = self.wanted.tag.clone().into();
        }
        shown
    }
}

struct RepositoryOutcome {
    status: Value,
    images: Vec<Outcome>,
    additional_tags: Vec<String>,
}

impl RepositoryOutcome {
    fn show(&self) -> Value {
        json!({
            "status": self.status,
            "images": self.images.iter().map(Outcome::show).collect::<Vec<_>>(),
            "additionalTags": self.additional_tags,
        })
    }
}

async fn fetch_repository(api: &ImageApi, keyring: &Keyring, spec: &Value) -> Result<RepositoryOutcome, StatusError> {
    let from = text(spec, "/from/name");
    let Some(reference) = Reference::parse(from) else {
        return Err(StatusError::bad_request(format!("{from:?} is not a repository")));
    };
    let insecure = spec.pointer("/importPolicy/insecure") == Some(&true.into());
    let located = Reference { tag: String::new(), ..reference.clone().with_client_defaults() };
    let mut tags = match api.remote.repository(&located, insecure, keyring).tags().await {
        Ok(tags) => tags,
        Err(error) => {
            return Ok(RepositoryOutcome { status: error.to_value(), images: vec![], additional_tags: vec![] });
        }
    };
    tags.sort_by_key(|tag| (tag != history::DEFAULT_TAG, tag.clone()));
    let additional_tags = tags.split_off(tags.len().min(TAGS_PER_REPOSITORY));
    let mut images = Vec::new();
    for tag in tags {
        let wanted = Wanted {
            from: Reference { tag: tag.clone(), ..reference.clone() }.to_string(),
            tag,
            import_policy: policy(&spec["importPolicy"]),
            reference_policy: policy(&spec["referencePolicy"]),
            include_manifest: spec["includeManifest"] == true,
        };
        images.push(fetch(api, keyring, wanted).await);
    }
    Ok(RepositoryOutcome { status: success(), images, additional_tags })
}

async fn fetch(api: &ImageApi, keyring: &Keyring, wanted: Wanted) -> Outcome {
    let fetched = match Reference::parse(&wanted.from) {
        Some(reference) => fetch_image(api, keyring, &reference.with_client_defaults(), &wanted.import_policy).await,
        None => Err(StatusError::bad_request(format!("{:?} is not a pull spec", wanted.from))),
    };
    Outcome { wanted, fetched }
}

async fn fetch_image(
    api: &ImageApi,
    keyring: &Keyring,
    reference: &Reference,
    import_policy: &Value,
) -> Result<Fetched, StatusError> {
    let insecure = import_policy["insecure"] == true;
    let repository = api.remote.repository(reference, insecure, keyring);
    let asked = if reference.id.is_empty() { &reference.tag } else { &reference.id };
    let manifest = repository.manifest(asked).await?;
    let parsed: Value = serde_json::from_str(&manifest.text).unwrap_or_default();
    if !is_list(&manifest.media_type) && !parsed["manifests"].is_array() {
        return Ok(Fetched { image: image(&repository, reference, manifest).await?, children: vec![] });
    }
    let digests: Vec<&str> = array(&parsed, "manifests").iter().filter_map(|child| child["digest"].as_str()).collect();
    if import_policy["importMode"] == "PreserveOriginal" {
        let mut children = Vec::new();
        for digest in digests {
            let child = repository.manifest(digest).await?;
            children.push(image(&repository, reference, child).await?);
        }
        return Ok(Fetched { image: image(&repository, reference, manifest).await?, children });
    }
    let for_linux =
        |child: &&Value| text(child, "/platform/os") == "linux" && text(child, "/platform/architecture") == "amd64";
    let chosen = array(&parsed, "manifests").iter().find(for_linux).and_then(|child| child["digest"].as_str());
    let Some(digest) = chosen.or(digests.first().copied()) else {
        return Err(StatusError::internal(format!("the manifest list {reference} is empty")));
    };
    let child = repository.manifest(digest).await?;
    Ok(Fetched { image: image(&repository, reference, child).await?, children: vec![] })
}

/// The Image object of a fetched manifest, its configuration fetched as well.
async fn image(repository: &Repository, reference: &Reference, manifest: Manifest) -> Result<Value, StatusError> {
    let parsed: Value = serde_json::from_str(&manifest.text).unwrap_or_default();
    let mut image = json!({
        "kind": "Image",
        "apiVersion": format!("{GROUP}/v1"),
        "metadata": {"name": manifest.digest},
        "dockerImageReference": reference.clone().at(&manifest.digest).to_string(),
        "dockerImageManifest": manifest.text,
        "dockerImageManifestMediaType": manifest.media_type,
    });
    if let Some(config) = parsed.pointer("/config/digest").and_then(Value::as_str) {
        image["dockerImageConfig"] = repository.blob(config).await?.into();
    }
    prepare_create(&mut image)?;
    Ok(image)
}

/// Stores what was fetched and lets the stream's tags point to it; returns the stream.
async fn record(
    api: &ImageApi,
    call: &Call,
    namespace: &str,
    import: &Value,
    outcomes: Vec<&Outcome>,
) -> Result<Value, StatusError> {
    let fetched = outcomes.iter().filter_map(|outcome| outcome.fetched.as_ref().ok());
    let images: Vec<&Value> = fetched.flat_map(|fetched| fetched.children.iter().chain([&fetched.image])).collect();
    for image in images {
        // The texts are not kept: they would let the store grow without bound.
        let mut kept = without_texts(image.clone());
        kept["kind"] = "Image".into();
        match api.store.create(Place::IMAGES, &kept, &call.query).await {
            Ok(_) => {}
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(error),
        }
    }
    let place = Place::streams(namespace);
    let insists = text(import, "/metadata/resourceVersion");
    let mut turn = Turn::default();
    for _ in 0..CONFLICT_RETRIES {
        let existing = match get(api, place, name_of(import), &Query::default()).await {
            Ok(stream) => Some(stream),
            Err(error) if error.is_not_found() && insists.is_empty() => None,
            Err(error) => return Err(error),
        };
        if let Some(stream) = &existing
            && !insists.is_empty()
            && stream["metadata"]["resourceVersion"] != insists
        {
            let seen = text(stream, "/metadata/resourceVersion");
            let why = format!("the image stream was updated from {insists:?} to {seen:?}");
            return Err(StatusError::conflict("imagestreams", name_of(import), &why));
        }
        let mut stream = existing.clone().unwrap_or_else(|| {
            json!({
                "kind": "ImageStream",
                "apiVersion": format!("{GROUP}/v1"),
                "metadata": {"name": name_of(import), "namespace": namespace},
                "spec": {},
            })
        });
        let next_generation = stream.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0) + 1;
        for outcome in &outcomes {
            tag(&mut stream, outcome, next_generation);
        }
        crate::image::annotate(&mut stream, CHECKED, &history::now());
        let written = match &existing {
            Some(old) => replace_stream(api, &call.user, old, stream, &call.query, Part::Both).await,
            None => create(api, &call.user, place, stream, &call.query, Part::Both).await,
        };
        match written {
            Err(error) if (error.is_conflict() || error.is_already_exists()) && insists.is_empty() => {
                turn.wait(&api.turns, namespace, name_of(import)).await;
            }
            other => return other,
        }
    }
    Err(StatusError::server_timeout("imagestreamimports", "create", 2))
}

/// Writes one outcome into the spec and the history of its tag, or its failure into the tag's conditions.
fn tag(stream: &mut Value, outcome: &Outcome, next_generation: i64) {
    let wanted = &outcome.wanted;
    if wanted.tag.is_empty() {
        return;
    }
    let tag = wanted.tag.as_str();
    let mut spec = history::spec_tag(stream, tag).cloned();
    match &outcome.fetched {
        Err(error) => {
            let condition = json!({
                "type": "ImportSuccess",
                "status": "False",
                "reason": error.reason,
                "message": error.message,
                "generation": next_generation,
                "lastTransitionTime": history::now(),
            });
            let same = |other: &Value| ["type", "status", "reason", "message"].iter().all(|k| other[k] == condition[k]);
            let known =
                history::status_tag(stream, tag).is_some_and(|entry| array(entry, "conditions").iter().any(same));
            if !known {
                history::set_conditions(stream, tag, vec![condition]);
                if let Some(spec) = &mut spec {
                    spec["generation"] = 0.into();
                }
            }
            let spec = spec.unwrap_or_else(|| spec_tag(wanted, None));
            history::set_spec_tag(stream, spec);
        }
        Ok(fetched) => {
            let reference = text(&fetched.image, "/dockerImageReference");
            let event = history::event(reference, name_of(&fetched.image), next_generation);
            if changed(stream, tag, &event) {
                spec = Some(spec_tag(wanted, spec));
                history::add_event(stream, tag, event);
            }
            if let Some(mut spec) = spec {
                spec["importPolicy"] = wanted.import_policy.clone();
                history::set_spec_tag(stream, spec);
            }
            history::set_conditions(stream, tag, vec![]);
        }
    }
}

/// The spec tag an import leaves behind; a reference policy that was there stays.
fn spec_tag(wanted: &Wanted, before: Option<Value>) -> Value {
    let mut spec = before.unwrap_or_else(|| json!({"name": wanted.tag, "annotations": null}));
    spec["from"] = json!({"kind": "DockerImage", "name": wanted.from});
    spec["generation"] = 0.into();
    spec["importPolicy"] = wanted.import_policy.clone();
    if text(&spec, "/referencePolicy/type").is_empty() {
        spec["referencePolicy"] = wanted.reference_policy.clone();
    }
    spec
}

fn changed(stream: &Value, tag: &str, event: &Value) -> bool {
    let (Some(before), Some(spec)) = (history::latest(stream, tag), history::spec_tag(stream, tag)) else {
        return true;
    };
    let asked_again = match spec["generation"].as_i64() {
        Some(generation) => generation > before["generation"].as_i64().unwrap_or(0),
        None => true,
    };
    ["image", "dockerImageReference"].iter().any(|key| before[key] != event[key]) || asked_again
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(fetched: Result<Fetched, StatusError>) -> Outcome {
        let spec = json!({"from": {"kind": "DockerImage", "name": "quay.io/a/b:v1"}, "to": {"name": "v1"}});
        Outcome { wanted: Wanted::image(&spec), fetched }
    }

    fn fetched(digest: &str) -> Result<Fetched, StatusError> {
        let image = json!({"metadata": {"name": digest}, "dockerImageReference": format!("quay.io/a/b@{digest}")});
        Ok(Fetched { image, children: vec![] })
    }

    #[test]
    fn the_tag_an_image_goes_to_is_the_one_it_comes_from() {
        let mut import = json!({
            "metadata": {"name": "app"},
            "spec": {"images": [{"from": {"kind": "DockerImage", "name": "quay.io/a/b:v1"}}]},
        });
        validate(&mut import).expect("a good import");
        assert_eq!(import["spec"]["images"][0]["to"]["name"], "v1");
        let refused = validate(&mut json!({"metadata": {"name": "app"}, "spec": {}})).expect_err("nothing to import");
        assert_eq!(refused.code, 422);
    }

    #[test]
    fn a_failure_is_a_condition_and_a_success_clears_it() {
        let mut stream = json!({"metadata": {"name": "app", "namespace": "p"}, "spec": {}});
        tag(&mut stream, &outcome(Err(StatusError::not_found("dockerimage", "quay.io/a/b:v1"))), 2);
        let entry = history::status_tag(&stream, "v1").expect("the tag").clone();
        assert_eq!(entry["conditions"][0]["reason"], "NotFound");
        assert_eq!(history::spec_tag(&stream, "v1").expect("a spec tag")["from"]["name"], "quay.io/a/b:v1");

        tag(&mut stream, &outcome(fetched("sha256:aa")), 3);
        let entry = history::status_tag(&stream, "v1").expect("the tag");
        assert!(entry.get("conditions").is_none());
        assert_eq!(entry["items"][0]["image"], "sha256:aa");
    }

    #[test]
    fn the_same_image_again_adds_no_history() {
        let mut stream = json!({"metadata": {"name": "app", "namespace": "p"}, "spec": {}});
        tag(&mut stream, &outcome(fetched("sha256:aa")), 2);
        tag(&mut stream, &outcome(fetched("sha256:aa")), 3);
        assert_eq!(history::items(history::status_tag(&stream, "v1").expect("the tag")).len(), 1);
        tag(&mut stream, &outcome(fetched("sha256:bb")), 4);
        assert_eq!(history::items(history::status_tag(&stream, "v1").expect("the tag")).len(), 2);
    }
}
