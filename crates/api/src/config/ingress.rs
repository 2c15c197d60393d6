//! Ingress: the domain under which routes without a host are served.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Rest;

/// Where routes are served.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "config.openshift.io", version = "v1", kind = "Ingress", plural = "ingresses")]
#[kube(derive = "PartialEq")]
#[serde(rename_all = "camelCase")]
pub struct IngressSpec {
    /// Default hosts are `<route>-<namespace>.<domain>`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Instead of `domain` for routes users make.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub apps_domain: String,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}
