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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{
        cluster::{Call, CallError, Cluster, Transport},
        log::{Level, Log},
        remote::Remotes,
        settings::Settings,
        storage::{Storage, filesystem::Filesystem},
    };

    struct Nobody;

    impl Transport for Nobody {
        fn call(&self, _: Call) -> futures::future::BoxFuture<'_, std::result::Result<serde_json::Value, CallError>> {
            Box::pin(async { Err(CallError::Transport("no API server here".into())) })
        }
    }

    #[tokio::test]
    async fn only_old_uploads_go() {
        // Another test of this process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let env = [("REGISTRY_STORAGE", "filesystem"), ("REGISTRY_OPENSHIFT_SERVER_ADDR", "r:5000")];
        let env: BTreeMap<_, _> = env.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let storage = Storage::new(Arc::new(Filesystem::new(folder.path())), Arc::default());
        let registry = Registry::new(
            Settings::from_parts(env, None).unwrap(),
            Cluster::new(Arc::new(Nobody)),
            storage,
            Arc::default(),
            Log::to(Level::Info, std::io::sink()),
            Remotes::new().unwrap(),
        )
        .unwrap();
        let age = Duration::from_secs(168 * 3600);
        assert_eq!(registry.purge_uploads_once(age).await.unwrap(), 0);
        let hours_ago = |hours: i64| {
            let began = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours);
            began.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
        };
        for (name, began) in [("old", hours_ago(169)), ("young", hours_ago(1)), ("torn", "rubbish".into())] {
            let upload = format!("{}/project/image/_uploads/{name}", layout::repositories());
            registry.storage.put(&format!("{upload}/startedat"), began).await.unwrap();
            registry.storage.put(&format!("{upload}/data"), "x").await.unwrap();
        }
        assert_eq!(registry.purge_uploads_once(age).await.unwrap(), 2);
        let left = registry.storage.walk(layout::repositories()).await.unwrap();
        assert!(left.iter().all(|file| file.contains("/young/")) && left.len() == 2, "{left:?}");
    }
}
