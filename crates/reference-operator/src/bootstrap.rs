//! The Config the operator makes when there is none, and the storage a platform offers.
//! Keyed on the platform's type only; how the cluster was installed makes no difference.

use api::config::InfrastructureStatus;
use api::imageregistry::{
    Azure, Config, ConfigSpec, EmptyDir, Gcs, IbmCos, LogLevel, ManagementState, Pvc, RolloutStrategy, S3, Storage,
    Swift,
};
use api::names;

use crate::error::SyncError;

/// What a platform offers for a registry.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// Removed where there is no shareable storage.
    pub management_state: ManagementState,
    /// The stanza of the platform's own storage, or nothing.
    pub storage: Storage,
    /// Replicas of the first Config.
    pub replicas: i32,
    /// Recreate where the volume allows only one pod.
    pub rollout_strategy: RolloutStrategy,
}

/// The offer of the platform in `infrastructure`
/// (OpenShift 4.6 registry docs, sections 2.1 and 2.2; operator source pkg/storage/storage.go:122-176, release-4.6).
///
/// # Errors
/// [`SyncError::Missing`] while the cluster does not say what it runs on.
pub fn offer(infrastructure: Option<&InfrastructureStatus>) -> Result<Offer, SyncError> {
    let status = infrastructure.ok_or_else(|| SyncError::Missing {
        message: "unable to choose storage: Infrastructure cluster does not exist or has no status".into(),
    })?;
    let platform = status.platform_status.as_ref().ok_or_else(|| SyncError::Missing {
        message: "unable to choose storage: Infrastructure cluster has no status.platformStatus".into(),
    })?;
    let cloud = |storage: Storage| Offer {
        management_state: ManagementState::Managed,
        storage,
        replicas: 2,
        rollout_strategy: RolloutStrategy::RollingUpdate,
    };
    let single = |management_state, storage, rollout_strategy| Offer {
        management_state,
        storage,
        replicas: 1,
        rollout_strategy,
    };
    let mut offer = match platform.type_.as_str() {
        "None" | "BareMetal" | "VSphere" | "Nutanix" | "KubeVirt" | "EquinixMetal" | "External" | "AlibabaCloud" => {
            single(ManagementState::Removed, Storage::default(), RolloutStrategy::RollingUpdate)
        }
        "AWS" => cloud(Storage { s3: Some(S3::default()), ..Storage::default() }),
        "Azure" => cloud(Storage { azure: Some(Azure::default()), ..Storage::default() }),
        "GCP" => cloud(Storage { gcs: Some(Gcs::default()), ..Storage::default() }),
        "OpenStack" => cloud(Storage { swift: Some(Swift::default()), ..Storage::default() }),
        "IBMCloud" | "PowerVS" => cloud(Storage { ibm_cos: Some(IbmCos::default()), ..Storage::default() }),
        "oVirt" => single(
            ManagementState::Managed,
            Storage { pvc: Some(Pvc { claim: names::DEFAULT_CLAIM.into() }), ..Storage::default() },
            RolloutStrategy::Recreate,
        ),
        _ => single(
            ManagementState::Managed,
            Storage { empty_dir: Some(EmptyDir {}), ..Storage::default() },
            RolloutStrategy::RollingUpdate,
        ),
    };
    if status.infrastructure_topology == "SingleReplica" {
        offer.replicas = 1;
    }
    Ok(offer)
}

/// The first Config (operator source pkg/operator/bootstrap.go:65-81, release-4.6).
///
/// # Errors
/// As [`offer`].
pub fn config(infrastructure: Option<&InfrastructureStatus>) -> Result<Config, SyncError> {
    let offer = offer(infrastructure)?;
    let mut config = Config::new(
        names::CLUSTER,
        ConfigSpec {
            management_state: Some(offer.management_state),
            log_level: Some(LogLevel::Normal),
            operator_log_level: Some(LogLevel::Normal),
            storage: offer.storage,
            replicas: offer.replicas,
            rollout_strategy: Some(offer.rollout_strategy),
            ..ConfigSpec::default()
        },
    );
    config.metadata.finalizers = Some(vec![names::FINALIZER.to_owned()]);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use api::config::PlatformStatus;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn infrastructure(platform: &str, topology: &str) -> InfrastructureStatus {
        InfrastructureStatus {
            infrastructure_name: "lane-1".into(),
            infrastructure_topology: topology.into(),
            platform_status: Some(PlatformStatus { type_: platform.into(), ..PlatformStatus::default() }),
            ..InfrastructureStatus::default()
        }
    }

    #[rstest]
    #[case("None", "", ManagementState::Removed, json!({}), 1)]
    #[case("BareMetal", "", ManagementState::Removed, json!({}), 1)]
    #[case("VSphere", "", ManagementState::Removed, json!({}), 1)]
    #[case("AWS", "HighlyAvailable", ManagementState::Managed, json!({"s3": {}}), 2)]
    #[case("AWS", "SingleReplica", ManagementState::Managed, json!({"s3": {}}), 1)]
    #[case("Azure", "", ManagementState::Managed, json!({"azure": {}}), 2)]
    #[case("GCP", "", ManagementState::Managed, json!({"gcs": {}}), 2)]
    #[case("OpenStack", "", ManagementState::Managed, json!({"swift": {}}), 2)]
    #[case("Libvirt", "", ManagementState::Managed, json!({"emptyDir": {}}), 1)]
    #[case("Brandnew", "", ManagementState::Managed, json!({"emptyDir": {}}), 1)]
    fn platforms_decide_the_first_config(
        #[case] platform: &str,
        #[case] topology: &str,
        #[case] state: ManagementState,
        #[case] storage: serde_json::Value,
        #[case] replicas: i32,
    ) {
        let made = config(Some(&infrastructure(platform, topology))).expect("a Config");
        assert_eq!(made.spec.management_state, Some(state));
        assert_eq!(serde_json::to_value(&made.spec.storage).expect("JSON"), storage);
        assert_eq!(made.spec.replicas, replicas);
        assert_eq!(made.metadata.finalizers.as_deref(), Some(&[names::FINALIZER.to_owned()][..]));
        assert!(made.spec.http_secret.is_empty(), "filled at the first Managed pass");
    }

    #[test]
    fn without_a_platform_nothing_is_guessed() {
        let silent = InfrastructureStatus::default();
        assert!(config(Some(&silent)).is_err() && config(None).is_err());
    }
}
