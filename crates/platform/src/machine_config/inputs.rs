//! What the renderer reads: the cluster's objects, and those that only OpenShift's own installation has.
//! A value that can be compared, so that nothing is rendered twice.

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

/// Names the version of the operator that wrote the renderer's configuration (machine-config-operator source
/// pkg/daemon/constants/constants.go, `GeneratedByVersionAnnotationKey`).
const GENERATED_BY: &str = "machineconfiguration.openshift.io/generated-by-version";

/// Everything that decides what is rendered, for any pool.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Inputs {
    /// The release by which the renderer finds its feature gates.
    pub(super) version: String,
    /// Manifests, by a file name without extension; the first one is the renderer's own configuration.
    manifests: Vec<(String, Value)>,
}

impl Inputs {
    /// From the objects of the cluster; `None` while version, feature gates or infrastructure are not there.
    pub(super) fn of(objects: &[DynamicObject]) -> Option<Self> {
        let one = |kind: &str| objects.iter().find(|object| is(object, kind)).map(|object| &object.data);
        let (version, infrastructure) = (one("ClusterVersion")?, one("Infrastructure")?);
        let desired = &version["status"]["desired"];
        let release = desired["version"].as_str()?.to_owned();
        one("FeatureGate")?;
        let config = controller_config(infrastructure, desired["image"].as_str()?);
        let mut manifests = vec![("controllerconfig".to_owned(), config)];
        manifests.extend(objects.iter().filter(|object| !is(object, "ClusterVersion")).map(|object| {
            let kind = object.types.as_ref().map(|types| types.kind.to_lowercase()).unwrap_or_default();
            (format!("{kind}-{}", object.name_any()), manifest(object))
        }));
        Some(Self { version: release, manifests })
    }

    /// The manifests that are rendered for one pool by a renderer that was built as `build`.
    pub(super) fn manifests(&self, pool: &str, build: &str) -> Vec<(String, Value)> {
        let mut all = self.manifests.clone();
        all[0].1["metadata"]["annotations"] = json!({GENERATED_BY: build});
        all.push(("pool".to_owned(), machine_config_pool(pool)));
        all
    }

    /// Whether anything is there that could contradict itself: mirrors, or lists of registries.
    pub(super) fn may_be_refused(&self) -> bool {
        self.manifests.iter().any(|(_, manifest)| match manifest["kind"].as_str() {
            Some("ImageDigestMirrorSet" | "ImageTagMirrorSet" | "ImageContentSourcePolicy") => true,
            Some("Image") => manifest["spec"]["registrySources"].is_object(),
            _ => false,
        })
    }
}

fn is(object: &DynamicObject, kind: &str) -> bool {
    object.types.as_ref().is_some_and(|types| types.kind == kind)
}

/// What of an object counts; not what only says when it was written and by whom.
fn manifest(object: &DynamicObject) -> Value {
    let types = object.types.clone().unwrap_or_default();
    let mut manifest = json!({
        "apiVersion": types.api_version,
        "kind": types.kind,
        "metadata": {"name": object.name_any()},
    });
    for part in ["spec", "status"] {
        if let Some(value) = object.data.get(part).filter(|value| !value.is_null()) {
            manifest[part] = value.clone();
        }
    }
    manifest
}

/// The renderer's own configuration, which OpenShift's machine config operator writes (machine-config-operator source
/// pkg/operator/render.go). Images and authorities go into other files than those that are looked at here.
fn controller_config(infrastructure: &Value, release_image: &str) -> Value {
    json!({
        "apiVersion": "machineconfiguration.openshift.io/v1",
        "kind": "ControllerConfig",
        "metadata": {"name": "machine-config-controller"},
        "spec": {
            "clusterDNSIP": "172.30.0.10",
            "cloudProviderConfig": "",
            "additionalTrustBundle": null,
            "rootCAData": "",
            "kubeAPIServerServingCAData": "",
            "images": {},
            "proxy": null,
            "infra": {
                "apiVersion": "config.openshift.io/v1",
                "kind": "Infrastructure",
                "metadata": {"name": api::names::CLUSTER},
                "spec": {"cloudConfig": {"name": ""}},
                "status": infrastructure["status"],
            },
            "osImageURL": "",
            "releaseImage": release_image,
        },
    })
}

/// One of the two pools that every cluster has; the label makes the renderer give it the registries' configuration.
fn machine_config_pool(name: &str) -> Value {
    let selector = |key: &str, value: &str| json!({"matchLabels": {key: value}});
    json!({
        "apiVersion": "machineconfiguration.openshift.io/v1",
        "kind": "MachineConfigPool",
        "metadata": {"name": name, "labels": {"machineconfiguration.openshift.io/mco-built-in": ""}},
        "spec": {
            "machineConfigSelector": selector("machineconfiguration.openshift.io/role", name),
            "nodeSelector": selector(&format!("node-role.kubernetes.io/{name}"), ""),
        },
    })
}

/// A pull secret that opens nothing; the renderer wants one, and nothing is pulled with it here.
pub(super) fn pull_secret() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": api::names::PULL_SECRET},
        // {"auths":{}}
        "data": {".dockerconfigjson": "eyJhdXRocyI6e319"},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: &str, name: &str, data: Value) -> DynamicObject {
        let mut object = json!({"apiVersion": "config.openshift.io/v1", "kind": kind, "metadata": {
            "name": name, "resourceVersion": "7", "generation": 1,
        }});
        object.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
        serde_json::from_value(object).unwrap()
    }

    fn installed() -> Vec<DynamicObject> {
        let desired = json!({"version": "4.6.0", "image": "registry-conformance.local/release:4.6.0"});
        vec![
            object("ClusterVersion", "version", json!({"status": {"desired": desired}})),
            object("FeatureGate", "cluster", json!({"status": {"featureGates": []}})),
            object("Infrastructure", "cluster", json!({"status": {"infrastructureName": "c"}})),
            object("Image", "cluster", json!({"spec": {}})),
        ]
    }

    #[test]
    fn nothing_is_rendered_before_the_cluster_is_known() {
        for missing in 0..3 {
            let mut objects = installed();
            objects.remove(missing);
            assert!(Inputs::of(&objects).is_none(), "without {missing}");
        }
        assert!(Inputs::of(&installed()).is_some());
    }

    #[test]
    fn what_nobody_wrote_is_no_news() {
        let mut objects = installed();
        let before = Inputs::of(&objects).unwrap();
        objects[3].metadata.resource_version = Some("8".into());
        assert_eq!(Inputs::of(&objects).unwrap(), before);
        assert!(!before.may_be_refused());
        objects.push(object("ImageDigestMirrorSet", "m", json!({"spec": {"imageDigestMirrors": []}})));
        let after = Inputs::of(&objects).unwrap();
        assert_ne!(after, before);
        assert!(after.may_be_refused());
    }

    #[test]
    fn the_configuration_names_release_and_cluster() {
        let inputs = Inputs::of(&installed()).unwrap();
        let manifests = inputs.manifests("worker", "v4.16.0");
        let find = |kind: &str| &manifests.iter().find(|(_, manifest)| manifest["kind"] == kind).unwrap().1;
        assert_eq!(find("ControllerConfig")["spec"]["releaseImage"], "registry-conformance.local/release:4.6.0");
        assert_eq!(find("ControllerConfig")["metadata"]["annotations"][GENERATED_BY], "v4.16.0");
        assert_eq!(find("ControllerConfig")["spec"]["infra"]["status"]["infrastructureName"], "c");
        assert_eq!(find("MachineConfigPool")["metadata"]["name"], "worker");
        assert!(manifests.iter().all(|(_, manifest)| manifest["kind"] != "ClusterVersion"));
    }
}
