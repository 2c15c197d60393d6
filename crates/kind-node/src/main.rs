//! What a kind node and its engine need and no package brings: PID 1, the node's network, pause, the balancer, an OCI runtime.
//! One small program with one word for each; the air-gap builder puts it into images and beside the engine.

mod balancer;
mod error;
mod init;
mod network;
mod pause;
mod root;
mod runtime;
mod service;
mod supervisor;

use std::ffi::OsString;
use std::process::ExitCode;

use error::Error;

const USAGE: &str = "usage: kind-node init | import | kubelet | network | pause | balancer FILE | in-root ROOT COMMAND... | \
                     runtime ARGUMENTS-OF-RUNC...";

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let word = args.next().unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    let outcome = match word.to_str().unwrap_or_default() {
        "init" => wait_for(init::run()),
        "import" => init::import(),
        "kubelet" => init::kubelet(),
        "network" => wait_for(network::run()),
        "pause" => pause::run(),
        "balancer" => wait_for(balancer::run(rest)),
        "in-root" => root::enter(&rest),
        "runtime" => runtime::run(&rest),
        _ => Err(Error::Usage(USAGE)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kind-node {}: {error}", word.display());
            ExitCode::FAILURE
        }
    }
}

/// One thread is enough for all of them.
fn wait_for(task: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Error::system("start", "the runtime"))?.block_on(task)
}
