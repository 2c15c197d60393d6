//! What a node does from its first process on: mounts shared, cgroups ready, containerd, its images, and the kubelet when kubeadm
//! has configured it. kind waits for one line on the console and does the rest by `docker exec`.

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};

use crate::Error;
use crate::service::{After, Service};
use crate::supervisor;

const CGROUP: &str = "/sys/fs/cgroup";
const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
const CONTAINERD_WITHIN: Duration = Duration::from_secs(60);
/// Archives for every node, and for nodes of the control plane.
const IMAGES: &str = "/kind/images";
const CONTROL_PLANE_IMAGES: &str = "/kind/images/control-plane";
/// Lies on the node's volume, like the images themselves: both survive a restart of the container.
const IMPORTED: &str = "/var/lib/kind-node/imported";
const KUBELET_CONFIG: &str = "/var/lib/kubelet/config.yaml";
const KUBELET_FLAGS: &str = "/var/lib/kubelet/kubeadm-flags.env";
/// How often a file is looked for that another program will make.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// PID 1. Returns when the node is told to end.
///
/// # Errors
/// [`Error::System`] when the container lacks the rights of a node.
pub async fn run() -> Result<(), Error> {
    // kubelet and mounts with "Bidirectional" propagation need a shared root.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>)
        .map_err(|errno| Error::system("share the mounts of", "/; is the container privileged?")(errno.into()))?;
    let unified = Path::new(CGROUP).join("cgroup.controllers").exists();
    if unified {
        nest_cgroups(Path::new(CGROUP))?;
    }
    // One of the two lines that kind waits for (kind source pkg/cluster/internal/providers/common/cgroups.go).
    println!("{}", if unified { "Reached target Multi-User System" } else { "detected cgroup v1" });
    supervisor::keep(&services()?).await
}

fn services() -> Result<Vec<Service>, Error> {
    let ours = own_command()?;
    let own = |word: &str| ours.iter().cloned().chain([word.to_owned()]).collect();
    Ok(vec![
        Service { name: "containerd", command: vec!["containerd".to_owned()], after: After::Again },
        Service { name: "the import of images", command: own("import"), after: After::AgainIfFailed },
        Service { name: "kubelet", command: own("kubelet"), after: After::Again },
    ])
}

/// The words that started this process but the last: with a loader of its own in front, `/proc/self/exe` would be the loader.
fn own_command() -> Result<Vec<String>, Error> {
    let text = std::fs::read("/proc/self/cmdline").map_err(Error::system("read", "/proc/self/cmdline"))?;
    let mut words: Vec<String> = text
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    words.pop();
    Ok(words)
}

/// In cgroup v2 a group with processes has no children with controllers, so everything moves one level down first.
fn nest_cgroups(root: &Path) -> Result<(), Error> {
    let named = |path: &Path| path.display().to_string();
    let leaf = root.join("init");
    std::fs::create_dir_all(&leaf).map_err(Error::system("make", named(&leaf)))?;
    let read = |path: PathBuf| std::fs::read_to_string(&path).map_err(Error::system("read", named(&path)));
    for pid in read(root.join("cgroup.procs"))?.split_whitespace() {
        // A process that has ended meanwhile need not move.
        let _ = std::fs::write(leaf.join("cgroup.procs"), pid);
    }
    let control = root.join("cgroup.subtree_control");
    for controller in read(root.join("cgroup.controllers"))?.split_whitespace() {
        std::fs::write(&control, format!("+{controller}")).map_err(Error::system("write", named(&control)))?;
    }
    Ok(())
}

/// Brings the image archives of the node into containerd, once.
///
/// # Errors
/// [`Error::Command`] for the first archive that is refused; PID 1 tries again.
pub fn import() -> Result<(), Error> {
    if Path::new(IMPORTED).exists() {
        return Ok(());
    }
    wait_until(CONTAINERD_WITHIN, "containerd to answer", || UnixStream::connect(CONTAINERD_SOCKET).is_ok())?;
    let began = Instant::now();
    let mut archives = archives_in(Path::new(IMAGES))?;
    if hostname().contains("control-plane") {
        archives.extend(archives_in(Path::new(CONTROL_PLANE_IMAGES))?);
    }
    for archive in &archives {
        let command = format!("ctr --namespace k8s.io images import --snapshotter overlayfs {}", archive.display());
        let mut words = command.split(' ');
        let output = Command::new(words.next().unwrap_or_default())
            .args(words)
            .output()
            .map_err(Error::system("run", command.clone()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::Command { command, status: output.status, said });
        }
    }
    let marker = Path::new(IMPORTED);
    std::fs::create_dir_all(marker.parent().unwrap_or(Path::new("/"))).map_err(Error::system("make", IMPORTED))?;
    std::fs::write(marker, "").map_err(Error::system("write", IMPORTED))?;
    eprintln!("kind-node: {} image archives imported in {:.1} s", archives.len(), began.elapsed().as_secs_f64());
    Ok(())
}

fn archives_in(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let name = folder.display().to_string();
    let entries = std::fs::read_dir(folder).map_err(Error::system("list", &name))?;
    let mut archives: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "tar"))
        .collect();
    archives.sort();
    Ok(archives)
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default()
}

/// Waits for kubeadm's configuration and for the images, then becomes the kubelet. A kubelet that finds no image would back off
/// for ten seconds and more.
///
/// # Errors
/// [`Error::System`].
pub fn kubelet() -> Result<(), Error> {
    // There is no deadline: a node may wait for kubeadm as long as its cluster takes.
    wait_until(Duration::MAX, "kubeadm and the images", || {
        Path::new(KUBELET_CONFIG).exists() && Path::new(IMPORTED).exists()
    })?;
    let flags = std::fs::read_to_string(KUBELET_FLAGS).unwrap_or_default();
    let mut command = Command::new("kubelet");
    command.args([
        "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
        "--kubeconfig=/etc/kubernetes/kubelet.conf",
        "--config=/var/lib/kubelet/config.yaml",
        "--config-dir=/etc/kubernetes/kubelet.conf.d",
    ]);
    command.args(kubeadm_flags(&flags));
    Err(Error::system("run", "kubelet")(command.exec()))
}

/// kubeadm writes `KUBELET_KUBEADM_ARGS="--a=b --c=d"`.
fn kubeadm_flags(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("KUBELET_KUBEADM_ARGS="))
        .flat_map(|value| value.trim_matches('"').split_whitespace())
        .map(str::to_owned)
        .collect()
}

fn wait_until(within: Duration, what: &str, condition: impl Fn() -> bool) -> Result<(), Error> {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() > within {
            let source = std::io::ErrorKind::TimedOut.into();
            return Err(Error::System { act: "wait any longer for", what: what.to_owned(), source });
        }
        // The files come from other containers' programs over mounts, where notifications are not reliable.
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_kubeadm_are_words() {
        let text = "KUBELET_KUBEADM_ARGS=\"--node-ip=172.18.0.2 --node-labels= --provider-id=kind://docker/a/b\"\n";
        assert_eq!(kubeadm_flags(text), ["--node-ip=172.18.0.2", "--node-labels=", "--provider-id=kind://docker/a/b"]);
        assert!(kubeadm_flags("").is_empty());
    }

    #[test]
    fn only_archives_are_imported_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.tar", "a.tar", "list.yaml"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let names = archives_in(folder.path()).unwrap();
        assert_eq!(names, [folder.path().join("a.tar"), folder.path().join("b.tar")]);
        assert!(archives_in(&folder.path().join("absent")).unwrap_err().to_string().contains("absent"));
    }

    #[test]
    fn processes_move_down_and_controllers_are_handed_on() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("cgroup.procs"), "1\n7\n").unwrap();
        std::fs::write(root.path().join("cgroup.controllers"), "cpu memory\n").unwrap();
        nest_cgroups(root.path()).unwrap();
        // Plain files keep the last write; the kernel's take each.
        assert_eq!(std::fs::read_to_string(root.path().join("init/cgroup.procs")).unwrap(), "7");
        assert_eq!(std::fs::read_to_string(root.path().join("cgroup.subtree_control")).unwrap(), "+memory");
    }

    #[test]
    fn a_wait_that_ends_says_what_it_waited_for() {
        let error = wait_until(Duration::ZERO, "containerd to answer", || false).unwrap_err().to_string();
        assert!(error.contains("containerd to answer"), "{error}");
    }
}
