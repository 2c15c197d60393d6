//! Bodies on their way: streamed as they come, whole when a rule must see them, with single bytes turned or an early break.
//! Nothing is kept that no rule asks for.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

/// Any error of a connection.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
/// A body of any kind.
pub(crate) type Body = UnsyncBoxBody<Bytes, Failure>;

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn streamed(body: Incoming) -> Body {
    body.map_err(Failure::from).boxed_unsync()
}

/// Reads a body to its end.
pub(crate) async fn whole(body: Body) -> Result<Bytes, Failure> {
    Ok(body.collect().await?.to_bytes())
}

/// Turns over one byte or breaks off, while the rest streams through.
pub(crate) struct Damaged {
    inner: Body,
    flip_at: Option<u64>,
    break_after: Option<u64>,
    passed: u64,
    /// The bytes before a break have been given time to leave.
    flushed: bool,
}

impl Damaged {
    /// Wraps a body if there is anything to do to it.
    pub(crate) fn wrap(inner: Body, flip_at: Option<u64>, break_after: Option<u64>) -> Body {
        if flip_at.is_none() && break_after.is_none() {
            return inner;
        }
        Damaged { inner, flip_at, break_after, passed: 0, flushed: false }.boxed_unsync()
    }

    fn damage(&mut self, mut data: Bytes) -> Bytes {
        let start = self.passed;
        if let Some(limit) = self.break_after {
            data.truncate(usize::try_from(limit - start.min(limit)).unwrap_or(usize::MAX));
        }
        let offset = self.flip_at.and_then(|at| at.checked_sub(start)).and_then(|at| usize::try_from(at).ok());
        if let Some(offset) = offset.filter(|offset| *offset < data.len()) {
            let mut changed = BytesMut::from(&data[..]);
            changed[offset] = !changed[offset];
            data = changed.freeze();
        }
        self.passed += data.len() as u64;
        data
    }
}

impl HttpBody for Damaged {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if self.break_after.is_some_and(|limit| self.passed >= limit) {
            // An error throws away what is still in the buffer of the connection; a pause lets it be written first.
            if !std::mem::replace(&mut self.flushed, true) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(Some(Err("a fault breaks the body off".into())));
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|data| self.damage(data)))))
    }

    fn is_end_stream(&self) -> bool {
        self.break_after.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_byte_is_turned_over() {
        let body = Damaged::wrap(full("abcd"), Some(2), None);
        assert_eq!(whole(body).await.unwrap(), Bytes::from(vec![b'a', b'b', !b'c', b'd']));
    }

    #[tokio::test]
    async fn a_break_is_an_error_after_the_bytes_before_it() {
        let mut body = Damaged::wrap(full("abcd"), None, Some(3));
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, Bytes::from_static(b"abc"));
        assert!(body.frame().await.unwrap().is_err());
    }
}
