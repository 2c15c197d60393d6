//! Provisions volumes for claims of the default storage class: a folder each, shared by all nodes of this process.
//! Binding is done by Kubernetes itself; this makes the volume object, and removes the folder with it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::{
    api::{
        core::v1::{
            HostPathVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec,
        },
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::PostParams,
    runtime::{WatchStreamExt, watcher},
};
use tokio_util::sync::CancellationToken;

/// The storage class, marked as the default one. It binds immediately.
pub const CLASS: &str = "local";
/// Its provisioner.
pub const PROVISIONER: &str = "registry-conformance.local/folder";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const RETRY: Duration = Duration::from_millis(500);

/// The folder of a volume that was provisioned here; none for any other volume.
pub(crate) fn folder(volume: &PersistentVolume) -> Option<PathBuf> {
    if !is_ours(volume) {
        return None;
    }
    Some(PathBuf::from(&volume.spec.as_ref()?.host_path.as_ref()?.path))
}

fn is_ours(volume: &PersistentVolume) -> bool {
    let annotations = volume.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(PROVISIONED_BY)).is_some_and(|by| by == PROVISIONER)
}

/// Makes the storage class and serves claims until `stop`.
pub(crate) async fn run(client: Client, volumes: PathBuf, stop: CancellationToken) {
    let work = async {
        while let Err(error) = create_class(&client).await {
            tracing::warn!(%error, "creating storage class {CLASS} failed; trying again");
            tokio::time::sleep(RETRY).await;
        }
        tokio::join!(provision(&client, &volumes), reclaim(&client));
    };
    tokio::select! {
        () = stop.cancelled() => (),
        () = work => (),
    }
}

async fn create_class(client: &Client) -> Result<(), kube::Error> {
    let class: StorageClass = serde_json::from_value(serde_json::json!({
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }))
    .map_err(kube::Error::SerdeError)?;
    match Api::<StorageClass>::all(client.clone()).create(&PostParams::default(), &class).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        result => result.map(drop),
    }
}

async fn provision(client: &Client, volumes: &Path) {
    let claims = watcher(Api::<PersistentVolumeClaim>::all(client.clone()), watcher::Config::default());
    let mut claims = std::pin::pin!(claims.default_backoff().applied_objects());
    while let Some(claim) = claims.next().await {
        let Ok(claim) = claim else { continue };
        while let Err(error) = provision_one(client, volumes, &claim).await {
            tracing::warn!(claim = claim.metadata.name, %error, "provisioning a volume failed; trying again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn provision_one(client: &Client, volumes: &Path, claim: &PersistentVolumeClaim) -> Result<(), kube::Error> {
    let Some(volume) = volume_for(claim, volumes) else { return Ok(()) };
    let path = folder(&volume).unwrap_or_default();
    std::fs::create_dir_all(&path).map_err(|error| kube::Error::Service(Box::new(error)))?;
    match Api::<PersistentVolume>::all(client.clone()).create(&PostParams::default(), &volume).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        result => result.map(drop),
    }
}

/// The volume for a claim that waits for one of our class; none if it does not.
fn volume_for(claim: &PersistentVolumeClaim, volumes: &Path) -> Option<PersistentVolume> {
    let spec = claim.spec.as_ref()?;
    let waits =
        spec.volume_name.as_deref().unwrap_or_default().is_empty() && claim.metadata.deletion_timestamp.is_none();
    if !waits || spec.storage_class_name.as_deref() != Some(CLASS) || spec.selector.is_some() {
        return None;
    }
    let name = format!("pvc-{}", claim.metadata.uid.as_ref()?);
    let path = volumes.join(&name).to_string_lossy().into_owned();
    Some(PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name),
            annotations: Some([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes.clone(),
            capacity: spec.resources.as_ref().and_then(|resources| resources.requests.clone()),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("PersistentVolumeClaim".into()),
                namespace: claim.metadata.namespace.clone(),
                name: claim.metadata.name.clone(),
                uid: claim.metadata.uid.clone(),
                ..ObjectReference::default()
            }),
            host_path: Some(HostPathVolumeSource { path, type_: Some("Directory".into()) }),
            persistent_volume_reclaim_policy: Some("Delete".into()),
            storage_class_name: Some(CLASS.into()),
            volume_mode: spec.volume_mode.clone(),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    })
}

/// Removes released volumes: first the object's folder, then the object.
async fn reclaim(client: &Client) {
    let api = Api::<PersistentVolume>::all(client.clone());
    let volumes = watcher(api.clone(), watcher::Config::default());
    let mut volumes = std::pin::pin!(volumes.default_backoff().applied_objects());
    while let Some(volume) = volumes.next().await {
        let Ok(volume) = volume else { continue };
        let is_released = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released");
        let is_deletable =
            volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()) == Some("Delete");
        let (Some(folder), Some(name), true) = (folder(&volume), &volume.metadata.name, is_released && is_deletable)
        else {
            continue;
        };
        let removed = tokio::fs::remove_dir_all(&folder).await;
        if let Err(error) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(volume = name, %error, "the folder of a released volume cannot be removed");
            continue;
        }
        if let Err(error) = api.delete(name, &kube::api::DeleteParams::default()).await {
            tracing::warn!(volume = name, %error, "a released volume cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(serde_json::json!({"storageClassName": "local"}), true)]
    #[case(serde_json::json!({"storageClassName": "local", "volumeName": "x"}), false)]
    #[case(serde_json::json!({"storageClassName": "other"}), false)]
    #[case(serde_json::json!({}), false)]
    fn only_waiting_claims_of_our_class_are_served(#[case] spec: serde_json::Value, #[case] served: bool) {
        let claim = serde_json::json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": spec});
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        let volume = volume_for(&claim, Path::new("/v"));
        assert_eq!(volume.is_some(), served);
        if let Some(volume) = volume {
            assert_eq!(folder(&volume), Some(PathBuf::from("/v/pvc-u")));
        }
    }
}
