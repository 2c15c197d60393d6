//! One controller's work queue: a key that is dirty or clean, a sync that makes it clean, and backoff when it fails.
//! What a sync does, and which watches make it dirty, belongs to the controllers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::error::SyncError;

/// A sync that has not finished after this long is given up and tried again.
pub const SYNC_LIMIT: Duration = Duration::from_secs(120);
const FIRST_DELAY: Duration = Duration::from_millis(20);
/// Storage outside the cluster cannot be watched; a bucket made by hand is noticed within this time.
const LAST_DELAY: Duration = Duration::from_secs(15);

/// Marks a controller as dirty. Marks made while a sync runs are kept as one, so no change is ever missed.
#[derive(Clone, Debug, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// Asks for one more sync.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

/// What a successful sync wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing until a watch reports a change.
    Change,
    /// The same, and once more after this time because a condition depends on the clock.
    After(Duration),
}

/// Delay before the next try after `failures` failures in a row; doubles from 20 ms up to 15 s.
pub fn delay(failures: u32) -> Duration {
    FIRST_DELAY.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX)).min(LAST_DELAY)
}

/// Runs `sync` whenever `wake` is marked, after a failure, and at the times it asks for, until `stop`.
pub async fn work<F>(name: &'static str, wake: Wake, stop: CancellationToken, mut sync: impl FnMut() -> F)
where
    F: Future<Output = Result<Next, SyncError>>,
{
    let mut failures = 0_u32;
    let mut due: Option<Instant> = Some(Instant::now());
    loop {
        let timer = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = wake.0.notified() => {}
            () = timer => {}
        }
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            outcome = tokio::time::timeout(SYNC_LIMIT, sync()) => {
                outcome.unwrap_or(Err(SyncError::TooSlow { limit: SYNC_LIMIT }))
            }
        };
        due = match outcome {
            Ok(next) => {
                if failures > 0 {
                    info!(controller = name, failures, "{name} is in step again after {failures} failed tries");
                }
                failures = 0;
                match next {
                    Next::Change => None,
                    Next::After(time) => Some(Instant::now() + time),
                }
            }
            Err(error) => {
                if let Some(reason) = error.permanent_reason() {
                    warn!(controller = name, reason, %error, "{name} cannot go on until something changes");
                    failures = 0;
                    None
                } else {
                    failures += 1;
                    let wait = delay(failures);
                    if error.is_conflict() {
                        debug!(controller = name, %error, "an object changed under {name}, once more");
                    } else {
                        warn!(controller = name, failures, retry_ms = wait.as_millis(), %error, "{name} failed");
                    }
                    Some(Instant::now() + wait)
                }
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(1, 20)]
    #[case(2, 40)]
    #[case(5, 320)]
    #[case(10, 10_240)]
    #[case(11, 15_000)]
    #[case(500, 15_000)]
    fn delays_double_up_to_a_limit(#[case] failures: u32, #[case] millis: u64) {
        assert_eq!(delay(failures), Duration::from_millis(millis));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_tried_again_and_a_success_rests() {
        let (wake, stop, runs) = (Wake::default(), CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let worker = tokio::spawn({
            let (wake, stop, runs) = (wake.clone(), stop.clone(), runs.clone());
            async move {
                work("test", wake, stop, || {
                    let run = runs.fetch_add(1, Ordering::SeqCst);
                    async move {
                        if run < 2 { Err(SyncError::Missing { message: "not yet".into() }) } else { Ok(Next::Change) }
                    }
                })
                .await;
            }
        });
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(runs.load(Ordering::SeqCst), 3, "two failures, one success, then rest");
        wake.wake();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(runs.load(Ordering::SeqCst), 4, "one mark, one sync");
        stop.cancel();
        worker.await.expect("the worker ends by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn a_permanent_error_waits_for_a_change() {
        let (wake, stop, runs) = (Wake::default(), CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let worker = tokio::spawn({
            let (wake, stop, runs) = (wake.clone(), stop.clone(), runs.clone());
            async move {
                work("test", wake, stop, || {
                    runs.fetch_add(1, Ordering::SeqCst);
                    async { Err(SyncError::StorageNotConfigured) }
                })
                .await;
            }
        });
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        stop.cancel();
        worker.await.expect("the worker ends by itself");
    }
}
