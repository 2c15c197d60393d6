//! Builds of the programs from pinned Go modules; the module files are part of this program, so an installed one can build too.
//! `go.sum` holds the checksum of every source file set, which the Go command verifies.

use std::path::PathBuf;
use std::time::Instant;

use tokio::process::Command;

use crate::{Child, ChildOptions, Error, Tool, cache};

/// Oldest Go that the module files accept.
pub const GO_NEEDED: &str = "1.26";

/// A Go module that names programs as its tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// Folder name below `ci/tools/`.
    pub name: &'static str,
    /// Version of the programs.
    pub version: &'static str,
    /// Content of go.mod.
    pub go_mod: &'static str,
    /// Content of go.sum.
    pub go_sum: &'static str,
    /// Variables that the linker sets, as `package.name=value`.
    pub stamps: &'static [&'static str],
    /// Source files of the module itself, by name; a module of tools has none.
    pub sources: &'static [(&'static str, &'static str)],
}

/// kube-apiserver, kube-controller-manager and kube-scheduler.
pub const KUBERNETES: Module = Module {
    name: "kubernetes",
    version: "v1.36.3",
    go_mod: include_str!("../../../ci/tools/kubernetes/go.mod"),
    go_sum: include_str!("../../../ci/tools/kubernetes/go.sum"),
    stamps: &[
        "k8s.io/component-base/version.gitVersion=v1.36.3",
        "k8s.io/component-base/version.gitMajor=1",
        "k8s.io/component-base/version.gitMinor=36",
    ],
    sources: &[],
};

/// etcd.
pub const ETCD: Module = Module {
    name: "etcd",
    version: "v3.6.8",
    go_mod: include_str!("../../../ci/tools/etcd/go.mod"),
    go_sum: include_str!("../../../ci/tools/etcd/go.sum"),
    stamps: &[],
    sources: &[],
};

/// The S3 server.
pub const VERSITYGW: Module = Module {
    name: "versitygw",
    version: "v1.8.0",
    go_mod: include_str!("../../../ci/tools/versitygw/go.mod"),
    go_sum: include_str!("../../../ci/tools/versitygw/go.sum"),
    stamps: &["main.Version=v1.8.0"],
    sources: &[],
};

/// The Google Cloud Storage server.
pub const FAKE_GCS_SERVER: Module = Module {
    name: "fake-gcs-server",
    version: "v1.56.1",
    go_mod: include_str!("../../../ci/tools/fake-gcs-server/go.mod"),
    go_sum: include_str!("../../../ci/tools/fake-gcs-server/go.sum"),
    stamps: &[],
    sources: &[],
};

/// kubelet, kubeadm, kubectl and kube-proxy: what nodes of a cluster of containers need. A module of its own, so that its pins
/// change nothing for those who only need a control plane.
pub const KUBERNETES_NODE: Module = Module {
    name: "kubernetes-node",
    go_mod: include_str!("../../../ci/tools/kubernetes-node/go.mod"),
    go_sum: include_str!("../../../ci/tools/kubernetes-node/go.sum"),
    ..KUBERNETES
};

/// kind.
pub const KIND: Module = Module {
    name: "kind",
    version: "v0.33.0",
    go_mod: include_str!("../../../ci/tools/kind/go.mod"),
    go_sum: include_str!("../../../ci/tools/kind/go.sum"),
    stamps: &[],
    sources: &[],
};

/// CoreDNS with a few plugins, in the version that kubeadm of [`KUBERNETES_NODE`] wants.
pub const COREDNS: Module = Module {
    name: "coredns",
    version: "v1.14.2",
    go_mod: include_str!("../../../ci/tools/coredns/go.mod"),
    go_sum: include_str!("../../../ci/tools/coredns/go.sum"),
    stamps: &[],
    sources: &[("main.go", include_str!("../../../ci/tools/coredns/main.go"))],
};

/// The provisioner of volumes.
pub const LOCAL_PATH_PROVISIONER: Module = Module {
    name: "local-path-provisioner",
    version: "v0.0.30",
    go_mod: include_str!("../../../ci/tools/local-path-provisioner/go.mod"),
    go_sum: include_str!("../../../ci/tools/local-path-provisioner/go.sum"),
    stamps: &["main.VERSION=v0.0.30"],
    sources: &[],
};

/// MinIO, whose last state has no tag that Go accepts.
pub const MINIO: Module = Module {
    name: "minio",
    version: "v0.0.0-20260212201848-7aac2a2c5b7c",
    go_mod: include_str!("../../../ci/tools/minio/go.mod"),
    go_sum: include_str!("../../../ci/tools/minio/go.sum"),
    stamps: &[],
    sources: &[],
};

/// Builds a program, and with it the other programs of its module that are missing, and stores them in the cache.
/// The caller holds the module's lock.
///
/// # Errors
/// [`Error::Way`] when Go is missing, too old or fails; with the last lines that it wrote.
pub(crate) async fn build(tool: Tool, progress: &impl Fn(&str)) -> Result<PathBuf, Error> {
    let version = go_version().await?;
    let module = tool.module();
    let missing: Vec<Tool> = Tool::ALL
        .into_iter()
        .filter(|other| {
            // What images need is built one by one as it is asked for; PATH says nothing about it.
            let shared = Tool::LANE.contains(other);
            let missing = || shared && crate::tool::at_hand(*other, &mut Vec::new()).is_none();
            other.module() == module && (*other == tool || missing())
        })
        .collect();
    let names: Vec<&str> = missing.iter().map(|tool| tool.name()).collect();
    progress(&format!(
        "building {} {} with Go {version}; minutes with an empty Go build cache, seconds later",
        names.join(", "),
        module.version
    ));
    let started = Instant::now();
    let workshop = cache::workshop(module.name)?;
    let outcome = build_in(&workshop, module, &missing).await;
    let tidied = cache::discard(&workshop);
    let path = outcome.and_then(|()| cache::Entry::of_build(module).find(tool.name()))?;
    tidied?;
    progress(&format!("built {} in {:.0} s", names.join(", "), started.elapsed().as_secs_f64()));
    Ok(path)
}

async fn build_in(workshop: &std::path::Path, module: &Module, tools: &[Tool]) -> Result<(), Error> {
    let files = [("go.mod", module.go_mod), ("go.sum", module.go_sum)];
    for (name, content) in files.iter().chain(module.sources) {
        let path = workshop.join(name);
        std::fs::write(&path, content).map_err(Error::file("write", &path))?;
    }
    let mut stamps = "-s -w".to_owned();
    for stamp in module.stamps {
        stamps.push_str(" -X ");
        stamps.push_str(stamp);
    }
    let mut programs = Vec::new();
    // One after the other: the linker of kube-apiserver alone wants more than a gigabyte.
    for tool in tools {
        let path = workshop.join(tool.name());
        let log = workshop.with_extension("log");
        let mut go = ChildOptions::new("go build", "go", &log);
        let fixed = ["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", &stamps, "-o"];
        go.args = fixed.into_iter().map(Into::into).chain([path.clone().into(), tool.package().into()]).collect();
        let env =
            [("CGO_ENABLED", "0"), ("GOTOOLCHAIN", "local"), ("GOWORK", "off"), ("GOFLAGS", ""), ("GOOS", "linux")];
        go.env = env.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        go.dir = Some(workshop.to_owned());
        let exit = Child::spawn(go).await?.wait_exit().await;
        if !exit.status.success() {
            return Err(Error::Way(format!("{}: {exit}\n  its log is {}", tool.package(), log.display())));
        }
        programs.push((tool.name(), path));
    }
    cache::Entry::of_build(module).store(&programs)
}

/// Version of the Go on PATH.
///
/// # Errors
/// [`Error::Way`] when there is none or it is older than [`GO_NEEDED`].
pub async fn go_version() -> Result<String, Error> {
    let output = Command::new("go")
        .args(["env", "GOVERSION"])
        .env("GOTOOLCHAIN", "local")
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| Error::Way(format!("cannot run go: {error}; install Go {GO_NEEDED} or newer")))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().trim_start_matches("go").to_owned();
    if numbers(&version) < numbers(GO_NEEDED) {
        return Err(Error::Way(format!("Go {version} is too old; install Go {GO_NEEDED} or newer")));
    }
    Ok(version)
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("1.25.9", false)]
    #[case("1.26", true)]
    #[case("1.26.8", true)]
    #[case("2.0", true)]
    #[case("", false)]
    fn only_a_young_enough_go_will_do(#[case] version: &str, #[case] accepted: bool) {
        assert_eq!(numbers(version) >= numbers(GO_NEEDED), accepted);
    }

    #[test]
    fn module_files_name_every_program_and_the_stated_version() {
        for tool in Tool::ALL {
            let module = tool.module();
            assert!(module.go_mod.contains(tool.package()), "{} is no tool of {}", tool.package(), module.name);
            assert!(module.go_mod.contains(module.version), "{} does not pin {}", module.name, module.version);
        }
    }
}
