//! The host names under which storage products are asked for; stand-ins need certificates for them.

use crate::azure::REALMS;
use crate::gcs_front::{SESSION_HOST, STORAGE_HOST, TOKEN_HOST};

/// The name of an S3 server that is no process of ours; a doorway leads it to where the server is published.
pub(crate) const S3_HOST: &str = "s3.registry-conformance.test";

/// Names for the certificate of whatever stands in for a storage product, besides its own address.
pub fn server_names() -> Vec<String> {
    let google = [STORAGE_HOST, SESSION_HOST, TOKEN_HOST].map(str::to_owned);
    let azure = REALMS.map(|realm| format!("*.blob.{realm}"));
    google.into_iter().chain(azure).chain([S3_HOST.to_owned()]).collect()
}
