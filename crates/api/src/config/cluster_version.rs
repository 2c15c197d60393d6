//! ClusterVersion: which release the cluster runs.
//! The registry's operator reads the desired version and architecture from it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Rest;
use crate::condition::OperatorCondition;

/// Which release is wanted.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "config.openshift.io", version = "v1", kind = "ClusterVersion")]
#[kube(status = "ClusterVersionStatus", derive = "PartialEq")]
#[serde(rename_all = "camelCase")]
pub struct ClusterVersionSpec {
    /// A UUID.
    #[serde(default, rename = "clusterID")]
    pub cluster_id: String,
    /// Where updates come from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub channel: String,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Which release is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterVersionStatus {
    /// The release the cluster is moving to, or has.
    #[serde(default)]
    pub desired: Release,
    /// Releases applied so far, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<UpdateHistory>,
    /// The generation last acted upon.
    #[serde(default)]
    pub observed_generation: i64,
    /// Fingerprint of the content.
    #[serde(default)]
    pub version_hash: String,
    /// Statements, keyed by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<OperatorCondition>,
    /// Possible updates; null until known, so it is always written.
    #[serde(default)]
    pub available_updates: Option<Vec<Release>>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// One release.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// Semantic version.
    #[serde(default)]
    pub version: String,
    /// Pull specification of the release image.
    #[serde(default)]
    pub image: String,
    /// `Multi`, or blank for a single architecture.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub architecture: String,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// One release and when it was applied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateHistory {
    /// `Completed` or `Partial`.
    #[serde(default)]
    pub state: String,
    /// Semantic version.
    #[serde(default)]
    pub version: String,
    /// Pull specification of the release image.
    #[serde(default)]
    pub image: String,
    /// Begin of the update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_time: Option<Time>,
    /// End of the update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// The release was signed by a trusted key.
    #[serde(default)]
    pub verified: bool,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}
