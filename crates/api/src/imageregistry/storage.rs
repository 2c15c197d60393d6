//! Where the registry keeps blobs: one optional stanza per kind of backend.
//! That exactly one may be set is checked by the operator, not by the schema, as upstream does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Rest;
use crate::schema;

/// Whether the operator may configure and delete the storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StorageManagementState {
    /// The operator made it and may delete it.
    #[default]
    Managed,
    /// Somebody else's.
    Unmanaged,
}

/// Backend of the registry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// The pod's own ephemeral volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDir>,
    /// A persistent volume claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc: Option<Pvc>,
    /// Amazon S3 or a compatible service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,
    /// Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<Gcs>,
    /// Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<Azure>,
    /// OpenStack Swift.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swift: Option<Swift>,
    /// IBM Cloud Object Storage.
    #[serde(default, rename = "ibmcos", skip_serializing_if = "Option::is_none")]
    pub ibm_cos: Option<IbmCos>,
    /// Alibaba Cloud Object Storage Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oss: Option<Oss>,
    /// Whether the operator may configure and delete it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::storage_management_state")]
    pub management_state: Option<StorageManagementState>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

impl Storage {
    /// True if nothing at all is set.
    pub fn is_unset(&self) -> bool {
        *self == Self::default()
    }
}

/// The pod's own ephemeral volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EmptyDir {}

/// A persistent volume claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pvc {
    /// Name of the claim; blank lets the operator make one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub claim: String,
}

/// Amazon S3 or a compatible service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3 {
    /// Bucket; blank lets the operator choose a name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bucket: String,
    /// Region of the bucket.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// Endpoint of a compatible service.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region_endpoint: String,
    /// The bucket is a part of the host name instead of the path.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub virtual_hosted_style: bool,
    /// Objects are encrypted by the service.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encrypt: bool,
    /// Key for encryption by the service's key management.
    #[serde(default, rename = "keyID", skip_serializing_if = "String::is_empty")]
    pub key_id: String,
    /// Downloads go through CloudFront.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_front: Option<CloudFront>,
    /// ConfigMap in `openshift-config` with the CA of the endpoint, key `ca-bundle.crt`.
    #[serde(default, rename = "trustedCA", skip_serializing_if = "Option::is_none")]
    pub trusted_ca: Option<ConfigMapReference>,
    /// Size of an upload part in MiB.
    #[serde(default, rename = "chunkSizeMiB", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 5, max = 5120))]
    pub chunk_size_mib: Option<i32>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// CloudFront in front of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CloudFront {
    /// `SCHEME://HOST[/PATH]` of the distribution.
    #[serde(rename = "baseURL")]
    pub base_url: String,
    /// Secret in the registry's namespace with the signing key.
    pub private_key: SecretKeySelector,
    /// Id of the key pair.
    #[serde(rename = "keypairID")]
    pub keypair_id: String,
    /// Validity of a signed URL, as a Go duration.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub duration: String,
}

/// One key of a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeySelector {
    /// Name of the Secret.
    #[serde(default)]
    pub name: String,
    /// The key.
    pub key: String,
    /// A missing Secret is no error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// A ConfigMap by name; the namespace is fixed by the field's meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigMapReference {
    /// Name of the ConfigMap.
    #[serde(default)]
    pub name: String,
}

/// Google Cloud Storage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gcs {
    /// Bucket; blank lets the operator choose a name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bucket: String,
    /// Region of the bucket.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// Project of the bucket.
    #[serde(default, rename = "projectID", skip_serializing_if = "String::is_empty")]
    pub project_id: String,
    /// Key for encryption by the service's key management.
    #[serde(default, rename = "keyID", skip_serializing_if = "String::is_empty")]
    pub key_id: String,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Azure Blob Storage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Azure {
    /// Storage account.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub account_name: String,
    /// Container; blank lets the operator choose a name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub container: String,
    /// Environment, for example `AzurePublicCloud`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "schema::azure_cloud")]
    pub cloud_name: String,
    /// Who may reach the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_access: Option<AzureNetworkAccess>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Who may reach an Azure storage account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureNetworkAccess {
    /// `Internal` or `External`.
    #[serde(rename = "type", default, skip_serializing_if = "String::is_empty")]
    pub type_: String,
    /// With `Internal`: where the private endpoint is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal: Option<AzureInternal>,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Private endpoint of an Azure storage account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureInternal {
    /// Resource group of the virtual network.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub network_resource_group_name: String,
    /// Virtual network.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub vnet_name: String,
    /// Subnet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subnet_name: String,
    /// Endpoint.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub private_endpoint_name: String,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// OpenStack Swift.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Swift {
    /// Identity service.
    #[serde(default, rename = "authURL", skip_serializing_if = "String::is_empty")]
    pub auth_url: String,
    /// Version of the identity protocol.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub auth_version: String,
    /// Container; blank lets the operator choose a name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub container: String,
    /// Domain by name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Domain by id.
    #[serde(default, rename = "domainID", skip_serializing_if = "String::is_empty")]
    pub domain_id: String,
    /// Tenant by name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tenant: String,
    /// Tenant by id.
    #[serde(default, rename = "tenantID", skip_serializing_if = "String::is_empty")]
    pub tenant_id: String,
    /// Region.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region_name: String,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// IBM Cloud Object Storage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IbmCos {
    /// Bucket; blank lets the operator choose a name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bucket: String,
    /// Location of the bucket.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub location: String,
    /// Resource group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource_group_name: String,
    /// Resource key.
    #[serde(default, rename = "resourceKeyCRN", skip_serializing_if = "String::is_empty")]
    pub resource_key_crn: String,
    /// Service instance.
    #[serde(default, rename = "serviceInstanceCRN", skip_serializing_if = "String::is_empty")]
    pub service_instance_crn: String,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Alibaba Cloud Object Storage Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Oss {
    /// Bucket; blank lets the operator choose a name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bucket: String,
    /// Region of the bucket.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// Fields not named here.
    #[serde(flatten)]
    pub rest: Rest,
}
