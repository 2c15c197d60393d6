//! What every controller is given: the client, the cache, the options and the means to act.
//! One value, cloned freely; it decides nothing.

use std::sync::Arc;

use kube::Client;

use crate::cache::Cache;
use crate::metrics::Metrics;
use crate::object::Actor;
use crate::options::Options;

/// Shared by all controllers of one operator process.
#[derive(Clone)]
pub struct Context {
    /// Client for reads and writes that need the object as it is now.
    pub client: Client,
    /// Carries out decisions.
    pub actor: Actor,
    /// What has been seen of the cluster.
    pub cache: Cache,
    /// Images, versions and names.
    pub options: Arc<Options>,
    /// Counters of this process.
    pub metrics: Metrics,
}

impl Context {
    /// The namespace of everything namespaced.
    pub fn namespace(&self) -> &str {
        &self.cache.namespace
    }
}
