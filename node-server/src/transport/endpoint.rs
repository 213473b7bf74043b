//! Sockets and endpoints, and how many connections a node holds.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use aro_proto::SecretKey;
use aro_proto::limits::UDP_BUFFER;
use aro_proto::transport::{TransportSettings, endpoint_config, server_config_with, server_transport};
use quinn::{Endpoint, ServerConfig, default_runtime};
use socket2::{Domain, Protocol, Socket, Type};

/// Serves on a UDP address with one or several sockets, between which the system divides the peers by their addresses.
/// Must be called within a tokio runtime.
///
/// Each has a driver of its own, so more of them use more cores. A peer whose address changes comes to another one, which
/// does not know its connection; with a single one it may move.
pub(crate) fn server_endpoints(listen: SocketAddr, configs: &ServerConfigs, count: usize) -> io::Result<Vec<Endpoint>> {
    let is_shared = count > 1;
    let address = if is_shared { vacant(listen)? } else { listen };
    // All of them before the first answers: a handshake that another socket then gets would be lost.
    let sockets = (0..count.max(1)).map(|_| socket(address, is_shared)).collect::<io::Result<Vec<_>>>()?;
    let mut shortfalls = Vec::new();
    for socket in &sockets {
        shortfalls = size_buffers(socket, UDP_BUFFER);
    }
    for shortfall in shortfalls {
        tracing::warn!("{shortfall}");
    }
    let config = || Some(configs.internet.as_ref().clone());
    sockets.into_iter().map(|socket| endpoint(socket, config(), configs.settings)).collect()
}

/// How connections are accepted, by where they come from. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct ServerConfigs {
    settings: TransportSettings,
    near: Arc<ServerConfig>,
    internet: Arc<ServerConfig>,
}

impl ServerConfigs {
    pub(crate) fn new(key: &SecretKey, settings: TransportSettings) -> Self {
        let near = server_config_with(key, settings);
        // The same keys: what one says to a peer, such as an address token, the other takes.
        let mut internet = near.clone();
        internet.transport_config(server_transport(settings.towards_internet()));
        Self { settings, near: Arc::new(near), internet: Arc::new(internet) }
    }

    /// For a connection from this address.
    pub(crate) fn towards(&self, peer: IpAddr) -> Arc<ServerConfig> {
        let is_near = self.settings.towards(peer) == self.settings;
        Arc::clone(if is_near { &self.near } else { &self.internet })
    }
}

/// Dials out, from any port of the family of `peer`. Must be called within a tokio runtime.
pub(crate) fn client_endpoint(peer: SocketAddr) -> io::Result<Endpoint> {
    let any: IpAddr = if peer.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = socket(SocketAddr::new(any, 0), false)?;
    // Vouchers are few: whatever the system gives will do.
    let _ = size_buffers(&socket, UDP_BUFFER);
    endpoint(socket, None, TransportSettings::default())
}

/// The address, with its port if the system is to choose one, once it is sure that nobody has it: another who shares
/// addresses as well would be given a part of the peers.
fn vacant(address: SocketAddr) -> io::Result<SocketAddr> {
    let alone = socket(address, false)?;
    alone.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

fn socket(address: SocketAddr, is_shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if is_shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn endpoint(socket: Socket, server: Option<ServerConfig>, settings: TransportSettings) -> io::Result<Endpoint> {
    let runtime = default_runtime().ok_or_else(|| io::Error::other("no tokio runtime"))?;
    Endpoint::new(endpoint_config(settings), server, socket.into(), runtime)
}

/// A socket buffer that is smaller than asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shortfall {
    /// The system's setting that holds it back.
    sysctl: &'static str,
    asked: usize,
    granted: usize,
}

impl std::fmt::Display for Shortfall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sysctl, asked, granted } = self;
        write!(
            f,
            "the system gives UDP sockets buffers of {granted} bytes where {asked} were asked, so fast transfers lose \
             packets: raise it with `sysctl -w {sysctl}={asked}`"
        )
    }
}

/// Asks for both of a socket's buffers, and says which came out smaller: the transfer is then slower, not wrong.
fn size_buffers(socket: &Socket, asked: usize) -> Vec<Shortfall> {
    type Setter = fn(&Socket, usize) -> io::Result<()>;
    type Getter = fn(&Socket) -> io::Result<usize>;
    let buffers: [(&str, Setter, Getter); 2] = [
        ("net.core.rmem_max", Socket::set_recv_buffer_size, Socket::recv_buffer_size),
        ("net.core.wmem_max", Socket::set_send_buffer_size, Socket::send_buffer_size),
    ];
    let short = buffers.into_iter().filter_map(|(sysctl, set, get)| {
        // Some systems refuse what others cut down.
        let _ = set(socket, asked);
        let granted = get(socket).unwrap_or_default() / BOOKKEEPING;
        (granted < asked).then_some(Shortfall { sysctl, asked, granted })
    });
    short.collect()
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

/// Linux doubles what is asked, for its own bookkeeping, and reports it doubled (socket(7)).
const BOOKKEEPING: usize = if cfg!(target_os = "linux") { 2 } else { 1 };

#[cfg(test)]
mod tests {
    use aro_proto::transport::{SERVER_NAME, client_config};

    use super::*;

    fn configs(key: &SecretKey) -> ServerConfigs {
        ServerConfigs::new(key, TransportSettings::default())
    }

    #[test]
    fn a_buffer_that_the_system_cuts_down_names_its_sysctl() {
        let socket = socket((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap();
        assert_eq!(size_buffers(&socket, 8_192), []);
        let short = size_buffers(&socket, 1 << 30);
        assert_eq!(
            short.iter().map(|short| short.sysctl).collect::<Vec<_>>(),
            ["net.core.rmem_max", "net.core.wmem_max"]
        );
        assert!(short[0].granted >= 8_192);
        let text = short[0].to_string();
        assert!(text.contains("sysctl -w net.core.rmem_max=1073741824"), "{text}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn several_endpoints_share_a_port_and_its_peers() {
        let key = SecretKey::from_bytes(&[7; 32]);
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let endpoints = server_endpoints(listen, &configs(&key), 4).unwrap();
        let address = endpoints[0].local_addr().unwrap();
        assert!(endpoints.iter().all(|endpoint| endpoint.local_addr().unwrap() == address));
        for endpoint in endpoints.clone() {
            tokio::spawn(async move {
                while let Some(incoming) = endpoint.accept().await {
                    tokio::spawn(async move { incoming.await.unwrap().closed().await });
                }
            });
        }
        let mut connections = Vec::new();
        for _ in 0..32 {
            let client = client_endpoint(address).unwrap();
            let connecting = client.connect_with(client_config(key.node_id()), address, SERVER_NAME).unwrap();
            connections.push((connecting.await.unwrap(), client));
        }
        let open: Vec<usize> = endpoints.iter().map(Endpoint::open_connections).collect();
        assert_eq!(open.iter().sum::<usize>(), 32, "{open:?}");
        // Linux spreads them by a hash of the addresses: all 32 on one of four is a chance of 4^-31.
        #[cfg(target_os = "linux")]
        assert!(open.iter().filter(|open| **open > 0).count() > 1, "{open:?}");
    }

    #[tokio::test]
    async fn an_address_in_use_is_not_shared_by_chance() {
        let key = SecretKey::from_bytes(&[7; 32]);
        for holders in [1, 2] {
            let any = (Ipv4Addr::LOCALHOST, 0).into();
            let held = server_endpoints(any, &configs(&key), holders).unwrap();
            let address = held[0].local_addr().unwrap();
            for count in [1, 2] {
                let error = server_endpoints(address, &configs(&key), count).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{holders} {count}");
            }
        }
    }

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
