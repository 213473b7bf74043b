//! Sockets and endpoints.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use aro_proto::SecretKey;
use aro_proto::limits::UDP_BUFFER;
use aro_proto::transport::{TransportSettings, endpoint_config, server_config_with, server_transport};
use quinn::{AsyncTimer, AsyncUdpSocket, Endpoint, Runtime, ServerConfig, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

/// Serves on a UDP address with one or several sockets, between which the system divides the peers by their addresses.
/// Must be called within a tokio runtime.
///
/// Each has a driver of its own, so more of them use more cores. A peer whose address changes comes to another one, which
/// does not know its connection; with a single one it may move. `alive` is held until the last socket is closed.
pub(crate) fn server_endpoints(
    listen: SocketAddr,
    configs: &ServerConfigs,
    count: usize,
    alive: mpsc::Sender<Infallible>,
) -> io::Result<Vec<Endpoint>> {
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
    let runtime: Arc<dyn Runtime> = Arc::new(HeldRuntime { alive });
    sockets.into_iter().map(|socket| endpoint(socket, config(), configs.settings, Arc::clone(&runtime))).collect()
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
    endpoint(socket, None, TransportSettings::default(), Arc::new(TokioRuntime))
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

fn endpoint(
    socket: Socket,
    server: Option<ServerConfig>,
    settings: TransportSettings,
    runtime: Arc<dyn Runtime>,
) -> io::Result<Endpoint> {
    Endpoint::new(endpoint_config(settings), server, socket.into(), runtime)
}

/// Tokio, where each task holds `alive` until it ends: quinn's tasks close a socket some time after the last handle to it is
/// gone, and an address is free only then.
#[derive(Debug)]
struct HeldRuntime {
    alive: mpsc::Sender<Infallible>,
}

impl Runtime for HeldRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let alive = self.alive.clone();
        TokioRuntime.spawn(Box::pin(async move {
            future.await;
            drop(alive);
        }));
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }
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

/// Linux doubles what is asked, for its own bookkeeping, and reports it doubled (socket(7)).
const BOOKKEEPING: usize = if cfg!(target_os = "linux") { 2 } else { 1 };

#[cfg(test)]
mod tests {
    use aro_proto::transport::{SERVER_NAME, client_config};

    use super::*;

    fn configs(key: &SecretKey) -> ServerConfigs {
        ServerConfigs::new(key, TransportSettings::default())
    }

    fn endpoints(listen: SocketAddr, key: &SecretKey, count: usize) -> io::Result<Vec<Endpoint>> {
        server_endpoints(listen, &configs(key), count, mpsc::channel(1).0)
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
        let endpoints = endpoints(listen, &key, 4).unwrap();
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
            let held = endpoints(any, &key, holders).unwrap();
            let address = held[0].local_addr().unwrap();
            for count in [1, 2] {
                let error = endpoints(address, &key, count).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{holders} {count}");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn once_nothing_is_held_any_more_the_address_is_free() {
        let key = SecretKey::from_bytes(&[7; 32]);
        let mut address: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        for round in 0..20 {
            let (alive, mut gone) = mpsc::channel(1);
            let endpoints = server_endpoints(address, &configs(&key), 2, alive).unwrap();
            address = endpoints[0].local_addr().unwrap();
            let client = client_endpoint(address).unwrap();
            let connecting = client.connect_with(client_config(key.node_id()), address, SERVER_NAME).unwrap();
            // Some with a connection that is still there.
            let accepted = async {
                tokio::select! {
                    incoming = endpoints[0].accept() => incoming.unwrap().await.unwrap(),
                    incoming = endpoints[1].accept() => incoming.unwrap().await.unwrap(),
                }
            };
            let (connected, accepted) = tokio::join!(connecting, accepted);
            drop((connected.unwrap(), accepted));
            for endpoint in endpoints.iter().filter(|_| round % 2 == 0) {
                endpoint.wait_idle().await;
            }
            drop(endpoints);
            assert!(tokio::time::timeout(std::time::Duration::from_secs(20), gone.recv()).await.unwrap().is_none());
        }
    }
}
