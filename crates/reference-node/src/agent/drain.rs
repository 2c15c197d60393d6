//! Empties the node before a change that its pods must not see, and opens it again. What was begun is written on the Node
//! object, so that an agent that was restarted in between finishes it.

use super::turn::Turn;
use crate::disruption::Disruption;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, EvictParams, ListParams, Patch, PatchParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// `drain-` or `uncordon-` and the name of the configuration, as the machine config daemon writes it
/// (pkg/daemon/constants/constants.go:27-29, release-4.16).
const DESIRED: &str = "machineconfiguration.openshift.io/desiredDrain";
const LAST_APPLIED: &str = "machineconfiguration.openshift.io/lastAppliedDrain";
/// What one try may take; the machine config controller gives a try as long.
const TRY: Duration = Duration::from_secs(90);
/// Until an eviction that a disruption budget refused is asked for again; nothing announces that it would be granted.
const REFUSED: Duration = Duration::from_secs(1);

/// Why a node could not be emptied or opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum DrainError {
    #[error("could not {act}: {source}")]
    Api { act: &'static str, source: kube::Error },
    #[error("pods did not leave the node within 90s: {}; look at their disruption budgets and finalizers", .0.join(", "))]
    Stuck(Vec<String>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// An agent before this one may have begun.
    Unknown,
    Begun,
    Open,
}

pub(super) struct Drain {
    nodes: Api<Node>,
    pods: Api<Pod>,
    client: Client,
    name: String,
    turn: Turn,
    state: State,
}

impl Drain {
    pub(super) fn new(client: Client, name: &str) -> Self {
        Drain {
            nodes: Api::all(client.clone()),
            pods: Api::all(client.clone()),
            turn: Turn::new(client.clone(), name),
            client,
            name: name.to_owned(),
            state: State::Unknown,
        }
    }

    /// Waits for the node's turn, closes it for new pods, and returns true when the ordinary ones have left. The only node
    /// of a cluster is never drained: there is nowhere to go, and the answer is false.
    ///
    /// # Errors
    /// The node stays closed; calling again goes on.
    pub(super) async fn begin(&mut self, why: &Disruption, config: &str) -> Result<bool, DrainError> {
        let tried = |act| move |source| DrainError::Api { act, source };
        let some = ListParams::default().limit(2);
        let nodes = self.nodes.list_metadata(&some).await.map_err(tried("list the nodes"))?;
        if nodes.items.len() < 2 {
            tracing::info!(%why, "the only node of a cluster is not drained");
            return Ok(false);
        }
        self.turn.take().await.map_err(tried("take the turn to be drained"))?;
        self.state = State::Begun;
        let node = self.nodes.get(&self.name).await.map_err(tried("read the Node object"))?;
        let closed = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default();
        if closed && !is_begun(&node) {
            tracing::info!("the node was closed by somebody else and will stay so");
        } else {
            let drain = format!("drain-{config}");
            let patch = json!({"metadata": {"annotations": {DESIRED: drain}}, "spec": {"unschedulable": true}});
            self.patch(patch).await.map_err(tried("close the node for new pods"))?;
        }
        tracing::info!(%why, "the node is closed for new pods and drained");
        self.evict().await?;
        Ok(true)
    }

    /// Opens the node if a drain had been begun, also by an agent before this one, and gives the turn back. Says whether it
    /// had to.
    ///
    /// # Errors
    /// The node may still be closed; calling again goes on.
    pub(super) async fn end(&mut self, config: &str) -> Result<bool, DrainError> {
        let tried = |act| move |source| DrainError::Api { act, source };
        if self.state == State::Open {
            return Ok(false);
        }
        let node = self.nodes.get(&self.name).await.map_err(tried("read the Node object"))?;
        let begun = is_begun(&node);
        if begun {
            let opened = format!("uncordon-{config}");
            let patch = json!({
                "metadata": {"annotations": {DESIRED: opened, LAST_APPLIED: opened}},
                "spec": {"unschedulable": null},
            });
            self.patch(patch).await.map_err(tried("open the node for pods"))?;
            tracing::info!("the node is open for pods again");
        }
        self.turn.give_back().await.map_err(tried("give the turn to be drained back"))?;
        self.state = State::Open;
        Ok(begun)
    }

    async fn patch(&self, patch: Value) -> Result<(), kube::Error> {
        self.nodes.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }

    /// Asks every ordinary pod to leave, those that a budget protects again and again, until all are gone.
    async fn evict(&self) -> Result<(), DrainError> {
        let tried = |act| move |source| DrainError::Api { act, source };
        let here = watcher::Config::default().fields(&format!("spec.nodeName={}", self.name));
        let mut changes = watcher(self.pods.clone(), here).boxed();
        let (mut pods, mut listed) = (BTreeMap::<String, Pod>::new(), false);
        let (mut asked, mut refused) = (BTreeSet::new(), BTreeSet::new());
        let until = Instant::now() + TRY;
        let mut prolonged = Instant::now();
        loop {
            if listed && pods.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(DrainError::Stuck(pods.into_values().map(|pod: Pod| told(&pod)).collect()));
            }
            if prolonged.elapsed() * 3 > Turn::LASTS {
                self.turn.take().await.map_err(tried("keep the turn to be drained"))?;
                prolonged = Instant::now();
            }
            for (uid, pod) in pods.iter().filter(|_| listed) {
                if asked.contains(uid) || pod.metadata.deletion_timestamp.is_some() {
                    continue;
                }
                match self.ask_to_leave(pod).await {
                    Ok(true) => drop(asked.insert(uid.clone())),
                    Ok(false) => {
                        if refused.insert(uid.clone()) {
                            tracing::info!(pod = told(pod), "a disruption budget keeps the pod; it is asked again");
                        }
                    }
                    Err(error) => return Err(tried("evict a pod")(error)),
                }
            }
            match tokio::time::timeout(REFUSED, changes.try_next()).await {
                Err(_) => {}
                Ok(Ok(None)) => return Err(DrainError::Stuck(vec!["the watch on the pods ended".into()])),
                Ok(Err(error)) => tracing::warn!(%error, "watch on the node's pods interrupted; it is tried again"),
                Ok(Ok(Some(event))) => match event {
                    Event::Init => {
                        pods.clear();
                        listed = false;
                    }
                    Event::InitDone => listed = true,
                    Event::InitApply(pod) | Event::Apply(pod) => {
                        let uid = pod.uid().unwrap_or_default();
                        match is_ordinary(&pod) {
                            true => drop(pods.insert(uid, pod)),
                            false => drop(pods.remove(&uid)),
                        }
                    }
                    Event::Delete(pod) => drop(pods.remove(&pod.uid().unwrap_or_default())),
                },
            }
        }
    }

    /// False when a disruption budget forbids it now.
    async fn ask_to_leave(&self, pod: &Pod) -> Result<bool, kube::Error> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        match pods.evict(&pod.name_any(), &EvictParams::default()).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 429 => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn is_begun(node: &Node) -> bool {
    node.annotations().get(DESIRED).is_some_and(|desired| desired.starts_with("drain-"))
}

/// Neither a DaemonSet's nor the node's own (static) nor one that has ended.
fn is_ordinary(pod: &Pod) -> bool {
    let daemon = pod.owner_references().iter().any(|owner| owner.kind == "DaemonSet" && owner.controller == Some(true));
    let fixed = pod.annotations().contains_key("kubernetes.io/config.mirror");
    let ended = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .is_some_and(|phase| matches!(phase, "Succeeded" | "Failed"));
    !daemon && !fixed && !ended
}

fn told(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::plain(json!({}), true)]
    #[case::of_a_set(json!({"ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a", "uid": "1", "controller": true}]}), true)]
    #[case::of_a_daemon(json!({"ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "a", "uid": "1", "controller": true}]}), false)]
    #[case::fixed(json!({"annotations": {"kubernetes.io/config.mirror": "x"}}), false)]
    fn ordinary_pods(#[case] metadata: Value, #[case] expected: bool) {
        let pod = |phase: &str| -> Pod {
            serde_json::from_value(json!({"metadata": metadata, "status": {"phase": phase}})).expect("a pod")
        };
        assert_eq!(is_ordinary(&pod("Running")), expected);
        assert!(!is_ordinary(&pod("Succeeded")));
    }
}
