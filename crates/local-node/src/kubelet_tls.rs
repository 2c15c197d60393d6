//! TLS of the kubelet API: its serving certificate, and the CA whose client certificates are let in.

use std::{path::Path, sync::Arc};

use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::{Options, error::Error, node::NODE_ADDRESS};

/// HTTP/1.1 only, because WebSocket upgrades need it.
pub(crate) fn server_config(options: &Options) -> Result<Arc<ServerConfig>, Error> {
    let refused = |reason: String| Error::Serve { node: "all nodes".into(), reason };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&options.kubelet_client_ca)? {
        roots
            .add(certificate)
            .map_err(|error| refused(format!("{} holds no usable CA: {error}", options.kubelet_client_ca.display())))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| refused(format!("{}: {error}", options.kubelet_client_ca.display())))?;
    let (chain, key) = identity(options)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| refused(format!("the serving certificate and its key: {error}")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn identity(options: &Options) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    if let (Some(certificate), Some(key)) = (&options.kubelet_serving_cert, &options.kubelet_serving_key) {
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error))?;
        return Ok((certificates(certificate)?, private));
    }
    let names = vec![NODE_ADDRESS.to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names)
        .map_err(|error| Error::Serve { node: "all nodes".into(), reason: error.to_string() })?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(|error| Error::Serve { node: "all nodes".into(), reason: error.to_owned() })?;
    Ok((vec![made.cert.der().clone()], key))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error: rustls_pki_types::pem::Error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &rustls_pki_types::pem::Error) -> Error {
    Error::File { action: "reading", path: path.to_owned(), source: std::io::Error::other(error.to_string()) }
}
