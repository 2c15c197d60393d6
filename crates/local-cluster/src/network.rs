//! The pod network number of a control plane: leased machine-wide by holding a listener, so the lease ends with the process.
//! Pod addresses 10.L.x.y of the cluster are served on the loopback addresses 127.L.x.y.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::sync::Arc;

use crate::Error;

/// Port of the listener that is the lease, on 127.L.255.254. It lies above the ephemeral ports.
const LEASE_PORT: u16 = 61999;

/// A leased pod network. Clones share the lease; it ends when the last clone is dropped or the process dies.
#[derive(Clone, Debug)]
pub struct PodNetwork {
    number: u8,
    _lease: Arc<TcpListener>,
}

impl PodNetwork {
    /// Leases the lowest free number from 1 to 254.
    ///
    /// # Errors
    /// [`Error::NoNetwork`] when all are taken.
    pub fn lease() -> Result<PodNetwork, Error> {
        let mut last_seen = String::new();
        for number in 1..=254 {
            match TcpListener::bind(SocketAddrV4::new(Ipv4Addr::new(127, number, 255, 254), LEASE_PORT)) {
                Ok(lease) => return Ok(PodNetwork { number, _lease: Arc::new(lease) }),
                Err(error) => last_seen = error.to_string(),
            }
        }
        Err(Error::NoNetwork { port: LEASE_PORT, last_seen })
    }

    /// L in 10.L.0.0/16 and 127.L.0.0/16, from 1 to 254.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// The loopback address 127.L.`high`.`low`, where a process of this network listens.
    pub fn listen_address(&self, high: u8, low: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.number, high, low)
    }

    /// The address 10.L.`high`.`low`, which stands for it in the cluster's objects.
    pub fn pod_address(&self, high: u8, low: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number, high, low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leases_differ_and_a_dropped_one_is_free_again() {
        let first = PodNetwork::lease().unwrap();
        let second = PodNetwork::lease().unwrap();
        assert_ne!(first.number(), second.number());
        let number = second.number();
        drop(second);
        // Somebody else may take the number first, but never the one that is still held.
        let third = PodNetwork::lease().unwrap();
        assert_ne!(third.number(), first.number());
        assert!(third.number() >= 1 && number >= 1);
        assert_eq!(third.listen_address(254, 1).octets()[0], 127);
        assert_eq!(third.pod_address(254, 1).octets()[0], 10);
    }
}
