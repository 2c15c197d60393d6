//! Proxy: the cluster-wide proxy for requests to the outside.
//! Components read the status; it holds what passed validation.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ConfigMapName;
use crate::Rest;

/// What the administrator wants.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "config.openshift.io", version = "v1", kind = "Proxy", plural = "proxies")]
#[kube(status = "ProxyStatus", derive = "PartialEq")]
#[serde(rename_all = "camelCase")]
pub struct ProxySpec {
    /// URL for plain requests.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub http_proxy: String,
    /// URL for TLS requests.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub https_proxy: String,
    /// Comma-separated hosts that are reached directly.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub no_proxy: String,
    /// ConfigMap in `openshift-config` with the proxy's CA.
    #[serde(default, rename = "trustedCA", skip_serializing_if = "Option::is_none")]
    pub trusted_ca: Option<ConfigMapName>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// What is in effect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxyStatus {
    /// URL for plain requests.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub http_proxy: String,
    /// URL for TLS requests.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub https_proxy: String,
    /// Comma-separated hosts that are reached directly.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub no_proxy: String,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}
