//! Changes a client sends instead of a whole object: JSON patch, merge patch, strategic merge and apply.
//! The last two are merged like the second: no list of this group has a merge key in the published schema.

use serde_json::Value;

use crate::request::Call;
use crate::status::StatusError;

/// A change that has been read but not yet applied.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 6902.
    Json(json_patch::Patch),
    /// RFC 7386, also used for strategic merge.
    Merge(Value),
    /// Server-side apply: like a merge, but makes the object if it is missing.
    Apply(Value),
}

impl Patch {
    /// Reads the body of a PATCH request.
    ///
    /// # Errors
    /// 415 for an unknown kind of patch, 400 for one that cannot be read.
    pub fn read(call: &Call) -> Result<Self, StatusError> {
        let unreadable = |error: &dyn std::fmt::Display| StatusError::bad_request(format!("unreadable patch: {error}"));
        match call.content_type.as_str() {
            "application/json-patch+json" => {
                serde_json::from_slice(&call.body).map(Self::Json).map_err(|e| unreadable(&e))
            }
            "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
                serde_json::from_slice(&call.body).map(Self::Merge).map_err(|e| unreadable(&e))
            }
            "application/apply-patch+yaml" => {
                serde_yaml::from_slice(&call.body).map(Self::Apply).map_err(|e| unreadable(&e))
            }
            other => Err(StatusError::unsupported_media_type(
                other,
                "application/json-patch+json, application/merge-patch+json, \
                 application/strategic-merge-patch+json, application/apply-patch+yaml",
            )),
        }
    }

    /// The resource version the client insists on, if any.
    pub fn resource_version(&self) -> Option<&str> {
        match self {
            Self::Json(_) => None,
            Self::Merge(value) | Self::Apply(value) => {
                value.pointer("/metadata/resourceVersion").and_then(Value::as_str).filter(|v| !v.is_empty())
            }
        }
    }

    /// `object` after the change.
    ///
    /// # Errors
    /// 422 if a JSON patch does not fit the object.
    pub fn apply(&self, object: &Value, kind: &str, name: &str) -> Result<Value, StatusError> {
        let mut changed = object.clone();
        match self {
            Self::Json(patch) => json_patch::patch(&mut changed, patch).map_err(|error| StatusError {
                message: format!("the patch could not be applied to {kind} {name:?}: {error}"),
                ..StatusError::invalid(kind, name, &[])
            })?,
            Self::Merge(patch) | Self::Apply(patch) => json_patch::merge(&mut changed, patch),
        }
        Ok(changed)
    }
}
