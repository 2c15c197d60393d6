//! A control plane and nodes for the tests: the nodes run in a process of their own, made from this test program.

use std::{
    fmt::Debug,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use clap::Parser;
use k8s_openapi::{NamespaceResourceScope, api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api, Client, Config,
    api::{AttachParams, DeleteParams, ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::{Condition, await_condition, conditions},
};
use local_cluster::{ControlPlane, ControlPlaneOptions, PodNetwork};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(30);
const NAMESPACE: &str = "default";

pub struct Cluster {
    folder: tempfile::TempDir,
    control_plane: Option<ControlPlane>,
    client: Client,
    nodes: Option<Child>,
}

#[derive(Parser)]
struct Nodes {
    #[command(flatten)]
    options: local_node::Options,
}

/// Runs nodes in this process until SIGTERM; the arguments are separated by newlines.
pub fn run_nodes(arguments: &str) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    let options = Nodes::parse_from(std::iter::once("nodes").chain(arguments.lines())).options;
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let on_signal = stop.clone();
        tokio::spawn(async move {
            let mut terminate =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signal");
            terminate.recv().await;
            on_signal.cancel();
        });
        local_node::run(options, stop).await.expect("nodes");
    });
}

/// A pod with a given specification.
pub fn pod(name: &str, mut spec: Value) -> Value {
    spec.as_object_mut().expect("an object").entry("terminationGracePeriodSeconds").or_insert(json!(1));
    json!({"metadata": {"name": name}, "spec": spec})
}

/// A pod with one container `c` that runs a script.
pub fn shell_pod(name: &str, restart: &str, script: &str) -> Value {
    let container = json!({"name": "c", "image": "test/sh", "args": ["-c", script]});
    pod(name, json!({"restartPolicy": restart, "containers": [container]}))
}

impl Cluster {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let tools = local_cluster::tool::locate(|line| eprintln!("{line}")).await.expect("control plane programs");
        let network = PodNetwork::lease().expect("pod network");
        let options = ControlPlaneOptions::new(folder.path().join("control-plane"), tools, network);
        let control_plane = ControlPlane::start(options).await.expect("control plane");
        let kubeconfig = Kubeconfig::read_from(control_plane.kubeconfig()).expect("kubeconfig");
        let mut config =
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("config");
        // A refused eviction is an answer, not a reason to try again.
        config.default_retry = false;
        let client = Client::try_from(config).expect("client");
        let program = std::env::current_exe().expect("this program");
        let images = json!([
            {"image": "test/sh", "command": ["/bin/sh"], "keepCommand": true},
            {"image": "test/web", "env": {"FROM_IMAGE": "yes"},
             "command": [program, "--exact", "web_server_process", "--ignored", "--nocapture"]},
        ]);
        std::fs::write(folder.path().join("images.yaml"), images.to_string()).expect("image map");
        Self { folder, control_plane: Some(control_plane), client, nodes: None }
    }

    pub async fn start_nodes(&mut self) {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let serving =
            self.control_plane().kubelet_serving(&["node-0".to_owned(), "node-1".to_owned()]).expect("certificate");
        let arguments = [
            ("--kubeconfig", path(self.control_plane().kubeconfig())),
            ("--dir", path(&self.nodes_folder())),
            ("--network", self.network().to_string()),
            ("--images", path(&self.folder.path().join("images.yaml"))),
            ("--doorway", "http://127.0.0.1:1".to_owned()),
            ("--api-override", path(&self.overrides())),
            ("--kubelet-client-ca", path(self.control_plane().kubelet_client_ca())),
            ("--kubelet-serving-cert", path(&serving.certificate)),
            ("--kubelet-serving-key", path(&serving.key)),
        ];
        let arguments: Vec<_> = arguments.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "nodes_process", "--ignored", "--nocapture"])
            .env("NODES_ARGUMENTS", arguments.join("\n"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("nodes");
        let stdout = child.stdout.take().expect("stdout");
        self.nodes = Some(child);
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        // Reads to the end: a full or broken pipe would disturb the nodes.
        std::thread::spawn(move || {
            let mut ready = Some(ready);
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.contains("nodes ready") {
                    ready.take().map(|ready| ready.send(()));
                }
            }
        });
        tokio::time::timeout(DEADLINE, is_ready).await.expect("nodes ready in time").expect("nodes run");
    }

    pub async fn kill_nodes(&mut self) {
        let mut child = self.nodes.take().expect("nodes run");
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    pub async fn stop(mut self) {
        let child = self.nodes.take().expect("nodes run");
        let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("id"));
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).expect("signal");
        let since = Instant::now();
        let mut child = child;
        let status = tokio::task::spawn_blocking(move || child.wait()).await.expect("task").expect("wait");
        println!("nodes stopped after {:?}", since.elapsed());
        assert!(status.success());
        self.wait_for_no_process().await;
        self.control_plane.take().expect("control plane").stop().await;
    }

    /// Waits until no process knows of the nodes' folder in its environment.
    pub async fn wait_for_no_process(&self) {
        let mark = format!("CONTAINER_ROOT={}", self.nodes_folder().display());
        let since = Instant::now();
        loop {
            let left: Vec<_> = std::fs::read_dir("/proc")
                .expect("processes")
                .flatten()
                .filter(|entry| {
                    let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
                    environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(mark.as_bytes()))
                })
                .collect();
            if left.is_empty() {
                return;
            }
            assert!(since.elapsed() < Duration::from_secs(5), "still there: {left:?}");
            tokio::task::yield_now().await;
        }
    }

    fn control_plane(&self) -> &ControlPlane {
        self.control_plane.as_ref().expect("control plane")
    }

    pub fn network(&self) -> u8 {
        self.control_plane().network().number()
    }

    pub fn nodes_folder(&self) -> PathBuf {
        self.folder.path().join("nodes")
    }

    pub fn overrides(&self) -> PathBuf {
        self.folder.path().join("overrides.yaml")
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub fn all<K: kube::Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    pub async fn create<K>(&self, object: Value)
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize,
    {
        println!("creating {} {}", K::kind(&()), object["metadata"]["name"]);
        let object: K = serde_json::from_value(object).expect("a well-formed object");
        self.api().create(&PostParams::default(), &object).await.expect("created");
    }

    pub async fn web_pods(&self) -> Vec<Pod> {
        self.api().list(&ListParams::default().labels("app=web")).await.expect("pods").items
    }

    /// Output and status of a command.
    pub async fn exec(&self, pod: &str, command: &[&str]) -> (String, Status) {
        println!("running {command:?} in {pod}");
        let parameters = AttachParams::default().stderr(false);
        let mut process = self.api::<Pod>().exec(pod, command.iter().copied(), &parameters).await.expect("exec");
        let status = process.take_status().expect("status");
        let mut text = String::new();
        process.stdout().expect("stdout").read_to_string(&mut text).await.expect("output");
        (text, status.await.expect("status of the command"))
    }

    pub async fn wait<K>(&self, name: &str, what: &str, condition: impl Fn(&K) -> bool) -> K
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let condition = |object: Option<&K>| object.is_some_and(&condition);
        match tokio::time::timeout(DEADLINE, await_condition(self.api(), name, condition)).await {
            Ok(object) => object.expect("watch").expect("object"),
            Err(_) => panic!("waited for {name}: {what}; last seen {:#?}", self.api::<K>().get_opt(name).await),
        }
    }

    pub async fn wait_phase(&self, name: &str, phase: &str) -> Pod {
        let has = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase);
        self.wait(name, phase, has).await
    }

    pub async fn wait_ready(&self, name: &str) -> Pod {
        let ready = |pod: &Pod| conditions::is_pod_running().matches_object(Some(pod)) && is_ready(pod);
        self.wait(name, "ready", ready).await
    }

    pub async fn wait_waiting(&self, name: &str, reason: &str) -> Pod {
        let has = |pod: &Pod| {
            let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            let mut waiting = statuses.filter_map(|status| status.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
            waiting.any(|known| known == reason)
        };
        self.wait(name, reason, has).await
    }

    /// Deletes a pod and waits until it is gone.
    pub async fn delete_pod(&self, name: &str, grace: Option<u32>) {
        let parameters = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
        self.api::<Pod>().delete(name, &parameters).await.expect("deleted");
        self.wait_gone::<Pod>(self.api(), name).await;
    }

    pub async fn wait_gone<K>(&self, api: Api<K>, name: &str)
    where
        K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let gone = |object: Option<&K>| object.is_none();
        let wait = await_condition(api.clone(), name, gone);
        if tokio::time::timeout(DEADLINE, wait).await.is_err() {
            panic!("waited for the end of {name}; last seen {:#?}", api.get_opt(name).await);
        }
    }
}

impl Drop for Cluster {
    /// Only when a test fails.
    fn drop(&mut self) {
        if let Some(mut child) = self.nodes.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
