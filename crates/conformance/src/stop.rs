//! The wish to stop, shared by everything that waits: by whom and why is remembered once, the first reason counts.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

/// Signals so close together are one wish: `timeout` signals its child and then the whole group, the child once more.
const ONE_WISH: Duration = Duration::from_secs(1);

/// A wish to stop; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    reason: Arc<OnceLock<String>>,
}

impl Stop {
    /// Asks everything to stop. Later reasons are ignored.
    pub fn now(&self, reason: impl Into<String>) {
        let _ = self.reason.set(reason.into());
        self.token.cancel();
    }

    /// Why, if asked.
    pub fn reason(&self) -> Option<&str> {
        self.token.is_cancelled().then(|| self.reason.get().map_or("stopped", String::as_str))
    }

    /// Waits until asked.
    pub async fn asked(&self) {
        self.token.cancelled().await;
    }

    /// The token, for code that knows only that.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Stops at Ctrl-C and SIGTERM; another one after more than a second ends the process at once with exit code 2.
    /// Children die with it.
    ///
    /// # Errors
    /// When the process may not handle signals.
    pub fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let stop = self.clone();
        tokio::spawn(async move {
            let mut asked: Option<Instant> = None;
            loop {
                let name = tokio::select! {
                    _ = interrupt.recv() => "Ctrl-C",
                    _ = terminate.recv() => "SIGTERM",
                };
                match asked {
                    None => asked = Some(Instant::now()),
                    Some(first) if first.elapsed() < ONE_WISH => {}
                    Some(_) => std::process::exit(2),
                }
                stop.now(format!("interrupted by {name}"));
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[tokio::test]
    async fn two_signals_at_once_are_one_wish() {
        let stop = Stop::default();
        stop.on_signals().unwrap();
        raise(Signal::SIGTERM).unwrap();
        stop.asked().await;
        // A second wish would end this process here.
        raise(Signal::SIGTERM).unwrap();
        raise(Signal::SIGINT).unwrap();
        tokio::time::timeout(Duration::from_millis(100), std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(stop.reason(), Some("interrupted by SIGTERM"));
    }
}
