//! Nodes that run pods as processes: a small, honest kubelet without containers, images or root.
//! It registers nodes, runs what is bound to them, and serves logs, exec and port-forward; everything else is left to Kubernetes.
//!
//! What a container finds is documented at [`Options`]; what differs from a real kubelet:
//! - All pods run as the user of this process and see this machine's files; `readOnly`, `fsGroup`, `securityContext` and
//!   resource limits have no effect. Mount paths in command, args and env are rewritten to where a volume really lies.
//! - A pod's address 10.L.N.P stands for 127.L.N.P, see [`api::address`]; `:PORT` and `0.0.0.0:PORT` of declared container
//!   ports are rewritten to it, in files from ConfigMaps as well. A pod on the host network gets such an address, too.
//! - The restart back-off is 0.5 s doubling to 10 s (a kubelet's: 10 s to 300 s), and begins anew after a run of 20 s.
//! - Readiness and startup are also probed between the periods and during the initial delay, until they first succeed.
//! - A preStop hook may take one second unless [`Options::pre_stop_limit`] says otherwise: there is no load balancer that
//!   would have to hear of the end first.
//! - `kubectl exec` needs kube-apiserver 1.36 or later, which passes WebSockets through; attach is not served, and
//!   port-forward only to clients that speak v4.channel.k8s.io.

mod address_pool;
mod atomic_folder;
mod cluster_access;
mod container;
mod container_log;
mod container_run;
mod downward;
mod environment;
mod error;
mod exec;
pub mod image_map;
mod kubelet_api;
mod kubelet_tls;
mod launch;
mod log_stream;
mod machine;
mod node;
mod orphans;
mod own_root;
mod payload;
mod pod_status;
mod pod_table;
mod pod_watch;
mod pod_worker;
mod port_forward;
mod probe;
mod rewrite;
mod source;
mod spawner;
mod volumes;
mod websocket;

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::events::{Recorder, Reporter},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use cluster_access::ApiOverride;
pub use error::Error;
pub use image_map::{ImageEntry, ImageMap, ImageMapError};

use address_pool::AddressPool;
use cluster_access::ClusterAccess;
use node::{NODE_ADDRESS, Node, Shared};

/// The folder beside those of the nodes that they share.
const VOLUMES: &str = "volumes";

/// Nodes to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Kubeconfig with administrator rights
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,

    /// The nodes' own folder: DIR/NODE/root is the root of a node, DIR/volumes is shared by all of them, as
    /// /var/registry-conformance/volumes
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,

    /// How many nodes; they are called node-0, node-1 and so on
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub count: u8,

    /// The pod network L: pods have addresses 10.L.N.P and listen on 127.L.N.P
    #[arg(long, value_name = "L")]
    pub network: u8,

    /// Image map: a YAML list of image, command, env, keepCommand, rewrite, ownRoot
    #[arg(long, value_name = "FILE")]
    pub images: PathBuf,

    /// Proxy that pods use for everything but this machine, unless they set their own
    #[arg(long, value_name = "URL")]
    pub doorway: Option<String>,

    /// CA bundle given to pods as SSL_CERT_FILE
    #[arg(long, value_name = "FILE")]
    pub trust_bundle: Option<PathBuf>,

    /// The API server as pods shall reach it; the kubeconfig's server if absent
    #[arg(long, value_name = "HOST:PORT")]
    pub pod_api_server: Option<String>,

    /// Other API addresses for single service accounts: a YAML list of serviceAccount (NAMESPACE/NAME) and server; read at
    /// each container start
    #[arg(long, value_name = "FILE")]
    pub api_override: Option<PathBuf>,

    /// How many seconds a preStop hook may take at most
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    pub pre_stop_limit: u64,

    /// CA whose client certificates may use the kubelet API
    #[arg(long, value_name = "FILE")]
    pub kubelet_client_ca: PathBuf,

    /// Serving certificate of the kubelet API; self-signed if absent
    #[arg(long, value_name = "FILE", requires = "kubelet_serving_key")]
    pub kubelet_serving_cert: Option<PathBuf>,

    /// Key of the serving certificate
    #[arg(long, value_name = "FILE", requires = "kubelet_serving_cert")]
    pub kubelet_serving_key: Option<PathBuf>,
}

/// Runs nodes until `stop`; prints `nodes ready` on stdout once all of them are Ready.
///
/// Processes left by an earlier run on the same folder are killed first. When `stop` is cancelled processes get SIGTERM and,
/// after 0.3 s, SIGKILL; pods stay in the API and are run again by the next start.
///
/// # Errors
/// Unusable options, no rights to register nodes, or a folder or port that cannot be used. Trouble with single pods and
/// an API server that is away are no errors.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    let shared = share(&options).await?;
    let leftovers = orphans::kill_below(&shared.folder);
    if leftovers > 0 {
        tracing::info!(count = leftovers, "killed processes left by an earlier run");
    }
    let mut tasks = JoinSet::new();
    let sources = shared.sources.clone();
    let until = stop.clone();
    tasks.spawn(async move { sources.watch(&until).await });

    let tls = kubelet_tls::server_config(&options)?;
    let mut nodes = Vec::new();
    for index in 0..options.count {
        let name = format!("node-{index}");
        let serve_error = |error: std::io::Error| Error::Serve { node: name.clone(), reason: error.to_string() };
        let listener = TcpListener::bind((NODE_ADDRESS, 0)).map_err(serve_error)?;
        let node = Arc::new(Node {
            index,
            kubelet_port: listener.local_addr().map_err(serve_error)?.port(),
            addresses: AddressPool::new(options.network, index + 1),
            pods: pod_table::PodTable::default(),
            shared: shared.clone(),
            name: name.clone(),
        });
        create(&node.root().join("etc"))?;
        create(&node.folder().join("pods"))?;
        share_volumes(&node)?;
        tasks.spawn(kubelet_api::serve(node.clone(), listener, tls.clone(), stop.clone()));
        nodes.push(node);
    }
    futures::future::try_join_all(nodes.iter().map(|node| node.register(&stop))).await?;
    for node in &nodes {
        tasks.spawn(pod_watch::run(node.clone(), stop.clone()));
        let (node, until) = (node.clone(), stop.clone());
        tasks.spawn(async move { node.beat(&until).await });
    }
    if !stop.is_cancelled() {
        println!("nodes ready");
    }
    stop.cancelled().await;
    while tasks.join_next().await.is_some() {}
    orphans::kill_below(&shared.folder);
    tracing::debug!("all processes of pods have ended");
    Ok(())
}

async fn share(options: &Options) -> Result<Shared, Error> {
    if options.network == 0 || options.network == 255 {
        return Err(option("--network", options.network.to_string(), "choose 1 to 254"));
    }
    if options.count == 0 || options.count > 250 {
        return Err(option("--count", options.count.to_string(), "choose 1 to 250"));
    }
    let images = ImageMap::read(&options.images)?;
    create(&options.dir.join(VOLUMES))?;
    let folder = options.dir.canonicalize().map_err(|source| Error::File {
        action: "resolving",
        path: options.dir.clone(),
        source,
    })?;
    let config = config(options).await?;
    let server = match &options.pod_api_server {
        Some(server) => server.clone(),
        None => {
            let host = config.cluster_url.host().unwrap_or(NODE_ADDRESS);
            format!("{host}:{}", config.cluster_url.port_u16().unwrap_or(443))
        }
    };
    let client = Client::try_from(config).map_err(|source| kubeconfig_error(options, source))?;
    let reporter = Reporter { controller: "local-node".into(), instance: Some("nodes".into()) };
    Ok(Shared {
        folder,
        images_file: options.images.clone(),
        images: Arc::new(Mutex::new(Arc::new(images))),
        spawner: spawner::Spawner::start().map_err(|source| Error::Spawner { source })?,
        sources: source::Sources::new(client.clone()),
        access: ClusterAccess { server, overrides: options.api_override.clone() },
        doorway: options.doorway.clone(),
        trust_bundle: options.trust_bundle.clone(),
        pre_stop_limit: Duration::from_secs(options.pre_stop_limit),
        recorder: Recorder::new(client.clone(), reporter),
        probe_client: probe::http_client().map_err(|source| Error::ProbeClient { source })?,
        client,
    })
}

async fn config(options: &Options) -> Result<Config, Error> {
    let kubeconfig = Kubeconfig::read_from(&options.kubeconfig).map_err(|source| kubeconfig_error(options, source))?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|source| kubeconfig_error(options, source))?;
    // Every caller here tries again by itself, at its own pace; a proxy for pods is none for nodes.
    config.default_retry = false;
    config.proxy_url = None;
    Ok(config)
}

fn kubeconfig_error(options: &Options, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Kubeconfig { path: options.kubeconfig.clone(), source: Box::new(source) }
}

fn option(what: &'static str, value: String, hint: &'static str) -> Error {
    Error::Option { what, value, hint }
}

/// Leads from the node's root to the folder of volumes, by a path that holds wherever the nodes' folder is seen.
fn share_volumes(node: &Node) -> Result<(), Error> {
    let inside = Path::new(api::volumes::ON_NODES).strip_prefix("/").unwrap_or(Path::new(api::volumes::ON_NODES));
    let place = node.root().join(inside);
    if place.exists() {
        return Ok(());
    }
    let parent = place.parent().unwrap_or(&place);
    create(parent)?;
    // Out of the folders on the way, of the root and of the node's own folder.
    let up: PathBuf = std::iter::repeat_n("..", inside.components().count() - 1 + 2).collect();
    std::os::unix::fs::symlink(up.join(VOLUMES), &place).map_err(|source| Error::File {
        action: "linking",
        path: place.clone(),
        source,
    })
}

fn create(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(|source| Error::File { action: "creating", path: path.to_owned(), source })
}
