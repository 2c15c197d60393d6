//! Brings one pod to what its specification says, again and again, until it is gone from the API.
//! Level-triggered: every wake-up looks at the whole pod; events only say that it is worth looking.

use std::{collections::BTreeSet, net::Ipv4Addr, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Resource,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    runtime::events::{Event, EventType},
};
use serde_json::{Value, json};
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    container::{Container, RestartPolicy, Role, State},
    container_log::ContainerLog,
    container_run::{Exit, Plan, Report, Run, RunEvent},
    downward::Addresses,
    environment,
    launch::{self, Parts, Prepared},
    node::{NODE_ADDRESS, Node},
    orphans, payload,
    pod_status::{self, Failure, Observed},
    probe::{ProbeKind, Target, Verdict},
    source::SourceName,
    volumes::{self, Places, Volumes},
};

/// What is left to processes when the nodes themselves are told to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(300);
const DEFAULT_GRACE: i64 = 30;
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// Between two looks at the image map for an image that is not in it.
const IMAGE_RETRY: Duration = Duration::from_secs(5);
/// One call to the API server; a server that hangs must not keep a pod from being stopped.
const CALL_LIMIT: Duration = Duration::from_secs(15);

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

/// When something that failed is tried again; nothing announces that an API server or a claim is fine now.
#[derive(Debug, Default)]
struct Retry {
    at: Option<Instant>,
    pause: Duration,
}

impl Retry {
    fn again(&mut self) {
        self.pause = if self.pause.is_zero() { FIRST_RETRY } else { (self.pause * 2).min(LONGEST_RETRY) };
        self.at = Some(Instant::now() + self.pause);
    }

    fn done(&mut self) {
        *self = Self::default();
    }
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

    fn notice(&mut self, name: &SourceName) {
        if self.references.contains(name) {
            self.notice_all();
        }
    }

    fn notice_all(&mut self) {
        self.volumes_stale = true;
        self.mount_retry.done();
        for container in &mut self.containers {
            let waits_for_objects =
                matches!(container.state, State::Waiting { reason: "CreateContainerConfigError", .. });
            if waits_for_objects {
                container.not_before = None;
            }
        }
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

    /// Whether the volumes are there; brings stale ones up to date.
    async fn prepare_volumes(&mut self) -> bool {
        let must_renew = self.volumes.renew_at().is_some_and(|at| at <= Timestamp::now());
        if !(self.volumes_stale || must_renew) || self.mount_retry.at.is_some_and(|at| at > Instant::now()) {
            return self.volumes_ready;
        }
        let pod = self.pod.clone();
        let context = payload::Context {
            pod: &pod,
            addresses: &self.addresses,
            sources: &self.node.shared.sources,
            client: &self.node.shared.client,
        };
        match self.volumes.prepare(&context, &self.places).await {
            Ok(()) => {
                self.volumes_ready = true;
                self.volumes_stale = false;
                self.mount_retry.done();
            }
            Err(error) => {
                if self.mount_retry.at.is_none() {
                    self.tell(EventType::Warning, "FailedMount", error.to_string());
                }
                self.volumes_stale = true;
                self.mount_retry.again();
            }
        }
        self.volumes_ready
    }

    async fn start_containers(&mut self) {
        let policy = self.policy();
        for index in 0..self.containers.len() {
            let container = &self.containers[index];
            match container.role {
                Role::Init if container.is_initialised() => continue,
                Role::Init if container.run.is_some() || container.is_done(policy) => return,
                Role::Init => return self.start(index).await,
                Role::Sidecar => {
                    if container.run.is_none() && !self.is_over() {
                        self.start(index).await;
                    }
                    if !self.containers[index].is_initialised() && !self.is_over() {
                        return;
                    }
                }
                Role::Main if container.run.is_none() && !container.is_done(policy) => self.start(index).await,
                Role::Main => {}
            }
        }
        if self.is_over() {
            let grace = self.grace();
            self.containers.iter_mut().filter(|container| container.role == Role::Sidecar).for_each(|s| stop(s, grace));
        }
    }

    /// All main containers have ended for good.
    fn is_over(&self) -> bool {
        let policy = self.policy();
        self.containers
            .iter()
            .filter(|container| container.role == Role::Main)
            .all(|container| container.is_done(policy))
    }

    async fn start(&mut self, index: usize) {
        let now = Instant::now();
        if self.containers[index].not_before.is_some_and(|at| at > now) {
            if matches!(self.containers[index].state, State::Terminated(_)) {
                self.containers[index].wait_in_backoff();
                let message = format!("Back-off restarting failed container {}", self.containers[index].name());
                self.tell(EventType::Warning, "BackOff", message);
            }
            return;
        }
        let Some(prepared) = self.prepare(index).await else { return };
        match self.node.shared.spawner.spawn(prepared.main()).await {
            Ok(process) => self.begin(index, process, prepared),
            Err(error) => {
                self.containers[index].count_restart();
                self.containers[index].fail_to_start(&error);
                let program = prepared.main().command.first().cloned().unwrap_or_default();
                self.tell(EventType::Warning, "Failed", format!("Error: failed to start {program}: {error}"));
            }
        }
    }

    async fn prepare(&mut self, index: usize) -> Option<Prepared> {
        let spec = self.containers[index].spec.clone();
        let image = spec.image.clone().unwrap_or_default();
        let images = self.node.shared.images_with(&image);
        let Some(entry) = images.find(&image) else {
            let message = format!(
                "image {image:?} is not in the image map {}; add an entry that says which command it stands for",
                self.node.shared.images_file.display()
            );
            let container = &mut self.containers[index];
            let failed_before =
                matches!(container.state, State::Waiting { reason: "ErrImagePull" | "ImagePullBackOff", .. });
            container.wait(if failed_before { "ImagePullBackOff" } else { "ErrImagePull" }, Some(message.clone()));
            container.not_before = Some(Instant::now() + IMAGE_RETRY);
            if !failed_before {
                self.tell(EventType::Warning, "Failed", format!("Failed to pull image: {message}"));
            }
            return None;
        };
        let folder = self.places.pod.join("containers").join(&spec.name);
        let parts = Parts {
            node: &self.node,
            pod: &self.pod,
            container: &spec,
            image: entry,
            volumes: &self.volumes,
            places: &self.places,
            addresses: &self.addresses,
            listen_address: &self.listen_address,
            folder: &folder,
        };
        match launch::prepare(parts).await {
            Ok(prepared) => Some(prepared),
            Err(error) => {
                let container = &mut self.containers[index];
                let failed_before =
                    matches!(container.state, State::Waiting { reason: "CreateContainerConfigError", .. });
                container.wait("CreateContainerConfigError", Some(error.to_string()));
                container.not_before = Some(Instant::now() + LONGEST_RETRY);
                if !failed_before {
                    self.tell(EventType::Warning, "Failed", format!("Error: {error}"));
                }
                None
            }
        }
    }

    fn begin(&mut self, index: usize, process: crate::spawner::Process, prepared: Prepared) {
        let container = &mut self.containers[index];
        container.count_restart();
        let spec = container.spec.clone();
        let log = match self.open_log(&spec.name, self.containers[index].restarts) {
            Ok(log) => Arc::new(log),
            Err(error) => {
                drop(process);
                self.containers[index].fail_to_start(&error);
                return;
            }
        };
        self.node.pods.update(&self.pod, &spec.name, |entry| {
            entry.previous_log = entry.log.replace(log.clone());
            entry.prepared = Some(prepared.clone());
        });
        let ports = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?)));
        let shared = &self.node.shared;
        let termination_file = prepared.termination_file.clone();
        let target = Target {
            spawner: shared.spawner.clone(),
            prepared,
            address: self.listen_address.clone(),
            ports: ports.collect(),
            client: shared.probe_client.clone(),
        };
        let container = &mut self.containers[index];
        let id = container.next_run();
        let plan = Plan {
            id,
            container: spec,
            target,
            log,
            termination_file,
            pre_stop_limit: self.node.shared.pre_stop_limit,
            reports: self.reports.clone(),
        };
        container.begin(Run::start(process, plan));
        let message = format!("Container {} started", self.containers[index].name());
        self.tell(EventType::Normal, "Started", message);
    }

    /// Opens the log of a new run and removes those before the previous one.
    fn open_log(&self, container: &str, restart: i32) -> std::io::Result<ContainerLog> {
        let folder = self.places.pod.join("containers").join(container);
        let old = restart - 2;
        let _ = std::fs::remove_file(folder.join(format!("{old}.log")));
        let _ = std::fs::remove_file(folder.join(format!("{old}.log.1")));
        ContainerLog::create(folder.join(format!("{restart}.log")))
    }

    /// Logs written before this process started stay readable.
    fn find_old_logs(&self) {
        for container in &self.containers {
            let folder = self.places.pod.join("containers").join(container.name());
            let old = |restart: i32| {
                let path = folder.join(format!("{restart}.log"));
                path.exists().then(|| Arc::new(ContainerLog::finished(path)))
            };
            self.node.pods.update(&self.pod, container.name(), |entry| {
                entry.log = old(container.restarts);
                entry.previous_log = old(container.restarts - 1);
            });
        }
    }

    async fn publish(&mut self) {
        if self.finished_before {
            return;
        }
        let known = self.pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let before = self
            .sent
            .as_ref()
            .and_then(|sent| serde_json::from_value(sent["conditions"].clone()).ok())
            .unwrap_or(known);
        let status = pod_status::compute(&Observed {
            pod: &self.pod,
            containers: &self.containers,
            addresses: &self.addresses,
            started_at: self.started_at,
            volumes_ready: self.volumes_ready,
            failure: self.failure.as_ref(),
            terminated: self.terminated,
            before: &before,
        });
        let Ok(mut status) = serde_json::to_value(status) else { return };
        for condition in status["conditions"].as_array_mut().into_iter().flatten() {
            // Conditions are merged by type on the server: what is not named stays.
            for field in ["reason", "message"] {
                if condition.get(field).is_none() {
                    condition[field] = Value::Null;
                }
            }
        }
        if self.sent.as_ref() == Some(&status) {
            self.call_retry.done();
            return;
        }
        let patch = Patch::Strategic(json!({"metadata": {"uid": self.pod.metadata.uid}, "status": status}));
        let pods = self.api();
        let name = self.name().to_owned();
        let parameters = PatchParams::default();
        let call = tokio::time::timeout(CALL_LIMIT, pods.patch_status(&name, &parameters, &patch));
        match call.await {
            Ok(Ok(_)) => {
                self.sent = Some(status);
                self.call_retry.done();
            }
            // The pod is gone or has a successor; the watch will tell.
            Ok(Err(kube::Error::Api(answer))) if answer.is_not_found() || answer.is_conflict() => {
                self.sent = Some(status);
            }
            Ok(Err(error)) => {
                tracing::warn!(pod = name, %error, "reporting a pod's status failed; trying again");
                self.call_retry.again();
            }
            Err(_) => {
                tracing::warn!(pod = name, "reporting a pod's status got no answer; trying again");
                self.call_retry.again();
            }
        }
    }

    /// Reports the end and removes the object; true when it is gone.
    async fn finish(&mut self) -> bool {
        self.publish().await;
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: self.pod.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        let pods = self.api();
        let name = self.name().to_owned();
        match tokio::time::timeout(CALL_LIMIT, pods.delete(&name, &parameters)).await {
            Ok(Ok(_)) => true,
            Ok(Err(kube::Error::Api(answer))) if answer.is_not_found() || answer.is_conflict() => true,
            Ok(Err(error)) => {
                tracing::warn!(pod = name, %error, "removing a terminated pod failed; trying again");
                self.call_retry.again();
                false
            }
            Err(_) => {
                tracing::warn!(pod = name, "removing a terminated pod got no answer; trying again");
                self.call_retry.again();
                false
            }
        }
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

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.node.shared.client.clone(), self.pod.metadata.namespace.as_deref().unwrap_or_default())
    }

    /// Writes an event for `kubectl describe`; it may be lost.
    fn tell(&self, type_: EventType, reason: &'static str, note: String) {
        let recorder = self.node.shared.recorder.clone();
        let reference = self.pod.object_ref(&());
        let event = Event {
            type_,
            reason: reason.into(),
            note: Some(note.chars().take(1000).collect()),
            action: reason.into(),
            secondary: None,
        };
        tokio::spawn(async move {
            if let Err(error) = recorder.publish(&event, &reference).await {
                tracing::debug!(%error, "an event was not recorded");
            }
        });
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
