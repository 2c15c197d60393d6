//! Blobs in a folder, such as a mounted volume claim or an emptyDir.
//! Small files are written beside their place and renamed into it, so that a crash never leaves a torn link.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use tokio::{
    fs::{self, File, OpenOptions},
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufWriter},
};

use super::{Driver, Result, SMALL_OBJECT_BYTES, StorageError, Writer};

const READ_BYTES: usize = 256 << 10;
const WRITE_BYTES: usize = 256 << 10;

/// A store below one folder.
pub struct Filesystem {
    root: PathBuf,
}

impl Filesystem {
    /// A store below `root`; the folder is made when the first file is.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn place(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    async fn put_file(&self, path: &str, content: &[u8]) -> io::Result<()> {
        let place = self.place(path);
        let folder = place.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).await?;
        let draft = folder.join(format!(".{}.draft", uuid::Uuid::new_v4()));
        let written = async {
            let mut file = File::create(&draft).await?;
            file.write_all(content).await?;
            file.sync_all().await?;
            fs::rename(&draft, &place).await
        }
        .await;
        if written.is_err() {
            // The draft is ours alone; if it cannot be removed either, the first error says more.
            let _ = fs::remove_file(&draft).await;
        }
        written
    }
}

async fn read_from(place: &Path, range: Range<u64>) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
    let mut file = File::open(place).await?;
    if range.start > 0 {
        file.seek(io::SeekFrom::Start(range.start)).await?;
    }
    let rest = file.take(range.end.saturating_sub(range.start));
    Ok(stream::try_unfold(rest, |mut rest| async move {
        let mut piece = bytes::BytesMut::with_capacity(READ_BYTES.min(rest.limit().try_into().unwrap_or(READ_BYTES)));
        if rest.limit() == 0 {
            return Ok(None);
        }
        match rest.read_buf(&mut piece).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than announced")),
            _ => Ok(Some((piece.freeze(), rest))),
        }
    })
    .boxed())
}

impl Driver for Filesystem {
    fn size<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Option<u64>>> {
        async move {
            match fs::metadata(self.place(path)).await {
                Ok(facts) => Ok(facts.is_file().then_some(facts.len())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(StorageError::from_io("stat", path, error)),
            }
        }
        .boxed()
    }

    fn get<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Bytes>> {
        async move {
            let mut content = Vec::new();
            let read =
                async { File::open(self.place(path)).await?.take(SMALL_OBJECT_BYTES).read_to_end(&mut content).await };
            read.await.map_err(|error| StorageError::from_io("read", path, error))?;
            Ok(content.into())
        }
        .boxed()
    }

    fn put<'a>(&'a self, path: &'a str, content: Bytes) -> BoxFuture<'a, Result<()>> {
        async move { self.put_file(path, &content).await.map_err(|error| StorageError::from_io("write", path, error)) }
            .boxed()
    }

    fn read<'a>(
        &'a self,
        path: &'a str,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<BoxStream<'static, io::Result<Bytes>>>> {
        async move {
            read_from(&self.place(path), range).await.map_err(|error| StorageError::from_io("read", path, error))
        }
        .boxed()
    }

    fn append<'a>(&'a self, path: &'a str, fresh: bool) -> BoxFuture<'a, Result<Box<dyn Writer>>> {
        async move {
            let place = self.place(path);
            let opened = async {
                if fresh && let Some(folder) = place.parent() {
                    fs::create_dir_all(folder).await?;
                }
                let mut options = OpenOptions::new();
                options.write(true).create(fresh).truncate(fresh);
                let mut file = options.open(&place).await?;
                let size = file.seek(io::SeekFrom::End(0)).await?;
                io::Result::Ok((file, size))
            };
            let (file, size) = opened.await.map_err(|error| StorageError::from_io("open", path, error))?;
            let file = BufWriter::with_capacity(WRITE_BYTES, file);
            Ok(Box::new(FileWriter { file, size, place, path: path.to_owned() }) as Box<dyn Writer>)
        }
        .boxed()
    }

    fn rename<'a>(&'a self, from: &'a str, to: &'a str, _size: u64) -> BoxFuture<'a, Result<()>> {
        async move {
            let moved = async {
                let place = self.place(to);
                if let Some(folder) = place.parent() {
                    fs::create_dir_all(folder).await?;
                }
                fs::rename(self.place(from), place).await
            };
            moved.await.map_err(|error| StorageError::from_io("move", from, error))
        }
        .boxed()
    }

    fn remove<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            let place = self.place(path);
            let removed = async {
                if fs::symlink_metadata(&place).await?.is_dir() {
                    fs::remove_dir_all(&place).await
                } else {
                    fs::remove_file(&place).await
                }
            };
            removed.await.map_err(|error| StorageError::from_io("delete", path, error))
        }
        .boxed()
    }

    fn walk<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<Vec<String>>> {
        async move {
            let mut found = Vec::new();
            let mut open = vec![path.to_owned()];
            while let Some(folder) = open.pop() {
                let listed = async {
                    let mut entries = fs::read_dir(self.place(&folder)).await?;
                    while let Some(entry) = entries.next_entry().await? {
                        let child = format!("{folder}/{}", entry.file_name().to_string_lossy());
                        if entry.file_type().await?.is_dir() { open.push(child) } else { found.push(child) }
                    }
                    io::Result::Ok(())
                };
                match listed.await {
                    // A folder may go away while it is walked.
                    Err(error) if error.kind() == io::ErrorKind::NotFound && folder != path => {}
                    other => other.map_err(|error| StorageError::from_io("list", &folder, error))?,
                }
            }
            Ok(found)
        }
        .boxed()
    }

    fn presign<'a>(&'a self, _path: &'a str, _method: http::Method) -> BoxFuture<'a, Result<Option<String>>> {
        async { Ok(None) }.boxed()
    }

    fn probe(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            match fs::metadata(&self.root).await {
                Ok(facts) if facts.is_dir() => Ok(()),
                Ok(_) => Err(StorageError::failed("stat", "/", "the root of the store is not a folder")),
                // Nothing was stored yet, which is no failure.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(StorageError::from_io("stat", "/", error)),
            }
        }
        .boxed()
    }
}

struct FileWriter {
    file: BufWriter<File>,
    size: u64,
    place: PathBuf,
    path: String,
}

impl FileWriter {
    async fn settle(mut self: Box<Self>) -> Result<()> {
        let settled = async {
            self.file.flush().await?;
            self.file.get_mut().sync_all().await
        };
        settled.await.map_err(|error| StorageError::from_io("write", &self.path, error))
    }
}

impl Writer for FileWriter {
    fn size(&self) -> u64 {
        self.size
    }

    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<()>> {
        async move {
            self.file.write_all(&bytes).await.map_err(|error| StorageError::from_io("write", &self.path, error))?;
            self.size += bytes.len() as u64;
            Ok(())
        }
        .boxed()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        self.settle().boxed()
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        self.settle().boxed()
    }

    fn cancel(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        async move {
            fs::remove_file(&self.place).await.map_err(|error| StorageError::from_io("delete", &self.path, error))
        }
        .boxed()
    }
}
