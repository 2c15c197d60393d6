//! The error every handler returns: a Kubernetes `Status` with the reason, code and details that clients look at.
//! It knows how each kind of refusal is worded; when to refuse is decided by the resources.

use http::StatusCode;
use serde_json::{Map, Value, json};

/// The group this server serves.
pub const GROUP: &str = "image.openshift.io";

/// A refused request, as the `Status` object that goes over the wire.
///
/// `details.kind` and `details.name` are always present where an object is concerned: the registry dereferences
/// `details` of a missing mapping without looking (image-registry pkg/imagestream/imagestream.go:445-462).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message} ({reason}, {code})")]
pub struct StatusError {
    /// HTTP status of the answer.
    pub code: StatusCode,
    /// Machine readable reason, e.g. `NotFound`.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
    /// `details` of the Status, or null.
    pub details: Value,
}

/// One reason why an object is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    reason: &'static str,
    field: String,
    message: String,
}

impl Cause {
    /// A field that must be given is missing.
    pub fn required(field: impl Into<String>) -> Self {
        Self { reason: "FieldValueRequired", field: field.into(), message: "Required value".into() }
    }

    /// A field has a value that cannot be accepted.
    pub fn invalid(field: impl Into<String>, value: &str, why: &str) -> Self {
        Self { reason: "FieldValueInvalid", field: field.into(), message: format!("Invalid value: {value:?}: {why}") }
    }

    /// A field names something that does not exist.
    pub fn not_found(field: impl Into<String>, value: &str) -> Self {
        Self { reason: "FieldValueNotFound", field: field.into(), message: format!("Not found: {value:?}") }
    }

    /// A field is not this caller's to set.
    pub fn forbidden(field: impl Into<String>, why: &str) -> Self {
        Self { reason: "FieldValueForbidden", field: field.into(), message: format!("Forbidden: {why}") }
    }
}

impl StatusError {
    fn new(code: StatusCode, reason: &str, message: String, details: Value) -> Self {
        Self { code, reason: reason.to_owned(), message, details }
    }

    /// 404 for an object of `resource`.
    pub fn not_found(resource: &str, name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            format!("{resource}.{GROUP} {name:?} not found"),
            json!({"name": name, "group": GROUP, "kind": resource}),
        )
    }

    /// 404 for a namespace; the registry turns it into `DENIED` for the pusher.
    pub fn namespace_not_found(name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            format!("namespaces {name:?} not found"),
            json!({"name": name, "kind": "namespaces"}),
        )
    }

    /// 404 for a path this server does not have.
    pub fn no_such_path() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the server could not find the requested resource".into(),
            json!({}),
        )
    }

    /// 409 because the name is taken.
    pub fn already_exists(resource: &str, name: &str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "AlreadyExists",
            format!("{resource}.{GROUP} {name:?} already exists"),
            json!({"name": name, "group": GROUP, "kind": resource}),
        )
    }

    /// 409 because somebody else wrote first.
    pub fn conflict(resource: &str, name: &str, why: &str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "Conflict",
            format!("Operation cannot be fulfilled on {resource}.{GROUP} {name:?}: {why}"),
            json!({"name": name, "group": GROUP, "kind": resource}),
        )
    }

    /// 400 for a request that cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message.into(), Value::Null)
    }

    /// 422 with one cause per offending field.
    pub fn invalid(kind: &str, name: &str, causes: &[Cause]) -> Self {
        let list: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let text = if let [only] = list.as_slice() { only.clone() } else { format!("[{}]", list.join(", ")) };
        let causes: Vec<Value> =
            causes.iter().map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field})).collect();
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            format!("{kind}.{GROUP} {name:?} is invalid: {text}"),
            json!({"name": name, "group": GROUP, "kind": kind, "causes": causes}),
        )
    }

    /// 403 for an object of `resource`.
    pub fn forbidden(resource: &str, name: &str, why: &str) -> Self {
        let object = if name.is_empty() {
            format!("{resource}.{GROUP} is forbidden")
        } else {
            format!("{resource}.{GROUP} {name:?} is forbidden")
        };
        Self::new(
            StatusCode::FORBIDDEN,
            "Forbidden",
            format!("{object}: {why}"),
            json!({"name": name, "group": GROUP, "kind": resource}),
        )
    }

    /// 401 for a caller the aggregator did not vouch for.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized".into(), Value::Null)
    }

    /// 405 for a verb the resource does not have.
    pub fn method_not_supported(resource: &str, verb: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            format!("{verb} is not supported on resources of kind \"{resource}.{GROUP}\""),
            json!({"group": GROUP, "kind": resource}),
        )
    }

    /// 415 for a body in a format that cannot be read.
    pub fn unsupported_media_type(given: &str, accepted: &str) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format ({given}) - accepted media types include: {accepted}"
            ),
            Value::Null,
        )
    }

    /// 413 for a body that would not fit into the store.
    pub fn too_large(limit_bytes: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit_bytes} bytes"),
            Value::Null,
        )
    }

    /// 500 with a server side retry hint: writers kept overtaking each other.
    pub fn server_timeout(resource: &str, verb: &str, retry_after_seconds: u32) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "ServerTimeout",
            format!(
                "The {verb} operation against {resource}.{GROUP} could not be completed at this time, please try again."
            ),
            json!({"name": verb, "group": GROUP, "kind": resource, "retryAfterSeconds": retry_after_seconds}),
        )
    }

    /// 500 for a fault of ours or of what lies behind us.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            format!("Internal error occurred: {message}"),
            json!({"causes": [{"message": message.to_string()}]}),
        )
    }

    /// The Status that an upstream API server answered with `code`.
    pub fn from_upstream(code: StatusCode, body: &Value) -> Self {
        let text = |key: &str| body.get(key).and_then(Value::as_str).map(str::to_owned);
        Self {
            code,
            reason: text("reason").unwrap_or_else(|| "Unknown".into()),
            message: text("message").unwrap_or_else(|| format!("the API server answered {code}")),
            details: body.get("details").cloned().unwrap_or(Value::Null),
        }
    }

    /// Whether the object was not there.
    pub fn is_not_found(&self) -> bool {
        self.reason == "NotFound"
    }

    /// Whether the caller lost a race for the object.
    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    /// Whether the name was taken.
    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    /// `details.kind`, or nothing.
    pub fn details_kind(&self) -> Option<&str> {
        self.details.get("kind").and_then(Value::as_str)
    }

    /// Words the error as one about `resource`, as OpenShift does for virtual resources: its store takes the
    /// resource from the request, not from what was looked up (k8s.io/apiserver
    /// pkg/registry/generic/registry/store.go, `qualifiedResourceFromContext`).
    #[must_use]
    pub fn about(mut self, resource: &str) -> Self {
        let kind = match self.details_kind() {
            Some("images") => "images",
            Some("imagestreams") => "imagestreams",
            _ => return self,
        };
        self.message = self.message.replace(&format!("{kind}.{GROUP}"), &format!("{resource}.{GROUP}"));
        if let Some(details) = self.details.as_object_mut() {
            details.insert("kind".into(), resource.into());
        }
        self
    }

    /// The `Status` object.
    pub fn to_value(&self) -> Value {
        let mut status = Map::new();
        status.insert("kind".into(), "Status".into());
        status.insert("apiVersion".into(), "v1".into());
        status.insert("metadata".into(), json!({}));
        status.insert("status".into(), "Failure".into());
        status.insert("message".into(), self.message.clone().into());
        status.insert("reason".into(), self.reason.clone().into());
        if !self.details.is_null() {
            status.insert("details".into(), self.details.clone());
        }
        status.insert("code".into(), self.code.as_u16().into());
        Value::Object(status)
    }
}

/// The Status of something that went well and has nothing else to say.
pub fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_stream_seen_through_a_mapping_is_a_missing_mapping() {
        let seen = StatusError::not_found("imagestreams", "app").about("imagestreammappings");
        assert_eq!(seen.details["kind"], "imagestreammappings");
        assert_eq!(seen.details["name"], "app");
        assert_eq!(seen.message, "imagestreammappings.image.openshift.io \"app\" not found");
    }

    #[test]
    fn a_missing_namespace_stays_a_missing_namespace() {
        let seen = StatusError::namespace_not_found("p").about("imagestreammappings");
        assert_eq!(seen.details, json!({"name": "p", "kind": "namespaces"}));
    }
}
