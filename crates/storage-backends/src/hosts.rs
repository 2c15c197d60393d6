//! The host names under which storage products of big clouds answer; stand-ins need certificates for them.

use crate::azure::REALMS;
use crate::gcs_front::{SESSION_HOST, STORAGE_HOST, TOKEN_HOST};

/// Names for the certificate of whatever stands in for a storage product, besides its own address.
pub fn server_names() -> Vec<String> {
    let google = [STORAGE_HOST, SESSION_HOST, TOKEN_HOST].map(str::to_owned);
    let azure = REALMS.map(|realm| format!("*.blob.{realm}"));
    google.into_iter().chain(azure).collect()
}
