//! The volumes of one pod: where each really lies on this machine, and which of them follow changes in the cluster.
//! Nothing is mounted; containers find a volume by rewritten paths and by links in their root folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, HostPathVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, Volume, VolumeMount,
};
use kube::{Api, Client};

use crate::{
    atomic_folder::{self, Payload},
    environment::Environment,
    payload::{self, PayloadError, Tokens},
    source::SourceName,
};

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("MountVolume.SetUp failed for volume \"{volume}\": {source}")]
    Payload { volume: String, source: PayloadError },
    #[error("MountVolume.SetUp failed for volume \"{volume}\": {reason}")]
    Refused { volume: String, reason: String },
    #[error("MountVolume.SetUp failed for volume \"{volume}\": {path}: {source}")]
    File { volume: String, path: PathBuf, source: std::io::Error },
}

/// Volumes that are ready, by name.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    ready: BTreeMap<String, Ready>,
    tokens: Tokens,
}

#[derive(Debug)]
struct Ready {
    path: PathBuf,
    /// For volumes that are written by us: what was written last.
    payload: Option<Payload>,
}

/// Where the pod and its node keep things.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The pod's own folder.
    pub(crate) pod: PathBuf,
    /// The root folder of the node, under which hostPath volumes lie.
    pub(crate) node_root: PathBuf,
}

impl Volumes {
    /// Makes every volume of the pod ready, or brings those with content from the cluster up to date.
    ///
    /// Safe to repeat; what was ready before an error stays ready.
    pub(crate) async fn prepare(&mut self, context: &payload::Context<'_>, places: &Places) -> Result<(), VolumeError> {
        let volumes = context.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        for volume in volumes {
            if payload::has_payload(volume) {
                self.refresh(volume, context, places).await?;
            } else if !self.ready.contains_key(&volume.name) {
                let path = locate(volume, context.pod, context.client, places).await?;
                self.ready.insert(volume.name.clone(), Ready { path, payload: None });
            }
        }
        Ok(())
    }

    async fn refresh(
        &mut self,
        volume: &Volume,
        context: &payload::Context<'_>,
        places: &Places,
    ) -> Result<(), VolumeError> {
        let name = &volume.name;
        let fresh = payload::compute(volume, context, &mut self.tokens)
            .await
            .map_err(|source| VolumeError::Payload { volume: name.clone(), source })?;
        if self.ready.get(name).is_some_and(|ready| ready.payload.as_ref() == Some(&fresh)) {
            return Ok(());
        }
        let path = places.pod.join("volumes").join(name);
        atomic_folder::write(&path, &fresh).map_err(|source| VolumeError::File {
            volume: name.clone(),
            path: path.clone(),
            source,
        })?;
        self.ready.insert(name.clone(), Ready { path, payload: Some(fresh) });
        Ok(())
    }

    /// When [`Volumes::prepare`] must run again at the latest.
    pub(crate) fn renew_at(&self) -> Option<Timestamp> {
        self.tokens.renew_at()
    }

    /// Mount path and real path of each mount of a container; creates sub-paths that do not exist.
    ///
    /// A sub-path of a volume with content from the cluster is a copy made now: as in Kubernetes it does not follow changes.
    pub(crate) fn mounts(
        &self,
        container: &Container,
        environment: &Environment,
        places: &Places,
    ) -> Result<Vec<(String, PathBuf)>, VolumeError> {
        let mounts = container.volume_mounts.iter().flatten().enumerate();
        mounts
            .map(|(number, mount)| {
                let copy = places.pod.join("subpaths").join(&container.name).join(number.to_string());
                Ok((mount.mount_path.clone(), self.mount(mount, environment, copy)?))
            })
            .collect()
    }

    fn mount(&self, mount: &VolumeMount, environment: &Environment, copy: PathBuf) -> Result<PathBuf, VolumeError> {
        let refused = |reason: String| VolumeError::Refused { volume: mount.name.clone(), reason };
        let ready = self.ready.get(&mount.name).ok_or_else(|| refused("the pod has no such volume".into()))?;
        let expression = mount.sub_path_expr.as_deref().map(|text| environment.expand(text));
        let Some(sub_path) = expression.as_deref().or(mount.sub_path.as_deref()).filter(|path| !path.is_empty()) else {
            return Ok(ready.path.clone());
        };
        if !Path::new(sub_path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(refused(format!("subPath {sub_path} does not lie inside the volume")));
        }
        let path = ready.path.join(sub_path);
        let result = if ready.payload.is_some() {
            copy_tree(&path, &copy).map(|()| copy)
        } else if path.exists() {
            Ok(path.clone())
        } else {
            std::fs::create_dir_all(&path).map(|()| path.clone())
        };
        result.map_err(|source| VolumeError::File { volume: mount.name.clone(), path, source })
    }
}

/// The Secrets and ConfigMaps that the pod's volumes follow.
pub(crate) fn references(pod: &Pod) -> BTreeSet<SourceName> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.flat_map(|volume| payload::references(volume, namespace)).collect()
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    if to.is_dir() {
        std::fs::remove_dir_all(to)?;
    }
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if !from.is_dir() {
        return std::fs::copy(from, to).map(drop);
    }
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with("..") {
            copy_tree(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

async fn locate(volume: &Volume, pod: &Pod, client: &Client, places: &Places) -> Result<PathBuf, VolumeError> {
    let refused = |reason: String| VolumeError::Refused { volume: volume.name.clone(), reason };
    if volume.empty_dir.is_some() {
        let path = places.pod.join("volumes").join(&volume.name);
        std::fs::create_dir_all(&path).map_err(|source| VolumeError::File {
            volume: volume.name.clone(),
            path: path.clone(),
            source,
        })?;
        return Ok(path);
    }
    if let Some(source) = &volume.host_path {
        return host_path(source, &places.node_root).map_err(refused);
    }
    let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => source.claim_name.clone(),
        (None, Some(_)) => format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name),
        (None, None) => return Err(refused("this kind of volume is not supported by local nodes".into())),
    };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    claimed(&claim, namespace, client, places).await.map_err(refused)
}

async fn claimed(claim: &str, namespace: &str, client: &Client, places: &Places) -> Result<PathBuf, String> {
    let failed = |error: kube::Error| format!("claim {namespace}/{claim}: {error}");
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace);
    let object = claims.get(claim).await.map_err(failed)?;
    let is_bound = object.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let name = object.spec.and_then(|spec| spec.volume_name).filter(|name| is_bound && !name.is_empty());
    let name = name.ok_or_else(|| format!("claim {namespace}/{claim} is not bound to a volume yet"))?;
    let volume = Api::<PersistentVolume>::all(client.clone()).get(&name).await.map_err(failed)?;
    match volume.spec.and_then(|spec| spec.host_path) {
        Some(source) => host_path(&source, &places.node_root),
        None => Err(format!("volume {name} is no hostPath, the only kind that local nodes have")),
    }
}

/// Source: Kubernetes documentation, hostPath volume types.
fn host_path(source: &HostPathVolumeSource, root: &Path) -> Result<PathBuf, String> {
    let inside: PathBuf =
        Path::new(&source.path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let path = root.join(inside);
    let is = |wanted: bool, what: &str| {
        if wanted { Ok(()) } else { Err(format!("hostPath type check failed: {} is not {what}", source.path)) }
    };
    match source.type_.as_deref().unwrap_or_default() {
        "" if path.exists() => Ok(()),
        "" | "DirectoryOrCreate" => std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", source.path)),
        "Directory" => is(path.is_dir(), "a directory"),
        "File" => is(path.is_file(), "a file"),
        "FileOrCreate" => {
            let made = std::fs::OpenOptions::new().create(true).append(true).open(&path);
            made.map(drop).map_err(|error| format!("{}: {error}", source.path))
        }
        "Socket" => {
            use std::os::unix::fs::FileTypeExt;
            is(path.metadata().is_ok_and(|metadata| metadata.file_type().is_socket()), "a socket")
        }
        other => Err(format!("hostPath type {other} is not supported by local nodes")),
    }?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("/etc/containers", "DirectoryOrCreate", true)]
    #[case("/etc/containers", "", true)]
    #[case("/etc/containers", "Directory", false)]
    #[case("/there", "Directory", true)]
    #[case("/there", "File", false)]
    #[case("/there/new", "FileOrCreate", true)]
    #[case("/there", "CharDevice", false)]
    fn host_paths_stay_under_the_root(#[case] path: &str, #[case] kind: &str, #[case] works: bool) {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("there")).unwrap();
        let source = HostPathVolumeSource { path: format!("/../..{path}"), type_: Some(kind.into()) };
        let found = host_path(&source, root.path());
        assert_eq!(found.is_ok(), works, "{found:?}");
        if let Ok(found) = found {
            assert_eq!(found, root.path().join(path.trim_start_matches('/')));
        }
    }

    fn volumes(path: PathBuf, payload: Option<Payload>) -> Volumes {
        Volumes { ready: BTreeMap::from([("v".to_owned(), Ready { path, payload })]), tokens: Tokens::default() }
    }

    fn mount(sub_path: &str) -> VolumeMount {
        VolumeMount { name: "v".into(), sub_path: Some(sub_path.into()), ..VolumeMount::default() }
    }

    #[test]
    fn sub_paths_are_made_and_kept_inside() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = volumes(folder.path().to_owned(), None);
        let environment = Environment::default();
        let found = volumes.mount(&mount("a/b"), &environment, PathBuf::new()).unwrap();
        assert!(found.is_dir() && found == folder.path().join("a/b"));
        assert!(volumes.mount(&mount("../x"), &environment, PathBuf::new()).is_err());
    }

    #[test]
    fn a_sub_path_of_cluster_content_is_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v");
        let content = |text: &str| {
            let file = atomic_folder::PayloadFile { content: text.into(), mode: 0o600 };
            Payload::from([(PathBuf::from("f"), file)])
        };
        atomic_folder::write(&path, &content("old")).unwrap();
        let volumes = volumes(path.clone(), Some(content("old")));
        let found = volumes.mount(&mount("f"), &Environment::default(), folder.path().join("copies/0")).unwrap();
        atomic_folder::write(&path, &content("new")).unwrap();
        assert_eq!(std::fs::read_to_string(found).unwrap(), "old");
    }
}
