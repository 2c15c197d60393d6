//! The Image Registry Operator's own resources: Config (`cluster` is the one that counts) and ImagePruner.
//! Shapes and their validation only; what each field does is the operator's contract.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration, TopologySpreadConstraint};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Rest;
use crate::condition::OperatorCondition;
use crate::schema;

mod pruner;
mod storage;

pub use pruner::{ImagePruner, ImagePrunerSpec, ImagePrunerStatus};
pub use storage::{
    Azure, AzureInternal, AzureNetworkAccess, CloudFront, ConfigMapReference, EmptyDir, Gcs, IbmCos, Oss, Pvc, S3,
    SecretKeySelector, Storage, StorageManagementState, Swift,
};

/// Whether the operator looks after the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ManagementState {
    /// The registry is kept as configured.
    #[default]
    Managed,
    /// Changes of the configuration are ignored.
    Unmanaged,
    /// Admitted by the schema and without effect.
    Force,
    /// The registry and storage the operator provisioned are taken away.
    Removed,
}

/// Verbosity of the operator or the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum LogLevel {
    /// The same as Normal.
    #[serde(rename = "")]
    Unset,
    /// The default.
    #[default]
    Normal,
    /// More.
    Debug,
    /// Even more.
    Trace,
    /// Everything, including bodies.
    TraceAll,
}

/// How pods of the registry are replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RolloutStrategy {
    /// New pods first.
    #[default]
    RollingUpdate,
    /// Old pods away first; needed by volumes only one node can mount.
    Recreate,
}

/// What the registry is to be (OpenShift 4.6 registry docs, section 2.3; operator source, generated definition of configs).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "imageregistry.operator.openshift.io", version = "v1", kind = "Config")]
#[kube(status = "ConfigStatus", derive = "PartialEq")]
#[serde(rename_all = "camelCase")]
pub struct ConfigSpec {
    /// Whether the operator looks after the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::management_state")]
    pub management_state: Option<ManagementState>,
    /// Verbosity of the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::log_level")]
    pub log_level: Option<LogLevel>,
    /// Verbosity of the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::log_level")]
    pub operator_log_level: Option<LogLevel>,
    /// Verbosity of the registry as releases up to 4.4 spell it; still read when `log_level` is Normal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logging: Option<i64>,
    /// Secret the registry signs upload states with; generated when blank.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub http_secret: String,
    /// Proxy for outgoing requests, instead of the cluster-wide one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxySettings>,
    /// The registry takes no pushes and no deletes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Blobs pass through the registry; clients are not sent to the storage.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disable_redirect: bool,
    /// Limits of parallel requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Requests>,
    /// Whether the default route exists.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub default_route: bool,
    /// Further routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteEntry>,
    /// Pods of the registry.
    pub replicas: i32,
    /// How pods are replaced; absent means RollingUpdate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::rollout_strategy")]
    pub rollout_strategy: Option<RolloutStrategy>,
    /// Nodes the pods may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Replaces the operator's own affinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Replaces the operator's own requests.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "crate::resources::deserialize")]
    #[schemars(schema_with = "crate::resources::schema")]
    pub resources: Option<ResourceRequirements>,
    /// Replaces the operator's own spread.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Where blobs are kept; exactly one kind.
    #[serde(default, skip_serializing_if = "Storage::is_unset")]
    pub storage: Storage,
    /// Overrides nobody supports: `deployment.annotations`, `deployment.runtimeClassName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub unsupported_config_overrides: Option<Value>,
    /// What the operator copied from the cluster's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub observed_config: Option<Value>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Proxy for outgoing requests; blank fields fall back to the cluster-wide proxy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxySettings {
    /// URL for plain requests.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub http: String,
    /// URL for TLS requests.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub https: String,
    /// Comma-separated hosts that are reached directly.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub no_proxy: String,
}

/// Limits of parallel requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// For GET and HEAD.
    #[serde(default, skip_serializing_if = "RequestLimits::is_unset")]
    pub read: RequestLimits,
    /// For everything else.
    #[serde(default, skip_serializing_if = "RequestLimits::is_unset")]
    pub write: RequestLimits,
}

/// Limits of one class of requests; zero means no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestLimits {
    /// Requests served at once.
    #[serde(default)]
    pub max_running: i64,
    /// Requests that may wait.
    #[serde(default)]
    pub max_in_queue: i64,
    /// How long one may wait, as Go writes durations (`3s`, `6h0m0s`).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub max_wait_in_queue: String,
}

impl RequestLimits {
    /// True if nothing is set.
    pub fn is_unset(&self) -> bool {
        *self == Self::default()
    }
}

/// A further route to the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteEntry {
    /// Name of the Route object.
    pub name: String,
    /// Its host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Secret with `tls.crt`, `tls.key`, `tls.cacrt`, in the registry's namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub secret_name: String,
}

/// What the operator says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigStatus {
    /// Statements, keyed by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<OperatorCondition>,
    /// The generation of spec that was last acted upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready pods of the registry.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Generations of the workloads as the operator left them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generations: Vec<Generation>,
    /// The storage in use.
    #[serde(default, skip_serializing_if = "Storage::is_unset")]
    pub storage: Storage,
    /// Whether the operator owns the storage; superseded by `storage.managementState`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub storage_managed: bool,
    /// Version of the operator.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// One workload's generation as the operator last left it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// API group.
    #[serde(default)]
    pub group: String,
    /// Plural resource name.
    #[serde(default)]
    pub resource: String,
    /// Namespace.
    #[serde(default)]
    pub namespace: String,
    /// Name.
    #[serde(default)]
    pub name: String,
    /// The generation.
    #[serde(default)]
    pub last_generation: i64,
    /// Hash of the content where generations do not tell.
    #[serde(default)]
    pub hash: String,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}
