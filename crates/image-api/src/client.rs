//! The two clients of the API server: one HTTP/2 connection for everything that is answered at once, and kube's
//! own for watches, each of which keeps a connection to itself.
//! kube's client speaks HTTP/1.1 only: calls made side by side open new connections, and their handshakes cost more
//! than the calls.

use std::path::{Path, PathBuf};

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use tower::{BoxError, ServiceBuilder};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the kubeconfig {path} cannot be used: {source}")]
    Kubeconfig { path: PathBuf, source: KubeconfigError },
    #[error("no client for the API server of {path}: {source}")]
    Client { path: PathBuf, source: Box<kube::Error> },
}

/// Both clients, with the identity of one kubeconfig.
#[derive(Clone)]
pub struct Clients {
    /// For calls; all share one connection.
    pub calls: kube::Client,
    /// For watches.
    pub watches: kube::Client,
}

impl Clients {
    /// The clients for the current context of the kubeconfig at `path`.
    ///
    /// # Errors
    /// If the file cannot be read or its certificates cannot be used.
    pub async fn of(path: &Path) -> Result<Self, ClientError> {
        let unusable = |source| ClientError::Kubeconfig { path: path.to_owned(), source };
        let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
        let mut config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(unusable)?;
        // What to try again is decided where it is asked for.
        config.default_retry = false;
        config.proxy_url = None;
        let failed = |source| ClientError::Client { path: path.to_owned(), source: Box::new(source) };
        Ok(Self {
            calls: multiplexed(&config).map_err(failed)?,
            watches: kube::Client::try_from(config).map_err(failed)?,
        })
    }
}

fn multiplexed(config: &kube::Config) -> Result<kube::Client, kube::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config()?)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(tcp);
    let client: hyper_util::client::legacy::Client<_, Body> =
        hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(client);
    Ok(kube::Client::new(service, config.default_namespace.clone()))
}
