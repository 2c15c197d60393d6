//! Reading and writing the Config `cluster`: only what differs, and never over somebody else's change.
//! What to write is decided elsewhere; this is the one place that does it.

use api::imageregistry::{Config, ConfigSpec, ConfigStatus, Generation};
use api::names;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Map, Value, json};

use crate::condition::{Statement, record};
use crate::error::{SyncError, is_code};
use crate::object::untyped;

const ATTEMPTS: u32 = 5;

/// The Config as the API server has it now; the cache may be behind our own writes.
///
/// # Errors
/// [`SyncError::Api`] when it cannot be read for another reason than not being there.
pub async fn read(client: &Client) -> Result<Option<Config>, SyncError> {
    let api: Api<Config> = Api::all(client.clone());
    api.get_opt(names::CLUSTER).await.map_err(SyncError::api("read Config cluster"))
}

/// The merge patch that makes `after` of `before`; `None` when they are alike.
pub fn merge_patch(before: &Value, after: &Value) -> Option<Value> {
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else {
        return (before != after).then(|| after.clone());
    };
    let mut patch = Map::new();
    for (key, value) in new {
        match old.get(key) {
            Some(known) => patch.extend(merge_patch(known, value).map(|change| (key.clone(), change))),
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    patch.extend(old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null)));
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// Writes the differing fields of `spec`, and the finalizers, if nobody changed the object since `config` was read.
///
/// # Errors
/// [`SyncError::Api`]; a conflict means that `config` was out of date.
pub async fn write_spec(
    client: &Client,
    config: &Config,
    spec: &ConfigSpec,
    finalizers: &[String],
) -> Result<Config, SyncError> {
    let mut patch = Map::new();
    if let Some(change) = merge_patch(&untyped(&config.spec), &untyped(spec)) {
        patch.insert("spec".into(), change);
    }
    let mut metadata = json!({ "resourceVersion": config.metadata.resource_version });
    if config.metadata.finalizers.as_deref().unwrap_or_default() != finalizers {
        metadata["finalizers"] = json!(finalizers);
    } else if patch.is_empty() {
        return Ok(config.clone());
    }
    patch.insert("metadata".into(), metadata);
    let api: Api<Config> = Api::all(client.clone());
    api.patch(names::CLUSTER, &PatchParams::default(), &Patch::Merge(Value::Object(patch)))
        .await
        .map_err(SyncError::api("update the spec of Config cluster"))
}

/// Changes the status; several controllers do, each its own part, so a conflict is answered by reading again.
/// Nothing is written when `change` changes nothing, or when the Config is gone.
///
/// # Errors
/// [`SyncError::Api`].
pub async fn write_status(client: &Client, change: impl Fn(&mut ConfigStatus)) -> Result<(), SyncError> {
    let api: Api<Config> = Api::all(client.clone());
    for attempt in 1.. {
        let Some(mut config) = read(client).await? else { return Ok(()) };
        let mut status = config.status.clone().unwrap_or_default();
        change(&mut status);
        if config.status.as_ref() == Some(&status) {
            return Ok(());
        }
        config.status = Some(status);
        match api.replace_status(names::CLUSTER, &PostParams::default(), &config).await {
            Err(error) if is_code(&error, 409) && attempt < ATTEMPTS => {}
            Err(error) if is_code(&error, 404) => return Ok(()),
            result => return result.map(|_| ()).map_err(SyncError::api("update the status of Config cluster")),
        }
    }
    Ok(())
}

/// Writes conditions of one controller.
///
/// # Errors
/// As [`write_status`].
pub async fn write_conditions(client: &Client, statements: &[Statement]) -> Result<(), SyncError> {
    write_status(client, |status| record(&mut status.conditions, statements, Timestamp::now())).await
}

/// The recorded generation of a workload in `apps`, if any.
pub fn generation(status: Option<&ConfigStatus>, resource: &str, name: &str) -> Option<i64> {
    let generations = status.map(|status| status.generations.as_slice()).unwrap_or_default();
    generations.iter().find(|each| each.resource == resource && each.name == name).map(|each| each.last_generation)
}

/// Records the generation of a workload in `apps` as it was left; `None` removes the record.
pub fn record_generation(status: &mut ConfigStatus, resource: &str, namespace: &str, name: &str, last: Option<i64>) {
    let known = status.generations.iter().position(|each| each.resource == resource && each.name == name);
    match (known, last) {
        (Some(index), Some(last)) => status.generations[index].last_generation = last,
        (Some(index), None) => {
            status.generations.remove(index);
        }
        (None, Some(last)) => status.generations.push(Generation {
            group: "apps".into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            last_generation: last,
            ..Generation::default()
        }),
        (None, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::alike(json!({"a": {"b": 1}}), json!({"a": {"b": 1}}), None)]
    #[case::added(json!({}), json!({"httpSecret": "x"}), Some(json!({"httpSecret": "x"})))]
    #[case::nested(
        json!({"storage": {"pvc": {}}, "replicas": 1}),
        json!({"storage": {"pvc": {"claim": "c"}, "managementState": "Managed"}, "replicas": 1}),
        Some(json!({"storage": {"pvc": {"claim": "c"}, "managementState": "Managed"}}))
    )]
    #[case::removed(json!({"storage": {"s3": {"bucket": "b"}}}), json!({"storage": {"s3": {}}}), Some(json!({"storage": {"s3": {"bucket": null}}})))]
    #[case::lists_are_whole(json!({"l": [1, 2]}), json!({"l": [1]}), Some(json!({"l": [1]})))]
    fn merge_patches_name_only_differences(#[case] before: Value, #[case] after: Value, #[case] want: Option<Value>) {
        assert_eq!(merge_patch(&before, &after), want);
    }

    #[test]
    fn generations_are_kept_per_workload() {
        let mut status = ConfigStatus::default();
        record_generation(&mut status, "deployments", "ns", "image-registry", Some(2));
        record_generation(&mut status, "daemonsets", "ns", "node-ca", Some(5));
        record_generation(&mut status, "deployments", "ns", "image-registry", Some(3));
        assert_eq!(generation(Some(&status), "deployments", "image-registry"), Some(3));
        record_generation(&mut status, "deployments", "ns", "image-registry", None);
        assert_eq!(generation(Some(&status), "deployments", "image-registry"), None);
        assert_eq!(generation(Some(&status), "daemonsets", "node-ca"), Some(5));
    }
}
