//! Whether the forwarded user may do what a request asks: one SubjectAccessReview per request, never cached, so
//! that a withdrawn right is withdrawn at once.

use http::Method;
use serde_json::{Map, Value, json};

use crate::request::{Call, Query, User, Verb};
use crate::status::{GROUP, StatusError};
use crate::store::{Store, split_term};

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// What a user wants to do, as RBAC sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    pub verb: &'a str,
    pub namespace: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub name: &'a str,
}

/// The API server's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// Why, as far as the authoriser says.
    pub reason: String,
}

/// Asks the API server whether `user` may do `attributes` in this group.
///
/// # Errors
/// The Status of a review that could not be made.
pub async fn review(store: &Store, user: &User, attributes: Attributes<'_>) -> Result<Decision, StatusError> {
    let extra: Map<String, Value> = user.extra.iter().map(|(key, values)| (key.clone(), json!(values))).collect();
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": user.name,
            "uid": user.uid,
            "groups": user.groups,
            "extra": extra,
            "resourceAttributes": {
                "group": GROUP,
                "version": "v1",
                "verb": attributes.verb,
                "namespace": attributes.namespace,
                "resource": attributes.resource,
                "subresource": attributes.subresource,
                "name": attributes.name,
            },
        },
    });
    let answer = store.call(Method::POST, REVIEWS, &Query::default(), Some(&review)).await?;
    let allowed = answer.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or(false);
    let reason = answer.pointer("/status/reason").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Decision { allowed, reason })
}

/// Lets the request pass or says why not.
///
/// # Errors
/// 403 naming user, verb and resource, as kube-apiserver words it.
pub async fn authorize(store: &Store, call: &Call) -> Result<(), StatusError> {
    let name = if call.target.name.is_some() { call.name() } else { selected_name(call) };
    let attributes = Attributes {
        verb: call.verb.as_str(),
        namespace: call.target.namespace.as_deref().unwrap_or_default(),
        resource: &call.target.resource,
        subresource: call.target.subresource.as_deref().unwrap_or_default(),
        name,
    };
    let decision = review(store, &call.user, attributes).await?;
    if decision.allowed {
        return Ok(());
    }
    let scope = match attributes.namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let mut why = format!(
        "User {:?} cannot {} resource {:?} in API group {GROUP:?} {scope}",
        call.user.name,
        attributes.verb,
        call.target.full_resource(),
    );
    if !decision.reason.is_empty() {
        why.push_str(&format!(": {}", decision.reason));
    }
    Err(StatusError::forbidden(&call.target.resource, call.name(), &why))
}

/// A list or watch of exactly one name counts as asking for that name, as kube-apiserver's request info does.
fn selected_name(call: &Call) -> &str {
    if !matches!(call.verb, Verb::List | Verb::Watch | Verb::DeleteCollection) {
        return "";
    }
    let terms = call.query.get("fieldSelector").unwrap_or_default().split(',');
    terms
        .filter_map(split_term)
        .find(|(field, operator, _)| *field == "metadata.name" && *operator != "!=")
        .map_or("", |(_, _, name)| name)
}
