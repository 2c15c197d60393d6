//! Where blobs and links live: the driver trait, the measured wrapper around it, and the names of the files.
//! The layout is the distribution project's (registry/storage/paths.go:11-111), so that any tool which knows that layout
//! can read what the registry stored.

pub mod azure;
pub mod bucket;
pub mod credentials;
pub mod filesystem;
pub mod gcs;
mod objects;
mod parts;
pub mod s3;

use std::{io, ops::Range, sync::Arc, time::Instant};

use bytes::Bytes;
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};

use crate::{
    digest::{Digest, Repository},
    metrics::Metrics,
};

/// The largest small object (link, manifest, upload state) the registry reads whole, in bytes
/// (registry/storage/io.go:11-23).
pub const SMALL_OBJECT_BYTES: u64 = 4 << 20;

/// What a storage call can end in besides success.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Nothing has this path.
    #[error("{path}: path not found")]
    NotFound {
        /// The path below the driver's root.
        path: String,
    },
    /// The store did not do it.
    #[error("{operation} {path}: {source}")]
    Failed {
        /// What was tried.
        operation: &'static str,
        /// The path below the driver's root.
        path: String,
        /// What the store said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StorageError {
    fn failed(
        operation: &'static str,
        path: &str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Failed { operation, path: path.to_owned(), source: source.into() }
    }

    /// Turns an I/O error into the matching case.
    fn from_io(operation: &'static str, path: &str, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path: path.to_owned() },
            _ => Self::failed(operation, path, error),
        }
    }

    /// True when the path simply is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// The `code` label of `imageregistry_storage_errors_total` (registry source
    /// pkg/dockerregistry/server/metrics/errorcodes.go:11-106).
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "PATH_NOT_FOUND",
            Self::Failed { source, .. } => match source.downcast_ref::<io::Error>().map(io::Error::kind) {
                Some(io::ErrorKind::StorageFull) => "DEVICE_OUT_OF_SPACE",
                Some(io::ErrorKind::ReadOnlyFilesystem) => "READ_ONLY_FILESYSTEM",
                Some(io::ErrorKind::FileTooLarge) => "FILE_TOO_LARGE",
                _ => "UNKNOWN",
            },
        }
    }
}

/// Result of a storage call.
pub type Result<T> = std::result::Result<T, StorageError>;

/// A file that is being appended to.
pub trait Writer: Send + Sync {
    /// Bytes that are safely part of the file so far, including those of earlier writers.
    fn size(&self) -> u64;
    /// Appends.
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<()>>;
    /// Keeps what was written so that a later writer can append, also after a restart.
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
    /// Makes the file readable under its path; nothing can be appended afterwards.
    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
    /// Forgets everything written.
    fn cancel(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
}

/// A store of files by slash-separated path. Every call is atomic for readers: they see the old content or the new.
pub trait Driver: Send + Sync + 'static {
    /// The size of the file, or `None` when there is none (a folder counts as none).
    fn size<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Option<u64>>>;
    /// Reads a small file whole.
    fn get<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Bytes>>;
    /// Writes a small file whole.
    fn put<'a>(&'a self, path: &'a str, content: Bytes) -> BoxFuture<'a, Result<()>>;
    /// Reads a range of a file piece by piece; the range is not empty.
    fn read<'a>(
        &'a self,
        path: &'a str,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<BoxStream<'static, io::Result<Bytes>>>>;
    /// Opens a file for appending: a fresh one, or one that a writer closed before.
    fn append<'a>(&'a self, path: &'a str, fresh: bool) -> BoxFuture<'a, Result<Box<dyn Writer>>>;
    /// Moves a committed file, replacing what is there.
    fn rename<'a>(&'a self, from: &'a str, to: &'a str, size: u64) -> BoxFuture<'a, Result<()>>;
    /// Removes a file or everything below a folder.
    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<()>>;
    /// The paths of all files below a folder.
    fn walk<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Vec<String>>>;
    /// A URL by which anybody may read the file for 20 minutes with one method, where the store can sign such URLs.
    fn presign<'a>(&'a self, path: &'a str, method: http::Method) -> BoxFuture<'a, Result<Option<String>>>;
    /// Asks whether the store answers at all.
    fn probe(&self) -> BoxFuture<'_, Result<()>>;
}

/// A driver whose calls are measured.
#[derive(Clone)]
pub struct Storage {
    driver: Arc<dyn Driver>,
    metrics: Arc<Metrics>,
}

impl Storage {
    /// Wraps a driver.
    pub fn new(driver: Arc<dyn Driver>, metrics: Arc<Metrics>) -> Self {
        Self { driver, metrics }
    }

    async fn measured<T>(&self, operation: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let start = Instant::now();
        let result = call.await;
        self.metrics.storage_call(operation, start.elapsed(), result.as_ref().err().map(StorageError::code));
        result
    }

    /// See [`Driver::size`].
    pub async fn size(&self, path: &str) -> Result<Option<u64>> {
        let start = Instant::now();
        let result = self.driver.size(path).await;
        let code = match &result {
            Ok(Some(_)) => None,
            Ok(None) => Some("PATH_NOT_FOUND"),
            Err(error) => Some(error.code()),
        };
        self.metrics.storage_call("StorageDriver.Stat", start.elapsed(), code);
        result
    }

    /// See [`Driver::get`].
    pub async fn get(&self, path: &str) -> Result<Bytes> {
        self.measured("StorageDriver.GetContent", self.driver.get(path)).await
    }

    /// See [`Driver::put`].
    pub async fn put(&self, path: &str, content: impl Into<Bytes>) -> Result<()> {
        self.measured("StorageDriver.PutContent", self.driver.put(path, content.into())).await
    }

    /// See [`Driver::read`].
    pub async fn read(&self, path: &str, range: Range<u64>) -> Result<BoxStream<'static, io::Result<Bytes>>> {
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        self.measured("StorageDriver.Reader", self.driver.read(path, range)).await
    }

    /// See [`Driver::append`].
    pub async fn append(&self, path: &str, fresh: bool) -> Result<Box<dyn Writer>> {
        self.measured("StorageDriver.Writer", self.driver.append(path, fresh)).await
    }

    /// Ends a writer, keeping its bytes; see [`Writer::close`].
    pub async fn close(&self, writer: Box<dyn Writer>) -> Result<()> {
        self.measured("FileWriter.Close", writer.close()).await
    }

    /// Ends a writer, publishing its bytes; see [`Writer::commit`].
    pub async fn commit(&self, writer: Box<dyn Writer>) -> Result<()> {
        self.measured("FileWriter.Commit", writer.commit()).await
    }

    /// See [`Driver::rename`].
    pub async fn rename(&self, from: &str, to: &str, size: u64) -> Result<()> {
        self.measured("StorageDriver.Move", self.driver.rename(from, to, size)).await
    }

    /// See [`Driver::remove`].
    pub async fn remove(&self, path: &str) -> Result<()> {
        self.measured("StorageDriver.Delete", self.driver.remove(path)).await
    }

    /// See [`Driver::walk`].
    pub async fn walk(&self, path: &str) -> Result<Vec<String>> {
        self.measured("StorageDriver.List", self.driver.walk(path)).await
    }

    /// See [`Driver::presign`].
    pub async fn presign(&self, path: &str, method: http::Method) -> Result<Option<String>> {
        self.measured("StorageDriver.URLFor", self.driver.presign(path, method)).await
    }

    /// See [`Driver::probe`].
    pub async fn probe(&self) -> Result<()> {
        self.measured("StorageDriver.Stat", self.driver.probe()).await
    }
}

/// Paths below the driver's root.
pub mod layout {
    use super::{Digest, Repository};

    const ROOT: &str = "docker/registry/v2";

    /// The content of a digest, shared by all repositories.
    pub fn blob(digest: &Digest) -> String {
        let hex = digest.hex();
        format!("{ROOT}/blobs/{}/{}/{hex}/data", digest.algorithm().name(), &hex[..2])
    }

    /// The folder of a digest's content.
    pub fn blob_folder(digest: &Digest) -> String {
        let hex = digest.hex();
        format!("{ROOT}/blobs/{}/{}/{hex}", digest.algorithm().name(), &hex[..2])
    }

    /// Says that a repository has a blob.
    pub fn layer_link(repository: &Repository, digest: &Digest) -> String {
        format!("{ROOT}/repositories/{repository}/_layers/{}/{}/link", digest.algorithm().name(), digest.hex())
    }

    /// Says that a repository has a manifest.
    pub fn revision_link(repository: &Repository, digest: &Digest) -> String {
        format!(
            "{ROOT}/repositories/{repository}/_manifests/revisions/{}/{}/link",
            digest.algorithm().name(),
            digest.hex()
        )
    }

    /// The folder of one upload.
    pub fn upload(repository: &Repository, uuid: &str) -> String {
        format!("{ROOT}/repositories/{repository}/_uploads/{uuid}")
    }

    /// The folder of all repositories.
    pub fn repositories() -> &'static str {
        "docker/registry/v2/repositories"
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[test]
    fn paths_are_those_of_the_distribution_project() {
        let digest =
            Digest::from_str("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855").unwrap();
        let repository = Repository::parse("project/image").unwrap();
        assert_eq!(
            layout::blob(&digest),
            "docker/registry/v2/blobs/sha256/e3/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855/data"
        );
        assert_eq!(
            layout::layer_link(&repository, &digest),
            "docker/registry/v2/repositories/project/image/_layers/sha256/\
             e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855/link"
        );
        assert_eq!(layout::upload(&repository, "u"), "docker/registry/v2/repositories/project/image/_uploads/u");
    }
}
