//! FeatureGate: which features a release has switched on.
//! Operators read the list of their own version from the status and stop when it changes.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Rest;
use crate::condition::OperatorCondition;

/// Which set of features is wanted.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "config.openshift.io", version = "v1", kind = "FeatureGate")]
#[kube(status = "FeatureGateStatus", derive = "PartialEq")]
#[serde(rename_all = "camelCase")]
pub struct FeatureGateSpec {
    /// Blank is the default set.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub feature_set: String,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Which features are on, per release.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeatureGateStatus {
    /// Statements, keyed by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<OperatorCondition>,
    /// One entry per release in use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["version"]))]
    pub feature_gates: Vec<FeatureGateDetails>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Features of one release.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FeatureGateDetails {
    /// The release.
    pub version: String,
    /// On.
    #[serde(default)]
    pub enabled: Vec<FeatureName>,
    /// Off.
    #[serde(default)]
    pub disabled: Vec<FeatureName>,
}

/// A feature by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FeatureName {
    /// For example `ImageStreamImportMode`.
    pub name: String,
}
