//! A pod's volumes in the course of its life: made before containers start, renewed when what they show changes.
//! What a volume holds is `volumes`' affair.

use jiff::Timestamp;
use kube::runtime::events::EventType;
use tokio::time::Instant;

use super::Worker;
use crate::{container::State, payload, source::SourceName};

impl Worker {
    pub(super) fn notice(&mut self, name: &SourceName) {
        if self.references.contains(name) {
            self.notice_all();
        }
    }

    pub(super) fn notice_all(&mut self) {
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

    /// Whether the volumes are there; brings stale ones up to date.
    pub(super) async fn prepare_volumes(&mut self) -> bool {
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
}
