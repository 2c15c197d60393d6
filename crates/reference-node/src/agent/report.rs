//! What the agent tells the cluster about its node: annotations in the words of the machine config daemon, and
//! events about what is refused, drained or beyond the container runtime.

use crate::containerd_hosts::Departure;
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter as EventSource};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const CURRENT: &str = "machineconfiguration.openshift.io/currentConfig";
const DESIRED: &str = "machineconfiguration.openshift.io/desiredConfig";
const STATE: &str = "machineconfiguration.openshift.io/state";
const REASON: &str = "machineconfiguration.openshift.io/reason";
/// Which mirror objects, in which generation, the node's state speaks of: `plural/name=generation`, by commas.
const SOURCES: &str = "registry-conformance.local/rendered-from";

/// A state of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// Files are about to change.
    Working { wanted: String },
    /// The files are as the objects say.
    Done { config: String, sources: String },
    /// The objects cannot be followed; the files are those of the last good state.
    Refused { reason: String, sources: String },
}

impl Report {
    fn annotations(&self) -> Value {
        match self {
            Report::Working { wanted } => json!({DESIRED: wanted, STATE: "Working", REASON: ""}),
            Report::Done { config, sources } => {
                json!({CURRENT: config, DESIRED: config, STATE: "Done", REASON: "", SOURCES: sources})
            }
            Report::Refused { reason, sources } => json!({STATE: "Degraded", REASON: reason, SOURCES: sources}),
        }
    }
}

/// Publishes reports for one node; what is already there is not sent again.
pub(super) struct Reporter {
    nodes: Api<Node>,
    events: Recorder,
    node_name: String,
    uid: Option<String>,
    last: Option<Report>,
    departures: BTreeSet<Departure>,
}

impl Reporter {
    pub(super) fn new(client: Client, node_name: &str) -> Self {
        let source = EventSource { controller: "machine-config-daemon".into(), instance: Some(node_name.to_owned()) };
        Reporter {
            nodes: Api::all(client.clone()),
            events: Recorder::new(client, source),
            node_name: node_name.to_owned(),
            uid: None,
            last: None,
            departures: BTreeSet::new(),
        }
    }

    /// # Errors
    /// The Node object could not be changed; the report counts as not given.
    pub(super) async fn publish(&mut self, report: Report) -> Result<(), kube::Error> {
        if self.last.as_ref() == Some(&report) {
            return Ok(());
        }
        self.last = None;
        let patch = json!({"metadata": {"annotations": report.annotations()}});
        let node = self.nodes.patch(&self.node_name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        self.uid = node.uid();
        match &report {
            Report::Refused { reason, .. } => {
                tracing::error!(
                    "Error syncing image config openshift-config: could not update registries config with new \
                     changes: {reason}; the files of the node stay as they are until the objects are corrected"
                );
                self.tell(EventType::Warning, "RegistriesConfigRefused", "RenderRegistries", reason.clone()).await;
            }
            Report::Done { config, sources } => tracing::info!(config, sources, "node is up to date"),
            Report::Working { wanted } => tracing::info!(config = wanted, "node is being changed"),
        }
        self.last = Some(report);
        Ok(())
    }

    /// Tells what containerd does otherwise than registries.conf says; what was told last is not told again.
    pub(super) async fn tell_departures(&mut self, departures: &BTreeSet<Departure>) {
        if self.departures == *departures {
            return;
        }
        for departure in departures.difference(&self.departures) {
            tracing::warn!("{departure}");
        }
        self.departures = departures.clone();
        let lost: Vec<String> = departures.iter().filter(|one| one.is_loss()).map(ToString::to_string).collect();
        if !lost.is_empty() {
            self.tell(EventType::Warning, "MirrorsBeyondContainerd", "RenderHosts", lost.join("; ")).await;
        }
    }

    /// Sends an event about the node. It is a courtesy: that it could not be sent is only logged.
    pub(super) async fn tell(&self, type_: EventType, reason: &str, action: &str, note: impl Into<String>) {
        let regarding = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(self.node_name.clone()),
            uid: self.uid.clone(),
            ..ObjectReference::default()
        };
        let event = Event {
            type_,
            reason: reason.into(),
            note: Some(note.into().chars().take(1024).collect()),
            action: action.into(),
            secondary: None,
        };
        if let Err(error) = self.events.publish(&event, &regarding).await {
            tracing::warn!(%error, reason, "could not send an event about the node");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_the_configs() {
        let refused = Report::Refused { reason: "no".into(), sources: String::new() }.annotations();
        assert_eq!(refused[STATE], "Degraded");
        assert!(refused.get(CURRENT).is_none() && refused.get(DESIRED).is_none());
    }
}
