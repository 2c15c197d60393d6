//! The pod addresses of one node, 10.L.N.2 to 10.L.N.251, which stand for 127.L.N.x where processes listen.
//! An address freed last is given out last, so that late clients of a gone pod do not reach its successor.

use std::{collections::VecDeque, net::Ipv4Addr, sync::Mutex};

use crate::machine::PODS_PER_NODE;

const FIRST: u8 = 2;

/// Free addresses of a node.
#[derive(Debug)]
pub(crate) struct AddressPool {
    network: u8,
    node: u8,
    free: Mutex<VecDeque<u8>>,
}

impl AddressPool {
    /// `node` is 1 or more: 127.L.0.x belongs to the platform.
    pub(crate) fn new(network: u8, node: u8) -> Self {
        Self { network, node, free: Mutex::new((FIRST..FIRST + PODS_PER_NODE).collect()) }
    }

    /// The wanted address if it is one of ours and free, or else the one unused for longest.
    pub(crate) fn take(&self, wanted: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let mut free = self.free.lock().ok()?;
        let kept = wanted
            .filter(|address| address.octets()[..3] == [10, self.network, self.node])
            .and_then(|address| free.iter().position(|last| *last == address.octets()[3]));
        let last = match kept {
            Some(position) => free.remove(position),
            None => free.pop_front(),
        }?;
        Some(Ipv4Addr::new(10, self.network, self.node, last))
    }

    /// Gives an address back.
    pub(crate) fn give_back(&self, address: Ipv4Addr) {
        if let Ok(mut free) = self.free.lock() {
            free.push_back(address.octets()[3]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept_over_a_restart_and_reused_late() {
        let pool = AddressPool::new(7, 1);
        let first = pool.take(None).unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 7, 1, 2));
        let wanted = Ipv4Addr::new(10, 7, 1, 40);
        assert_eq!(pool.take(Some(wanted)), Some(wanted));
        assert_ne!(pool.take(Some(wanted)), Some(wanted));
        pool.give_back(first);
        let all: Vec<_> = std::iter::from_fn(|| pool.take(None)).collect();
        assert_eq!(all.len(), usize::from(PODS_PER_NODE) - 2);
        assert_eq!(all.last(), Some(&first));
    }

    #[test]
    fn foreign_addresses_are_not_taken_over() {
        let pool = AddressPool::new(7, 1);
        assert_eq!(pool.take(Some(Ipv4Addr::new(10, 8, 1, 40))), Some(Ipv4Addr::new(10, 7, 1, 2)));
    }
}
