//! Images of what runs in a cluster's own pods, and of the balancer: one or two layers each, as rows of a table.
//! The names are those that kubeadm and kind ask for, so the cluster needs no configuration to find them.

use std::path::{Path, PathBuf};

use container_image::{Archive, Closure, Image, Layer, LayerBuilder, stripped};
use local_cluster::tool::{Tool, Tools};

use crate::store::Key;
use crate::{Distribution, Error, Program, Store};

/// Folder of our program and its libraries in images that have a C library of their own.
const APART: &str = "/usr/lib/kind-node";
const PROGRAM: &str = "/usr/bin/kind-node";

/// An image with one Go program.
struct Row {
    tool: Tool,
    /// Reference without the tag.
    name: &'static str,
    /// The tag that kubeadm asks for; the version of the program when it is empty.
    tag: &'static str,
    /// Where the program lies; static pods are started by a bare name.
    at: &'static str,
    /// Whether it runs `iptables` or a shell.
    shell: bool,
    /// Whether only nodes of the control plane need it.
    control_plane: bool,
}

/// kubeadm's names (kubeadm source app/images/images.go, app/constants/constants.go).
const ROWS: [Row; 7] = [
    row(Tool::KubeProxy, "registry.k8s.io/kube-proxy", "", "/usr/local/bin/kube-proxy", true, false),
    row(Tool::CoreDns, "registry.k8s.io/coredns/coredns", "", "/coredns", false, false),
    row(
        Tool::LocalPathProvisioner,
        "registry-conformance.local/local-path-provisioner",
        "",
        "/usr/bin/local-path-provisioner",
        false,
        false,
    ),
    row(Tool::EtcD, "registry.k8s.io/etcd", "3.6.8-0", "/usr/local/bin/etcd", false, true),
    row(Tool::KubeApiserver, "registry.k8s.io/kube-apiserver", "", "/usr/local/bin/kube-apiserver", false, true),
    row(
        Tool::KubeControllerManager,
        "registry.k8s.io/kube-controller-manager",
        "",
        "/usr/local/bin/kube-controller-manager",
        false,
        true,
    ),
    row(Tool::KubeScheduler, "registry.k8s.io/kube-scheduler", "", "/usr/local/bin/kube-scheduler", false, true),
];

const fn row(
    tool: Tool,
    name: &'static str,
    tag: &'static str,
    at: &'static str,
    shell: bool,
    control_plane: bool,
) -> Row {
    Row { tool, name, tag, at, shell, control_plane }
}

/// An archive for the node image.
#[derive(Debug)]
pub struct PodImage {
    /// The archive.
    pub archive: Archive,
    /// Whether only nodes of the control plane need it.
    pub control_plane: bool,
}

/// Writes the archives of everything that runs in a cluster's pods into a folder.
pub fn all(work: &Path, distribution: &Distribution, tools: &Tools, helper: &Program) -> Result<Vec<PodImage>, Error> {
    let shell = known_layer(&distribution.shell)?;
    let mut images = Vec::new();
    for row in &ROWS {
        let name = row.tool.name();
        let mut layer = LayerBuilder::create(&work.join(format!("{name}.layer")))?;
        layer.file(row.at, tools.path(row.tool)?, 0o755)?;
        if !row.shell {
            layer.folder("/tmp", 0o1777)?;
        }
        let layer = layer.finish()?;
        let tag = if row.tag.is_empty() { row.tool.version() } else { row.tag };
        let image = Image {
            names: vec![format!("{}:{tag}", row.name)],
            entrypoint: vec![row.at.to_owned()],
            ..Image::default()
        };
        let layers = if row.shell { vec![shell.clone(), layer.clone()] } else { vec![layer.clone()] };
        let archive = Archive::write(&work.join(format!("{name}.tar")), &layers, &[image])?;
        std::fs::remove_file(&layer.path).map_err(Error::file("remove", &layer.path))?;
        images.push(PodImage { archive, control_plane: row.control_plane });
    }
    images.push(PodImage { archive: ours(work, helper)?, control_plane: false });
    let image = Image {
        names: vec!["registry-conformance.local/node-shell:v1".to_owned()],
        entrypoint: vec!["/bin/sh".to_owned()],
        ..Image::default()
    };
    let archive = Archive::write(&work.join("node-shell.tar"), &[shell], &[image])?;
    images.push(PodImage { archive, control_plane: false });
    Ok(images)
}

/// Our program twice: as pause and as the network. One layer, from nothing.
fn ours(work: &Path, helper: &Program) -> Result<Archive, Error> {
    let mut layer = LayerBuilder::create(&work.join("kind-node.layer"))?;
    Closure::of(&helper.path)?.lay(&mut layer)?;
    layer.file(PROGRAM, &stripped(&helper.path, work), 0o755)?;
    layer.text("/etc/nsswitch.conf", "hosts: files dns\n", 0o644)?;
    let layer = layer.finish()?;
    let image = |name: &str, word: &str| Image {
        names: vec![name.to_owned()],
        entrypoint: vec![PROGRAM.to_owned(), word.to_owned()],
        ..Image::default()
    };
    let images = [
        image("registry.k8s.io/pause:3.10.2", "pause"),
        image("registry-conformance.local/kind-node:network", "network"),
    ];
    Ok(Archive::write(&work.join("kind-node.tar"), &[layer], &images)?)
}

/// Puts our program into a layer over a system with a C library of its own, and gives the words that start it.
pub fn lay_apart(layer: &mut LayerBuilder, work: &Path, helper: &Program) -> Result<Vec<String>, Error> {
    let mut words = Closure::of(&helper.path)?.lay_apart(layer, APART)?;
    let program = format!("{APART}/kind-node");
    layer.file(&program, &stripped(&helper.path, work), 0o755)?;
    words.push(program);
    Ok(words)
}

/// The balancer under the name that kind asks for; kind starts it by a shell command (kind source
/// pkg/cluster/internal/loadbalancer).
pub fn balancer(store: &Store, distribution: &Distribution, helper: &Program) -> Result<PathBuf, Error> {
    let key = distribution.key.clone().and("balancer 1").and(&helper.sha256);
    store.file("balancer", &key, |work, out| {
        let mut layer = LayerBuilder::create(&work.join("layer"))?;
        let words = lay_apart(&mut layer, work, helper)?;
        let script = format!("#!/bin/sh\nexec {} balancer /home/envoy/cds.yaml\n", words.join(" "));
        layer.text("/usr/local/bin/envoy", script, 0o755)?;
        let layers = [known_layer(&distribution.shell)?, layer.finish()?];
        let image = Image { names: vec!["envoyproxy/envoy:v1.36.2".to_owned()], ..Image::default() };
        Archive::write(out, &layers, &[image])?;
        Ok(())
    })
}

/// A layer of the store; its checksum is in its record.
pub fn known_layer(path: &Path) -> Result<Layer, Error> {
    let record = crate::store::finished(path)
        .ok_or_else(|| Error::Interrupted(format!("{} was changed by another process", path.display())))?;
    Ok(Layer { path: path.to_owned(), sha256: record.sha256, size: record.size })
}

/// What goes into the images of pods, for the key of the node image.
pub fn key(key: Key, tools: &Tools, helper: &Program) -> Result<Key, Error> {
    let mut key = key.and(&helper.sha256);
    for row in &ROWS {
        // The folder of a program has its pins in its name.
        let path = tools.path(row.tool)?.display().to_string();
        key = key.and(row.name).and(row.tag).and(row.at).and(&path);
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_has_a_tag_and_no_two_are_alike() {
        let mut names: Vec<String> = ROWS
            .iter()
            .map(|row| format!("{}:{}", row.name, if row.tag.is_empty() { row.tool.version() } else { row.tag }))
            .collect();
        assert!(names.iter().all(|name| name.rsplit_once(':').is_some_and(|(_, tag)| !tag.is_empty())));
        assert!(names.contains(&"registry.k8s.io/coredns/coredns:v1.14.2".to_owned()));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), ROWS.len());
    }
}
