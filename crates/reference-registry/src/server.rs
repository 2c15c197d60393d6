//! The listening side: TLS with certificates that may be replaced while running, HTTP/1.1 and HTTP/2, and an end that lets
//! running requests finish.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, RwLock},
    time::{Duration, SystemTime},
};

use http_body_util::BodyExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{log::Log, registry::Registry, request::Request, settings::TlsFiles};

/// How long running requests may take after the stop signal (registry source
/// pkg/cmd/dockerregistry/dockerregistry.go:192-201).
const DRAIN: Duration = Duration::from_secs(29);
/// How long a client may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How often the certificate files are looked at.
const RELOAD: Duration = Duration::from_secs(5);

/// Why the registry cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken or not ours.
    #[error("listening on {addr} (REGISTRY_HTTP_ADDR): {source}; choose a free address of this host")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificate or key is unusable.
    #[error("reading {variable}={path}: {problem}; give PEM files of a certificate and its key")]
    Certificate {
        /// Which setting.
        variable: &'static str,
        /// Which file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// None of the allowed cipher suites is known.
    #[error(
        "REGISTRY_HTTP_TLS_CIPHERSUITES={0:?} leaves no cipher suite this registry can use; allow at least one of TLS_ECDHE_*_GCM_*"
    )]
    CipherSuites(Vec<String>),
}

/// Serves a registry until stopped.
pub async fn serve(registry: Arc<Registry>, listener: TcpListener, tls: Option<Tls>, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    builder.http2().timer(TokioTimer::new());
    let acceptor = tls.as_ref().map(|tls| TlsAcceptor::from(Arc::clone(&tls.config)));
    let mut beat = tokio::time::interval(RELOAD);
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            _ = beat.tick() => {
                if let Some(tls) = &tls {
                    tls.certificate.reload(&registry.log);
                }
                continue;
            }
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    registry.log.error(&format!("http: Accept error: {error}"), vec![]);
                    // Most often no file descriptor is free; let others end first.
                    tokio::task::yield_now().await;
                    continue;
                }
            },
        };
        let connection =
            Connection { registry: Arc::clone(&registry), builder: builder.clone(), watcher: graceful.watcher(), peer };
        let (acceptor, stop) = (acceptor.clone(), stop.clone());
        tokio::spawn(connection.run(stream, acceptor, stop));
    }
    drop(listener);
    registry.log.info("shutting down image registry server", vec![]);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        registry.log.warning("requests still running after 29s are cut off", vec![]);
    }
    registry.log.info("server shutdown, bye.", vec![]);
}

struct Connection {
    registry: Arc<Registry>,
    builder: auto::Builder<TokioExecutor>,
    watcher: hyper_util::server::graceful::Watcher,
    peer: SocketAddr,
}

impl Connection {
    async fn run(self, stream: TcpStream, acceptor: Option<TlsAcceptor>, stop: CancellationToken) {
        // Small answers must not wait for acknowledgements; a socket without the option still works.
        let _ = stream.set_nodelay(true);
        match acceptor {
            None => self.serve(stream, false).await,
            Some(acceptor) => {
                // Only the handshake is cut short by a stop; a connection that serves drains by itself.
                let shaken = tokio::select! {
                    () = stop.cancelled() => return,
                    shaken = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)) => shaken,
                };
                match shaken {
                    Ok(Ok(stream)) => self.serve(stream, true).await,
                    Ok(Err(error)) => {
                        let line = format!("http: TLS handshake error from {}: {error}", self.peer);
                        self.registry.log.info(&line, vec![]);
                    }
                    Err(_) => {
                        let line = format!("http: TLS handshake from {} timed out", self.peer);
                        self.registry.log.info(&line, vec![]);
                    }
                }
            }
        }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, encrypted: bool) {
        let Self { registry, builder, watcher, peer } = self;
        let log = registry.log.clone();
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let registry = Arc::clone(&registry);
            async move {
                let (parts, body) = request.into_parts();
                let body = body.map_err(std::io::Error::other).boxed();
                let request = Request {
                    id: uuid::Uuid::new_v4().to_string(),
                    method: parts.method,
                    uri: parts.uri,
                    headers: parts.headers,
                    body,
                    peer: Some(peer),
                    encrypted,
                };
                Ok::<_, std::convert::Infallible>(registry.handle(request).await)
            }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        if let Err(error) = watcher.watch(connection).await {
            log.debug(&format!("connection of {peer} ended: {error}"), vec![]);
        }
    }
}

/// TLS with a certificate that follows its files.
pub struct Tls {
    config: Arc<ServerConfig>,
    certificate: Arc<Certificate>,
}

impl Tls {
    /// Reads certificate and key.
    pub fn load(files: &TlsFiles) -> Result<Self, ServerError> {
        let provider = Arc::new(provider(&files.cipher_suites)?);
        let certificate = Arc::new(Certificate::load(files.clone(), Arc::clone(&provider))?);
        let versions: &[_] = if files.only_tls13 {
            &[&rustls::version::TLS13]
        } else {
            &[&rustls::version::TLS13, &rustls::version::TLS12]
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|_| ServerError::CipherSuites(files.cipher_suites.clone()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificate) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), certificate })
    }
}

/// The crypto provider with the allowed TLS 1.2 suites; those of TLS 1.3 are always allowed, as in Go.
fn provider(allowed: &[String]) -> Result<CryptoProvider, ServerError> {
    let mut provider = ring::default_provider();
    if allowed.is_empty() {
        return Ok(provider);
    }
    provider.cipher_suites.retain(|suite| match suite.suite().as_str() {
        Some(name) => name.starts_with("TLS13_") || allowed.iter().any(|allowed| allowed == name),
        None => false,
    });
    if provider.cipher_suites.is_empty() {
        return Err(ServerError::CipherSuites(allowed.to_vec()));
    }
    Ok(provider)
}

struct Certificate {
    files: TlsFiles,
    provider: Arc<CryptoProvider>,
    current: RwLock<(Arc<CertifiedKey>, Stamp)>,
}

type Stamp = (Option<SystemTime>, Option<SystemTime>);

impl Certificate {
    fn load(files: TlsFiles, provider: Arc<CryptoProvider>) -> Result<Self, ServerError> {
        let key = read(&files, &provider)?;
        let stamp = stamp(&files);
        Ok(Self { files, provider, current: RwLock::new((Arc::new(key), stamp)) })
    }

    /// Takes changed files into use; unusable ones are reported and the old certificate stays.
    fn reload(&self, log: &Log) {
        let seen = stamp(&self.files);
        if self.current.read().unwrap_or_else(|poisoned| poisoned.into_inner()).1 == seen {
            return;
        }
        let mut current = self.current.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        current.1 = seen;
        match read(&self.files, &self.provider) {
            Ok(key) => {
                current.0 = Arc::new(key);
                log.info("serving certificate reloaded", vec![]);
            }
            Err(error) => log.error(&format!("keeping the old serving certificate: {error}"), vec![]),
        }
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificate({})", self.files.certificate.display())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(|poisoned| poisoned.into_inner()).0))
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|facts| facts.modified()).ok();
    (modified(&files.certificate), modified(&files.key))
}

fn read(files: &TlsFiles, provider: &CryptoProvider) -> Result<CertifiedKey, ServerError> {
    let wrong = |variable, path: &Path, problem: &dyn std::fmt::Display| ServerError::Certificate {
        variable,
        path: path.display().to_string(),
        problem: problem.to_string(),
    };
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(&files.certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|error| wrong("REGISTRY_HTTP_TLS_CERTIFICATE", &files.certificate, &error))?;
    if chain.is_empty() {
        return Err(wrong("REGISTRY_HTTP_TLS_CERTIFICATE", &files.certificate, &"no certificate in it"));
    }
    let bad_key = |error: &dyn std::fmt::Display| wrong("REGISTRY_HTTP_TLS_KEY", &files.key, error);
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| bad_key(&error))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| bad_key(&error))
}
