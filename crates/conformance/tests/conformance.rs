//! The suite as a test target: `cargo test --test conformance -- [filter]`, `--list`, `--exact NAME`, as libtest has it.

use std::{process::ExitCode, sync::Arc};

use registry_conformance::{executable, libtest, wiring::Native};

fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    executable::use_executable(env!("CARGO_BIN_EXE_registry-conformance").into());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime needs only threads and memory");
    runtime.block_on(libtest::main(std::env::args_os().collect(), Arc::new(Native)))
}
