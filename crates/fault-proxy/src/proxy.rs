//! A proxy on one seam: it listens, terminates TLS if asked to, and carries every exchange past the faults that are on.
//! Faults are switched while it runs; streams that were watched under the old ones are cut, so that the change is seen at once.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, RwLock};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::armed::{Armed, Hit};
use crate::exchange;
use crate::fault::Fault;
use crate::upstream::{Connections, Upstream};
use crate::watch_stream::CutStreams;

/// What a proxy is made from.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The real server.
    pub upstream: Upstream,
    /// TLS towards clients; plain HTTP if absent. HTTP/2 and HTTP/1.1 are offered if it offers nothing itself.
    pub server_tls: Option<Arc<rustls::ServerConfig>>,
    /// What the real server sees as host.
    pub host: HostHeader,
}

impl ProxyOptions {
    /// A plain HTTP proxy on a free port of 127.0.0.1 that keeps the host.
    pub fn new(upstream: Upstream) -> ProxyOptions {
        ProxyOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            upstream,
            server_tls: None,
            host: HostHeader::Keep,
        }
    }
}

/// The host header that the real server gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostHeader {
    /// As the client sent it. Signed requests need this.
    Keep,
    /// Always this.
    Set(String),
}

/// A proxy that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose a free address or port 0")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// What the exchanges of a proxy share.
#[derive(Debug)]
pub(crate) struct State {
    armed: RwLock<Arc<Armed>>,
    hits: Mutex<Vec<Hit>>,
    change: watch::Sender<u64>,
    pub(crate) cut: CutStreams,
    pub(crate) connections: Connections,
    pub(crate) host: HostHeader,
}

impl State {
    pub(crate) fn armed(&self) -> Arc<Armed> {
        Arc::clone(&self.armed.read().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    pub(crate) fn note(&self, hit: Hit) {
        tracing::debug!(fault = %hit.fault, rule = hit.rule, method = %hit.method, path = %hit.path, "fault applied");
        self.hits.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(hit);
    }

    /// Tells of the next change of faults.
    pub(crate) fn change(&self) -> watch::Receiver<u64> {
        self.change.subscribe()
    }

    pub(crate) async fn changed(&self) {
        // The sender is part of this very value, so the wait cannot fail before the proxy is gone.
        let _ = self.change().changed().await;
    }
}

/// A running proxy. It ends, with all its connections, when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    scheme: &'static str,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// Starts a proxy without faults: everything passes through.
    ///
    /// # Errors
    /// [`ProxyError::Listen`].
    pub async fn start(options: ProxyOptions) -> Result<FaultProxy, ProxyError> {
        let failed = |source| ProxyError::Listen { address: options.listen, source };
        let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let scheme = if options.server_tls.is_some() { "https" } else { "http" };
        let acceptor = options.server_tls.map(|config| {
            let mut config = config;
            if config.alpn_protocols.is_empty() {
                Arc::make_mut(&mut config).alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            }
            TlsAcceptor::from(config)
        });
        let state = Arc::new(State {
            armed: RwLock::default(),
            hits: Mutex::default(),
            change: watch::Sender::new(0),
            cut: CutStreams::default(),
            connections: Connections::new(options.upstream),
            host: options.host,
        });
        let task = tokio::spawn(accept(listener, acceptor, Arc::clone(&state)));
        Ok(FaultProxy { address, scheme, state, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address with scheme and without path.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Switches to exactly these faults; those of the seam node-files are ignored. Counters and remembered answers begin anew,
    /// hits are kept. Watch streams are cut, and their clients list anew; exchanges under way end under the old faults.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        *self.state.armed.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(Armed::new(faults));
        self.state.connections.forget();
        self.state.change.send_modify(|generation| *generation += 1);
    }

    /// Switches all faults off.
    pub fn clear(&self) {
        self.set_faults(Vec::new());
    }

    /// Every application of a rule since the start, oldest first.
    pub fn hits(&self) -> Vec<Hit> {
        self.state.hits.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Ends the proxy and waits until its port is free.
    pub async fn stop(mut self) {
        self.task.abort();
        // Ending by this very abort is what is wanted.
        let _ = (&mut self.task).await;
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, acceptor.clone(), Arc::clone(&state)));
                }
                Err(error) => {
                    // Mostly too many open files; the next connection may end and free one.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, acceptor: Option<TlsAcceptor>, state: Arc<State>) {
    // Small answers must not wait for each other; if this fails they only come later.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| exchange::carry(Arc::clone(&state), request));
    let builder = auto::Builder::new(TokioExecutor::new());
    let outcome = match acceptor {
        None => builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await,
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await,
            Err(error) => return tracing::debug!(%error, "a client and the proxy did not agree on TLS"),
        },
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a client's connection ended");
    }
}
