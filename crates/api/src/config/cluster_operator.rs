//! ClusterOperator: what an operator tells the cluster about itself.
//! Only the operator of that name writes it.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Rest;
use crate::condition::OperatorCondition;
use crate::schema;

/// Empty: operators are configured through their own resources.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "config.openshift.io", version = "v1", kind = "ClusterOperator", shortname = "co")]
#[kube(status = "ClusterOperatorStatus", derive = "PartialEq")]
#[kube(
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.versions[?(@.name==\"operator\")].version"}"#
)]
#[kube(
    printcolumn = r#"{"name":"Available","type":"string","jsonPath":".status.conditions[?(@.type==\"Available\")].status"}"#
)]
#[kube(
    printcolumn = r#"{"name":"Progressing","type":"string","jsonPath":".status.conditions[?(@.type==\"Progressing\")].status"}"#
)]
#[kube(
    printcolumn = r#"{"name":"Degraded","type":"string","jsonPath":".status.conditions[?(@.type==\"Degraded\")].status"}"#
)]
pub struct ClusterOperatorSpec {
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// What the operator says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterOperatorStatus {
    /// Statements, keyed by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<OperatorCondition>,
    /// Versions of the operator and what it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<OperandVersion>,
    /// Objects worth looking at when something is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub related_objects: Vec<ObjectReference>,
    /// Data of the operator's own choosing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub extension: Option<Value>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Version of one operand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OperandVersion {
    /// `operator` for the operator itself.
    pub name: String,
    /// The version.
    pub version: String,
}

/// An object by group, resource and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectReference {
    /// API group; blank is the core group.
    #[serde(default)]
    pub group: String,
    /// Plural resource name.
    pub resource: String,
    /// Namespace, if it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name; blank means all.
    #[serde(default)]
    pub name: String,
}
