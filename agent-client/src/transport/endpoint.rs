//! UDP sockets: one for each address family, made when first needed.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use aro_proto::limits::UDP_BUFFER;
use aro_proto::transport::{TransportSettings, endpoint_config};
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
    // The system may give less; the transfer is then slower, not wrong.
    for set in [Socket::set_recv_buffer_size, Socket::set_send_buffer_size] {
        if let Err(error) = set(&socket, UDP_BUFFER) {
            tracing::debug!(%error, "the system refuses larger UDP buffers");
        }
    }
    socket.bind(&local.into())?;
    let runtime = quinn::default_runtime().ok_or_else(|| io::Error::other("no tokio runtime is running"))?;
    Endpoint::new_with_abstract_socket(
        endpoint_config(settings),
        None,
        runtime.wrap_udp_socket(socket.into())?,
        Arc::clone(&runtime),
    )
}
