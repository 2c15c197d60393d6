//! The serving certificate, made anew at every start with a CA of its own, and the TLS settings around it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Why the listener could not be given its TLS settings.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("the serving certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error(
        "the front-proxy CA {path} cannot be read: {reason}; give the file that kube-apiserver has as --requestheader-client-ca-file"
    )]
    FrontProxyCa { path: PathBuf, reason: String },
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// A certificate with its key, and the CA that signed it.
pub struct ServingCertificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// The CA in PEM, for `caBundle`.
    pub ca_pem: String,
}

impl ServingCertificate {
    /// A certificate for `names` (DNS names and addresses), good for as long as rcgen's defaults say.
    ///
    /// # Errors
    /// If a name cannot stand in a certificate.
    pub fn make(names: &[String]) -> Result<Self, CertificateError> {
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::<String>::new())?;
        ca.distinguished_name.push(DnType::CommonName, "registry-conformance image API");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_certificate = ca.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca, ca_key);

        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(names.to_vec())?;
        if let Some(name) = names.first() {
            leaf.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        let certificate = leaf.signed_by(&key, &issuer)?;
        Ok(Self {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            ca_pem: ca_certificate.pem(),
        })
    }

    /// TLS settings that ask for, but do not insist on, a client certificate of the front-proxy CA.
    ///
    /// # Errors
    /// If the CA file cannot be read or holds no certificate.
    pub fn server_config(self, front_proxy_ca: &Path) -> Result<Arc<ServerConfig>, CertificateError> {
        let unreadable = |reason: String| CertificateError::FrontProxyCa { path: front_proxy_ca.to_owned(), reason };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(front_proxy_ca).map_err(|e| unreadable(e.to_string()))? {
            let certificate = certificate.map_err(|e| unreadable(e.to_string()))?;
            roots.add(certificate).map_err(|e| unreadable(e.to_string()))?;
        }
        if roots.is_empty() {
            return Err(unreadable("it holds no certificate".into()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|error| CertificateError::Tls(error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| CertificateError::Tls(error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain, self.key)
            .map_err(|error| CertificateError::Tls(error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_front_proxy_ca_is_named() {
        let certificate = ServingCertificate::make(&["api.openshift-apiserver.svc".into()]).expect("a certificate");
        assert!(certificate.ca_pem.contains("BEGIN CERTIFICATE"));
        let error = certificate.server_config(Path::new("/nowhere/ca.crt")).expect_err("no such file");
        assert!(error.to_string().contains("/nowhere/ca.crt"), "{error}");
    }
}
