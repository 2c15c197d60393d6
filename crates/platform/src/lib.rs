//! What OpenShift gives and plain Kubernetes lacks: definitions, configuration objects, namespaces and roles,
//! the service CA, a router, a provisioner of volumes and a warden of the operator's lease. The image API is another
//! crate; the binary runs both side by side in one process.
//!
//! Everything here is level-triggered: controllers look at the whole of what they watch whenever any of it changes,
//! and nothing polls.

mod cache;
mod certificate;
mod cluster;
mod cluster_config;
mod definitions;
mod error;
mod leases;
pub mod machine_config;
mod namespaces;
mod pki;
mod roles;
mod router;
mod service_ca;
mod volumes;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use cluster::Cluster;
pub use error::Error;

/// How long connections may take to end once the platform is stopped.
const GRACE: Duration = Duration::from_millis(500);

/// Where the platform runs and what it pretends the cluster to be.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Kubeconfig with the rights of a cluster administrator; if absent, KUBECONFIG and the usual places count.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Where the router takes TLS connections.
    #[arg(long, value_name = "IP:PORT")]
    pub router_address: SocketAddr,

    /// Where the router takes connections without TLS; routes are served over TLS only if absent.
    #[arg(long, value_name = "IP:PORT")]
    pub router_plain_address: Option<SocketAddr>,

    /// Domain of routes that name no host.
    #[arg(long, default_value = "apps.conformance.test", value_name = "DOMAIN")]
    pub base_domain: String,

    /// Domain of the cluster itself.
    #[arg(long, default_value = "conformance.test", value_name = "DOMAIN")]
    pub cluster_domain: String,

    /// Folder for the CA certificates readers outside the cluster need: service-ca.crt and router-ca.crt.
    #[arg(long, value_name = "DIR")]
    pub pki_dir: PathBuf,

    /// Release the ClusterVersion and the FeatureGate name.
    #[arg(long, default_value = "4.6.0", value_name = "VERSION")]
    pub release_version: String,

    /// Platform the Infrastructure names, for example None, AWS, GCP or OpenStack.
    #[arg(long, default_value = "None", value_name = "TYPE")]
    pub platform_type: String,

    /// Where pods really listen.
    #[arg(long, value_enum, default_value_t)]
    pub pod_network: PodNetwork,

    /// Folder that all nodes share as /var/registry-conformance/volumes, as this process sees it; a storage class of
    /// folders in it becomes the default one. No volumes are provisioned if absent.
    #[arg(long, value_name = "DIR")]
    pub volumes: Option<PathBuf>,
}

/// Where the process behind a pod's address listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PodNetwork {
    /// On the loopback address that goes with it; see [`api::address`].
    #[default]
    Loopback,
    /// On that address itself, as on any real cluster.
    Real,
}

/// Runs until `stop` is cancelled. Prints the line `platform ready` when everything is in place.
///
/// # Errors
/// See [`Error`]; a controller that fails later retries and logs instead of ending the run.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    let (ready, is_ready) = oneshot::channel();
    tokio::spawn(async move {
        if is_ready.await.is_ok() {
            println!("platform ready");
        }
    });
    run_and_tell(options, stop, ready).await
}

/// As [`run`], but tells `ready` instead of printing, for a process that has more to wait for.
///
/// # Errors
/// As [`run`].
pub async fn run_and_tell(options: Options, stop: CancellationToken, ready: oneshot::Sender<()>) -> Result<(), Error> {
    // Listening comes first: an address in use is best told before anything was changed.
    let listeners = router::Listeners::bind(options.router_address, options.router_plain_address).await?;
    // Whatever ends this function ends the controllers too.
    let cluster = Cluster::connect(options.kubeconfig.as_deref(), stop.child_token()).await?;
    let _guard = cluster.stop.clone().drop_guard();
    let began = Instant::now();
    tokio::select! {
        started = start(&options, &cluster, listeners) => started?,
        () = stop.cancelled() => return Ok(()),
    }
    tracing::info!(elapsed_ms = began.elapsed().as_millis() as u64, "platform is in place");
    // The receiver may have lost interest; the platform is ready all the same.
    let _ = ready.send(());
    stop.cancelled().await;
    cluster.tasks.close();
    // A connection that will not end by itself ends with the process.
    let _ = tokio::time::timeout(GRACE, cluster.tasks.wait()).await;
    Ok(())
}

async fn start(options: &Options, cluster: &Cluster, listeners: router::Listeners) -> Result<(), Error> {
    let without_definitions = async {
        namespaces::ensure(cluster).await?;
        let secrets = cluster_config::ensure_secrets(cluster);
        let service_ca = service_ca::load(cluster, &options.pki_dir);
        let router_pki = router::Pki::load(cluster, &options.base_domain, &options.pki_dir);
        let shared = roles::ensure_shared(cluster);
        let ((), (), service_ca, router_pki) = tokio::try_join!(secrets, shared, service_ca, router_pki)?;
        let service_ca_bundle = service_ca.certificate().to_owned();
        tokio::join!(namespaces::start(cluster), service_ca::start(cluster, service_ca), leases::start(cluster));
        Ok((service_ca_bundle, router_pki))
    };
    let with_definitions = async {
        definitions::ensure(cluster).await?;
        cluster_config::ensure(cluster, options).await
    };
    let volumes = async {
        match &options.volumes {
            Some(folder) => volumes::start(cluster, folder).await,
            None => Ok(()),
        }
    };
    let ((service_ca_bundle, router_pki), (), (), ()) =
        tokio::try_join!(without_definitions, with_definitions, roles::ensure(cluster), volumes)?;
    router::start(cluster, router_pki, &service_ca_bundle, &options.base_domain, options.pod_network, listeners).await
}
