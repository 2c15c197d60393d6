//! Storage in the pods' own volume, for clusters where losing images is acceptable.
//! Nothing is created or removed; the one rule is that a second pod would not see the first one's blobs.

use api::imageregistry::{Storage, StorageManagementState};
use serde_json::json;

use super::{Outcome, PodStorage, STORAGE_EXISTS, filesystem_env, filesystem_mount, settled};
use crate::condition::{Statement, Truth};
use crate::error::SyncError;

/// What came of asking for an emptyDir with this many replicas.
///
/// More than one replica is refused, as the documents say (OpenShift 4.6 registry docs, section 3.5.3);
/// the original operator lets it pass.
pub fn decide(storage: &Storage, replicas: i32) -> Outcome {
    if replicas > 1 {
        let message = format!(
            "emptyDir storage cannot be used with more than one replica of the image registry, spec.replicas is {replicas}"
        );
        return Outcome {
            storage: settled(storage, StorageManagementState::Managed),
            statements: Vec::new(),
            pods: Err(SyncError::Verification { message }),
        };
    }
    Outcome {
        storage: settled(storage, StorageManagementState::Managed),
        statements: vec![Statement::new(
            STORAGE_EXISTS,
            Truth::True,
            "Creation Successful",
            "EmptyDir storage successfully created",
        )],
        pods: Ok(PodStorage {
            env: filesystem_env(),
            volumes: vec![json!({ "name": "registry-storage", "emptyDir": {} })],
            mounts: vec![filesystem_mount()],
            ..PodStorage::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use api::imageregistry::EmptyDir;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0, true)]
    #[case(1, true)]
    #[case(2, false)]
    fn one_replica_at_most(#[case] replicas: i32, #[case] accepted: bool) {
        let storage = Storage { empty_dir: Some(EmptyDir {}), ..Storage::default() };
        let outcome = decide(&storage, replicas);
        assert_eq!(outcome.storage.management_state, Some(StorageManagementState::Managed));
        match outcome.pods {
            Ok(pods) => assert!(accepted && pods.volumes[0]["emptyDir"].is_object()),
            Err(error) => assert!(!accepted && error.permanent_reason() == Some("VerificationFailed")),
        }
    }
}
