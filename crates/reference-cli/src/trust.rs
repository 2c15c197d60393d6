//! Certificate authorities from files.

use crate::failure::Failure;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::{Path, PathBuf};

/// The certificates of a PEM file, in DER form.
///
/// # Errors
/// The file cannot be read or holds no certificate.
pub fn read(path: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let text = std::fs::read(path)
        .map_err(|error| Failure::usage(format!("unable to read certificate-authority {}: {error}", path.display())))?;
    let certificates = parse(&text);
    if certificates.is_empty() {
        return Err(Failure::usage(format!("no certificate in {}; a PEM file is needed", path.display())));
    }
    Ok(certificates)
}

/// The certificates in PEM text, in DER form; other sections are passed over.
pub fn parse(text: &[u8]) -> Vec<Vec<u8>> {
    CertificateDer::pem_slice_iter(text).filter_map(Result::ok).map(|certificate| certificate.to_vec()).collect()
}

/// The file with further authorities that the environment names in `SSL_CERT_FILE`.
pub fn environment_file() -> Option<PathBuf> {
    std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(PathBuf::from)
}
