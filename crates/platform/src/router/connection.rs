//! Takes connections and hands each to the route it is for: spliced as it is, or read as HTTP after TLS ended.
//! Which route serves a request is looked up anew for each, so a change is seen on open connections too.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::forward::{self, Forwarder};
use super::hello;
use super::table::Table;
use crate::cluster::Cluster;

/// Through which of the router's two sockets a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Tls,
    Plain,
}

/// The latest table.
pub(super) type Current = watch::Receiver<Arc<Table>>;

/// Takes connections until the cluster is left.
pub(super) fn accept(cluster: &Cluster, listener: TcpListener, current: Current, door: Door) {
    let running = cluster.clone();
    cluster.tasks.spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = running.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, client)) => {
                    let (cluster, current) = (running.clone(), current.clone());
                    running.tasks.spawn(async move {
                        let stop = cluster.stop.clone();
                        if let Err(error) = serve(&cluster, stream, client, current, door).await {
                            let stopped = stop.is_cancelled();
                            tracing::debug!(%client, ?door, %error, stopped, "connection ended early");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, ?door, "no connection could be taken");
                    // Out of descriptors, most likely; nothing tells when there are some again.
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    });
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn serve(
    cluster: &Cluster,
    stream: TcpStream,
    client: SocketAddr,
    current: Current,
    door: Door,
) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    if door == Door::Plain {
        return http(cluster, stream, client, current, door).await;
    }
    let (mut stream, host) = tokio::select! {
        read = hello::read(stream) => read?,
        () = cluster.stop.cancelled() => return Ok(()),
    };
    let table = current.borrow().clone();
    if let Some(served) = table.passthrough(&host) {
        let Some(mut pod) = forward::dial(&served.backend).await else {
            return Err(format!("route {} has no endpoint that answers", served.route).into());
        };
        tokio::select! {
            spliced = tokio::io::copy_bidirectional(&mut stream, &mut pod) => spliced.map(drop)?,
            () = cluster.stop.cancelled() => {}
        }
        return Ok(());
    }
    let acceptor = TlsAcceptor::from(Arc::clone(table.server_config(&host)));
    drop(table);
    let stream = tokio::select! {
        accepted = acceptor.accept(stream) => accepted?,
        () = cluster.stop.cancelled() => return Ok(()),
    };
    http(cluster, stream, client, current, door).await
}

async fn http<S>(cluster: &Cluster, stream: S, client: SocketAddr, current: Current, door: Door) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let forwarder = Arc::new(Forwarder::new(current, client, door));
    let service = service_fn(move |request| {
        let forwarder = Arc::clone(&forwarder);
        async move { Ok::<_, std::convert::Infallible>(forwarder.answer(request).await) }
    });
    let connection =
        http1::Builder::new().timer(TokioTimer::new()).half_close(true).serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = cluster.stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}
