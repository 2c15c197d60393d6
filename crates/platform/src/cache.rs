//! Local copies of watched kinds, and the loop that lets a controller look at them whenever one changes.
//! What a controller then does is its own; this only guarantees that the last change is always looked at.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use crate::Error;
use crate::cluster::Cluster;

/// Shortest and longest pause after a failed pass, unless a change comes first.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Copies `api` until the cluster is left; `changed` is told of each change. Returns once the copy is complete.
pub(crate) async fn watch<K>(cluster: &Cluster, api: Api<K>, config: watcher::Config, changed: &Arc<Notify>) -> Store<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone + Send + Sync + Unpin,
{
    let (store, writer) = reflector::store();
    let stream = reflector::reflector(writer, watcher(api, config)).default_backoff();
    let (changed, stop) = (Arc::clone(changed), cluster.stop.clone());
    let kind = K::kind(&K::DynamicType::default()).into_owned();
    cluster.tasks.spawn(async move {
        let mut stream = std::pin::pin!(stream.take_until(stop.cancelled_owned()));
        while let Some(event) = stream.next().await {
            match event {
                // Objects of a list are shown all at once, when the list is complete.
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Ok(_) => changed.notify_one(),
                Err(error) => tracing::warn!(kind, %error, "watch was interrupted and goes on"),
            }
        }
    });
    tokio::select! {
        // The writer lives as long as the task above, which ends only when the cluster is left.
        _ = store.wait_until_ready() => {}
        () = cluster.stop.cancelled() => {}
    }
    store
}

/// Calls `pass` once and returns; then again after each change, until the cluster is left. A failed pass is repeated soon.
pub(crate) async fn drive<F>(
    cluster: &Cluster,
    controller: &'static str,
    changed: Arc<Notify>,
    mut pass: impl FnMut() -> F + Send + 'static,
) where
    F: Future<Output = Result<(), Error>> + Send,
{
    let mut pause = RETRY.0;
    let mut outcome = pass().await;
    let stop = cluster.stop.clone();
    cluster.tasks.spawn(async move {
        loop {
            let failed = outcome.is_err();
            match outcome {
                Ok(()) => pause = RETRY.0,
                Err(error) => {
                    tracing::warn!(controller, %error, "will be tried again");
                    pause = (pause * 2).min(RETRY.1);
                }
            }
            tokio::select! {
                () = changed.notified() => {}
                // What is wrong is on the other side and sends no event when it is mended.
                () = tokio::time::sleep(pause), if failed => {}
                () = stop.cancelled() => return,
            }
            outcome = tokio::select! {
                outcome = pass() => outcome,
                () = stop.cancelled() => return,
            };
        }
    });
}
