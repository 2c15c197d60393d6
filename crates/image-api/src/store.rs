//! Where images and image streams rest: custom resources of an internal group in the API server itself, so that
//! they survive a restart of this process, vanish with their namespace and carry real metadata.
//! Translation of names, bodies and errors happens here; nobody else knows of the backing objects.

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::client::Clients;
use crate::request::{Query, percent_encode};
use crate::status::{GROUP, StatusError};

/// Group of the backing custom resources.
pub const STORAGE_GROUP: &str = "storage.registry-conformance.local";

/// The two kinds that are really stored; everything else is a view of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Image,
    ImageStream,
}

impl Kind {
    /// Kind as clients see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "Image",
            Self::ImageStream => "ImageStream",
        }
    }

    /// Resource as clients see it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Image => "images",
            Self::ImageStream => "imagestreams",
        }
    }

    fn stored_resource(self) -> &'static str {
        match self {
            Self::Image => "storedimages",
            Self::ImageStream => "storedimagestreams",
        }
    }

    fn stored_kind(self) -> &'static str {
        match self {
            Self::Image => "StoredImage",
            Self::ImageStream => "StoredImageStream",
        }
    }

    fn namespaced(self) -> bool {
        self == Self::ImageStream
    }

    /// The CustomResourceDefinition behind this kind.
    pub fn definition(self) -> Value {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{}.{STORAGE_GROUP}", self.stored_resource())},
            "spec": {
                "group": STORAGE_GROUP,
                "scope": if self.namespaced() { "Namespaced" } else { "Cluster" },
                "names": {
                    "kind": self.stored_kind(),
                    "listKind": format!("{}List", self.stored_kind()),
                    "plural": self.stored_resource(),
                    "singular": self.stored_kind().to_lowercase(),
                },
                "versions": [{
                    "name": "v1",
                    "served": true,
                    "storage": true,
                    "schema": {"openAPIV3Schema": {
                        "type": "object",
                        "description": format!(
                            "Backing object of an {GROUP} {}. Use that API instead of this one.", self.name()
                        ),
                        "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
                    }},
                }],
            },
        })
    }
}

/// Name of the backing object. `sha256:abc` becomes `sha256-abc`; a name that still is no DNS subdomain
/// (streams may hold underscores) gets its offending letters replaced and a digest appended.
pub fn stored_name(name: &str) -> String {
    let plain = name.replace(':', "-");
    if is_dns_subdomain(&plain) {
        return plain;
    }
    let digest = Sha256::digest(name.as_bytes());
    let suffix: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let mut base: String =
        plain.to_ascii_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(200).collect();
    base = base.trim_matches('-').to_owned();
    format!("x-{base}-{suffix}").replace("x--", "x-")
}

fn is_dns_subdomain(name: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// Where an object or a collection lies.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub kind: Kind,
    /// `None` means all namespaces, or a kind without them.
    pub namespace: Option<&'a str>,
}

impl Place<'_> {
    /// Images have no namespace.
    pub const IMAGES: Place<'static> = Place { kind: Kind::Image, namespace: None };

    /// The streams of one namespace.
    pub fn streams(namespace: &str) -> Place<'_> {
        Place { kind: Kind::ImageStream, namespace: Some(namespace) }
    }

    fn path(self, name: Option<&str>) -> String {
        let mut path = format!("/apis/{STORAGE_GROUP}/v1");
        if let Some(namespace) = self.namespace {
            path.push_str("/namespaces/");
            path.push_str(&percent_encode(namespace));
        }
        path.push('/');
        path.push_str(self.kind.stored_resource());
        if let Some(name) = name {
            path.push('/');
            path.push_str(&stored_name(name));
        }
        path
    }
}

/// The API server as a store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    clients: Clients,
}

impl Store {
    /// A store that uses `clients` for everything.
    pub fn new(clients: Clients) -> Self {
        Self { clients }
    }

    /// The object called `name`.
    ///
    /// # Errors
    /// 404 if it is not there, and whatever the API server refuses.
    pub async fn get(&self, place: Place<'_>, name: &str, query: &Query) -> Result<Value, StatusError> {
        let query = query.only(&["resourceVersion"]);
        let stored = self.call(Method::GET, &place.path(Some(name)), &query, None).await;
        let stored = stored.map_err(|e| outward_error(e, place.kind, name))?;
        let object = outward(place.kind, stored);
        if name_of(&object) == name { Ok(object) } else { Err(StatusError::not_found(place.kind.resource(), name)) }
    }

    /// A list object with the matching items; selectors, paging and resource versions of `query` are honoured.
    ///
    /// # Errors
    /// 400 for selectors that are not understood, 410 for an expired continue token.
    pub async fn list(&self, place: Place<'_>, query: &Query) -> Result<Value, StatusError> {
        let query = stored_query(place.kind, query, LIST_PARAMETERS)?;
        let stored = self.call(Method::GET, &place.path(None), &query, None).await;
        Ok(outward_list(place.kind, stored.map_err(|e| outward_error(e, place.kind, ""))?))
    }

    /// A stream of watch events, one JSON line each, in the words of the backing objects; pass each through
    /// [`outward_event`].
    ///
    /// # Errors
    /// As for [`Store::list`].
    pub async fn watch(&self, place: Place<'_>, query: &Query) -> Result<kube::client::Body, StatusError> {
        let query = stored_query(place.kind, query, WATCH_PARAMETERS)?.with("watch", Some("true"));
        let response = self.send(&self.clients.watches, Method::GET, &place.path(None), &query, None).await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        Err(outward_error(read(response).await.err().unwrap_or_else(StatusError::no_such_path), place.kind, ""))
    }

    /// Stores a new object and returns it as stored.
    ///
    /// # Errors
    /// 409 if the name is taken, 404 with kind `namespaces` if the namespace is missing.
    pub async fn create(&self, place: Place<'_>, object: &Value, query: &Query) -> Result<Value, StatusError> {
        let name = name_of(object);
        let body = inward(place.kind, object);
        let created = self.call(Method::POST, &place.path(None), &query.only(WRITE_PARAMETERS), Some(&body)).await;
        Ok(outward(place.kind, created.map_err(|e| outward_error(e, place.kind, name))?))
    }

    /// Replaces an object; its `metadata.resourceVersion` must be the current one.
    ///
    /// # Errors
    /// 409 if somebody else wrote in between, 404 if it is gone.
    pub async fn replace(&self, place: Place<'_>, object: &Value, query: &Query) -> Result<Value, StatusError> {
        let name = name_of(object);
        let body = inward(place.kind, object);
        let query = query.only(WRITE_PARAMETERS);
        let replaced = self.call(Method::PUT, &place.path(Some(name)), &query, Some(&body)).await;
        Ok(outward(place.kind, replaced.map_err(|e| outward_error(e, place.kind, name))?))
    }

    /// Deletes an object; the answer is the object if finalizers keep it, otherwise a Status.
    ///
    /// # Errors
    /// 404 if it is not there, 409 if a precondition of `options` does not hold.
    pub async fn delete(
        &self,
        place: Place<'_>,
        name: &str,
        options: &Value,
        query: &Query,
    ) -> Result<Value, StatusError> {
        let query = query.only(DELETE_PARAMETERS);
        let deleted = self.call(Method::DELETE, &place.path(Some(name)), &query, Some(options)).await;
        let mut deleted = deleted.map_err(|e| outward_error(e, place.kind, name))?;
        if deleted["kind"] == "Status" {
            if let Some(details) = deleted.get_mut("details").and_then(Value::as_object_mut) {
                details.insert("name".into(), name.into());
                details.insert("group".into(), GROUP.into());
                details.insert("kind".into(), place.kind.resource().into());
            }
            return Ok(deleted);
        }
        Ok(outward(place.kind, deleted))
    }

    /// Deletes whatever the selectors of `query` match.
    ///
    /// # Errors
    /// 400 for selectors that are not understood.
    pub async fn delete_collection(
        &self,
        place: Place<'_>,
        options: &Value,
        query: &Query,
    ) -> Result<Value, StatusError> {
        let mut parameters = LIST_PARAMETERS.to_vec();
        parameters.extend_from_slice(DELETE_PARAMETERS);
        let query = stored_query(place.kind, query, &parameters)?;
        let deleted = self.call(Method::DELETE, &place.path(None), &query, Some(options)).await;
        let deleted = deleted.map_err(|e| outward_error(e, place.kind, ""))?;
        Ok(if deleted.get("items").is_some() { outward_list(place.kind, deleted) } else { deleted })
    }

    /// A call to any path of the API server, with JSON both ways.
    ///
    /// # Errors
    /// The Status the API server answered with, or 500 if it could not be reached.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        query: &Query,
        body: Option<&Value>,
    ) -> Result<Value, StatusError> {
        read(self.send(&self.clients.calls, method, path, query, body).await?).await
    }

    async fn send(
        &self,
        client: &kube::Client,
        method: Method,
        path: &str,
        query: &Query,
        body: Option<&Value>,
    ) -> Result<http::Response<Body>, StatusError> {
        let query = query.encode();
        let uri = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let content_type = if method == Method::PATCH { "application/apply-patch+yaml" } else { "application/json" };
        let mut request = Request::builder().method(method).uri(uri).header(header::ACCEPT, "application/json");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let bytes = body.map(|value| Bytes::from(value.to_string())).unwrap_or_default();
        let request = request.body(Body::from(bytes)).map_err(StatusError::internal)?;
        client.send(request).await.map_err(|error| StatusError::internal(format!("asking the API server: {error}")))
    }
}

const LIST_PARAMETERS: &[&str] = &[
    "labelSelector",
    "fieldSelector",
    "limit",
    "continue",
    "resourceVersion",
    "resourceVersionMatch",
    "timeoutSeconds",
];
const WATCH_PARAMETERS: &[&str] = &[
    "labelSelector",
    "fieldSelector",
    "resourceVersion",
    "resourceVersionMatch",
    "timeoutSeconds",
    "allowWatchBookmarks",
    "sendInitialEvents",
];
const WRITE_PARAMETERS: &[&str] = &["dryRun"];
const DELETE_PARAMETERS: &[&str] = &[
    "dryRun",
    "gracePeriodSeconds",
    "propagationPolicy",
    "orphanDependents",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
];

async fn read(response: http::Response<Body>) -> Result<Value, StatusError> {
    let code = response.status();
    let body = response.into_body().collect().await.map_err(StatusError::internal)?.to_bytes();
    let value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if code.is_success() { Ok(value) } else { Err(StatusError::from_upstream(code, &value)) }
}

/// The parameters of a collection request, with names in field selectors as the backing objects are called.
fn stored_query(kind: Kind, query: &Query, parameters: &[&str]) -> Result<Query, StatusError> {
    let Some(selector) = query.get("fieldSelector") else { return Ok(query.only(parameters)) };
    let mut terms = Vec::new();
    for term in selector.split(',').filter(|term| !term.is_empty()) {
        let (field, operator, value) =
            split_term(term).ok_or_else(|| StatusError::bad_request(format!("invalid field selector {selector:?}")))?;
        let value = match field {
            "metadata.name" => stored_name(value),
            "metadata.namespace" if kind.namespaced() => value.to_owned(),
            _ => return Err(StatusError::bad_request(format!("field label not supported: {field}"))),
        };
        terms.push(format!("{field}{operator}{value}"));
    }
    Ok(query.only(parameters).with("fieldSelector", Some(&terms.join(","))))
}

/// `metadata.name!=x` as field, operator and value.
pub fn split_term(term: &str) -> Option<(&str, &str, &str)> {
    ["!=", "==", "="].into_iter().find_map(|operator| {
        let (field, value) = term.split_once(operator)?;
        Some((field, operator, value))
    })
}

/// `metadata.name`, or nothing.
pub fn name_of(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

/// `metadata.namespace`, or nothing.
pub fn namespace_of(object: &Value) -> &str {
    object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default()
}

const SHINING_THROUGH: &[&str] = &[
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
];

/// The backing object for what clients see.
fn inward(kind: Kind, object: &Value) -> Value {
    let name = name_of(object);
    let mut metadata = Map::new();
    let given = object.get("metadata").and_then(Value::as_object);
    for (key, value) in given.into_iter().flatten() {
        if SHINING_THROUGH.contains(&key.as_str()) && !value.is_null() {
            metadata.insert(key.clone(), value.clone());
        }
    }
    metadata.insert("name".into(), stored_name(name).into());
    let body: Map<String, Value> = object
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| !matches!(key.as_str(), "kind" | "apiVersion" | "metadata"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let mut spec = Map::new();
    spec.insert("name".into(), name.into());
    if let Some(generation) = object.pointer("/metadata/generation").filter(|g| !g.is_null()) {
        spec.insert("generation".into(), generation.clone());
    }
    spec.insert("object".into(), Value::Object(body));
    json!({
        "apiVersion": format!("{STORAGE_GROUP}/v1"),
        "kind": kind.stored_kind(),
        "metadata": metadata,
        "spec": spec,
    })
}

/// What clients see of a backing object.
fn outward(kind: Kind, mut stored: Value) -> Value {
    let mut object = stored
        .pointer_mut("/spec/object")
        .map(Value::take)
        .and_then(|body| if let Value::Object(map) = body { Some(map) } else { None })
        .unwrap_or_default();
    let mut metadata = Map::new();
    if let Some(name) = stored.pointer("/spec/name").or_else(|| stored.pointer("/metadata/name")) {
        metadata.insert("name".into(), name.clone());
    }
    if let Some(Value::Object(given)) = stored.get_mut("metadata").map(Value::take) {
        metadata.extend(given.into_iter().filter(|(key, _)| SHINING_THROUGH.contains(&key.as_str())));
    }
    if let Some(generation) = stored.pointer("/spec/generation") {
        metadata.insert("generation".into(), generation.clone());
    }
    object.insert("kind".into(), kind.name().into());
    object.insert("apiVersion".into(), format!("{GROUP}/v1").into());
    object.insert("metadata".into(), Value::Object(metadata));
    Value::Object(object)
}

fn outward_list(kind: Kind, mut stored: Value) -> Value {
    let items = match stored.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items.into_iter().map(|item| outward(kind, item)).collect(),
        _ => Vec::new(),
    };
    let metadata = stored.get_mut("metadata").map(Value::take).unwrap_or_else(|| json!({}));
    json!({
        "kind": format!("{}List", kind.name()),
        "apiVersion": format!("{GROUP}/v1"),
        "metadata": metadata,
        "items": items,
    })
}

/// What clients see of one watch event, bookmarks and errors included.
pub fn outward_event(kind: Kind, mut event: Value) -> Value {
    let object = event.get_mut("object").map(Value::take).unwrap_or_default();
    let object = if object["kind"] == "Status" {
        let code = object["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(500);
        let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        outward_error(StatusError::from_upstream(code, &object), kind, "").to_value()
    } else {
        outward(kind, object)
    };
    json!({"type": event["type"], "object": object})
}

/// An error of the API server about a backing object, in the words of the object clients asked for.
fn outward_error(mut error: StatusError, kind: Kind, name: &str) -> StatusError {
    let stored = format!("{}.{STORAGE_GROUP}", kind.stored_resource());
    error.message = error
        .message
        .replace(&stored, &format!("{}.{GROUP}", kind.resource()))
        .replace(&format!("{}.{STORAGE_GROUP}", kind.stored_kind()), &format!("{}.{GROUP}", kind.name()));
    if !name.is_empty() {
        error.message = error.message.replace(&format!("\"{}\"", stored_name(name)), &format!("{name:?}"));
    }
    let about_stored =
        matches!(error.details_kind(), Some(k) if k == kind.stored_resource() || k == kind.stored_kind());
    if let (true, Some(details)) = (about_stored, error.details.as_object_mut()) {
        details.insert("kind".into(), kind.resource().into());
        details.insert("group".into(), GROUP.into());
        if !name.is_empty() {
            details.insert("name".into(), name.into());
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("sha256:0123abc", "sha256-0123abc")]
    #[case("app", "app")]
    #[case("my.app-2", "my.app-2")]
    fn plain_names_stay_readable(#[case] name: &str, #[case] stored: &str) {
        assert_eq!(stored_name(name), stored);
    }

    #[rstest]
    #[case("my_app", "my__app")]
    #[case("a_b", "a-b")]
    fn odd_names_do_not_collide(#[case] one: &str, #[case] other: &str) {
        assert_ne!(stored_name(one), stored_name(other));
        assert!(is_dns_subdomain(&stored_name(one)), "{}", stored_name(one));
    }

    #[test]
    fn an_object_survives_the_way_in_and_out() {
        let object = json!({
            "kind": "ImageStream",
            "apiVersion": "image.openshift.io/v1",
            "metadata": {
                "name": "my_app", "namespace": "p", "uid": "u", "resourceVersion": "7", "generation": 3,
                "labels": {"a": "b"}, "annotations": {"c": "d"},
            },
            "spec": {"tags": [{"name": "x", "unknown": null}]},
            "status": {"dockerImageRepository": ""},
        });
        assert_eq!(outward(Kind::ImageStream, inward(Kind::ImageStream, &object)), object);
    }

    #[test]
    fn errors_speak_of_what_was_asked_for() {
        let upstream = json!({
            "message": "storedimages.storage.registry-conformance.local \"sha256-ab\" not found",
            "reason": "NotFound",
            "details": {"name": "sha256-ab", "group": STORAGE_GROUP, "kind": "storedimages"},
        });
        let error = StatusError::from_upstream(StatusCode::NOT_FOUND, &upstream);
        let seen = outward_error(error, Kind::Image, "sha256:ab");
        assert_eq!(seen, StatusError::not_found("images", "sha256:ab"));
    }

    #[test]
    fn field_selectors_name_the_backing_object() {
        let query = Query::default().with("fieldSelector", Some("metadata.name=sha256:ab"));
        let stored = stored_query(Kind::Image, &query, LIST_PARAMETERS).expect("a known field");
        assert_eq!(stored.get("fieldSelector"), Some("metadata.name=sha256-ab"));
        let query = query.with("fieldSelector", Some("spec.x=1"));
        assert!(stored_query(Kind::Image, &query, LIST_PARAMETERS).is_err());
    }
}
