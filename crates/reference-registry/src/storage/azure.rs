//! A container of Azure Blob Storage, signed for with the account's key: addresses and names.
//! Files are block blobs; the blocks of an upload that nobody finishes are dropped by the service after a week.

use std::sync::Arc;

use object_store::azure::MicrosoftAzureBuilder;

use super::{bucket::Bucket, objects};
use crate::settings::AzureSettings;

/// Bytes of a block. A blob has at most 50,000, so that files may have 390 GiB (Azure documentation, "Scalability and
/// performance targets for Blob storage").
const BLOCK_BYTES: u64 = 8 << 20;

/// Prepares access to a container; the first request is made when something is asked of it.
///
/// # Errors
/// In words, for an account key that is no key and an address that is none.
pub fn open(settings: &AzureSettings) -> Result<Bucket, String> {
    let url = settings.service_url.clone().unwrap_or_else(|| production_url(&settings.account_name, &settings.realm));
    let plain = url.starts_with("http://");
    let store = MicrosoftAzureBuilder::new()
        .with_account(&settings.account_name)
        .with_access_key(&settings.account_key)
        .with_container_name(&settings.container)
        .with_endpoint(url)
        .with_client_options(objects::client_options(plain)?)
        .with_retry(objects::retries())
        .build()
        .map_err(|error| error.to_string())?;
    Ok(Bucket::new(Arc::new(store), &settings.root, BLOCK_BYTES))
}

/// Where an account answers (operator source pkg/storage/azure/azure.go:165-167, main).
fn production_url(account: &str, realm: &str) -> String {
    format!("https://{account}.blob.{realm}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_a_host_of_its_own() {
        assert_eq!(production_url("acc", "core.windows.net"), "https://acc.blob.core.windows.net");
    }

    #[test]
    fn a_key_that_is_none_is_said() {
        let settings = AzureSettings { account_name: "acc".into(), container: "c".into(), ..AzureSettings::default() };
        assert!(open(&AzureSettings { account_key: "bm8ga2V5".into(), ..settings.clone() }).is_ok());
        assert!(open(&AzureSettings { account_key: "no key!".into(), ..settings }).is_err());
    }
}
