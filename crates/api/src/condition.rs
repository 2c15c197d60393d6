//! The condition every OpenShift operator reports, on its own resource and on its ClusterOperator.
//! Which types and reasons exist is the reporting operator's business, not this file's.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One statement about an operator, keyed by `type` within its list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorCondition {
    /// What the statement is about, for example `Available`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default)]
    pub status: String,
    /// When `status` last changed; not touched by a change of reason or message alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
    /// Machine-readable cause in one CamelCase word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The cause for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl OperatorCondition {
    /// The condition of the given type in `conditions`, if reported.
    pub fn find<'a>(conditions: &'a [Self], type_: &str) -> Option<&'a Self> {
        conditions.iter().find(|condition| condition.type_ == type_)
    }

    /// True if the condition's status is `True`.
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }
}
