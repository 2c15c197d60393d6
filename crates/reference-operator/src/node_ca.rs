//! DaemonSet `node-ca`, which brings trusted CAs onto the nodes, and what is said about it.
//! It runs whatever the registry's management state is.

use api::imageregistry::Config;
use api::names;
use k8s_openapi::api::apps::v1::DaemonSet;
use serde_json::{Value, json};

use crate::cache::Cached;
use crate::certificates::degraded;
use crate::condition::{Statement, record};
use crate::config;
use crate::context::Context;
use crate::error::SyncError;
use crate::object::{Drift, Merge};
use crate::worker::Next;
use k8s_openapi::jiff::Timestamp;

/// The DaemonSet (operator source bindata/nodecadaemon.yaml, main). The paths are also given as environment, for
/// programs that are told where their mounts are.
pub fn desired(namespace: &str, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": names::NODE_CA, "namespace": namespace },
        "spec": {
            "selector": { "matchLabels": { "name": names::NODE_CA } },
            "updateStrategy": { "type": "RollingUpdate" },
            "template": {
                "metadata": { "labels": { "name": names::NODE_CA } },
                "spec": {
                    "serviceAccountName": names::NODE_CA,
                    "priorityClassName": "system-cluster-critical",
                    "nodeSelector": { "kubernetes.io/os": "linux" },
                    "hostNetwork": true,
                    "tolerations": [{ "operator": "Exists" }],
                    "containers": [{
                        "name": names::NODE_CA,
                        "image": image,
                        "securityContext": { "privileged": true },
                        "env": [
                            { "name": "NODE_CA_SOURCE", "value": "/tmp/serviceca" },
                            { "name": "NODE_CA_TARGET", "value": "/etc/docker/certs.d" },
                            { "name": "NODE_NAME", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
                        ],
                        "resources": { "requests": { "cpu": "10m", "memory": "10Mi" } },
                        "terminationMessagePolicy": "FallbackToLogsOnError",
                        "volumeMounts": [
                            { "name": "serviceca", "mountPath": "/tmp/serviceca" },
                            { "name": "host", "mountPath": "/etc/docker/certs.d" },
                        ],
                    }],
                    "volumes": [
                        { "name": "host", "hostPath": { "path": "/etc/docker/certs.d", "type": "DirectoryOrCreate" } },
                        { "name": "serviceca", "configMap": { "name": names::CERTIFICATES_CONFIG_MAP } },
                    ],
                },
            },
        },
    })
}

/// What is said about the DaemonSet (operator source pkg/operator/nodecadaemon.go:122-168, main).
pub fn conditions(found: Option<&DaemonSet>) -> [Statement; 2] {
    let name = names::NODE_CA;
    let say = |type_: &str, truth: bool, reason: &str, message: String| {
        Statement::new(&format!("NodeCADaemon{type_}"), truth, reason, message)
    };
    let Some(found) = found else {
        let message = format!("The daemon set {name} does not exist");
        return [say("Available", false, "NotFound", message.clone()), say("Progressing", true, "NotFound", message)];
    };
    let status = found.status.clone().unwrap_or_default();
    let available = if status.number_available.unwrap_or(0) == 0 {
        let message = format!("The daemon set {name} does not have available replicas");
        say("Available", false, "NoAvailableReplicas", message)
    } else {
        say("Available", true, "AsExpected", format!("The daemon set {name} has available replicas"))
    };
    let observed = status.observed_generation >= found.metadata.generation;
    let progressing = if !observed || status.updated_number_scheduled.unwrap_or(0) != status.desired_number_scheduled {
        say("Progressing", true, "Progressing", format!("The daemon set {name} is updating node pods"))
    } else if status.number_unavailable.unwrap_or(0) > 0 {
        say("Progressing", true, "Unavailable", format!("The daemon set {name} is deploying node pods"))
    } else {
        say("Progressing", false, "AsExpected", format!("The daemon set {name} is deployed"))
    };
    [available, progressing]
}

/// One pass: the DaemonSet, then the conditions.
///
/// # Errors
/// What the condition says, so that the pass is tried again.
pub async fn sync(context: &Context) -> Result<Next, SyncError> {
    let config = Config::find(&context.cache, names::CLUSTER);
    let known =
        config::generation(config.as_ref().and_then(|found| found.status.as_ref()), "daemonsets", names::NODE_CA);
    let desired = desired(context.namespace(), context.options.node_ca_image());
    let result =
        context.actor.apply::<DaemonSet>(&context.cache, desired, Merge::Fields, Drift::Generation(known)).await;
    let error = result.as_ref().err();
    if error.is_some_and(SyncError::is_conflict) {
        return result.map(|_| Next::Change);
    }
    let mut statements = vec![degraded("NodeCADaemonControllerDegraded", error)];
    let cached = DaemonSet::find(&context.cache, names::NODE_CA);
    statements.extend(conditions(result.as_ref().ok().or(cached.as_deref())));
    let generation = result.as_ref().ok().and_then(|written| written.metadata.generation);
    config::write_status(&context.client, |status| {
        record(&mut status.conditions, &statements, Timestamp::now());
        if generation.is_some() {
            config::record_generation(status, "daemonsets", context.namespace(), names::NODE_CA, generation);
        }
    })
    .await?;
    result.map(|_| Next::Change)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::absent(None, "False NotFound", "True NotFound")]
    #[case::new(Some(json!({})), "False NoAvailableReplicas", "True Progressing")]
    #[case::partly(Some(json!({"desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 1, "numberUnavailable": 1, "observedGeneration": 1})), "True AsExpected", "True Unavailable")]
    #[case::all(Some(json!({"desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 2, "observedGeneration": 1})), "True AsExpected", "False AsExpected")]
    #[case::old_look(Some(json!({"desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 2, "observedGeneration": 0})), "True AsExpected", "True Progressing")]
    fn what_is_said(#[case] status: Option<Value>, #[case] available: &str, #[case] progressing: &str) {
        let found: Option<DaemonSet> = status.map(|mut status| {
            for (field, value) in [("currentNumberScheduled", 0), ("desiredNumberScheduled", 2), ("numberMisscheduled", 0), ("numberReady", 0)] {
                if status.get(field).is_none() {
                    status[field] = json!(value);
                }
            }
            let value = json!({ "metadata": { "generation": 1 }, "spec": { "selector": {}, "template": {} }, "status": status });
            serde_json::from_value(value).expect("a DaemonSet")
        });
        let said = conditions(found.as_ref()).map(|said| format!("{} {}", said.truth.as_str(), said.reason));
        assert_eq!(said, [available, progressing]);
    }

    #[test]
    fn the_value_is_a_daemon_set() {
        assert!(serde_json::from_value::<DaemonSet>(desired("ns", "image")).is_ok());
    }
}
