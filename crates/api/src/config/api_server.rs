//! APIServer: how the cluster's API is served; the registry's operator reads the TLS profile.
//! Everything but the profile is kept unread.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Rest;
use crate::schema;

/// Configuration of the API server.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "config.openshift.io", version = "v1", kind = "APIServer", plural = "apiservers")]
#[kube(derive = "PartialEq")]
#[serde(rename_all = "camelCase")]
pub struct APIServerSpec {
    /// `type` (Old, Intermediate, Modern, Custom) and its parameters; absent means Intermediate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub tls_security_profile: Option<Value>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}
