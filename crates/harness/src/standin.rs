//! Stand-in registries: what the documents call name.io, mirror.example.com or registry.access.redhat.com, served from
//! memory on loopback. Each keeps an access ledger, because "the source was not asked" is a promise of its own.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;

use crate::{oci::Image, trust::Authority};

/// One request that reached a stand-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// The host name the client used.
    pub host: String,
    pub method: String,
    pub path: String,
    pub status: u16,
}

#[derive(Debug, Default)]
struct Shelf {
    /// Manifests by `host/repository` and tag or digest; the value is media type and bytes.
    manifests: BTreeMap<(String, String), (String, Bytes)>,
    blobs: BTreeMap<(String, String), Bytes>,
    closed: Vec<String>,
    visits: Vec<Visit>,
}

/// A running stand-in; one serves any number of host names.
pub struct StandIn {
    address: SocketAddr,
    shelf: Arc<Mutex<Shelf>>,
    handle: axum_server::Handle<SocketAddr>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

impl StandIn {
    /// Starts a stand-in with a certificate of `authority` for `hosts`.
    pub async fn start(authority: &Authority, hosts: &[String]) -> io::Result<Self> {
        let config = authority.server_config(hosts).map_err(io::Error::other)?;
        let shelf = Arc::new(Mutex::new(Shelf::default()));
        let app = Router::new().fallback(serve).with_state(shelf.clone());
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let handle = axum_server::Handle::new();
        let config = axum_server::tls_rustls::RustlsConfig::from_config(config);
        let server = axum_server::from_tcp_rustls(listener, config)?.handle(handle.clone());
        tokio::spawn(server.serve(app.into_make_service()));
        Ok(Self { address, shelf, handle })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Puts an image on the shelf as `host/repository`, under a tag (if any) and its digest.
    pub fn shelve(&self, host: &str, repository: &str, tag: Option<&str>, image: &Image) {
        let name = format!("{host}/{repository}");
        let mut shelf = self.shelf.lock().expect("no panic while shelving");
        let manifest = (image.manifest.media_type.clone(), image.manifest.bytes.clone());
        for reference in tag.into_iter().chain([image.digest()]) {
            shelf.manifests.insert((name.clone(), reference.to_owned()), manifest.clone());
        }
        for blob in image.blobs() {
            shelf.blobs.insert((name.clone(), blob.digest.clone()), blob.bytes.clone());
        }
    }

    /// From now on `host` answers every request with 503, as a registry that is down behind its balancer does.
    pub fn close(&self, host: &str) {
        self.shelf.lock().expect("no panic while closing").closed.push(host.to_owned());
    }

    /// Every request that came for `host` so far.
    pub fn visits(&self, host: &str) -> Vec<Visit> {
        let shelf = self.shelf.lock().expect("no panic while reading");
        shelf.visits.iter().filter(|visit| visit.host == host).cloned().collect()
    }
}

async fn serve(State(shelf): State<Arc<Mutex<Shelf>>>, request: Request) -> Response {
    let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let header = request.headers().get("host").and_then(|host| host.to_str().ok()).map(str::to_owned);
    let host = authority.or(header).unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default().to_owned();
    let path = request.uri().path().to_owned();
    let mut shelf = shelf.lock().expect("no panic while serving");
    let response = if shelf.closed.contains(&host) {
        refuse(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "this stand-in is closed")
    } else {
        answer(&shelf, &host, request.method(), &path)
    };
    let status = response.status().as_u16();
    shelf.visits.push(Visit { host, method: request.method().to_string(), path, status });
    response
}

fn answer(shelf: &Shelf, host: &str, method: &Method, path: &str) -> Response {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "a stand-in is read-only");
    }
    if path == "/v2/" || path == "/v2" {
        return found("application/json", None, Bytes::from_static(b"{}"), method);
    }
    let parts = path.strip_prefix("/v2/").unwrap_or_default();
    if let Some((repository, reference)) = parts.split_once("/manifests/") {
        let key = (format!("{host}/{repository}"), reference.to_owned());
        return match shelf.manifests.get(&key) {
            Some((media_type, bytes)) => found(media_type, Some(crate::oci::digest_of(bytes)), bytes.clone(), method),
            None => refuse(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown"),
        };
    }
    if let Some((repository, digest)) = parts.split_once("/blobs/") {
        let key = (format!("{host}/{repository}"), digest.to_owned());
        return match shelf.blobs.get(&key) {
            Some(bytes) => found("application/octet-stream", Some(digest.to_owned()), bytes.clone(), method),
            None => refuse(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to registry"),
        };
    }
    refuse(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "no such path")
}

fn found(media_type: &str, digest: Option<String>, bytes: Bytes, method: &Method) -> Response {
    let mut response = Response::builder()
        .header("content-type", media_type)
        .header("content-length", bytes.len())
        .header("docker-distribution-api-version", "registry/2.0");
    if let Some(digest) = digest {
        response = response.header("docker-content-digest", digest);
    }
    let body = if method == Method::HEAD { Body::empty() } else { Body::from(bytes) };
    response.body(body).expect("a response of valid parts")
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    let body = json!({"errors": [{"code": code, "message": message}]}).to_string();
    let builder = Response::builder().status(status).header("content-type", "application/json");
    builder.body(Body::from(body)).expect("a response of valid parts")
}
