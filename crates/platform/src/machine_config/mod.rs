//! The parts of OpenShift's machine config operator around the program that renders: one process per node gives
//! `machine-config-controller bootstrap` the cluster's objects whenever they change, and brings what it renders onto the node.
//!
//! Only files below `/etc/containers` are brought onto the node. Nothing is drained, reloaded or rebooted: those decisions
//! are made by OpenShift's machine config daemon, which does not run here.

mod inputs;
mod node_root;
mod observed;
mod rendered;
mod renderer;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, Config};
use tokio_util::sync::CancellationToken;

use inputs::Inputs;
use node_root::NodeRoot;
use observed::Observed;
use renderer::{RenderError, Renderer};
use report::{Report, Reporter};

/// Between two tries of what the API server or the file system refused; no event tells when they are well again.
const RETRY: Duration = Duration::from_millis(500);

/// What is rendered with, and where to.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The program that renders: a machine-config-controller that knows `bootstrap`
    #[arg(long, value_name = "FILE")]
    pub renderer: PathBuf,

    /// The templates that belong to it
    #[arg(long, value_name = "DIR")]
    pub templates: PathBuf,

    /// Name of the Node object to work for
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,

    /// Folder at which the root of the node's file system is mounted
    #[arg(long, env = "NODE_ROOT", value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
}

/// Why the process ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable way to the API server.
    #[error("could not find out how to reach the API server: {0}; set KUBECONFIG or run in a pod")]
    Config(#[from] kube::config::InferConfigError),
    /// The API server refused or could not be reached.
    #[error("{doing}: {source}")]
    Api {
        /// What was tried.
        doing: String,
        /// The client's error.
        source: Box<kube::Error>,
    },
    /// The program cannot render at all.
    #[error(transparent)]
    Renderer(#[from] RenderError),
}

/// Keeps the node's files as the program renders them until `stop` is cancelled.
///
/// Objects that the program refuses leave the last good files in place and are told in the node's annotations, as
/// OpenShift does (machine-config-operator source pkg/daemon/constants/constants.go).
///
/// # Errors
/// When the API server cannot be addressed or the program cannot render, with its command line, exit status and last words.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    let mut config = Config::infer().await?;
    config.default_retry = false;
    config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(crate::cluster::FIELD_MANAGER)));
    let client = Client::try_from(config).map_err(api("making a client"))?;
    let nodes = Api::<Node>::all(client.clone());
    let node = nodes.get(&options.node_name).await.map_err(api(format!("reading the Node {}", options.node_name)))?;
    let pool = pool_of(&node);
    tracing::info!(node = options.node_name, pool, root = %options.root.display(), "started");
    let mut daemon = Daemon {
        pool,
        renderer: Renderer::new(options.renderer, options.templates),
        root: NodeRoot::new(options.root),
        reporter: Reporter::new(nodes, options.node_name),
        settled: None,
    };
    let observed = Observed::watch(&client, &stop).await;
    let mut again = false;
    while !stop.is_cancelled() {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = observed.changed() => {}
            () = tokio::time::sleep(RETRY), if again => {}
        }
        tokio::select! {
            () = stop.cancelled() => break,
            outcome = daemon.pass(observed.inputs()) => again = match outcome {
                Ok(()) => false,
                Err(Trouble::Final(error)) => return Err(error.into()),
                Err(Trouble::Passing(why)) => {
                    tracing::warn!("{why}; trying again");
                    true
                }
            },
        }
    }
    Ok(())
}

/// The pool a node belongs to: control plane nodes are in `master` whatever else they are (machine-config-operator source
/// pkg/helpers/helpers.go, `GetPoolsForNode`).
fn pool_of(node: &Node) -> &'static str {
    let is_master = node.metadata.labels.iter().flatten().any(|(label, _)| label == "node-role.kubernetes.io/master");
    if is_master { "master" } else { "worker" }
}

fn api(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    let doing = doing.into();
    move |source| Error::Api { doing, source: Box::new(source) }
}

/// What kept one pass from its end.
enum Trouble {
    /// The program cannot render.
    Final(RenderError),
    /// May go away by itself.
    Passing(String),
}

struct Daemon {
    pool: &'static str,
    renderer: Renderer,
    root: NodeRoot,
    reporter: Reporter,
    /// The inputs that the node's files and annotations speak of.
    settled: Option<Inputs>,
}

impl Daemon {
    async fn pass(&mut self, inputs: Option<Inputs>) -> Result<(), Trouble> {
        let Some(inputs) = inputs else {
            tracing::info!("the cluster's version, feature gates or infrastructure are not known yet");
            return Ok(());
        };
        if self.settled.as_ref() == Some(&inputs) {
            return Ok(());
        }
        let rendered = match self.renderer.render(&inputs, self.pool).await {
            Ok(rendered) => rendered,
            // Without objects to refuse it is the program that does not work.
            Err(RenderError::Refused { reason, .. }) if inputs.may_be_refused() => {
                tracing::error!(reason, "the objects are refused; the node's files stay as they are");
                self.report(Report::Refused { reason }).await?;
                self.settled = Some(inputs);
                return Ok(());
            }
            Err(error) => return Err(Trouble::Final(error)),
        };
        let name = rendered.name.clone();
        if self.root.differs_from(&rendered) {
            self.report(Report::Working { wanted: name.clone() }).await?;
            let changed = self.root.apply(&rendered).map_err(|error| Trouble::Passing(error.to_string()))?;
            tracing::info!(config = name, ?changed, "node files changed");
        }
        self.report(Report::Done { config: name }).await?;
        self.settled = Some(inputs);
        Ok(())
    }

    async fn report(&mut self, report: Report) -> Result<(), Trouble> {
        self.reporter.publish(report).await.map_err(|error| Trouble::Passing(format!("annotating the node: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case(json!({"node-role.kubernetes.io/master": "", "node-role.kubernetes.io/worker": ""}), "master")]
    #[case(json!({"node-role.kubernetes.io/worker": ""}), "worker")]
    #[case(json!({}), "worker")]
    fn the_control_plane_comes_first(#[case] labels: serde_json::Value, #[case] pool: &str) {
        let node = serde_json::from_value(json!({"metadata": {"labels": labels}})).unwrap();
        assert_eq!(pool_of(&node), pool);
    }
}
