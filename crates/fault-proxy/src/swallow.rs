//! Writes that are answered as if they had been done: the answer looks like the stored object, but nothing was stored.
//! For a patch the present object is fetched and patched here; a write without JSON gets a bare success.

use http::request::Parts;
use http::{Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::body::{self, Body, Failure};
use crate::upstream::Connections;

/// The answer to a swallowed write.
pub(crate) async fn answer(
    parts: &Parts,
    request: &[u8],
    connections: &Connections,
    host: &str,
) -> Result<Response<Body>, Failure> {
    let status = if parts.method == Method::POST { StatusCode::CREATED } else { StatusCode::OK };
    let sent = serde_json::from_slice::<Value>(request).ok();
    let object = match (&parts.method, sent) {
        (&Method::PATCH, Some(sent)) => Some(patched(present(parts, connections, host).await?, sent)),
        (&Method::DELETE, _) => present(parts, connections, host).await?,
        (_, Some(sent)) => Some(stored(sent)),
        (_, None) => None,
    };
    let response = Response::builder().status(status);
    Ok(match object {
        Some(object) => {
            response.header(header::CONTENT_TYPE, "application/json").body(body::full(object.to_string()))?
        }
        None => response.header(header::CONTENT_LENGTH, "0").body(body::empty())?,
    })
}

/// The object as it is now; `None` when there is none or it is no JSON.
async fn present(parts: &Parts, connections: &Connections, host: &str) -> Result<Option<Value>, Failure> {
    let mut request = Request::get(parts.uri.path()).body(body::empty())?;
    for name in [header::HOST, header::AUTHORIZATION] {
        if let Some(value) = parts.headers.get(&name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    request.headers_mut().insert(header::ACCEPT, http::HeaderValue::from_static("application/json"));
    let response = connections.send(request, host).await?;
    let found = response.status().is_success();
    let bytes = body::whole(body::streamed(response.into_body())).await?;
    Ok(serde_json::from_slice(&bytes).ok().filter(|_| found))
}

fn patched(present: Option<Value>, patch: Value) -> Value {
    let mut object = present.unwrap_or_else(|| json!({}));
    match serde_json::from_value::<json_patch::Patch>(patch.clone()) {
        Ok(operations) if patch.is_array() => {
            if let Err(error) = json_patch::patch(&mut object, &operations) {
                tracing::debug!(%error, "a swallowed patch does not fit the present object");
            }
        }
        _ => json_patch::merge(&mut object, &patch),
    }
    stored(object)
}

/// What the API server would have added.
fn stored(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.entry("uid").or_insert_with(|| json!("00000000-0000-4000-8000-000000000000"));
        metadata.entry("resourceVersion").or_insert_with(|| json!("1"));
        metadata.entry("creationTimestamp").or_insert_with(|| json!("2000-01-01T00:00:00Z"));
    }
    object
}
