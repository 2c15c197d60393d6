//! A cluster made by kind for one lane, or a running one that is only used: its nodes, people, images and files.
//! What runs in it is up to others.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use api::{names, volumes::ON_NODES};
use container_image::{Archive, OWN_REGISTRY};
use futures::{FutureExt as _, future::BoxFuture};
use harness::{
    environment::{NodeFiles, User},
    evidence::Evidence,
    failure::{Failure, Tried as _},
};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use local_cluster::{kubeconfig::Credential, secret_file, user};
use serde_json::json;

use super::{engine::Engine, kind_config, kind_words, kubeconfig, make_folder, people, running_kind::RunningKind};

/// The label by which kind finds the containers of a cluster again (kind source, pkg/cluster/internal/providers/docker).
pub(super) const KIND_LABEL: &str = "io.x-k8s.kind.cluster";
/// How many plain users a cluster has.
const PLAIN_USERS: usize = 32;
/// How long kind waits for the nodes to be ready.
const NODES_READY: &str = "120s";

/// What a cluster is made from.
pub(super) struct KindOptions<'a> {
    pub engine: &'a Engine,
    /// The kind program.
    pub kind: &'a Path,
    /// The text of a file of `kind-config/`.
    pub config: &'a str,
    /// The image of all nodes; those of the configuration when absent, else kind's own.
    pub node_image: Option<&'a str>,
    /// The network of the run.
    pub network: &'a str,
    /// A folder of the engine that all nodes share, for volumes.
    pub volumes: &'a Path,
    /// The doorway, for what the nodes themselves fetch.
    pub proxy: SocketAddr,
    /// The images of our components.
    pub own_images: &'a Archive,
    /// A folder of the cluster's own.
    pub folder: &'a Path,
}

/// What a running cluster is furnished with.
pub(super) struct EnterOptions<'a> {
    pub engine: &'a Engine,
    /// The kind program.
    pub kind: &'a Path,
    /// The images of our components.
    pub own_images: &'a Archive,
    /// A folder of the lane's own.
    pub folder: &'a Path,
    /// What is told which words are secrets.
    pub evidence: &'a Evidence,
}

/// A cluster that is up.
pub(super) struct KindCluster {
    pub name: String,
    pub client: Client,
    /// What `client` is made from, as an administrator with a token.
    pub config: Config,
    /// An administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// PEM file of the API server's authority.
    pub authority: PathBuf,
    /// The API server as this machine reaches it, and as pods do.
    pub api_server: SocketAddr,
    pub api_server_inside: String,
    /// The administrator first.
    pub people: Vec<User>,
    pub nodes: Vec<String>,
    /// Whether all nodes have the folder [`ON_NODES`] in common.
    pub shares_volumes: bool,
    engine: Engine,
}

impl KindCluster {
    /// Makes a cluster, gives its nodes our images and labels, and returns when it can be used.
    ///
    /// # Errors
    /// When kind fails, as it does when a cluster of that name exists; with what it said last.
    pub(super) async fn make(options: KindOptions<'_>) -> Result<Self, Failure> {
        let name = kind_config::name_of(options.config)?;
        let people = user::pool(PLAIN_USERS).tried("making tokens")?;
        let secrets = options.folder.join("secrets");
        make_folder(&secrets)?;
        let tokens = secrets.join("tokens.csv");
        secret_file::write(&tokens, user::token_file(&people).as_bytes()).tried("writing the tokens")?;
        let config = options.folder.join("kind.yaml");
        let text = kind_config::rendered(options.config, options.node_image, &tokens, options.volumes)?;
        std::fs::write(&config, text).tried(format!("writing {}", config.display()))?;
        let made = options.folder.join("kind.kubeconfig");

        let (tried, log) = (format!("making the kind cluster {name}"), log(options.folder));
        let mut command = options.engine.command(options.kind);
        command
            .args(["create", "cluster", "--wait", NODES_READY, "--name", &name])
            .arg("--config")
            .arg(&config)
            .arg("--kubeconfig")
            .arg(&made)
            .env("KIND_EXPERIMENTAL_PROVIDER", "docker")
            .env("KIND_EXPERIMENTAL_DOCKER_NETWORK", options.network)
            .env("HTTPS_PROXY", format!("http://{}", options.proxy))
            .env("HTTP_PROXY", "")
            .env("NO_PROXY", "127.0.0.1,localhost");
        kind_words::output(&mut command, &tried, &log).await?;

        let made = Kubeconfig::read_from(&made).tried(format!("using the kubeconfig of the kind cluster {name}"))?;
        let people = people.into_iter().map(|person| User { name: person.name, token: person.token }).collect();
        let cluster = Self::opened(name, options.engine, made, options.folder, people).await?;
        cluster.furnish(options.kind, options.own_images, &log).await?;
        Ok(cluster)
    }

    /// Makes what a run needs in a cluster that somebody else has made, and returns when it can be used.
    ///
    /// # Errors
    /// When the cluster refuses something.
    pub(super) async fn enter(running: &RunningKind, options: EnterOptions<'_>) -> Result<Self, Failure> {
        let EnterOptions { engine, kind, own_images, folder, evidence } = options;
        let people = people::make(&running.client, &people::namespace(), None, evidence).await?;
        let made = running.kubeconfig.clone();
        let mut cluster = Self::opened(running.name.clone(), engine, made, folder, people).await?;
        // Only a single node shares a folder with all nodes.
        if let [node] = &cluster.nodes[..] {
            engine.run(["exec", node, "mkdir", "-p", ON_NODES]).await?;
        }
        cluster.shares_volumes = cluster.nodes.len() == 1;
        cluster.furnish(kind, own_images, &log(folder)).await?;
        Ok(cluster)
    }

    async fn furnish(&self, kind: &Path, own_images: &Archive, log: &Path) -> Result<(), Failure> {
        tokio::try_join!(self.prepare_nodes(), self.load(kind, own_images, log)).map(drop)
    }

    async fn opened(
        name: String,
        engine: &Engine,
        made: Kubeconfig,
        folder: &Path,
        people: Vec<User>,
    ) -> Result<Self, Failure> {
        let tried = format!("using the kubeconfig of the kind cluster {name}");
        let inner = made.clusters.first().and_then(|named| named.cluster.clone()).unwrap_or_default();
        let server = inner.server.unwrap_or_default();
        let api_server = server.trim_start_matches("https://").trim_end_matches('/').parse().tried(&tried)?;
        let data = inner.certificate_authority_data.unwrap_or_default();
        let data: k8s_openapi::ByteString = serde_json::from_value(data.into()).tried(&tried)?;
        let authority = folder.join("cluster-ca.crt");
        std::fs::write(&authority, data.0).tried(&tried)?;
        let administrator = people.first().ok_or_else(|| Failure::error(&tried, "it has no administrator"))?;
        let kubeconfig = folder.join("admin.kubeconfig");
        let credential = Credential::Token(&administrator.token);
        local_cluster::kubeconfig::write(&kubeconfig, &server, &authority, &administrator.name, credential)
            .tried(&tried)?;
        let read = Kubeconfig::read_from(&kubeconfig).tried(&tried)?;
        let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.tried(&tried)?;
        kubeconfig::of_the_suite(&mut config);
        // The API server is not behind a proxy of this machine.
        config.proxy_url = None;
        let client = Client::try_from(config.clone()).tried(&tried)?;
        let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.tried("listing nodes")?;
        let services: Api<Service> = Api::namespaced(client.clone(), "default");
        let service = services.get("kubernetes").await.tried("reading the Service of the API server")?;
        let inside = service.spec.and_then(|spec| spec.cluster_ip).unwrap_or_default();
        Ok(Self {
            name,
            client,
            config,
            kubeconfig,
            authority,
            api_server,
            api_server_inside: format!("https://{inside}"),
            people,
            nodes: nodes.iter().map(|node| node.name_any()).collect(),
            shares_volumes: true,
            engine: engine.clone(),
        })
    }

    /// Lets every node run pods, with the roles that the nodes of an OpenShift cluster have.
    async fn prepare_nodes(&self) -> Result<(), Failure> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        for (index, name) in self.nodes.iter().enumerate() {
            let mut labels = json!({"node-role.kubernetes.io/worker": ""});
            if index == 0 {
                labels["node-role.kubernetes.io/master"] = "".into();
            }
            let patch = json!({"metadata": {"labels": labels}, "spec": {"taints": null}});
            let tried = format!("giving the node {name} its roles");
            nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.tried(tried)?;
        }
        Ok(())
    }

    async fn load(&self, kind: &Path, archive: &Archive, log: &Path) -> Result<(), Failure> {
        let tried = format!("loading the images of {OWN_REGISTRY} into the cluster {}", self.name);
        let mut command = self.engine.command(kind);
        command.args(["load", "image-archive", "--name", &self.name]).arg(&archive.path);
        kind_words::output(command.env("KIND_EXPERIMENTAL_PROVIDER", "docker"), &tried, log).await.map(drop)
    }

    /// The label of the containers of its nodes.
    pub(super) fn label(&self) -> String {
        format!("{KIND_LABEL}={}", self.name)
    }

    /// Puts a file of this machine onto every node.
    ///
    /// # Errors
    /// When a node does not take it.
    pub(super) async fn put(&self, file: &Path, path: &str) -> Result<(), Failure> {
        let folder = Path::new(path).parent().unwrap_or(Path::new("/")).display().to_string();
        for node in &self.nodes {
            self.engine.run(["exec", node, "mkdir", "-p", &folder]).await?;
            self.engine.run(["cp", "--quiet", &file.display().to_string(), &format!("{node}:{path}")]).await?;
        }
        Ok(())
    }

    /// The files of its nodes.
    pub(super) fn node_files(&self) -> NodeContainers {
        NodeContainers { engine: self.engine.clone(), nodes: self.nodes.clone() }
    }
}

/// What kind said when it failed, in the folder of a cluster.
fn log(folder: &Path) -> PathBuf {
    folder.join("cluster/logs/kind.log")
}

/// A cluster of the name in a configuration that is there belongs to somebody: what our own earlier runs left is gone by
/// now.
///
/// # Errors
/// When there is one. It is left alone.
pub(super) async fn refuse_foreign(engine: &Engine, config: &str) -> Result<(), Failure> {
    let name = kind_config::name_of(config)?;
    let containers = engine.containers(&[&format!("label={KIND_LABEL}={name}")]).await?;
    if containers.is_empty() {
        return Ok(());
    }
    let seen = format!("somebody else has a cluster of that name ({}); it is left alone", containers.join(", "));
    Err(Failure::error(format!("making the kind cluster {name}"), seen).next(format!(
        "use it with --cluster {name}, or remove it with `kind delete cluster --name {name}`, or give another name in kind-config/"
    )))
}

/// Files of nodes that are containers.
pub(super) struct NodeContainers {
    engine: Engine,
    nodes: Vec<String>,
}

impl NodeFiles for NodeContainers {
    fn nodes(&self) -> Vec<String> {
        self.nodes.clone()
    }

    fn read<'a>(&'a self, node: &'a str, path: &'a str) -> BoxFuture<'a, std::io::Result<Option<String>>> {
        async move {
            match self.engine.run(["exec", node, "cat", path]).await {
                Ok(text) => Ok(Some(text)),
                Err(failure) if failure.seen.as_deref().unwrap_or_default().contains("No such file") => Ok(None),
                Err(failure) => Err(std::io::Error::other(failure.text())),
            }
        }
        .boxed()
    }
}

/// The variables' value for what pods reach without the doorway: this machine's gateway and everything of the cluster.
pub(super) fn direct(gateway: std::net::IpAddr) -> String {
    let host = names::REGISTRY_INTERNAL_HOST.split(':').next().unwrap_or_default();
    format!("127.0.0.1,localhost,{gateway},{host},.svc,.cluster.local,10.0.0.0/8")
}

/// How long a lane on kind may take to open, from nothing to a system that can be judged.
pub(super) const OPENED: Duration = Duration::from_secs(300);
/// How long it may take to be removed.
pub(super) const CLOSED: Duration = Duration::from_secs(30);
