//! The reference Image Registry Operator: a controller that does what the OpenShift registry documents promise.
//! It is started as a process of its own and knows the cluster only through its API.
//!
//! Six controllers share one cache and one leader lease. Each is level-triggered: a watch marks it, one pass compares
//! what is with what should be and writes the difference. Values (objects, conditions) are made by pure functions.

mod bootstrap;
mod cache;
mod certificates;
mod cluster_operator;
mod condition;
mod config;
mod context;
mod deployment;
mod error;
mod image_config;
mod lease;
mod metrics;
mod node_ca;
mod object;
mod operand;
mod options;
mod pruner;
mod registry;
mod removal;
mod route;
mod status;
mod storage;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::cache::{Cache, Wakes};
use crate::context::Context;
pub use crate::error::Error;
use crate::lease::Leadership;
pub use crate::lease::{LEASE_DURATION, LEASE_NAME};
use crate::metrics::Metrics;
use crate::object::Actor;
pub use crate::options::Options;
use crate::worker::work;

/// How the operator calls itself to the API server, as the original does.
const AGENT: &str = "cluster-image-registry-operator";
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// Watches are renewed by the API server within this time, so silence for longer means a dead connection.
const READ_LIMIT: Duration = Duration::from_secs(295);

/// Runs the operator until `stop` is cancelled: waits for the leader lease, then reconciles.
/// Returns within a second of `stop`, having given the lease back.
///
/// # Errors
/// When the API cannot be found at all, or when the lease is lost; a silent or failing API server is outlasted.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    let client = connect(&options).await?;
    let stop = stop.child_token();
    // Also ends the tasks when this future is dropped instead of asked to stop.
    let _end = stop.clone().drop_guard();
    let tracker = TaskTracker::new();
    let metrics = Metrics::default();
    let result = lead(client, options, metrics, &tracker, &stop).await;
    stop.cancel();
    tracker.close();
    if tokio::time::timeout(Duration::from_millis(500), tracker.wait()).await.is_err() {
        warn!("some tasks did not end in time and are left behind");
    }
    result
}

async fn lead(
    client: Client,
    options: Options,
    metrics: Metrics,
    tracker: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(), Error> {
    info!(version = options.release_version, image = options.image, "{} starts", options.operator_name);
    let namespace = options.namespace().to_owned();
    let serving = async {
        match options.metrics_address {
            Some(address) => match metrics.clone().serve(address, stop.clone()).await {
                Ok(()) => std::future::pending().await,
                failed => failed,
            },
            None => std::future::pending().await,
        }
    };
    let leading = async {
        let identity = format!("{}_{}", options.operator_name, uuid::Uuid::new_v4());
        let Some(leadership) = Leadership::acquire(client.clone(), &namespace, identity, stop).await else {
            return Ok(());
        };
        let wakes = Wakes::default();
        let cache = Cache::start(&client, &namespace, &wakes, tracker, stop);
        let context = Context {
            actor: Actor { client: client.clone() },
            client,
            cache,
            options: Arc::new(options.clone()),
            metrics: metrics.clone(),
        };
        tracker.spawn(start(context, wakes, tracker.clone(), stop.clone()));
        let result = leadership.keep(stop).await;
        if result.is_ok() {
            // Nobody else may begin while one of our passes still writes.
            tracker.close();
            let _ = tokio::time::timeout(Duration::from_millis(500), tracker.wait()).await;
            leadership.release().await;
        }
        result
    };
    tokio::select! {
        result = serving => result,
        result = leading => result,
    }
}

/// Starts the controllers once everything they read has been listed.
async fn start(context: Context, wakes: Wakes, tracker: TaskTracker, stop: CancellationToken) {
    let ready = tokio::select! {
        () = stop.cancelled() => return,
        ready = context.cache.ready() => ready,
    };
    if ready.is_err() {
        return;
    }
    info!("all watches are in place, controllers start");
    macro_rules! controller {
        ($name:ident) => {{
            let context = context.clone();
            let pass = move || {
                let context = context.clone();
                async move { $name::sync(&context).await }
            };
            tracker.spawn(work(stringify!($name), wakes.$name.clone(), stop.clone(), pass));
        }};
    }
    controller!(registry);
    controller!(image_config);
    controller!(certificates);
    controller!(node_ca);
    controller!(pruner);
    controller!(cluster_operator);
}

async fn connect(options: &Options) -> Result<Client, Error> {
    let unusable = |reason: String| Error::Kubeconfig { reason };
    let mut config = match &options.kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path).map_err(|error| unusable(format!("{}: {error}", path.display())))?;
            kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .map_err(|error| unusable(format!("{}: {error}", path.display())))?
        }
        None => kube::Config::infer().await.map_err(|error| unusable(error.to_string()))?,
    };
    // kube takes HTTPS_PROXY for the API server too and asks NO_PROXY about the proxy instead of the server. That
    // variable is meant for storage outside the cluster; a proxy named in the kubeconfig is kept.
    let from_environment = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let proxies: [Option<http::Uri>; 2] = ["HTTPS_PROXY", "https_proxy"].map(from_environment);
    if proxies.contains(&config.proxy_url) {
        config.proxy_url = None;
    }
    // API servers keep it as the manager of the fields that are written (Kubernetes documentation, Server-Side Apply).
    config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(AGENT)));
    // Failures are retried by the work queue, which knows when it is worth it.
    config.default_retry = false;
    config.connect_timeout = Some(CALL_LIMIT);
    config.read_timeout = Some(READ_LIMIT);
    Client::try_from(config).map_err(|source| Error::Client { source })
}
