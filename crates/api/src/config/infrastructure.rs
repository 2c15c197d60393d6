//! Infrastructure: what the cluster runs on.
//! The registry's operator chooses storage by the platform named here.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Rest;
use crate::schema;

/// What the installer was told.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "config.openshift.io", version = "v1", kind = "Infrastructure")]
#[kube(status = "InfrastructureStatus", derive = "PartialEq")]
#[serde(rename_all = "camelCase")]
pub struct InfrastructureSpec {
    /// ConfigMap in `openshift-config` with the cloud provider's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub cloud_config: Option<Value>,
    /// Wishes for the platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub platform_spec: Option<Value>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// What the cluster runs on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InfrastructureStatus {
    /// Name of the cluster with a suffix, unique among clusters.
    #[serde(default)]
    pub infrastructure_name: String,
    /// The platform's type; superseded by `platform_status`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub platform: String,
    /// The platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform_status: Option<PlatformStatus>,
    /// `HighlyAvailable` or `SingleReplica`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub control_plane_topology: String,
    /// The same for what is not control plane.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub infrastructure_topology: String,
    /// The API as clients outside reach it.
    #[serde(default, rename = "apiServerURL", skip_serializing_if = "String::is_empty")]
    pub api_server_url: String,
    /// The API as nodes reach it.
    #[serde(default, rename = "apiServerInternalURI", skip_serializing_if = "String::is_empty")]
    pub api_server_internal_uri: String,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// The platform; at most the field of its own type is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlatformStatus {
    /// `AWS`, `Azure`, `BareMetal`, `GCP`, `None`, `OpenStack`, `VSphere` and others.
    #[serde(rename = "type")]
    pub type_: String,
    /// Region, service endpoints, tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub aws: Option<Value>,
    /// Environment and resource groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub azure: Option<Value>,
    /// Project and region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub gcp: Option<Value>,
    /// Cloud name.
    #[serde(default, rename = "openstack", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub open_stack: Option<Value>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}
