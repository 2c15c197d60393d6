//! A control plane with the operator running against it as a task, and just enough of a kubelet and a service CA to
//! let Deployments become ready. Waiting is by watch with a deadline and says what was seen last.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use api::config::{Infrastructure, InfrastructureSpec, InfrastructureStatus, PlatformStatus};
use api::imageregistry::Config;
use api::names;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use local_cluster::{ControlPlane, ControlPlaneOptions, PodNetwork, tool};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(30);

/// A running control plane, with tasks that play the kubelet and the service CA.
pub struct Lane {
    pub client: Client,
    /// Of the operator's own ServiceAccount, with the rights its manifest gives it.
    kubeconfig: PathBuf,
    plane: ControlPlane,
    players: CancellationToken,
    _folder: tempfile::TempDir,
}

/// A running operator.
pub struct Operator {
    stop: CancellationToken,
    task: JoinHandle<Result<(), reference_operator::Error>>,
}

impl Operator {
    /// Stops it as SIGTERM would.
    pub async fn stop(self) -> Duration {
        let begun = std::time::Instant::now();
        self.stop.cancel();
        self.task.await.expect("no panic").expect("a clean end");
        begun.elapsed()
    }

    /// Ends it as kill -9 would.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

impl Lane {
    /// Starts everything but the operator.
    pub async fn start(platform: PlatformStatus) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let folder = tempfile::tempdir().expect("a folder");
        let tools = tool::locate(|line| eprintln!("{line}")).await.expect("the control plane's programs");
        let network = PodNetwork::lease().expect("a free pod network");
        let options = ControlPlaneOptions::new(folder.path().join("plane"), tools, network);
        let plane = ControlPlane::start(options).await.expect("a control plane");
        let read = Kubeconfig::read_from(plane.kubeconfig()).expect("a kubeconfig");
        let config =
            kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.expect("a configuration");
        let client = Client::try_from(config).expect("a client");
        let kubeconfig = folder.path().join("operator.kubeconfig");
        let lane = Self { client, kubeconfig, plane, players: CancellationToken::new(), _folder: folder };
        lane.furnish(platform).await;
        lane.install().await;
        lane.spawn_players();
        lane
    }

    /// Ends everything.
    pub async fn stop(self) {
        self.players.cancel();
        self.plane.stop().await;
    }

    /// Starts an operator.
    pub fn operator(&self) -> Operator {
        self.operator_with("https://storage.googleapis.com")
    }

    /// An operator that finds Google Cloud Storage at this URL.
    pub fn operator_with(&self, gcs_endpoint: &str) -> Operator {
        let stop = CancellationToken::new();
        let options = reference_operator::Options {
            kubeconfig: Some(self.kubeconfig.clone()),
            image: "registry-conformance.local/registry".into(),
            image_pruner: "registry-conformance.local/cli".into(),
            image_node_ca: Some("registry-conformance.local/node-ca".into()),
            release_version: "4.6.0".into(),
            operator_name: "cluster-image-registry-operator".into(),
            watch_namespace: None,
            pod_namespace: names::REGISTRY_NAMESPACE.into(),
            gcs_endpoint: gcs_endpoint.into(),
            metrics_address: None,
        };
        Operator { task: tokio::spawn(reference_operator::run(options, stop.clone())), stop }
    }

    async fn furnish(&self, platform: PlatformStatus) {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        for definition in api::crds::all() {
            definitions.create(&PostParams::default(), &definition).await.expect("a definition");
        }
        for definition in api::crds::all() {
            self.until(&definitions, &definition.name_any(), |found: Option<&CustomResourceDefinition>| {
                let conditions = found.and_then(|found| found.status.as_ref()).and_then(|s| s.conditions.as_ref());
                conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Established" && c.status == "True"))
            })
            .await;
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        for name in [names::REGISTRY_NAMESPACE, names::CONFIG_NAMESPACE, names::MONITORING_NAMESPACE] {
            let value = json!({ "metadata": { "name": name,
                "annotations": { names::SUPPLEMENTAL_GROUPS_ANNOTATION: "1000290000/10000" } } });
            namespaces.create(&PostParams::default(), &typed(value)).await.expect("a namespace");
        }
        let infrastructures: Api<Infrastructure> = Api::all(self.client.clone());
        let mut infrastructure = Infrastructure::new(names::CLUSTER, InfrastructureSpec::default());
        let made = infrastructures.create(&PostParams::default(), &infrastructure).await.expect("an Infrastructure");
        infrastructure.metadata = made.metadata;
        infrastructure.status = Some(InfrastructureStatus {
            infrastructure_name: "lane".into(),
            platform_status: Some(platform),
            ..InfrastructureStatus::default()
        });
        infrastructures
            .replace_status(names::CLUSTER, &PostParams::default(), &infrastructure)
            .await
            .expect("the status of the Infrastructure");
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), names::CONFIG_NAMESPACE);
        let pull = json!({ "metadata": { "name": names::PULL_SECRET }, "type": "kubernetes.io/dockerconfigjson",
            "stringData": { ".dockerconfigjson": "{\"auths\":{}}" } });
        secrets.create(&PostParams::default(), &typed(pull)).await.expect("the pull secret");
        let nodes: Api<Node> = Api::all(self.client.clone());
        let labels = json!({ "kubernetes.io/os": "linux", "kubernetes.io/hostname": "node-0" });
        let node = typed(json!({ "metadata": { "name": "node-0", "labels": labels } }));
        nodes.create(&PostParams::default(), &node).await.expect("a node");
        let resources = json!({ "cpu": "8", "memory": "16Gi", "pods": "110" });
        let status = json!({ "status": { "capacity": resources, "allocatable": resources, "conditions": [
            { "type": "Ready", "status": "True", "reason": "Test", "message": "", "lastHeartbeatTime": null, "lastTransitionTime": null },
        ] } });
        nodes.patch_status("node-0", &PatchParams::default(), &Patch::Merge(status)).await.expect("a ready node");
        let taints = json!({ "spec": { "taints": null } });
        nodes.patch("node-0", &PatchParams::default(), &Patch::Merge(taints)).await.expect("an untainted node");
    }

    /// Applies the operator's manifest but for its Deployment, and makes a kubeconfig of its ServiceAccount.
    async fn install(&self) {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/reference/operator.yaml");
        let text = std::fs::read_to_string(manifest).expect("the operator's manifest");
        for document in serde_yaml::Deserializer::from_str(&text) {
            let object = DynamicObject::deserialize(document).expect("an object");
            let types = object.types.clone().expect("apiVersion and kind");
            let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
            let api: Api<DynamicObject> = match &object.metadata.namespace {
                _ if types.kind == "Deployment" => continue,
                Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
                None => Api::all_with(self.client.clone(), &resource),
            };
            let how = PatchParams::apply("test").force();
            api.patch(&object.name_any(), &how, &Patch::Apply(&object)).await.expect("an applied object");
        }
        let accounts: Api<ServiceAccount> = self.api();
        let wanted = typed(json!({ "metadata": {}, "spec": { "audiences": [], "expirationSeconds": 3600 } }));
        let token = accounts
            .create_token_request(names::OPERATOR_DEPLOYMENT, &PostParams::default(), &wanted)
            .await
            .expect("a token");
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "o",
            "clusters": [{ "name": "o", "cluster": { "server": self.plane.api_url(), "certificate-authority": self.plane.cluster_ca() } }],
            "users": [{ "name": "o", "user": { "token": token.status.expect("a token").token } }],
            "contexts": [{ "name": "o", "context": { "cluster": "o", "user": "o" } }],
        });
        std::fs::write(&self.kubeconfig, kubeconfig.to_string()).expect("a kubeconfig file");
    }

    fn spawn_players(&self) {
        tokio::spawn(play_kubelet(self.api::<Pod>(), self.players.clone()));
        tokio::spawn(play_service_ca(self.client.clone(), self.players.clone()));
    }

    /// An API in the registry's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), names::REGISTRY_NAMESPACE)
    }

    /// The API of Configs.
    pub fn configs(&self) -> Api<Config> {
        Api::all(self.client.clone())
    }

    /// Merges `spec` into the Config, as `oc patch --type merge` does.
    pub async fn patch(&self, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.configs().patch(names::CLUSTER, &PatchParams::default(), &patch).await.expect("a patched Config");
    }

    /// Waits until the named object (or its absence) satisfies `condition`, and returns it.
    pub async fn until<K>(&self, api: &Api<K>, name: &str, condition: impl Fn(Option<&K>) -> bool) -> Option<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = watcher(api.clone(), config).default_backoff().boxed();
        let mut seen: Option<K> = None;
        let mut listed = false;
        let met = async {
            loop {
                if listed && condition(seen.as_ref()) {
                    return;
                }
                match events.next().await.expect("an endless watch") {
                    Ok(watcher::Event::Apply(found) | watcher::Event::InitApply(found)) => seen = Some(found),
                    Ok(watcher::Event::Delete(_)) => seen = None,
                    Ok(watcher::Event::Init) => (seen, listed) = (None, false),
                    Ok(watcher::Event::InitDone) => listed = true,
                    Err(error) => eprintln!("watching {name}: {error}"),
                }
            }
        };
        let in_time = tokio::time::timeout(DEADLINE, met).await.is_ok();
        assert!(
            in_time,
            "{} {name} did not become as expected within {DEADLINE:?}; last seen: {seen:#?}",
            K::kind(&())
        );
        seen
    }

    /// Waits until these conditions, `Type Status Reason`, hold on the Config at once.
    pub async fn until_says(&self, wanted: &[&str]) -> Config {
        let found = self
            .until(&self.configs(), names::CLUSTER, |config: Option<&Config>| {
                let Some(config) = config else { return false };
                let said = said(config);
                wanted.iter().all(|wanted| said.iter().any(|said| said == wanted))
            })
            .await;
        found.expect("it was there")
    }
}

/// Conditions of a Config as `Type Status Reason`.
pub fn said(config: &Config) -> Vec<String> {
    let conditions = config.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions.iter().map(|c| format!("{} {} {}", c.type_, c.status, c.reason)).collect()
}

/// The message of a condition.
pub fn message(config: &Config, type_: &str) -> String {
    let conditions = config.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions.iter().find(|c| c.type_ == type_).map(|c| c.message.clone()).unwrap_or_default()
}

/// A typed object from JSON.
pub fn typed<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object of this type")
}

/// A platform of this type.
pub fn platform(type_: &str) -> PlatformStatus {
    PlatformStatus { type_: type_.into(), ..PlatformStatus::default() }
}

async fn play_kubelet(pods: Api<Pod>, stop: CancellationToken) {
    let mut events = watcher(pods.clone(), watcher::Config::default()).default_backoff().applied_objects().boxed();
    loop {
        let pod = tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => match event { Some(Ok(pod)) => pod, Some(Err(_)) => continue, None => return },
        };
        let name = pod.name_any();
        if pod.metadata.deletion_timestamp.is_some() {
            let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            let _ = pods.delete(&name, &now).await;
        } else if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
            && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending")
        {
            let ready =
                json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } });
            let _ = pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(ready)).await;
        }
    }
}

async fn play_service_ca(client: Client, stop: CancellationToken) {
    let services: Api<Service> = Api::namespaced(client.clone(), names::REGISTRY_NAMESPACE);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), names::REGISTRY_NAMESPACE);
    let secrets: Api<Secret> = Api::namespaced(client, names::REGISTRY_NAMESPACE);
    let any = watcher::Config::default;
    let mut made = watcher(services, any()).default_backoff().applied_objects().boxed();
    let mut wanted = watcher(maps.clone(), any()).default_backoff().applied_objects().boxed();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(Ok(service)) = made.next() => {
                if let Some(name) = service.annotations().get(names::SERVING_CERT_ANNOTATION_ALPHA) {
                    let secret = json!({ "metadata": { "name": name }, "stringData": { "tls.crt": "c", "tls.key": "k" } });
                    let _ = secrets.create(&PostParams::default(), &typed(secret)).await;
                }
            }
            Some(Ok(map)) = wanted.next() => {
                let empty = map.data.as_ref().is_none_or(|data| data.is_empty());
                if empty && map.annotations().contains_key(names::INJECT_CA_BUNDLE_ANNOTATION) {
                    let data = json!({ "data": { names::SERVICE_CA_KEY: "bundle" } });
                    let _ = maps.patch(&map.name_any(), &PatchParams::default(), &Patch::Merge(data)).await;
                }
            }
        }
    }
}

/// How many objects of a kind carry the registry's label.
pub async fn count<K>(api: &Api<K>) -> usize
where
    K: Clone + Debug + DeserializeOwned,
{
    let labelled = ListParams::default().labels(&format!("{}={}", names::REGISTRY_LABEL, names::REGISTRY_LABEL_VALUE));
    api.list(&labelled).await.expect("a list").items.len()
}
