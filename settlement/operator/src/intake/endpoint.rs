//! The socket, and the connections on it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use aro_proto::error::close;
use aro_proto::places::Places;
use aro_proto::{SecretKey, limits};
use quinn::{Endpoint, EndpointConfig, Incoming, VarInt};
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
    let mut config = aro_proto::transport::server_config(key);
    // A node hands over a frame or two at a time: what serves content needs far more than this.
    Arc::get_mut(&mut config.transport)
        .expect("nobody else has the new configuration yet")
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW));
    Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime)
}

/// What strangers may take up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_ip: usize,
    /// From the handshake to the hello.
    pub(crate) hello_timeout: Duration,
    /// From the handshake to the end.
    pub(crate) max_age: Duration,
}

/// Accepts connections until it is told to stop.
pub(crate) struct Listener {
    pub(crate) endpoint: Endpoint,
    pub(crate) intake: Arc<Intake>,
    pub(crate) bounds: Bounds,
    pub(crate) stop: Stop,
}

impl Listener {
    /// Runs until it is told to stop, then lets open handoffs finish, within bounds. Dropped before, it cuts all
    /// sessions off.
    pub(crate) async fn run(self) {
        let places = Places::new(self.bounds.max_connections, self.bounds.max_connections_per_ip);
        let mut sessions = JoinSet::new();
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                incoming = self.endpoint.accept() => {
                    let Some(incoming) = incoming else { break };
                    self.admit(incoming, &places, &mut sessions);
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

    fn admit(&self, incoming: Incoming, places: &Places, sessions: &mut JoinSet<()>) {
        if places.are_scarce() && incoming.may_retry() && !incoming.remote_address_validated() {
            // Cannot fail: it may be asked to retry.
            let _ = incoming.retry();
            return;
        }
        let ip = incoming.remote_address().ip();
        let place = if self.intake.fairness.is_out(ip) { None } else { places.take(ip) };
        let Some(place) = place else {
            tracing::debug!(peer = %ip, "a connection is refused: no place is free, or too much trouble came from there");
            self.intake.metrics.connection_refused();
            incoming.refuse();
            return;
        };
        let (intake, bounds, stop) = (Arc::clone(&self.intake), self.bounds, self.stop.clone());
        sessions.spawn(async move {
            intake.metrics.connection(true);
            session::run(incoming, Arc::clone(&intake), bounds, stop).await;
            intake.metrics.connection(false);
            drop(place);
        });
    }
}

/// Streams of a connection at once: the control stream and eight handoffs.
const MAX_STREAMS: u32 = 9;
/// Receive window of one stream in bytes: twice the largest frame.
const STREAM_WINDOW: u32 = 128 << 10;
/// Receive window of one connection in bytes.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// What a shutdown waits for sessions, and then for the last packets.
const GRACE: Duration = Duration::from_secs(3);
