//! The wish to stop, shared by everything that waits: by whom and why is remembered once, the first reason counts.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

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

    /// Stops at Ctrl-C and SIGTERM; a second one ends the process at once with exit code 2. Children die with it.
    ///
    /// # Errors
    /// When the process may not handle signals.
    pub fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let stop = self.clone();
        tokio::spawn(async move {
            let mut asked = false;
            loop {
                let name = tokio::select! {
                    _ = interrupt.recv() => "Ctrl-C",
                    _ = terminate.recv() => "SIGTERM",
                };
                if asked {
                    std::process::exit(2);
                }
                asked = true;
                stop.now(format!("interrupted by {name}"));
            }
        });
        Ok(())
    }
}
