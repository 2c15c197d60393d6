//! Bringing one object into its desired state with as few writes as possible.
//! Desired objects are JSON values made by pure functions; which object is wanted when is not decided here.

use std::fmt::Debug;

use kube::api::{DeleteParams, PostParams, PropagationPolicy};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tracing::info;

use api::names::CHECKSUM_ANNOTATION as CHECKSUM;

use crate::cache::{Cache, Cached};
use crate::error::{SyncError, is_code};

/// Tries of one update before the whole pass is begun anew.
const ATTEMPTS: u32 = 3;

/// What the existing object keeps when it is brought in line with the desired one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Named top-level fields are replaced whole; those the desired object does not name stay.
    Fields,
    /// As `Fields`, but inside `spec` what the desired object does not name stays too
    /// (a Service's cluster address, a Route's assigned host).
    Spec,
}

/// How an edit by somebody else is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// Only by the checksum annotation: an edit that leaves it alone stays.
    Checksum,
    /// Also by `metadata.generation`, which was this when we last wrote; `None` when we never did.
    Generation(Option<i64>),
}

/// Hex SHA-256 of a value in the form of the checksum annotations: `sha256:<hex>`.
pub fn checksum(value: &Value) -> String {
    let digest = Sha256::digest(value.to_string().as_bytes());
    digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
        text.push_str(&format!("{byte:02x}"));
        text
    })
}

/// Whether the existing object differs from what was last written for this desired one.
pub fn is_stale(existing: &Value, desired_checksum: &str, drift: Drift) -> bool {
    let written = existing["metadata"]["annotations"][CHECKSUM].as_str();
    let drifted = match drift {
        Drift::Checksum => false,
        Drift::Generation(known) => existing["metadata"]["generation"].as_i64() != known,
    };
    written != Some(desired_checksum) || drifted
}

/// The existing object brought in line with `desired`; labels and annotations of others are kept.
pub fn merged(existing: &Value, desired: &Value, merge: Merge) -> Value {
    let mut result = existing.clone();
    let Some(fields) = desired.as_object() else { return result };
    for (field, value) in fields {
        match field.as_str() {
            "metadata" => {
                for part in ["labels", "annotations"] {
                    overlay(&mut result["metadata"], part, &value[part]);
                }
            }
            "spec" if merge == Merge::Spec => overlay(&mut result, "spec", value),
            _ => result[field] = value.clone(),
        }
    }
    result
}

fn overlay(target: &mut Value, field: &str, value: &Value) {
    let Some(entries) = value.as_object() else { return };
    if !target[field].is_object() {
        target[field] = Value::Object(Map::new());
    }
    for (key, entry) in entries {
        target[field][key] = entry.clone();
    }
}

/// Puts the checksum annotation of `desired` into it and returns the checksum.
fn stamp(desired: &mut Value) -> String {
    let sum = checksum(desired);
    overlay(&mut desired["metadata"], "annotations", &json!({ CHECKSUM: sum }));
    sum
}

/// A typed value read from JSON, with a message that names what it should have been.
pub fn typed<T: DeserializeOwned>(what: &str, value: Value) -> Result<T, SyncError> {
    serde_json::from_value(value).map_err(|source| SyncError::Shape { what: what.to_owned(), source })
}

/// JSON of a typed object.
pub fn untyped<T: Serialize>(object: &T) -> Value {
    serde_json::to_value(object).unwrap_or(Value::Null)
}

/// Carries out decisions: creates, updates and deletes objects, and writes only what differs.
#[derive(Clone)]
pub struct Actor {
    /// The client all writes go through.
    pub client: Client,
}

impl Actor {
    /// Creates `desired` or updates the cached object; returns the object as it is afterwards.
    pub async fn apply<K>(&self, cache: &Cache, desired: Value, merge: Merge, drift: Drift) -> Result<K, SyncError>
    where
        K: Cached + Clone + Debug + Serialize + DeserializeOwned,
    {
        let mut desired = desired;
        let name = desired["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let kind = K::kind(&());
        let sum = stamp(&mut desired);
        let api: Api<K> = K::api(&self.client, cache);
        let existing = match K::find(cache, &name) {
            Some(cached) => cached.as_ref().clone(),
            None => {
                match api.create(&PostParams::default(), &typed(&format!("{kind} {name}"), desired.clone())?).await {
                    Ok(created) => {
                        info!(%kind, name, "created {kind} {name}");
                        return Ok(created);
                    }
                    Err(error) if is_code(&error, 409) => {
                        api.get(&name).await.map_err(SyncError::api(format!("read {kind} {name}")))?
                    }
                    Err(error) => return Err(SyncError::api(format!("create {kind} {name}"))(error)),
                }
            }
        };
        let mut existing = existing;
        for attempt in 1.. {
            if existing.meta().deletion_timestamp.is_some() {
                return Err(SyncError::Missing { message: format!("waiting for the old {kind} {name} to be gone") });
            }
            let existing_value = untyped(&existing);
            if !is_stale(&existing_value, &sum, drift) {
                break;
            }
            let next: K = typed(&format!("{kind} {name}"), merged(&existing_value, &desired, merge))?;
            match api.replace(&name, &PostParams::default(), &next).await {
                Ok(written) => {
                    info!(%kind, name, "updated {kind} {name}");
                    return Ok(written);
                }
                // Status writes of others make the cached version old; what we write does not depend on them.
                Err(error) if is_code(&error, 409) && attempt < ATTEMPTS => {
                    existing = api.get(&name).await.map_err(SyncError::api(format!("read {kind} {name}")))?;
                }
                Err(error) => return Err(SyncError::api(format!("update {kind} {name}"))(error)),
            }
        }
        Ok(existing)
    }

    /// Deletes the named object at once if the cache knows it; gone already is fine. Says whether it was there.
    pub async fn delete<K>(&self, cache: &Cache, name: &str) -> Result<bool, SyncError>
    where
        K: Cached + Clone + Debug + DeserializeOwned,
    {
        self.delete_how::<K>(cache, name, PropagationPolicy::Background).await
    }

    /// As [`Actor::delete`], but the object stays visible until everything it owns is gone.
    pub async fn delete_with_dependents<K>(&self, cache: &Cache, name: &str) -> Result<bool, SyncError>
    where
        K: Cached + Clone + Debug + DeserializeOwned,
    {
        self.delete_how::<K>(cache, name, PropagationPolicy::Foreground).await
    }

    async fn delete_how<K>(&self, cache: &Cache, name: &str, how: PropagationPolicy) -> Result<bool, SyncError>
    where
        K: Cached + Clone + Debug + DeserializeOwned,
    {
        let Some(existing) = K::find(cache, name) else { return Ok(false) };
        if existing.meta().deletion_timestamp.is_some() {
            return Ok(true);
        }
        let kind = K::kind(&());
        let how =
            DeleteParams { grace_period_seconds: Some(0), propagation_policy: Some(how), ..DeleteParams::default() };
        match K::api(&self.client, cache).delete(name, &how).await {
            Ok(_) => info!(%kind, name, "deleted {kind} {name}"),
            Err(error) if is_code(&error, 404) => {}
            Err(error) => return Err(SyncError::api(format!("delete {kind} {name}"))(error)),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::never_written(json!({"metadata": {"generation": 1}}), Drift::Checksum, true)]
    #[case::in_step(json!({"metadata": {"generation": 3, "annotations": {CHECKSUM: "s"}}}), Drift::Checksum, false)]
    #[case::other_state(json!({"metadata": {"annotations": {CHECKSUM: "t"}}}), Drift::Checksum, true)]
    #[case::edit_unseen(json!({"metadata": {"generation": 9, "annotations": {CHECKSUM: "s"}}}), Drift::Checksum, false)]
    #[case::edit_seen(json!({"metadata": {"generation": 9, "annotations": {CHECKSUM: "s"}}}), Drift::Generation(Some(8)), true)]
    #[case::no_edit(json!({"metadata": {"generation": 9, "annotations": {CHECKSUM: "s"}}}), Drift::Generation(Some(9)), false)]
    fn staleness(#[case] existing: Value, #[case] drift: Drift, #[case] want: bool) {
        assert_eq!(is_stale(&existing, "s", drift), want);
    }

    #[rstest]
    #[case::fields_replace_spec(Merge::Fields, json!({"ports": [2]}))]
    #[case::spec_keeps_what_others_set(Merge::Spec, json!({"ports": [2], "clusterIP": "172.30.0.9"}))]
    fn merging_a_spec(#[case] merge: Merge, #[case] want: Value) {
        let existing = json!({
            "metadata": {"uid": "u", "annotations": {"theirs": "1"}, "labels": {"a": "old"}},
            "spec": {"ports": [1], "clusterIP": "172.30.0.9"},
            "status": {"x": 1}
        });
        let desired = json!({
            "metadata": {"name": "n", "annotations": {"ours": "2"}, "labels": {"a": "new"}},
            "spec": {"ports": [2]}
        });
        let result = merged(&existing, &desired, merge);
        assert_eq!(result["spec"], want);
        assert_eq!(result["metadata"]["annotations"], json!({"theirs": "1", "ours": "2"}));
        assert_eq!(result["metadata"]["labels"], json!({"a": "new"}));
        assert_eq!((&result["metadata"]["uid"], &result["status"]), (&json!("u"), &json!({"x": 1})));
    }

    #[test]
    fn checksums_have_the_documented_form() {
        let sum = checksum(&json!({"a": 1}));
        assert!(sum.starts_with("sha256:") && sum.len() == 7 + 64, "{sum}");
        assert_ne!(sum, checksum(&json!({"a": 2})));
    }
}
