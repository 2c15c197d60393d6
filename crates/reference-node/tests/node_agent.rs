//! The agent against a real API server: objects come, contradict each other and go, and one node's files follow; and two
//! nodes are drained in turn before mirrors for tags reach them.

use api::mirror::{
    ImageDigestMirrorSet, ImageDigestMirrorSetSpec, ImageTagMirrorSet, ImageTagMirrorSetSpec, MirrorEntry,
    MirrorSourcePolicy,
};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config, ResourceExt};
use local_cluster::{ControlPlane, ControlPlaneOptions, PodNetwork, Tool};
use reference_node::{agent, containerd_hosts, registries_conf};
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const SOURCES: &str = "registry-conformance.local/rendered-from";
const STATE: &str = "machineconfiguration.openshift.io/state";

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a config");
    config.proxy_url = None;
    Client::try_from(config).expect("a client")
}

async fn serve_kinds(client: &Client) {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/crds");
    for kind in [
        "imagedigestmirrorsets.config.openshift.io",
        "imagetagmirrorsets.config.openshift.io",
        "imagecontentsourcepolicies.operator.openshift.io",
        "images.config.openshift.io",
        "clusterversions.config.openshift.io",
    ] {
        let text = std::fs::read_to_string(folder.join(format!("{kind}.yaml"))).expect("a definition");
        let crd: CustomResourceDefinition = serde_yaml::from_str(&text).expect("a definition");
        crds.create(&PostParams::default(), &crd).await.expect("created");
        let established = kube::runtime::wait::await_condition(
            crds.clone(),
            kind,
            kube::runtime::wait::conditions::is_crd_established(),
        );
        tokio::time::timeout(Duration::from_secs(20), established).await.expect("in time").expect("established");
    }
}

/// Waits by watch until the node speaks of `sources` in this state.
async fn reported(nodes: &Api<Node>, state: &str, sources: &str) {
    let mut last = String::new();
    let mut seen =
        std::pin::pin!(watcher(nodes.clone(), watcher::Config::default()).default_backoff().applied_objects());
    let wait = async {
        while let Some(node) = seen.next().await {
            let Ok(node) = node else { continue };
            let annotations = node.annotations();
            let has = |key: &str, value: &str| annotations.get(key).is_some_and(|found| found == value);
            if has(STATE, state) && has(SOURCES, sources) {
                return;
            }
            last = format!("{annotations:?}");
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok();
    assert!(ended, "waited 20s for {state} of {sources:?}; last seen {last}");
}

fn entry(mirror: &str, policy: MirrorSourcePolicy) -> Vec<MirrorEntry> {
    vec![MirrorEntry {
        source: "registry.example.com/redhat".into(),
        mirrors: vec![mirror.into()],
        mirror_source_policy: Some(policy),
    }]
}

/// A control plane that serves the kinds, with nodes of these names.
async fn cluster(folder: &Path, names: &[&str]) -> (ControlPlane, Client) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tools =
        local_cluster::tool::locate_all(&Tool::CONTROL_PLANE, |line| eprintln!("{line}")).await.expect("programs");
    let network = PodNetwork::lease().expect("a free pod network");
    let options = ControlPlaneOptions::new(folder.join("plane"), tools, network);
    let plane = ControlPlane::start(options).await.expect("a control plane that starts");
    let client = client(plane.kubeconfig()).await;
    serve_kinds(&client).await;
    let nodes: Api<Node> = Api::all(client.clone());
    for name in names {
        nodes.create(&PostParams::default(), &object(json!({"metadata": {"name": name}}))).await.expect("a node");
    }
    (plane, client)
}

fn object<K: serde::de::DeserializeOwned>(value: serde_json::Value) -> K {
    serde_json::from_value(value).expect("an object")
}

fn options(node: &str, root: &Path) -> agent::Options {
    let containerd_certs_dir = Some("/etc/containerd/certs.d".into());
    agent::Options { node_name: node.into(), root: root.to_owned(), containerd_certs_dir }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nodes_file_follows_the_objects() {
    let folder = tempfile::tempdir().expect("a folder");
    let (plane, client) = cluster(folder.path(), &["node-0"]).await;
    let nodes: Api<Node> = Api::all(client.clone());

    let root = folder.path().join("root");
    let stop = CancellationToken::new();
    let options = agent::Options {
        node_name: "node-0".into(),
        root: root.clone(),
        containerd_certs_dir: Some("/etc/containerd/certs.d".into()),
    };
    let agent = tokio::spawn(agent::serve(client.clone(), options, stop.clone()));
    let file = || std::fs::read_to_string(root.join("etc/containers/registries.conf")).expect("a file");
    reported(&nodes, "Done", "").await;
    assert_eq!(file(), registries_conf::DEFAULT_FILE);

    let digests: Api<ImageDigestMirrorSet> = Api::all(client.clone());
    let tags: Api<ImageTagMirrorSet> = Api::all(client.clone());
    let never = ImageDigestMirrorSetSpec {
        image_digest_mirrors: entry("m.example.com/redhat", MirrorSourcePolicy::NeverContactSource),
    };
    digests.create(&PostParams::default(), &ImageDigestMirrorSet::new("d", never)).await.expect("created");
    reported(&nodes, "Done", "imagedigestmirrorsets/d=1").await;
    let good = file();
    assert!(good.contains("blocked = true") && good.contains("location = \"m.example.com/redhat\""), "{good}");

    let allow = ImageTagMirrorSetSpec {
        image_tag_mirrors: entry("t.example.com/redhat", MirrorSourcePolicy::AllowContactingSource),
    };
    tags.create(&PostParams::default(), &ImageTagMirrorSet::new("t", allow)).await.expect("created");
    reported(&nodes, "Degraded", "imagedigestmirrorsets/d=1,imagetagmirrorsets/t=1").await;
    assert_eq!(file(), good, "the last good file stays");

    digests.delete("d", &DeleteParams::default()).await.expect("deleted");
    reported(&nodes, "Done", "imagetagmirrorsets/t=1").await;
    assert!(file().contains("tag-only") && !file().contains("blocked"), "{}", file());
    assert!(!root.join("etc/containerd").exists(), "nothing of the rules is about a whole host");
    tags.delete("t", &DeleteParams::default()).await.expect("deleted");
    reported(&nodes, "Done", "").await;
    assert_eq!(file(), registries_conf::DEFAULT_FILE);

    stop.cancel();
    agent.await.expect("no panic").expect("a clean end");
    plane.stop().await;
}

/// Waits by watch until the Node objects satisfy `holds`, and returns every state that was seen on the way.
async fn nodes_until(nodes: &Api<Node>, what: &str, mut holds: impl FnMut(&[Node]) -> bool) -> Vec<Node> {
    let mut history: Vec<Node> = Vec::new();
    let mut seen =
        std::pin::pin!(watcher(nodes.clone(), watcher::Config::default()).default_backoff().applied_objects());
    let wait = async {
        while let Some(node) = seen.next().await {
            let Ok(node) = node else { continue };
            history.push(node);
            if holds(&history) {
                return;
            }
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(30), wait).await.is_ok();
    assert!(ended, "waited 30s until {what}; last {:?}", history.last());
    history
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mirrors_for_tags_drain_one_node_after_the_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let names = ["node-0", "node-1"];
    let (plane, client) = cluster(folder.path(), &names).await;
    let nodes: Api<Node> = Api::all(client.clone());
    let machine_config: Namespace = object(json!({"metadata": {"name": "openshift-machine-config-operator"}}));
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &machine_config).await.expect("a namespace");
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client.clone(), "default");
    let present = kube::runtime::wait::await_condition(accounts, "default", |found: Option<&_>| found.is_some());
    tokio::time::timeout(Duration::from_secs(20), present).await.expect("in time").expect("an account");
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    for node in names {
        let pod = json!({
            "metadata": {"name": format!("on-{node}")},
            // Without a kubelet a pod is only gone at once when it has no grace period.
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{"name": "a", "image": "a"}]},
        });
        pods.create(&PostParams::default(), &object(pod)).await.expect("a pod");
    }
    let stop = CancellationToken::new();
    let agents = names
        .map(|node| tokio::spawn(agent::serve(client.clone(), options(node, &folder.path().join(node)), stop.clone())));
    reported_by_all(&nodes, &names, "").await;

    let digests: Api<ImageDigestMirrorSet> = Api::all(client.clone());
    let digest = json!({"imageDigestMirrors": [{"source": "s.example.com", "mirrors": ["m.example.com"]}]});
    digests.create(&PostParams::default(), &ImageDigestMirrorSet::new("d", object(digest))).await.expect("created");
    let history = reported_by_all(&nodes, &names, "imagedigestmirrorsets/d=1").await;
    assert!(!history.iter().any(is_closed), "mirrors for digests close no node");
    assert_eq!(pods.list(&ListParams::default()).await.expect("a list").items.len(), 2, "and evict no pod");
    let hosts = folder.path().join("node-0/etc/containerd/certs.d/s.example.com/hosts.toml");
    let text = std::fs::read_to_string(&hosts).expect("a file");
    assert!(text.starts_with(containerd_hosts::MARKER) && text.contains("[host.\"https://m.example.com\"]"), "{text}");
    let trust = folder.path().join("node-0/etc/docker/certs.d/m.example.com");
    std::fs::create_dir_all(&trust).expect("a folder");
    std::fs::write(trust.join("ca.crt"), "A").expect("a file");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !std::fs::read_to_string(&hosts).expect("a file").contains("/etc/docker/certs.d/m.example.com/ca.crt") {
        assert!(tokio::time::Instant::now() < deadline, "waited 10s until containerd trusts the mirror");
        tokio::task::yield_now().await;
    }

    let tags: Api<ImageTagMirrorSet> = Api::all(client.clone());
    let tag = json!({"imageTagMirrors": [{"source": "t.example.com", "mirrors": ["m.example.com"]}]});
    let watched = nodes.clone();
    let history = tokio::spawn(async move {
        reported_by_all(&watched, &names, "imagedigestmirrorsets/d=1,imagetagmirrorsets/t=1").await
    });
    tags.create(&PostParams::default(), &ImageTagMirrorSet::new("t", object(tag))).await.expect("created");
    let history = history.await.expect("no panic");
    for node in names {
        assert!(history.iter().any(|seen| seen.name_any() == node && is_closed(seen)), "{node} was closed");
        let now = nodes.get(node).await.expect("a node");
        assert!(!is_closed(&now), "{node} is open again");
    }
    let mut closed = std::collections::BTreeSet::new();
    for seen in &history {
        if is_closed(seen) {
            closed.insert(seen.name_any());
        } else {
            closed.remove(&seen.name_any());
        }
        assert!(closed.len() < 2, "both nodes were closed at once");
    }
    assert!(pods.list(&ListParams::default()).await.expect("a list").items.is_empty(), "the pods were evicted");

    stop.cancel();
    for agent in agents {
        agent.await.expect("no panic").expect("a clean end");
    }
    plane.stop().await;
}

fn is_closed(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default()
}

async fn reported_by_all(nodes: &Api<Node>, names: &[&str], sources: &str) -> Vec<Node> {
    nodes_until(nodes, &format!("{names:?} report {sources:?}"), |history| {
        names.iter().all(|name| {
            let last = history.iter().rev().find(|node| node.name_any() == *name);
            last.is_some_and(|node| {
                let is = |key: &str, value: &str| node.annotations().get(key).is_some_and(|found| found == value);
                is(STATE, "Done") && is(SOURCES, sources)
            })
        })
    })
    .await
}
