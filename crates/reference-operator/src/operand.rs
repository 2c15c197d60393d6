//! The registry's objects other than Deployment and routes, as values.
//! Names and content follow the original; when they are applied is the registry controller's business.

use std::collections::BTreeMap;

use api::names;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use crate::deployment::labels;

/// ClusterRole of the registry's pods (operator source pkg/resource/clusterrole.go:36-112, main).
pub fn cluster_role() -> Value {
    let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!({ "apiGroups": groups, "resources": resources, "verbs": verbs });
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": names::REGISTRY_CLUSTER_ROLE },
        "rules": [
            rule(&[""], &["limitranges", "resourcequotas"], &["list"]),
            rule(&["", "image.openshift.io"], &["imagestreamimages", "imagestreams/layers"], &["get"]),
            rule(&["", "image.openshift.io"], &["imagestreams/secrets"], &["get"]),
            rule(&["", "image.openshift.io"], &["images", "imagestreams"], &["get", "list", "update"]),
            rule(&["", "image.openshift.io"], &["imagestreamtags"], &["delete", "get"]),
            rule(&["", "image.openshift.io"], &["imagestreammappings"], &["create"]),
            rule(&["", "image.openshift.io"], &["imagestreams"], &["create"]),
            rule(&["", "image.openshift.io"], &["images"], &["delete"]),
            rule(&["authorization.k8s.io"], &["subjectaccessreviews", "selfsubjectaccessreviews"], &["create"]),
            rule(&["authentication.k8s.io"], &["tokenreviews", "selfsubjectreviews"], &["create"]),
            rule(&["operator.openshift.io"], &["imagecontentsourcepolicies"], &["list", "get", "watch"]),
            rule(&["config.openshift.io"], &["imagedigestmirrorsets", "imagetagmirrorsets", "images"], &["list", "get", "watch"]),
        ],
    })
}

/// A ClusterRoleBinding to one ServiceAccount of the namespace.
fn binding(name: &str, role: &str, account: &str, namespace: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [{ "kind": "ServiceAccount", "name": account, "namespace": namespace }],
    })
}

/// Binds the registry's role.
pub fn cluster_role_binding(namespace: &str) -> Value {
    binding(
        names::REGISTRY_CLUSTER_ROLE_BINDING,
        names::REGISTRY_CLUSTER_ROLE,
        names::REGISTRY_SERVICE_ACCOUNT,
        namespace,
    )
}

/// Binds the pruner's role, which the platform brings.
pub fn pruner_cluster_role_binding(namespace: &str) -> Value {
    binding(names::PRUNER_CLUSTER_ROLE_BINDING, names::PRUNER_CLUSTER_ROLE, names::PRUNER_SERVICE_ACCOUNT, namespace)
}

/// A ServiceAccount of the namespace.
pub fn service_account(name: &str, namespace: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": namespace } })
}

/// The Service, for which the service CA makes a serving certificate
/// (operator source pkg/resource/service.go:54-79, main).
pub fn service(namespace: &str) -> Value {
    let port = names::REGISTRY_PORT;
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": names::REGISTRY,
            "namespace": namespace,
            "labels": labels(),
            "annotations": { names::SERVING_CERT_ANNOTATION_ALPHA: names::REGISTRY_TLS_SECRET },
        },
        "spec": {
            "selector": labels(),
            "ports": [{ "name": format!("{port}-tcp"), "port": port, "protocol": "TCP", "targetPort": port }],
        },
    })
}

/// The PodDisruptionBudget (operator source pkg/resource/poddisruptionbudget.go:45-66, main).
pub fn disruption_budget(namespace: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": { "name": names::REGISTRY, "namespace": namespace, "labels": labels() },
        "spec": {
            "minAvailable": i32::from(replicas > 1),
            "selector": { "matchLabels": labels() },
        },
    })
}

fn encoded(content: &BTreeMap<String, String>) -> BTreeMap<&str, ByteString> {
    content.iter().map(|(key, value)| (key.as_str(), ByteString(value.clone().into_bytes()))).collect()
}

/// The Secret with what the storage backend needs; empty for volumes
/// (operator source pkg/resource/secret.go:49-83, main).
pub fn storage_secret(namespace: &str, content: &BTreeMap<String, String>) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": names::STORAGE_SECRET, "namespace": namespace },
        "type": "Opaque",
        "data": encoded(content),
    })
}

/// The registry's copy of the cluster's pull secret (operator source pkg/resource/pullsecret.go:41-62, main).
pub fn pull_secrets(namespace: &str, source: &Secret) -> Value {
    let key = ".dockerconfigjson";
    let value = source.data.as_ref().and_then(|data| data.get(key)).cloned().unwrap_or_default();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": names::INSTALLATION_PULL_SECRETS, "namespace": namespace },
        "type": "kubernetes.io/dockerconfigjson",
        "data": { key: value },
    })
}

/// The ConfigMap into which the service CA puts its bundle; it has no data of its own
/// (operator source pkg/resource/serviceca.go:46-56, main).
pub fn service_ca(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": names::SERVICE_CA_CONFIG_MAP,
            "namespace": namespace,
            "annotations": { names::INJECT_CA_BUNDLE_ANNOTATION: "true" },
        },
    })
}

/// The ConfigMap for the cluster-wide proxy's CA bundle, filled by others
/// (operator source manifests/04-ca-trusted.yaml, main).
pub fn trusted_ca(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": names::TRUSTED_CA_CONFIG_MAP,
            "namespace": namespace,
            "labels": { "config.openshift.io/inject-trusted-cabundle": "true" },
        },
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
    use k8s_openapi::api::policy::v1::PodDisruptionBudget;
    use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
    use rstest::rstest;
    use serde::de::DeserializeOwned;

    use super::*;

    fn fits<T: DeserializeOwned>(value: Value) -> bool {
        serde_json::from_value::<T>(value).is_ok()
    }

    #[test]
    fn every_value_is_of_its_type() {
        assert!(fits::<ClusterRole>(cluster_role()));
        assert!(fits::<ClusterRoleBinding>(cluster_role_binding("ns")));
        assert!(fits::<ClusterRoleBinding>(pruner_cluster_role_binding("ns")));
        assert!(fits::<ServiceAccount>(service_account("a", "ns")));
        assert!(fits::<Service>(service("ns")));
        assert!(fits::<ConfigMap>(service_ca("ns")) && fits::<ConfigMap>(trusted_ca("ns")));
        assert!(fits::<PodDisruptionBudget>(disruption_budget("ns", 1)));
    }

    #[rstest]
    #[case(0, 0)]
    #[case(1, 0)]
    #[case(2, 1)]
    fn only_several_replicas_are_protected(#[case] replicas: i32, #[case] want: i32) {
        assert_eq!(disruption_budget("ns", replicas)["spec"]["minAvailable"], want);
    }

    #[test]
    fn secrets_are_encoded() {
        let secret = storage_secret("ns", &[("K".to_owned(), "v".to_owned())].into());
        assert_eq!(secret["data"]["K"], "dg==");
        assert!(fits::<Secret>(secret));
    }
}
