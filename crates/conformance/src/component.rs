//! The other faces of the one binary: components of the reference system, platform parts and nodes, each started as a
//! child process or a pod of its own, exactly as a stranger's executable would be.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand};
use harness::failure::chain;
use tokio_util::sync::CancellationToken;

use crate::output;

/// First words of a command line that belong to a component.
const WORDS: [&str; 5] = ["reference", "platform", "nodes", "machine-config-daemon", "oc"];

#[derive(Parser)]
#[command(name = "registry-conformance", about = "Components that targets start; people rarely call them")]
enum Component {
    /// A component of the reference system
    #[command(subcommand)]
    Reference(Reference),
    /// What OpenShift gives and plain Kubernetes lacks, with the image API
    Platform(Platform),
    /// Nodes that run pods as processes
    Nodes(local_node::Options),
    /// Has a node configured by a real machine-config-controller
    MachineConfigDaemon(platform::machine_config::Options),
}

#[derive(Subcommand)]
enum Reference {
    /// The Image Registry Operator
    Operator(reference_operator::Options),
    /// The registry
    Registry(reference_registry::Options),
    /// The node agent
    NodeAgent(reference_node::agent::Options),
    /// What brings certificates onto nodes
    NodeCa(reference_node::ca::Options),
}

#[derive(clap::Args)]
struct Platform {
    #[command(flatten)]
    platform: platform::Options,
    #[command(flatten)]
    image_api: image_api::Options,
}

/// Runs a component when the command line asks for one; `None` when it is meant for a person.
pub fn dispatch(args: &[OsString]) -> Option<ExitCode> {
    let called = args.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let word = args.get(1).and_then(|word| word.to_str()).unwrap_or_default();
    if called == "oc" {
        return Some(client(args.to_vec()));
    }
    if let Some(words) = reference_for(called, word) {
        // The program's own name stays in front, for messages; `node-ca-sync` is used up. The reference reads no
        // configuration file.
        let rest = args.iter().skip(if words[1] == "node-ca" { 2 } else { 1 });
        let rest = rest.filter(|word| !word.to_string_lossy().starts_with("--config="));
        let args: Vec<OsString> = args[..1].iter().cloned().chain(words.map(Into::into)).chain(rest.cloned()).collect();
        return Some(start(&args));
    }
    if !WORDS.contains(&word) {
        return None;
    }
    if word == "oc" {
        return Some(client(args[1..].to_vec()));
    }
    Some(start(args))
}

/// The component of the reference that answers to the name of a program of OpenShift, as `oc` does to its own.
fn reference_for(called: &OsStr, first: &str) -> Option<[&'static str; 2]> {
    match (called.to_str()?, first) {
        ("cluster-image-registry-operator", "node-ca-sync") => Some(["reference", "node-ca"]),
        ("cluster-image-registry-operator", _) => Some(["reference", "operator"]),
        ("dockerregistry" | "image-registry", _) => Some(["reference", "registry"]),
        _ => None,
    }
}

fn start(args: &[OsString]) -> ExitCode {
    let component = match Component::try_parse_from(args) {
        Ok(component) => component,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    runtime().block_on(serve(component))
}

/// The names of all components, for a test that they parse.
pub fn command() -> clap::Command {
    Component::command()
}

fn client(args: Vec<OsString>) -> ExitCode {
    let code = runtime().block_on(reference_cli::main(args));
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime needs only threads and memory")
}

async fn serve(component: Component) -> ExitCode {
    let stop = stop_on_signal();
    let outcome: Result<(), Box<dyn std::error::Error + Send + Sync>> = match component {
        Component::Reference(Reference::Operator(options)) => {
            log();
            reference_operator::run(options, stop).await.map_err(Into::into)
        }
        // The registry writes the log lines that its documents show, so it brings its own.
        Component::Reference(Reference::Registry(options)) => {
            reference_registry::run(options, stop).await.map_err(Into::into)
        }
        Component::Reference(Reference::NodeAgent(options)) => {
            log();
            reference_node::agent::run(options, stop).await.map_err(Into::into)
        }
        Component::Reference(Reference::NodeCa(options)) => {
            log();
            reference_node::ca::run(options, stop).await.map_err(Into::into)
        }
        Component::Platform(options) => {
            log();
            platform(options, stop).await
        }
        Component::Nodes(options) => {
            log();
            local_node::run(options, stop).await.map_err(Into::into)
        }
        Component::MachineConfigDaemon(options) => {
            log();
            platform::machine_config::run(options, stop).await.map_err(Into::into)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::tell(&format!("error: {}", chain(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

/// The platform proper and the image API, side by side; ready when both are.
async fn platform(options: Platform, stop: CancellationToken) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (platform_ready, platform_is_ready) = tokio::sync::oneshot::channel();
    let (image_api_ready, image_api_is_ready) = tokio::sync::oneshot::channel();
    let told = tokio::spawn(async move {
        if platform_is_ready.await.is_ok()
            && image_api_is_ready.await.is_ok()
            && let Err(error) = output::print("platform ready\n")
        {
            tracing::error!(%error, "nobody hears that the platform is ready");
        }
    });
    let mut image_api_options = options.image_api;
    image_api_options.kubeconfig = options.platform.kubeconfig.clone().unwrap_or_default();
    let both = async {
        let platform =
            async { platform::run_and_tell(options.platform, stop.clone(), platform_ready).await.map_err(Into::into) };
        let image_api =
            async { image_api::run(image_api_options, stop.clone(), image_api_ready).await.map_err(Into::into) };
        tokio::try_join!(platform, image_api)
    };
    let outcome: Result<((), ()), Box<dyn std::error::Error + Send + Sync>> = both.await;
    told.abort();
    outcome.map(drop)
}

fn stop_on_signal() -> CancellationToken {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        if let Ok(mut stream) = signal(kind) {
            let stop = stop.clone();
            tokio::spawn(async move {
                if stream.recv().await.is_some() {
                    stop.cancel();
                }
            });
        }
    }
    stop
}

fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,kube=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_component_has_a_consistent_command_line() {
        super::command().debug_assert();
    }
}
