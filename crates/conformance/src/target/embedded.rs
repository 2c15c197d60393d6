//! The embedded target: a real control plane, nodes that run pods as processes, platform parts and the system itself,
//! all as children of this process, without Docker, root or a cluster. A lane is a cluster with a doorway and a system.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::names;
use futures::{FutureExt as _, future::LocalBoxFuture};
use harness::{
    doorway::{Doorway, Loopback},
    environment::{Environment, User, Users},
    evidence::Evidence,
    failure::{Failure, Tried as _},
    plan::Capabilities,
    tenancy::Tenancy,
    trust::Authority,
};
use local_cluster::{Ledger, Tool, Tools, doctor, port};
use steps::World;
use storage_backends::Preferred;
use tokio::sync::OnceCell;

use super::{
    OF_OWN_CLUSTERS,
    cluster::{Cluster, ClusterOptions, GRACE},
    image_files, kept_logs, make_folder, manifests,
    pod_logs::PodLogs,
    program,
    seams::{self, OverrideFile, SeamOptions, SeamedBackends, SeamedFiles, Seams, StorageSeam, Texts},
    startup::Startup,
    storage,
    system_lane::{Ground, SystemLane, link_cli, started},
};
use crate::{
    lane::{LaneOf, Request, Target},
    manifest,
};

/// Control planes as child processes of this one.
pub struct Embedded {
    request: Request,
    tools: OnceCell<Tools>,
    /// Answers for the folder of all lanes, whatever becomes of this process.
    ledger: OnceCell<Ledger>,
}

impl Embedded {
    /// A target for one request; nothing is started yet.
    ///
    /// # Errors
    /// When the request names a cluster or images, of which this target has none.
    pub fn new(request: Request) -> Result<Self, Failure> {
        Ok(Self { request, tools: OnceCell::new(), ledger: OnceCell::new() })
    }

    fn lanes(&self) -> PathBuf {
        self.request.folder.join("lanes")
    }

    /// Ports on which pods and platform parts listen: as the documents and the system's manifests have them.
    fn ports(&self) -> Result<BTreeSet<u16>, Failure> {
        let mut ports = BTreeSet::from(Cluster::PORTS);
        ports.insert(names::REGISTRY_PORT);
        for file in &self.request.system.manifests {
            let read = manifest::read(&self.request.data, file);
            ports.extend(manifest::container_ports(&read.tried(format!("reading the manifest {}", file.display()))?));
        }
        Ok(ports)
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
        let mut present = BTreeSet::from(OF_OWN_CLUSTERS.map(str::to_owned));
        let pulls = "nodes of the embedded target pull no images: their pods run programs of this machine";
        let mut absent = BTreeMap::from([("kubelet".to_owned(), pulls.to_owned())]);
        storage::capabilities(&self.request.data, Preferred::Processes, None, &mut present, &mut absent);
        for program in ["podman", "skopeo"] {
            match program::usable(program) {
                Ok(()) => drop(present.insert(program.to_owned())),
                Err(why) => drop(absent.insert(program.to_owned(), why)),
            }
        }
        Capabilities { target: "embedded".to_owned(), present, absent }
    }

    fn prepare<'a>(&'a self, progress: &'a dyn Fn(&str)) -> LocalBoxFuture<'a, Result<(), Failure>> {
        async move {
            port::free_for_pods(self.ports()?).tried("looking for the ports of pods")?;
            doctor::room_for_lanes(&self.lanes(), 1).tried("looking for room on the disk")?;
            let left = local_cluster::ledger::gc().tried("removing what killed runs left")?;
            left.failures.iter().for_each(|failure| progress(failure));
            let ledger = Ledger::open().tried("opening the ledger of processes")?;
            ledger.record_folder(&self.lanes()).tried("recording the folder of the lanes")?;
            self.ledger.set(ledger).tried("remembering the ledger")?;
            let tried = "finding the programs of a control plane and the storage product";
            let tools = local_cluster::tool::locate_all(&Tool::LANE, progress).await.tried(tried)?;
            self.tools.set(tools).tried("remembering the programs")
        }
        .boxed_local()
    }

    fn open(
        &self,
        lane: usize,
        _: BTreeSet<String>,
        evidence: Evidence,
    ) -> LocalBoxFuture<'_, Result<LaneOf<Self>, Failure>> {
        async move {
            let tools =
                self.tools.get().ok_or_else(|| Failure::error("opening a lane", "the target is not prepared"))?;
            let opened = SystemLane::open(&self.request, tools, lane, evidence.clone()).await;
            let opened = opened
                .map_err(|failure| kept_logs::keep(lane, &self.lanes().join(lane.to_string()), &evidence, failure))?;
            Ok(Box::new(opened) as LaneOf<Self>)
        }
        .boxed_local()
    }
}

impl SystemLane<Cluster> {
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

        let tools_folder = folder.join("bin");
        make_folder(&tools_folder)?;
        link_cli(request, &tools_folder)?;
        let images = image_files::lay_out(request, &folder.join("image-files"), &tools_folder)?;
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

        let people = cluster.control_plane.users();
        for person in people {
            evidence.secret(&person.token);
        }
        let people: Vec<_> =
            people.iter().map(|person| User { name: person.name.clone(), token: person.token.clone() }).collect();
        let here = Ipv4Addr::LOCALHOST.into();
        let backends = storage::open(request, tools, &folder, here, &authority, &cluster.ledger, Preferred::Processes)?;
        let backends = Arc::new(backends);
        let command_kubeconfig = folder.join("command.kubeconfig");
        std::fs::copy(cluster.kubeconfig(), &command_kubeconfig).tried("copying the administrator's kubeconfig")?;
        let behind = doorway.behind();
        let (texts, storage_seam) = (Texts::default(), StorageSeam::default());
        let seams = SeamOptions {
            client: client.clone(),
            api_server: api_address(cluster.control_plane.api_url())?,
            cluster_ca: cluster.control_plane.cluster_ca().to_owned(),
            api_serving: cluster
                .control_plane
                .serving("fault-proxy", &["127.0.0.1".to_owned()])
                .tried("making the API proxy's certificate")?,
            listen: Ipv4Addr::LOCALHOST.into(),
            detours: Arc::new(OverrideFile(cluster.folder.join("api-override.yaml"))),
            command_kubeconfig: command_kubeconfig.clone(),
            registry_serving: seams::serving(
                &authority,
                &[
                    "image-registry.openshift-image-registry.svc",
                    "image-registry.openshift-image-registry.svc.cluster.local",
                ],
            )?,
            storage_serving: seams::serving(&authority, &storage::names(here))?,
            trust: trust.clone(),
            registry: Arc::new(move || {
                let found = behind.loopback(names::REGISTRY_INTERNAL_HOST).map_err(std::io::Error::other);
                async move { found }.boxed()
            }),
            limit: limits.rollout,
        };
        let seams = Seams::new(seams, &texts, &storage_seam);
        let files = cluster.node_files();
        let environment = Environment {
            lane,
            tenancy: Tenancy::Own,
            client: client.clone(),
            kubeconfig: command_kubeconfig,
            api_server: cluster.control_plane.api_url().to_owned(),
            users: Users::new(people),
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
        Ok(Self { environment: Arc::new(environment), backends, seams, startup, ground: cluster })
    }
}

impl Ground for Cluster {
    fn kubeconfig(&self) -> &Path {
        self.kubeconfig()
    }

    fn stop(self) -> LocalBoxFuture<'static, Result<(), Failure>> {
        self.stop().boxed_local()
    }
}

fn api_address(url: &str) -> Result<std::net::SocketAddr, Failure> {
    url.trim_start_matches("https://").trim_end_matches('/').parse().tried(format!("reading the address of {url}"))
}
