//! The operator's own metrics in Prometheus' text format, as far as the documents speak of them.
//! Counting is done by the controllers; serving is plain HTTP on the address the options name.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::error::Error;

/// Counters and gauges of one operator process.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Values>);

#[derive(Debug, Default)]
struct Values {
    storage_reconfigured: AtomicU64,
    pruner_install_status: AtomicU64,
}

/// Whether a pruner is installed, as the gauge says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrunerInstall {
    /// There is none.
    Absent = 0,
    /// There is one that does not run.
    Suspended = 1,
    /// There is one.
    Enabled = 2,
}

impl Metrics {
    /// Another backend was configured in place of the one in use.
    pub fn storage_reconfigured(&self) {
        self.0.storage_reconfigured.fetch_add(1, Ordering::Relaxed);
    }

    /// How the pruner is installed now.
    pub fn pruner(&self, install: PrunerInstall) {
        self.0.pruner_install_status.store(install as u64, Ordering::Relaxed);
    }

    /// The page (operator source pkg/metrics/metrics.go:5-46, main).
    pub fn render(&self) -> String {
        let reconfigured = self.0.storage_reconfigured.load(Ordering::Relaxed);
        let pruner = self.0.pruner_install_status.load(Ordering::Relaxed);
        format!(
            "# HELP image_registry_operator_storage_reconfigured_total Total times the image registry's storage has been reconfigured.\n\
             # TYPE image_registry_operator_storage_reconfigured_total counter\n\
             image_registry_operator_storage_reconfigured_total {reconfigured}\n\
             # HELP image_registry_operator_image_pruner_install_status Installation status code related to the automatic image pruning feature. 0 = not installed, 1 = suspended, 2 = enabled\n\
             # TYPE image_registry_operator_image_pruner_install_status gauge\n\
             image_registry_operator_image_pruner_install_status {pruner}\n"
        )
    }

    /// Serves the page until `stop`.
    ///
    /// # Errors
    /// [`Error::Metrics`] when the address cannot be bound.
    pub async fn serve(self, address: SocketAddr, stop: CancellationToken) -> Result<(), Error> {
        let listener = TcpListener::bind(address).await.map_err(|source| Error::Metrics { address, source })?;
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let page = self.render();
                    tokio::spawn(async move {
                        if let Err(error) = answer(stream, &page).await {
                            debug!(%error, "a metrics request was cut off");
                        }
                    });
                }
                Err(error) => debug!(%error, "could not accept a metrics request"),
            }
        }
    }
}

async fn answer(mut stream: TcpStream, page: &str) -> std::io::Result<()> {
    let mut request = [0_u8; 2048];
    let read = stream.read(&mut request).await?;
    let found = request[..read].starts_with(b"GET /metrics ");
    let (status, body) = if found { ("200 OK", page) } else { ("404 Not Found", "not found\n") };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_what_was_counted() {
        let metrics = Metrics::default();
        metrics.storage_reconfigured();
        metrics.pruner(PrunerInstall::Enabled);
        let page = metrics.render();
        assert!(page.contains("\nimage_registry_operator_storage_reconfigured_total 1\n"), "{page}");
        assert!(page.contains("\nimage_registry_operator_image_pruner_install_status 2\n"), "{page}");
    }
}
