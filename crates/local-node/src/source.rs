//! Reads the Secrets and ConfigMaps that pods refer to, and tells of each change of one.
//! A read always asks the API server, so that a pod started after a change sees it; the watch carries names only.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// How long one read may take before the pod is told to try again.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// Notices that a slow worker may leave unread before it is told to refresh everything.
const NOTICES: usize = 1024;

/// Names a Secret or ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SourceName {
    pub(crate) kind: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Why something that a pod refers to could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("{kind} \"{namespace}/{name}\" not found")]
    Missing { kind: &'static str, namespace: String, name: String },
    #[error("couldn't find key {key} in {kind} {name}")]
    MissingKey { kind: &'static str, name: String, key: String },
    #[error("field {path} cannot be used here: {reason}")]
    Field { path: String, reason: &'static str },
    #[error("reading {kind} \"{namespace}/{name}\" failed: {source}")]
    Read { kind: &'static str, namespace: String, name: String, source: Box<kube::Error> },
    #[error("reading {kind} \"{namespace}/{name}\" gave no answer within {}s", READ_LIMIT.as_secs())]
    Slow { kind: &'static str, namespace: String, name: String },
}

/// Shared by all pods of all nodes of this process.
#[derive(Clone)]
pub(crate) struct Sources {
    client: Client,
    changes: broadcast::Sender<SourceName>,
}

impl std::fmt::Display for SourceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

impl Sources {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, changes: broadcast::channel(NOTICES).0 }
    }

    /// Watches until `stop`; errors are logged and the watch resumed.
    pub(crate) async fn watch(&self, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => (),
            () = self.watch_kind::<Secret>("Secret") => (),
            () = self.watch_kind::<ConfigMap>("ConfigMap") => (),
        }
    }

    async fn watch_kind<K>(&self, kind: &'static str)
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    {
        let names = Api::<PartialObjectMeta<K>>::all(self.client.clone());
        let stream = watcher(names, watcher::Config::default()).default_backoff();
        let mut stream = std::pin::pin!(stream.map_err(|error| {
            tracing::warn!(kind, %error, "watching what pods refer to was interrupted; it is taken up again");
        }));
        while let Some(event) = stream.next().await {
            if let Ok(
                watcher::Event::Apply(object) | watcher::Event::Delete(object) | watcher::Event::InitApply(object),
            ) = event
                && let (Some(namespace), Some(name)) = (object.metadata.namespace, object.metadata.name)
            {
                // Fails only when no pod runs.
                let _ = self.changes.send(SourceName { kind, namespace, name });
            }
        }
    }

    pub(crate) fn changes(&self) -> broadcast::Receiver<SourceName> {
        self.changes.subscribe()
    }

    /// The ConfigMap, or nothing if it is missing and not `required`.
    pub(crate) async fn config_map(
        &self,
        namespace: &str,
        name: &str,
        required: bool,
    ) -> Result<Option<ConfigMap>, SourceError> {
        self.read("ConfigMap", namespace, name, required).await
    }

    /// The Secret, or nothing if it is missing and not `required`.
    pub(crate) async fn secret(
        &self,
        namespace: &str,
        name: &str,
        required: bool,
    ) -> Result<Option<Secret>, SourceError> {
        self.read("Secret", namespace, name, required).await
    }

    async fn read<K>(
        &self,
        kind: &'static str,
        namespace: &str,
        name: &str,
        required: bool,
    ) -> Result<Option<K>, SourceError>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let names = || (namespace.to_owned(), name.to_owned());
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        match tokio::time::timeout(READ_LIMIT, api.get_opt(name)).await {
            Ok(Ok(None)) if required => {
                let (namespace, name) = names();
                Err(SourceError::Missing { kind, namespace, name })
            }
            Ok(Ok(object)) => Ok(object),
            Ok(Err(source)) => {
                let (namespace, name) = names();
                Err(SourceError::Read { kind, namespace, name, source: Box::new(source) })
            }
            Err(_) => {
                let (namespace, name) = names();
                Err(SourceError::Slow { kind, namespace, name })
            }
        }
    }
}
