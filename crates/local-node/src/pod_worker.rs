//! Brings one pod to what its specification says, again and again, until it is gone from the API.
//! Level-triggered: every wake-up looks at the whole pod; events only say that it is worth looking.

mod mounting;
mod publishing;
mod retry;
mod starting;

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::events::EventType;
use serde_json::Value;
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::retry::Retry;
use crate::{
    container::{Container, RestartPolicy, Role},
    container_run::{Exit, Report, RunEvent},
    downward::Addresses,
    environment,
    node::{NODE_ADDRESS, Node},
    orphans,
    pod_status::Failure,
    probe::{ProbeKind, Verdict},
    source::SourceName,
    volumes::{self, Places, Volumes},
};

/// What is left to processes when the nodes themselves are told to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(300);
const DEFAULT_GRACE: i64 = 30;

/// What the API says of a pod.
#[derive(Debug, Clone)]
pub(crate) enum Seen {
    Present(Arc<Pod>),
    Gone,
}

/// Whether the worker has anything left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Continues,
    /// Everything has ended and the object may be removed.
    Ended,
}

struct Worker {
    node: Arc<Node>,
    pod: Arc<Pod>,
    places: Places,
    address: Ipv4Addr,
    addresses: Addresses,
    listen_address: String,
    containers: Vec<Container>,
    volumes: Volumes,
    volumes_ready: bool,
    volumes_stale: bool,
    /// What the pod's volumes and environments refer to.
    references: BTreeSet<SourceName>,
    started_at: Timestamp,
    failure: Option<Failure>,
    terminated: bool,
    /// The pod had ended before this process looked at it.
    finished_before: bool,
    reports: mpsc::UnboundedSender<Report>,
    sent: Option<Value>,
    /// For calls to the API server.
    call_retry: Retry,
    /// For volumes.
    mount_retry: Retry,
}

/// Runs a pod until it is gone or `stop`; returns when all its processes have ended.
pub(crate) async fn run(node: Arc<Node>, pod: Arc<Pod>, mut seen: watch::Receiver<Seen>, stop: CancellationToken) {
    let (reports, mut inbox) = mpsc::unbounded_channel();
    let mut changes = node.shared.sources.changes();
    let Some(mut worker) = Worker::new(node, pod, reports) else { return };
    let mut gone = false;
    loop {
        match seen.borrow_and_update().clone() {
            Seen::Present(pod) => worker.adopt(pod),
            Seen::Gone => gone = true,
        }
        while let Ok(report) = inbox.try_recv() {
            worker.handle(report);
        }
        let looked_at = Instant::now();
        let progress = worker.reconcile(gone).await;
        if progress == Progress::Ended && (gone || worker.finish().await) {
            break;
        }
        if !gone {
            worker.publish().await;
        }
        let wake = worker.next_wake(looked_at);
        tokio::select! {
            () = stop.cancelled() => return worker.shut_down(inbox).await,
            changed = seen.changed(), if !gone => gone = changed.is_err(),
            Some(report) = inbox.recv() => worker.handle(report),
            change = changes.recv() => match change {
                Ok(name) => worker.notice(&name),
                Err(broadcast::error::RecvError::Lagged(_)) => worker.notice_all(),
                Err(broadcast::error::RecvError::Closed) => (),
            },
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => (),
        }
    }
    worker.clean_up().await;
}

impl Worker {
    fn new(node: Arc<Node>, pod: Arc<Pod>, reports: mpsc::UnboundedSender<Report>) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let status = pod.status.as_ref();
        let wanted = status.and_then(|status| status.pod_ip.as_ref()?.parse().ok());
        let Some(address) = node.addresses.take(wanted) else {
            tracing::error!(node = node.name, "no free pod address is left; the pod is not run");
            return None;
        };
        let init = spec.init_containers.iter().flatten().map(|container| {
            let role = if container.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init };
            (container, role)
        });
        let initialises = spec.init_containers.iter().flatten().next().is_some();
        let all = init.chain(spec.containers.iter().map(|container| (container, Role::Main)));
        let mut containers: Vec<_> =
            all.map(|(container, role)| Container::new(container.clone(), role, initialises)).collect();
        let known = status
            .into_iter()
            .flat_map(|status| status.init_container_statuses.iter().chain(status.container_statuses.iter()).flatten());
        for status in known {
            if let Some(container) = containers.iter_mut().find(|container| container.name() == status.name) {
                container.resume(status);
            }
        }
        let phase = status.and_then(|status| status.phase.as_deref());
        let uid = pod.metadata.uid.clone()?;
        let places = Places { pod: node.pod_folder(&uid), node_root: node.root() };
        let worker = Self {
            addresses: Addresses { pod: address.to_string(), host: NODE_ADDRESS.to_owned() },
            listen_address: api::address::listen_address(address).to_string(),
            address,
            places,
            containers,
            volumes: Volumes::default(),
            volumes_ready: false,
            volumes_stale: true,
            references: volumes::references(&pod).into_iter().chain(environment::references(&pod)).collect(),
            started_at: status.and_then(|status| status.start_time.as_ref()).map_or_else(Timestamp::now, |time| time.0),
            failure: None,
            terminated: false,
            finished_before: matches!(phase, Some("Succeeded" | "Failed")),
            reports,
            sent: None,
            call_retry: Retry::default(),
            mount_retry: Retry::default(),
            node,
            pod,
        };
        worker.node.pods.put(&worker.pod);
        worker.find_old_logs();
        Some(worker)
    }

    fn policy(&self) -> RestartPolicy {
        RestartPolicy::parse(self.pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()))
    }

    fn adopt(&mut self, pod: Arc<Pod>) {
        if pod.metadata.resource_version == self.pod.metadata.resource_version {
            return;
        }
        let (old, new) = (&self.pod.metadata, &pod.metadata);
        // The downward API shows these in volumes.
        self.volumes_stale |= old.labels != new.labels || old.annotations != new.annotations;
        self.node.pods.put(&pod);
        self.pod = pod;
    }

    fn handle(&mut self, report: Report) {
        let grace = self.grace();
        let Some(container) = self.containers.iter_mut().find(|container| container.name() == report.container) else {
            return;
        };
        if container.run.as_ref().is_none_or(|run| run.id != report.run) {
            return;
        }
        match report.event {
            RunEvent::Exited(exit) => self.end(&report.container, &exit),
            RunEvent::PostStartFailed(message) => {
                stop(container, grace);
                self.tell(EventType::Warning, "FailedPostStartHook", message);
            }
            RunEvent::Probe(verdict) => {
                let liveness_grace =
                    container.spec.liveness_probe.as_ref().and_then(|probe| probe.termination_grace_period_seconds);
                apply(container, &verdict);
                if !verdict.passed {
                    if verdict.kind != ProbeKind::Readiness {
                        stop(container, liveness_grace.map_or(grace, seconds));
                    }
                    self.tell(
                        EventType::Warning,
                        "Unhealthy",
                        format!("{} probe of {} failed: {}", verdict.kind.name(), report.container, verdict.message),
                    );
                }
            }
        }
    }

    fn end(&mut self, name: &str, exit: &Exit) {
        self.node.pods.update(&self.pod, name, |entry| entry.prepared = None);
        if let Some(container) = self.containers.iter_mut().find(|container| container.name() == name) {
            container.end(exit);
        }
        tracing::debug!(pod = self.name(), container = name, code = exit.code, "container ended");
    }

    async fn reconcile(&mut self, gone: bool) -> Progress {
        let is_deleted = gone || self.pod.metadata.deletion_timestamp.is_some();
        if is_deleted || self.failure.is_some() {
            let grace = if gone { Duration::ZERO } else { self.grace() };
            for container in &mut self.containers {
                stop(container, grace);
            }
            let all_ended = self.containers.iter().all(|container| container.run.is_none());
            self.terminated = is_deleted && all_ended;
            return if self.terminated { Progress::Ended } else { Progress::Continues };
        }
        if self.finished_before {
            return Progress::Continues;
        }
        if self.deadline().is_some_and(|deadline| deadline <= Timestamp::now()) {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.tell(EventType::Normal, "DeadlineExceeded", message.clone());
            self.failure = Some(Failure { reason: "DeadlineExceeded", message });
            for container in &mut self.containers {
                stop(container, self.node.default_grace(&self.pod));
            }
            return Progress::Continues;
        }
        if self.has_work() && self.prepare_volumes().await {
            self.start_containers().await;
        }
        Progress::Continues
    }

    /// Whether anything runs or is still to be run.
    fn has_work(&self) -> bool {
        let policy = self.policy();
        let init_failed = self
            .containers
            .iter()
            .any(|init| init.role == Role::Init && init.is_done(policy) && !init.is_initialised());
        let all_done =
            self.containers.iter().all(|container| container.role != Role::Main || container.is_done(policy));
        self.containers.iter().any(|container| container.run.is_some()) || !(init_failed || all_done)
    }

    /// Seconds after the start that the pod may be active.
    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        let limit = self.started_at + Duration::from_secs(u64::try_from(seconds).ok()?);
        self.has_work().then_some(limit)
    }

    /// The next moment after `looked_at` at which something is due that no event announces.
    fn next_wake(&self, looked_at: Instant) -> Option<Instant> {
        let is_quiet = self.finished_before
            || self.failure.is_some()
            || self.pod.metadata.deletion_timestamp.is_some()
            || !self.has_work();
        if is_quiet {
            return self.call_retry.at;
        }
        let at = |time: Timestamp| {
            Instant::now() + Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or_default()
        };
        let waiting = self.containers.iter().filter(|container| container.run.is_none());
        let waiting = waiting.filter_map(|container| container.not_before).filter(|moment| *moment > looked_at);
        let mount = self.mount_retry.at.or_else(|| self.volumes.renew_at().map(at));
        waiting.chain(mount).chain(self.deadline().map(at)).chain(self.call_retry.at).min()
    }

    /// What is left of the pod's time to stop.
    fn grace(&self) -> Duration {
        match self.pod.metadata.deletion_grace_period_seconds {
            Some(grace) => seconds(grace),
            None => self.node.default_grace(&self.pod),
        }
    }

    async fn shut_down(mut self, mut inbox: mpsc::UnboundedReceiver<Report>) {
        for container in &mut self.containers {
            stop(container, SHUTDOWN_GRACE);
        }
        while self.containers.iter().any(|container| container.run.is_some()) {
            let Some(report) = inbox.recv().await else { return };
            if matches!(report.event, RunEvent::Exited(_)) {
                self.handle(report);
            }
        }
    }

    async fn clean_up(self) {
        self.node.pods.remove(&self.pod);
        let folder = self.places.pod.clone();
        let removed = tokio::task::spawn_blocking(move || {
            orphans::kill_below(&folder);
            match std::fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err((folder, error)),
                _ => Ok(()),
            }
        });
        if let Ok(Err((folder, error))) = removed.await {
            tracing::warn!(path = %folder.display(), %error, "the folder of a removed pod cannot be removed");
        }
        self.node.addresses.give_back(self.address);
    }

    fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }
}

impl Node {
    fn default_grace(&self, pod: &Pod) -> Duration {
        seconds(pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE))
    }
}

fn seconds(value: i64) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or(0))
}

fn stop(container: &mut Container, grace: Duration) {
    if let Some(run) = &container.run {
        run.stop(grace);
    }
}

fn apply(container: &mut Container, verdict: &Verdict) {
    match verdict.kind {
        ProbeKind::Startup if verdict.passed => {
            container.started = true;
            container.ready = container.spec.readiness_probe.is_none();
        }
        ProbeKind::Readiness => container.ready = verdict.passed && container.started,
        ProbeKind::Startup | ProbeKind::Liveness => {}
    }
}
