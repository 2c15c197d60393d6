//! Reading, finding and unlinking blobs. A repository may read a blob it has a link to, or that an image of its stream lists.
//! Bytes are streamed from the store or the client is sent there; nothing is held in memory.

use std::{ops::Range, sync::Arc, time::Instant};

use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};

use crate::{
    body::{self, Body},
    cluster::CallError,
    digest::{Digest, DigestError, Repository},
    error::{Code, Refusal},
    registry::Registry,
    request::Request,
    storage::{StorageError, layout},
};

/// The digest of the content answered.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Why a blob could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The API server failed.
    #[error("reading the layers of the image stream: {0}")]
    Cluster(#[from] CallError),
}

impl From<BlobError> for Refusal {
    fn from(error: BlobError) -> Self {
        Code::Unknown.because(error)
    }
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        Code::Unknown.because(error)
    }
}

/// Reads a digest of a request path.
pub fn parse_digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|error: DigestError| Code::DigestInvalid.because(error))
}

impl Registry {
    /// The size of a blob if the repository may read it.
    pub async fn blob_size(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, BlobError> {
        let start = Instant::now();
        let found = self.find_blob(repository, digest).await;
        self.metrics.operation("BlobStore.Stat", start.elapsed());
        found
    }

    async fn find_blob(&self, repository: &Repository, digest: &Digest) -> Result<Option<u64>, BlobError> {
        if let Some(size) = self.cache.in_repository(repository, digest) {
            return Ok(Some(size));
        }
        let size = match self.cache.anywhere(digest) {
            Some(size) => size,
            None => match self.storage.size(&layout::blob(digest)).await? {
                Some(size) => size,
                None => return Ok(None),
            },
        };
        let visible = digest.is_empty_layer()
            || self.storage.size(&layout::layer_link(repository, digest)).await?.is_some()
            || self.stream_lists(repository, digest).await?;
        if visible {
            self.cache.remember(Some(repository), digest, size);
        }
        Ok(visible.then_some(size))
    }

    /// True when an image of the stream uses a blob, or is it (layers API).
    async fn stream_lists(&self, repository: &Repository, digest: &Digest) -> Result<bool, BlobError> {
        match self.cluster.layers(repository).await {
            Ok(layers) => {
                let name = digest.to_string();
                Ok(layers.blobs.contains_key(&name) || layers.images.contains_key(&name))
            }
            // What the API does not tell is not there (seen on the real registry: 404 and 500 alike).
            Err(error) => {
                if !error.is_not_found() {
                    self.log.warning(&format!("reading the layers of {repository}: {error}"), vec![]);
                }
                Ok(false)
            }
        }
    }

    /// GET and HEAD of a blob.
    pub async fn get_blob(
        self: &Arc<Self>,
        request: &Request,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Response<Body>, Refusal> {
        let start = Instant::now();
        let Some(size) = self.blob_size(repository, digest).await? else {
            if let Some(response) = self.pull_blob(request, repository, digest).await? {
                return Ok(response);
            }
            return Err(Code::BlobUnknown.because(digest));
        };
        let answer = self.serve_blob(request, digest, size).await;
        self.metrics.operation("BlobStore.ServeBlob", start.elapsed());
        answer
    }

    async fn serve_blob(&self, request: &Request, digest: &Digest, size: u64) -> Result<Response<Body>, Refusal> {
        let path = layout::blob(digest);
        if !self.settings.redirect_disabled
            && let Some(url) = self.storage.presign(&path, request.method.clone()).await?
        {
            let mut response = body::nothing();
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            let location = HeaderValue::try_from(url).map_err(|error| Code::Unknown.because(error))?;
            response.headers_mut().insert(header::LOCATION, location);
            response.headers_mut().insert(CONTENT_DIGEST, digest_value(digest));
            return Ok(response);
        }
        let etag = format!("\"{digest}\"");
        let (asked, status) = match conditions(request, &etag, size) {
            Asked::NotModified => {
                let mut response = body::nothing();
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                response.headers_mut().remove(header::CONTENT_LENGTH);
                response.headers_mut().insert(header::ETAG, value(&etag));
                return Ok(response);
            }
            Asked::Unsatisfiable => {
                let mut response = body::text("invalid range: failed to overlap\n");
                *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
                response.headers_mut().insert(header::CONTENT_RANGE, value(&format!("bytes */{size}")));
                return Ok(response);
            }
            Asked::Whole => (0..size, StatusCode::OK),
            Asked::Part(range) => (range, StatusCode::PARTIAL_CONTENT),
        };
        let content = if request.method == Method::HEAD {
            body::empty()
        } else {
            match self.storage.read(&path, asked.clone()).await {
                Ok(content) => body::stream(content),
                Err(error) if error.is_not_found() => {
                    self.cache.forget(digest);
                    return Err(Code::BlobUnknown.because(digest));
                }
                Err(error) => return Err(error.into()),
            }
        };
        let mut response = Response::new(content);
        let headers = response.headers_mut();
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=31536000"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::CONTENT_LENGTH, (asked.end - asked.start).into());
        headers.insert(header::ETAG, value(&etag));
        headers.insert(CONTENT_DIGEST, digest_value(digest));
        if status == StatusCode::PARTIAL_CONTENT {
            let range = format!("bytes {}-{}/{size}", asked.start, asked.end.saturating_sub(1));
            headers.insert(header::CONTENT_RANGE, value(&range));
        }
        *response.status_mut() = status;
        Ok(response)
    }

    /// DELETE of a blob: the repository loses it, its bytes stay.
    pub async fn delete_blob(&self, repository: &Repository, digest: &Digest) -> Result<Response<Body>, Refusal> {
        if !self.settings.delete_enabled {
            return Err(Code::Unsupported.into());
        }
        let start = Instant::now();
        let removed = async {
            if self.blob_size(repository, digest).await?.is_none() {
                return Err(Code::BlobUnknown.because(digest));
            }
            let link = layout::layer_link(repository, digest);
            self.storage.remove(link.trim_end_matches("/link")).await?;
            self.cache.forget_in(repository, digest);
            Ok(())
        }
        .await;
        self.metrics.operation("BlobStore.Delete", start.elapsed());
        removed?;
        let mut response = body::nothing();
        *response.status_mut() = StatusCode::ACCEPTED;
        response.headers_mut().insert(CONTENT_DIGEST, digest_value(digest));
        Ok(response)
    }
}

/// A digest as a header value.
pub fn digest_value(digest: &Digest) -> HeaderValue {
    value(&digest.to_string())
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).expect("digests and numbers are header text")
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part(Range<u64>),
    Unsatisfiable,
    NotModified,
}

/// What a GET with preconditions and ranges asks for (RFC 9110, sections 13 and 14). Several ranges at once are answered
/// with the whole, which the RFC allows.
fn conditions(request: &Request, etag: &str, size: u64) -> Asked {
    let matches = |header: &str| {
        header.split(',').map(|tag| tag.trim().trim_start_matches("W/")).any(|tag| tag == "*" || tag == etag)
    };
    if matches(request.header(&header::IF_NONE_MATCH)) {
        return Asked::NotModified;
    }
    let condition = request.header(&header::IF_RANGE);
    if !condition.is_empty() && condition != etag {
        return Asked::Whole;
    }
    let Some(ranges) = request.header(&header::RANGE).strip_prefix("bytes=") else { return Asked::Whole };
    let Some((first, last)) = ranges.trim().split_once('-') else { return Asked::Whole };
    let range = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if last >= first => first..last.saturating_add(1).min(size),
        (Ok(first), Err(_)) if last.trim().is_empty() => first..size,
        (Err(_), Ok(0)) if first.trim().is_empty() => return Asked::Unsatisfiable,
        (Err(_), Ok(suffix)) if first.trim().is_empty() => size.saturating_sub(suffix)..size,
        _ => return Asked::Whole,
    };
    if range.start >= size { Asked::Unsatisfiable } else { Asked::Part(range) }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::request::tests::request;

    #[rstest]
    #[case("", Asked::Whole)]
    #[case("bytes=0-3", Asked::Part(0..4))]
    #[case("bytes=4-", Asked::Part(4..10))]
    #[case("bytes=-3", Asked::Part(7..10))]
    #[case("bytes=8-99", Asked::Part(8..10))]
    #[case("bytes=10-", Asked::Unsatisfiable)]
    #[case("bytes=-0", Asked::Unsatisfiable)]
    #[case("bytes=5-2", Asked::Whole)]
    #[case("bytes=0-1,4-5", Asked::Whole)]
    #[case("lines=0-1", Asked::Whole)]
    fn ranges(#[case] range: &str, #[case] expected: Asked) {
        let request = request(Method::GET, "/", &[("range", range)]);
        assert_eq!(conditions(&request, "\"d\"", 10), expected);
    }

    #[rstest]
    #[case("if-none-match", "\"d\"", Asked::NotModified)]
    #[case("if-none-match", "\"x\", W/\"d\"", Asked::NotModified)]
    #[case("if-range", "\"x\"", Asked::Whole)]
    #[case("if-range", "\"d\"", Asked::Part(1..10))]
    fn preconditions(#[case] name: &str, #[case] text: &str, #[case] expected: Asked) {
        let request = request(Method::GET, "/", &[("range", "bytes=1-"), (name, text)]);
        assert_eq!(conditions(&request, "\"d\"", 10), expected);
    }
}
