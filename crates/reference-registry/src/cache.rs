//! What was learned about blobs, for a while: their size, and which repositories may read them.
//! A removed layer can stay visible until its entry ages (registry source pkg/dockerregistry/server/cache/cache.go:61-130).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::{
    digest::{Digest, Repository},
    metrics::{Lookup, Metrics},
};

/// Digests kept (registry source pkg/dockerregistry/server/app.go:27-29).
const DIGESTS: usize = 24_576;
/// Repositories kept per digest.
const REPOSITORIES: usize = 2_048;

struct Entry {
    size: u64,
    touched: Instant,
    repositories: HashMap<Repository, Instant>,
}

/// The cache; switched off with a lifetime of zero.
pub struct DigestCache {
    lifetime: Duration,
    metrics: Arc<Metrics>,
    entries: Mutex<HashMap<Digest, Entry>>,
}

impl DigestCache {
    /// A cache whose entries live this long.
    pub fn new(lifetime: Duration, metrics: Arc<Metrics>) -> Self {
        Self { lifetime, metrics, entries: Mutex::default() }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Entry>> {
        self.entries.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn fresh(&self, since: Instant) -> bool {
        since.elapsed() < self.lifetime
    }

    /// The size of a blob that a repository is known to have.
    pub fn in_repository(&self, repository: &Repository, digest: &Digest) -> Option<u64> {
        let entries = self.entries();
        let found = entries
            .get(digest)
            .filter(|entry| entry.repositories.get(repository).is_some_and(|since| self.fresh(*since)))
            .map(|entry| entry.size);
        drop(entries);
        self.metrics.digest_cache_scoped(if found.is_some() { Lookup::Hit } else { Lookup::Miss });
        found
    }

    /// The size of a blob that is known to be stored.
    pub fn anywhere(&self, digest: &Digest) -> Option<u64> {
        let entries = self.entries();
        let found = entries.get(digest).filter(|entry| self.fresh(entry.touched)).map(|entry| entry.size);
        drop(entries);
        self.metrics.digest_cache(if found.is_some() { Lookup::Hit } else { Lookup::Miss });
        found
    }

    /// Notes that a repository has a blob of this size.
    pub fn remember(&self, repository: Option<&Repository>, digest: &Digest, size: u64) {
        if self.lifetime.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut entries = self.entries();
        if entries.len() >= DIGESTS && !entries.contains_key(digest) {
            let oldest = entries.iter().min_by_key(|(_, entry)| entry.touched).map(|(digest, _)| digest.clone());
            if let Some(oldest) = oldest {
                entries.remove(&oldest);
            }
        }
        let entry =
            entries.entry(digest.clone()).or_insert_with(|| Entry { size, touched: now, repositories: HashMap::new() });
        entry.size = size;
        entry.touched = now;
        if let Some(repository) = repository {
            if entry.repositories.len() >= REPOSITORIES {
                let lifetime = self.lifetime;
                entry.repositories.retain(|_, since| since.elapsed() < lifetime);
            }
            if entry.repositories.len() < REPOSITORIES {
                entry.repositories.insert(repository.clone(), now);
            }
        }
    }

    /// Forgets that a repository has a blob.
    pub fn forget_in(&self, repository: &Repository, digest: &Digest) {
        if let Some(entry) = self.entries().get_mut(digest) {
            entry.repositories.remove(repository);
        }
    }

    /// Forgets a blob.
    pub fn forget(&self, digest: &Digest) {
        self.entries().remove(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_known_only_in_the_repositories_that_have_it() {
        let cache = DigestCache::new(Duration::from_secs(60), Arc::default());
        let digest = Digest::of(b"x");
        let (one, other) = (Repository::parse("a/b").unwrap(), Repository::parse("a/c").unwrap());
        cache.remember(Some(&one), &digest, 1);
        assert_eq!(cache.in_repository(&one, &digest), Some(1));
        assert_eq!(cache.in_repository(&other, &digest), None);
        assert_eq!(cache.anywhere(&digest), Some(1));
        cache.forget_in(&one, &digest);
        assert_eq!(cache.in_repository(&one, &digest), None);
        cache.forget(&digest);
        assert_eq!(cache.anywhere(&digest), None);
    }

    #[test]
    fn without_a_lifetime_nothing_is_kept() {
        let cache = DigestCache::new(Duration::ZERO, Arc::default());
        let digest = Digest::of(b"x");
        cache.remember(None, &digest, 1);
        assert_eq!(cache.anywhere(&digest), None);
    }
}
