//! When something that failed is tried again; nothing announces that an API server or a claim is fine now.
//! Pauses double up to a limit and begin anew after a success.

use std::time::Duration;

use tokio::time::Instant;

const FIRST_RETRY: Duration = Duration::from_millis(200);
pub(super) const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// One thing that is tried again.
#[derive(Debug, Default)]
pub(super) struct Retry {
    pub(super) at: Option<Instant>,
    pause: Duration,
}

impl Retry {
    pub(super) fn again(&mut self) {
        self.pause = if self.pause.is_zero() { FIRST_RETRY } else { (self.pause * 2).min(LONGEST_RETRY) };
        self.at = Some(Instant::now() + self.pause);
    }

    pub(super) fn done(&mut self) {
        *self = Self::default();
    }
}
