//! The HTTPS listener: terminates TLS, believes `X-Remote-*` only from a caller whose certificate the front-proxy
//! CA signed, and writes answers. What the answers are is decided in `handler`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::handler::{ImageApi, Reply};
use crate::request::{Call, User};
use crate::status::StatusError;
use crate::{discovery, openapi};

/// The largest body that is read, as in kube-apiserver.
const BODY_LIMIT_BYTES: usize = 3 << 20;
/// How long requests under way may take once the server is told to stop.
const GRACE: Duration = Duration::from_millis(500);
/// How long a client may take for its part of the TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Whose word a connection carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// The aggregator: its headers name the caller.
    FrontProxy,
    /// Anybody else: health only.
    Stranger,
}

/// Serves until `stop`, then lets requests under way finish for half a second.
pub async fn serve(listener: TcpListener, tls: Arc<rustls::ServerConfig>, api: ImageApi, stop: CancellationToken) {
    let acceptor = TlsAcceptor::from(tls);
    let graceful = GracefulShutdown::new();
    loop {
        let socket = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // Out of descriptors is the usual cause, and only time gives some back.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (acceptor, api, watcher) = (acceptor.clone(), api.clone(), graceful.watcher());
        tokio::spawn(async move {
            if let Err(error) = connection(socket, acceptor, api, watcher).await {
                tracing::debug!(error, "connection ended");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::debug!("connections were still open when the grace was over");
    }
}

async fn connection(socket: TcpStream, acceptor: TlsAcceptor, api: ImageApi, watcher: Watcher) -> Result<(), String> {
    let _ = socket.set_nodelay(true);
    let stream = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(socket))
        .await
        .map_err(|_| "no TLS handshake within 10s".to_owned())?
        .map_err(|error| format!("TLS handshake: {error}"))?;
    let peer = match stream.get_ref().1.peer_certificates() {
        Some([_, ..]) => Peer::FrontProxy,
        _ => Peer::Stranger,
    };
    let service = service_fn(move |request| {
        let api = api.clone();
        async move { Ok::<_, Infallible>(respond(&api, peer, request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    watcher.watch(connection).await.map_err(|error| error.to_string())
}

async fn respond(api: &ImageApi, peer: Peer, request: Request<Incoming>) -> Response<Body> {
    let started = std::time::Instant::now();
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let response = match route(api, peer, request).await {
        Ok(response) => response,
        Err(error) => {
            if error.code.is_server_error() {
                tracing::warn!(%method, %uri, %error, "request failed");
            }
            json(error.code, &error.to_value())
        }
    };
    let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
    tracing::debug!(%method, path = uri.path(), status = response.status().as_u16(), elapsed_ms, "request");
    response
}

async fn route(api: &ImageApi, peer: Peer, request: Request<Incoming>) -> Result<Response<Body>, StatusError> {
    let path = request.uri().path();
    if matches!(path, "/healthz" | "/livez" | "/readyz") {
        let mut response = Response::new(Body::from("ok"));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        return Ok(response);
    }
    let user = match peer {
        Peer::FrontProxy => User::from_headers(request.headers()).ok_or_else(StatusError::unauthorized)?,
        Peer::Stranger => return Err(StatusError::unauthorized()),
    };
    if let Some(document) = discovery::document(path).or_else(|| openapi::document(path)) {
        return Ok(json(StatusCode::OK, &document));
    }
    let (head, body) = request.into_parts();
    let body = read(body).await?;
    let call = Call::new(&head.method, &head.uri, &head.headers, user, body)?;
    Ok(match api.answer(&call).await? {
        Reply::Object(code, object) => json(code, &call.form.apply(object, &call.query)),
        Reply::Stream(body) => {
            let mut response = Response::new(body);
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
    })
}

async fn read(body: Incoming) -> Result<Bytes, StatusError> {
    match Limited::new(body, BODY_LIMIT_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(StatusError::too_large(BODY_LIMIT_BYTES)),
        Err(error) => Err(StatusError::bad_request(format!("the body of the request could not be read: {error}"))),
    }
}

fn json(code: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}
