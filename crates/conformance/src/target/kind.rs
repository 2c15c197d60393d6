//! The kind target: a cluster of containers for the lane, made and removed with it, or a running one that is as it was
//! afterwards. The system runs in it from images of this very program, and everything in it is reached through the API
//! server, whose port is published on 127.0.0.1.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use air_gap::Collection;
use api::names;
use container_image::{Archive, OWN_REGISTRY};
use futures::{FutureExt as _, future::LocalBoxFuture};
use harness::{
    doorway::Doorway,
    environment::{Environment, Users},
    evidence::Evidence,
    failure::{Failure, Tried as _},
    plan::Capabilities,
    system::Limits,
    tenancy::Tenancy,
    trust::Authority,
};
use local_cluster::{Ledger, Tool, Tools, doctor};
use steps::World;
use storage_backends::Preferred;
use tokio::{net::TcpListener, runtime::Handle, sync::OnceCell};

use super::{
    OF_OWN_CLUSTERS,
    admission::{Admission, Gifts, OWN_NAMESPACES, TRUST},
    api_certificate,
    engine::Engine,
    guest::{self, Guest},
    kept_logs,
    kind_cluster::{self, EnterOptions, KindCluster, KindOptions},
    kind_config, kind_words, left_changed, make_folder, manifests,
    node_rules::ByRules,
    node_watch::NodeWatch,
    platform_parts::{self, Identity},
    pod_logs::PodLogs,
    port_forward::{LocalPort, PortForward},
    program,
    running_kind::RunningKind,
    seams::{self, SeamOptions, SeamedBackends, SeamedFiles, Seams, StorageSeam, Texts},
    startup::Startup,
    storage,
    system_lane::{Ground, SystemLane, link_cli, started},
};
use crate::{
    executable::own_executable,
    images::{self, RunImage},
    lane::{LaneOf, Request, Target},
    manifest,
};

/// How storage products run here.
const CONTAINERS: Preferred = Preferred::Containers;
/// The file of `kind-config/` that is used when none is named.
const CONFIG: &str = "default";

/// Clusters made by kind.
pub struct Kind {
    request: Request,
    config: String,
    /// The cluster to use, where none is made.
    running: Option<RunningKind>,
    prepared: OnceCell<Prepared>,
    made: OnceCell<Made>,
    guest: OnceCell<Arc<Guest>>,
}

/// What all lanes share.
struct Prepared {
    tools: Tools,
    own_images: Archive,
    node_image: Option<String>,
}

/// What has to be removed, whatever becomes of the run.
struct Made {
    engine: Engine,
    ledger: Ledger,
    /// Images that were not in the engine before.
    images: Vec<String>,
}

impl Kind {
    /// A target for one request; nothing is started yet, and in a running cluster nothing is changed but what a killed run
    /// has changed before.
    ///
    /// # Errors
    /// When the system comes as programs, there is no kind configuration of that name, or the running cluster cannot be
    /// used.
    pub fn new(request: Request) -> Result<Self, Failure> {
        if let Some(component) = request.system.components.first() {
            let seen = format!("its {} comes as a program, and pods of a kind cluster run images", component.name);
            return Err(Failure::error(format!("judging the system {} on kind", request.system.name), seen)
                .next("run it with --target embedded"));
        }
        let running = match &request.place.cluster {
            None => None,
            Some(name) if request.place.kind_config.is_some() => {
                let seen = "--kind-config says how a cluster is made, and this one is there";
                return Err(Failure::error(format!("using the running kind cluster {name}"), seen)
                    .next("leave one of --cluster and --kind-config out"));
            }
            // The cluster is asked once, before there is anything that could wait beside it.
            Some(name) => Some(tokio::task::block_in_place(|| Handle::current().block_on(visit(name)))?),
        };
        let name = request.place.kind_config.as_deref().unwrap_or(CONFIG);
        let config = request.data.text(format!("kind-config/{name}.yaml"));
        let config = config.tried(format!("reading the kind configuration {name}"))?;
        let (prepared, made, guest) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Ok(Self { request, config, running, prepared, made, guest })
    }

    fn lanes(&self) -> PathBuf {
        self.request.folder.join("lanes")
    }

    /// Loads the archives of `--images` into the engine and says which image nodes are made from.
    async fn load_images(
        &self,
        engine: &Engine,
        ledger: &Ledger,
        progress: &dyn Fn(&str),
    ) -> Result<(Option<String>, Vec<String>), Failure> {
        let Some(folder) = &self.request.place.images else { return Ok((None, vec![])) };
        let tried = format!("loading the images of {}", folder.display());
        let collection = Collection::open(folder).tried(&tried)?;
        let (_, node_image) = collection.image(air_gap::NODE_IMAGE).tried(&tried)?;
        let node_image = node_image.names.first().cloned();
        let is_nodes = |name: &String| Some(name) == node_image.as_ref();
        let mut loaded = vec![];
        for entry in &collection.archives {
            // A running cluster has its nodes.
            if self.running.is_some() && entry.images.iter().any(|image| image.names.iter().any(is_nodes)) {
                continue;
            }
            let mut missing = vec![];
            for image in &entry.images {
                for name in &image.names {
                    if engine.image_id(name).await.as_ref() != Some(&image.id) {
                        missing.push(name.clone());
                    }
                }
            }
            if missing.is_empty() {
                continue;
            }
            for name in &missing {
                ledger.record_image(name).tried(&tried)?;
            }
            progress(&format!("loading {} from {}", missing.join(", "), folder.display()));
            loaded.extend(missing);
            let collection = collection.clone();
            let own = entry.clone();
            let measured = tokio::task::spawn_blocking(move || collection.measured(&own));
            let path = measured.await.tried(&tried)?.tried(&tried)?;
            let load = engine.run(["load".as_ref(), "--quiet".as_ref(), "--input".as_ref(), path.as_os_str()]);
            load.await.map_err(kind_words::explained)?;
        }
        Ok((node_image, loaded))
    }
}

impl Drop for Kind {
    /// Removes everything of the run from the engine and from a running cluster; what cannot be removed is left to the
    /// ledger.
    fn drop(&mut self) {
        if let Some(guest) = self.guest.get() {
            // A lane that was closed has left already; this one was given up.
            let left = tokio::task::block_in_place(|| Handle::current().block_on(guest.leave()));
            left.unwrap_or_else(|failure| {
                tracing::warn!(failure = failure.text(), "the cluster is left to `cluster gc`")
            });
        }
        let Some(Made { engine, ledger, images }) = self.made.get() else { return };
        match local_cluster::containers::remove(engine.client(), ledger.run(), images) {
            Ok(_) => match std::fs::remove_dir_all(self.lanes()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(%error, "the folder of the lanes is left to `cluster gc`");
                }
                _ => ledger.close(),
            },
            Err(reason) => tracing::warn!(reason, "the run's containers are left to `cluster gc`"),
        }
    }
}

impl Target for Kind {
    type World = World;

    fn capabilities(&self) -> Capabilities {
        let mut present = BTreeSet::from(OF_OWN_CLUSTERS.map(str::to_owned));
        present.insert("kubelet".to_owned());
        let mut absent = self.running.as_ref().map(RunningKind::lacks).unwrap_or_default();
        present.retain(|need| !absent.contains_key(need));
        // A folder that cannot be read is told when the target gets ready.
        let folder = self.request.place.images.as_deref();
        let brought = folder.and_then(|folder| Collection::open(folder).ok()).map(|collection| collection.names());
        storage::capabilities(&self.request.data, CONTAINERS, brought.as_deref(), &mut present, &mut absent);
        for program in ["podman", "skopeo"] {
            match program::usable(program) {
                Ok(()) => drop(present.insert(program.to_owned())),
                Err(why) => drop(absent.insert(program.to_owned(), why)),
            }
        }
        Capabilities { target: "kind".to_owned(), present, absent }
    }

    fn images(&self, needs: &BTreeSet<String>) -> Result<Vec<RunImage>, Failure> {
        let mut images = match &self.running {
            None => kind_config::images(&self.config)?,
            Some(_) => vec![],
        };
        images.extend(storage::images(&self.request.data, needs)?);
        let manifests = self.request.system.manifests.iter().map(PathBuf::as_path);
        let mut documents = vec![];
        for file in manifests.chain([Path::new(platform_parts::MANIFEST)]) {
            let read = manifest::read(&self.request.data, file);
            documents.extend(read.tried(format!("reading the manifest {}", file.display()))?);
        }
        images.extend(images::of_manifests(&documents));
        Ok(images)
    }

    fn start_limit(&self, limits: &Limits) -> Duration {
        limits.start.max(kind_cluster::OPENED)
    }

    fn close_limit(&self, _: &Limits) -> Duration {
        guest::OUT + kind_cluster::CLOSED
    }

    fn prepare<'a>(&'a self, progress: &'a dyn Fn(&str)) -> LocalBoxFuture<'a, Result<(), Failure>> {
        async move {
            doctor::room_for_lanes(&self.lanes(), 1).tried("looking for room on the disk")?;
            let left = local_cluster::ledger::gc().tried("removing what killed runs left")?;
            left.failures.iter().for_each(|failure| progress(failure));
            let engine = Engine::find().await?;
            if self.running.is_none() {
                kind_cluster::refuse_foreign(&engine, &self.config).await?;
            }
            let ledger = Ledger::open().tried("opening the ledger of the run")?;
            let engine = engine.of_run(&ledger);
            ledger.record_folder(&self.lanes()).tried("recording the folder of the lanes")?;
            ledger.record_containers(engine.client()).tried("recording that there will be containers")?;
            let loaded = self.load_images(&engine, &ledger, progress).await;
            let images = loaded.as_ref().map_or_else(|_| vec![], |(_, images)| images.clone());
            let made = Made { engine, ledger, images };
            self.made.set(made).map_err(|_| "twice").tried("remembering what was made")?;
            let (node_image, _) = loaded?;
            let tools = local_cluster::tool::locate_all(&[Tool::Kind], progress).await.tried("finding kind")?;
            let out = self.lanes().join("images").join("own.tar");
            let own_images = tokio::task::spawn_blocking(move || container_image::own_image(&own_executable(), &out));
            let tried = "making the images of this program";
            let own_images = own_images.await.tried(tried)?.tried(tried)?;
            if let (Some(running), Some(made)) = (&self.running, self.made.get()) {
                let guest = Guest::enter(&made.engine, running).await?;
                self.guest.set(Arc::new(guest)).map_err(|_| "twice").tried("remembering the cluster that is used")?;
            }
            let prepared = Prepared { tools, own_images, node_image };
            self.prepared.set(prepared).map_err(|_| "twice").tried("remembering what was found")
        }
        .boxed_local()
    }

    fn open(
        &self,
        lane: usize,
        needs: BTreeSet<String>,
        evidence: Evidence,
    ) -> LocalBoxFuture<'_, Result<LaneOf<Self>, Failure>> {
        async move {
            let unprepared = || Failure::error("opening a lane", "the target is not prepared");
            let prepared = self.prepared.get().ok_or_else(unprepared)?;
            let made = self.made.get().ok_or_else(unprepared)?;
            let folder = self.lanes().join(lane.to_string());
            let running = self.running.as_ref().zip(self.guest.get());
            let (request, config) = (&self.request, &*self.config);
            let opening = Opening { request, config, running, prepared, made, folder: folder.clone() };
            let opened = opening.open(lane, &needs, evidence.clone()).await;
            let opened = opened.map_err(|failure| kept_logs::keep(lane, &folder, &evidence, failure))?;
            Ok(Box::new(opened) as LaneOf<Self>)
        }
        .boxed_local()
    }
}

/// What a lane on kind stands on.
struct KindGround {
    cluster: KindCluster,
    network: String,
    /// In a cluster of somebody else, of which only what is ours goes.
    guest: Option<Arc<Guest>>,
    evidence: Evidence,
    engine: Engine,
    /// These close with the lane.
    watch: NodeWatch,
    admission: Admission,
    ports: Vec<LocalPort>,
}

impl Ground for KindGround {
    fn kubeconfig(&self) -> &Path {
        &self.cluster.kubeconfig
    }

    fn broken(&self) -> LocalBoxFuture<'_, Failure> {
        self.watch.broken().boxed_local()
    }

    fn stop(self) -> LocalBoxFuture<'static, Result<(), Failure>> {
        async move {
            let Self { cluster, network, guest, evidence, engine, watch, admission, ports } = self;
            drop((watch, ports));
            if let Some(guest) = guest {
                // Until the API server has forgotten it, it is asked about every pod.
                return guest.leave().await.map_err(|failure| left_changed(&evidence, failure));
            }
            drop(admission);
            let nodes = engine.containers(&[&format!("network={network}")]).await?;
            if !nodes.is_empty() {
                let words = ["rm", "--force", "--volumes"].into_iter().map(str::to_owned);
                engine.run(words.chain(nodes)).await?;
            }
            engine.run(["network", "rm", &network]).await?;
            engine.run(["volume", "rm", &network]).await?;
            tracing::debug!(cluster = cluster.name, "the cluster is gone");
            Ok(())
        }
        .boxed_local()
    }
}

/// A lane that is being opened.
struct Opening<'a> {
    request: &'a Request,
    config: &'a str,
    /// The cluster to use, where none is made.
    running: Option<(&'a RunningKind, &'a Arc<Guest>)>,
    prepared: &'a Prepared,
    made: &'a Made,
    folder: PathBuf,
}

impl Opening<'_> {
    async fn open(
        self,
        lane: usize,
        needs: &BTreeSet<String>,
        evidence: Evidence,
    ) -> Result<SystemLane<KindGround>, Failure> {
        let Self { request, config, running, prepared, made: Made { engine, ledger, .. }, folder } = self;
        make_folder(&folder)?;
        let limits = request.system.limits.clone();
        let network = match running {
            Some((running, _)) => running.network.clone(),
            None => {
                let own = format!("registry-conformance-{}-{lane}", &ledger.run()[..8]);
                engine.make_network(&own, ledger).await?;
                own
            }
        };
        let gateway = engine.gateway(&network).await?;
        let listener = listen(gateway).await?;
        let proxy = listener.local_addr().tried("binding the doorway")?;
        let authority = Authority::new("registry-conformance test authority").tried("making the test authority")?;
        let trust = folder.join("trust.pem");
        std::fs::write(&trust, authority.pem()).tried(format!("writing {}", trust.display()))?;

        let kind = prepared.tools.path(Tool::Kind).tried("finding kind")?;
        let own_images = &prepared.own_images;
        let cluster = match running {
            Some((running, _)) => {
                let options = EnterOptions { engine, kind, own_images, folder: &folder, evidence: &evidence };
                KindCluster::enter(running, options).await?
            }
            None => {
                KindCluster::make(KindOptions {
                    engine,
                    kind,
                    config,
                    node_image: prepared.node_image.as_deref(),
                    network: &network,
                    volumes: &engine.make_volume(&network, ledger).await?,
                    proxy,
                    own_images,
                    folder: &folder,
                })
                .await?
            }
        };
        let watch = NodeWatch::start(engine, &cluster.label())?;
        cluster.people.iter().for_each(|person| evidence.secret(&person.token));
        cluster.put(&trust, TRUST).await?;
        // Storage products get ready while the system does.
        let backends = storage::open(request, &prepared.tools, &folder, gateway, &authority, ledger, CONTAINERS)?;
        let backends = Arc::new(backends);
        backends.expect(needs.iter().filter_map(|need| need.strip_prefix("backend-")).map(str::to_owned));
        let client = cluster.client.clone();
        let gifts = Gifts {
            proxy: format!("http://{proxy}"),
            no_proxy: kind_cluster::direct(gateway),
            loaded: OWN_REGISTRY.to_owned(),
        };
        let others = running.iter().flat_map(|(_, guest)| guest.namespaces());
        let spared: Vec<&str> = OWN_NAMESPACES.into_iter().chain(others).collect();
        let admission = Admission::open(&client, gateway, &authority, gifts, &spared).await?;
        let administrator =
            cluster.people.first().ok_or_else(|| Failure::error("finding users", "the cluster has none"))?;
        let cluster_ca = std::fs::read_to_string(&cluster.authority).tried("reading the cluster's authority")?;
        let identity =
            Identity { server: &cluster.api_server_inside, token: &administrator.token, authority: &cluster_ca };
        platform_parts::install(&client, &request.data, identity, cluster.shares_volumes, limits.start).await?;
        let bundle = format!("{}{}", authority.pem(), platform_parts::authorities(&client).await?);
        std::fs::write(&trust, bundle).tried(format!("writing {}", trust.display()))?;
        cluster.put(&trust, TRUST).await?;

        let reach = Arc::new(PortForward::watch(client.clone()));
        let to_router = reach.clone();
        let router = LocalPort::lead(Arc::new(move || {
            let reach = to_router.clone();
            async move {
                let (place, label) = (platform_parts::NAMESPACE, platform_parts::LABEL);
                let opened = reach.to_labelled(place, label, platform_parts::ROUTER_PORT).await;
                opened.map_err(|error| error.to_string())
            }
            .boxed()
        }))
        .await
        .tried("leading a port to the router")?;
        let reach = ByRules::new(reach, engine.clone(), cluster.nodes.clone());
        let doorway = Doorway::open(listener, client.clone(), Arc::new(reach), Some(router.address()))
            .await
            .tried("opening the doorway")?;
        doorway.record_in(evidence.clone());
        let behind = doorway.behind();
        let registry = LocalPort::lead(Arc::new(move || {
            let behind = behind.clone();
            async move { behind.connect(names::REGISTRY_INTERNAL_HOST).await }.boxed()
        }))
        .await
        .tried("leading a port to the registry")?;
        let startup = Startup::watch(client.clone(), &request.system, &request.binaries, &BTreeMap::new());
        manifests::apply(&client, request).await?;
        started(request, &client, &startup).await?;

        let tools = folder.join("bin");
        make_folder(&tools)?;
        link_cli(request, &tools)?;
        let command_kubeconfig = folder.join("command.kubeconfig");
        std::fs::copy(&cluster.kubeconfig, &command_kubeconfig).tried("copying the administrator's kubeconfig")?;
        let (texts, storage_seam) = (Texts::default(), StorageSeam::default());
        let (router_address, registry_address) = (router.address(), registry.address());
        let host = names::REGISTRY_INTERNAL_HOST.split(':').next().unwrap_or_default();
        let seams = SeamOptions {
            client: client.clone(),
            api_server: cluster.api_server,
            cluster_ca: cluster.authority.clone(),
            listen: gateway,
            api_serving: api_certificate::obtain(&client, &cluster.config, gateway, &folder).await?,
            detours: admission.detours(),
            command_kubeconfig: command_kubeconfig.clone(),
            registry_serving: seams::serving(&authority, &[host, &format!("{host}.cluster.local")])?,
            storage_serving: seams::serving(&authority, &storage::names(gateway))?,
            trust: trust.clone(),
            registry: Arc::new(move || async move { Ok(registry_address) }.boxed()),
            limit: limits.rollout,
        };
        let seams = Seams::new(seams, &texts, &storage_seam);
        let environment = Environment {
            lane,
            tenancy: Tenancy::Own,
            client: client.clone(),
            kubeconfig: command_kubeconfig,
            api_server: format!("https://{}", cluster.api_server),
            users: Users::new(cluster.people.clone()),
            doorway,
            authority,
            trust,
            nodes: Arc::new(SeamedFiles { files: cluster.node_files(), texts: texts.clone() }),
            commands: Arc::new(texts),
            backends: Arc::new(SeamedBackends { backends: backends.clone(), seam: storage_seam }),
            logs: Arc::new(PodLogs::new(client)),
            limits,
            folder: folder.join("scratch"),
            tools,
            evidence,
            router: Some(router_address),
        };
        let guest = running.map(|(_, guest)| guest.clone());
        let (engine, ports) = (engine.clone(), vec![router, registry]);
        let ground = KindGround {
            cluster,
            network,
            guest,
            evidence: environment.evidence.clone(),
            engine,
            watch,
            admission,
            ports,
        };
        Ok(SystemLane { environment: Arc::new(environment), backends, seams, startup, ground })
    }
}

/// Looks at a running cluster, which is as it was before if a killed run has changed it.
async fn visit(name: &str) -> Result<RunningKind, Failure> {
    let engine = Engine::find().await?;
    guest::recover_all().await?;
    let running = RunningKind::demand(&engine, name).await?;
    guest::refuse_two(&running)?;
    guest::refuse_system(&running).await?;
    Ok(running)
}

/// Listens where pods reach this machine.
async fn listen(gateway: IpAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind((gateway, 0)).await.map_err(|error| {
        let next = "use a Docker engine that runs on this machine as root: the gateway of a rootless or remote one is elsewhere";
        Failure::error(format!("listening on {gateway}, where containers reach this machine"), error).next(next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_of_another_machine_is_one_clear_error() {
        let failure = listen(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1))).await.expect_err("not ours");
        assert!(failure.text().contains("192.0.2.1") && failure.next.is_some());
    }
}
