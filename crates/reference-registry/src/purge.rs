//! Removal of uploads that nobody finished: once a day everything that began too long ago goes
//! (distribution registry/handlers/app.go:1061-1146, registry/storage/purgeuploads.go:32-138).

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    registry::Registry,
    storage::{Result, layout},
};

/// Time between two runs.
const INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// The first run comes at a random minute, so that replicas do not all walk the store at once.
const FIRST_WITHIN_MINUTES: u64 = 60;

impl Registry {
    /// Removes old uploads until stopped.
    pub async fn purge_uploads(&self, age: Duration, stop: &CancellationToken) {
        let mut byte = [0; 1];
        // Without randomness the first run is at once, which is allowed too.
        let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut byte);
        let minutes = u64::from(byte[0]) % FIRST_WITHIN_MINUTES;
        self.log.info(&format!("Starting upload purge in {minutes}m0s"), vec![]);
        let first = tokio::time::Instant::now() + Duration::from_secs(minutes * 60);
        let mut beat = tokio::time::interval_at(first, INTERVAL);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beat.tick() => {}
            }
            match self.purge_uploads_once(age).await {
                Ok(removed) => self.log.info(&format!("Purge uploads finished. Num deleted={removed}"), vec![]),
                Err(error) => self.log.error(&format!("purging old uploads: {error}"), vec![]),
            }
        }
    }

    /// Removes uploads older than `age`; gives how many.
    pub async fn purge_uploads_once(&self, age: Duration) -> Result<usize> {
        let files = match self.storage.walk(layout::repositories()).await {
            Err(error) if error.is_not_found() => return Ok(0),
            files => files?,
        };
        let mut removed = 0;
        for file in files {
            let Some(folder) = file.strip_suffix("/startedat").filter(|folder| folder.contains("/_uploads/")) else {
                continue;
            };
            let began = match self.storage.get(&file).await {
                Err(error) if error.is_not_found() => continue,
                began => began?,
            };
            let began = std::str::from_utf8(&began).ok().and_then(|text| text.trim().parse::<jiff::Timestamp>().ok());
            let old = began.is_none_or(|began| {
                jiff::Timestamp::now().duration_since(began) >= jiff::SignedDuration::try_from(age).unwrap_or_default()
            });
            if !old {
                continue;
            }
            // What the store keeps open for the upload goes first, then its files.
            match self.storage.append(&format!("{folder}/data"), false).await {
                Ok(writer) => writer.cancel().await?,
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
            match self.storage.remove(folder).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => removed += 1,
            }
        }
        Ok(removed)
    }
}
