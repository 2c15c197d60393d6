//! How many requests run and wait at once (registry source pkg/dockerregistry/server/maxconnections/limiter.go:42-88).
//! What is over the limit is told to come back in a second.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{error::Refusal, settings::RequestLimit};

/// A bound on one kind of request.
pub struct Limiter {
    limit: RequestLimit,
    running: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// The right to run; given back when dropped.
pub struct Permit {
    _permit: Option<OwnedSemaphorePermit>,
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Limiter {
    /// A limiter with these bounds.
    pub fn new(limit: RequestLimit) -> Self {
        let places = if limit.max_running == 0 { 0 } else { limit.max_running.min(Semaphore::MAX_PERMITS) };
        Self { limit, running: Arc::new(Semaphore::new(places)), waiting: AtomicUsize::new(0) }
    }

    /// Waits for a place to run; `None` when the queue is full or the wait too long.
    pub async fn enter(&self) -> Option<Permit> {
        if self.limit.max_running == 0 {
            return Some(Permit { _permit: None });
        }
        if let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            return Some(Permit { _permit: Some(permit) });
        }
        let queued = self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, |waiting| {
            (waiting < self.limit.max_in_queue).then_some(waiting + 1)
        });
        queued.ok()?;
        let _waiting = Waiting(&self.waiting);
        let place = Arc::clone(&self.running).acquire_owned();
        let permit = if self.limit.max_wait.is_zero() {
            place.await.ok()?
        } else {
            tokio::time::timeout(self.limit.max_wait, place).await.ok()?.ok()?
        };
        Some(Permit { _permit: Some(permit) })
    }
}

impl Limiter {
    /// A place to run if there is one at once.
    pub fn try_enter(&self) -> Option<Permit> {
        if self.limit.max_running == 0 {
            return Some(Permit { _permit: None });
        }
        Arc::clone(&self.running).try_acquire_owned().ok().map(|permit| Permit { _permit: Some(permit) })
    }
}

/// The two limiters of the registry.
pub struct Limits {
    read: Limiter,
    write: Limiter,
}

impl Limits {
    /// Limits for reading and writing requests.
    pub fn new(read: RequestLimit, write: RequestLimit) -> Self {
        Self { read: Limiter::new(read), write: Limiter::new(write) }
    }

    /// The limiter of a method.
    pub fn of(&self, method: &Method) -> &Limiter {
        if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) { &self.read } else { &self.write }
    }
}

/// The answer to a request that found no place.
pub fn too_many_requests() -> Refusal {
    let mut headers = HeaderMap::new();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    Refusal::Text {
        status: StatusCode::TOO_MANY_REQUESTS,
        text: "Too many requests, please try again later.\n",
        headers,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limiter(max_running: usize, max_in_queue: usize, max_wait: Duration) -> Limiter {
        Limiter::new(RequestLimit { max_running, max_in_queue, max_wait })
    }

    #[tokio::test]
    async fn without_a_limit_everybody_runs() {
        let limiter = limiter(0, 0, Duration::ZERO);
        let _first = limiter.enter().await.unwrap();
        assert!(limiter.enter().await.is_some());
    }

    #[tokio::test]
    async fn without_a_queue_the_second_is_refused_at_once_and_runs_after_the_first() {
        let limiter = limiter(1, 0, Duration::ZERO);
        let first = limiter.enter().await.unwrap();
        assert!(limiter.enter().await.is_none());
        drop(first);
        assert!(limiter.enter().await.is_some());
    }

    #[tokio::test]
    async fn a_wait_ends_in_time_and_leaves_the_queue() {
        let limiter = limiter(1, 1, Duration::from_millis(20));
        let _first = limiter.enter().await.unwrap();
        assert!(limiter.enter().await.is_none());
        assert_eq!(limiter.waiting.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn the_queue_has_an_end() {
        let limiter = limiter(1, 1, Duration::ZERO);
        let first = limiter.enter().await.unwrap();
        let second = limiter.enter();
        tokio::pin!(second);
        assert!(futures::poll!(&mut second).is_pending());
        assert!(limiter.enter().await.is_none());
        drop(first);
        assert!(second.await.is_some());
    }
}
