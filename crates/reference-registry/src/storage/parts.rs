//! A file on its way into a bucket, piece by piece. It is noted in an object beside it, so that any replica can go on with
//! it; what is too short for a part waits in another object until more comes.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, future::BoxFuture};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::{Result, StorageError, Writer, bucket::Bucket, objects::Part};

/// The smallest part that is sent before the last one, bytes; S3 refuses smaller ones.
const MIN_PART: u64 = 5 << 20;

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

/// A file that is being sent.
pub struct PartWriter {
    bucket: Bucket,
    path: String,
    noted: Noted,
    buffer: Buffer,
    sending: VecDeque<JoinHandle<object_store::Result<String>>>,
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
    /// A writer of a new file.
    pub fn begin(bucket: &Bucket, path: &str) -> Self {
        Self {
            bucket: bucket.clone(),
            path: path.to_owned(),
            noted: Noted::default(),
            buffer: Buffer::default(),
            sending: VecDeque::new(),
            stale_tail: None,
        }
    }

    /// A writer that goes on where another one was closed.
    pub async fn resume(bucket: &Bucket, path: &str) -> Result<Self> {
        let mut writer = Self::begin(bucket, path);
        let noted = bucket.get(&note_path(path)).await?;
        writer.noted = serde_json::from_slice(&noted).map_err(|error| StorageError::failed("resume", path, error))?;
        if writer.noted.tail > 0 {
            let tail = tail_path(path, &writer.noted);
            writer.buffer.push(bucket.get(&tail).await?);
            writer.stale_tail = Some(tail);
        }
        Ok(writer)
    }

    fn failed(&self, operation: &'static str, error: object_store::Error) -> StorageError {
        StorageError::failed(operation, &self.path, error)
    }

    /// Waits until at most `left` parts are on their way.
    async fn settle(&mut self, left: usize) -> Result<()> {
        while self.sending.len() > left
            && let Some(part) = self.sending.pop_front()
        {
            let part = part.await.map_err(|error| StorageError::failed("upload part", &self.path, error))?;
            self.noted.parts.push(part.map_err(|error| self.failed("upload part", error))?);
        }
        Ok(())
    }

    async fn send_part(&mut self, bytes: u64) -> Result<()> {
        let key = self.bucket.key(&self.path)?;
        let upload = match &self.noted.upload {
            Some(upload) => upload.clone(),
            None => {
                let created = self.bucket.objects.begin(&key).await;
                let upload = created.map_err(|error| self.failed("begin upload", error))?;
                self.noted.upload.insert(upload).clone()
            }
        };
        let objects = Arc::clone(&self.bucket.objects);
        self.settle(objects.at_once() - 1).await?;
        let part = self.next_part(bytes);
        self.sending.push_back(tokio::spawn(async move { objects.part(&key, &upload, part).await }));
        Ok(())
    }

    fn next_part(&mut self, bytes: u64) -> Part {
        let part = Part {
            number: self.noted.parts.len() + self.sending.len(),
            offset: self.noted.uploaded,
            content: self.buffer.take(bytes).into_iter().collect(),
        };
        self.noted.uploaded += bytes;
        part
    }

    async fn forget_notes(&self) -> Result<()> {
        self.bucket.delete(&note_path(&self.path)).await?;
        match &self.stale_tail {
            Some(tail) => self.bucket.delete(tail).await,
            None => Ok(()),
        }
    }

    async fn keep(mut self: Box<Self>) -> Result<()> {
        let whole = self.buffer.bytes - self.buffer.bytes % self.bucket.objects.unit();
        if whole >= MIN_PART {
            self.send_part(whole).await?;
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
        self.settle(0).await?;
        let key = self.bucket.key(&self.path)?;
        let parts = std::mem::take(&mut self.noted.parts);
        if let Some(upload) = self.noted.upload.take() {
            let last = Part { number: parts.len(), ..self.next_part(self.buffer.bytes) };
            let finished = self.bucket.objects.finish(&key, &upload, parts, last).await;
            finished.map_err(|error| self.failed("finish upload", error))?;
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
            match self.bucket.objects.abort(&key, &upload).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(self.failed("abort upload", error)),
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
}
