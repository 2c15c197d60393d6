//! A bucket of Google Cloud Storage. Reads, lists, deletions and signatures are the `object_store` crate's; files are written
//! by resumable uploads of the JSON API, whose sessions any process can go on with.

use std::{sync::Arc, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{Method, StatusCode, header};
use object_store::{
    ObjectStore, PutPayload,
    gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder},
    path::Path,
    signer::Signer,
};
use reqwest::{Response, Url};
use serde::Deserialize;

use super::{
    bucket::Bucket,
    objects::{self, Objects, Part},
};
use crate::settings::GcsSettings;

/// Chunks before the last are multiples of this many bytes (distribution registry/storage/driver/gcs/gcs.go:54).
pub const UNIT: u64 = 256 << 10;
/// Tries after the first of a request that was answered with 429 or 5xx (distribution
/// registry/storage/driver/gcs/gcs.go:590-610).
const RETRIES: usize = 4;
/// Status with which a session says that it wants more.
const RESUME_INCOMPLETE: u16 = 308;
/// Status with which a session says that it was cancelled.
const CANCELLED: u16 = 499;

type Done<T> = object_store::Result<T>;

/// Prepares access to a bucket; the first request is made when something is asked of it.
///
/// # Errors
/// In words, for a key file that cannot be read or holds no service account's key.
pub fn open(settings: &GcsSettings) -> Result<Bucket, String> {
    let wrong = |problem: &dyn std::fmt::Display| {
        format!("REGISTRY_STORAGE_GCS_KEYFILE={}: {problem}", settings.key_file.display())
    };
    let key = std::fs::read_to_string(&settings.key_file).map_err(|error| wrong(&error))?;
    let plain = settings.endpoint.starts_with("http://");
    let reads = GoogleCloudStorageBuilder::new()
        .with_service_account_key(key)
        .with_base_url(&settings.endpoint)
        .with_bucket_name(&settings.bucket)
        .with_client_options(objects::client_options(plain)?)
        .with_retry(objects::retries())
        .build()
        .map_err(|error| wrong(&error))?;
    let api = Url::parse(&settings.endpoint).map_err(|error| format!("STORAGE_EMULATOR_HOST: {error}"))?;
    let http = crate::trust::client(|builder| {
        builder.connect_timeout(Duration::from_secs(10)).redirect(reqwest::redirect::Policy::none())
    })?;
    let store = Gcs { reads, http, api, bucket: settings.bucket.clone() };
    Ok(Bucket::new(Arc::new(store), &settings.root, settings.chunk_bytes))
}

/// What the service did not do.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{what}: HTTP {status}: {message}")]
    Answered { what: &'static str, status: StatusCode, message: String },
    #[error("{what}: no usable answer")]
    Broken { what: &'static str, source: reqwest::Error },
    #[error("{what}: {problem}")]
    Odd { what: &'static str, problem: String },
}

impl Refusal {
    fn may_pass(&self) -> bool {
        matches!(self, Self::Answered { status, .. }
            if status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS)
    }

    fn about(self, key: &Path) -> object_store::Error {
        match &self {
            Self::Answered { status: StatusCode::NOT_FOUND, .. } => {
                object_store::Error::NotFound { path: key.to_string(), source: Box::new(self) }
            }
            _ => object_store::Error::Generic { store: "GCS", source: Box::new(self) },
        }
    }
}

/// An error as the service words it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorAnswer {
    error: ErrorBody,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorBody {
    message: String,
}

/// The answer to one step of a copy.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rewrite {
    #[serde(default)]
    done: bool,
    #[serde(default)]
    rewrite_token: Option<String>,
}

struct Gcs {
    reads: GoogleCloudStorage,
    http: reqwest::Client,
    api: Url,
    bucket: String,
}

struct Request {
    what: &'static str,
    method: Method,
    url: Url,
    content_range: Option<String>,
    body: Bytes,
}

impl Request {
    fn post(what: &'static str, url: Url) -> Self {
        Self { what, method: Method::POST, url, content_range: None, body: Bytes::new() }
    }
}

impl Gcs {
    fn url(&self, segments: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.api.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    fn upload_url(&self, key: &Path, kind: &str) -> Url {
        let query = [("uploadType", kind), ("name", key.as_ref())];
        self.url(&["upload", "storage", "v1", "b", &self.bucket, "o"], &query)
    }

    /// Sends a request until it is answered with something else than a passing refusal.
    async fn send(&self, request: Request, key: &Path, good: impl Fn(StatusCode) -> bool) -> Done<Response> {
        let bearer = self.reads.credentials().get_credential().await?;
        let Request { what, .. } = request;
        let once = || async {
            let mut sent = self
                .http
                .request(request.method.clone(), request.url.clone())
                .bearer_auth(&bearer.bearer)
                .header(header::CONTENT_LENGTH, request.body.len())
                .body(request.body.clone());
            if let Some(range) = &request.content_range {
                sent = sent.header(header::CONTENT_RANGE, range);
            }
            // A session's address is a capability of its own and stays out of messages.
            let answer = sent.send().await.map_err(|source| Refusal::Broken { what, source: source.without_url() })?;
            let status = answer.status();
            if status.is_success() || good(status) {
                return Ok(answer);
            }
            let text = answer.text().await.unwrap_or_default();
            let message = serde_json::from_str::<ErrorAnswer>(&text).unwrap_or_default().error.message;
            let message = if message.is_empty() { text.chars().take(200).collect() } else { message };
            Err(Refusal::Answered { what, status, message })
        };
        let policy = ExponentialBuilder::default().with_min_delay(Duration::from_millis(100)).with_max_times(RETRIES);
        once.retry(policy).when(Refusal::may_pass).await.map_err(|refusal| refusal.about(key))
    }

    async fn continue_session(&self, key: &Path, upload: &str, mut offset: u64, mut body: Bytes) -> Done<()> {
        let what = "sending a chunk";
        while !body.is_empty() {
            let end = offset + body.len() as u64;
            let request = Request {
                what,
                method: Method::PUT,
                url: session(upload, key)?,
                content_range: Some(format!("bytes {offset}-{}/*", end - 1)),
                body: body.clone(),
            };
            let answer = self.send(request, key, |status| status.as_u16() == RESUME_INCOMPLETE).await?;
            let kept = kept_bytes(answer.headers().get(header::RANGE).and_then(|value| value.to_str().ok()));
            if kept <= offset || kept > end {
                let problem = format!("of {end} bytes the session says it has {kept}");
                return Err(Refusal::Odd { what, problem }.about(key));
            }
            // The service may keep less than it was sent and wants the rest again.
            body = body.slice(usize::try_from(kept - offset).unwrap_or(body.len())..);
            offset = kept;
        }
        Ok(())
    }
}

fn session(upload: &str, key: &Path) -> Done<Url> {
    let what = "finding the session of an upload";
    Url::parse(upload).map_err(|error| Refusal::Odd { what, problem: error.to_string() }.about(key))
}

/// How many bytes a session has, from `bytes=0-N`; none without the header.
fn kept_bytes(range: Option<&str>) -> u64 {
    let last = range.and_then(|range| range.rsplit_once('-')).and_then(|(_, last)| last.trim().parse::<u64>().ok());
    last.map_or(0, |last| last + 1)
}

impl Objects for Gcs {
    fn unit(&self) -> u64 {
        UNIT
    }

    /// The chunks of a session follow one another.
    fn at_once(&self) -> usize {
        1
    }

    fn store(&self) -> &dyn ObjectStore {
        &self.reads
    }

    fn signer(&self) -> &dyn Signer {
        &self.reads
    }

    fn put<'a>(&'a self, key: &'a Path, content: PutPayload) -> BoxFuture<'a, Done<()>> {
        async move {
            let request =
                Request { body: content.into(), ..Request::post("writing an object", self.upload_url(key, "media")) };
            self.send(request, key, |_| false).await.map(drop)
        }
        .boxed()
    }

    fn copy<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFuture<'a, Done<()>> {
        async move {
            let what = "copying an object";
            let (source, target) = (from.as_ref(), to.as_ref());
            let path = ["storage", "v1", "b", &self.bucket, "o", source, "rewriteTo", "b", &self.bucket, "o", target];
            let mut token: Option<String> = None;
            loop {
                let query: Vec<_> = token.iter().map(|token| ("rewriteToken", token.as_str())).collect();
                let answer = self.send(Request::post(what, self.url(&path, &query)), from, |_| false).await?;
                let step: Rewrite =
                    answer.json().await.map_err(|source| Refusal::Broken { what, source }.about(from))?;
                match step.rewrite_token {
                    Some(next) if !step.done => token = Some(next),
                    _ => return Ok(()),
                }
            }
        }
        .boxed()
    }

    fn begin<'a>(&'a self, key: &'a Path) -> BoxFuture<'a, Done<String>> {
        async move {
            let what = "beginning an upload";
            let answer = self.send(Request::post(what, self.upload_url(key, "resumable")), key, |_| false).await?;
            let session = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let problem = "the answer names no session".to_owned();
            session.map(str::to_owned).ok_or_else(|| Refusal::Odd { what, problem }.about(key))
        }
        .boxed()
    }

    fn part<'a>(&'a self, key: &'a Path, upload: &'a str, part: Part) -> BoxFuture<'a, Done<String>> {
        async move {
            self.continue_session(key, upload, part.offset, part.content.into()).await?;
            Ok(part.number.to_string())
        }
        .boxed()
    }

    fn finish<'a>(
        &'a self,
        key: &'a Path,
        upload: &'a str,
        _parts: Vec<String>,
        last: Part,
    ) -> BoxFuture<'a, Done<()>> {
        async move {
            let body: Bytes = last.content.into();
            let total = last.offset + body.len() as u64;
            let range = match body.len() {
                0 => format!("bytes */{total}"),
                _ => format!("bytes {}-{}/{total}", last.offset, total - 1),
            };
            let request = Request {
                what: "finishing an upload",
                method: Method::PUT,
                url: session(upload, key)?,
                content_range: Some(range),
                body,
            };
            self.send(request, key, |_| false).await.map(drop)
        }
        .boxed()
    }

    fn abort<'a>(&'a self, key: &'a Path, upload: &'a str) -> BoxFuture<'a, Done<()>> {
        async move {
            let request = Request {
                what: "cancelling an upload",
                method: Method::DELETE,
                url: session(upload, key)?,
                content_range: None,
                body: Bytes::new(),
            };
            let over = |status: StatusCode| status.as_u16() == CANCELLED || status == StatusCode::GONE;
            self.send(request, key, over).await.map(drop)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(None, 0)]
    #[case(Some("bytes=0-262143"), 262_144)]
    #[case(Some("0-99"), 100)]
    #[case(Some("bytes=odd"), 0)]
    fn sessions_say_what_they_have(#[case] range: Option<&str>, #[case] bytes: u64) {
        assert_eq!(kept_bytes(range), bytes);
    }

    #[rstest]
    #[case(StatusCode::TOO_MANY_REQUESTS, true)]
    #[case(StatusCode::SERVICE_UNAVAILABLE, true)]
    #[case(StatusCode::FORBIDDEN, false)]
    fn passing_refusals_are_tried_again(#[case] status: StatusCode, #[case] again: bool) {
        let refusal = Refusal::Answered { what: "x", status, message: String::new() };
        assert_eq!(refusal.may_pass(), again);
    }
}
