//! DNS: the cluster's domain.
//! Records are nobody's business here; the doorway resolves names.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Rest;

/// Names of the cluster.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "config.openshift.io", version = "v1", kind = "DNS", root = "Dns", plural = "dnses")]
#[kube(derive = "PartialEq")]
#[serde(rename_all = "camelCase")]
pub struct DnsSpec {
    /// Every name of the cluster ends in it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub base_domain: String,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}
