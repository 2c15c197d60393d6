//! What is said of the node in its annotations, in the words of OpenShift's machine config daemon.

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

// machine-config-operator source pkg/daemon/constants/constants.go
const CURRENT: &str = "machineconfiguration.openshift.io/currentConfig";
const DESIRED: &str = "machineconfiguration.openshift.io/desiredConfig";
const STATE: &str = "machineconfiguration.openshift.io/state";
const REASON: &str = "machineconfiguration.openshift.io/reason";

/// A state of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// Files are about to change.
    Working { wanted: String },
    /// The files are as rendered.
    Done { config: String },
    /// The objects are refused; the files are those of the last good state.
    Refused { reason: String },
}

impl Report {
    fn annotations(&self) -> Value {
        match self {
            Self::Working { wanted } => json!({DESIRED: wanted, STATE: "Working", REASON: ""}),
            Self::Done { config } => json!({CURRENT: config, DESIRED: config, STATE: "Done", REASON: ""}),
            Self::Refused { reason } => json!({STATE: "Degraded", REASON: reason}),
        }
    }
}

/// Annotates one node; what is already there is not sent again.
pub(super) struct Reporter {
    nodes: Api<Node>,
    name: String,
    last: Option<Report>,
}

impl Reporter {
    pub(super) fn new(nodes: Api<Node>, name: String) -> Self {
        Self { nodes, name, last: None }
    }

    /// # Errors
    /// When the Node object cannot be changed; the report then counts as not given.
    pub(super) async fn publish(&mut self, report: Report) -> Result<(), kube::Error> {
        if self.last.as_ref() == Some(&report) {
            return Ok(());
        }
        self.last = None;
        let patch = json!({"metadata": {"annotations": report.annotations()}});
        self.nodes.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        tracing::info!(?report, "reported");
        self.last = Some(report);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_the_configurations() {
        let refused = Report::Refused { reason: "no".into() }.annotations();
        assert_eq!(refused[STATE], "Degraded");
        assert!(refused.get(CURRENT).is_none() && refused.get(DESIRED).is_none());
    }
}
