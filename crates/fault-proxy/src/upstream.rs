//! Connections to the real server: HTTP/1.1 over TCP or TLS, kept for the next request when they fall idle.
//! The address is asked for anew with every connection, because pods come and go behind a name.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::body::{Body, Failure};

/// Idle connections that are kept.
const IDLE: usize = 32;

/// The real server behind a proxy.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Where it listens.
    pub address: Address,
    /// TLS towards it; plain HTTP if absent. Protocols other than HTTP/1.1 must not be offered in it.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Name its certificate must be valid for; the host of each request if absent.
    pub server_name: Option<String>,
}

impl Upstream {
    /// A plain HTTP server.
    pub fn http(address: impl Into<Address>) -> Upstream {
        Upstream { address: address.into(), tls: None, server_name: None }
    }

    /// An HTTPS server whose certificate must be valid for `server_name`.
    pub fn https(
        address: impl Into<Address>,
        tls: Arc<rustls::ClientConfig>,
        server_name: impl Into<String>,
    ) -> Upstream {
        Upstream { address: address.into(), tls: Some(tls), server_name: Some(server_name.into()) }
    }
}

/// Asks where a server is now.
pub type Resolve = dyn Fn() -> BoxFuture<'static, io::Result<SocketAddr>> + Send + Sync;

/// Where a server listens.
#[derive(Clone)]
pub enum Address {
    /// Always here.
    Fixed(SocketAddr),
    /// Asked for with every new connection.
    Resolved(Arc<Resolve>),
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Fixed(address)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Fixed(address) => write!(out, "{address}"),
            Address::Resolved(_) => out.write_str("(resolved)"),
        }
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

type Sender = http1::SendRequest<Body>;

/// The connections of one proxy.
#[derive(Debug)]
pub(crate) struct Connections {
    upstream: Upstream,
    /// With the name they were verified for.
    idle: Arc<Mutex<Vec<(String, Sender)>>>,
}

impl Connections {
    pub(crate) fn new(upstream: Upstream) -> Connections {
        Connections { upstream, idle: Arc::default() }
    }

    /// Sends a request whose URI is path and query. A request that an idle connection refused unsent is sent again on a new one.
    pub(crate) async fn send(&self, request: Request<Body>, host: &str) -> Result<Response<Incoming>, Failure> {
        let name = self.upstream.server_name.clone().unwrap_or_else(|| host_name(host).to_owned());
        let mut request = request;
        while let Some(mut sender) = self.take_idle(&name) {
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.keep(name, sender);
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error().into()),
                },
            }
        }
        let mut sender = self.connect(&name).await?;
        let response = sender.send_request(request).await?;
        self.keep(name, sender);
        Ok(response)
    }

    /// Once per new set of faults: nothing of the old connections is used again.
    pub(crate) fn forget(&self) {
        self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clear();
    }

    fn take_idle(&self, name: &str) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        idle.retain(|(_, sender)| !sender.is_closed());
        let position = idle.iter().rposition(|(known, sender)| known == name && sender.is_ready())?;
        Some(idle.swap_remove(position).1)
    }

    /// The connection is idle again when the answer's body has been read, which is when it becomes ready.
    fn keep(&self, name: String, mut sender: Sender) {
        let idle = Arc::clone(&self.idle);
        tokio::spawn(async move {
            if sender.ready().await.is_ok() {
                let mut idle = idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                if idle.len() < IDLE {
                    idle.push((name, sender));
                }
            }
        });
    }

    async fn connect(&self, name: &str) -> Result<Sender, Failure> {
        let address = match &self.upstream.address {
            Address::Fixed(address) => *address,
            Address::Resolved(resolve) => resolve().await?,
        };
        let failed = |error: io::Error| Failure::from(format!("cannot reach {address}: {error}"));
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let stream: Box<dyn Io> = match &self.upstream.tls {
            None => Box::new(stream),
            Some(config) => {
                let server = ServerName::try_from(name.to_owned())?;
                let tls = TlsConnector::from(Arc::clone(config)).connect(server, stream).await;
                Box::new(tls.map_err(failed)?)
            }
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to the real server ended");
            }
        });
        Ok(sender)
    }
}

/// The host of an authority such as `example.com:443` or `[::1]:443`.
fn host_name(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("example.com:443", "example.com")]
    #[case("example.com", "example.com")]
    #[case("[::1]:443", "::1")]
    fn the_port_is_no_part_of_the_name(#[case] authority: &str, #[case] name: &str) {
        assert_eq!(host_name(authority), name);
    }
}
