//! Composes what a container runs: command, arguments, environment and folders, all in terms of this machine.
//! It prepares files but starts nothing.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::{
    cluster_access::{AccessError, SERVICE_ACCOUNT_PATH},
    downward::Addresses,
    environment::{self, DEFAULT_PATH, Environment},
    image_map::ImageEntry,
    node::{NODE_ADDRESS, Node},
    own_root,
    rewrite::{self, Rewrite, link_root},
    source::SourceError,
    spawner::Launch,
    volumes::{Places, VolumeError, Volumes},
};

const DEFAULT_TERMINATION_PATH: &str = "/dev/termination-log";

/// A container that can be started, and in whose surroundings further commands can be run.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    launch: Launch,
    rewrite: Rewrite,
    /// What the process wrote there is its termination message.
    pub(crate) termination_file: PathBuf,
}

/// Why a container cannot be prepared; kubelet calls it a configuration error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("image {image} has no command in the image map and the container names none")]
    NoCommand { image: String },
    #[error("preparing {path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
}

/// The parts from which a container is prepared.
pub(crate) struct Parts<'a> {
    pub(crate) node: &'a Node,
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) image: &'a ImageEntry,
    pub(crate) volumes: &'a Volumes,
    pub(crate) places: &'a Places,
    pub(crate) addresses: &'a Addresses,
    pub(crate) listen_address: &'a str,
    /// The container's private folder.
    pub(crate) folder: &'a Path,
}

impl Prepared {
    /// The container's own process.
    pub(crate) fn main(&self) -> Launch {
        self.launch.clone()
    }

    /// A command in the container's surroundings, as exec runs it: mount paths in it are rewritten like arguments.
    pub(crate) fn command(&self, command: &[String], stdin: bool) -> Launch {
        let command = command.iter().map(|part| self.rewrite.value(part)).collect();
        Launch { command, stdin, ..self.launch.clone() }
    }
}

/// Prepares a container; may be repeated, which reads all it refers to anew.
pub(crate) async fn prepare(parts: Parts<'_>) -> Result<Prepared, PrepareError> {
    let Parts { node, pod, container, image, .. } = parts;
    let root = parts.places.pod.join("rootfs").join(&container.name);
    let base = base_environment(&parts, &root)?;
    // subPathExpr may only refer to literal variables or to the downward API, so the base with the pod's own literals will do.
    let mounts = parts.volumes.mounts(container, &literals(&parts, base.clone()), parts.places)?;
    link_root(&root, &mounts).map_err(|source| PrepareError::File { path: root.clone(), source })?;
    let termination_file = parts.folder.join("termination-log");
    write_empty(&termination_file)?;

    let own_root = if image.own_root { Some(build_own_root(&parts, &mounts, &termination_file)?) } else { None };
    let base = with_kubeconfig(&parts, base, &mounts)?;
    let rewrite = rewrite(&parts, mounts, &termination_file);
    let mut environment = {
        let change = |text: &str| rewrite.value(text);
        environment::of_container(base, container, pod, parts.addresses, &node.shared.sources, &change).await?
    };
    environment.set("CONTAINER_ROOT", root.to_string_lossy());
    prefer_lower_case_proxies(&mut environment, container);
    keep_local_direct(&mut environment);

    let command = command(image, container, &environment, &rewrite);
    if command.is_empty() {
        return Err(PrepareError::NoCommand { image: container.image.clone().unwrap_or_default() });
    }
    let working_dir = container.working_dir.as_deref().filter(|path| !path.is_empty());
    if let Some(own_root) = own_root {
        let directory = PathBuf::from(working_dir.unwrap_or("/"));
        let launch = Launch { command, env: environment.into_vec(), directory, root: Some(own_root), stdin: false };
        return Ok(Prepared { launch, rewrite, termination_file });
    }
    let directory =
        working_dir.map(|path| rewrite.path(path).unwrap_or_else(|| root.join(path.trim_start_matches('/'))));
    let directory = directory.filter(|path| path.is_dir()).unwrap_or(root);
    let launch = Launch { command, env: environment.into_vec(), directory, root: None, stdin: false };
    Ok(Prepared { launch, rewrite, termination_file })
}

/// The entry's own words stand for this machine already; only the pod's words are rewritten.
fn command(image: &ImageEntry, container: &Container, environment: &Environment, rewrite: &Rewrite) -> Vec<String> {
    let own = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|part| rewrite.value(&environment.expand(part))).collect()
    };
    let expanded = image.command.iter().map(|part| of_machine(image, environment.expand(part))).collect();
    ImageEntry { command: expanded, ..image.clone() }.command_line(&own(&container.command), &own(&container.args))
}

/// The container's own root; `/tmp` is its private one there unless something is mounted at it.
fn build_own_root(
    parts: &Parts<'_>,
    mounts: &[(String, PathBuf)],
    termination_file: &Path,
) -> Result<PathBuf, PrepareError> {
    let path = parts.places.pod.join("own-root").join(&parts.container.name);
    let termination = (termination_path(parts.container).to_owned(), termination_file.to_owned());
    let image = parts.image.rewrite.iter().map(|(documented, real)| (documented.clone(), real.clone()));
    let mut all = vec![("/tmp".to_owned(), parts.folder.join("tmp")), termination];
    all.extend(image.chain(mounts.iter().cloned()));
    own_root::build(&path, &all).map_err(|source| PrepareError::File { path: path.clone(), source })?;
    Ok(path)
}

/// A file or folder of this machine, as the container is told of it.
fn seen(image: &ImageEntry, path: &Path) -> PathBuf {
    if image.own_root { own_root::inside(path) } else { path.to_owned() }
}

/// A word of the image map: if it is a path of this machine it must stay one, whatever is mounted over it.
fn of_machine(image: &ImageEntry, word: String) -> String {
    let path = Path::new(&word);
    let is_real = image.own_root && path.is_absolute() && !image.rewrite.contains_key(&word) && path.exists();
    if is_real { own_root::inside(path).to_string_lossy().into_owned() } else { word }
}

fn termination_path(container: &Container) -> &str {
    container.termination_message_path.as_deref().unwrap_or(DEFAULT_TERMINATION_PATH)
}

fn rewrite(parts: &Parts<'_>, mounts: Vec<(String, PathBuf)>, termination_file: &Path) -> Rewrite {
    let shared = &parts.node.shared;
    let termination = termination_path(parts.container);
    // Real paths that come back through $(NAME) must stay as they are, even if a volume is mounted at /tmp.
    let real = std::iter::once(&shared.folder)
        .chain(&shared.trust_bundle)
        .map(|path| (path.to_string_lossy().into_owned(), path.clone()));
    let image = parts.image.rewrite.iter().map(|(documented, real)| (documented.clone(), real.clone()));
    let termination = std::iter::once((termination.to_owned(), termination_file.to_owned()));
    let paths = mounts.into_iter().chain(image).chain(termination).chain(real);
    Rewrite::new(
        // In a root of its own every documented path is true already.
        paths.filter(|_| !parts.image.own_root),
        rewrite::declared_ports(parts.pod),
        parts.listen_address.to_owned(),
        parts.addresses.pod.clone(),
    )
}

fn base_environment(parts: &Parts<'_>, root: &Path) -> Result<Environment, PrepareError> {
    let shared = &parts.node.shared;
    let mut environment = Environment::default();
    environment.set("PATH", DEFAULT_PATH);
    for (name, folder) in [("HOME", "home"), ("TMPDIR", "tmp")] {
        let path = parts.folder.join(folder);
        std::fs::create_dir_all(&path).map_err(|source| PrepareError::File { path: path.clone(), source })?;
        environment.set(name, seen(parts.image, &path).to_string_lossy());
    }
    let spec = parts.pod.spec.as_ref();
    let host_name = spec.and_then(|spec| spec.hostname.as_deref()).or(parts.pod.metadata.name.as_deref());
    environment.set("HOSTNAME", host_name.unwrap_or_default());
    if let Some(doorway) = &shared.doorway {
        environment.set("HTTP_PROXY", doorway);
        environment.set("HTTPS_PROXY", doorway);
        environment.set("NO_PROXY", "127.0.0.1,localhost");
    }
    if let Some(bundle) = &shared.trust_bundle {
        environment.set("SSL_CERT_FILE", seen(parts.image, bundle).to_string_lossy());
    }
    let access = shared.access.of(&service_account(parts.pod))?;
    environment.set("KUBERNETES_SERVICE_HOST", access.host);
    environment.set("KUBERNETES_SERVICE_PORT", access.port.as_str());
    environment.set("KUBERNETES_SERVICE_PORT_HTTPS", access.port);
    environment.set("CONTAINER_ROOT", root.to_string_lossy());
    let image_env: Vec<_> = parts
        .image
        .env
        .iter()
        .map(|(name, value)| (name.clone(), of_machine(parts.image, environment.expand(value))))
        .collect();
    for (name, value) in image_env {
        environment.set(&name, value);
    }
    Ok(environment)
}

fn literals(parts: &Parts<'_>, mut environment: Environment) -> Environment {
    for variable in parts.container.env.iter().flatten() {
        let value = match &variable.value_from {
            None => Some(environment.expand(variable.value.as_deref().unwrap_or_default())),
            Some(source) => source
                .field_ref
                .as_ref()
                .and_then(|field| crate::downward::field(parts.pod, &field.field_path, parts.addresses).ok()),
        };
        if let Some(value) = value {
            environment.set(&variable.name, value);
        }
    }
    environment
}

fn with_kubeconfig(
    parts: &Parts<'_>,
    mut environment: Environment,
    mounts: &[(String, PathBuf)],
) -> Result<Environment, PrepareError> {
    let Some((_, account)) = mounts.iter().find(|(path, _)| path.trim_end_matches('/') == SERVICE_ACCOUNT_PATH) else {
        return Ok(environment);
    };
    let path = parts.folder.join("kubeconfig");
    let access = parts.node.shared.access.of(&service_account(parts.pod))?;
    let account = seen(parts.image, account);
    let access = access.with_authority(|path| seen(parts.image, path));
    access.write_kubeconfig(&path, &account, parts.pod.metadata.namespace.as_deref().unwrap_or_default())?;
    environment.set_default("KUBECONFIG", seen(parts.image, &path).to_string_lossy());
    Ok(environment)
}

fn service_account(pod: &Pod) -> String {
    let name = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    format!("{}/{name}", pod.metadata.namespace.as_deref().unwrap_or_default())
}

/// A pod that sets `https_proxy` means it, though ours is spelt in capitals.
fn prefer_lower_case_proxies(environment: &mut Environment, container: &Container) {
    let sets = |name: &str| container.env.iter().flatten().any(|variable| variable.name == name);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"] {
        if sets(&name.to_lowercase()) && !sets(name) {
            environment.remove(name);
        }
    }
}

/// The API server of this cluster lies on loopback, which not every client leaves out of proxies by itself as Go's do.
fn keep_local_direct(environment: &mut Environment) {
    if environment.get("HTTP_PROXY").is_none() && environment.get("HTTPS_PROXY").is_none() {
        return;
    }
    let direct = environment.get("NO_PROXY").unwrap_or_default();
    if !direct.split(',').any(|entry| entry.trim() == NODE_ADDRESS) {
        let separator = if direct.is_empty() { "" } else { "," };
        environment.set("NO_PROXY", format!("{direct}{separator}{NODE_ADDRESS},localhost"));
    }
}

fn write_empty(path: &Path) -> Result<(), PrepareError> {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(path, ""));
    made.map_err(|source| PrepareError::File { path: path.to_owned(), source })
}

#[cfg(test)]
impl Prepared {
    /// Surroundings in which nothing is rewritten.
    pub(crate) fn for_tests() -> Self {
        let launch =
            Launch { env: vec![("PATH".into(), DEFAULT_PATH.into())], directory: "/".into(), ..Launch::default() };
        Self { launch, rewrite: Rewrite::default(), termination_file: PathBuf::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::no_proxy_at_all(None, None, None)]
    #[case::own_exceptions(Some("http://p"), Some(".svc"), Some(".svc,127.0.0.1,localhost"))]
    #[case::none_yet(Some("http://p"), None, Some("127.0.0.1,localhost"))]
    #[case::there_already(Some("http://p"), Some("a, 127.0.0.1"), Some("a, 127.0.0.1"))]
    fn loopback_goes_past_every_proxy(
        #[case] proxy: Option<&str>,
        #[case] direct: Option<&str>,
        #[case] expected: Option<&str>,
    ) {
        let mut environment = Environment::default();
        for (name, value) in [("HTTPS_PROXY", proxy), ("NO_PROXY", direct)] {
            if let Some(value) = value {
                environment.set(name, value);
            }
        }
        keep_local_direct(&mut environment);
        assert_eq!(environment.get("NO_PROXY"), expected);
    }
}
