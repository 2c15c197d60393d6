//! The agent against a real API server: objects come, contradict each other and go, and one node's file follows.

use api::mirror::{
    ImageDigestMirrorSet, ImageDigestMirrorSetSpec, ImageTagMirrorSet, ImageTagMirrorSetSpec, MirrorEntry,
    MirrorSourcePolicy,
};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config, ResourceExt};
use local_cluster::{ControlPlane, ControlPlaneOptions, PodNetwork, Tool};
use reference_node::{agent, registries_conf};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nodes_file_follows_the_objects() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().expect("a folder");
    let tools =
        local_cluster::tool::locate_all(&Tool::CONTROL_PLANE, |line| eprintln!("{line}")).await.expect("programs");
    let network = PodNetwork::lease().expect("a free pod network");
    let options = ControlPlaneOptions::new(folder.path().join("plane"), tools, network);
    let plane = ControlPlane::start(options).await.expect("a control plane that starts");
    let client = client(plane.kubeconfig()).await;
    serve_kinds(&client).await;
    let nodes: Api<Node> = Api::all(client.clone());
    let node = Node {
        metadata: kube::core::ObjectMeta { name: Some("node-0".into()), ..Default::default() },
        ..Default::default()
    };
    nodes.create(&PostParams::default(), &node).await.expect("a node");

    let root = folder.path().join("root");
    let stop = CancellationToken::new();
    let options = agent::Options { node_name: "node-0".into(), root: root.clone() };
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
    tags.delete("t", &DeleteParams::default()).await.expect("deleted");
    reported(&nodes, "Done", "").await;
    assert_eq!(file(), registries_conf::DEFAULT_FILE);

    stop.cancel();
    agent.await.expect("no panic");
    plane.stop().await;
}
