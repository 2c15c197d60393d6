//! A control plane with nodes and platform parts as child processes: what a lane stands on, and what `cluster up` starts.
//! It knows nothing of a system under test or of scenarios.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use harness::{
    environment::NodeFiles,
    failure::{Failure, Tried as _},
    system::System,
};
use kube::{Client, Config, config::Kubeconfig};
use local_cluster::{Child, ChildOptions, ControlPlane, ControlPlaneOptions, Ledger, PodNetwork, ReadyLine, Tools};

use super::{make_folder, manifests};
use crate::{data::Data, executable::own_executable};

/// How long a child of ours may take to end once it was asked to.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// Where the platform's router listens on the lane's own addresses; not 443, which only root may take.
const ROUTER_PORT: u16 = 8443;
/// Where the image API listens.
const IMAGE_API_PORT: u16 = 8444;

/// Nodes of a lane: enough for "on every node" to mean something.
const NODES: usize = 2;

/// A control plane with nodes and platform parts, as `cluster up` starts it too.
pub struct Cluster {
    pub client: Client,
    pub(super) folder: PathBuf,
    /// Started in this order, ended in the other.
    platform: Child,
    nodes: Child,
    pub(super) control_plane: ControlPlane,
    pub(super) ledger: Ledger,
    pub(super) router: SocketAddr,
}

/// What a cluster is started from.
pub struct ClusterOptions<'a> {
    pub folder: &'a Path,
    pub tools: &'a Tools,
    /// Image names and their commands, as the nodes read them.
    pub images: String,
    /// The doorway's URL, when pods are to go through one.
    pub doorway: Option<String>,
    /// The PEM bundle that pods trust.
    pub trust: Option<PathBuf>,
    pub ready_within: Duration,
}

impl Cluster {
    /// Ports on which the platform parts listen.
    pub(super) const PORTS: [u16; 2] = [ROUTER_PORT, IMAGE_API_PORT];

    /// Starts a control plane, and nodes and platform side by side as soon as it serves administrators.
    pub async fn start(options: ClusterOptions<'_>) -> Result<Self, Failure> {
        let folder = options.folder.to_owned();
        make_folder(&folder)?;
        let ledger = Ledger::open().tried("opening the ledger of processes")?;
        ledger.record_folder(&folder).tried("recording the lane's folder")?;
        let network = PodNetwork::lease().tried("leasing a pod network")?;
        let (router, image_api) = (network.listen_address(0, 2), network.listen_address(0, 3));
        let number = network.number();
        let mut control_plane = ControlPlaneOptions::new(folder.join("control-plane"), options.tools.clone(), network);
        control_plane.ledger = Some(ledger.clone());
        control_plane.ready_within = options.ready_within;
        let mut control_plane = ControlPlane::serve(control_plane).await.tried("starting a control plane")?;

        let images = folder.join("images.yaml");
        std::fs::write(&images, &options.images).tried(format!("writing {}", images.display()))?;
        let names: Vec<_> = (0..NODES).map(|index| format!("node-{index}")).collect();
        let serving = control_plane.kubelet_serving(&names).tried("making the nodes' certificate")?;
        let kubeconfig = control_plane.kubeconfig().display().to_string();
        let mut nodes = vec![
            "nodes".to_owned(),
            format!("--kubeconfig={kubeconfig}"),
            format!("--dir={}", folder.join("nodes").display()),
            format!("--count={NODES}"),
            format!("--network={number}"),
            format!("--images={}", images.display()),
            format!("--api-override={}", folder.join("api-override.yaml").display()),
            format!("--kubelet-client-ca={}", control_plane.kubelet_client_ca().display()),
            format!("--kubelet-serving-cert={}", serving.certificate.display()),
            format!("--kubelet-serving-key={}", serving.key.display()),
        ];
        nodes.extend(options.doorway.iter().map(|url| format!("--doorway={url}")));
        nodes.extend(options.trust.iter().map(|path| format!("--trust-bundle={}", path.display())));
        let router = SocketAddr::new(router.into(), ROUTER_PORT);
        let platform = [
            "platform".to_owned(),
            format!("--kubeconfig={kubeconfig}"),
            format!("--router-address={router}"),
            format!("--pki-dir={}", folder.join("pki").display()),
            format!("--image-api-address={image_api}:{IMAGE_API_PORT}"),
            format!("--image-api-front-proxy-ca={}", control_plane.front_proxy_ca().display()),
            format!("--volumes={}", folder.join("nodes/volumes").display()),
        ];
        let logs = folder.join("logs");
        make_folder(&logs)?;
        let start = |name: &str, args: &[String]| {
            let mut child = ChildOptions::new(name, own_executable(), logs.join(format!("{name}.log")));
            child.args = args.iter().map(Into::into).collect();
            child.ready = Some(ReadyLine { text: format!("{name} ready"), within: options.ready_within });
            child.ledger = Some(ledger.clone());
            Child::spawn(child)
        };
        let (ready, platform, nodes) =
            tokio::join!(control_plane.ready(), start("platform", &platform), start("nodes", &nodes));
        ready.tried("starting a control plane")?;
        let platform = platform.tried("starting the platform parts")?;
        let nodes = nodes.tried("starting the nodes")?;
        let client = client_of(control_plane.kubeconfig()).await?;
        Ok(Self { client, folder, platform, nodes, control_plane, ledger, router })
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        self.control_plane.kubeconfig()
    }

    /// Installs a system, whose images the nodes know.
    ///
    /// # Errors
    /// When the API server refuses one of its manifests.
    pub async fn install(&self, data: &Data, system: &System) -> Result<(), Failure> {
        manifests::apply_files(&self.client, data, &system.manifests).await
    }

    /// Where traffic to routes enters.
    pub fn router(&self) -> SocketAddr {
        self.router
    }

    /// Certificates of the authorities that clients outside the cluster need, in PEM.
    pub fn authorities(&self) -> Result<String, Failure> {
        let mut all = String::new();
        for name in ["service-ca.crt", "router-ca.crt"] {
            let path = self.folder.join("pki").join(name);
            all.push_str(&std::fs::read_to_string(&path).tried(format!("reading {}", path.display()))?);
        }
        Ok(all)
    }

    /// The files of its nodes.
    pub(super) fn node_files(&self) -> NodeFolders {
        NodeFolders { folder: self.folder.join("nodes") }
    }

    /// Ends everything in reverse order and removes the folder.
    pub async fn stop(self) -> Result<(), Failure> {
        self.platform.stop(GRACE).await;
        self.nodes.stop(GRACE).await;
        self.control_plane.stop().await;
        let removed = std::fs::remove_dir_all(&self.folder);
        self.ledger.close();
        removed.tried(format!("removing {}", self.folder.display()))
    }
}

/// Node roots as folders.
pub(super) struct NodeFolders {
    folder: PathBuf,
}

impl NodeFiles for NodeFolders {
    fn nodes(&self) -> Vec<String> {
        (0..NODES).map(|index| format!("node-{index}")).collect()
    }

    fn read<'a>(&'a self, node: &'a str, path: &'a str) -> BoxFuture<'a, std::io::Result<Option<String>>> {
        async move {
            let path = self.folder.join(node).join("root").join(path.trim_start_matches('/'));
            match tokio::fs::read_to_string(path).await {
                Ok(text) => Ok(Some(text)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }
}

async fn client_of(kubeconfig: &Path) -> Result<Client, Failure> {
    let tried = || format!("using {}", kubeconfig.display());
    let read = Kubeconfig::read_from(kubeconfig).tried(tried())?;
    let mut config = Config::from_custom_kubeconfig(read, &Default::default()).await.tried(tried())?;
    super::kubeconfig::of_the_suite(&mut config);
    Client::try_from(config).tried(tried())
}
