//! The node agent: watches the cluster's mirror objects and keeps one node's registry configuration equal to what
//! they say. It never polls, and a set of objects it must refuse leaves the last good files in place.

mod configuration;
mod containerd;
mod drain;
mod observed;
mod report;
mod turn;

use configuration::Configuration;
use containerd::Containerd;
use drain::Drain;
use futures::stream::{self, BoxStream, StreamExt};
use kube::api::{Api, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::events::EventType;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Config};
use observed::{Observed, Source};
use report::{Report, Reporter};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How the agent calls itself to the API server, as the original does.
const AGENT: &str = "machine-config-daemon";

/// What the agent must be told.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Name of the Node object this agent works for
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
    /// Folder at which the root of the node's file system is mounted
    #[arg(long, env = "NODE_ROOT", value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// containerd's folder of registry hosts on the node, usually /etc/containerd/certs.d; hosts.toml files are kept there
    /// for what of the rules is about whole hosts. Without it containerd is left alone
    #[arg(long, env = "NODE_CONTAINERD_CERTS_DIR", value_name = "DIR")]
    pub containerd_certs_dir: Option<PathBuf>,
}

/// Why the agent ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not find out how to reach the API server: {0}; set KUBECONFIG or run in a pod")]
    Config(#[from] kube::config::InferConfigError),
    #[error("could not make a client for the API server: {0}")]
    Client(#[source] kube::Error),
    #[error(
        "could not watch the node's trust folder: {0}; check that the node's root is mounted and inotify has watches left"
    )]
    Watch(#[source] std::io::Error),
}

/// Keeps the node's files as the cluster's objects say until `stop` is cancelled.
///
/// Files are written before the node's annotations say so; faults of the API or of the file system are retried with
/// growing pauses of at most five seconds and reported in the meantime. Where a change may not meet running pods, the node
/// is drained before and opened after it, one node of the cluster at a time.
///
/// # Errors
/// The API server cannot be addressed at all, or the node's trust cannot be watched.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    let mut config = Config::infer().await?;
    config.default_retry = false;
    // API servers keep it as the manager of the fields that are written (Kubernetes documentation, Server-Side Apply).
    config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(AGENT)));
    let client = Client::try_from(config).map_err(Error::Client)?;
    serve(client, options, stop).await
}

/// As [`run`], with a client that exists already.
///
/// # Errors
/// The node's trust cannot be watched.
pub async fn serve(client: Client, options: Options, stop: CancellationToken) -> Result<(), Error> {
    tracing::info!(node = options.node_name, root = %options.root.display(), "node agent started");
    let containerd = options.containerd_certs_dir.map(|folder| Containerd::new(&options.root, &folder));
    let agent = Agent {
        reporter: Reporter::new(client.clone(), &options.node_name),
        drain: Drain::new(client.clone(), &options.node_name),
        containerd: containerd.transpose().map_err(Error::Watch)?,
        root: options.root,
        observed: Observed::default(),
        retry: None,
        pause: Pause::default(),
    };
    tokio::select! {
        // A drain that is cut short here is finished by the next agent of the node.
        () = stop.cancelled() => {}
        served = agent.serve(changes(&client)) => served?,
    }
    tracing::info!("node agent stopped");
    Ok(())
}

type Change = (Source, watcher::Result<watcher::Event<DynamicObject>>);

fn changes(client: &Client) -> BoxStream<'static, Change> {
    let watches = Source::ALL.map(|source| {
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &source.resource());
        let config = match source.only_name() {
            Some(name) => watcher::Config::default().fields(&format!("metadata.name={name}")),
            None => watcher::Config::default(),
        };
        watcher(api, config).backoff(Pause::default()).map(move |event| (source, event)).boxed()
    });
    stream::select_all(watches).boxed()
}

struct Agent {
    root: PathBuf,
    reporter: Reporter,
    drain: Drain,
    containerd: Option<Containerd>,
    observed: Observed,
    retry: Option<Instant>,
    pause: Pause,
}

impl Agent {
    async fn serve(mut self, mut changes: BoxStream<'static, Change>) -> Result<(), Error> {
        loop {
            let retry = self.retry;
            tokio::select! {
                change = changes.next() => {
                    let Some((source, event)) = change else { return Ok(()) };
                    if !self.observed.take(source, event) {
                        continue;
                    }
                    self.pause.reset();
                }
                trust = trust_changed(&mut self.containerd) => trust.map_err(Error::Watch)?,
                () = async { tokio::time::sleep_until(retry.unwrap_or_else(Instant::now)).await }, if retry.is_some() => {}
            }
            if self.observed.is_complete() {
                self.retry = match self.apply().await {
                    Ok(()) => None,
                    Err(error) => {
                        let pause = self.pause.next().unwrap_or(Pause::LONGEST);
                        tracing::warn!(retry_in_ms = pause.as_millis(), "{error}");
                        Some(Instant::now() + pause)
                    }
                };
            }
        }
    }

    async fn apply(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let sources = self.observed.versions();
        let wanted = match self.observed.rules().and_then(|rules| Configuration::of(&rules)) {
            Ok(wanted) => wanted,
            Err(refusal) => {
                return Ok(self.reporter.publish(Report::Refused { reason: refusal.to_string(), sources }).await?);
            }
        };
        let name = wanted.name();
        if wanted.differs_from(&self.root)? {
            self.reporter.publish(Report::Working { wanted: name.clone() }).await?;
            match wanted.disruption(&self.root)? {
                Some(why) if self.drain.begin(&why, &name).await? => {
                    self.reporter
                        .tell(EventType::Normal, "Drain", "Drain", format!("Node drained because {why}"))
                        .await;
                }
                Some(_) => {}
                None => tracing::info!("registries.conf: changes made are safe to skip drain"),
            }
            for path in wanted.write(&self.root)? {
                tracing::info!(path = %path.display(), config = name, "node file changed");
            }
        }
        if let Some(containerd) = &mut self.containerd {
            let hosts = containerd.wanted(wanted.tables())?;
            for path in containerd.write(&hosts)? {
                tracing::info!(path = %path.display(), config = name, "node file changed");
            }
            self.reporter.tell_departures(&hosts.departures).await;
        }
        if self.drain.end(&name).await? {
            let note = format!("Update completed for config {name} and node has been uncordoned");
            self.reporter.tell(EventType::Normal, "Uncordon", "Uncordon", note).await;
        }
        Ok(self.reporter.publish(Report::Done { config: name, sources }).await?)
    }
}

/// Never returns where containerd is left alone.
async fn trust_changed(containerd: &mut Option<Containerd>) -> std::io::Result<()> {
    match containerd {
        Some(containerd) => containerd.trust_changed().await,
        None => std::future::pending().await,
    }
}

/// Growing pauses between tries, from a tenth of a second to five seconds.
#[derive(Debug)]
struct Pause(Duration);

impl Pause {
    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);
}

impl Default for Pause {
    fn default() -> Self {
        Pause(Self::SHORTEST)
    }
}

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(Self::LONGEST);
        Some(pause)
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {
        self.0 = Self::SHORTEST;
    }
}
