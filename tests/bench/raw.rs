//! The baseline: QUIC and nothing else. A stream for each request, which names an offset and a length; the answer is so
//! many bytes of a memory block. The same TLS, windows and sockets as the product's, but no signature, proof or payment.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aro_proto::NodeId;
use aro_proto::limits::UDP_BUFFER;
use aro_proto::transport::{SERVER_NAME, TransportSettings, client_config_with, endpoint_config, server_config_with};
use bytes::Bytes;
use quinn::{Connection, Endpoint, RecvStream, SendStream, ServerConfig, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::scene::random_key;

/// A socket as ours are.
pub(crate) fn endpoint(server: Option<ServerConfig>, settings: TransportSettings) -> Result<Endpoint> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    // The system may grant less, to us as well.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    Ok(Endpoint::new(endpoint_config(settings), server, socket.into(), Arc::new(TokioRuntime))?)
}

/// A server and a connection to it.
pub(crate) struct Raw {
    server: Endpoint,
    client: Endpoint,
    node: NodeId,
    settings: TransportSettings,
}

impl Raw {
    /// Serves `block` to whoever connects.
    pub(crate) fn serve(block: Bytes, settings: TransportSettings) -> Result<Self> {
        let key = random_key()?;
        let server = endpoint(Some(server_config_with(&key, settings)), settings)?;
        let client = endpoint(None, settings)?;
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                let block = block.clone();
                tokio::spawn(async move {
                    let Ok(connection) = incoming.await else { return };
                    while let Ok((send, recv)) = connection.accept_bi().await {
                        tokio::spawn(answer(block.clone(), send, recv));
                    }
                });
            }
        });
        Ok(Self { server, client, node: key.node_id(), settings })
    }

    /// Where it serves.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        Ok(self.server.local_addr()?)
    }

    /// Its key.
    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    /// A new connection, by this address or through a relay to it.
    pub(crate) async fn connect(&self, address: SocketAddr) -> Result<Connection> {
        let connecting =
            self.client.connect_with(client_config_with(self.node, self.settings), address, SERVER_NAME)?;
        connecting.await.context("the raw connection fails")
    }
}

/// Fetches so many bytes from an offset on.
pub(crate) async fn fetch(connection: &Connection, offset: u64, len: usize) -> Result<Vec<u8>> {
    let (mut send, mut recv) = connection.open_bi().await?;
    let mut request = [0; 16];
    request[..8].copy_from_slice(&offset.to_le_bytes());
    request[8..].copy_from_slice(&(len as u64).to_le_bytes());
    send.write_all(&request).await?;
    send.finish()?;
    let bytes = recv.read_to_end(len).await?;
    ensure!(bytes.len() == len, "{} raw bytes came where {len} were due", bytes.len());
    Ok(bytes)
}

/// Fetches many blocks of one length, so many at once; they come back in order.
pub(crate) async fn fetch_many(
    connection: &Connection,
    offsets: &[u64],
    len: usize,
    in_flight: usize,
) -> Result<Vec<Vec<u8>>> {
    let places = Arc::new(Semaphore::new(in_flight));
    let mut tasks = JoinSet::new();
    for (index, offset) in offsets.iter().copied().enumerate() {
        let place = Arc::clone(&places).acquire_owned().await?;
        let connection = connection.clone();
        tasks.spawn(async move {
            let bytes = fetch(&connection, offset, len).await;
            drop(place);
            bytes.map(|bytes| (index, bytes))
        });
    }
    let mut all = vec![Vec::new(); offsets.len()];
    while let Some(done) = tasks.join_next().await {
        let (index, bytes) = done??;
        all[index] = bytes;
    }
    Ok(all)
}

async fn answer(block: Bytes, mut send: SendStream, mut recv: RecvStream) -> Result<()> {
    let mut request = [0; 16];
    recv.read_exact(&mut request).await?;
    let number = |half: &[u8]| half.try_into().map(u64::from_le_bytes).unwrap_or_default();
    let (offset, len) = (number(&request[..8]) as usize, number(&request[8..]) as usize);
    send.write_chunk(block.slice(offset..offset + len)).await?;
    send.finish()?;
    Ok(())
}
