//! Sockets and endpoints, and how many connections a node holds.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use aro_proto::SecretKey;
use aro_proto::limits::UDP_BUFFER;
use aro_proto::transport::{TransportSettings, endpoint_config, server_config_with};
use quinn::{Endpoint, default_runtime};
use socket2::{Domain, Protocol, Socket, Type};

/// Serves on a UDP address. Must be called within a tokio runtime.
pub(crate) fn server_endpoint(
    listen: SocketAddr,
    key: &SecretKey,
    settings: TransportSettings,
) -> io::Result<Endpoint> {
    endpoint(listen, Some(server_config_with(key, settings)), settings)
}

/// Dials out, from any port of the family of `peer`. Must be called within a tokio runtime.
pub(crate) fn client_endpoint(peer: SocketAddr) -> io::Result<Endpoint> {
    let any: IpAddr = if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    endpoint(SocketAddr::new(any, 0), None, TransportSettings::default())
}

fn endpoint(
    address: SocketAddr,
    server: Option<quinn::ServerConfig>,
    settings: TransportSettings,
) -> io::Result<Endpoint> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // The system may grant less; a smaller buffer only loses speed.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
    socket.bind(&address.into())?;
    let runtime = default_runtime().ok_or_else(|| io::Error::other("no tokio runtime"))?;
    Endpoint::new(endpoint_config(settings), server, socket.into(), runtime)
}

/// Places for connections: so many in all, so many from one IP address, or one IPv6 network of 64 bits, which is what
/// a single customer gets.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionSlots {
    max: usize,
    max_per_ip: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: ConnectionSlots,
    ip: IpAddr,
}

/// What a peer cannot change at will: its IPv4 address, or the first 64 bits of its IPv6 address.
fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

impl ConnectionSlots {
    pub(crate) fn new(max: usize, max_per_ip: usize) -> Self {
        Self { max, max_per_ip, taken: Arc::default() }
    }

    /// A place for a connection from `ip`, if there is one.
    pub(crate) fn take(&self, ip: IpAddr) -> Option<Slot> {
        let ip = network_of(ip);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= self.max {
            return None;
        }
        let from_ip = taken.entry(ip).or_default();
        if *from_ip >= self.max_per_ip {
            return None;
        }
        *from_ip += 1;
        Some(Slot { slots: self.clone(), ip })
    }

    /// Places taken.
    pub(crate) fn count(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// True if addresses should prove themselves before they get a place.
    pub(crate) fn is_under_pressure(&self) -> bool {
        self.count() >= self.max / 2
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_for_each_address_and_come_back() {
        let slots = ConnectionSlots::new(3, 2);
        let (a, b) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = slots.take(a).unwrap();
        let _second = slots.take(a).unwrap();
        assert!(slots.take(a).is_none());
        // An IPv4 address in IPv6 form is the same address.
        assert!(slots.take("::ffff:127.0.0.1".parse().unwrap()).is_none());
        let _third = slots.take(b).unwrap();
        assert!(slots.take(b).is_none());
        drop(first);
        assert!(slots.take(b).is_some());
        assert_eq!(slots.count(), 2);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let slots = ConnectionSlots::new(10, 1);
        let _first = slots.take("2001:db8:1:2::1".parse().unwrap()).unwrap();
        assert!(slots.take("2001:db8:1:2:ffff::9".parse().unwrap()).is_none());
        assert!(slots.take("2001:db8:1:3::1".parse().unwrap()).is_some());
    }
}
