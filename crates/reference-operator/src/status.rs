//! The registry's conditions as a pure function of what was seen and what went wrong.
//! Rows and their order are those of the original (operator source pkg/operator/status.go:250-397, main).

use std::time::Duration;

use api::imageregistry::ManagementState;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition};
use k8s_openapi::jiff::Timestamp;

use crate::condition::{Statement, Truth};
use crate::error::SyncError;

/// How long the registry may be unavailable before that degrades it (operator source pkg/operator/status.go:358,
/// release-4.20).
pub const UNAVAILABLE_LIMIT: Duration = Duration::from_secs(60);

const UNMANAGED: &str = "The registry configuration is set to unmanaged mode";
const REMOVED: &str = "The registry is removed";

/// What the conditions depend on.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// `spec.managementState`.
    pub state: ManagementState,
    /// The Deployment as it is after this pass.
    pub deployment: Option<&'a Deployment>,
    /// What ended this pass early.
    pub error: Option<&'a SyncError>,
    /// Routes that are not admitted.
    pub refusals: &'a [String],
    /// Since when `Available` has not been True, if it was not before this pass.
    pub unavailable_since: Option<Timestamp>,
    /// The time of this pass.
    pub now: Timestamp,
}

/// Whether every pod of the Deployment is of its newest template and available.
pub fn is_complete(deployment: &Deployment) -> bool {
    let Some(status) = &deployment.status else { return false };
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

/// Ready pods, 0 without a Deployment.
pub fn ready_replicas(deployment: Option<&Deployment>) -> i32 {
    deployment.and_then(|deployment| deployment.status.as_ref()).and_then(|status| status.ready_replicas).unwrap_or(0)
}

/// The conditions Available, Progressing, Degraded and Removed, in this order.
pub fn conditions(seen: Seen<'_>) -> Vec<Statement> {
    let available = available(seen);
    let degraded = degraded(seen, &available);
    vec![available, progressing(seen), degraded, removed(seen.state)]
}

/// When, with nothing else changing, the conditions will be different: the moment unavailability degrades.
pub fn due(seen: Seen<'_>, available: &Statement) -> Option<Duration> {
    if available.truth == Truth::True {
        return None;
    }
    let since = seen.unavailable_since.unwrap_or(seen.now);
    let passed = Duration::try_from(seen.now.duration_since(since)).unwrap_or_default();
    UNAVAILABLE_LIMIT.checked_sub(passed).map(|left| left + Duration::from_millis(100))
}

fn available(seen: Seen<'_>) -> Statement {
    let say = |truth: bool, reason: &str, message: &str| Statement::new("Available", truth, reason, message);
    if seen.state == ManagementState::Unmanaged {
        return say(true, "Unmanaged", UNMANAGED);
    }
    let Some(deployment) = seen.deployment else {
        return match (seen.error.and_then(|error| error.permanent_reason().map(|reason| (reason, error))), seen.state) {
            (Some((reason, error)), _) => say(false, reason, &format!("Error: {error}")),
            (None, ManagementState::Removed) => say(true, "Removed", REMOVED),
            (None, _) => say(false, "DeploymentNotFound", "The deployment does not exist"),
        };
    };
    if deployment.metadata.deletion_timestamp.is_some() {
        say(false, "DeploymentDeleted", "The deployment is being deleted")
    } else if deployment.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0) == 0 {
        say(false, "NoReplicasAvailable", "The deployment does not have available replicas")
    } else if !is_complete(deployment) {
        say(true, "MinimumAvailability", "The registry has minimum availability")
    } else {
        say(true, "Ready", "The registry is ready")
    }
}

fn progressing(seen: Seen<'_>) -> Statement {
    let say = |truth: bool, reason: &str, message: &str| Statement::new("Progressing", truth, reason, message);
    match (seen.state, seen.deployment) {
        (ManagementState::Unmanaged, _) => return say(false, "Unmanaged", UNMANAGED),
        (ManagementState::Removed, Some(_)) => {
            return say(true, "DeletingDeployment", "The deployment is being removed");
        }
        (ManagementState::Removed, None) if seen.error.is_none() => {
            return say(false, "Removed", "All registry resources are removed");
        }
        _ => {}
    }
    if let Some(error) = seen.error {
        let permanent = error.permanent_reason().is_some();
        return say(!permanent, "Error", &format!("Unable to apply resources: {error}"));
    }
    match seen.deployment {
        None => {
            let message = "All resources are successfully applied, but the deployment does not exist";
            say(true, "WaitingForDeployment", message)
        }
        Some(deployment) if deployment.metadata.deletion_timestamp.is_some() => {
            say(true, "FinalizingDeployment", "The deployment is being deleted")
        }
        Some(deployment) if !is_complete(deployment) => {
            say(true, "DeploymentNotCompleted", "The deployment has not completed")
        }
        Some(_) => say(false, "Ready", "The registry is ready"),
    }
}

fn degraded(seen: Seen<'_>, available: &Statement) -> Statement {
    let say = |truth: bool, reason: &str, message: &str| Statement::new("Degraded", truth, reason, message);
    if seen.state == ManagementState::Unmanaged {
        return say(false, "Unmanaged", UNMANAGED);
    }
    if let Some((reason, error)) = seen.error.and_then(|error| error.permanent_reason().map(|reason| (reason, error))) {
        return say(true, reason, &format!("Error: {error}"));
    }
    if seen.state == ManagementState::Removed {
        return say(false, "Removed", REMOVED);
    }
    let overdue = available.truth != Truth::True
        && seen.unavailable_since.is_some_and(|since| {
            Duration::try_from(seen.now.duration_since(since)).is_ok_and(|passed| passed > UNAVAILABLE_LIMIT)
        });
    if overdue {
        return say(true, "Unavailable", &available.message);
    }
    if let Some(timed_out) = seen.deployment.and_then(timed_out) {
        let message = timed_out.message.as_deref().unwrap_or_default();
        let message = format!("Registry deployment has timed out progressing: {message}");
        return say(true, "ProgressDeadlineExceeded", &message);
    }
    if !seen.refusals.is_empty() {
        return say(true, "RouteDegraded", &seen.refusals.join(", "));
    }
    say(false, "", "")
}

fn timed_out(deployment: &Deployment) -> Option<&DeploymentCondition> {
    let conditions = deployment.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().find(|condition| {
        condition.type_ == "Progressing" && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
    })
}

fn removed(state: ManagementState) -> Statement {
    if state == ManagementState::Removed {
        Statement::new("Removed", true, "Removed", REMOVED)
    } else {
        Statement::new("Removed", false, "", "")
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    const MANAGED: ManagementState = ManagementState::Managed;
    const GONE: ManagementState = ManagementState::Removed;

    fn deployment(available: i32, updated: i32) -> Option<Deployment> {
        let status = json!({ "replicas": 2, "updatedReplicas": updated, "availableReplicas": available, "observedGeneration": 1 });
        let value = json!({ "metadata": { "generation": 1 }, "spec": { "replicas": 2, "selector": {}, "template": {} }, "status": status });
        Some(serde_json::from_value(value).expect("a Deployment"))
    }

    fn leaving() -> Option<Deployment> {
        let mut leaving = deployment(2, 2);
        if let Some(deployment) = &mut leaving {
            deployment.metadata.deletion_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
        }
        leaving
    }

    fn broken() -> Option<SyncError> {
        Some(SyncError::Missing { message: "no secret".into() })
    }

    fn refused() -> Option<SyncError> {
        Some(SyncError::Verification { message: "bad replicas".into() })
    }

    #[rstest]
    #[case::unmanaged(ManagementState::Unmanaged, None, None, "True Unmanaged", "False Unmanaged", "False Unmanaged")]
    #[case::removed(GONE, None, None, "True Removed", "False Removed", "False Removed")]
    #[case::removing(GONE, leaving(), None, "False DeploymentDeleted", "True DeletingDeployment", "False Removed")]
    #[case::nothing_yet(MANAGED, None, None, "False DeploymentNotFound", "True WaitingForDeployment", "False ")]
    #[case::no_pods(
        MANAGED,
        deployment(0, 2),
        None,
        "False NoReplicasAvailable",
        "True DeploymentNotCompleted",
        "False "
    )]
    #[case::rolling(
        MANAGED,
        deployment(2, 1),
        None,
        "True MinimumAvailability",
        "True DeploymentNotCompleted",
        "False "
    )]
    #[case::ready(MANAGED, deployment(2, 2), None, "True Ready", "False Ready", "False ")]
    #[case::leaving(MANAGED, leaving(), None, "False DeploymentDeleted", "True FinalizingDeployment", "False ")]
    #[case::error(MANAGED, None, broken(), "False DeploymentNotFound", "True Error", "False ")]
    #[case::error_running(MANAGED, deployment(2, 2), broken(), "True Ready", "True Error", "False ")]
    #[case::refused(MANAGED, None, refused(), "False VerificationFailed", "False Error", "True VerificationFailed")]
    #[case::refused_running(
        MANAGED,
        deployment(2, 2),
        refused(),
        "True Ready",
        "False Error",
        "True VerificationFailed"
    )]
    #[case::no_storage(
        MANAGED,
        None,
        Some(SyncError::StorageNotConfigured),
        "False StorageNotConfigured",
        "False Error",
        "True StorageNotConfigured"
    )]
    fn the_table(
        #[case] state: ManagementState,
        #[case] deployment: Option<Deployment>,
        #[case] error: Option<SyncError>,
        #[case] available: &str,
        #[case] progressing: &str,
        #[case] degraded: &str,
    ) {
        let seen = Seen {
            state,
            deployment: deployment.as_ref(),
            error: error.as_ref(),
            refusals: &[],
            unavailable_since: None,
            now: Timestamp::UNIX_EPOCH,
        };
        let said: Vec<String> =
            conditions(seen).iter().map(|said| format!("{} {}", said.truth.as_str(), said.reason)).collect();
        assert_eq!(said[..3], [available, progressing, degraded]);
        assert_eq!(said[3], if state == GONE { "True Removed" } else { "False " });
    }

    #[rstest]
    #[case(59, "", Some(1_100))]
    #[case(61, "Unavailable", None)]
    fn unavailability_degrades_after_a_minute(#[case] seconds: i64, #[case] reason: &str, #[case] due_ms: Option<u64>) {
        let seen = Seen {
            state: MANAGED,
            deployment: None,
            error: None,
            refusals: &[],
            unavailable_since: Some(Timestamp::UNIX_EPOCH),
            now: Timestamp::from_second(seconds).expect("a time"),
        };
        let said = conditions(seen);
        assert_eq!(said[2].reason, reason);
        assert_eq!(due(seen, &said[0]), due_ms.map(Duration::from_millis));
    }

    #[test]
    fn a_refused_route_degrades() {
        let (deployment, refusals) = (deployment(2, 2), ["route r (host h, router d) not admitted: m".to_owned()]);
        let seen = Seen {
            state: MANAGED,
            deployment: deployment.as_ref(),
            error: None,
            refusals: &refusals,
            unavailable_since: None,
            now: Timestamp::UNIX_EPOCH,
        };
        let degraded = &conditions(seen)[2];
        assert_eq!((degraded.reason.as_str(), degraded.message.as_str()), ("RouteDegraded", refusals[0].as_str()));
    }
}
