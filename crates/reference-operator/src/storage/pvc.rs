//! Storage in a persistent volume claim: the operator's own, or one an administrator names.
//! The decision is pure; creating and deleting the claim is done by the registry's controller.

use api::imageregistry::{Pvc, RolloutStrategy, Storage, StorageManagementState};
use api::names;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::{Value, json};

use super::{Outcome, PodStorage, STORAGE_EXISTS, filesystem_env, filesystem_mount, settled};
use crate::condition::{Statement, Truth};

/// How the registry is to run, as far as access modes care.
#[derive(Clone, Copy, Debug)]
pub struct Rollout {
    /// `spec.replicas`.
    pub replicas: i32,
    /// `spec.rolloutStrategy`, RollingUpdate when absent.
    pub strategy: RolloutStrategy,
}

/// What is to be done about a claim.
#[derive(Debug)]
pub enum Decision {
    /// Create the operator's own claim, then decide again.
    Create,
    /// Nothing to create; go on with this.
    Settled(Box<Outcome>),
}

/// The claim the operator makes when none is named (OpenShift 4.6 registry docs, section 3.5.2; operator source
/// pkg/storage/pvc/pvc.go:92-130, main).
pub fn default_claim(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": names::DEFAULT_CLAIM,
            "namespace": namespace,
            "annotations": { names::OWNED_ANNOTATION: "true" },
        },
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": { "requests": { "storage": "100Gi" } },
        },
    })
}

/// Whether the operator made the claim.
pub fn is_owned(claim: &PersistentVolumeClaim) -> bool {
    let annotations = claim.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(names::OWNED_ANNOTATION)).is_some_and(|value| value == "true")
}

/// The name of the claim a stanza means.
pub fn claim_name(pvc: &Pvc) -> &str {
    if pvc.claim.is_empty() { names::DEFAULT_CLAIM } else { &pvc.claim }
}

/// What to do about `pvc`, given the claim of [`claim_name`] as it exists. A blank claim is made whatever the storage's
/// management state, which then only decides whether Removed deletes it.
pub fn decide(storage: &Storage, pvc: &Pvc, existing: Option<&PersistentVolumeClaim>, rollout: Rollout) -> Decision {
    let name = claim_name(pvc);
    let refused = |reason: &str, message: String| {
        let settled = settled(
            storage,
            if pvc.claim.is_empty() { StorageManagementState::Managed } else { StorageManagementState::Unmanaged },
        );
        let keep = if pvc.claim.is_empty() { storage.clone() } else { settled };
        Decision::Settled(Box::new(Outcome::refused(&keep, Truth::False, reason, message)))
    };
    let (claim, state, reason, message) = match (pvc.claim.is_empty(), existing) {
        (true, None) => return Decision::Create,
        (true, Some(claim)) if is_owned(claim) => {
            (claim, StorageManagementState::Managed, "PVC Created", format!("PVC {name} is owned by the operator"))
        }
        (true, Some(_)) => {
            return refused(
                "PVC Already Exists",
                "could not create default PVC, it already exists and is not owned by the operator".into(),
            );
        }
        (false, None) => {
            return refused(
                "PVC Issues Found",
                format!("PVC does not exist: persistentvolumeclaims \"{name}\" not found"),
            );
        }
        (false, Some(claim)) => (claim, StorageManagementState::Unmanaged, "PVC Exists", format!("PVC {name} exists")),
    };
    if let Some(message) = access_problem(name, claim, rollout) {
        return refused("PVC Issues Found", message);
    }
    let mut storage = settled(storage, state);
    storage.pvc = Some(Pvc { claim: name.to_owned() });
    Decision::Settled(Box::new(Outcome {
        storage,
        statements: vec![Statement::new(STORAGE_EXISTS, Truth::True, reason, message)],
        pods: Ok(PodStorage {
            env: filesystem_env(),
            volumes: vec![json!({ "name": "registry-storage", "persistentVolumeClaim": { "claimName": name } })],
            mounts: vec![filesystem_mount()],
            ..PodStorage::default()
        }),
    }))
}

/// What speaks against using the claim: ReadWriteMany is always fine, ReadWriteOnce only for one pod at a time
/// (OpenShift 4.6 registry docs, sections 3.5.1 and 3.5.4).
fn access_problem(name: &str, claim: &PersistentVolumeClaim, rollout: Rollout) -> Option<String> {
    let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    let has = |mode: &str| modes.iter().any(|each| each == mode);
    if has("ReadWriteMany") {
        None
    } else if !has("ReadWriteOnce") {
        Some(format!("PVC {name} does not contain the necessary access modes (ReadWriteMany or ReadWriteOnce)"))
    } else if rollout.replicas > 1 {
        Some("cannot use ReadWriteOnce access mode with more than one replica of the image registry".into())
    } else if rollout.strategy != RolloutStrategy::Recreate {
        Some("cannot use ReadWriteOnce access mode with RollingUpdate rollout strategy".into())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn claim(modes: &[&str], owned: bool) -> PersistentVolumeClaim {
        let annotations = if owned { json!({ names::OWNED_ANNOTATION: "true" }) } else { json!({}) };
        serde_json::from_value(json!({
            "metadata": { "name": "c", "annotations": annotations },
            "spec": { "accessModes": modes },
        }))
        .expect("a claim")
    }

    const ONE: Rollout = Rollout { replicas: 1, strategy: RolloutStrategy::Recreate };
    const TWO: Rollout = Rollout { replicas: 2, strategy: RolloutStrategy::RollingUpdate };
    const ROLLING: Rollout = Rollout { replicas: 1, strategy: RolloutStrategy::RollingUpdate };

    #[rstest]
    #[case::create("", None, ROLLING, "create")]
    #[case::adopt("", Some(claim(&["ReadWriteMany"], true)), ROLLING, "True PVC Created image-registry-storage Managed")]
    #[case::foreign("", Some(claim(&["ReadWriteMany"], false)), ROLLING, "False PVC Already Exists")]
    #[case::named("c", Some(claim(&["ReadWriteMany"], false)), TWO, "True PVC Exists c Unmanaged")]
    #[case::missing("c", None, TWO, "False PVC Issues Found")]
    #[case::rwo("c", Some(claim(&["ReadWriteOnce"], false)), ONE, "True PVC Exists c Unmanaged")]
    #[case::rwo_two("c", Some(claim(&["ReadWriteOnce"], false)), TWO, "False PVC Issues Found")]
    #[case::rwo_rolling("c", Some(claim(&["ReadWriteOnce"], false)), ROLLING, "False PVC Issues Found")]
    #[case::rox("c", Some(claim(&["ReadOnlyMany"], false)), ONE, "False PVC Issues Found")]
    fn decisions(
        #[case] name: &str,
        #[case] existing: Option<PersistentVolumeClaim>,
        #[case] rollout: Rollout,
        #[case] want: &str,
    ) {
        let pvc = Pvc { claim: name.into() };
        let storage = Storage { pvc: Some(pvc.clone()), ..Storage::default() };
        let got = match decide(&storage, &pvc, existing.as_ref(), rollout) {
            Decision::Create => "create".to_owned(),
            Decision::Settled(outcome) => {
                let said = &outcome.statements[0];
                let mut text = format!("{} {}", said.truth.as_str(), said.reason);
                if outcome.pods.is_ok() {
                    let claim = outcome.storage.pvc.as_ref().map(|pvc| pvc.claim.clone()).unwrap_or_default();
                    text.push_str(&format!(" {claim} {:?}", outcome.storage.management_state.expect("settled")));
                }
                text
            }
        };
        assert_eq!(got, want);
    }

    #[test]
    fn a_blank_claim_is_made_also_when_unmanaged() {
        let storage = Storage {
            pvc: Some(Pvc::default()),
            management_state: Some(StorageManagementState::Unmanaged),
            ..Storage::default()
        };
        assert!(matches!(decide(&storage, &Pvc::default(), None, ONE), Decision::Create));
        let made = claim(&["ReadWriteMany"], true);
        let Decision::Settled(outcome) = decide(&storage, &Pvc::default(), Some(&made), ONE) else {
            panic!("made twice");
        };
        assert_eq!(outcome.storage.management_state, Some(StorageManagementState::Unmanaged), "the user's word stays");
    }
}
