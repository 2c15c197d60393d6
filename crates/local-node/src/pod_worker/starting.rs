//! Containers from being wanted to running: their order, the command that stands for the image, and the log of each run.
//! What a running container does afterwards comes back to the worker as reports.

use std::{sync::Arc, time::Duration};

use kube::runtime::events::EventType;
use tokio::time::Instant;

use super::{Worker, retry::LONGEST_RETRY, stop};
use crate::{
    container::{Role, State},
    container_log::ContainerLog,
    container_run::{Plan, Run},
    launch::{self, Parts, Prepared},
    probe::Target,
};

/// Between two looks at the image map for an image that is not in it.
const IMAGE_RETRY: Duration = Duration::from_secs(5);

impl Worker {
    pub(super) async fn start_containers(&mut self) {
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
    pub(super) fn find_old_logs(&self) {
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
}
