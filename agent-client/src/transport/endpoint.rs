//! UDP sockets: one for each address family, made when first needed.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use aro_proto::limits::UDP_BUFFER;
use aro_proto::transport::{TransportSettings, dialing_endpoint_config};
use quinn::Endpoint;
use socket2::{Domain, Protocol, Socket, Type};

/// The agent's sockets, shared by all its connections.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    v4: Mutex<Option<Endpoint>>,
    v6: Mutex<Option<Endpoint>>,
}

impl Endpoints {
    /// The endpoint that reaches an address.
    pub(crate) fn towards(&self, remote: SocketAddr, settings: TransportSettings) -> io::Result<Endpoint> {
        let slot = if remote.is_ipv4() { &self.v4 } else { &self.v6 };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = &*slot {
            return Ok(endpoint.clone());
        }
        let endpoint = bind(remote.is_ipv4(), settings)?;
        *slot = Some(endpoint.clone());
        Ok(endpoint)
    }

    /// Resolves when every connection has said goodbye.
    pub(crate) async fn wait_idle(&self) {
        for slot in [&self.v4, &self.v6] {
            let endpoint = slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(endpoint) = endpoint {
                endpoint.wait_idle().await;
            }
        }
    }
}

fn bind(ipv4: bool, settings: TransportSettings) -> io::Result<Endpoint> {
    let (domain, local): (_, SocketAddr) = if ipv4 {
        (Domain::IPV4, (Ipv4Addr::UNSPECIFIED, 0).into())
    } else {
        (Domain::IPV6, (Ipv6Addr::UNSPECIFIED, 0).into())
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    for shortfall in size_buffers(&socket, UDP_BUFFER) {
        tracing::warn!("{shortfall}");
    }
    socket.bind(&local.into())?;
    let runtime = quinn::default_runtime().ok_or_else(|| io::Error::other("no tokio runtime is running"))?;
    Endpoint::new_with_abstract_socket(
        dialing_endpoint_config(settings),
        None,
        runtime.wrap_udp_socket(socket.into())?,
        Arc::clone(&runtime),
    )
}

/// A socket buffer that is smaller than asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shortfall {
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
    use super::*;

    #[test]
    fn a_buffer_that_the_system_cuts_down_names_its_sysctl() {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        assert_eq!(size_buffers(&socket, 8_192), []);
        let short = size_buffers(&socket, 1 << 30);
        let named: Vec<&str> = short.iter().map(|short| short.sysctl).collect();
        assert_eq!(named, ["net.core.rmem_max", "net.core.wmem_max"]);
        assert!(short[1].to_string().contains("sysctl -w net.core.wmem_max=1073741824"), "{}", short[1]);
    }
}
