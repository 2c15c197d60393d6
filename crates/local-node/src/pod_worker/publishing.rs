//! What the API is told of a pod: its status whenever it changed, its end, and events.
//! A call that fails or hangs is made again later and holds nothing up.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Resource,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    runtime::events::{Event, EventType},
};
use serde_json::{Value, json};

use super::Worker;
use crate::pod_status::{self, Observed};

/// One call to the API server; a server that hangs must not keep a pod from being stopped.
const CALL_LIMIT: Duration = Duration::from_secs(15);

impl Worker {
    pub(super) async fn publish(&mut self) {
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
    pub(super) async fn finish(&mut self) -> bool {
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

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.node.shared.client.clone(), self.pod.metadata.namespace.as_deref().unwrap_or_default())
    }

    /// Writes an event for `kubectl describe`; it may be lost.
    pub(super) fn tell(&self, type_: EventType, reason: &'static str, note: String) {
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
