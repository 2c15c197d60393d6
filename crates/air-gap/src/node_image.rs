//! The image of kind's nodes: the root of a distribution under one layer with Kubernetes, the images of its pods, the manifests
//! that kind applies, and our PID 1.

use std::path::PathBuf;

use container_image::{Archive, Image, LayerBuilder};
use local_cluster::tool::{Tool, Tools};

use crate::pod_images::{self, known_layer};
use crate::{Distribution, Error, NODE_IMAGE, Program, Store};

/// Files that kind, containerd and the kubelet read, by place.
const FILES: [(&str, &str); 5] = [
    ("/kind/manifests/default-cni.yaml", include_str!("../../../ci/air-gap/node/default-cni.yaml")),
    ("/kind/manifests/default-storage.yaml", include_str!("../../../ci/air-gap/node/default-storage.yaml")),
    ("/etc/containerd/config.toml", include_str!("../../../ci/air-gap/node/containerd.toml")),
    (
        "/etc/containerd/certs.d/registry.k8s.io/hosts.toml",
        include_str!("../../../ci/air-gap/node/upstream-registry.toml"),
    ),
    ("/etc/kubernetes/kubelet.conf.d/10-kind-node.conf", include_str!("../../../ci/air-gap/node/kubelet.yaml")),
];
const PROGRAMS: [Tool; 3] = [Tool::Kubeadm, Tool::Kubectl, Tool::Kubelet];
/// Changes when the code below makes something else of the same parts.
const RECIPE: &str = "node 1";

/// The archive; made when one of its parts has changed.
pub fn archive(store: &Store, distribution: &Distribution, tools: &Tools, helper: &Program) -> Result<PathBuf, Error> {
    let mut key = pod_images::key(distribution.key.clone().and(RECIPE), tools, helper)?;
    for tool in PROGRAMS {
        key = key.and(&tools.path(tool)?.display().to_string());
    }
    for (place, content) in FILES {
        key = key.and(place).and(content);
    }
    let version = Tool::Kubelet.version();
    let tag = format!("{version}-{}", key.short());
    store.file("kind-node", &key, |work, out| {
        let mut layer = LayerBuilder::create(&work.join("layer"))?;
        for (place, content) in FILES {
            layer.text(place, content, 0o644)?;
        }
        layer.text("/kind/version", version, 0o644)?;
        layer.folder("/etc/kubernetes/manifests", 0o755)?;
        for tool in PROGRAMS {
            layer.file(&format!("/usr/bin/{tool}"), tools.path(tool)?, 0o755)?;
        }
        for image in pod_images::all(work, distribution, tools, helper)? {
            let folder = if image.control_plane { "/kind/images/control-plane" } else { "/kind/images" };
            let path = &image.archive.path;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            layer.file(&format!("{folder}/{name}"), path, 0o644)?;
            std::fs::remove_file(path).map_err(Error::file("remove", path))?;
        }
        let mut entrypoint = pod_images::lay_apart(&mut layer, work, helper)?;
        entrypoint.push("init".to_owned());
        let image = Image {
            names: [tag.as_str(), version].map(|tag| format!("{NODE_IMAGE}:{tag}")).into(),
            entrypoint,
            env: vec!["container=docker".to_owned()],
            ..Image::default()
        };
        Archive::write(out, &[known_layer(&distribution.root)?, layer.finish()?], &[image])?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_has_the_sentences_that_kind_acts_on() {
        let (_, network) = FILES[0];
        for sentence in ["would you kindly template this file", "would you kindly patch this file", "{{ .PodSubnet }}"]
        {
            assert!(network.contains(sentence), "{sentence}");
        }
    }

    #[test]
    fn every_image_of_a_manifest_is_never_pulled() {
        for (place, text) in FILES {
            let images = text.lines().filter(|line| line.trim_start().starts_with("image: ")).count();
            assert_eq!(images, text.matches("imagePullPolicy: Never").count(), "{place}");
        }
    }
}
