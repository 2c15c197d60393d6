//! The Deployment of the registry as a value: everything the Config says about the registry's pods ends here.
//! Field by field it follows the operator of 4.6, with the differences named at the place.

use std::collections::{BTreeMap, BTreeSet};

use api::config::ProxyStatus;
use api::imageregistry::{ConfigSpec, LogLevel, RequestLimits, RolloutStrategy};
use api::names;
use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Map, Value, json};

use crate::error::SyncError;
use crate::object::{checksum, untyped};
use crate::storage::{PodStorage, literal};

/// What the Deployment depends on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The Config's spec, complete.
    pub spec: &'a ConfigSpec,
    /// Namespace of the registry.
    pub namespace: &'a str,
    /// Image of the registry.
    pub image: &'a str,
    /// Release put into the version annotation.
    pub release_version: &'a str,
    /// Group of volumes, from the namespace.
    pub fs_group: i64,
    /// The cluster-wide proxy in effect.
    pub proxy: Option<&'a ProxyStatus>,
    /// What the storage backend needs.
    pub storage: &'a PodStorage,
}

/// ConfigMaps and Secrets a pod template uses, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dependencies {
    /// Names of ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Names of Secrets.
    pub secrets: BTreeSet<String>,
}

/// The group of the registry's volumes: the number before `/` in the namespace's annotation
/// (operator source pkg/resource/podtemplatespec.go:133-161, main).
///
/// # Errors
/// [`SyncError::Missing`] naming namespace and annotation.
pub fn fs_group(namespace: Option<&Namespace>, name: &str) -> Result<i64, SyncError> {
    let annotation = names::SUPPLEMENTAL_GROUPS_ANNOTATION;
    let fail = |what: String| SyncError::Missing {
        message: format!("generate security context for deployment config: {what}"),
    };
    let annotations = namespace.and_then(|namespace| namespace.metadata.annotations.as_ref());
    let value = annotations
        .and_then(|all| all.get(annotation))
        .ok_or_else(|| fail(format!("namespace \"{name}\" doesn't have annotation \"{annotation}\"")))?;
    let first = value.split('/').next().unwrap_or_default();
    first
        .parse()
        .map_err(|_| fail(format!("unable to parse annotation \"{annotation}\" of namespace \"{name}\": {value}")))
}

/// `REGISTRY_LOG_LEVEL` of a spec: `logLevel` first, the older `logging` when that is Normal
/// (operator source pkg/resource/podtemplatespec.go:28-41, release-4.6).
pub fn log_level(spec: &ConfigSpec) -> &'static str {
    match (spec.log_level.unwrap_or_default(), spec.logging.unwrap_or(0)) {
        (LogLevel::Debug | LogLevel::Trace | LogLevel::TraceAll, _) => "debug",
        (_, 1) => "warn",
        (_, 0 | 2 | 3) => "info",
        _ => "debug",
    }
}

/// Environment of one class of request limits; all three or none.
///
/// # Errors
/// [`SyncError::Missing`] for a negative limit (operator source pkg/resource/podtemplatespec.go:262-288, main).
fn limits(class: &str, limits: &RequestLimits) -> Result<Vec<Value>, SyncError> {
    let title = if class == "READ" { "Read" } else { "Write" };
    for (field, value) in [("MaxRunning", limits.max_running), ("MaxInQueue", limits.max_in_queue)] {
        if value < 0 {
            return Err(SyncError::Missing { message: format!("Requests.{title}.{field} must be positive number") });
        }
    }
    if limits.max_running == 0 && limits.max_in_queue == 0 {
        return Ok(Vec::new());
    }
    let wait = if limits.max_wait_in_queue.is_empty() { "0s" } else { &limits.max_wait_in_queue };
    let name = |field: &str| format!("REGISTRY_OPENSHIFT_REQUESTS_{class}_{field}");
    Ok(vec![
        literal(&name("MAXRUNNING"), limits.max_running.to_string()),
        literal(&name("MAXINQUEUE"), limits.max_in_queue.to_string()),
        literal(&name("MAXWAITINQUEUE"), wait),
    ])
}

fn proxy_env(spec: &ConfigSpec, cluster: Option<&ProxyStatus>) -> Vec<Value> {
    let own = spec.proxy.clone().unwrap_or_default();
    let cluster = cluster.cloned().unwrap_or_default();
    [
        ("HTTP_PROXY", own.http, cluster.http_proxy),
        ("HTTPS_PROXY", own.https, cluster.https_proxy),
        ("NO_PROXY", own.no_proxy, cluster.no_proxy),
    ]
    .into_iter()
    .map(|(name, own, cluster)| (name, if own.is_empty() { cluster } else { own }))
    .filter(|(_, value)| !value.is_empty())
    .map(|(name, value)| literal(name, value))
    .collect()
}

/// The registry's environment (operator source pkg/resource/podtemplatespec.go:198-268, release-4.6).
///
/// # Errors
/// As for impossible request limits.
pub fn env(inputs: Inputs<'_>) -> Result<Vec<Value>, SyncError> {
    let spec = inputs.spec;
    let server = format!("{}.{}.svc:{}", names::REGISTRY, inputs.namespace, names::REGISTRY_PORT);
    let mut env = inputs.storage.env.clone();
    env.extend([
        literal("REGISTRY_HTTP_ADDR", format!(":{}", names::REGISTRY_PORT)),
        literal("REGISTRY_HTTP_NET", "tcp"),
        literal("REGISTRY_HTTP_SECRET", &spec.http_secret),
        literal("REGISTRY_LOG_LEVEL", log_level(spec)),
        literal("REGISTRY_OPENSHIFT_QUOTA_ENABLED", "true"),
        literal("REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR", "inmemory"),
        literal("REGISTRY_STORAGE_DELETE_ENABLED", "true"),
        literal("REGISTRY_HEALTH_STORAGEDRIVER_ENABLED", "true"),
        literal("REGISTRY_HEALTH_STORAGEDRIVER_INTERVAL", "10s"),
        literal("REGISTRY_HEALTH_STORAGEDRIVER_THRESHOLD", "1"),
        literal("REGISTRY_OPENSHIFT_METRICS_ENABLED", "true"),
        literal("REGISTRY_OPENSHIFT_SERVER_ADDR", server),
        literal("REGISTRY_HTTP_TLS_CERTIFICATE", "/etc/secrets/tls.crt"),
        literal("REGISTRY_HTTP_TLS_KEY", "/etc/secrets/tls.key"),
    ]);
    env.extend(proxy_env(spec, inputs.proxy));
    if spec.read_only {
        env.push(literal("REGISTRY_STORAGE_MAINTENANCE_READONLY", "{enabled: true}"));
    }
    if spec.disable_redirect {
        env.push(literal("REGISTRY_STORAGE_REDIRECT_DISABLE", "true"));
    }
    if let Some(requests) = &spec.requests {
        env.extend(limits("READ", &requests.read)?);
        env.extend(limits("WRITE", &requests.write)?);
    }
    Ok(env)
}

/// A probe of the registry's health page. The period of one second, shorter than the default ten, lets a pod become
/// ready as soon as it serves; delays are those of 4.2 to 4.6.
fn probe(initial_delay: i64, period: i64) -> Value {
    json!({
        "httpGet": { "scheme": "HTTPS", "path": "/healthz", "port": names::REGISTRY_PORT },
        "initialDelaySeconds": initial_delay,
        "periodSeconds": period,
        "timeoutSeconds": 5,
    })
}

/// Labels and selector of the registry's pods.
pub fn labels() -> Value {
    json!({ names::REGISTRY_LABEL: names::REGISTRY_LABEL_VALUE })
}

/// The Deployment without its dependencies' checksum, which [`with_dependencies`] adds.
///
/// # Errors
/// As [`env`], and for overrides that are not what they should be.
pub fn desired(inputs: Inputs<'_>) -> Result<Value, SyncError> {
    let spec = inputs.spec;
    let (extra_annotations, runtime_class) = overrides(spec)?;
    let mut annotations = Map::from_iter([(names::VERSION_ANNOTATION.to_owned(), json!(inputs.release_version))]);
    annotations.extend(extra_annotations.clone());
    let mut volumes = vec![
        json!({ "name": "registry-tls", "projected": { "sources": [{ "secret": { "name": names::REGISTRY_TLS_SECRET } }] } }),
        json!({ "name": "registry-certificates", "configMap": { "name": names::CERTIFICATES_CONFIG_MAP } }),
        json!({ "name": "trusted-ca", "configMap": {
            "name": names::TRUSTED_CA_CONFIG_MAP,
            "optional": true,
            "items": [{ "key": "ca-bundle.crt", "path": "anchors/ca-bundle.crt" }],
        } }),
        json!({ "name": "ca-trust-extracted", "emptyDir": {} }),
        json!({ "name": "installation-pull-secrets", "secret": {
            "secretName": names::INSTALLATION_PULL_SECRETS,
            "optional": true,
            "items": [{ "key": ".dockerconfigjson", "path": "config.json" }],
        } }),
    ];
    let mut mounts = vec![
        json!({ "name": "registry-tls", "mountPath": "/etc/secrets" }),
        json!({ "name": "ca-trust-extracted", "mountPath": "/etc/pki/ca-trust/extracted" }),
        json!({ "name": "registry-certificates", "mountPath": "/etc/pki/ca-trust/source/anchors" }),
        json!({ "name": "trusted-ca", "mountPath": "/usr/share/pki/ca-trust-source" }),
        json!({ "name": "installation-pull-secrets", "mountPath": "/var/lib/kubelet" }),
    ];
    volumes.extend(inputs.storage.volumes.iter().cloned());
    mounts.extend(inputs.storage.mounts.iter().cloned());
    let mut node_selector = spec.node_selector.clone();
    node_selector.entry("kubernetes.io/os".into()).or_insert_with(|| "linux".into());
    let resources =
        spec.resources.as_ref().map_or_else(|| json!({ "requests": { "cpu": "100m", "memory": "256Mi" } }), untyped);
    let mut pod = json!({
        "serviceAccountName": names::REGISTRY_SERVICE_ACCOUNT,
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": node_selector,
        "affinity": spec.affinity.as_ref().map_or_else(default_affinity, untyped),
        "securityContext": { "fsGroup": inputs.fs_group },
        "volumes": volumes,
        "containers": [{
            "name": "registry",
            "image": inputs.image,
            "ports": [{ "containerPort": names::REGISTRY_PORT, "protocol": "TCP" }],
            "env": env(inputs)?,
            "volumeMounts": mounts,
            "livenessProbe": probe(10, 10),
            "readinessProbe": probe(0, 1),
            "resources": resources,
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }],
    });
    if !spec.tolerations.is_empty() {
        pod["tolerations"] = untyped(&spec.tolerations);
    }
    if !spec.topology_spread_constraints.is_empty() {
        pod["topologySpreadConstraints"] = untyped(&spec.topology_spread_constraints);
    }
    if let Some(class) = runtime_class {
        pod["runtimeClassName"] = json!(class);
    }
    let strategy = match spec.rollout_strategy.unwrap_or_default() {
        RolloutStrategy::RollingUpdate => "RollingUpdate",
        RolloutStrategy::Recreate => "Recreate",
    };
    Ok(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": names::REGISTRY,
            "namespace": inputs.namespace,
            "labels": labels(),
            "annotations": annotations,
        },
        "spec": {
            "replicas": spec.replicas,
            "strategy": { "type": strategy },
            "selector": { "matchLabels": labels() },
            "template": {
                "metadata": { "labels": labels(), "annotations": extra_annotations },
                "spec": pod,
            },
        },
    }))
}

/// Spreads pods over nodes where possible, as up to 4.6.
fn default_affinity() -> Value {
    json!({ "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{
        "weight": 100,
        "podAffinityTerm": {
            "labelSelector": { "matchLabels": labels() },
            "topologyKey": "kubernetes.io/hostname",
        },
    }] } })
}

fn overrides(spec: &ConfigSpec) -> Result<(Map<String, Value>, Option<String>), SyncError> {
    #[derive(Default, serde::Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Overrides {
        deployment: DeploymentOverrides,
    }
    #[derive(Default, serde::Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct DeploymentOverrides {
        annotations: BTreeMap<String, String>,
        runtime_class_name: Option<String>,
    }
    let Some(value) = &spec.unsupported_config_overrides else { return Ok((Map::new(), None)) };
    let parsed: Overrides = serde_json::from_value(value.clone())
        .map_err(|error| SyncError::Missing { message: format!("invalid unsupportedConfigOverrides: {error}") })?;
    let annotations = parsed.deployment.annotations.into_iter().map(|(key, value)| (key, json!(value))).collect();
    Ok((annotations, parsed.deployment.runtime_class_name))
}

/// Every ConfigMap and Secret the pods of this Deployment use.
pub fn dependencies(deployment: &Value) -> Dependencies {
    let pod = &deployment["spec"]["template"]["spec"];
    let mut found = Dependencies::default();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |value: &Value| value.as_str().map(str::to_owned);
    for volume in list(&pod["volumes"]) {
        found.config_maps.extend(name(&volume["configMap"]["name"]));
        found.secrets.extend(name(&volume["secret"]["secretName"]));
        for source in list(&volume["projected"]["sources"]) {
            found.config_maps.extend(name(&source["configMap"]["name"]));
            found.secrets.extend(name(&source["secret"]["name"]));
        }
    }
    for container in list(&pod["containers"]) {
        for entry in list(&container["env"]) {
            found.config_maps.extend(name(&entry["valueFrom"]["configMapKeyRef"]["name"]));
            found.secrets.extend(name(&entry["valueFrom"]["secretKeyRef"]["name"]));
        }
    }
    found
}

/// Puts the checksum of what the pods use into their template, so that a change of any of it rolls them
/// (operator source pkg/resource/dependencies.go:34-86, main). `content` is keyed by kind and name; what does not
/// exist is left out.
pub fn with_dependencies(mut deployment: Value, content: &BTreeMap<String, Value>) -> Value {
    let sum = checksum(&untyped(content));
    deployment["spec"]["template"]["metadata"]["annotations"][names::DEPENDENCIES_CHECKSUM_ANNOTATION] = json!(sum);
    deployment
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn build(spec: Value) -> Result<Value, SyncError> {
        let mut spec: ConfigSpec = serde_json::from_value(spec).expect("a spec");
        spec.http_secret = "s".into();
        desired(Inputs {
            spec: &spec,
            namespace: names::REGISTRY_NAMESPACE,
            image: "registry",
            release_version: "4.6.0",
            fs_group: 7,
            proxy: Some(&ProxyStatus {
                http_proxy: "http://cluster".into(),
                no_proxy: "n".into(),
                ..ProxyStatus::default()
            }),
            storage: &PodStorage::default(),
        })
    }

    fn value_of(deployment: &Value, name: &str) -> Option<String> {
        let env = deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().expect("env");
        env.iter().find(|entry| entry["name"] == name).map(|entry| entry["value"].as_str().unwrap_or("").to_owned())
    }

    #[rstest]
    #[case(json!({}), "REGISTRY_STORAGE_MAINTENANCE_READONLY", None)]
    #[case(json!({"readOnly": true}), "REGISTRY_STORAGE_MAINTENANCE_READONLY", Some("{enabled: true}"))]
    #[case(json!({}), "REGISTRY_STORAGE_REDIRECT_DISABLE", None)]
    #[case(json!({"disableRedirect": true}), "REGISTRY_STORAGE_REDIRECT_DISABLE", Some("true"))]
    #[case(json!({}), "REGISTRY_LOG_LEVEL", Some("info"))]
    #[case(json!({"logLevel": "Debug"}), "REGISTRY_LOG_LEVEL", Some("debug"))]
    #[case(json!({"logLevel": "TraceAll", "logging": 1}), "REGISTRY_LOG_LEVEL", Some("debug"))]
    #[case(json!({"logLevel": "Normal", "logging": 1}), "REGISTRY_LOG_LEVEL", Some("warn"))]
    #[case(json!({"logging": 9}), "REGISTRY_LOG_LEVEL", Some("debug"))]
    #[case(json!({}), "HTTP_PROXY", Some("http://cluster"))]
    #[case(json!({}), "HTTPS_PROXY", None)]
    #[case(json!({"proxy": {"http": "http://own"}}), "HTTP_PROXY", Some("http://own"))]
    #[case(json!({"proxy": {"http": "http://own"}}), "NO_PROXY", Some("n"))]
    #[case(json!({"requests": {"read": {"maxRunning": 0, "maxInQueue": 0}}}), "REGISTRY_OPENSHIFT_REQUESTS_READ_MAXRUNNING", None)]
    #[case(json!({"requests": {"read": {"maxInQueue": 2}}}), "REGISTRY_OPENSHIFT_REQUESTS_READ_MAXRUNNING", Some("0"))]
    #[case(json!({"requests": {"write": {"maxRunning": 1, "maxWaitInQueue": "6h0m0s"}}}), "REGISTRY_OPENSHIFT_REQUESTS_WRITE_MAXWAITINQUEUE", Some("6h0m0s"))]
    #[case(json!({}), "REGISTRY_OPENSHIFT_SERVER_ADDR", Some("image-registry.openshift-image-registry.svc:5000"))]
    fn spec_fields_become_environment(#[case] mut spec: Value, #[case] name: &str, #[case] want: Option<&str>) {
        spec["replicas"] = json!(1);
        let deployment = build(spec).expect("a Deployment");
        assert_eq!(value_of(&deployment, name).as_deref(), want);
        let typed: Result<k8s_openapi::api::apps::v1::Deployment, _> = serde_json::from_value(deployment);
        assert!(typed.is_ok(), "{typed:?}");
    }

    #[rstest]
    #[case(json!({"read": {"maxRunning": -1}}), "Requests.Read.MaxRunning must be positive number")]
    #[case(json!({"write": {"maxInQueue": -1}}), "Requests.Write.MaxInQueue must be positive number")]
    fn negative_limits_are_refused(#[case] requests: Value, #[case] want: &str) {
        let error = build(json!({"replicas": 1, "requests": requests})).expect_err("refused");
        assert_eq!(error.to_string(), want);
    }

    #[rstest]
    #[case(json!({"replicas": 3}), "/spec/replicas", json!(3))]
    #[case(json!({"replicas": 1}), "/spec/strategy/type", json!("RollingUpdate"))]
    #[case(json!({"replicas": 1, "rolloutStrategy": "Recreate"}), "/spec/strategy/type", json!("Recreate"))]
    #[case(json!({"replicas": 1, "nodeSelector": {"a": "b"}}), "/spec/template/spec/nodeSelector", json!({"a": "b", "kubernetes.io/os": "linux"}))]
    #[case(json!({"replicas": 1}), "/spec/template/spec/securityContext/fsGroup", json!(7))]
    #[case(json!({"replicas": 1}), "/spec/template/spec/containers/0/resources/requests/memory", json!("256Mi"))]
    #[case(json!({"replicas": 1, "unsupportedConfigOverrides": {"deployment": {"runtimeClassName": "x"}}}), "/spec/template/spec/runtimeClassName", json!("x"))]
    fn spec_fields_become_pod_fields(#[case] spec: Value, #[case] pointer: &str, #[case] want: Value) {
        assert_eq!(build(spec).expect("a Deployment").pointer(pointer), Some(&want));
    }

    #[test]
    fn dependencies_are_found_and_roll_the_pods() {
        let deployment = build(json!({"replicas": 1})).expect("a Deployment");
        let found = dependencies(&deployment);
        assert!(
            found.secrets.contains(names::REGISTRY_TLS_SECRET)
                && found.config_maps.contains(names::CERTIFICATES_CONFIG_MAP)
        );
        let sum = |content: Value| {
            let content = [("Secret/image-registry-tls".to_owned(), content)].into();
            with_dependencies(deployment.clone(), &content)["spec"]["template"]["metadata"].clone()
        };
        assert_ne!(sum(json!({"tls.crt": "a"})), sum(json!({"tls.crt": "b"})));
        assert_eq!(sum(json!({"tls.crt": "a"})), sum(json!({"tls.crt": "a"})));
    }

    #[rstest]
    #[case(Some("1000290000/10000"), Ok(1_000_290_000))]
    #[case(None, Err("namespace \"ns\" doesn't have annotation \"openshift.io/sa.scc.supplemental-groups\""))]
    #[case(Some("many"), Err("unable to parse annotation"))]
    fn the_volume_group_comes_from_the_namespace(#[case] value: Option<&str>, #[case] want: Result<i64, &str>) {
        let mut namespace = Namespace::default();
        let entry = value.map(|value| [(names::SUPPLEMENTAL_GROUPS_ANNOTATION.to_owned(), value.to_owned())].into());
        namespace.metadata.annotations = entry;
        match (fs_group(Some(&namespace), "ns"), want) {
            (Ok(got), Ok(want)) => assert_eq!(got, want),
            (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{error}"),
            (got, want) => panic!("got {got:?}, want {want:?}"),
        }
    }
}
