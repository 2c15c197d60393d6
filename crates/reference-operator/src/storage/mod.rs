//! Storage of the registry: which backend a Config asks for, and what the registry's pods need to use it.
//! Each backend decides in its own file; calls to object storage are made by `bucket`.

pub mod azure;
pub mod bucket;
pub mod empty_dir;
pub mod gcs;
pub mod gcs_bucket;
pub mod pvc;
pub mod s3;

use std::collections::BTreeMap;

use api::imageregistry::{Azure, Gcs, Pvc, S3, Storage, StorageManagementState};
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use crate::condition::{Statement, Truth};
use crate::error::SyncError;

/// Condition type that says whether the storage is there.
pub const STORAGE_EXISTS: &str = "StorageExists";

/// Reason of what has no better one.
const UNKNOWN: &str = "Unknown Error Occurred";
/// Length of generated names.
const NAME_LENGTH: usize = 62;

/// The one backend a storage stanza names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Backend<'a> {
    /// The pods' own volume.
    EmptyDir,
    /// A claim.
    Pvc(&'a Pvc),
    /// S3 or compatible.
    S3(&'a S3),
    /// Google Cloud Storage.
    Gcs(&'a Gcs),
    /// Azure Blob Storage.
    Azure(&'a Azure),
    /// Documented, but not carried out by this operator.
    Unsupported(&'static str),
}

/// The backend of `storage`, `None` when no stanza is set.
///
/// # Errors
/// [`SyncError::Storage`] for more than one stanza (operator source pkg/storage/storage.go:41-44, main).
pub fn backend(storage: &Storage) -> Result<Option<Backend<'_>>, SyncError> {
    let set = [
        ("Azure", storage.azure.as_ref().map(Backend::Azure)),
        ("EmptyDir", storage.empty_dir.as_ref().map(|_| Backend::EmptyDir)),
        ("GCS", storage.gcs.as_ref().map(Backend::Gcs)),
        ("IBMCOS", storage.ibm_cos.as_ref().map(|_| Backend::Unsupported("ibmcos"))),
        ("OSS", storage.oss.as_ref().map(|_| Backend::Unsupported("oss"))),
        ("PVC", storage.pvc.as_ref().map(Backend::Pvc)),
        ("S3", storage.s3.as_ref().map(Backend::S3)),
        ("Swift", storage.swift.as_ref().map(|_| Backend::Unsupported("swift"))),
    ];
    let named: Vec<_> = set.iter().filter_map(|(name, backend)| backend.map(|backend| (*name, backend))).collect();
    match named.as_slice() {
        [] => Ok(None),
        [(_, one)] => Ok(Some(*one)),
        many => Err(SyncError::Storage {
            message: format!(
                "exactly one storage type should be configured at the same time, got {}: [{}]",
                many.len(),
                many.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
            ),
        }),
    }
}

/// Whether two stanzas name different kinds of backend, management state aside.
pub fn is_reconfigured(before: &Storage, after: &Storage) -> bool {
    let bare = |storage: &Storage| Storage { management_state: None, ..storage.clone() };
    !bare(before).is_unset() && bare(before) != bare(after)
}

/// What the registry's pods need for one backend.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodStorage {
    /// Environment entries of the container.
    pub env: Vec<Value>,
    /// Volumes of the pod.
    pub volumes: Vec<Value>,
    /// Mounts of the container.
    pub mounts: Vec<Value>,
    /// Content of the Secret the operator makes for the pods; credentials, never logged.
    pub secret: BTreeMap<String, String>,
}

/// What came of looking at the storage: settled spec, conditions, and what pods need or why they get nothing.
#[derive(Debug)]
pub struct Outcome {
    /// The stanza as it is to stand in the Config, with generated names and the management state.
    pub storage: Storage,
    /// Conditions about the storage, written also when `pods` is an error.
    pub statements: Vec<Statement>,
    /// What the Deployment is given.
    pub pods: Result<PodStorage, SyncError>,
}

impl Outcome {
    /// An outcome that ends in an error named by one `StorageExists` condition.
    pub fn refused(storage: &Storage, truth: Truth, reason: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            storage: storage.clone(),
            statements: vec![Statement::new(STORAGE_EXISTS, truth, reason, message.clone())],
            pods: Err(SyncError::Storage { message }),
        }
    }
}

/// `storage` with the management state filled in if it was empty; an explicit value is never overwritten.
pub fn settled(storage: &Storage, state: StorageManagementState) -> Storage {
    Storage { management_state: Some(storage.management_state.unwrap_or(state)), ..storage.clone() }
}

/// An environment entry with a literal value.
pub fn literal(name: &str, value: impl Into<String>) -> Value {
    json!({ "name": name, "value": value.into() })
}

/// An environment entry taken from the Secret the operator makes for the pods.
pub fn from_secret(name: &str, key: &str) -> Value {
    let secret = api::names::STORAGE_SECRET;
    json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": secret, "key": key } } })
}

/// Environment of a registry that keeps blobs below `/registry`.
pub fn filesystem_env() -> Vec<Value> {
    vec![literal("REGISTRY_STORAGE", "filesystem"), literal("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "/registry")]
}

/// The mount of the volume `registry-storage`.
pub fn filesystem_mount() -> Value {
    json!({ "name": "registry-storage", "mountPath": "/registry" })
}

/// The text under `key` of the administrator's Secret.
///
/// # Errors
/// [`SyncError::Missing`] naming Secret and key; there is no fallback once the Secret exists
/// (operator source pkg/storage/s3/s3.go:199-231, main). An empty value counts as missing.
pub fn user_key(secret: &Secret, key: &str) -> Result<String, SyncError> {
    let name = api::names::USER_STORAGE_SECRET;
    let namespace = secret.metadata.namespace.as_deref().unwrap_or(api::names::REGISTRY_NAMESPACE);
    let value = secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| String::from_utf8_lossy(&bytes.0));
    match value {
        Some(value) if !value.is_empty() => Ok(value.into_owned()),
        Some(_) => Err(SyncError::Missing {
            message: format!("secret \"{namespace}/{name}\" contains an empty value for required key \"{key}\""),
        }),
        None => Err(SyncError::Missing {
            message: format!("secret \"{namespace}/{name}\" does not contain required key \"{key}\""),
        }),
    }
}

/// `<cluster>-image-registry[-<region>]-<letters>`, lower case, 62 characters
/// (operator source pkg/storage/util/util.go:92-146, main).
fn generated_name(cluster: &str, region: &str) -> String {
    let parts: Vec<&str> = [cluster, "image-registry", region].into_iter().filter(|part| !part.is_empty()).collect();
    let mut name = format!("{}-", parts.join("-")).to_lowercase();
    name.truncate(NAME_LENGTH);
    let random = (0..4).flat_map(|_| uuid::Uuid::new_v4().into_bytes());
    name.extend(random.take(NAME_LENGTH - name.len()).map(|byte| char::from(b'a' + byte % 25)));
    name
}

/// The text under `key` of the cluster's own credentials.
///
/// # Errors
/// [`SyncError::Missing`] naming Secret and key (operator source pkg/storage/s3/s3.go:69-102, release-4.2).
fn minted_key(minted: Option<&Secret>, key: &str, namespace: &str) -> Result<String, SyncError> {
    let name = api::names::MINTED_STORAGE_SECRET;
    let missing = |what: &str| SyncError::Missing {
        message: format!("unable to get cluster minted credentials \"{namespace}/{name}\": {what}"),
    };
    let secret = minted.ok_or_else(|| missing(&format!("secret \"{name}\" not found")))?;
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    let text = bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).filter(|text| !text.is_empty());
    text.ok_or_else(|| missing(&format!("secret \"{name}\" does not contain required key \"{key}\"")))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use rstest::rstest;

    use super::*;

    fn storage(value: Value) -> Storage {
        serde_json::from_value(value).expect("a storage stanza")
    }

    #[rstest]
    #[case::none(json!({}), Ok(None))]
    #[case::state_alone(json!({"managementState": "Managed"}), Ok(None))]
    #[case::empty_dir(json!({"emptyDir": {}}), Ok(Some("EmptyDir")))]
    #[case::two(
        json!({"emptyDir": {}, "s3": {}}),
        Err("exactly one storage type should be configured at the same time, got 2: [EmptyDir S3]")
    )]
    fn exactly_one_backend(#[case] value: Value, #[case] want: Result<Option<&str>, &str>) {
        let storage = storage(value);
        match (backend(&storage), want) {
            (Ok(got), Ok(want)) => assert_eq!(got.map(|backend| format!("{backend:?}")), want.map(str::to_owned)),
            (Err(error), Err(want)) => assert!(error.to_string().ends_with(want), "{error}"),
            (got, want) => panic!("got {got:?}, want {want:?}"),
        }
    }

    #[rstest]
    #[case::first_time(json!({}), json!({"emptyDir": {}}), false)]
    #[case::same(json!({"emptyDir": {}, "managementState": "Managed"}), json!({"emptyDir": {}}), false)]
    #[case::other_kind(json!({"s3": {"bucket": "b"}}), json!({"emptyDir": {}}), true)]
    #[case::other_bucket(json!({"s3": {"bucket": "b"}}), json!({"s3": {"bucket": "c"}}), true)]
    fn reconfiguration(#[case] before: Value, #[case] after: Value, #[case] want: bool) {
        assert_eq!(is_reconfigured(&storage(before), &storage(after)), want);
    }

    #[rstest]
    #[case::there("A", Ok("secret-a"))]
    #[case::empty("B", Err("contains an empty value for required key \"B\""))]
    #[case::absent(
        "C",
        Err(
            "secret \"openshift-image-registry/image-registry-private-configuration-user\" does not contain required key \"C\""
        )
    )]
    fn keys_of_the_users_secret(#[case] key: &str, #[case] want: Result<&str, &str>) {
        let data = [("A".to_owned(), ByteString(b"secret-a".to_vec())), ("B".to_owned(), ByteString(Vec::new()))];
        let secret = Secret { data: Some(data.into()), ..Secret::default() };
        match (user_key(&secret, key), want) {
            (Ok(got), Ok(want)) => assert_eq!(got, want),
            (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{error}"),
            (got, want) => panic!("got {got:?}, want {want:?}"),
        }
    }
}
