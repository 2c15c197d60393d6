//! The mapping between the address a pod shows in its status and the loopback address its process listens on.
//! EndpointSlices refuse loopback addresses, and an unprivileged process can bind no others; this bridges the two.

use std::net::Ipv4Addr;

/// Where the process behind a pod address really listens: `10.x.y.z` becomes `127.x.y.z`.
///
/// Any other address is returned unchanged, because it is reachable as it stands (a host network pod, a real cluster).
///
/// ```
/// use std::net::Ipv4Addr;
/// assert_eq!(api::address::listen_address(Ipv4Addr::new(10, 3, 1, 7)), Ipv4Addr::new(127, 3, 1, 7));
/// ```
pub fn listen_address(pod_ip: Ipv4Addr) -> Ipv4Addr {
    match pod_ip.octets() {
        [10, x, y, z] => Ipv4Addr::new(127, x, y, z),
        _ => pod_ip,
    }
}

/// The address to publish for a process that listens on `listen`: `127.x.y.z` becomes `10.x.y.z`.
///
/// `127.0.0.z` stays as it is: that is the host's own loopback, never a pod's. So does any other address.
pub fn pod_address(listen: Ipv4Addr) -> Ipv4Addr {
    match listen.octets() {
        [127, 0, 0, _] => listen,
        [127, x, y, z] => Ipv4Addr::new(10, x, y, z),
        _ => listen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_directions_undo_each_other_for_every_lane() {
        for lane in 1..=254 {
            let pod = Ipv4Addr::new(10, lane, 0, 9);
            assert_eq!(pod_address(listen_address(pod)), pod);
        }
    }

    #[test]
    fn addresses_outside_the_made_up_range_are_left_alone() {
        for address in ["127.0.0.1", "192.168.1.4", "172.30.0.1"] {
            let address: Ipv4Addr = address.parse().expect("literal");
            assert_eq!(listen_address(address), address);
            assert_eq!(pod_address(address), address);
        }
    }
}
