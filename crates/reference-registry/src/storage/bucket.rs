//! Blobs in a bucket of an object store, whichever it is: names, ranges, moves and deletion.
//! How a file is written piece by piece is told in `parts`; what differs between stores is behind [`Objects`].

use std::{io, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    FutureExt, StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, path::Path};

use super::{Driver, Result, StorageError, Writer, objects::Objects, parts::PartWriter};

/// How long a redirect stays valid (distribution registry/storage/driver/s3-aws/s3.go:1025-1062).
const URL_LIFE: Duration = Duration::from_secs(20 * 60);
/// The largest object one copy call can copy, bytes; larger ones pass through us.
const MAX_COPY: u64 = 5 << 30;

/// A store in a bucket.
#[derive(Clone)]
pub struct Bucket {
    pub(super) objects: Arc<dyn Objects>,
    root: String,
    pub(super) part_bytes: u64,
}

impl Bucket {
    /// Blobs below `root` of the bucket behind `objects`, sent in parts of `part_bytes`, a multiple of its unit.
    pub fn new(objects: Arc<dyn Objects>, root: &str, part_bytes: u64) -> Self {
        Self { objects, root: root.to_owned(), part_bytes }
    }

    fn store(&self) -> &dyn ObjectStore {
        self.objects.store()
    }

    pub(super) fn key(&self, path: &str) -> Result<Path> {
        let full = if self.root.is_empty() { path.to_owned() } else { format!("{}/{path}", self.root) };
        Path::parse(full).map_err(|error| StorageError::failed("name", path, error))
    }

    pub(super) async fn get(&self, path: &str) -> Result<Bytes> {
        let found = self.store().get(&self.key(path)?).await.map_err(|error| lost("get", path, error))?;
        found.bytes().await.map_err(|error| lost("get", path, error))
    }

    pub(super) async fn put(&self, path: &str, content: Bytes) -> Result<()> {
        let put = self.objects.put(&self.key(path)?, content.into()).await;
        put.map_err(|error| StorageError::failed("put", path, error))
    }

    pub(super) async fn delete(&self, path: &str) -> Result<()> {
        match self.store().delete(&self.key(path)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(StorageError::failed("delete", path, error)),
        }
    }

    async fn size(&self, path: &str) -> Result<Option<u64>> {
        match self.store().head(&self.key(path)?).await {
            Ok(facts) => Ok(Some(facts.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(StorageError::failed("head", path, error)),
        }
    }

    async fn keys_below(&self, path: &str) -> Result<Vec<Path>> {
        let keys = self.store().list(Some(&self.key(path)?)).map_ok(|facts| facts.location);
        keys.try_collect().await.map_err(|error| StorageError::failed("list", path, error))
    }

    async fn read(&self, path: &str, range: Range<u64>) -> Result<BoxStream<'static, io::Result<Bytes>>> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let found = self.store().get_opts(&self.key(path)?, options).await.map_err(|error| lost("get", path, error))?;
        Ok(found.into_stream().map_err(io::Error::other).boxed())
    }
}

fn lost(operation: &'static str, path: &str, error: object_store::Error) -> StorageError {
    match error {
        object_store::Error::NotFound { .. } => StorageError::NotFound { path: path.to_owned() },
        error => StorageError::failed(operation, path, error),
    }
}

impl Driver for Bucket {
    fn size<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Option<u64>>> {
        Bucket::size(self, path).boxed()
    }

    fn get<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Bytes>> {
        Bucket::get(self, path).boxed()
    }

    fn put<'a>(&'a self, path: &'a str, content: Bytes) -> BoxFuture<'a, Result<()>> {
        Bucket::put(self, path, content).boxed()
    }

    fn read<'a>(
        &'a self,
        path: &'a str,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<BoxStream<'static, io::Result<Bytes>>>> {
        Bucket::read(self, path, range).boxed()
    }

    fn append<'a>(&'a self, path: &'a str, fresh: bool) -> BoxFuture<'a, Result<Box<dyn Writer>>> {
        async move {
            let writer = if fresh { PartWriter::begin(self, path) } else { PartWriter::resume(self, path).await? };
            Ok(Box::new(writer) as Box<dyn Writer>)
        }
        .boxed()
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str, size: u64) -> BoxFuture<'a, Result<()>> {
        async move {
            if size <= MAX_COPY {
                let (source, target) = (self.key(from)?, self.key(to)?);
                self.objects.copy(&source, &target).await.map_err(|error| lost("copy", from, error))?;
            } else {
                let mut content = Bucket::read(self, from, 0..size).await?;
                let mut writer = self.append(to, true).await?;
                while let Some(piece) = content.next().await {
                    writer.write(piece.map_err(|error| StorageError::failed("copy", from, error))?).await?;
                }
                writer.commit().await?;
            }
            self.delete(from).await
        }
        .boxed()
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            let mut keys = self.keys_below(path).await?;
            if keys.is_empty() {
                match Bucket::size(self, path).await? {
                    Some(_) => keys.push(self.key(path)?),
                    None => return Err(StorageError::NotFound { path: path.to_owned() }),
                }
            }
            let keys = stream::iter(keys).map(Ok).boxed();
            let mut gone = self.store().delete_stream(keys);
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
            let keys = self.keys_below(path).await?;
            if keys.is_empty() {
                return Err(StorageError::NotFound { path: path.to_owned() });
            }
            let prefix = if self.root.is_empty() { String::new() } else { format!("{}/", self.root) };
            Ok(keys.iter().filter_map(|key| key.as_ref().strip_prefix(&prefix)).map(str::to_owned).collect())
        }
        .boxed()
    }

    fn presign<'a>(&'a self, path: &'a str, method: http::Method) -> BoxFuture<'a, Result<Option<String>>> {
        async move {
            let signed = self.objects.signer().signed_url(method, &self.key(path)?, URL_LIFE).await;
            signed.map(|url| Some(url.to_string())).map_err(|error| StorageError::failed("sign", path, error))
        }
        .boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            let root = (!self.root.is_empty()).then(|| Path::from(self.root.as_str()));
            let listed = self.store().list_with_delimiter(root.as_ref()).await;
            listed.map(drop).map_err(|error| StorageError::failed("list", "/", error))
        }
        .boxed()
    }
}
