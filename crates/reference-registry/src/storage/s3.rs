//! A bucket of S3 or of anything that speaks its API: address style, keys and encryption.

use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

use super::{bucket::Bucket, credentials::CredentialsFile, objects};
use crate::settings::S3Settings;

/// Prepares access to a bucket; the first request is made when something is asked of it.
///
/// # Errors
/// In words, for credentials that cannot be read and settings that contradict each other.
pub fn open(settings: &S3Settings) -> Result<Bucket, String> {
    let plain = settings.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&settings.bucket)
        .with_region(&settings.region)
        .with_virtual_hosted_style_request(!settings.path_style)
        .with_client_options(objects::client_options(plain)?)
        .with_retry(objects::retries());
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint_url(endpoint, settings));
    }
    match (&settings.access_key, &settings.secret_key, &settings.credentials_file) {
        (Some(key), Some(secret), _) => {
            builder = builder.with_access_key_id(key).with_secret_access_key(secret);
        }
        (None, None, Some(path)) => {
            builder = builder.with_credentials(Arc::new(CredentialsFile::open(path)?));
        }
        (None, None, None) => {}
        _ => return Err("REGISTRY_STORAGE_S3_ACCESSKEY and REGISTRY_STORAGE_S3_SECRETKEY go together".into()),
    }
    if settings.encrypt {
        builder = match &settings.key_id {
            Some(key_id) => builder.with_sse_kms_encryption(key_id),
            None => {
                let key = "aws_server_side_encryption".parse::<AmazonS3ConfigKey>();
                builder.with_config(key.map_err(|error| error.to_string())?, "AES256")
            }
        };
    }
    let store = builder.build().map_err(|error| error.to_string())?;
    Ok(Bucket::new(Arc::new(store), &settings.root, settings.chunk_bytes))
}

/// With virtual-hosted addressing the client wants the bucket in the endpoint.
fn endpoint_url(endpoint: &str, settings: &S3Settings) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) if !settings.path_style => format!("{scheme}://{}.{host}", settings.bucket),
        _ => endpoint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_hosts_carry_the_bucket() {
        let mut settings = S3Settings { bucket: "b".into(), path_style: true, ..S3Settings::default() };
        assert_eq!(endpoint_url("https://s3.example.com", &settings), "https://s3.example.com");
        settings.path_style = false;
        assert_eq!(endpoint_url("https://s3.example.com", &settings), "https://b.s3.example.com");
    }
}
