//! Storage in a bucket of Google Cloud Storage: names, credentials, the registry's environment, and what is said about it.
//! Requests are made by `gcs_bucket`; a bucket somebody else manages is only looked at.

use api::config::{Infrastructure, InfrastructureStatus};
use api::imageregistry::{Config, Gcs, StorageManagementState};
use api::names;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use super::bucket::Failure;
use super::gcs_bucket::{Bucket, Making};
use super::{Outcome, PodStorage, STORAGE_EXISTS, UNKNOWN, generated_name, literal, minted_key, user_key};
use crate::cache::Cached;
use crate::condition::{Statement, Truth};
use crate::context::Context;
use crate::error::SyncError;

/// Key of the administrator's Secret, and of the one made for the pods; the pods' variable has the same name.
const KEY_FILE: &str = "REGISTRY_STORAGE_GCS_KEYFILE";
/// Key of the cluster's own credentials.
const MINTED_KEY: &str = "service_account.json";
const VOLUME: &str = "registry-storage-keyfile";
const FOLDER: &str = "/gcs";
const FILE: &str = "keyfile";

/// Fills in what is left open: region and project of the platform if no region is given, and a generated bucket name.
/// Says whether the name was generated (operator source pkg/storage/gcs/gcs.go:61-64,205-249, main).
pub fn complete(gcs: &mut Gcs, infrastructure: Option<&InfrastructureStatus>) -> bool {
    let platform = infrastructure.and_then(|status| status.platform_status.as_ref()?.gcp.as_ref());
    if gcs.region.is_empty()
        && let Some(platform) = platform
    {
        let text = |field: &str| platform[field].as_str().unwrap_or_default().to_owned();
        gcs.region = text("region");
        if gcs.project_id.is_empty() {
            gcs.project_id = text("projectID");
        }
    }
    if !gcs.bucket.is_empty() {
        return false;
    }
    let cluster = infrastructure.map(|status| status.infrastructure_name.as_str()).unwrap_or_default();
    gcs.bucket = generated_name(cluster, &gcs.region);
    true
}

/// The key file in force: the administrator's whenever that Secret exists, else the cluster's own
/// (OpenShift 4.6 registry docs, section 3.2.1; operator source pkg/storage/gcs/gcs.go:98-119, main).
fn key_file(user: Option<&Secret>, minted: Option<&Secret>, namespace: &str) -> Result<String, SyncError> {
    match user {
        Some(secret) => user_key(secret, KEY_FILE),
        None => minted_key(minted, MINTED_KEY, namespace),
    }
}

/// What the registry's pods need (operator source pkg/storage/gcs/gcs.go:128-173, main).
fn pod_storage(gcs: &Gcs, key_file: String) -> PodStorage {
    PodStorage {
        env: vec![
            literal("REGISTRY_STORAGE", "gcs"),
            literal("REGISTRY_STORAGE_GCS_BUCKET", &gcs.bucket),
            literal(KEY_FILE, format!("{FOLDER}/{FILE}")),
        ],
        volumes: vec![json!({ "name": VOLUME, "secret": {
            "secretName": names::STORAGE_SECRET,
            "items": [{ "key": KEY_FILE, "path": FILE }],
        } })],
        mounts: vec![json!({ "name": VOLUME, "mountPath": FOLDER, "readOnly": true })],
        secret: [(KEY_FILE.to_owned(), key_file)].into(),
    }
}

fn open(context: &Context, gcs: &Gcs, user: Option<&Secret>) -> Result<(Bucket, String), SyncError> {
    let minted = Secret::find(&context.cache, names::MINTED_STORAGE_SECRET);
    let key_file = key_file(user, minted.as_deref(), context.namespace())?;
    let bucket = Bucket::new(&context.options.gcs_endpoint, &gcs.bucket, &key_file);
    let bucket = bucket.map_err(|failure| SyncError::Storage { message: failure.to_string() })?;
    Ok((bucket, key_file))
}

/// Looks at the bucket, makes it if the storage is the operator's, and says what was found. A named bucket with state
/// Unmanaged is only looked at (OpenShift 4.6 registry docs, section 2.3); one whose name was `generated` in this pass
/// has to be made whatever the state.
pub async fn ensure(context: &Context, config: &Config, gcs: &Gcs, user: Option<&Secret>, generated: bool) -> Outcome {
    let storage = &config.spec.storage;
    let (bucket, key_file) = match open(context, gcs, user) {
        Ok(opened) => opened,
        Err(error) => {
            let said = Statement::new(STORAGE_EXISTS, Truth::Unknown, UNKNOWN, error.to_string());
            return Outcome { storage: storage.clone(), statements: vec![said], pods: Err(error) };
        }
    };
    let managed = storage.management_state == Some(StorageManagementState::Managed);
    let refused = |failure: &Failure, what: &str| {
        let (truth, reason) = named(failure);
        Outcome::refused(storage, truth, &reason, format!("unable to {what} GCS bucket {}: {failure}", gcs.bucket))
    };
    let statements = match bucket.exists().await {
        Ok(true) => {
            let message = if managed {
                "GCS bucket exists and is accessible"
            } else {
                "User supplied GCS bucket exists and is accessible"
            };
            vec![Statement::new(STORAGE_EXISTS, true, "GCS Bucket Exists", message)]
        }
        Ok(false) if managed || generated => {
            let infrastructure = Infrastructure::find(&context.cache, names::CLUSTER);
            let making = making(gcs, infrastructure.as_ref().and_then(|found| found.status.as_ref()));
            if let Err(failure) = bucket.create(&making).await {
                return refused(&failure, "create");
            }
            tracing::info!(bucket = gcs.bucket, "made GCS bucket {}", gcs.bucket);
            made(&making)
        }
        Ok(false) => {
            let message = format!("Bucket {} does not exist", gcs.bucket);
            return Outcome::refused(storage, Truth::False, "Bucket does not exist", message);
        }
        Err(failure) => return refused(&failure, "access"),
    };
    // What was said when the bucket was made stands as long as it is in use.
    let in_use = config.status.as_ref().filter(|status| status.storage == *storage);
    let known = in_use.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let stands = statements[0].reason == "GCS Bucket Exists"
        && known.iter().any(|said| said.type_ == STORAGE_EXISTS && said.is_true());
    let statements = if stands { Vec::new() } else { statements };
    Outcome { storage: storage.clone(), statements, pods: Ok(pod_storage(gcs, key_file)) }
}

/// What a failure is called: the status of a refusal (operator source pkg/storage/gcs/gcs.go:265-295, main).
fn named(failure: &Failure) -> (Truth, String) {
    match failure {
        Failure::Refused { code, .. } => (Truth::False, code.clone()),
        Failure::Unreachable(_) => (Truth::Unknown, UNKNOWN.to_owned()),
    }
}

/// What the operator's own bucket is made with (operator source pkg/storage/gcs/gcs.go:250-295, main).
fn making(gcs: &Gcs, infrastructure: Option<&InfrastructureStatus>) -> Making {
    let cluster = infrastructure.map(|status| status.infrastructure_name.as_str()).unwrap_or_default();
    Making {
        project: gcs.project_id.clone(),
        location: gcs.region.clone(),
        labels: [(format!("kubernetes-io-cluster-{}", cluster.to_lowercase()), "owned".to_owned())].into(),
        kms_key: gcs.key_id.clone(),
    }
}

fn made(making: &Making) -> Vec<Statement> {
    let mut said = vec![
        Statement::new(STORAGE_EXISTS, true, "Creation Successful", "GCS bucket was successfully created"),
        Statement::new("StorageLabeled", true, "Bucket Labeled Successfully", "Labels were applied to the GCS bucket"),
    ];
    if !making.kms_key.is_empty() {
        let message = "Encryption with the given key was enabled on the GCS bucket";
        said.push(Statement::new("StorageEncrypted", true, "Encryption Successful", message));
    }
    said
}

/// Empties and deletes the bucket.
///
/// # Errors
/// Missing credentials, or the service's refusal; the bucket then stays and the removal is tried again.
pub async fn delete(context: &Context, gcs: &Gcs) -> Result<(), SyncError> {
    let user = Secret::find(&context.cache, names::USER_STORAGE_SECRET);
    let (bucket, _) = open(context, gcs, user.as_deref())?;
    bucket.delete().await.map_err(|failure| SyncError::Storage {
        message: format!("unable to delete GCS bucket {}: {failure}", gcs.bucket),
    })?;
    tracing::info!(bucket = gcs.bucket, "deleted GCS bucket {}", gcs.bucket);
    Ok(())
}

#[cfg(test)]
mod tests {
    use api::config::PlatformStatus;
    use k8s_openapi::ByteString;
    use rstest::rstest;

    use super::*;

    fn secret(keys: &[(&str, &str)]) -> Secret {
        let data = keys.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()))).collect();
        Secret { data: Some(data), ..Secret::default() }
    }

    fn gcp() -> InfrastructureStatus {
        InfrastructureStatus {
            infrastructure_name: "Lane-1".into(),
            platform_status: Some(PlatformStatus {
                type_: "GCP".into(),
                gcp: Some(json!({ "region": "europe-west1", "projectID": "project" })),
                ..PlatformStatus::default()
            }),
            ..InfrastructureStatus::default()
        }
    }

    #[test]
    fn open_fields_are_filled_from_the_platform() {
        let mut gcs = Gcs::default();
        assert!(complete(&mut gcs, Some(&gcp())));
        assert_eq!((gcs.region.as_str(), gcs.project_id.as_str()), ("europe-west1", "project"));
        assert!(gcs.bucket.starts_with("lane-1-image-registry-europe-west1-"), "{}", gcs.bucket);
        let mut given = Gcs { bucket: "mine".into(), region: "us".into(), ..Gcs::default() };
        assert!(!complete(&mut given, Some(&gcp())));
        assert_eq!((given.bucket.as_str(), given.project_id.as_str()), ("mine", ""));
    }

    #[rstest]
    #[case::user(Some(secret(&[(KEY_FILE, "{a}")])), Some(secret(&[(MINTED_KEY, "{m}")])), Ok("{a}"))]
    #[case::user_incomplete(Some(secret(&[])), Some(secret(&[(MINTED_KEY, "{m}")])),
        Err("image-registry-private-configuration-user\" does not contain required key \"REGISTRY_STORAGE_GCS_KEYFILE\""))]
    #[case::minted(None, Some(secret(&[(MINTED_KEY, "{m}")])), Ok("{m}"))]
    #[case::none(None, None, Err("unable to get cluster minted credentials \"ns/installer-cloud-credentials\""))]
    fn whose_credentials(
        #[case] user: Option<Secret>,
        #[case] minted: Option<Secret>,
        #[case] want: Result<&str, &str>,
    ) {
        match (key_file(user.as_ref(), minted.as_ref(), "ns"), want) {
            (Ok(got), Ok(want)) => assert_eq!(got, want),
            (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{error}"),
            (got, want) => panic!("got {got:?}, want {want:?}"),
        }
    }

    #[test]
    fn pods_get_the_key_as_a_file() {
        let pods = pod_storage(&Gcs { bucket: "b".into(), ..Gcs::default() }, "{key}".into());
        let value =
            |name: &str| pods.env.iter().find(|entry| entry["name"] == name).map(|entry| entry["value"].clone());
        assert_eq!(value("REGISTRY_STORAGE"), Some(json!("gcs")));
        assert_eq!(value("REGISTRY_STORAGE_GCS_BUCKET"), Some(json!("b")));
        assert_eq!(value("REGISTRY_STORAGE_GCS_KEYFILE"), Some(json!("/gcs/keyfile")));
        assert_eq!(pods.mounts[0]["mountPath"], "/gcs");
        assert_eq!(pods.volumes[0]["secret"]["items"][0]["path"], "keyfile");
        assert_eq!(pods.secret[KEY_FILE], "{key}");
    }

    #[rstest]
    #[case::refused(Failure::Refused { status: 403, code: "403".into(), message: String::new() }, Truth::False, "403")]
    #[case::unreachable(Failure::Unreachable("no route".into()), Truth::Unknown, UNKNOWN)]
    fn failures_have_reasons(#[case] failure: Failure, #[case] truth: Truth, #[case] reason: &str) {
        assert_eq!(named(&failure), (truth, reason.to_owned()));
    }

    #[test]
    fn encryption_is_told_only_with_a_key() {
        let mut asked = making(&Gcs { region: "us".into(), ..Gcs::default() }, Some(&gcp()));
        assert_eq!(asked.labels.keys().next().map(String::as_str), Some("kubernetes-io-cluster-lane-1"));
        assert_eq!(made(&asked).len(), 2);
        asked.kms_key = "key".into();
        assert_eq!(made(&asked).len(), 3);
    }
}
