//! How the router speaks TLS: what it shows to clients, and which pods it believes.
//! Where pairs and trust anchors come from is decided before; this makes rustls use them.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::Error;
use crate::certificate::trust_anchors;

/// What the router shows and believes when a route says nothing.
pub(super) struct Trust {
    pub default: Arc<ServerConfig>,
    service_ca: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    /// # Errors
    /// If the service CA's certificate cannot be read.
    pub(super) fn new(default: Arc<CertifiedKey>, service_ca: &str) -> Result<Self, Error> {
        let doing = "preparing the router's TLS";
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let service_ca = trust_anchors(service_ca).map_err(Error::certificate(doing))?;
        let default = server_config(&provider, default).map_err(Error::certificate(doing))?;
        Ok(Self { default, service_ca, provider })
    }
    /// How to speak TLS to clients with a certificate of the route's own.
    pub(super) fn towards_clients(&self, key: Arc<CertifiedKey>) -> Result<Arc<ServerConfig>, rustls::Error> {
        server_config(&self.provider, key)
    }

    /// How to speak TLS to pods. With a CA of the route's own only the chain is checked; with the service CA the
    /// Service's name is checked too.
    pub(super) fn towards_pods(&self, own: Option<&RootCertStore>) -> Result<Arc<ClientConfig>, rustls::Error> {
        client_config(self, own)
    }
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn server_config(provider: &Arc<CryptoProvider>, key: Arc<CertifiedKey>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Always(key)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn client_config(trust: &Trust, own: Option<&RootCertStore>) -> Result<Arc<ClientConfig>, rustls::Error> {
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&trust.provider)).with_safe_default_protocol_versions()?;
    let mut config = match own {
        None => builder.with_root_certificates(trust.service_ca.clone()).with_no_client_auth(),
        Some(own) => {
            let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(own.clone()), Arc::clone(&trust.provider))
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName(chain))).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Believes a chain whatever name it is for, as OpenShift's router does for a route's own destination CA.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, so everything else was right.
            Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
                debug_assert!(
                    ParsedCertificate::try_from(end_entity).is_ok_and(|certificate| verify_server_name(
                        &certificate,
                        server_name
                    )
                    .is_err())
                );
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
