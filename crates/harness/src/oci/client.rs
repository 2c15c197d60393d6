//! Requests to one registry. A request's answer is a value with status, headers and body; only what kept the request
//! from being answered at all (no connection, no trust) is an error.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Instant};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::Value;
use tokio::sync::Mutex;

use super::{Image, Reference, digest_of};
use crate::{
    event::{Exchange, What},
    evidence::Evidence,
    failure::{Failure, chain},
};

/// A user name and a password (an API token, or something wrong on purpose). Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({}, …)", self.user)
    }
}

/// How a request identifies itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    Anonymous,
    Account(Account),
}

/// Where a registry is and how it is reached.
#[derive(Clone)]
pub struct RegistryOptions {
    /// `host[:port]` as documented.
    pub registry: String,
    /// The doorway's address, `http://127.0.0.1:port`.
    pub proxy: String,
    /// PEM certificates to trust; nothing else is trusted.
    pub trust: Vec<u8>,
    /// Accept any certificate, as `--tls-verify=false` does.
    pub insecure: bool,
    pub credentials: Credentials,
    /// Where every exchange is recorded, if anywhere.
    pub evidence: Option<Evidence>,
}

/// Bodies longer than this are recorded by their size only.
const SHORT_BODY: usize = 2048;

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Answer {
    pub method: Method,
    pub url: String,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// A header's value, when it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON; `Null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The code of the first entry of a registry's error body.
    pub fn error_code(&self) -> Option<String> {
        self.json()["errors"][0]["code"].as_str().map(str::to_owned)
    }

    /// One line for messages: request, status and the start of the body.
    pub fn summary(&self) -> String {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(400)]).into_owned();
        format!("{} {} answered {} {}", self.method, self.url, self.status, body.trim())
    }

    /// Fails, with the whole answer, unless the status is the expected one.
    pub fn expect(self, status: StatusCode) -> Result<Self, Failure> {
        if self.status == status {
            return Ok(self);
        }
        let tried = format!("{} {}", self.method, self.url);
        Err(Failure::fail(tried, status.to_string(), self.summary()).of("registry"))
    }
}

/// What a log-in came to.
#[derive(Debug, Clone)]
pub struct LoginOutcome {
    /// The answers in order: the challenge, the token request, the request with the token.
    pub answers: Vec<Answer>,
}

impl LoginOutcome {
    /// Whether a client would print that the log-in succeeded.
    pub fn succeeded(&self) -> bool {
        self.answers.last().is_some_and(|answer| answer.status == StatusCode::OK)
    }

    /// The way of the log-in as a line per request.
    pub fn summary(&self) -> String {
        self.answers.iter().map(|a| format!("{} {} -> {}", a.method, a.url, a.status)).collect::<Vec<_>>().join("; ")
    }
}

/// A client for one registry under one identity.
#[derive(Clone)]
pub struct Registry {
    options: RegistryOptions,
    http: reqwest::Client,
    bearer: Arc<Mutex<Option<String>>>,
}

impl Registry {
    /// Builds the client; fails when the trust bundle or the proxy address is not usable.
    pub fn new(options: RegistryOptions) -> Result<Self, Failure> {
        let certificates = reqwest::Certificate::from_pem_bundle(&options.trust)
            .map_err(|error| Failure::error("reading the trust bundle", error))?;
        let proxy = reqwest::Proxy::all(&options.proxy).map_err(|error| Failure::error("using the doorway", error))?;
        let http = reqwest::Client::builder()
            .proxy(proxy)
            .tls_certs_only(certificates)
            .tls_danger_accept_invalid_certs(options.insecure)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .build()
            .map_err(|error| Failure::error("building the registry client", error))?;
        Ok(Self { options, http, bearer: Arc::default() })
    }

    /// `host[:port]` of this registry.
    pub fn address(&self) -> &str {
        &self.options.registry
    }

    /// Sends one request exactly as given, with the bearer token when one was obtained, and follows nothing.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Answer, Failure> {
        let url = if path.starts_with("https://") || path.starts_with("http://") {
            path.to_owned()
        } else {
            format!("https://{}{path}", self.options.registry)
        };
        let mut request = self.http.request(method.clone(), &url).headers(headers);
        // A token is for the registry that issued it; a redirect to storage carries its own signature.
        if let Some(token) = self.bearer.lock().await.as_ref().filter(|_| self.is_own(&url)) {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        self.exchange(method, url, request).await
    }

    /// Sends a request, reads the whole answer, and records both.
    async fn exchange(&self, method: Method, url: String, request: reqwest::RequestBuilder) -> Result<Answer, Failure> {
        let tried = format!("{method} {url}");
        let request = request.build().map_err(|error| Failure::error(format!("writing the request {tried}"), error))?;
        let mut exchange = Exchange {
            client: "registry client".to_owned(),
            method: method.to_string(),
            url: request.url().to_string(),
            request_headers: readable(request.headers()),
            request_body: request.body().and_then(reqwest::Body::as_bytes).and_then(shown),
            ..Exchange::default()
        };
        let began = Instant::now();
        let answered = async {
            let response = self.http.execute(request).await?;
            let (status, headers) = (response.status(), response.headers().clone());
            Ok((status, headers, response.bytes().await?))
        };
        let answered: Result<_, reqwest::Error> = answered.await;
        exchange.milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let answer = match answered {
            Ok((status, headers, body)) => {
                exchange.status = Some(status.as_u16());
                exchange.response_headers = readable(&headers);
                exchange.response_body = shown(&body);
                Ok(Answer { method, url, status, headers, body })
            }
            Err(error) => {
                let failure = unreachable(&tried, &error);
                exchange.error.clone_from(&failure.seen);
                Err(failure)
            }
        };
        if let Some(evidence) = &self.options.evidence {
            evidence.record(What::HttpExchange(Box::new(exchange)));
        }
        answer
    }

    fn is_own(&self, url: &str) -> bool {
        url.strip_prefix("https://").is_some_and(|rest| {
            rest.strip_prefix(self.options.registry.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// Sends a request and, when it is answered with a bearer challenge, gets a token and sends it once more.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Answer, Failure> {
        let first = self.send(method.clone(), path, headers.clone(), body.clone()).await?;
        if first.status != StatusCode::UNAUTHORIZED {
            return Ok(first);
        }
        let Some(challenge) = Challenge::of(&first) else { return Ok(first) };
        let token = self.token(&challenge).await?;
        if token.status != StatusCode::OK {
            return Ok(first);
        }
        self.send(method, path, headers, body).await
    }

    /// The log-in that podman and skopeo do: ping, token with the account as Basic credentials, ping with the token.
    pub async fn login(&self) -> Result<LoginOutcome, Failure> {
        *self.bearer.lock().await = None;
        let ping = self.send(Method::GET, "/v2/", HeaderMap::new(), None).await?;
        let challenge = Challenge::of(&ping);
        let mut answers = vec![ping];
        if let Some(challenge) = challenge {
            let token = self.token(&challenge).await?;
            let granted = token.status == StatusCode::OK;
            answers.push(token);
            if granted {
                answers.push(self.send(Method::GET, "/v2/", HeaderMap::new(), None).await?);
            }
        }
        Ok(LoginOutcome { answers })
    }

    async fn token(&self, challenge: &Challenge) -> Result<Answer, Failure> {
        let mut query = vec![];
        if let Some(service) = &challenge.service {
            query.push(("service", service.clone()));
        }
        if let Some(scope) = &challenge.scope {
            query.push(("scope", scope.clone()));
        }
        let mut request = self.http.get(&challenge.realm);
        if let Credentials::Account(account) = &self.options.credentials {
            query.push(("account", account.user.clone()));
            let basic = BASE64_STANDARD.encode(format!("{}:{}", account.user, account.password));
            request = request.header(header::AUTHORIZATION, format!("Basic {basic}"));
        }
        let answer = self.exchange(Method::GET, challenge.realm.clone(), request.query(&query)).await?;
        let json = answer.json();
        if let Some(token) = json["token"].as_str().or(json["access_token"].as_str()) {
            *self.bearer.lock().await = Some(token.to_owned());
        }
        // The body holds the token; nobody needs it any more.
        Ok(Answer { body: if answer.status.is_success() { Bytes::new() } else { answer.body.clone() }, ..answer })
    }

    /// Pushes an image under a tag: every missing blob as one upload, then the manifest. The answer is that of the
    /// manifest, or the first refusal on the way.
    pub async fn push(&self, image: &Image, reference: &Reference) -> Result<Answer, Failure> {
        let repository = &reference.repository;
        for blob in image.blobs() {
            let path = format!("/v2/{repository}/blobs/{}", blob.digest);
            let known = self.request(Method::HEAD, &path, HeaderMap::new(), None).await?;
            if known.status == StatusCode::OK {
                continue;
            }
            let path = format!("/v2/{repository}/blobs/uploads/");
            let started = self.request(Method::POST, &path, HeaderMap::new(), None).await?;
            if started.status != StatusCode::ACCEPTED {
                return Ok(started);
            }
            let location = started.header("location").ok_or_else(|| {
                Failure::fail("starting an upload", "a Location header", started.summary()).of("registry")
            })?;
            let separator = if location.contains('?') { '&' } else { '?' };
            let finish = format!("{location}{separator}digest={}", blob.digest);
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/octet-stream"));
            let done = self.request(Method::PUT, &finish, headers, Some(blob.bytes.clone())).await?;
            if done.status != StatusCode::CREATED {
                return Ok(done);
            }
        }
        let path = format!("/v2/{repository}/manifests/{}", reference.manifest());
        let mut headers = HeaderMap::new();
        let media_type = header::HeaderValue::from_str(&image.manifest.media_type)
            .map_err(|error| Failure::error("naming the manifest's media type", error))?;
        headers.insert(header::CONTENT_TYPE, media_type);
        self.request(Method::PUT, &path, headers, Some(image.manifest.bytes.clone())).await
    }

    /// Gets a manifest with every media type accepted.
    pub async fn manifest(&self, reference: &Reference) -> Result<Answer, Failure> {
        let path = format!("/v2/{}/manifests/{}", reference.repository, reference.manifest());
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, header::HeaderValue::from_static(ACCEPTED));
        self.request(Method::GET, &path, headers, None).await
    }

    /// Gets a blob, following one redirect to storage as clients do.
    pub async fn blob(&self, repository: &str, digest: &str) -> Result<Answer, Failure> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let answer = self.request(Method::GET, &path, HeaderMap::new(), None).await?;
        match answer.header("location") {
            Some(target) if answer.status.is_redirection() => {
                self.send(Method::GET, target, HeaderMap::new(), None).await
            }
            _ => Ok(answer),
        }
    }

    /// Pulls a whole image: manifest, config and layers, every digest recomputed. `Ok(Err(answer))` is the registry's
    /// refusal; bytes that do not match their digest are a failure of the registry.
    pub async fn pull(&self, reference: &Reference) -> Result<Result<Pulled, Answer>, Failure> {
        let manifest = self.manifest(reference).await?;
        if manifest.status != StatusCode::OK {
            return Ok(Err(manifest));
        }
        let digest = digest_of(&manifest.body);
        if let Some(wanted) = reference.digest.as_deref().filter(|wanted| *wanted != digest) {
            let tried = format!("pulling {reference}");
            return Err(Failure::fail(tried, format!("bytes of {wanted}"), format!("bytes of {digest}")).of("registry"));
        }
        let parsed = manifest.json();
        let layers = parsed["layers"].as_array().cloned().unwrap_or_default();
        let mut blobs = 0;
        for descriptor in layers.iter().chain([&parsed["config"]]) {
            let wanted = descriptor["digest"].as_str().unwrap_or_default();
            let answer = self.blob(&reference.repository, wanted).await?;
            if answer.status != StatusCode::OK {
                return Ok(Err(answer));
            }
            let got = digest_of(&answer.body);
            if got != wanted {
                let tried = format!("pulling blob {wanted} of {reference}");
                return Err(Failure::fail(tried, wanted, format!("bytes of {got}")).of("registry"));
            }
            blobs += 1;
        }
        Ok(Ok(Pulled { digest, blobs }))
    }
}

/// What a pull brought: the manifest's digest and the number of blobs, all verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    pub digest: String,
    pub blobs: usize,
}

const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Headers for the record; what is no text is left out.
fn readable(headers: &HeaderMap) -> BTreeMap<String, String> {
    let text = |(name, value): (&header::HeaderName, &header::HeaderValue)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    };
    headers.iter().filter_map(text).collect()
}

/// A body for the record: itself when it is short text, else its size; nothing when it is empty.
fn shown(body: &[u8]) -> Option<String> {
    match std::str::from_utf8(body) {
        _ if body.is_empty() => None,
        Ok(text) if body.len() <= SHORT_BODY && !text.contains('\0') => Some(text.to_owned()),
        _ => Some(format!("{} bytes", body.len())),
    }
}

/// No answer at all: of the registry when the doorway led there, so it is a failure of the system to serve.
fn unreachable(tried: &str, error: &reqwest::Error) -> Failure {
    Failure::fail(tried, "an answer", chain(error)).of("registry")
}

/// A bearer challenge of a 401 answer, RFC 6750 section 3.
struct Challenge {
    realm: String,
    service: Option<String>,
    scope: Option<String>,
}

impl Challenge {
    fn of(answer: &Answer) -> Option<Self> {
        if answer.status != StatusCode::UNAUTHORIZED {
            return None;
        }
        let text = answer.header("www-authenticate")?;
        let (scheme, rest) = text.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameter = |name: &str| {
            let start = rest.find(&format!("{name}=\""))? + name.len() + 2;
            let length = rest[start..].find('"')?;
            Some(rest[start..start + length].to_owned())
        };
        Some(Self { realm: parameter("realm")?, service: parameter("service"), scope: parameter("scope") })
    }
}
