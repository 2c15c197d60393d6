//! The registry itself: every request comes in here, is limited, authorised, handed to its handler, measured and logged.
//! It knows no sockets; the server feeds it, and tests call it directly.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, SizeHint};

use crate::{
    auth::{self, Gate},
    blob::parse_digest,
    body::{self, Body},
    cache::DigestCache,
    cluster::Cluster,
    digest::Repository,
    error::{Code, Refusal},
    health::Health,
    limits::{Limits, Permit, too_many_requests},
    log::{Fields, Log},
    metrics::Metrics,
    pullthrough::Pullthrough,
    remote::Remotes,
    request::{Identity, Request},
    router::{Place, Reference, Resource},
    settings::Settings,
    storage::Storage,
    token,
    upload::Seal,
};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const SUPPORTS_SIGNATURES: HeaderName = HeaderName::from_static("x-registry-supports-signatures");

/// One registry.
pub struct Registry {
    /// What it was told.
    pub settings: Settings,
    /// The API server.
    pub cluster: Cluster,
    /// The store.
    pub storage: Storage,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
    /// Its log.
    pub log: Log,
    /// Whether the store answers.
    pub health: Health,
    /// What is known about blobs.
    pub cache: DigestCache,
    /// Signs upload states.
    pub seal: Seal,
    /// Limits on simultaneous requests.
    pub limits: Limits,
    /// Access to other registries.
    pub pullthrough: Pullthrough,
}

impl Registry {
    /// Puts a registry together; nothing is asked or written yet.
    pub fn new(
        settings: Settings,
        cluster: Cluster,
        storage: Storage,
        metrics: Arc<Metrics>,
        log: Log,
        remotes: Remotes,
    ) -> Result<Self, ring::error::Unspecified> {
        let secret = match &settings.http_secret {
            Some(secret) => secret.clone().into_bytes(),
            None => {
                let mut secret = vec![0; 32];
                ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut secret)?;
                secret
            }
        };
        Ok(Self {
            limits: Limits::new(settings.read_limit, settings.write_limit),
            cache: DigestCache::new(settings.blob_ttl, Arc::clone(&metrics)),
            seal: Seal::new(&secret),
            pullthrough: Pullthrough::new(remotes),
            health: Health::default(),
            settings,
            cluster,
            storage,
            metrics,
            log,
        })
    }

    /// Answers one request.
    pub async fn handle(self: &Arc<Self>, request: Request) -> Response<Body> {
        let start = Instant::now();
        let place = Place::of(request.uri.path());
        let is_head = request.method == Method::HEAD;
        let mut record = AccessRecord {
            registry: Arc::clone(self),
            fields: request_fields(&request),
            method: request.method.to_string(),
            request_bytes: request.header(&header::CONTENT_LENGTH).parse().unwrap_or_default(),
            status: StatusCode::OK,
            content_type: String::new(),
            written: 0,
            measured: false,
            start,
            _permit: None,
        };
        let response = if let Some(refusal) = self.health.refusal() {
            refusal.into_response()
        } else if place == Place::Health {
            let mut response = body::nothing();
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            response
        } else {
            match self.limits.of(&request.method).enter().await {
                None => too_many_requests().into_response(),
                Some(permit) => {
                    record._permit = Some(permit);
                    record.measured = true;
                    let _in_flight = self.metrics.in_flight();
                    self.answer(request, place).await
                }
            }
        };
        let response = if is_head { without_body(response) } else { response };
        record.status = response.status();
        record.content_type =
            response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        response.map(|inner| Recorded { inner, record: Some(record) }.boxed_unsync())
    }

    async fn answer(self: &Arc<Self>, mut request: Request, place: Place) -> Response<Body> {
        let mut identity = OnceLock::new();
        let start = Instant::now();
        let response = match &place {
            Place::Token => token::answer(&self.cluster, &request).await,
            Place::BaseWithoutSlash => {
                let mut response = body::nothing();
                *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
                response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/v2/"));
                response
            }
            Place::Nowhere => Refusal::no_such_page().into_response(),
            Place::Metrics if !self.settings.metrics_enabled => Refusal::no_such_page().into_response(),
            _ => {
                let answer = self.dispatch(&mut request, &place, &identity).await;
                self.note(&request, &place, identity.take(), &answer, start.elapsed());
                let mut response = answer.unwrap_or_else(Refusal::into_response);
                response.headers_mut().insert(SUPPORTS_SIGNATURES, HeaderValue::from_static("1"));
                response
            }
        };
        let mut response = response;
        response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        response
    }

    async fn dispatch(
        self: &Arc<Self>,
        request: &mut Request,
        place: &Place,
        known: &OnceLock<Identity>,
    ) -> Result<Response<Body>, Refusal> {
        let records = auth::records(request, place).ok_or_else(auth::unchallenged)?;
        let gate = Gate { settings: &self.settings, cluster: &self.cluster, log: &self.log };
        let identity = gate.authorise(request, &records).await?;
        let identity = known.get_or_init(|| identity);
        self.log.info("authorized request", self.request_context(request, place, Some(identity)));
        let methods = place.methods();
        if !methods.is_empty() && !methods.contains(&request.method) {
            return Err(Refusal::method_not_allowed(allow(place, false)));
        }
        if self.settings.read_only && is_write(request, place) {
            return Err(Refusal::method_not_allowed(allow(place, true)));
        }
        match place {
            Place::Base => Ok(with_length(body::json(&serde_json::json!({})))),
            Place::Catalog => self.list_repositories(request, identity).await,
            Place::Metrics => {
                let mut response = Response::new(body::full(self.metrics.text()));
                let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, text);
                Ok(response)
            }
            Place::AdminBlob(digest) => self.remove_blob(digest).await,
            Place::Repository { name, resource } => {
                let repository = Repository::parse(name).ok_or(Code::NameInvalid)?;
                self.in_repository(request, &repository, resource, identity).await
            }
            Place::Health | Place::Token | Place::BaseWithoutSlash | Place::Nowhere => Err(Refusal::no_such_page()),
        }
    }

    async fn in_repository(
        self: &Arc<Self>,
        request: &mut Request,
        repository: &Repository,
        resource: &Resource,
        identity: &Identity,
    ) -> Result<Response<Body>, Refusal> {
        let method = request.method.clone();
        match (resource, method) {
            (Resource::Tags, _) => self.list_tags(request, repository).await,
            (Resource::Manifest(reference), Method::PUT) => {
                self.put_manifest(request, repository, reference, identity).await
            }
            (Resource::Manifest(reference), Method::DELETE) => self.delete_manifest(repository, reference).await,
            (Resource::Manifest(reference), _) => self.get_manifest(request, repository, reference).await,
            (Resource::Blob(digest), Method::DELETE) => self.delete_blob(repository, &parse_digest(digest)?).await,
            (Resource::Blob(digest), _) => self.get_blob(request, repository, &parse_digest(digest)?).await,
            (Resource::Uploads, _) => self.begin_upload(request, repository, identity).await,
            (Resource::Upload(uuid), Method::PATCH) => self.append_upload(request, repository, uuid).await,
            (Resource::Upload(uuid), Method::PUT) => self.finish_upload(request, repository, uuid).await,
            (Resource::Upload(uuid), Method::DELETE) => self.cancel_upload(request, repository, uuid).await,
            (Resource::Upload(uuid), _) => self.upload_status(request, repository, uuid).await,
            (Resource::Signatures(digest), Method::PUT) => self.put_signature(request, digest, identity).await,
            (Resource::Signatures(digest), _) => self.get_signatures(repository, digest).await,
        }
    }

    /// A link to a path of this registry, as the client must write it.
    pub fn link(&self, request: &Request, path: &str) -> String {
        if self.settings.relative_urls {
            return path.to_owned();
        }
        match &self.settings.public_host {
            Some(host) => format!("{}{path}", host.trim_end_matches('/')),
            None => {
                let (scheme, host) = request.origin();
                format!("{scheme}://{host}{path}")
            }
        }
    }

    fn request_context(&self, request: &Request, place: &Place, identity: Option<&Identity>) -> Fields {
        let mut fields = request_fields(request);
        if let Some(identity) = identity {
            fields.push(("openshift.auth.user", identity.user.name.clone()));
            fields.push(("openshift.auth.userid", identity.user.uid.clone()));
        }
        if let Place::Repository { name, resource } = place {
            fields.push(("vars.name", name.clone()));
            match resource {
                Resource::Manifest(Reference::Tag(tag)) => fields.push(("vars.reference", tag.clone())),
                Resource::Manifest(Reference::Digest(digest)) => fields.push(("vars.reference", digest.to_string())),
                Resource::Blob(digest) => fields.push(("vars.digest", digest.clone())),
                Resource::Upload(uuid) => fields.push(("vars.uuid", uuid.clone())),
                Resource::Signatures(digest) => fields.push(("vars.digest", digest.to_string())),
                Resource::Tags | Resource::Uploads => {}
            }
        }
        fields
    }

    /// The line about a request that reached the distribution API.
    fn note(
        &self,
        request: &Request,
        place: &Place,
        identity: Option<Identity>,
        answer: &Result<Response<Body>, Refusal>,
        took: Duration,
    ) {
        let mut fields = self.request_context(request, place, identity.as_ref());
        fields.push(("http.response.duration", format!("{took:?}")));
        match answer {
            Ok(response) => {
                fields.push(("http.response.status", response.status().as_u16().to_string()));
                self.log.info("response completed", fields);
            }
            Err(refusal) => {
                let status = refusal.status();
                let (code, message, detail) = refusal.in_words();
                if status == StatusCode::UNAUTHORIZED {
                    self.log.warning("error authorizing context: access denied", fields.clone());
                }
                fields.push(("http.response.status", status.as_u16().to_string()));
                fields.push(("err.code", code));
                fields.push(("err.message", message));
                fields.push(("err.detail", detail));
                let expected = request.method == Method::HEAD && status == StatusCode::NOT_FOUND;
                let line = "response completed with error";
                if expected { self.log.info(line, fields) } else { self.log.error(line, fields) }
            }
        }
    }
}

/// The answer to HEAD: all headers of the answer to GET, no body. HTTP/2 has it that a body here breaks the stream
/// (RFC 9113, section 8.1.1).
fn without_body(response: Response<Body>) -> Response<Body> {
    let described = response.headers().contains_key(header::CONTENT_LENGTH);
    let bodiless = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let response = if described || bodiless { response } else { with_length(response) };
    response.map(|_| body::empty())
}

fn with_length(mut response: Response<Body>) -> Response<Body> {
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    response
}

fn is_write(request: &Request, place: &Place) -> bool {
    let Place::Repository { resource, .. } = place else { return false };
    match resource {
        Resource::Manifest(_) | Resource::Blob(_) | Resource::Uploads | Resource::Upload(_) => {
            !matches!(request.method, Method::GET | Method::HEAD)
        }
        Resource::Tags | Resource::Signatures(_) => false,
    }
}

/// The `Allow` header of a place.
fn allow(place: &Place, read_only: bool) -> &'static str {
    match place {
        Place::AdminBlob(_) => "DELETE",
        Place::Repository { resource, .. } => match (resource, read_only) {
            (Resource::Manifest(_), false) => "DELETE, GET, HEAD, PUT",
            (Resource::Blob(_), false) => "DELETE, GET, HEAD",
            (Resource::Uploads, false) => "POST",
            (Resource::Upload(_), false) => "DELETE, GET, HEAD, PATCH, PUT",
            (Resource::Signatures(_), _) => "GET, PUT",
            (Resource::Uploads, true) => "",
            _ => "GET, HEAD",
        },
        _ => "GET, HEAD",
    }
}

fn request_fields(request: &Request) -> Fields {
    // The query may hold an upload's signed state; the path says enough.
    let mut fields = vec![
        ("http.request.host", request.host().to_owned()),
        ("http.request.id", request.id.clone()),
        ("http.request.method", request.method.to_string()),
        ("http.request.uri", request.uri.path().to_owned()),
        ("http.request.remoteaddr", request.peer.map(|peer| peer.to_string()).unwrap_or_default()),
    ];
    for (field, name) in [
        ("http.request.contenttype", header::CONTENT_TYPE),
        ("http.request.referer", header::REFERER),
        ("http.request.useragent", header::USER_AGENT),
    ] {
        let value = request.header(&name);
        if !value.is_empty() {
            fields.push((field, value.to_owned()));
        }
    }
    fields
}

/// What is said and counted when a response has left.
struct AccessRecord {
    registry: Arc<Registry>,
    fields: Fields,
    method: String,
    request_bytes: u64,
    status: StatusCode,
    content_type: String,
    written: u64,
    measured: bool,
    start: Instant,
    _permit: Option<Permit>,
}

impl AccessRecord {
    fn finish(mut self) {
        let took = self.start.elapsed();
        let registry = &self.registry;
        if self.measured {
            registry.metrics.request(&self.method, self.status.as_u16(), took, self.request_bytes, self.written);
        }
        if registry.settings.access_log {
            self.fields.push(("http.response.status", self.status.as_u16().to_string()));
            self.fields.push(("http.response.written", self.written.to_string()));
            if !self.content_type.is_empty() {
                self.fields.push(("http.response.contenttype", self.content_type));
            }
            self.fields.push(("http.response.duration", format!("{took:?}")));
            registry.log.info("response", self.fields);
        }
    }
}

/// A response body that finishes its access record when its last byte was taken, or when the client went away.
struct Recorded {
    inner: Body,
    record: Option<AccessRecord>,
}

impl hyper::body::Body for Recorded {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let (Poll::Ready(Some(Ok(frame))), Some(record)) = (&polled, &mut self.record) {
            record.written += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        let over = matches!(polled, Poll::Ready(None)) || (polled.is_ready() && self.inner.is_end_stream());
        if over && let Some(record) = self.record.take() {
            record.finish();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            record.finish();
        }
    }
}
