//! A storage endpoint: where a backend is, how one authenticates, and a view into it that does not pass through the
//! registry. However it was started (process, container, vendor), this is the value that comes out.

use std::{fmt, net::SocketAddr, sync::Arc};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// A text that must not be shown; its `Debug` prints a placeholder.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A look into a storage product from beside the registry.
pub trait StorageView: Send + Sync {
    /// Makes a bucket.
    fn make_bucket<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<(), Failure>>;
    /// Whether the bucket exists.
    fn has_bucket<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<bool, Failure>>;
    /// The keys of all objects in a bucket, sorted.
    fn keys<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<Vec<String>, Failure>>;
    /// The bytes of one object; `None` when it is not there.
    fn read<'a>(&'a self, bucket: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, Failure>>;
    /// Removes a bucket with everything in it.
    fn remove_bucket<'a>(&'a self, bucket: &'a str) -> BoxFuture<'a, Result<(), Failure>>;
}

/// A storage product that answers.
#[derive(Clone)]
pub struct StorageEndpoint {
    /// `s3`, `gcs`, `azure`, `swift` …
    pub kind: String,
    /// The URL as the registry is given it, where its configuration has a place for one.
    pub url: String,
    /// Names, `HOST:PORT`, that clients ask for and that must lead to `address`.
    pub hosts: Vec<String>,
    /// Where it answers on this machine; nothing for one that is elsewhere.
    pub address: Option<SocketAddr>,
    pub region: String,
    pub access_key: String,
    pub secret_key: Secret,
    /// The PEM certificate that the registry must trust to reach it, when it is not a public one.
    pub ca: Option<String>,
    pub view: Arc<dyn StorageView>,
}

impl fmt::Debug for StorageEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorageEndpoint({} at {})", self.kind, self.url)
    }
}
