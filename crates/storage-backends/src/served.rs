//! A server of ours beside a storage product: a free port of an address, and the way to end what serves it.

use std::net::{IpAddr, SocketAddr, TcpListener};

use crate::Error;

/// What serves on a port. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) handle: axum_server::Handle<SocketAddr>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

impl Served {
    /// Listens on a free port of `listen`; whoever serves it takes the listener and the handle.
    pub(crate) fn on(listen: IpAddr) -> Result<(Served, TcpListener), Error> {
        let listening = Error::listening(listen);
        let listener = TcpListener::bind((listen, 0)).map_err(&listening)?;
        listener.set_nonblocking(true).map_err(&listening)?;
        let address = listener.local_addr().map_err(&listening)?;
        Ok((Served { address, handle: axum_server::Handle::new() }, listener))
    }
}
