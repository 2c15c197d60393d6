//! The text of a kind configuration: what it names, which images a cluster of it is made from, and what a run adds to it.

use std::{collections::BTreeSet, path::Path};

use api::volumes::ON_NODES;
use harness::failure::{Failure, Tried as _};
use serde_json::{Value, json};

use crate::images::{RunImage, Source};

/// What a cluster is called whose configuration names none.
const NAME: &str = "registry-conformance";
/// The image of nodes whose configuration names none: the one that kind v0.33.0 was released with (kind source
/// pkg/apis/config/defaults/image.go).
const NODES: &str =
    "docker.io/kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5";
/// What that kind puts before several control planes; it names it by its tag only (kind source
/// pkg/cluster/internal/loadbalancer/const.go), so an archive has the same name.
const BALANCER: &str = "docker.io/envoyproxy/envoy:v1.36.2";
/// Where the node of the control plane has the tokens.
const TOKENS: &str = "/etc/registry-conformance/tokens.csv";

/// The name in a kind configuration, as kind itself reads it, else ours.
///
/// # Errors
/// When it is no YAML.
pub(super) fn name_of(config: &str) -> Result<String, Failure> {
    let value: Value = serde_yaml::from_str(config).tried("reading the kind configuration")?;
    Ok(value["name"].as_str().unwrap_or(NAME).to_owned())
}

/// The images that kind is asked to make a cluster of this configuration from.
///
/// # Errors
/// When it is no kind configuration.
pub(super) fn images(config: &str) -> Result<Vec<RunImage>, Failure> {
    let tried = "finding the images of the kind configuration";
    let value: Value = serde_yaml::from_str(config).tried(tried)?;
    let nodes = value["nodes"].as_array().ok_or_else(|| Failure::error(tried, "it has no list `nodes`"))?;
    let named: BTreeSet<&str> = nodes.iter().map(|node| node["image"].as_str().unwrap_or(NODES)).collect();
    let registry = |image: &str, archive: &str, purpose: &str| RunImage {
        image: image.to_owned(),
        source: Source::Registry,
        archive: Some(archive.to_owned()),
        purpose: purpose.to_owned(),
    };
    let mut images: Vec<_> =
        named.into_iter().map(|image| registry(image, air_gap::NODE_IMAGE, "the cluster's nodes")).collect();
    if nodes.iter().filter(|node| node["role"] == "control-plane").count() > 1 {
        images.push(registry(BALANCER, BALANCER, "the balancer before the cluster's control planes"));
    }
    Ok(images)
}

/// Adds to a kind configuration what a run brings: the image of the nodes, the tokens of its people, on the node of the
/// control plane, and a folder that all nodes share.
///
/// # Errors
/// When it is no kind configuration.
pub(super) fn rendered(config: &str, image: Option<&str>, tokens: &Path, volumes: &Path) -> Result<String, Failure> {
    let tried = "adding people and volumes to the kind configuration";
    let mut value: Value = serde_yaml::from_str(config).tried(tried)?;
    let nodes = value["nodes"].as_array_mut().ok_or_else(|| Failure::error(tried, "it has no list `nodes`"))?;
    for node in nodes.iter_mut() {
        let own = node["image"].as_str().unwrap_or(NODES).to_owned();
        node["image"] = image.unwrap_or(&own).into();
        let mut mounts = vec![json!({"hostPath": volumes, "containerPath": ON_NODES})];
        if node["role"] == "control-plane" {
            mounts.push(json!({"hostPath": tokens, "containerPath": TOKENS, "readOnly": true}));
        }
        match node["extraMounts"].as_array_mut() {
            Some(own) => own.extend(mounts),
            None => node["extraMounts"] = json!(mounts),
        }
    }
    // The argument list is a map in one version of kubeadm's configuration and a list in the next; kind applies the
    // patch that fits the version of the nodes.
    let volume =
        json!([{"name": "tokens", "hostPath": TOKENS, "mountPath": TOKENS, "readOnly": true, "pathType": "File"}]);
    let volume = json!({"op": "add", "path": "/apiServer/extraVolumes", "value": volume});
    let argument = [
        ("v1beta3", json!({"op": "add", "path": "/apiServer/extraArgs/token-auth-file", "value": TOKENS})),
        (
            "v1beta4",
            json!({"op": "add", "path": "/apiServer/extraArgs/-", "value": {"name": "token-auth-file", "value": TOKENS}}),
        ),
    ];
    let patches = argument.map(|(version, argument)| {
        let patch = json!([argument, volume]).to_string();
        json!({"group": "kubeadm.k8s.io", "version": version, "kind": "ClusterConfiguration", "patch": patch})
    });
    match value["kubeadmConfigPatchesJSON6902"].as_array_mut() {
        Some(own) => own.extend(patches),
        None => value["kubeadmConfigPatchesJSON6902"] = json!(patches),
    }
    serde_json::to_string_pretty(&value).tried(tried)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "kind: Cluster\nname: ours\nnodes: [{role: control-plane}, {role: worker}]\n";

    #[test]
    fn tokens_come_onto_the_control_plane_only_and_for_either_version_of_kubeadm() {
        let text =
            rendered(CONFIG, None, Path::new("/run/tokens.csv"), Path::new("/volumes")).expect("a configuration");
        let value: Value = serde_yaml::from_str(&text).expect("YAML");
        assert_eq!(value["nodes"][0]["extraMounts"][1]["hostPath"], "/run/tokens.csv");
        assert_eq!(value["nodes"][1]["extraMounts"].as_array().map(Vec::len), Some(1));
        let patches = value["kubeadmConfigPatchesJSON6902"].as_array().expect("patches");
        let versions: Vec<_> = patches.iter().map(|patch| patch["version"].as_str().unwrap_or_default()).collect();
        assert_eq!(versions, ["v1beta3", "v1beta4"]);
    }

    #[rstest::rstest]
    #[case::kinds_own(None, None, NODES)]
    #[case::of_the_configuration(Some("example.com/node@sha256:aa"), None, "example.com/node@sha256:aa")]
    #[case::of_an_archive(Some("example.com/node@sha256:aa"), Some("ours.local/node:v1"), "ours.local/node:v1")]
    fn every_node_has_an_image_of_the_list(
        #[case] own: Option<&str>,
        #[case] archive: Option<&str>,
        #[case] expected: &str,
    ) {
        let node = own.map(|image| format!(", image: \"{image}\"")).unwrap_or_default();
        let config = CONFIG.replace("worker}", &format!("worker{node}}}")).replace("plane}", &format!("plane{node}}}"));
        let text = rendered(&config, archive, Path::new("/t"), Path::new("/v")).expect("rendered");
        let value: Value = serde_yaml::from_str(&text).expect("YAML");
        let nodes = value["nodes"].as_array().expect("nodes");
        assert!(nodes.iter().all(|node| node["image"] == expected), "{text}");
        let listed = images(&config).expect("a list");
        assert_eq!(listed.len(), 1);
        assert!(archive.is_some() || listed[0].image == expected);
    }

    #[test]
    fn several_control_planes_need_a_balancer() {
        let config = CONFIG.replace("worker", "control-plane");
        let listed = images(&config).expect("a list");
        assert_eq!(listed.iter().map(|image| image.image.as_str()).collect::<Vec<_>>(), [NODES, BALANCER]);
    }

    #[test]
    fn what_the_configuration_brings_itself_stays() {
        let config = CONFIG.replace("{role: control-plane}", "{role: control-plane, extraMounts: [{hostPath: /a}]}");
        let text = rendered(&config, None, Path::new("/t"), Path::new("/v")).expect("rendered");
        let value: Value = serde_yaml::from_str(&text).expect("YAML");
        assert_eq!(value["nodes"][0]["extraMounts"].as_array().map(Vec::len), Some(3));
        assert_eq!(name_of(&config).expect("a name"), "ours");
        assert_eq!(name_of("kind: Cluster\n").expect("a name"), NAME);
    }
}
