//! Uploads of blobs: begin, append, ask, finish, give up, and mounting instead of uploading.
//! Where an upload stands travels with the client as a signed state, so that any replica with the same HTTP secret can go on,
//! also after a restart (distribution registry/handlers/blobupload.go, hmac.go).

use std::time::Instant;

use base64::{Engine as _, prelude::BASE64_URL_SAFE};
use futures::StreamExt;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::{
    blob::{CONTENT_DIGEST, digest_value, parse_digest},
    body::{self, Body, Received},
    digest::{Algorithm, Digest, Hasher, Repository},
    error::{Code, Refusal},
    registry::Registry,
    request::{Identity, Request},
    router,
    storage::{Writer, layout},
};

const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// Where an upload stands, as the client carries it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    name: String,
    #[serde(rename = "UUID")]
    uuid: String,
    offset: u64,
    started_at: jiff::Timestamp,
}

/// Signs and checks upload states.
pub struct Seal(hmac::Key);

impl Seal {
    /// A seal with the registry's HTTP secret.
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    fn seal(&self, state: &State) -> String {
        let text = serde_json::to_vec(state).expect("an upload state has a JSON form");
        let mut token = hmac::sign(&self.0, &text).as_ref().to_vec();
        token.extend_from_slice(&text);
        BASE64_URL_SAFE.encode(token)
    }

    fn open(&self, token: &str) -> Option<State> {
        let token = BASE64_URL_SAFE.decode(token).ok()?;
        let (tag, text) = token.split_at_checked(32)?;
        hmac::verify(&self.0, text, tag).ok()?;
        serde_json::from_slice(text).ok()
    }
}

fn data_path(folder: &str) -> String {
    format!("{folder}/data")
}

fn hash_path(folder: &str, offset: u64) -> String {
    format!("{folder}/hashstates/sha256/{offset}")
}

/// An upload that goes on.
struct Resumed {
    state: State,
    folder: String,
    writer: Box<dyn Writer>,
}

impl Registry {
    /// POST: begins an upload, or mounts a blob of another repository.
    pub async fn begin_upload(
        &self,
        request: &Request,
        repository: &Repository,
        identity: &Identity,
    ) -> Result<Response<Body>, Refusal> {
        let start = Instant::now();
        if let Some(mounted) = self.mount(request, repository, identity).await? {
            return Ok(mounted);
        }
        let state = State {
            name: repository.to_string(),
            uuid: uuid::Uuid::new_v4().to_string(),
            offset: 0,
            started_at: jiff::Timestamp::now(),
        };
        let folder = layout::upload(repository, &state.uuid);
        let started_at = state.started_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        self.storage.put(&format!("{folder}/startedat"), started_at).await?;
        let writer = self.storage.append(&data_path(&folder), true).await?;
        self.storage.close(writer).await?;
        self.metrics.operation("BlobStore.Create", start.elapsed());
        Ok(self.upload_response(request, StatusCode::ACCEPTED, repository, &state))
    }

    async fn mount(
        &self,
        request: &Request,
        repository: &Repository,
        identity: &Identity,
    ) -> Result<Option<Response<Body>>, Refusal> {
        let (mount, from) = (router::query(&request.uri, "mount"), router::query(&request.uri, "from"));
        let (Some(mount), Some(from)) = (mount, from.as_deref().and_then(Repository::parse)) else {
            return Ok(None);
        };
        let Ok(digest) = mount.parse::<Digest>() else { return Ok(None) };
        if !identity.may_mount {
            return Ok(None);
        }
        let Some(size) = self.blob_size(&from, &digest).await? else { return Ok(None) };
        self.link_blob(repository, &digest, size).await?;
        Ok(Some(self.blob_created(request, repository, &digest)))
    }

    async fn link_blob(&self, repository: &Repository, digest: &Digest, size: u64) -> crate::storage::Result<()> {
        self.storage.put(&layout::layer_link(repository, digest), digest.to_string()).await?;
        self.cache.remember(Some(repository), digest, size);
        Ok(())
    }

    /// GET and HEAD: where an upload stands.
    pub async fn upload_status(
        &self,
        request: &Request,
        repository: &Repository,
        uuid: &str,
    ) -> Result<Response<Body>, Refusal> {
        let folder = layout::upload(repository, uuid);
        let started = self.storage.get(&format!("{folder}/startedat")).await;
        let started = started.map_err(|error| upload_unknown(error, uuid))?;
        let started_at = std::str::from_utf8(&started).ok().and_then(|text| text.trim().parse().ok());
        let writer = self.storage.append(&data_path(&folder), false).await;
        let writer = writer.map_err(|error| upload_unknown(error, uuid))?;
        let state = State {
            name: repository.to_string(),
            uuid: uuid.to_owned(),
            offset: writer.size(),
            started_at: started_at.unwrap_or_default(),
        };
        Ok(self.upload_response(request, StatusCode::NO_CONTENT, repository, &state))
    }

    /// PATCH: appends a chunk.
    pub async fn append_upload(
        &self,
        request: &mut Request,
        repository: &Repository,
        uuid: &str,
    ) -> Result<Response<Body>, Refusal> {
        let mut upload = self.resume(request, repository, uuid).await?;
        let content_type = request.header(&header::CONTENT_TYPE);
        if !matches!(content_type, "" | "application/octet-stream") {
            return Err(Code::Unknown.because(format!("bad Content-Type: {content_type}")));
        }
        check_content_range(request, upload.writer.size())?;
        let hasher = self.saved_hash(&upload).await;
        let (hasher, received) = receive(&mut request.body, &mut upload.writer, hasher).await;
        upload.state.offset = upload.writer.size();
        self.storage.close(upload.writer).await?;
        if let Some(saved) = hasher.as_ref().and_then(Hasher::save) {
            self.storage.put(&hash_path(&upload.folder, upload.state.offset), saved).await?;
        }
        received?;
        Ok(self.upload_response(request, StatusCode::ACCEPTED, repository, &upload.state))
    }

    /// PUT: appends the rest, checks the digest and makes the blob readable.
    pub async fn finish_upload(
        &self,
        request: &mut Request,
        repository: &Repository,
        uuid: &str,
    ) -> Result<Response<Body>, Refusal> {
        let start = Instant::now();
        let mut upload = self.resume(request, repository, uuid).await?;
        let Some(digest) = router::query(&request.uri, "digest").filter(|digest| !digest.is_empty()) else {
            return Err(Code::DigestInvalid.because("digest missing"));
        };
        let digest = parse_digest(&digest)?;
        let hasher = self.saved_hash(&upload).await;
        let (hasher, received) = receive(&mut request.body, &mut upload.writer, hasher).await;
        if let Err(refusal) = received {
            self.storage.close(upload.writer).await?;
            return Err(refusal);
        }
        let size = upload.writer.size();
        let seen = hasher.filter(|_| digest.algorithm() == Algorithm::Sha256).map(Hasher::finish);
        if let Some(seen) = seen.as_ref().filter(|seen| **seen != digest) {
            upload.writer.cancel().await?;
            self.storage.remove(&upload.folder).await?;
            return Err(mismatch(&digest, seen));
        }
        self.storage.commit(upload.writer).await?;
        let data = data_path(&upload.folder);
        if seen.is_none() {
            let seen = self.hash(&data, size, digest.algorithm()).await?;
            if seen != digest {
                self.storage.remove(&upload.folder).await?;
                return Err(mismatch(&digest, &seen));
            }
        }
        self.publish_blob(repository, &digest, &upload.folder, size).await?;
        self.metrics.operation("BlobWriter.Commit", start.elapsed());
        Ok(self.blob_created(request, repository, &digest))
    }

    /// Makes the committed content of an upload folder a blob of the repository, and removes the folder.
    pub(crate) async fn publish_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        folder: &str,
        size: u64,
    ) -> crate::storage::Result<()> {
        let target = layout::blob(digest);
        if self.storage.size(&target).await?.is_none() {
            self.storage.rename(&data_path(folder), &target, size).await?;
        }
        self.link_blob(repository, digest, size).await?;
        self.storage.remove(folder).await
    }

    /// DELETE: gives an upload up.
    pub async fn cancel_upload(
        &self,
        request: &Request,
        repository: &Repository,
        uuid: &str,
    ) -> Result<Response<Body>, Refusal> {
        let start = Instant::now();
        let upload = self.resume(request, repository, uuid).await?;
        upload.writer.cancel().await?;
        self.storage.remove(&upload.folder).await?;
        self.metrics.operation("BlobWriter.Cancel", start.elapsed());
        let mut response = body::nothing();
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().insert(UPLOAD_UUID, text_value(uuid));
        Ok(response)
    }

    async fn resume(&self, request: &Request, repository: &Repository, uuid: &str) -> Result<Resumed, Refusal> {
        let invalid =
            || Code::BlobUploadInvalid.because("the upload state is not one of this registry for this upload");
        let sealed = router::query(&request.uri, "_state").ok_or_else(invalid)?;
        let state = self.seal.open(&sealed).ok_or_else(invalid)?;
        if state.name != repository.to_string() || state.uuid != uuid {
            return Err(invalid());
        }
        let folder = layout::upload(repository, uuid);
        let writer = self.storage.append(&data_path(&folder), false).await;
        let writer = writer.map_err(|error| upload_unknown(error, uuid))?;
        if writer.size() != state.offset && request.method != Method::DELETE {
            return Err(Code::RangeInvalid.because(format!(
                "the upload has {} bytes, the request goes on at {}",
                writer.size(),
                state.offset
            )));
        }
        Ok(Resumed { state, folder, writer })
    }

    /// The hash of everything uploaded so far, if it was kept.
    async fn saved_hash(&self, upload: &Resumed) -> Option<Hasher> {
        match upload.writer.size() {
            0 => Some(Hasher::new(Algorithm::Sha256)),
            // Without a kept hash the blob is read once more at the end.
            offset => Hasher::resume(&self.storage.get(&hash_path(&upload.folder, offset)).await.ok()?),
        }
    }

    async fn hash(&self, path: &str, size: u64, algorithm: Algorithm) -> Result<Digest, Refusal> {
        let mut content = self.storage.read(path, 0..size).await?;
        let mut hasher = Hasher::new(algorithm);
        while let Some(piece) = content.next().await {
            hasher.update(&piece.map_err(|error| Code::Unknown.because(error))?);
        }
        Ok(hasher.finish())
    }

    fn upload_response(
        &self,
        request: &Request,
        status: StatusCode,
        repository: &Repository,
        state: &State,
    ) -> Response<Body> {
        let path = format!("/v2/{repository}/blobs/uploads/{}?_state={}", state.uuid, self.seal.seal(state));
        let mut response = body::nothing();
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::LOCATION, text_value(&self.link(request, &path)));
        headers.insert(header::RANGE, text_value(&format!("0-{}", state.offset.saturating_sub(1))));
        headers.insert(UPLOAD_UUID, text_value(&state.uuid));
        if status == StatusCode::NO_CONTENT {
            headers.remove(header::CONTENT_LENGTH);
        }
        response
    }

    fn blob_created(&self, request: &Request, repository: &Repository, digest: &Digest) -> Response<Body> {
        let mut response = body::nothing();
        *response.status_mut() = StatusCode::CREATED;
        let location = self.link(request, &format!("/v2/{repository}/blobs/{digest}"));
        response.headers_mut().insert(header::LOCATION, text_value(&location));
        response.headers_mut().insert(CONTENT_DIGEST, digest_value(digest));
        response
    }
}

fn text_value(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn upload_unknown(error: crate::storage::StorageError, uuid: &str) -> Refusal {
    if error.is_not_found() { Code::BlobUploadUnknown.because(uuid) } else { error.into() }
}

fn mismatch(claimed: &Digest, seen: &Digest) -> Refusal {
    Code::DigestInvalid.because(format!(
        "invalid digest for referenced layer: {claimed}, content does not match digest: it has {seen}"
    ))
}

/// Appends a request body, hashing as it goes. Received bytes count even if the client goes away in the middle.
async fn receive(
    body: &mut Received,
    writer: &mut Box<dyn Writer>,
    mut hasher: Option<Hasher>,
) -> (Option<Hasher>, Result<(), Refusal>) {
    while let Some(frame) = body.frame().await {
        let bytes = match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(_trailers)) => continue,
            Err(error) => return (hasher, Err(Code::Unknown.because(format!("client disconnected: {error}")))),
        };
        if let Some(hasher) = &mut hasher {
            hasher.update(&bytes);
        }
        if let Err(error) = writer.write(bytes).await {
            return (None, Err(error.into()));
        }
    }
    (hasher, Ok(()))
}

/// Checks `Content-Range: <first>-<last>` against the upload and the body's length, when both headers are there.
fn check_content_range(request: &Request, size: u64) -> Result<(), Refusal> {
    let (range, length) = (request.header(&header::CONTENT_RANGE), request.header(&header::CONTENT_LENGTH));
    if range.is_empty() || length.is_empty() {
        return Ok(());
    }
    let bounds = range
        .trim_start_matches("bytes ")
        .split('/')
        .next()
        .and_then(|bounds| bounds.split_once('-'))
        .and_then(|(first, last)| Some((first.trim().parse::<u64>().ok()?, last.trim().parse::<u64>().ok()?)));
    let Some((first, last)) = bounds else {
        return Err(Code::Unknown.because(format!("invalid content range format: {range}")));
    };
    if first > last || first != size {
        return Err(Code::RangeInvalid.because(format!("the upload has {size} bytes, the chunk is {range}")));
    }
    if length.parse() != Ok(last - first + 1) {
        return Err(Code::SizeInvalid.because(format!("the chunk is {range}, the body has {length} bytes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::request::tests::request;

    #[test]
    fn a_state_opens_only_with_the_same_secret() {
        let state = State {
            name: "a/b".into(),
            uuid: "u".into(),
            offset: 7,
            started_at: jiff::Timestamp::from_second(1_600_000_000).unwrap(),
        };
        let token = Seal::new(b"secret").seal(&state);
        assert_eq!(Seal::new(b"secret").open(&token), Some(state));
        assert_eq!(Seal::new(b"other").open(&token), None);
        assert_eq!(Seal::new(b"secret").open("AAAA"), None);
        assert_eq!(Seal::new(b"secret").open("not base64!"), None);
    }

    #[rstest]
    #[case("", "5", None)]
    #[case("10-14", "5", None)]
    #[case("bytes 10-14/20", "5", None)]
    #[case("9-13", "5", Some(416))]
    #[case("14-10", "5", Some(416))]
    #[case("10-14", "6", Some(400))]
    #[case("ten", "5", Some(500))]
    fn chunks_must_start_where_the_upload_ends(#[case] range: &str, #[case] length: &str, #[case] status: Option<u16>) {
        let request = request(Method::PATCH, "/", &[("content-range", range), ("content-length", length)]);
        let seen = check_content_range(&request, 10).err().map(|refusal| refusal.status().as_u16());
        assert_eq!(seen, status);
    }
}
