//! Certificate authorities the registry trusts besides those of the system: the anchors mounted into its pod
//! (OpenShift 4.2 registry docs, section 2.3). The system's own set follows `SSL_CERT_FILE`.

use std::path::{Path, PathBuf};

use reqwest::{Certificate, Client, ClientBuilder};

/// Where the operator mounts additional anchors (file names are registry addresses) and the cluster's trusted bundle
/// (operator source pkg/resource/podtemplatespec.go:319-383).
const ANCHORS: [&str; 2] = ["/etc/pki/ca-trust/source/anchors", "/usr/share/pki/ca-trust-source/anchors"];

/// The PEM texts of all anchors; none when the folders are not there.
pub fn anchors() -> Vec<Vec<u8>> {
    ANCHORS.iter().flat_map(|folder| read(&mounted(folder))).collect()
}

/// An HTTP client that trusts the system's authorities and the anchors, and follows the proxy variables.
///
/// # Errors
/// In words, for an anchor that is no certificate.
pub fn client(shape: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Result<Client, String> {
    let mut trusted = Vec::new();
    for anchor in anchors() {
        trusted.extend(Certificate::from_pem_bundle(&anchor).map_err(|error| error.to_string())?);
    }
    shape(Client::builder().tls_certs_merge(trusted)).build().map_err(|error| error.to_string())
}

/// Where a mount of the pod lies: below `CONTAINER_ROOT` when the runtime names one, as runtimes without a file system
/// of the container's own do.
pub fn mounted(path: &str) -> PathBuf {
    match std::env::var_os("CONTAINER_ROOT").filter(|root| !root.is_empty()) {
        Some(root) => Path::new(&root).join(path.trim_start_matches('/')),
        None => PathBuf::from(path),
    }
}

fn read(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let files = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file());
    files.filter_map(|path| std::fs::read(path).ok()).filter(|text| is_pem(text)).collect()
}

fn is_pem(text: &[u8]) -> bool {
    const MARK: &[u8] = b"-----BEGIN CERTIFICATE-----";
    text.windows(MARK.len()).any(|window| window == MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pem_files_are_anchors() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("registry.example.com..5000"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        std::fs::write(folder.path().join("other.example.com"), "MIIB").unwrap();
        std::fs::create_dir(folder.path().join("..data")).unwrap();
        assert_eq!(read(folder.path()).len(), 1);
        assert!(read(&folder.path().join("none")).is_empty());
    }
}
