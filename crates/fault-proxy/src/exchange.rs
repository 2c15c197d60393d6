//! One exchange through the proxy: which rules match, what they do to the request, what comes back, what they do to that.
//! Without a matching rule request and answer stream through as they are.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::armed::{ArmedRule, Remembered};
use crate::body::{self, Body, Damaged, Failure};
use crate::edit::Edit;
use crate::fault::Respond;
use crate::proxy::{HostHeader, State};
use crate::{swallow, watch_stream};

/// Headers that belong to one connection (RFC 9110, section 7.6.1); the body's length is set anew where it changes.
const HOP_BY_HOP: [header::HeaderName; 5] =
    [header::CONNECTION, header::TE, header::TRAILER, header::TRANSFER_ENCODING, header::UPGRADE];

/// Carries one request. An error closes the connection without an answer.
pub(crate) async fn carry(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    // Asked for before the rules are read: a change in between then cuts the stream, instead of being missed by it.
    let change = state.change();
    let armed = state.armed();
    let (mut parts, incoming) = request.into_parts();
    let host = host_of(&parts);
    let address = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str).to_owned();
    let candidates = armed.candidates(&parts);

    if is_upgrade(&parts) {
        let request = Request::from_parts(parts, incoming);
        return upgrade(&state, request, &host, &candidates, &address).await;
    }

    let mut whole = None;
    let mut streamed = Some(incoming);
    if candidates.iter().any(|rule| rule.needs_request_body())
        && let Some(incoming) = streamed.take()
    {
        whole = Some(body::whole(body::streamed(incoming)).await?);
    }
    let known = whole.clone().unwrap_or_default();
    let matching: Vec<&ArmedRule> = candidates.into_iter().filter(|rule| rule.matches_body(&known)).collect();
    let mut acting: Vec<&ArmedRule> = Vec::new();
    for rule in matching.iter().copied().filter(|rule| !rule.waits_for_status()) {
        if rule.take() {
            state.note(rule.hit(parts.method.as_str(), &address));
            acting.push(rule);
        }
    }
    if let Some(response) = instead(&state, &acting, &parts, &known, &host, &address).await? {
        return Ok(response);
    }
    let is_watch = watch_stream::is_watch(&parts);
    if is_watch && let Some(expired) = state.cut.come_back(&parts) {
        return json_response(StatusCode::OK, expired);
    }

    prepare(&mut parts, &state, &matching, &host);
    let mut outgoing = match (whole, streamed) {
        (Some(bytes), _) => body::full(edit_request(&mut parts, &acting, bytes)),
        (None, Some(incoming)) => body::streamed(incoming),
        (None, None) => body::empty(),
    };
    for edit in acting.iter().filter_map(|rule| rule.act.request.as_ref()) {
        edit.apply_to_headers(&mut parts.headers);
        edit.apply_to_address(&mut parts.uri);
        outgoing = Damaged::wrap(outgoing, edit.flip_byte_at, edit.break_after);
    }
    let subject = watch_stream::subject(&parts);
    let method = parts.method.clone();
    let response = match state.connections.send(Request::from_parts(parts, outgoing), &host).await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(%error, %address, "the real server cannot be reached");
            let text = format!("the server behind this proxy cannot be reached: {error}\n");
            return Ok(Response::builder().status(StatusCode::BAD_GATEWAY).body(body::full(text))?);
        }
    };
    let (mut head, incoming) = response.into_parts();
    for name in &HOP_BY_HOP {
        head.headers.remove(name);
    }
    for rule in matching.into_iter().filter(|rule| rule.waits_for_status() && rule.matches_status(head.status)) {
        if rule.take() {
            state.note(rule.hit(method.as_str(), &address));
            acting.push(rule);
        }
    }
    if let Some(rule) =
        acting.iter().find(|rule| rule.waits_for_status() && (rule.act.close || rule.act.respond.is_some()))
    {
        if let Some(delay) = rule.act.delay {
            tokio::time::sleep(delay.0).await;
        }
        return rule.act.respond.as_ref().map_or_else(|| Err(closed()), made_up);
    }
    let edits: Vec<&Edit> = acting.iter().filter_map(|rule| rule.act.response.as_ref()).collect();
    if let Some(status) = acting.iter().rev().find_map(|rule| rule.act.status) {
        head.status = StatusCode::from_u16(status)?;
    }
    for edit in &edits {
        edit.apply_to_headers(&mut head.headers);
    }
    let incoming = body::streamed(incoming);
    if is_watch && head.status.is_success() {
        let edits = edits.into_iter().filter(|edit| edit.needs_whole_body()).cloned().collect();
        let body = watch_stream::wrap(incoming, edits, change, state.cut.clone(), subject);
        return Ok(Response::from_parts(head, body));
    }
    let mut answer = incoming;
    if acting.iter().any(|rule| rule.needs_response_body()) && method != http::Method::HEAD {
        let bytes = edits.iter().fold(body::whole(answer).await?, |bytes, edit| edit.apply_to_body(bytes));
        if !bytes.is_empty() || head.headers.contains_key(header::CONTENT_LENGTH) {
            head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        }
        let remembered = Remembered { status: head.status, headers: head.headers.clone(), body: bytes.clone() };
        acting
            .iter()
            .filter(|rule| rule.act.stale)
            .for_each(|rule| rule.remember(&key(&method, &address), &remembered));
        answer = body::full(bytes);
    }
    for edit in edits {
        answer = Damaged::wrap(answer, edit.flip_byte_at, edit.break_after);
    }
    Ok(Response::from_parts(head, answer))
}

/// The answer of rules that forward nothing: the first of them decides, delays before it add up.
async fn instead(
    state: &State,
    acting: &[&ArmedRule],
    parts: &Parts,
    request: &Bytes,
    host: &str,
    address: &str,
) -> Result<Option<Response<Body>>, Failure> {
    for rule in acting {
        let act = &rule.act;
        if let Some(delay) = act.delay {
            tokio::time::sleep(delay.0).await;
        }
        if act.close {
            return Err(closed());
        }
        if act.hang {
            state.changed().await;
            return Err(closed());
        }
        if let Some(respond) = &act.respond {
            return made_up(respond).map(Some);
        }
        if act.swallow && !parts.method.is_safe() {
            return swallow::answer(parts, request, &state.connections, host).await.map(Some);
        }
        if act.stale && watch_stream::is_watch(parts) {
            let silence = futures::stream::pending::<Result<hyper::body::Frame<Bytes>, Failure>>();
            let silence = http_body_util::BodyExt::boxed_unsync(http_body_util::StreamBody::new(silence));
            let subject = watch_stream::subject(parts);
            let body = watch_stream::wrap(silence, Vec::new(), state.change(), state.cut.clone(), subject);
            return Ok(Some(Response::builder().header(header::CONTENT_TYPE, "application/json").body(body)?));
        }
        if act.stale
            && let Some(remembered) = rule.remembered(&key(&parts.method, address))
        {
            let mut response = Response::new(body::full(remembered.body));
            *response.status_mut() = remembered.status;
            *response.headers_mut() = remembered.headers;
            return Ok(Some(response));
        }
    }
    Ok(None)
}

fn key(method: &http::Method, address: &str) -> String {
    format!("{method} {address}")
}

fn closed() -> Failure {
    "a fault closes the connection".into()
}

fn made_up(respond: &Respond) -> Result<Response<Body>, Failure> {
    let (content_type, text) = match &respond.body {
        Value::Null => (None, String::new()),
        Value::String(text) => (None, text.clone()),
        other => (Some("application/json"), other.to_string()),
    };
    let mut response = Response::builder().status(respond.status);
    if let Some(content_type) =
        content_type.filter(|_| !respond.headers.keys().any(|name| name.eq_ignore_ascii_case("content-type")))
    {
        response = response.header(header::CONTENT_TYPE, content_type);
    }
    for (name, value) in &respond.headers {
        response = response.header(name, value);
    }
    Ok(response.body(body::full(text))?)
}

fn json_response(status: StatusCode, text: &'static str) -> Result<Response<Body>, Failure> {
    Ok(Response::builder().status(status).header(header::CONTENT_TYPE, "application/json").body(body::full(text))?)
}

/// Makes the request fit for the real server: HTTP/1.1, path only, and nothing that belongs to the client's connection.
fn prepare(parts: &mut Parts, state: &State, matching: &[&ArmedRule], host: &str) {
    for name in &HOP_BY_HOP {
        parts.headers.remove(name);
    }
    address_to_upstream(parts, state, host);
    if matching.iter().any(|rule| rule.needs_response_body()) {
        parts.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    // Go clients prefer an encoding in which nothing can be found; every Kubernetes server also speaks JSON.
    let binary = |value: &HeaderValue| value.as_bytes().windows(8).any(|part| part == b"protobuf");
    if matching.iter().any(|rule| rule.changes_response_json())
        && parts.headers.get_all(header::ACCEPT).iter().any(binary)
    {
        parts.headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    }
}

fn address_to_upstream(parts: &mut Parts, state: &State, host: &str) {
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    parts.uri = Uri::from(path);
    parts.version = Version::HTTP_11;
    let host = match &state.host {
        HostHeader::Keep => host,
        HostHeader::Set(host) => host.as_str(),
    };
    if let Ok(value) = HeaderValue::from_str(host) {
        parts.headers.insert(header::HOST, value);
    }
}

fn edit_request(parts: &mut Parts, acting: &[&ArmedRule], bytes: Bytes) -> Bytes {
    let edits = acting.iter().filter_map(|rule| rule.act.request.as_ref());
    let edited = edits.fold(bytes, |bytes, edit| edit.apply_to_body(bytes));
    if !edited.is_empty() || parts.headers.contains_key(header::CONTENT_LENGTH) {
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(edited.len()));
    }
    edited
}

fn host_of(parts: &Parts) -> String {
    let named = parts.headers.get(header::HOST).and_then(|value| value.to_str().ok());
    named.or_else(|| parts.uri.authority().map(http::uri::Authority::as_str)).unwrap_or_default().to_owned()
}

fn is_upgrade(parts: &Parts) -> bool {
    let asks = |headers: &HeaderMap| {
        headers
            .get(header::CONNECTION)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.to_ascii_lowercase().contains("upgrade"))
    };
    parts.headers.contains_key(header::UPGRADE) && asks(&parts.headers)
}

/// Passes an upgrade (exec, attach, port-forward) through; rules can only refuse or delay it.
async fn upgrade(
    state: &Arc<State>,
    mut request: Request<Incoming>,
    host: &str,
    candidates: &[&ArmedRule],
    address: &str,
) -> Result<Response<Body>, Failure> {
    let near = hyper::upgrade::on(&mut request);
    let (mut parts, incoming) = request.into_parts();
    let acting: Vec<&ArmedRule> = candidates
        .iter()
        .copied()
        .filter(|rule| !rule.waits_for_status() && !rule.needs_request_body() && rule.take())
        .collect();
    acting.iter().for_each(|rule| state.note(rule.hit(parts.method.as_str(), address)));
    if let Some(response) = instead(state, &acting, &parts, &Bytes::new(), host, address).await? {
        return Ok(response);
    }
    address_to_upstream(&mut parts, state, host);
    let mut response = state.connections.send(Request::from_parts(parts, body::streamed(incoming)), host).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(body::streamed));
    }
    let far = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        let (near, far) = match tokio::try_join!(near, far) {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "an upgrade came to nothing"),
        };
        // Either side closing is the normal end.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await;
    });
    Ok(response.map(|_| body::empty()))
}
