//! Drains: what happens to nodes and to the pods on them while mirrors roll out. A watch that begins before the mirrors
//! are made sees every state of every Node object, so that a short closing is not missed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use api::names;
use cucumber::{given, then};
use futures::StreamExt;
use harness::{
    failure::{Failure, Step, Tried},
    wait::{Check, answers, wait},
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod},
};
use kube::{
    Api, ResourceExt,
    api::ListParams,
    runtime::watcher::{self, Event, watcher},
};
use tokio::task::JoinHandle;

use crate::{made::scale_operator, world::World};

/// One state of a Node object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    node: String,
    version: Option<String>,
    closed: bool,
}

/// Every state of every Node object, and the ordinary pods there were at the beginning, by uid.
pub(crate) struct Watched {
    seen: Arc<Mutex<Vec<Seen>>>,
    pods: BTreeMap<String, String>,
    task: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl World {
    async fn watched(&self) -> Result<(&Watched, Vec<Seen>), Failure> {
        let watched = self.watched.as_ref();
        let watched =
            watched.ok_or_else(|| Failure::error("looking at the nodes' past", "no step has watched them"))?;
        let nodes: Api<Node> = Api::all(self.env.client.clone());
        let now: Vec<_> = nodes.list(&ListParams::default()).await.tried("listing nodes")?.iter().map(seen).collect();
        // The watch has caught up when it has told of what a list tells now.
        let until = wait("the watch on the nodes to catch up", self.env.limits.answer);
        let past = answers(until, || async {
            let past = watched.seen.lock().expect("no panic while watching").clone();
            match now.iter().all(|state| past.contains(state)) {
                true => Check::Met(past),
                false => Check::NotYet(format!("{} states so far", past.len())),
            }
        });
        Ok((watched, past.await?))
    }

    /// Ordinary pods that run, by uid: those that belong neither to a DaemonSet, nor to the node itself, nor to a job.
    async fn ordinary_pods(&self) -> Result<BTreeMap<String, String>, Failure> {
        let pods: Api<Pod> = Api::all(self.env.client.clone());
        let pods = pods.list(&ListParams::default()).await.tried("listing pods")?;
        let ordinary = pods.into_iter().filter(|pod| {
            let owned = pod.owner_references().iter().any(|owner| matches!(owner.kind.as_str(), "DaemonSet" | "Job"));
            let fixed = pod.annotations().contains_key("kubernetes.io/config.mirror");
            let runs = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
            runs && !owned && !fixed && pod.metadata.deletion_timestamp.is_none()
        });
        Ok(ordinary.map(|pod| (pod.uid().unwrap_or_default(), told(&pod))).collect())
    }

    /// Waits until every node takes pods and the registry and its operator run as before a drain.
    pub(crate) async fn recovered(&self) -> Step {
        self.nodes_open().await?;
        scale_operator(self, 1).await?;
        let deployments: Api<Deployment> = self.in_registry_namespace();
        let registry = deployments.get_opt(names::REGISTRY).await.tried("reading the registry's Deployment")?;
        let replicas = registry.and_then(|registry| registry.spec?.replicas).unwrap_or_default();
        if replicas == 0 {
            return Ok(());
        }
        wait(format!("{replicas} replicas of the registry"), self.env.limits.rollout)
            .object(&deployments, names::REGISTRY, |deployment: Option<&Deployment>| {
                let ready = deployment.and_then(|found| found.status.as_ref()?.ready_replicas).unwrap_or_default();
                Check::when(deployment.is_none() || ready >= replicas, || format!("{ready} ready"))
            })
            .await?;
        self.service_follows().await
    }

    async fn nodes_open(&self) -> Step {
        let nodes: Api<Node> = Api::all(self.env.client.clone());
        wait("every node to take pods", self.env.limits.rollout)
            .of("node-agent")
            .objects(&nodes, "", |nodes: &[&Node]| {
                let closed: Vec<_> = nodes.iter().filter(|node| is_closed(node)).map(|node| node.name_any()).collect();
                Check::when(closed.is_empty() && !nodes.is_empty(), || format!("SchedulingDisabled: {closed:?}"))
            })
            .await
    }
}

fn is_closed(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default()
}

fn seen(node: &Node) -> Seen {
    Seen { node: node.name_any(), version: node.resource_version(), closed: is_closed(node) }
}

fn told(pod: &Pod) -> String {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    format!("{}/{} on {node}", pod.namespace().unwrap_or_default(), pod.name_any())
}

#[given("the nodes take pods, and it is known which pods run on them")]
async fn watches(world: &mut World) -> Step {
    world.nodes_open().await?;
    // A node that was never configured is configured before it has pods to lose.
    world.on_every_node("have been configured", |_| true).await?;
    let pods = world.ordinary_pods().await?;
    if pods.is_empty() {
        return Err(Failure::error("listing pods that a drain would evict", "no ordinary pod runs on any node"));
    }
    let states = Arc::new(Mutex::new(vec![]));
    let nodes: Api<Node> = Api::all(world.env.client.clone());
    let kept = states.clone();
    let task = tokio::spawn(async move {
        let mut events = watcher(nodes, watcher::Config::default()).boxed();
        while let Some(event) = events.next().await {
            if let Ok(Event::InitApply(node) | Event::Apply(node)) = event {
                kept.lock().expect("no panic while watching").push(seen(&node));
            }
        }
    });
    world.watched = Some(Watched { seen: states, pods, task });
    // What is made from now on is made after the watch has begun.
    world.watched().await.map(drop)
}

#[then("every node was closed for new pods, and its ordinary pods had to leave")]
async fn drained(world: &mut World) -> Step {
    let (watched, past) = world.watched().await?;
    let closed: BTreeSet<_> = past.iter().filter(|state| state.closed).map(|state| state.node.clone()).collect();
    let spared: Vec<_> = world.env.nodes.nodes().into_iter().filter(|node| !closed.contains(node)).collect();
    let tried = "looking at every state of the nodes since the mirrors were made";
    if !spared.is_empty() {
        let seen = format!("{spared:?} never were, among {} states", past.len());
        return Err(Failure::fail(tried, "SchedulingDisabled on every node", seen).of("node-agent"));
    }
    let now = world.ordinary_pods().await?;
    let stayed: Vec<_> = watched.pods.iter().filter(|(uid, _)| now.contains_key(*uid)).map(|(_, pod)| pod).collect();
    match stayed.is_empty() {
        true => Ok(()),
        false => {
            Err(Failure::fail("listing the pods of before", "all of them evicted", format!("{stayed:?} still run"))
                .of("node-agent"))
        }
    }
}

#[then("pods can be scheduled on every node again")]
async fn open(world: &mut World) -> Step {
    world.nodes_open().await
}

#[then("no node was closed for new pods, and every pod still runs")]
async fn undisturbed(world: &mut World) -> Step {
    let (watched, past) = world.watched().await?;
    let closed: BTreeSet<_> = past.iter().filter(|state| state.closed).map(|state| &state.node).collect();
    if !closed.is_empty() {
        let tried = "looking at every state of the nodes since the mirrors were made";
        return Err(Failure::fail(tried, "no SchedulingDisabled", format!("{closed:?} were")).of("node-agent"));
    }
    let now = world.ordinary_pods().await?;
    let left: Vec<_> = watched.pods.iter().filter(|(uid, _)| !now.contains_key(*uid)).map(|(_, pod)| pod).collect();
    match left.is_empty() {
        true => Ok(()),
        false => {
            Err(Failure::fail("listing the pods of before", "all of them", format!("{left:?} are gone"))
                .of("node-agent"))
        }
    }
}
