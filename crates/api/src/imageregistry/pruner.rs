//! ImagePruner: when and how old images are removed.
//! The CronJob made from it and the removal itself belong to the operator and the command-line client.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::LogLevel;
use crate::Rest;
use crate::condition::OperatorCondition;
use crate::schema;

/// How the pruner is to run (OpenShift 4.6 registry docs, section 2.1).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "imageregistry.operator.openshift.io", version = "v1", kind = "ImagePruner")]
#[kube(status = "ImagePrunerStatus", derive = "PartialEq")]
#[serde(rename_all = "camelCase")]
pub struct ImagePrunerSpec {
    /// Cron expression; blank means daily at midnight.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub schedule: String,
    /// No runs are started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// Revisions kept per tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_tag_revisions: Option<i32>,
    /// Age in nanoseconds below which nothing is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_younger_than: Option<i64>,
    /// The same as a Go duration; wins over `keep_younger_than`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_younger_than_duration: Option<String>,
    /// Resources of the pruner's pods.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::resources::deserialize")]
    #[schemars(schema_with = "crate::resources::schema")]
    pub resources: Option<ResourceRequirements>,
    /// Affinity of the pruner's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Nodes the pruner's pods may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints the pruner's pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Successful jobs kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successful_jobs_history_limit: Option<i32>,
    /// Failed jobs kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_jobs_history_limit: Option<i32>,
    /// Image references that cannot be read are skipped instead of failing the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore_invalid_image_references: Option<bool>,
    /// Verbosity of the pruner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::log_level")]
    pub log_level: Option<LogLevel>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// What the operator says about pruning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImagePrunerStatus {
    /// The generation of spec that was last acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Statements, keyed by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<OperatorCondition>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}
