//! The programs this crate runs, and the ways by which each is found, in order: KUBEBUILDER_ASSETS, PATH, cache, download, build.
//! A way that fails is named with its reason and the next is tried.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cache::{self, Entry};
use crate::download::Download;
use crate::{Error, go_build};

/// Oldest minor version of Kubernetes 1.x that is used when it is found on the machine.
const OLDEST_MINOR: u32 = 30;

/// A program that is run as a child process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tool {
    /// The store behind kube-apiserver.
    EtcD,
    /// The API server.
    KubeApiserver,
    /// The controllers of Kubernetes.
    KubeControllerManager,
    /// The scheduler.
    KubeScheduler,
    /// The S3 server that keeps blobs as plain files.
    VersityGw,
    /// The Google Cloud Storage server that keeps objects as plain files.
    FakeGcsServer,
    /// What makes clusters of containers.
    Kind,
    /// What makes a machine a node.
    Kubeadm,
    /// The command line of Kubernetes; kind runs it on a node.
    Kubectl,
    /// What runs pods on a node.
    Kubelet,
    /// What makes Services reachable on a node.
    KubeProxy,
    /// The DNS server of a cluster.
    CoreDns,
    /// What makes volumes of folders on nodes.
    LocalPathProvisioner,
    /// The S3 server that users know best.
    Minio,
}

impl Tool {
    /// The four programs of a control plane, in order of start.
    pub const CONTROL_PLANE: [Tool; 4] =
        [Tool::EtcD, Tool::KubeApiserver, Tool::KubeControllerManager, Tool::KubeScheduler];
    /// What every lane needs. The others are had when a scenario first asks for them.
    pub const LANE: [Tool; 5] =
        [Tool::EtcD, Tool::KubeApiserver, Tool::KubeControllerManager, Tool::KubeScheduler, Tool::VersityGw];
    /// What goes into the images of a cluster of containers and of the emulators beside it.
    pub const IMAGES: [Tool; 12] = [
        Tool::EtcD,
        Tool::KubeApiserver,
        Tool::KubeControllerManager,
        Tool::KubeScheduler,
        Tool::Kubeadm,
        Tool::Kubectl,
        Tool::Kubelet,
        Tool::KubeProxy,
        Tool::CoreDns,
        Tool::LocalPathProvisioner,
        Tool::FakeGcsServer,
        Tool::Minio,
    ];
    /// Every program.
    pub const ALL: [Tool; 14] = [
        Tool::EtcD,
        Tool::KubeApiserver,
        Tool::KubeControllerManager,
        Tool::KubeScheduler,
        Tool::VersityGw,
        Tool::Kind,
        Tool::Kubeadm,
        Tool::Kubectl,
        Tool::Kubelet,
        Tool::KubeProxy,
        Tool::CoreDns,
        Tool::LocalPathProvisioner,
        Tool::FakeGcsServer,
        Tool::Minio,
    ];

    /// Name of the executable.
    pub fn name(self) -> &'static str {
        match self {
            Tool::EtcD => "etcd",
            Tool::KubeApiserver => "kube-apiserver",
            Tool::KubeControllerManager => "kube-controller-manager",
            Tool::KubeScheduler => "kube-scheduler",
            Tool::VersityGw => "versitygw",
            Tool::FakeGcsServer => "fake-gcs-server",
            Tool::Kind => "kind",
            Tool::Kubeadm => "kubeadm",
            Tool::Kubectl => "kubectl",
            Tool::Kubelet => "kubelet",
            Tool::KubeProxy => "kube-proxy",
            Tool::CoreDns => "coredns",
            Tool::LocalPathProvisioner => "local-path-provisioner",
            Tool::Minio => "minio",
        }
    }

    /// The Go module in `ci/tools/` that pins and builds it.
    pub fn module(self) -> &'static go_build::Module {
        match self {
            Tool::EtcD => &go_build::ETCD,
            Tool::KubeApiserver | Tool::KubeControllerManager | Tool::KubeScheduler => &go_build::KUBERNETES,
            Tool::VersityGw => &go_build::VERSITYGW,
            Tool::Kind => &go_build::KIND,
            Tool::Kubeadm | Tool::Kubectl | Tool::Kubelet | Tool::KubeProxy => &go_build::KUBERNETES_NODE,
            Tool::CoreDns => &go_build::COREDNS,
            Tool::LocalPathProvisioner => &go_build::LOCAL_PATH_PROVISIONER,
            Tool::FakeGcsServer => &go_build::FAKE_GCS_SERVER,
            Tool::Minio => &go_build::MINIO,
        }
    }

    /// Version that is built; that of the download may be another.
    pub fn version(self) -> &'static str {
        self.module().version
    }

    /// Whether the program understands `--version`.
    fn says_its_version(self) -> bool {
        self != Tool::FakeGcsServer
    }

    /// Go package of the command.
    pub(crate) fn package(self) -> &'static str {
        match self {
            Tool::EtcD => "go.etcd.io/etcd/server/v3",
            Tool::KubeApiserver => "k8s.io/kubernetes/cmd/kube-apiserver",
            Tool::KubeControllerManager => "k8s.io/kubernetes/cmd/kube-controller-manager",
            Tool::KubeScheduler => "k8s.io/kubernetes/cmd/kube-scheduler",
            Tool::VersityGw => "github.com/versity/versitygw/cmd/versitygw",
            Tool::Kind => "sigs.k8s.io/kind",
            Tool::Kubeadm => "k8s.io/kubernetes/cmd/kubeadm",
            Tool::Kubectl => "k8s.io/kubernetes/cmd/kubectl",
            Tool::Kubelet => "k8s.io/kubernetes/cmd/kubelet",
            Tool::KubeProxy => "k8s.io/kubernetes/cmd/kube-proxy",
            // The module's own program; see its source.
            Tool::CoreDns => ".",
            Tool::LocalPathProvisioner => "github.com/rancher/local-path-provisioner",
            Tool::FakeGcsServer => "github.com/fsouza/fake-gcs-server",
            Tool::Minio => "github.com/minio/minio",
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// The way by which a program was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The folder in the variable KUBEBUILDER_ASSETS.
    Assets,
    /// A folder of PATH.
    Path,
    /// Our cache; a download or a build of an earlier start.
    Cache,
    /// The project's official download, just now.
    Download,
    /// A build from pinned Go modules, just now.
    Build,
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Origin::Assets => "KUBEBUILDER_ASSETS",
            Origin::Path => "PATH",
            Origin::Cache => "cache",
            Origin::Download => "download",
            Origin::Build => "build",
        })
    }
}

/// A program that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The executable.
    pub path: PathBuf,
    /// Version as the program itself says it, or the pinned one for our own builds and downloads.
    pub version: String,
    /// How it was found.
    pub origin: Origin,
}

/// Programs that are there. A plain value: it can be cloned for every lane.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    found: BTreeMap<Tool, Found>,
}

impl Tools {
    /// Where a program lies.
    ///
    /// # Errors
    /// [`Error::NoTool`] when it was not among the located ones.
    pub fn path(&self, tool: Tool) -> Result<&Path, Error> {
        self.get(tool).map(|found| found.path.as_path()).ok_or_else(|| Error::NoTool {
            tool: tool.name(),
            version: tool.version(),
            ways: vec!["it was not looked for".to_owned()],
        })
    }

    /// A located program.
    pub fn get(&self, tool: Tool) -> Option<&Found> {
        self.found.get(&tool)
    }

    /// All located programs.
    pub fn iter(&self) -> impl Iterator<Item = (Tool, &Found)> {
        self.found.iter().map(|(tool, found)| (*tool, found))
    }
}

/// Finds, downloads or builds the four programs of a control plane. See [`locate_all`].
///
/// # Errors
/// As [`locate_all`].
pub async fn locate(progress: impl Fn(&str)) -> Result<Tools, Error> {
    locate_all(&Tool::CONTROL_PLANE, progress).await
}

/// Finds, downloads or builds programs. `progress` gets one line per way that is taken or has failed;
/// nothing is reported for programs that are simply there.
///
/// Two processes that need the same build do it once: the second waits for the first.
///
/// # Errors
/// [`Error::NoTool`] for the first program that no way led to, with the reason of every way.
pub async fn locate_all(tools: &[Tool], progress: impl Fn(&str)) -> Result<Tools, Error> {
    let mut located = Tools::default();
    for tool in tools.iter().copied() {
        if located.found.contains_key(&tool) {
            continue;
        }
        let mut failures = Vec::new();
        let found = match at_hand(tool, &mut failures) {
            Some(found) => found,
            None => {
                for failure in &failures {
                    progress(&format!("{tool}: {failure}"));
                }
                obtain(tool, &progress, failures).await?
            }
        };
        located.found.insert(tool, found);
    }
    Ok(located)
}

/// Finds, downloads or builds programs of exactly the pinned versions: what goes into an image is the same on every machine,
/// so what lies in PATH is not asked.
///
/// # Errors
/// As [`locate_all`].
pub async fn locate_pinned(tools: &[Tool], progress: impl Fn(&str)) -> Result<Tools, Error> {
    let mut located = Tools::default();
    for tool in tools.iter().copied() {
        let found = match from_cache(tool) {
            Ok(found) => found,
            Err(_) => obtain(tool, &progress, Vec::new()).await?,
        };
        located.found.insert(tool, found);
    }
    Ok(located)
}

/// The ways that need neither network nor compiler. Reasons of failed ways are appended to `failures`.
pub fn at_hand(tool: Tool, failures: &mut Vec<String>) -> Option<Found> {
    type Way = fn(Tool) -> Result<Found, Error>;
    let ways: [(Origin, Way); 3] =
        [(Origin::Assets, from_assets), (Origin::Path, from_path), (Origin::Cache, from_cache)];
    for (origin, way) in ways {
        match way(tool) {
            Ok(found) => return Some(found),
            Err(error) => failures.push(format!("{origin}: {error}")),
        }
    }
    None
}

/// The ways that fill the cache, under the lock of the program's module.
async fn obtain(tool: Tool, progress: &impl Fn(&str), mut failures: Vec<String>) -> Result<Found, Error> {
    let _lock = cache::lock(tool.module().name, progress).await?;
    // Another process may have filled the cache while we waited for the lock.
    if let Ok(found) = from_cache(tool) {
        return Ok(found);
    }
    match downloaded(tool, progress).await {
        Ok(found) => return Ok(found),
        Err(error) => failed(tool, Origin::Download, &error, progress, &mut failures),
    }
    match go_build::build(tool, progress).await {
        Ok(path) => return Ok(Found { path, version: tool.version().to_owned(), origin: Origin::Build }),
        Err(error) => failed(tool, Origin::Build, &error, progress, &mut failures),
    }
    Err(Error::NoTool { tool: tool.name(), version: tool.version(), ways: failures })
}

async fn downloaded(tool: Tool, progress: &impl Fn(&str)) -> Result<Found, Error> {
    let download = Download::of(tool)?;
    let path = download.fetch(tool, progress).await?;
    Ok(Found { path, version: download.version, origin: Origin::Download })
}

fn failed(tool: Tool, origin: Origin, error: &Error, progress: &impl Fn(&str), failures: &mut Vec<String>) {
    let failure = format!("{origin}: {error}");
    progress(&format!("{tool}: {failure}"));
    failures.push(failure);
}

fn from_assets(tool: Tool) -> Result<Found, Error> {
    let folder = std::env::var_os("KUBEBUILDER_ASSETS")
        .filter(|folder| !folder.is_empty())
        .ok_or_else(|| Error::Way("the variable is not set".to_owned()))?;
    let path = PathBuf::from(folder).join(tool.name());
    if !is_executable(&path) {
        return Err(Error::Way(format!("there is no executable {}", path.display())));
    }
    checked(tool, path, Origin::Assets)
}

fn from_path(tool: Tool) -> Result<Found, Error> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::split_paths(&folders)
        .map(|folder| folder.join(tool.name()))
        .find(|path| is_executable(path))
        .ok_or_else(|| Error::Way(format!("no folder has an executable {tool}")))?;
    checked(tool, path, Origin::Path)
}

/// What was built here, else what was downloaded.
fn from_cache(tool: Tool) -> Result<Found, Error> {
    let missing = match Entry::of_build(tool.module()).find(tool.name()) {
        Ok(path) => return Ok(Found { path, version: tool.version().to_owned(), origin: Origin::Cache }),
        Err(missing) => missing,
    };
    let Ok(download) = Download::of(tool) else { return Err(missing) };
    match download.entry(tool).find(tool.name()) {
        Ok(path) => Ok(Found { path, version: download.version, origin: Origin::Cache }),
        Err(also_missing) => Err(Error::Way(format!("{missing}; {also_missing}"))),
    }
}

fn is_executable(path: &Path) -> bool {
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok() && path.is_file()
}

/// A program of unknown origin is asked for its version, and refused if it is too old.
fn checked(tool: Tool, path: PathBuf, origin: Origin) -> Result<Found, Error> {
    if !tool.says_its_version() {
        return Ok(Found { path, version: "of unknown version".to_owned(), origin });
    }
    let output = Command::new(&path)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::Way(format!("{} --version: {error}", path.display())))?;
    if !output.status.success() {
        return Err(Error::Way(format!("{} --version: {}", path.display(), output.status)));
    }
    let version = version_in(&String::from_utf8_lossy(&output.stdout));
    if tool.module() == &go_build::KUBERNETES {
        match minor(&version) {
            Some(minor) if minor < OLDEST_MINOR => {
                return Err(Error::Way(format!(
                    "{} is {version}; at least v1.{OLDEST_MINOR} is needed",
                    path.display()
                )));
            }
            _ => {}
        }
    }
    Ok(Found { path, version, origin })
}

/// The first word that looks like a version: `Kubernetes v1.36.3`, `etcd Version: 3.6.8`, `Version  : v1.8.0`.
fn version_in(output: &str) -> String {
    output
        .split_whitespace()
        .find(|word| {
            word.trim_start_matches('v').starts_with(|first: char| first.is_ascii_digit()) && word.contains('.')
        })
        .unwrap_or("of unknown version")
        .to_owned()
}

fn minor(version: &str) -> Option<u32> {
    version.trim_start_matches('v').split('.').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("Kubernetes v1.36.3\n", "v1.36.3", Some(36))]
    #[case("etcd Version: 3.6.8\nGit SHA: abc\nGo Version: go1.26\n", "3.6.8", Some(6))]
    #[case("Version  : v1.8.0\nBuild    : x\n", "v1.8.0", Some(8))]
    #[case("nonsense", "of unknown version", None)]
    fn versions_are_read_from_what_programs_print(
        #[case] output: &str,
        #[case] version: &str,
        #[case] expected: Option<u32>,
    ) {
        assert_eq!(version_in(output), version);
        assert_eq!(minor(version), expected);
    }
}
