//! The reference registry: an integrated image registry as the OpenShift documents describe it.
//! Blobs live in a store of files, metadata and rights live in the cluster's API; the registry keeps no state of its own.
//!
//! A request goes `server` → [`registry`] (limits, health) → [`auth`] (the API server decides) → the handler of its resource
//! ([`manifests`], [`blob`], [`upload`], …) → [`storage`] and [`cluster`].

pub mod admin;
pub mod auth;
pub mod blob;
pub mod body;
pub mod cache;
pub mod catalog;
pub mod cluster;
pub mod digest;
pub mod error;
pub mod health;
pub mod limits;
pub mod log;
pub mod manifest;
pub mod manifests;
pub mod metrics;
pub mod pull_secret;
pub mod pullthrough;
pub mod purge;
pub mod reference;
pub mod registry;
pub mod remote;
pub mod request;
pub mod router;
pub mod schema1;
pub mod server;
pub mod settings;
pub mod signatures;
pub mod storage;
pub mod tags;
pub mod token;
pub mod trust;
pub mod upload;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{Cluster, KubeTransport},
    log::Log,
    metrics::Metrics,
    registry::Registry,
    remote::Remotes,
    server::{ServerError, Tls},
    settings::{SettingError, Settings, Store},
    storage::{Driver, Storage, filesystem::Filesystem},
};

/// Command line of the registry; everything else is told by `REGISTRY_*` environment variables.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Configuration file in the distribution project's YAML form; the environment wins over it.
    #[arg(env = "REGISTRY_CONFIGURATION_PATH")]
    pub config: Option<PathBuf>,
}

/// Why the registry did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting cannot be used.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The address or certificate cannot be used.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The store cannot be set up.
    #[error("setting up the store: {0}; check the REGISTRY_STORAGE_* variables")]
    Store(String),
    /// No API server to talk to.
    #[error("finding the API server: {0}; set KUBECONFIG or run in a pod with a service account")]
    Cluster(#[from] kube::Error),
    /// No client for other registries.
    #[error("preparing to pull from other registries: {0}; check the certificates in the trust anchors")]
    Remotes(String),
    /// The system has no randomness to give.
    #[error("making a random HTTP secret failed; set REGISTRY_HTTP_SECRET")]
    Random(#[from] ring::error::Unspecified),
}

/// Runs a registry until `stop` is cancelled, then lets running requests finish (at most 29 seconds).
///
/// # Errors
/// Before serving begins: a wrong setting, an address in use, an unreadable certificate. Once it serves it returns `Ok`.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    let settings = Settings::load(options.config.as_deref())?;
    let transport = KubeTransport::infer().await?;
    serve(settings, Cluster::new(Arc::new(transport)), stop).await
}

/// Runs a registry with given settings and API server.
///
/// # Errors
/// As [`run`].
pub async fn serve(settings: Settings, cluster: Cluster, stop: CancellationToken) -> Result<(), Error> {
    let log = Log::stdout(settings.log_level);
    let addr = settings.socket_address().ok_or_else(|| SettingError::Wrong {
        variable: "REGISTRY_HTTP_ADDR".into(),
        value: settings.addr.clone(),
        problem: "say HOST:PORT".into(),
    })?;
    let metrics = Arc::new(Metrics::default());
    let storage = Storage::new(driver(&settings.store)?, Arc::clone(&metrics));
    let tls = settings.tls.as_ref().map(Tls::load).transpose()?;
    let remotes = Remotes::new().map_err(Error::Remotes)?;
    let registry = Arc::new(Registry::new(settings, cluster, storage, metrics, log, remotes)?);
    announce(&registry);
    let listener = listen(addr).await?;
    let port = listener.local_addr().map_or(addr.port(), |local| local.port());
    let suffix = if tls.is_some() { ", tls" } else { "" };
    registry.log.info(&format!("listening on :{port}{suffix}"), vec![]);
    let watch = async {
        match registry.settings.storage_health {
            Some(how) => registry.health.watch(&registry.storage, how, &registry.log, &stop).await,
            None => stop.cancelled().await,
        }
    };
    let purge = async {
        match registry.settings.upload_age {
            Some(age) if !registry.settings.read_only => registry.purge_uploads(age, &stop).await,
            _ => stop.cancelled().await,
        }
    };
    tokio::join!(server::serve(Arc::clone(&registry), listener, tls, stop.clone()), watch, purge);
    Ok(())
}

/// Binds an address; where the host has no IPv6, "all interfaces" means those of IPv4.
async fn listen(addr: SocketAddr) -> Result<TcpListener, ServerError> {
    let bound = match TcpListener::bind(addr).await {
        Err(_) if addr.is_ipv6() && addr.ip().is_unspecified() => {
            TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], addr.port()))).await
        }
        bound => bound,
    };
    bound.map_err(|source| ServerError::Listen { addr, source })
}

fn driver(store: &Store) -> Result<Arc<dyn Driver>, Error> {
    let bucket = match store {
        Store::Filesystem { root } => return Ok(Arc::new(Filesystem::new(root))),
        Store::S3(settings) => storage::s3::open(settings),
        Store::Gcs(settings) => storage::gcs::open(settings),
        Store::Azure(settings) => storage::azure::open(settings),
    };
    bucket.map(|bucket| Arc::new(bucket) as Arc<dyn Driver>).map_err(Error::Store)
}

/// The lines the documents show at the start of the log (OpenShift 4.6 registry docs, section 4.4), and those of today's
/// registry.
fn announce(registry: &Registry) {
    let (settings, log) = (&registry.settings, &registry.log);
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    log.info(&format!("version={version}"), vec![]);
    log.info("start registry", vec![("distribution_version", version.into()), ("openshift_version", version.into())]);
    for variable in &settings.unknown {
        log.warning(&format!("ignoring unrecognized environment variable {variable}"), vec![]);
    }
    if settings.log_level_unknown {
        log.warning("error parsing log level, using info", vec![]);
    }
    if settings.http_secret.is_none() {
        log.warning(
            "No HTTP secret provided - generated random secret. This may cause problems with uploads if multiple \
             registries are behind a load-balancer. To provide a shared secret, set the REGISTRY_HTTP_SECRET variable.",
            vec![],
        );
    }
    let quota = if settings.quota_enabled {
        "quota enforcement is done by the API server"
    } else {
        "quota enforcement disabled"
    };
    log.info(quota, vec![]);
    log.info("redis not configured", vec![]);
    log.info("using inmemory layerinfo cache", vec![]);
    log.info("Using OpenShift Auth handler", vec![]);
    if settings.redirect_disabled {
        log.info("backend redirection disabled", vec![]);
    }
    log.info(&format!("Using \"{}\" as Docker Registry URL", settings.server_addr), vec![]);
}
