//! The token endpoint: turns the password of a login into a bearer token, which is the same API token again
//! (registry source pkg/dockerregistry/server/token.go:34-113).

use http::{Method, Response, StatusCode, header};
use serde_json::json;

use crate::{
    auth::{ANONYMOUS, basic_password},
    body::{self, Body},
    cluster::{CallError, Cluster, Token},
    digest::Repository,
    error::Refusal,
    request::Request,
    router,
};

/// Answers a request to `/openshift/token`.
pub async fn answer(cluster: &Cluster, request: &Request) -> Response<Body> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Refusal::method_not_allowed("GET, HEAD").into_response();
    }
    if let Some(name) = unusable_scope(request) {
        return refused(json!({
            "details": format!("repository name \"{name}\" invalid: it must be of the format <project>/<name>")
        }));
    }
    let header = request.header(&header::AUTHORIZATION);
    if header.is_empty() {
        return granted(ANONYMOUS);
    }
    let password = header
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, encoded)| basic_password(encoded));
    let Some(password) = password else { return unauthorised() };
    match cluster.whoami(Token::new(password.clone())).await {
        Ok(_) => granted(&password),
        Err(error) if error.code() == Some(401) => unauthorised(),
        Err(CallError::Status { reason, .. }) if !reason.is_empty() => {
            refused(json!({"details": format!("unable to validate token: {reason}")}))
        }
        Err(_) => refused(json!({"details": "unable to validate token"})),
    }
}

/// The first repository name among the scopes that has not two parts; other shapes of scope are ignored.
fn unusable_scope(request: &Request) -> Option<String> {
    let scopes = router::query_all(&request.uri, "scope");
    scopes.iter().flat_map(|scopes| scopes.split(' ')).find_map(|scope| {
        let (kind, rest) = scope.split_once(':')?;
        let (name, _actions) = rest.rsplit_once(':')?;
        let checked = matches!(kind, "repository" | "signature") && !name.contains(':');
        (checked && Repository::parse(name).is_none()).then(|| name.to_owned())
    })
}

fn granted(token: &str) -> Response<Body> {
    body::json(&json!({"token": token, "access_token": token}))
}

fn unauthorised() -> Response<Body> {
    let mut response = body::nothing();
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
}

fn refused(document: serde_json::Value) -> Response<Body> {
    let mut response = body::json(&document);
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::request::tests::request;

    #[rstest]
    #[case("/openshift/token", None)]
    #[case("/openshift/token?scope=repository:a/b:pull,push", None)]
    #[case("/openshift/token?scope=repository:single:pull", Some("single"))]
    #[case("/openshift/token?scope=repository%3Aa%2Fb%2Fc%3Apull", Some("a/b/c"))]
    #[case("/openshift/token?scope=registry:catalog", None)]
    fn scopes(#[case] uri: &str, #[case] expected: Option<&str>) {
        assert_eq!(unusable_scope(&request(Method::GET, uri, &[])).as_deref(), expected);
    }
}
