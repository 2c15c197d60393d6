//! Blobs in a bucket of S3 or of anything that speaks its API.
//! An upload is a multipart upload whose parts are noted in an object beside it, so that any replica can go on with it; what is
//! too short for a part waits in another object until more comes.

use std::{collections::VecDeque, io, ops::Range, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{
    FutureExt, StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use object_store::{
    ClientOptions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    multipart::{MultipartStore, PartId},
    path::Path,
    signer::Signer,
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::{Driver, Result, StorageError, Writer, credentials::CredentialsFile, once};
use crate::settings::S3Settings;

/// How long a redirect stays valid (distribution registry/storage/driver/s3-aws/s3.go:1025-1062).
const URL_LIFE: Duration = Duration::from_secs(20 * 60);
/// The smallest part a store accepts before the last one, bytes.
const MIN_PART: u64 = 5 << 20;
/// The largest object one copy call can copy, bytes; larger ones pass through us.
const MAX_COPY: u64 = 5 << 30;
/// Parts on their way to the store at once, per upload.
const IN_FLIGHT: usize = 2;

/// A store in a bucket.
pub struct S3 {
    bucket: Bucket,
}

#[derive(Clone)]
struct Bucket {
    store: Arc<AmazonS3>,
    root: String,
    part_bytes: u64,
}

impl S3 {
    /// Prepares access to a bucket; the first request is made when something is asked of it.
    ///
    /// # Errors
    /// In words, for credentials that cannot be read and settings that contradict each other.
    pub fn new(settings: &S3Settings) -> std::result::Result<Self, String> {
        let plain = settings.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let mut client = ClientOptions::new().with_allow_http(plain).with_timeout_disabled();
        client = client.with_connect_timeout(Duration::from_secs(10));
        for anchor in crate::trust::anchors() {
            let found = object_store::Certificate::from_pem_bundle(&anchor).map_err(|error| error.to_string())?;
            client = found.into_iter().fold(client, ClientOptions::with_root_certificate);
        }
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_virtual_hosted_style_request(!settings.path_style)
            .with_client_options(client)
            .with_retry(RetryConfig {
                max_retries: 3,
                retry_timeout: Duration::from_secs(60),
                ..RetryConfig::default()
            });
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint_url(endpoint, settings));
        }
        match (&settings.access_key, &settings.secret_key, &settings.credentials_file) {
            (Some(key), Some(secret), _) => {
                builder = builder.with_access_key_id(key).with_secret_access_key(secret);
            }
            (None, None, Some(path)) => {
                builder = builder.with_credentials(Arc::new(CredentialsFile::open(path)?));
            }
            (None, None, None) => {}
            _ => return Err("REGISTRY_STORAGE_S3_ACCESSKEY and REGISTRY_STORAGE_S3_SECRETKEY go together".into()),
        }
        if settings.encrypt {
            builder = match &settings.key_id {
                Some(key_id) => builder.with_sse_kms_encryption(key_id),
                None => {
                    let key = "aws_server_side_encryption".parse::<AmazonS3ConfigKey>();
                    builder.with_config(key.map_err(|error| error.to_string())?, "AES256")
                }
            };
        }
        let store = Arc::new(builder.build().map_err(|error| error.to_string())?);
        Ok(Self { bucket: Bucket { store, root: settings.root.clone(), part_bytes: settings.chunk_bytes } })
    }
}

/// With virtual-hosted addressing the client wants the bucket in the endpoint.
fn endpoint_url(endpoint: &str, settings: &S3Settings) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) if !settings.path_style => format!("{scheme}://{}.{host}", settings.bucket),
        _ => endpoint.to_owned(),
    }
}

impl Bucket {
    fn key(&self, path: &str) -> Result<Path> {
        let full = if self.root.is_empty() { path.to_owned() } else { format!("{}/{path}", self.root) };
        Path::parse(full).map_err(|error| StorageError::failed("name", path, error))
    }

    async fn get(&self, path: &str) -> Result<Bytes> {
        let found = self.store.get(&self.key(path)?).await.map_err(|error| lost("get", path, error))?;
        found.bytes().await.map_err(|error| lost("get", path, error))
    }

    async fn put(&self, path: &str, content: Bytes) -> Result<()> {
        let put = self.store.put(&self.key(path)?, content.into()).await;
        put.map(drop).map_err(|error| StorageError::failed("put", path, error))
    }

    async fn delete(&self, path: &str) -> Result<()> {
        match self.store.delete(&self.key(path)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(StorageError::failed("delete", path, error)),
        }
    }

    async fn size(&self, path: &str) -> Result<Option<u64>> {
        match self.store.head(&self.key(path)?).await {
            Ok(facts) => Ok(Some(facts.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(StorageError::failed("head", path, error)),
        }
    }

    async fn keys_below(&self, path: &str) -> Result<Vec<Path>> {
        let keys = self.store.list(Some(&self.key(path)?)).map_ok(|facts| facts.location);
        keys.try_collect().await.map_err(|error| StorageError::failed("list", path, error))
    }

    async fn read(&self, path: &str, range: Range<u64>) -> Result<BoxStream<'static, io::Result<Bytes>>> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let found = self.store.get_opts(&self.key(path)?, options).await.map_err(|error| lost("get", path, error))?;
        Ok(found.into_stream().map_err(io::Error::other).boxed())
    }
}

fn lost(operation: &'static str, path: &str, error: object_store::Error) -> StorageError {
    match error {
        object_store::Error::NotFound { .. } => StorageError::NotFound { path: path.to_owned() },
        error => StorageError::failed(operation, path, error),
    }
}

impl Driver for S3 {
    fn size<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Option<u64>>> {
        self.bucket.size(path).boxed()
    }

    fn get<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Bytes>> {
        self.bucket.get(path).boxed()
    }

    fn put<'a>(&'a self, path: &'a str, content: Bytes) -> BoxFuture<'a, Result<()>> {
        self.bucket.put(path, content).boxed()
    }

    fn read<'a>(
        &'a self,
        path: &'a str,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<BoxStream<'static, io::Result<Bytes>>>> {
        async move {
            if range.is_empty() {
                return Ok(once(Bytes::new()));
            }
            self.bucket.read(path, range).await
        }
        .boxed()
    }

    fn append<'a>(&'a self, path: &'a str, fresh: bool) -> BoxFuture<'a, Result<Box<dyn Writer>>> {
        async move {
            let mut writer = PartWriter {
                bucket: self.bucket.clone(),
                path: path.to_owned(),
                noted: Noted::default(),
                buffer: Buffer::default(),
                sending: VecDeque::new(),
                stale_tail: None,
            };
            if !fresh {
                let noted = self.bucket.get(&note_path(path)).await?;
                writer.noted =
                    serde_json::from_slice(&noted).map_err(|error| StorageError::failed("resume", path, error))?;
                if writer.noted.tail > 0 {
                    let tail = tail_path(path, &writer.noted);
                    writer.buffer.push(self.bucket.get(&tail).await?);
                    writer.stale_tail = Some(tail);
                }
            }
            Ok(Box::new(writer) as Box<dyn Writer>)
        }
        .boxed()
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str, size: u64) -> BoxFuture<'a, Result<()>> {
        async move {
            if size <= MAX_COPY {
                let (source, target) = (self.bucket.key(from)?, self.bucket.key(to)?);
                self.bucket.store.copy(&source, &target).await.map_err(|error| lost("copy", from, error))?;
            } else {
                let mut content = self.bucket.read(from, 0..size).await?;
                let mut writer = self.append(to, true).await?;
                while let Some(piece) = content.next().await {
                    writer.write(piece.map_err(|error| StorageError::failed("copy", from, error))?).await?;
                }
                writer.commit().await?;
            }
            self.bucket.delete(from).await
        }
        .boxed()
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            let mut keys = self.bucket.keys_below(path).await?;
            if keys.is_empty() {
                match self.bucket.size(path).await? {
                    Some(_) => keys.push(self.bucket.key(path)?),
                    None => return Err(StorageError::NotFound { path: path.to_owned() }),
                }
            }
            let keys = stream::iter(keys).map(Ok).boxed();
            let mut gone = self.bucket.store.delete_stream(keys);
            while let Some(result) = gone.next().await {
                match result {
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(StorageError::failed("delete", path, error)),
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn walk<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Vec<String>>> {
        async move {
            let keys = self.bucket.keys_below(path).await?;
            if keys.is_empty() {
                return Err(StorageError::NotFound { path: path.to_owned() });
            }
            let prefix = if self.bucket.root.is_empty() { String::new() } else { format!("{}/", self.bucket.root) };
            Ok(keys.iter().filter_map(|key| key.as_ref().strip_prefix(&prefix)).map(str::to_owned).collect())
        }
        .boxed()
    }

    fn presign<'a>(&'a self, path: &'a str, method: http::Method) -> BoxFuture<'a, Result<Option<String>>> {
        async move {
            let signed = self.bucket.store.signed_url(method, &self.bucket.key(path)?, URL_LIFE).await;
            signed.map(|url| Some(url.to_string())).map_err(|error| StorageError::failed("sign", path, error))
        }
        .boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            let root = (!self.bucket.root.is_empty()).then(|| Path::from(self.bucket.root.as_str()));
            let listed = self.bucket.store.list_with_delimiter(root.as_ref()).await;
            listed.map(drop).map_err(|error| StorageError::failed("list", "/", error))
        }
        .boxed()
    }
}

/// What is noted about an upload between two requests.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Noted {
    /// The store's name of the multipart upload, once there is one.
    upload: Option<String>,
    /// The store's names of the parts.
    parts: Vec<String>,
    /// Bytes in the parts.
    uploaded: u64,
    /// Bytes that wait for their part.
    tail: u64,
}

fn note_path(path: &str) -> String {
    format!("{path}.parts")
}

/// Every tail has its own name, so that a crash between two writes leaves a note that still fits.
fn tail_path(path: &str, noted: &Noted) -> String {
    format!("{path}.tail-{}-{}", noted.uploaded, noted.tail)
}

#[derive(Default)]
struct Buffer {
    pieces: VecDeque<Bytes>,
    bytes: u64,
}

impl Buffer {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len() as u64;
        self.pieces.push_back(piece);
    }

    /// Takes exactly `wanted` bytes from the front; there must be that many.
    fn take(&mut self, wanted: u64) -> Vec<Bytes> {
        let mut taken = Vec::new();
        let mut missing = wanted;
        while missing > 0
            && let Some(mut piece) = self.pieces.pop_front()
        {
            let length = usize::try_from(missing).unwrap_or(usize::MAX).min(piece.len());
            let front = piece.split_to(length);
            missing -= front.len() as u64;
            taken.push(front);
            if !piece.is_empty() {
                self.pieces.push_front(piece);
            }
        }
        self.bytes -= wanted - missing;
        taken
    }
}

struct PartWriter {
    bucket: Bucket,
    path: String,
    noted: Noted,
    buffer: Buffer,
    sending: VecDeque<JoinHandle<object_store::Result<PartId>>>,
    stale_tail: Option<String>,
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        // Only after a failure or an aborted request: nobody will note these parts.
        for part in &self.sending {
            part.abort();
        }
    }
}

impl PartWriter {
    fn failed(&self, operation: &'static str, error: object_store::Error) -> StorageError {
        StorageError::failed(operation, &self.path, error)
    }

    /// Waits until at most `left` parts are on their way.
    async fn settle(&mut self, left: usize) -> Result<()> {
        while self.sending.len() > left
            && let Some(part) = self.sending.pop_front()
        {
            let part = part.await.map_err(|error| StorageError::failed("upload part", &self.path, error))?;
            self.noted.parts.push(part.map_err(|error| self.failed("upload part", error))?.content_id);
        }
        Ok(())
    }

    async fn send_part(&mut self, bytes: u64) -> Result<()> {
        let key = self.bucket.key(&self.path)?;
        let upload = match &self.noted.upload {
            Some(upload) => upload.clone(),
            None => {
                let created = self.bucket.store.create_multipart(&key).await;
                let upload = created.map_err(|error| self.failed("begin multipart upload", error))?;
                self.noted.upload.insert(upload).clone()
            }
        };
        self.settle(IN_FLIGHT - 1).await?;
        let number = self.noted.parts.len() + self.sending.len();
        let payload: PutPayload = self.buffer.take(bytes).into_iter().collect();
        let store = Arc::clone(&self.bucket.store);
        self.sending.push_back(tokio::spawn(async move { store.put_part(&key, &upload, number, payload).await }));
        self.noted.uploaded += bytes;
        Ok(())
    }

    async fn forget_notes(&self) -> Result<()> {
        self.bucket.delete(&note_path(&self.path)).await?;
        match &self.stale_tail {
            Some(tail) => self.bucket.delete(tail).await,
            None => Ok(()),
        }
    }

    async fn keep(mut self: Box<Self>) -> Result<()> {
        if self.buffer.bytes >= MIN_PART {
            self.send_part(self.buffer.bytes).await?;
        }
        self.settle(0).await?;
        self.noted.tail = self.buffer.bytes;
        let tail = tail_path(&self.path, &self.noted);
        if self.noted.tail > 0 && self.stale_tail.as_ref() != Some(&tail) {
            let content = self.whole_buffer();
            self.bucket.put(&tail, content).await?;
        }
        let note = serde_json::to_vec(&self.noted).map_err(|e| StorageError::failed("note", &self.path, e))?;
        self.bucket.put(&note_path(&self.path), note.into()).await?;
        match self.stale_tail.take().filter(|stale| *stale != tail) {
            Some(stale) => self.bucket.delete(&stale).await,
            None => Ok(()),
        }
    }

    fn whole_buffer(&mut self) -> Bytes {
        let pieces = self.buffer.take(self.buffer.bytes);
        let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
        pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
        whole.freeze()
    }

    async fn publish(mut self: Box<Self>) -> Result<()> {
        if self.noted.upload.is_none() {
            let content = self.whole_buffer();
            self.bucket.put(&self.path, content).await?;
            return self.forget_notes().await;
        }
        if self.buffer.bytes > 0 {
            self.send_part(self.buffer.bytes).await?;
        }
        self.settle(0).await?;
        let key = self.bucket.key(&self.path)?;
        let parts = self.noted.parts.drain(..).map(|content_id| PartId { content_id }).collect();
        if let Some(upload) = self.noted.upload.take() {
            let completed = self.bucket.store.complete_multipart(&key, &upload, parts).await;
            completed.map_err(|error| self.failed("complete multipart upload", error))?;
        }
        self.forget_notes().await
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        // Parts still on their way would survive the abort; their outcome no longer matters.
        while let Some(part) = self.sending.pop_front() {
            let _ = part.await;
        }
        if let Some(upload) = self.noted.upload.take() {
            let key = self.bucket.key(&self.path)?;
            match self.bucket.store.abort_multipart(&key, &upload).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(self.failed("abort multipart upload", error)),
            }
        }
        self.forget_notes().await
    }
}

impl Writer for PartWriter {
    fn size(&self) -> u64 {
        self.noted.uploaded + self.buffer.bytes
    }

    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<()>> {
        async move {
            self.buffer.push(bytes);
            while self.buffer.bytes >= self.bucket.part_bytes {
                self.send_part(self.bucket.part_bytes).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        self.keep().boxed()
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        self.publish().boxed()
    }

    fn cancel(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        self.abort().boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_gives_exactly_what_is_asked() {
        let mut buffer = Buffer::default();
        buffer.push(Bytes::from_static(b"abc"));
        buffer.push(Bytes::from_static(b"defg"));
        assert_eq!(buffer.take(5).concat(), b"abcde");
        assert_eq!((buffer.bytes, buffer.take(2).concat()), (2, b"fg".to_vec()));
    }

    #[test]
    fn virtual_hosts_carry_the_bucket() {
        let mut settings = S3Settings { bucket: "b".into(), path_style: true, ..S3Settings::default() };
        assert_eq!(endpoint_url("https://s3.example.com", &settings), "https://s3.example.com");
        settings.path_style = false;
        assert_eq!(endpoint_url("https://s3.example.com", &settings), "https://b.s3.example.com");
    }
}
