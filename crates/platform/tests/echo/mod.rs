//! An HTTP server that stands for a pod: it answers with what it was asked.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Secret;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Serves as long as the test's runtime.
pub struct Echo {
    pub address: SocketAddr,
}

impl Echo {
    /// Serves without TLS.
    pub async fn plain(listen: Ipv4Addr) -> Self {
        Self::start(listen, None).await
    }

    /// Serves with the certificate of a Secret of type TLS.
    pub async fn tls(listen: Ipv4Addr, secret: &Secret) -> Self {
        let data = secret.data.as_ref().expect("data");
        let chain = CertificateDer::pem_slice_iter(&data["tls.crt"].0).collect::<Result<Vec<_>, _>>().expect("chain");
        let key = PrivateKeyDer::from_pem_slice(&data["tls.key"].0).expect("key");
        let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).expect("TLS");
        Self::start(listen, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start(listen: Ipv4Addr, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((listen, 0)).await.expect("pod address");
        let address = listener.local_addr().expect("address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, address).await,
                        Some(tls) => {
                            // A client that does not believe us goes away.
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, address).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S, address: SocketAddr) {
    let service = service_fn(move |request| answer(request, address));
    // How a connection ends is no concern of a pod in a test.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, served: SocketAddr) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let headers: Map<String, Value> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    let uri = request.uri().to_string();
    let length = request.into_body().collect().await?.to_bytes().len();
    let answer = json!({ "served": served.to_string(), "uri": uri, "headers": headers, "length": length });
    Ok(Response::new(Full::new(Bytes::from(answer.to_string()))))
}
