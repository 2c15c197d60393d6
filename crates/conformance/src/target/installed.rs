//! The cluster target: whatever a cluster that was there before has is judged, and nothing is installed in it. What it
//! holds is saved before the first scenario and put back after each that changed it.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use api::names;
use futures::{FutureExt as _, future::LocalBoxFuture};
use harness::{
    doorway::Doorway,
    environment::{Backends, Environment, Users},
    evidence::Evidence,
    failure::{Failure, Tried as _},
    plan::Capabilities,
    scenario::Scenario,
    storage::StorageEndpoint,
    system::Limits,
    tenancy::{Journal as _, Tenancy},
    trust::Authority,
    verdict::Verdict,
};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use local_cluster::{Ledger, secret_file};
use steps::World;
use tokio::sync::OnceCell;

use super::{
    held::Held, left_changed, make_folder, people, pod_logs::PodLogs, port_forward::PortForward, seams::Texts, survey,
    survey::Survey, system_lane::link_cli,
};
use crate::lane::{FaultFile, Lane, LaneOf, Leak, Request, Target};

/// A cluster that was there before.
pub struct Installed {
    request: Request,
    survey: Survey,
    ledger: OnceCell<Ledger>,
}

impl Installed {
    /// Looks at the cluster that the request names; nothing is changed yet but what a killed run has left.
    ///
    /// # Errors
    /// When the system would have to be installed, or the cluster cannot be judged.
    pub fn new(request: Request) -> Result<Self, Failure> {
        let system = &request.system;
        if !(system.manifests.is_empty() && system.components.is_empty()) {
            let seen = "it would have to be installed, and nothing is installed in a cluster that was there before";
            return Err(Failure::error(format!("judging the system {} on target cluster", system.name), seen)
                .next("judge what the cluster has with --system installed, or use --target embedded or kind"));
        }
        // The cluster is asked once, before there is anything that could wait beside it.
        let surveying = Survey::make(&request.place);
        let survey = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(surveying))?;
        Ok(Self { request, survey, ledger: OnceCell::new() })
    }

    fn lanes(&self) -> PathBuf {
        self.request.folder.join("lanes")
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let Some(ledger) = self.ledger.get() else { return };
        match std::fs::remove_dir_all(self.lanes()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, "the folder of the lanes is left to `cluster gc`");
            }
            _ => ledger.close(),
        }
    }
}

impl Target for Installed {
    type World = World;

    fn capabilities(&self) -> Capabilities {
        self.survey.capabilities.clone()
    }

    fn close_limit(&self, limits: &Limits) -> Duration {
        // Twice: what does not become as it was is told before the lane is given up.
        limits.rollout * 2
    }

    fn faults(&self) -> Result<(), Failure> {
        let seen = "nothing can be put between the components of a cluster that was there before";
        Err(Failure::error("switching faults on in target cluster", seen).next("prove with --target embedded"))
    }

    fn prepare<'a>(&'a self, progress: &'a dyn Fn(&str)) -> LocalBoxFuture<'a, Result<(), Failure>> {
        async move {
            let left = local_cluster::ledger::gc().tried("removing what killed runs left")?;
            left.failures.iter().for_each(|failure| progress(failure));
            if self.survey.recovered {
                let server = self.survey.access.server();
                progress(&format!("what a killed run has changed in {server} is as it was before"));
            }
            let ledger = Ledger::open().tried("opening the ledger of the run")?;
            ledger.record_folder(&self.lanes()).tried("recording the folder of the lanes")?;
            self.ledger.set(ledger).map_err(|_| "twice").tried("remembering the ledger")
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
            let opened = InstalledLane::open(self, lane, evidence).await?;
            Ok(Box::new(opened) as LaneOf<Self>)
        }
        .boxed_local()
    }
}

/// The way into the cluster, and what it held.
struct InstalledLane {
    environment: Arc<Environment>,
    held: Arc<Held>,
    folder: PathBuf,
    /// What scenarios had made when the one that runs began.
    mark: std::cell::Cell<usize>,
}

impl InstalledLane {
    async fn open(target: &Installed, lane: usize, evidence: Evidence) -> Result<Self, Failure> {
        let Installed { request, survey, .. } = target;
        let client = survey.client.clone();
        let folder = target.lanes().join(lane.to_string());
        let tools = folder.join("bin");
        make_folder(&tools)?;
        link_cli(request, &tools)?;
        let authority = Authority::new("registry-conformance test authority").tried("making the test authority")?;
        let trust = folder.join("trust.pem");
        let bundle = format!("{}{}", authority.pem(), authorities(&client).await?);
        std::fs::write(&trust, bundle).tried(format!("writing {}", trust.display()))?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.tried("binding the doorway")?;
        let reach = Arc::new(PortForward::watch(client.clone()));
        let doorway = Doorway::open(listener, client.clone(), reach, survey.router).await;
        let doorway = doorway.tried("opening the doorway")?;
        doorway.record_in(evidence.clone());
        doorway.place(survey::host_and_port(&survey.access), survey.api_server);

        let access = &survey.access;
        let held = Held::take(&client, &access.path, &access.server(), &survey.id).await?;
        let held = Arc::new(held);
        let namespace = people::namespace();
        people::objects(&namespace).into_iter().for_each(|object| held.will_make(object));
        let users = match people::make(&client, &namespace, access.token.as_deref(), &evidence).await {
            Ok(people) => Users::new(people),
            Err(failure) => {
                release(held, request.system.limits.rollout).await?;
                return Err(failure);
            }
        };
        let kubeconfig = folder.join("command.kubeconfig");
        let text = access.with_token(&users.administrator().token);
        secret_file::write(&kubeconfig, text.as_bytes()).tried("writing the administrator's kubeconfig")?;
        let environment = Environment {
            lane,
            tenancy: Tenancy::Guest(held.clone()),
            client: client.clone(),
            kubeconfig,
            api_server: access.server(),
            users,
            doorway,
            authority,
            trust,
            nodes: Arc::new(survey.nodes.clone()),
            commands: Arc::new(Texts::default()),
            backends: Arc::new(Unreachable),
            logs: Arc::new(PodLogs::new(client)),
            limits: request.system.limits.clone(),
            folder: folder.join("scratch"),
            tools,
            evidence,
            router: survey.router,
        };
        let mark = std::cell::Cell::new(held.mark());
        Ok(Self { environment: Arc::new(environment), held, folder, mark })
    }
}

impl Lane<World> for InstalledLane {
    fn world<'a>(&'a self, scenario: &'a Scenario) -> LocalBoxFuture<'a, Result<World, Failure>> {
        async move {
            self.mark.set(self.held.mark());
            if scenario.is_disruptive() {
                self.held.protect_storage().await?;
            }
            World::open(self.environment.clone(), scenario.is_disruptive()).await
        }
        .boxed_local()
    }

    fn after<'a>(&'a self, world: &'a mut World, _: Verdict) -> LocalBoxFuture<'a, Result<Vec<Leak>, Failure>> {
        async move {
            let leaks = world.close().await;
            if leaks.is_empty() {
                self.held.forget(self.mark.get());
            }
            let changed = self.held.put_back(self.environment.limits.rollout).await?;
            if !changed.is_empty() {
                self.environment.evidence.note(format!("as before again: {}", changed.join(", ")));
            }
            Ok(leaks.into_iter().map(|leak| Leak { kind: leak.what, name: leak.why }).collect())
        }
        .boxed_local()
    }

    fn logs<'a>(&'a self, component: &'a str, lines: usize) -> LocalBoxFuture<'a, Vec<String>> {
        self.environment.logs.tail(component, lines).boxed_local()
    }

    fn set_fault<'a>(&'a self, fault: &'a FaultFile) -> LocalBoxFuture<'a, Result<(), Failure>> {
        let tried = format!("switching the fault {} on", fault.entry.id);
        std::future::ready(Err(Failure::error(tried, "this target has no faults"))).boxed_local()
    }

    fn clear_faults(&self) -> LocalBoxFuture<'_, Result<(), Failure>> {
        std::future::ready(Ok(())).boxed_local()
    }

    fn how_to_look(&self) -> Vec<String> {
        super::how_to_look(&self.environment.kubeconfig, &self.environment)
    }

    fn close(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), Failure>> {
        async move {
            let Self { environment, held, folder, .. } = *self;
            let (limit, evidence) = (environment.limits.rollout, environment.evidence.clone());
            drop(environment);
            release(held, limit).await.map_err(|failure| left_changed(&evidence, failure))?;
            std::fs::remove_dir_all(&folder).tried(format!("removing {}", folder.display()))
        }
        .boxed_local()
    }
}

async fn release(held: Arc<Held>, within: Duration) -> Result<(), Failure> {
    let held = Arc::try_unwrap(held).map_err(|_| "a scenario still runs").tried("leaving the cluster as it was")?;
    held.release(within).await
}

/// Certificates of the authorities that clients outside the cluster need, in PEM, as far as the cluster has them: the
/// service CA's, and the router's where it made its own.
async fn authorities(client: &Client) -> Result<String, Failure> {
    let mut all = String::new();
    for (namespace, name) in [(names::SERVICE_CA_NAMESPACE, "signing-key"), ("openshift-ingress-operator", "router-ca")]
    {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let secret = secrets.get_opt(name).await.tried(format!("reading the authority {namespace}/{name}"))?;
        let certificate = secret.and_then(|secret| secret.data?.remove("tls.crt"));
        if let Some(certificate) = certificate {
            all.push_str(String::from_utf8_lossy(&certificate.0).trim_end());
            all.push('\n');
        }
    }
    Ok(all)
}

/// No storage product of this machine.
struct Unreachable;

impl Backends for Unreachable {
    fn open<'a>(&'a self, name: &'a str) -> futures::future::BoxFuture<'a, Result<StorageEndpoint, Failure>> {
        let seen = "pods of this cluster cannot reach a storage product on this machine";
        std::future::ready(Err(Failure::error(format!("opening the storage {name}"), seen))).boxed()
    }
}
