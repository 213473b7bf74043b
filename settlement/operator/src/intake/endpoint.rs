//! The socket, and the connections on it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use aro_proto::error::close;
use aro_proto::{SecretKey, limits};
use quinn::{Endpoint, EndpointConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::JoinSet;

use super::{Intake, session};
use crate::stop::Stop;

/// A bound endpoint that answers as the operator.
pub(crate) fn bind(listen: SocketAddr, key: &SecretKey) -> io::Result<Endpoint> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    // The system may grant less; that costs throughput, not correctness.
    let _ = socket.set_recv_buffer_size(limits::UDP_BUFFER);
    let _ = socket.set_send_buffer_size(limits::UDP_BUFFER);
    socket.bind(&listen.into())?;
    let socket = UdpSocket::from(socket);
    let runtime = quinn::default_runtime().ok_or_else(|| io::Error::other("no async runtime"))?;
    let config = aro_proto::transport::server_config(key);
    Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime)
}

/// Accepts connections until it is told to stop.
pub(crate) struct Listener {
    pub(crate) endpoint: Endpoint,
    pub(crate) intake: Arc<Intake>,
    pub(crate) max_connections: usize,
    pub(crate) stop: Stop,
}

impl Listener {
    /// Runs until it is told to stop, then lets open handoffs finish, within bounds. Dropped before, it cuts all
    /// sessions off.
    pub(crate) async fn run(self) {
        let mut sessions = JoinSet::new();
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                incoming = self.endpoint.accept() => {
                    let Some(incoming) = incoming else { break };
                    if sessions.len() >= self.max_connections {
                        incoming.refuse();
                        continue;
                    }
                    sessions.spawn(session::run(incoming, Arc::clone(&self.intake), self.stop.clone()));
                }
                Some(_) = sessions.join_next() => {}
                () = stop.told() => break,
            }
        }
        self.endpoint.set_server_config(None);
        let finished = async { while sessions.join_next().await.is_some() {} };
        // Sessions say goodbye by themselves; those that do not are cut off.
        let _ = tokio::time::timeout(GRACE, finished).await;
        sessions.shutdown().await;
        self.endpoint.close(VarInt::from_u32(close::SHUTDOWN), b"shutting down");
        let _ = tokio::time::timeout(GRACE, self.endpoint.wait_idle()).await;
    }
}

/// What a shutdown waits for sessions, and then for the last packets.
const GRACE: Duration = Duration::from_secs(3);
