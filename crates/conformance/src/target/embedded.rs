//! The embedded target: a real control plane, nodes that run pods as processes, platform parts and the system itself,
//! all as children of this process, without Docker, root or a cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, LocalBoxFuture},
};
use harness::{
    doorway::{Doorway, Loopback},
    environment::{Environment, NodeFiles, User, Users},
    evidence::Evidence,
    failure::{Failure, Tried as _},
    plan::Capabilities,
    scenario::Scenario,
    system::Image,
    trust::Authority,
    verdict::Verdict,
};
use kube::{Client, Config, config::Kubeconfig};
use local_cluster::{
    Child, ChildOptions, ControlPlane, ControlPlaneOptions, Ledger, PodNetwork, ReadyLine, Tool, Tools,
};
use steps::World;
use storage_backends::{ServerCertificate, StorageBackends, StorageOptions};
use tokio::sync::OnceCell;

use super::startup::{self, Startup};
use super::{
    manifests,
    pod_logs::PodLogs,
    seams::{self, SeamOptions, SeamedBackends, SeamedFiles, Seams, StorageSeam, Texts},
};
use crate::lane::{FaultFile, Lane, LaneOf, Leak, Request, Target};

/// How long a child of ours may take to end once it was asked to.
const GRACE: Duration = Duration::from_secs(2);

/// Where the platform's router listens on the lane's own addresses; not 443, which only root may take.
const ROUTER_PORT: u16 = 8443;
/// Where the image API listens.
const IMAGE_API_PORT: u16 = 8444;

/// Nodes of a lane: enough for "on every node" to mean something.
const NODES: usize = 2;

/// Control planes as child processes of this one.
pub struct Embedded {
    request: Request,
    tools: OnceCell<Tools>,
    /// Answers for the folder of all lanes, whatever becomes of this process.
    ledger: OnceCell<Ledger>,
}

impl Embedded {
    /// A target for one request; nothing is started yet.
    pub fn new(request: Request) -> Self {
        Self { request, tools: OnceCell::new(), ledger: OnceCell::new() }
    }

    fn lanes(&self) -> PathBuf {
        self.request.folder.join("lanes")
    }
}

impl Drop for Embedded {
    /// Removes what lanes that were interrupted while they started have left. What a dying child still writes keeps
    /// the folder for a moment; what is there after that is left to the ledger.
    fn drop(&mut self) {
        let Some(ledger) = self.ledger.get() else { return };
        let until = std::time::Instant::now() + GRACE;
        loop {
            match std::fs::remove_dir_all(self.lanes()) {
                Ok(()) => return ledger.close(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return ledger.close(),
                Err(error) if std::time::Instant::now() > until => {
                    return tracing::warn!(%error, "the folder of the lanes is left to `cluster gc`");
                }
                // Processes that are being killed announce their end to nobody here.
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Target for Embedded {
    type World = World;

    fn capabilities(&self) -> Capabilities {
        let mut present = BTreeSet::from(["two-nodes".to_owned(), "backend-s3".to_owned()]);
        let mut absent = BTreeMap::new();
        for program in ["podman", "skopeo"] {
            match usable(program) {
                Ok(()) => drop(present.insert(program.to_owned())),
                Err(why) => drop(absent.insert(program.to_owned(), why)),
            }
        }
        Capabilities { target: "embedded".to_owned(), present, absent }
    }

    fn prepare<'a>(&'a self, progress: &'a dyn Fn(&str)) -> LocalBoxFuture<'a, Result<(), Failure>> {
        async move {
            let left = local_cluster::ledger::gc().tried("removing what killed runs left")?;
            left.failures.iter().for_each(|failure| progress(failure));
            let ledger = Ledger::open().tried("opening the ledger of processes")?;
            ledger.record_folder(&self.lanes()).tried("recording the folder of the lanes")?;
            self.ledger.set(ledger).tried("remembering the ledger")?;
            let tried = "finding the programs of a control plane and the storage product";
            let tools = local_cluster::tool::locate_all(&Tool::ALL, progress).await.tried(tried)?;
            self.tools.set(tools).tried("remembering the programs")
        }
        .boxed_local()
    }

    fn open(&self, lane: usize, evidence: Evidence) -> LocalBoxFuture<'_, Result<LaneOf<Self>, Failure>> {
        async move {
            let tools =
                self.tools.get().ok_or_else(|| Failure::error("opening a lane", "the target is not prepared"))?;
            let lane = EmbeddedLane::open(&self.request, tools, lane, evidence).await?;
            Ok(Box::new(lane) as LaneOf<Self>)
        }
        .boxed_local()
    }
}

/// Whether a program is there and this user can work with it: podman without root needs more than itself.
fn usable(program: &str) -> Result<(), String> {
    let Some(path) = on_path(program) else { return Err(format!("{program} is not on this machine's PATH")) };
    let question = if program == "podman" { "info" } else { "--version" };
    let tried = format!("`{program} {question}` fails on this machine");
    let asked = std::process::Command::new(path).arg(question).stdin(std::process::Stdio::null()).output();
    let ran = asked.map_err(|error| format!("{tried}: {error}"))?;
    let said = String::from_utf8_lossy(&ran.stderr);
    let why = said.lines().find(|line| line.starts_with("Error")).or_else(|| said.lines().last()).unwrap_or_default();
    if ran.status.success() { Ok(()) } else { Err(format!("{tried}: {why}")) }
}

fn on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// One control plane with everything on it.
struct EmbeddedLane {
    environment: Arc<Environment>,
    cluster: Cluster,
    backends: Arc<StorageBackends>,
    seams: Seams,
    startup: Startup,
}

/// A control plane with nodes and platform parts, as `cluster up` starts it too.
pub struct Cluster {
    pub client: Client,
    folder: PathBuf,
    /// Started in this order, ended in the other.
    platform: Child,
    nodes: Child,
    control_plane: ControlPlane,
    ledger: Ledger,
    router: std::net::SocketAddr,
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
        let control_plane = ControlPlane::serve(control_plane).await.tried("starting a control plane")?;

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
        let router = std::net::SocketAddr::new(router.into(), ROUTER_PORT);
        let platform = [
            "platform".to_owned(),
            format!("--kubeconfig={kubeconfig}"),
            format!("--router-address={router}"),
            format!("--pki-dir={}", folder.join("pki").display()),
            format!("--image-api-address={image_api}:{IMAGE_API_PORT}"),
            format!("--image-api-front-proxy-ca={}", control_plane.front_proxy_ca().display()),
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

    /// Certificates of the authorities that clients outside the cluster need, in PEM.
    pub fn authorities(&self) -> Result<String, Failure> {
        let mut all = String::new();
        for name in ["service-ca.crt", "router-ca.crt"] {
            let path = self.folder.join("pki").join(name);
            all.push_str(&std::fs::read_to_string(&path).tried(format!("reading {}", path.display()))?);
        }
        Ok(all)
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

impl EmbeddedLane {
    async fn open(request: &Request, tools: &Tools, lane: usize, evidence: Evidence) -> Result<Self, Failure> {
        let folder = request.folder.join("lanes").join(lane.to_string());
        make_folder(&folder)?;
        let limits = request.system.limits.clone();
        let authority = Authority::new("registry-conformance test authority").tried("making the test authority")?;
        let trust = folder.join("trust.pem");
        std::fs::write(&trust, authority.pem()).tried(format!("writing {}", trust.display()))?;
        // Bound before the nodes start, because pods are told the doorway's address; opened once there is an API.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.tried("binding the doorway")?;
        let doorway = listener.local_addr().tried("binding the doorway")?;

        let images = images(request, &folder.join("image-files"))?;
        let commands = images.iter().map(|image| (image.image.clone(), image.command.join(" "))).collect();
        let images = serde_json::to_string(&images).tried("writing the image map")?;
        let cluster = Cluster::start(ClusterOptions {
            folder: &folder.join("cluster"),
            tools,
            images,
            doorway: Some(format!("http://{doorway}")),
            trust: Some(trust.clone()),
            ready_within: limits.start,
        })
        .await?;
        let bundle = format!("{}{}", authority.pem(), cluster.authorities()?);
        std::fs::write(&trust, bundle).tried(format!("writing {}", trust.display()))?;
        let client = cluster.client.clone();
        let doorway = Doorway::open(listener, client.clone(), Arc::new(Loopback), Some(cluster.router))
            .await
            .tried("opening the doorway")?;
        doorway.record_in(evidence.clone());
        let startup = Startup::watch(client.clone(), &request.system, &request.binaries, &commands);
        manifests::apply(&client, request).await?;
        started(request, &client, &startup).await?;

        let tools_folder = folder.join("bin");
        make_folder(&tools_folder)?;
        link_cli(request, &tools_folder)?;
        let people = cluster.control_plane.users();
        for person in people {
            evidence.secret(&person.token);
        }
        let people: Vec<_> =
            people.iter().map(|person| User { name: person.name.clone(), token: person.token.clone() }).collect();
        let (administrator, pool) =
            people.split_first().ok_or_else(|| Failure::error("finding users", "the control plane has none"))?;
        let backends = Arc::new(backends(request, tools, &folder, &authority, &cluster.ledger)?);
        let command_kubeconfig = folder.join("command.kubeconfig");
        std::fs::copy(cluster.kubeconfig(), &command_kubeconfig).tried("copying the administrator's kubeconfig")?;
        let (texts, storage_seam) = (Texts::default(), StorageSeam::default());
        let seams = SeamOptions {
            client: client.clone(),
            api_server: api_address(cluster.control_plane.api_url())?,
            cluster_ca: cluster.control_plane.cluster_ca().to_owned(),
            api_serving: cluster
                .control_plane
                .serving("fault-proxy", &["127.0.0.1".to_owned()])
                .tried("making the API proxy's certificate")?,
            overrides: cluster.folder.join("api-override.yaml"),
            command_kubeconfig: command_kubeconfig.clone(),
            registry_serving: seams::serving(
                &authority,
                &[
                    "image-registry.openshift-image-registry.svc",
                    "image-registry.openshift-image-registry.svc.cluster.local",
                ],
            )?,
            storage_serving: seams::serving(&authority, &["127.0.0.1"])?,
            trust: trust.clone(),
            behind: doorway.behind(),
            limit: limits.rollout,
        };
        let seams = Seams::new(seams, &texts, &storage_seam);
        let files = NodeFolders { folder: cluster.folder.join("nodes") };
        let environment = Environment {
            lane,
            client: client.clone(),
            kubeconfig: command_kubeconfig,
            api_server: cluster.control_plane.api_url().to_owned(),
            users: Users::new(administrator.clone(), pool.to_vec()),
            doorway,
            authority,
            trust,
            nodes: Arc::new(SeamedFiles { files, texts: texts.clone() }),
            commands: Arc::new(texts),
            backends: Arc::new(SeamedBackends { backends: backends.clone(), seam: storage_seam }),
            logs: Arc::new(PodLogs::new(client)),
            limits,
            folder: folder.join("scratch"),
            tools: tools_folder,
            evidence,
            router: Some(cluster.router),
        };
        Ok(Self { environment: Arc::new(environment), cluster, backends, seams, startup })
    }
}

impl Lane<World> for EmbeddedLane {
    fn world<'a>(&'a self, _: &'a Scenario) -> LocalBoxFuture<'a, Result<World, Failure>> {
        World::open(self.environment.clone()).boxed_local()
    }

    fn after<'a>(&'a self, world: &'a mut World, _: Verdict) -> LocalBoxFuture<'a, Result<Vec<Leak>, Failure>> {
        async move {
            let leaks = world.close().await;
            Ok(leaks.into_iter().map(|leak| Leak { kind: leak.what, name: leak.why }).collect())
        }
        .boxed_local()
    }

    fn logs<'a>(&'a self, component: &'a str, lines: usize) -> LocalBoxFuture<'a, Vec<String>> {
        self.environment.logs.tail(component, lines).boxed_local()
    }

    fn set_fault<'a>(&'a self, fault: &'a FaultFile) -> LocalBoxFuture<'a, Result<(), Failure>> {
        async move {
            let read = fault_proxy::Fault::read(&fault.file.path, &fault.file.text);
            let read = read.tried(format!("reading the fault {}", fault.entry.id))?;
            self.startup.pause(true);
            self.seams.set(read, &self.environment.doorway).await
        }
        .boxed_local()
    }

    fn clear_faults(&self) -> LocalBoxFuture<'_, Result<(), Failure>> {
        async {
            self.seams.clear(&self.environment.doorway).await?;
            steps::reset(self.environment.clone()).await?;
            self.startup.pause(false);
            Ok(())
        }
        .boxed_local()
    }

    fn broken(&self) -> LocalBoxFuture<'_, Failure> {
        self.startup.broken().boxed_local()
    }

    fn how_to_look(&self) -> Vec<String> {
        vec![
            format!("export KUBECONFIG={}", self.cluster.kubeconfig().display()),
            format!(
                "export HTTPS_PROXY={} SSL_CERT_FILE={}",
                self.environment.doorway.url(),
                self.environment.trust.display()
            ),
            format!("export PATH={}:$PATH", self.environment.tools.display()),
            "oc get pods -n openshift-image-registry".to_owned(),
        ]
    }

    fn close(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), Failure>> {
        async move {
            let Self { environment, cluster, backends, seams, startup } = *self;
            drop((seams, startup));
            backends.close(GRACE).await.tried("ending the storage products")?;
            let folder = environment.folder.clone();
            drop(environment);
            cluster.stop().await?;
            match folder.parent() {
                Some(lane) => std::fs::remove_dir_all(lane).tried(format!("removing {}", lane.display())),
                None => Ok(()),
            }
        }
        .boxed_local()
    }
}

/// Node roots as folders.
struct NodeFolders {
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

/// The lane's storage products, with a certificate of the test authority.
fn backends(
    request: &Request,
    tools: &Tools,
    folder: &Path,
    authority: &Authority,
    ledger: &Ledger,
) -> Result<StorageBackends, Failure> {
    let folder = folder.join("storage");
    make_folder(&folder)?;
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let (certificate, key) = authority.serving_pem(&names).tried("making the storage's certificate")?;
    let paths = [folder.join("server.crt"), folder.join("server.key")];
    for (path, text) in paths.iter().zip([certificate, key]) {
        std::fs::write(path, text).tried(format!("writing {}", path.display()))?;
    }
    let [certificate, key] = paths;
    let certificate = ServerCertificate { certificate, key, authority: authority.pem().to_owned() };
    let files = request.data.files("backends", "yaml").tried("reading the backends")?;
    let mut options = StorageOptions::new(files, tools.clone(), folder, certificate);
    options.ledger = Some(ledger.clone());
    StorageBackends::new(options).tried("reading the backends")
}

/// The image map for the nodes, with the placeholders of the system file filled in and its files laid out.
fn images(request: &Request, folder: &Path) -> Result<Vec<Image>, Failure> {
    let own = own_executable().display().to_string();
    let mut images = request.system.images.clone();
    for image in &mut images {
        for word in &mut image.command {
            *word = word.replace("{self}", &own);
        }
        for (index, (inside, file)) in image.rewrite.iter_mut().enumerate() {
            let tried = || format!("giving the image {} its file {inside}", image.image);
            let text = request.data.bytes(file).tried(tried())?;
            let place = folder.join(image.image.replace('/', "_")).join(index.to_string());
            make_folder(&place)?;
            let real = place.join(file.file_name().unwrap_or_default());
            std::fs::write(&real, text).tried(tried())?;
            // In a root of its own the program finds the file under its documented path.
            if !image.own_root {
                let real = real.display().to_string();
                for word in image.command.iter_mut().chain(image.env.values_mut()) {
                    *word = word.replace(inside.as_str(), &real);
                }
            }
            *file = real;
        }
    }
    Ok(images)
}

/// Waits until the components that report do so for the first time, unless one turns out to be unable to run.
async fn started(request: &Request, client: &Client, startup: &Startup) -> Result<(), Failure> {
    let within = request.system.limits.ready;
    for component in &request.system.components {
        let (Some(object), Some(_)) = (&component.reports_on, request.binaries.of(component)) else { continue };
        tokio::select! {
            biased;
            failure = startup.broken() => return Err(failure),
            reported = tokio::time::timeout(within, startup::reported(client, object)) => match reported {
                Ok(reported) => reported?,
                Err(_) => {
                    let what = format!("it did not report on {} {}", object.kind, object.name);
                    return Err(startup.late(&component.name, &what).await);
                }
            },
        }
    }
    Ok(())
}

/// Puts the system's `oc` where documented commands find it.
fn link_cli(request: &Request, folder: &Path) -> Result<(), Failure> {
    let program = match request.system.cli.as_deref() {
        None | Some([]) => own_executable(),
        Some([program, ..]) => PathBuf::from(program.replace("{self}", &own_executable().display().to_string())),
    };
    let link = folder.join("oc");
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(program, &link).tried(format!("linking {}", link.display()))
}

static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();

/// Names the executable that is also every component, for a process that is not: a test binary.
pub fn use_executable(path: PathBuf) {
    // The first word counts; a test binary says it once.
    let _ = EXECUTABLE.set(path);
}

/// The executable that is also every component: this one, unless another was named.
pub fn own_executable() -> PathBuf {
    let this = || std::env::current_exe().unwrap_or_else(|_| PathBuf::from("registry-conformance"));
    EXECUTABLE.get().cloned().unwrap_or_else(this)
}

fn api_address(url: &str) -> Result<std::net::SocketAddr, Failure> {
    url.trim_start_matches("https://").trim_end_matches('/').parse().tried(format!("reading the address of {url}"))
}

async fn client_of(kubeconfig: &Path) -> Result<Client, Failure> {
    let tried = || format!("using {}", kubeconfig.display());
    let read = Kubeconfig::read_from(kubeconfig).tried(tried())?;
    let mut config = Config::from_custom_kubeconfig(read, &Default::default()).await.tried(tried())?;
    // A silent retry would hide what a fault does.
    config.default_retry = false;
    Client::try_from(config).tried(tried())
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(path).tried(format!("making the folder {}", path.display()))
}
