//! Watches the store; while it does not answer, every request is told that the service is unavailable.
//! (distribution registry/handlers/app.go:374-405 and health/health.go:264-275.)

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Code, Entry, Refusal},
    log::Log,
    settings::StorageHealth,
    storage::Storage,
};

/// Whether the registry can serve.
#[derive(Default)]
pub struct Health {
    red: AtomicBool,
}

impl Health {
    /// The answer to any request while the store does not answer.
    pub fn refusal(&self) -> Option<Refusal> {
        self.red.load(Ordering::Relaxed).then(|| {
            let detail = Value::String("health check failed: please see /debug/health".into());
            Entry { detail: Some(detail), ..Code::Unavailable.entry() }.into()
        })
    }

    /// Looks at the store in intervals until stopped; the first look comes after one interval.
    pub async fn watch(&self, storage: &Storage, how: StorageHealth, log: &Log, stop: &CancellationToken) {
        let mut failures = 0_u32;
        let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + how.interval, how.interval);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beat.tick() => {}
            }
            let answer = tokio::time::timeout(how.interval, storage.probe()).await;
            let problem = match answer {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {} s", how.interval.as_secs_f64())),
            };
            failures = if problem.is_some() { failures.saturating_add(1) } else { 0 };
            let red = failures >= how.threshold;
            if self.red.swap(red, Ordering::Relaxed) != red {
                match problem {
                    Some(problem) => log.error(&format!("storage health check failed: {problem}"), vec![]),
                    None => log.info("storage health check passed again", vec![]),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{log::Level, storage::filesystem::Filesystem};

    #[tokio::test]
    async fn red_while_the_root_is_a_file_and_green_again_after_repair() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::write(&root, "").unwrap();
        let storage = Storage::new(Arc::new(Filesystem::new(&root)), Arc::default());
        let (health, stop) = (Arc::new(Health::default()), CancellationToken::new());
        let watching = tokio::spawn({
            let (health, stop) = (Arc::clone(&health), stop.clone());
            let how = StorageHealth { interval: Duration::from_millis(5), threshold: 2 };
            async move { health.watch(&storage, how, &Log::to(Level::Info, std::io::sink()), &stop).await }
        });
        let becomes = |red: bool| {
            let health = Arc::clone(&health);
            tokio::time::timeout(Duration::from_secs(10), async move {
                while health.refusal().is_some() != red {
                    tokio::task::yield_now().await;
                }
            })
        };
        becomes(true).await.expect("turns red");
        std::fs::remove_file(&root).unwrap();
        becomes(false).await.expect("turns green");
        stop.cancel();
        watching.await.unwrap();
    }
}
