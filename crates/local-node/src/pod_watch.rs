//! Watches the pods bound to one node and keeps one worker per pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    node::Node,
    pod_worker::{self, Seen},
};

/// Runs the node's pods until `stop`, then waits until all their processes have ended.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let pods = Api::<Pod>::all(node.shared.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", node.name));
    let mut events = std::pin::pin!(watcher(pods, config).default_backoff());
    let mut workers = Workers { node, stop: stop.clone(), inputs: BTreeMap::new(), tasks: FuturesUnordered::new() };
    let mut listed = BTreeSet::new();
    let mut swept = false;
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => break,
            Some(event) = events.next() => event,
            Some(_) = workers.tasks.next() => continue,
            else => break,
        };
        match event {
            Ok(watcher::Event::Apply(pod)) => workers.present(pod),
            Ok(watcher::Event::Delete(pod)) => workers.gone(pod.metadata.uid.as_deref().unwrap_or_default()),
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                listed.extend(pod.metadata.uid.clone());
                workers.present(pod);
            }
            Ok(watcher::Event::InitDone) => {
                let missing: Vec<_> = workers.inputs.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
                missing.iter().for_each(|uid| workers.gone(uid));
                if !swept {
                    swept = true;
                    workers.node.sweep(&listed);
                }
            }
            Err(error) => {
                tracing::warn!(node = workers.node.name, %error, "watching pods was interrupted; it is taken up again")
            }
        }
    }
    while workers.tasks.next().await.is_some() {}
}

struct Workers {
    node: Arc<Node>,
    stop: CancellationToken,
    inputs: BTreeMap<String, watch::Sender<Seen>>,
    tasks: FuturesUnordered<JoinHandle<()>>,
}

impl Workers {
    fn present(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let pod = Arc::new(pod);
        if let Some(input) = self.inputs.get(&uid) {
            input.send_replace(Seen::Present(pod));
            return;
        }
        let (input, seen) = watch::channel(Seen::Present(pod.clone()));
        self.inputs.insert(uid, input);
        self.tasks.push(tokio::spawn(pod_worker::run(self.node.clone(), pod, seen, self.stop.clone())));
    }

    fn gone(&mut self, uid: &str) {
        if let Some(input) = self.inputs.remove(uid) {
            input.send_replace(Seen::Gone);
        }
    }
}
