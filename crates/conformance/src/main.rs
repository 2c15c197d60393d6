//! The one binary. By its first word it is the command line for people or a component that a target has started.

use std::{process::ExitCode, sync::Arc};

use registry_conformance::{cli, component, wiring::Native};

fn main() -> ExitCode {
    // One provider in the whole process, before the first client is built.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args: Vec<_> = std::env::args_os().collect();
    if let Some(code) = component::dispatch(&args) {
        return code;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime needs only threads and memory");
    runtime.block_on(cli::main(args, Arc::new(Native)))
}
