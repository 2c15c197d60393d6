//! What a bucket is to the registry: an object store that can also go on with an upload another process began.
//! The stores that the `object_store` crate writes to are such by themselves; `gcs` brings a writer of its own.

use std::time::Duration;

use futures::{FutureExt, future::BoxFuture};
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig,
    multipart::{MultipartStore, PartId},
    path::Path,
    signer::Signer,
};

/// A part of an upload.
pub struct Part {
    /// Its place among the parts, from 0.
    pub number: usize,
    /// Bytes in the parts before it.
    pub offset: u64,
    /// Its own bytes.
    pub content: PutPayload,
}

/// An object store whose uploads can be gone on with by another process that was told their name and their parts.
pub trait Objects: Send + Sync + 'static {
    /// Every part but the last is a multiple of this many bytes.
    fn unit(&self) -> u64 {
        1
    }
    /// How many parts of one upload may be on their way at once.
    fn at_once(&self) -> usize {
        2
    }
    /// Reads, lists and deletes.
    fn store(&self) -> &dyn ObjectStore;
    /// Makes URLs that need no credentials.
    fn signer(&self) -> &dyn Signer;
    /// Writes a small object whole.
    fn put<'a>(&'a self, key: &'a Path, content: PutPayload) -> BoxFuture<'a, object_store::Result<()>>;
    /// Copies an object within the bucket.
    fn copy<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFuture<'a, object_store::Result<()>>;
    /// Begins an upload and says its name.
    fn begin<'a>(&'a self, key: &'a Path) -> BoxFuture<'a, object_store::Result<String>>;
    /// Sends one part and says its name.
    fn part<'a>(&'a self, key: &'a Path, upload: &'a str, part: Part) -> BoxFuture<'a, object_store::Result<String>>;
    /// Sends the last part, which may be empty, and makes the object readable.
    fn finish<'a>(
        &'a self,
        key: &'a Path,
        upload: &'a str,
        parts: Vec<String>,
        last: Part,
    ) -> BoxFuture<'a, object_store::Result<()>>;
    /// Forgets an upload.
    fn abort<'a>(&'a self, key: &'a Path, upload: &'a str) -> BoxFuture<'a, object_store::Result<()>>;
}

impl<T: MultipartStore + ObjectStore + Signer> Objects for T {
    fn store(&self) -> &dyn ObjectStore {
        self
    }

    fn signer(&self) -> &dyn Signer {
        self
    }

    fn put<'a>(&'a self, key: &'a Path, content: PutPayload) -> BoxFuture<'a, object_store::Result<()>> {
        async move { ObjectStoreExt::put(self, key, content).await.map(drop) }.boxed()
    }

    fn copy<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFuture<'a, object_store::Result<()>> {
        ObjectStoreExt::copy(self, from, to).boxed()
    }

    fn begin<'a>(&'a self, key: &'a Path) -> BoxFuture<'a, object_store::Result<String>> {
        self.create_multipart(key).boxed()
    }

    fn part<'a>(&'a self, key: &'a Path, upload: &'a str, part: Part) -> BoxFuture<'a, object_store::Result<String>> {
        async move {
            let sent = self.put_part(key, &upload.to_owned(), part.number, part.content).await?;
            Ok(sent.content_id)
        }
        .boxed()
    }

    fn finish<'a>(
        &'a self,
        key: &'a Path,
        upload: &'a str,
        mut parts: Vec<String>,
        last: Part,
    ) -> BoxFuture<'a, object_store::Result<()>> {
        async move {
            if last.content.content_length() > 0 {
                parts.push(Objects::part(self, key, upload, last).await?);
            }
            let parts = parts.into_iter().map(|content_id| PartId { content_id }).collect();
            self.complete_multipart(key, &upload.to_owned(), parts).await.map(drop)
        }
        .boxed()
    }

    fn abort<'a>(&'a self, key: &'a Path, upload: &'a str) -> BoxFuture<'a, object_store::Result<()>> {
        async move { self.abort_multipart(key, &upload.to_owned()).await }.boxed()
    }
}

/// What every client of a store is told: the mounted trust anchors, no limit on how long a body may take.
///
/// # Errors
/// In words, for an anchor that is no certificate.
pub fn client_options(plain: bool) -> std::result::Result<ClientOptions, String> {
    let mut client = ClientOptions::new().with_allow_http(plain).with_timeout_disabled();
    client = client.with_connect_timeout(Duration::from_secs(10));
    for anchor in crate::trust::anchors() {
        let found = object_store::Certificate::from_pem_bundle(&anchor).map_err(|error| error.to_string())?;
        client = found.into_iter().fold(client, ClientOptions::with_root_certificate);
    }
    Ok(client)
}

/// How often and how long a refused request is tried again.
pub fn retries() -> RetryConfig {
    RetryConfig { max_retries: 3, retry_timeout: Duration::from_secs(60), ..RetryConfig::default() }
}
