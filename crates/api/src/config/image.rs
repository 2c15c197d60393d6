//! The cluster's image configuration, kind Image of `config.openshift.io`; not to be taken for an image.
//! Administrators write its spec, the registry's operator its status.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Rest;

/// How images are imported, pulled and trusted.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "config.openshift.io", version = "v1", kind = "Image", root = "ImageConfig", plural = "images")]
#[kube(status = "ImageConfigStatus", derive = "PartialEq")]
#[serde(rename_all = "camelCase")]
pub struct ImageConfigSpec {
    /// ConfigMap in `openshift-config` with CAs by host; `..` stands for the colon before a port.
    #[serde(default, rename = "additionalTrustedCA", skip_serializing_if = "Option::is_none")]
    pub additional_trusted_ca: Option<ConfigMapName>,
    /// Which registries may be used, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_sources: Option<RegistrySources>,
    /// Registries ordinary users may import from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_registries_for_import: Vec<RegistryLocation>,
    /// Names under which the registry is reached from outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external_registry_hostnames: Vec<String>,
    /// `Legacy` or `PreserveOriginal`; blank leaves the choice to the operator.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image_stream_import_mode: String,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A ConfigMap by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigMapName {
    /// Name of the ConfigMap.
    pub name: String,
}

/// Which registries may be used, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistrySources {
    /// Reached without TLS or with certificates nobody signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub insecure_registries: Vec<String>,
    /// Never used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked_registries: Vec<String>,
    /// Only these are used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_registries: Vec<String>,
    /// Searched for names without a host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub container_runtime_search_registries: Vec<String>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A registry ordinary users may import from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryLocation {
    /// Host, perhaps with wildcard and port.
    pub domain_name: String,
    /// TLS is not asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

/// Where the cluster's own registry is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageConfigStatus {
    /// As pods and nodes reach it, with port; blank while there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub internal_registry_hostname: String,
    /// As clients outside reach it, the default route first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external_registry_hostnames: Vec<String>,
    /// The mode in effect.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image_stream_import_mode: String,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}
