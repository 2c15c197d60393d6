//! Free ports that stay free until their user takes them: found outside the ephemeral range and held by a listener meanwhile.
//! A port from the ephemeral range could be taken by any outgoing connection between the search and the use.

use std::net::{IpAddr, SocketAddr, TcpListener};

use crate::Error;

/// Distance between two tries, so that neighbours with neighbouring wishes do not chase each other.
const STRIDE: u16 = 256;
/// Number of tries; with the stride they stay below 32768, where ephemeral ports begin on Linux.
const TRIES: u16 = 40;

/// A port nobody else can listen on while this value lives.
#[derive(Debug)]
pub struct ReservedPort {
    listener: TcpListener,
    address: SocketAddr,
}

impl ReservedPort {
    /// Reserves `preferred` or a port some steps above it on `address`.
    ///
    /// # Errors
    /// [`Error::NoPort`] when every try finds the port taken.
    pub fn near(address: IpAddr, preferred: u16) -> Result<ReservedPort, Error> {
        let mut last_seen = String::new();
        for port in (0..TRIES).map_while(|step| preferred.checked_add(step * STRIDE)) {
            match TcpListener::bind((address, port)) {
                Ok(listener) => return Ok(ReservedPort { listener, address: SocketAddr::new(address, port) }),
                Err(error) => last_seen = format!("port {port}: {error}"),
            }
        }
        Err(Error::NoPort { address, preferred, last_seen })
    }

    /// The reserved address and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Frees the port for the process that shall listen on it, which is to be started right after.
    pub fn release(self) -> SocketAddr {
        drop(self.listener);
        self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_passed_over() {
        let address = IpAddr::from([127, 0, 0, 1]);
        let first = ReservedPort::near(address, 20777).unwrap();
        let second = ReservedPort::near(address, first.address().port()).unwrap();
        assert_ne!(first.address(), second.address());
        assert_eq!(second.address().port() % STRIDE, first.address().port() % STRIDE);
        let freed = first.release();
        TcpListener::bind(freed).expect("a released port can be used at once");
    }
}
