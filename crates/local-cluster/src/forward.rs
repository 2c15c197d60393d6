//! A TCP doorstep inside the pod network: connections to 127.L.255.1 are carried on to kube-apiserver on 127.0.0.1.
//! With it the endpoints of the Service `kubernetes` (10.L.255.1) lead where they say, although the server listens elsewhere.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::Error;

/// Carries connections until it is dropped.
#[derive(Debug)]
pub(crate) struct Forward {
    task: JoinHandle<()>,
}

impl Forward {
    /// Listens on `from` and carries each connection to `to`.
    pub(crate) async fn start(from: SocketAddr, to: SocketAddr) -> Result<Forward, Error> {
        let listener = TcpListener::bind(from).await.map_err(|source| Error::NoPort {
            address: from.ip(),
            preferred: from.port(),
            last_seen: source.to_string(),
        })?;
        Ok(Forward { task: tokio::spawn(carry(listener, to)) })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(listener: TcpListener, to: SocketAddr) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            Ok((mut near, _)) = listener.accept() => {
                connections.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(to).await {
                        // Either side closing is the normal end of a connection.
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
