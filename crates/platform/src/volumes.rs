//! Volumes for claims of the default storage class: a folder each, in one that all nodes share.
//! Binding is Kubernetes' own; this makes the volume, and removes it with its folder once its claim is gone.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::volumes::ON_NODES;
use futures::future;
use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::DeleteParams;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use tokio::sync::Notify;

use crate::Error;
use crate::cache;
use crate::cluster::Cluster;
use crate::error::is_not_found;

/// The storage class. Where there are several default ones, Kubernetes takes the newest.
const CLASS: &str = "shared-folder";
const PROVISIONER: &str = "registry-conformance.local/folder";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const DELETE: &str = "Delete";
/// Whoever a pod runs as may write into its volume.
const EVERYBODY: u32 = 0o777;

/// Makes the storage class and serves claims from now on. `folder` is the shared one, as this process sees it.
pub(crate) async fn start(cluster: &Cluster, folder: &Path) -> Result<(), Error> {
    cluster.create_if_absent(&Api::all(cluster.client.clone()), &class()).await?;
    let changed = Arc::new(Notify::new());
    let claims = Api::<PersistentVolumeClaim>::all(cluster.client.clone());
    let volumes = Api::<PersistentVolume>::all(cluster.client.clone());
    let (claims, made) = tokio::join!(
        cache::watch(cluster, claims, watcher::Config::default(), &changed),
        cache::watch(cluster, volumes, watcher::Config::default(), &changed),
    );
    let provisioner = Arc::new(Provisioner { cluster: cluster.clone(), folder: folder.to_owned() });
    let pass = move || {
        let (provisioner, claims, made) = (Arc::clone(&provisioner), claims.state(), made.state());
        async move {
            let wanted = claims.iter().filter_map(|claim| volume_for(claim));
            let missing = wanted.filter(|volume| !made.iter().any(|made| made.metadata.name == volume.metadata.name));
            let served = future::join_all(missing.map(|volume| provisioner.make(volume)));
            let released = made.iter().filter(|volume| is_released(volume));
            let removed = future::join_all(released.map(|volume| provisioner.remove(volume)));
            let (served, removed) = tokio::join!(served, removed);
            // One that cannot be served keeps no other waiting.
            served.into_iter().chain(removed).collect()
        }
    };
    cache::drive(cluster, "volumes", changed, pass).await;
    Ok(())
}

struct Provisioner {
    cluster: Cluster,
    folder: PathBuf,
}

impl Provisioner {
    /// First the folder, then the volume that leads to it.
    async fn make(&self, volume: PersistentVolume) -> Result<(), Error> {
        let path = self.folder.join(volume.name_any());
        make_folder(&path).map_err(|source| Error::Write { path, source })?;
        self.cluster.create_if_absent(&Api::all(self.cluster.client.clone()), &volume).await.map(drop)
    }

    /// First the folder, then the volume: what is left after a failure is found again.
    async fn remove(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let name = volume.name_any();
        let path = self.folder.join(&name);
        match tokio::fs::remove_dir_all(&path).await {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(Error::Remove { path, source }),
            _ => {}
        }
        let volumes = Api::<PersistentVolume>::all(self.cluster.client.clone());
        match volumes.delete(&name, &DeleteParams::default()).await {
            Err(error) if !is_not_found(&error) => Err(Error::api(format!("deleting the volume {name}"))(error)),
            _ => Ok(()),
        }
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, Permissions::from_mode(EVERYBODY))
}

fn class() -> StorageClass {
    StorageClass {
        metadata: ObjectMeta {
            name: Some(CLASS.into()),
            annotations: Some([(DEFAULT_CLASS.to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        },
        provisioner: PROVISIONER.into(),
        reclaim_policy: Some(DELETE.into()),
        volume_binding_mode: Some("Immediate".into()),
        ..StorageClass::default()
    }
}

/// The volume for a claim that waits for one of our class; none if it does not.
fn volume_for(claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let spec = claim.spec.as_ref()?;
    let waits =
        spec.volume_name.as_deref().unwrap_or_default().is_empty() && claim.metadata.deletion_timestamp.is_none();
    if !waits || spec.storage_class_name.as_deref() != Some(CLASS) || spec.selector.is_some() {
        return None;
    }
    let name = format!("pvc-{}", claim.uid()?);
    Some(PersistentVolume {
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes.clone(),
            capacity: spec.resources.as_ref().and_then(|resources| resources.requests.clone()),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("PersistentVolumeClaim".into()),
                namespace: claim.namespace(),
                name: claim.metadata.name.clone(),
                uid: claim.uid(),
                ..ObjectReference::default()
            }),
            host_path: Some(HostPathVolumeSource {
                path: format!("{ON_NODES}/{name}"),
                type_: Some("Directory".into()),
            }),
            persistent_volume_reclaim_policy: Some(DELETE.into()),
            storage_class_name: Some(CLASS.into()),
            volume_mode: spec.volume_mode.clone(),
            ..PersistentVolumeSpec::default()
        }),
        metadata: ObjectMeta {
            name: Some(name),
            annotations: Some([(PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())].into()),
            ..ObjectMeta::default()
        },
        status: None,
    })
}

/// True if it was made here, its claim is gone, and nobody wants to keep it.
fn is_released(volume: &PersistentVolume) -> bool {
    let is_ours = volume.annotations().get(PROVISIONED_BY).is_some_and(|by| by == PROVISIONER);
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    is_ours && phase == Some("Released") && policy == Some(DELETE)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::waits(json!({"storageClassName": CLASS}), true)]
    #[case::has_one(json!({"storageClassName": CLASS, "volumeName": "x"}), false)]
    #[case::of_another_class(json!({"storageClassName": "other"}), false)]
    #[case::without_a_class(json!({}), false)]
    fn only_waiting_claims_of_our_class_are_served(#[case] spec: serde_json::Value, #[case] served: bool) {
        let claim = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": spec});
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).expect("a claim");
        let path = volume_for(&claim).map(|volume| volume.spec.expect("a spec").host_path.expect("a path").path);
        assert_eq!(path, served.then(|| format!("{ON_NODES}/pvc-u")));
    }

    #[rstest]
    #[case::ours(PROVISIONER, "Released", DELETE, true)]
    #[case::in_use(PROVISIONER, "Bound", DELETE, false)]
    #[case::to_be_kept(PROVISIONER, "Released", "Retain", false)]
    #[case::of_another("rancher.io/local-path", "Released", DELETE, false)]
    fn only_volumes_that_nobody_wants_are_removed(
        #[case] by: &str,
        #[case] phase: &str,
        #[case] policy: &str,
        #[case] expected: bool,
    ) {
        let volume = json!({
            "metadata": {"name": "v", "annotations": {PROVISIONED_BY: by}},
            "spec": {"persistentVolumeReclaimPolicy": policy},
            "status": {"phase": phase},
        });
        assert_eq!(is_released(&serde_json::from_value(volume).expect("a volume")), expected);
    }
}
