//! Runs nodes against any control plane, without the rest of the product: `cargo run --example nodes -- --help`.
//! Useful to look at pods by hand with kubectl.

use clap::Parser;
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    nodes: local_node::Options,
}

#[tokio::main]
async fn main() -> Result<(), local_node::Error> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter("info,local_node=debug").init();
    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    tokio::spawn(async move {
        let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
        if let Ok(mut terminate) = terminate {
            tokio::select! {
                _ = terminate.recv() => (),
                _ = tokio::signal::ctrl_c() => (),
            }
        }
        on_signal.cancel();
    });
    local_node::run(Command::parse().nodes, stop).await
}
