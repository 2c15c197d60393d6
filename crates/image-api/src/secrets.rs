//! `imagestreams/secrets`: the pull secrets of a namespace, for the registry's pull-through and for imports.

use http::Method;
use serde_json::{Value, json};

use crate::handler::{ImageApi, Reply};
use crate::image::annotation;
use crate::request::{Call, Query, percent_encode};
use crate::status::{GROUP, StatusError};
use crate::store::Store;

/// Annotation that keeps a secret out.
const EXCLUDED: &str = "openshift.io/image.excludeSecret";

/// All Docker credentials of `namespace` that are not excluded.
///
/// # Errors
/// What the API server answers when it cannot list secrets.
pub async fn pull_secrets(store: &Store, namespace: &str, query: &Query) -> Result<Vec<Value>, StatusError> {
    let path = format!("/api/v1/namespaces/{}/secrets", percent_encode(namespace));
    let query = Query::at_hand().with("labelSelector", query.get("labelSelector"));
    let mut list = store.call(Method::GET, &path, &query, None).await?;
    let Some(Value::Array(secrets)) = list.get_mut("items").map(Value::take) else { return Ok(Vec::new()) };
    Ok(secrets.into_iter().filter(is_pull_secret).collect())
}

fn is_pull_secret(secret: &Value) -> bool {
    let kind = secret["type"].as_str().unwrap_or_default();
    matches!(kind, "kubernetes.io/dockercfg" | "kubernetes.io/dockerconfigjson")
        && annotation(secret, EXCLUDED) != "true"
}

/// Answers `GET imagestreams/NAME/secrets`; the name is not looked at.
///
/// The list is typed with this group: the registry's client reads a list typed `v1` as an empty one.
///
/// # Errors
/// What the API server answers when it cannot list secrets.
pub async fn handle(api: &ImageApi, call: &Call) -> Result<Reply, StatusError> {
    let items = pull_secrets(&api.store, call.namespace()?, &call.query).await?;
    Ok(Reply::ok(json!({
        "kind": "SecretList",
        "apiVersion": format!("{GROUP}/v1"),
        "metadata": {},
        "items": items,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("kubernetes.io/dockerconfigjson", "", true)]
    #[case("kubernetes.io/dockercfg", "", true)]
    #[case("kubernetes.io/dockercfg", "true", false)]
    #[case("Opaque", "", false)]
    fn only_docker_credentials_are_given_away(#[case] kind: &str, #[case] excluded: &str, #[case] given: bool) {
        let secret = json!({"type": kind, "metadata": {"annotations": {EXCLUDED: excluded}}});
        assert_eq!(is_pull_secret(&secret), given);
    }
}
