//! Azure Blob Storage with an account key the administrator provides: nothing is created or verified.
//! Storage accounts made by the operator itself are not carried out here and are refused in plain words.

use api::imageregistry::{Azure, Storage, StorageManagementState};
use k8s_openapi::api::core::v1::Secret;

use super::{Outcome, PodStorage, STORAGE_EXISTS, from_secret, literal, settled, user_key};
use crate::condition::{Statement, Truth};
use crate::error::SyncError;

const ACCOUNT_KEY: &str = "REGISTRY_STORAGE_AZURE_ACCOUNTKEY";

/// Suffix of blob endpoints in an Azure environment (operator source pkg/storage/azure/azure.go:146-167, main).
fn realm(cloud: &str) -> Option<&'static str> {
    match cloud {
        "AzurePublicCloud" => Some("core.windows.net"),
        "AzureUSGovernmentCloud" => Some("core.usgovcloudapi.net"),
        "AzureChinaCloud" => Some("core.chinacloudapi.cn"),
        "AzureGermanCloud" => Some("core.cloudapi.de"),
        _ => None,
    }
}

/// What came of asking for Azure with the administrator's Secret, if there is one
/// (OpenShift 4.6 registry docs, sections 3.3.1 and 3.3.2; operator source pkg/storage/azure/azure.go:782-842, main).
pub fn decide(storage: &Storage, azure: &Azure, user_secret: Option<&Secret>) -> Outcome {
    let Some(secret) = user_secret else {
        return Outcome {
            storage: storage.clone(),
            statements: Vec::new(),
            pods: Err(SyncError::Verification {
                message: "storage backend azure without secret image-registry-private-configuration-user is not \
                          supported by the reference operator yet; provide the account key"
                    .into(),
            }),
        };
    };
    let key = match user_key(secret, ACCOUNT_KEY) {
        Ok(key) => key,
        Err(error) => return Outcome::refused(storage, Truth::False, "ConfigError", error.to_string()),
    };
    if azure.account_name.is_empty() {
        let message = "Storage account key is provided, but account name is not specified";
        return Outcome::refused(storage, Truth::False, "StorageNotConfigured", message);
    }
    if azure.container.is_empty() {
        let message = "Storage account is provided, but container is not specified";
        return Outcome::refused(storage, Truth::False, "StorageNotConfigured", message);
    }
    let mut env = vec![
        literal("REGISTRY_STORAGE", "azure"),
        literal("REGISTRY_STORAGE_AZURE_CONTAINER", &azure.container),
        literal("REGISTRY_STORAGE_AZURE_ACCOUNTNAME", &azure.account_name),
        from_secret(ACCOUNT_KEY, ACCOUNT_KEY),
    ];
    if !azure.cloud_name.is_empty() {
        match realm(&azure.cloud_name) {
            Some(realm) => env.push(literal("REGISTRY_STORAGE_AZURE_REALM", realm)),
            None => {
                let message = format!("there is no cloud environment matching the name \"{}\"", azure.cloud_name);
                return Outcome::refused(storage, Truth::False, "ConfigError", message);
            }
        }
    }
    Outcome {
        storage: settled(storage, StorageManagementState::Unmanaged),
        statements: vec![Statement::new(STORAGE_EXISTS, Truth::True, "UserManaged", "Storage is managed by the user")],
        pods: Ok(PodStorage { env, secret: [(ACCOUNT_KEY.to_owned(), key)].into(), ..PodStorage::default() }),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::complete("acc", "con", "", Ok(4))]
    #[case::government("acc", "con", "AzureUSGovernmentCloud", Ok(5))]
    #[case::no_account("", "con", "", Err("account name is not specified"))]
    #[case::no_container("acc", "", "", Err("container is not specified"))]
    #[case::odd_cloud("acc", "con", "Moon", Err("no cloud environment matching the name \"Moon\""))]
    fn with_an_account_key(
        #[case] account: &str,
        #[case] container: &str,
        #[case] cloud: &str,
        #[case] want: Result<usize, &str>,
    ) {
        let azure = Azure {
            account_name: account.into(),
            container: container.into(),
            cloud_name: cloud.into(),
            ..Azure::default()
        };
        let data = [(ACCOUNT_KEY.to_owned(), ByteString(b"k".to_vec()))];
        let secret = Secret { data: Some(data.into()), ..Secret::default() };
        let outcome = decide(&Storage { azure: Some(azure.clone()), ..Storage::default() }, &azure, Some(&secret));
        match (outcome.pods, want) {
            (Ok(pods), Ok(count)) => assert_eq!(pods.env.len(), count),
            (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
            (got, want) => panic!("got {got:?}, want {want:?}"),
        }
    }
}
