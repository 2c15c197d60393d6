//! Free ports that stay free until their user takes them: found outside the ephemeral range and held by a listener meanwhile.
//! A port from the ephemeral range could be taken by any outgoing connection between the search and the use.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use crate::Error;

/// Distance between two tries, so that neighbours with neighbouring wishes do not chase each other.
const STRIDE: u16 = 256;
/// Number of tries; with the stride they stay below 32768, where ephemeral ports begin on Linux.
const TRIES: u16 = 40;

/// An address of no pod network, on which a port is taken only by a listener on all addresses.
const NOBODY: Ipv4Addr = Ipv4Addr::new(127, 255, 255, 253);

/// Looks whether pods can listen on these ports. Each has an address of its own, so only a listener on all addresses of
/// the machine (`0.0.0.0` or `[::]`) is in their way.
///
/// # Errors
/// [`Error::PortOfPods`] for the first port that is taken.
pub fn free_for_pods(ports: impl IntoIterator<Item = u16>) -> Result<(), Error> {
    for port in ports {
        TcpListener::bind((NOBODY, port)).map_err(|source| Error::PortOfPods { port, source })?;
    }
    Ok(())
}

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
    fn only_a_listener_on_all_addresses_is_in_the_way_of_pods() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        free_for_pods([other.local_addr().unwrap().port()]).unwrap();
        let all = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = all.local_addr().unwrap().port();
        let error = free_for_pods([port]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("something listens on port {port} of all addresses")), "{error}");
        drop(all);
        free_for_pods([port]).unwrap();
    }

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
