//! Many connections from one socket: each greets the node and binds the channel, or is bare.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aro_proto::SecretKey;
use aro_proto::identity::{Binding, Signed};
use aro_proto::limits::{EXPORTER_LABEL, EXPORTER_LEN, MINOR_VERSION};
use aro_proto::message::{Bind, Bound, Hello, Message, NodeHello};
use aro_proto::transport::{SERVER_NAME, TransportSettings, client_config_with};
use aro_proto::wire::{FRAME_HEAD, FrameHead, encode_frame};
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, VarInt};
use tokio::task::JoinSet;

use super::server::{Channel, Place};

/// Connects so many times, and returns when all are greeted and bound.
pub(super) async fn connect(place: &Place, count: usize) -> Result<Vec<Connection>> {
    let settings = TransportSettings::default();
    let endpoint = crate::raw::endpoint(None, settings)?;
    let (place, config) = (Arc::new(place.clone()), client_config_with(place.node, settings));
    let mut connecting = JoinSet::new();
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        if connecting.len() == AT_ONCE
            && let Some(connected) = connecting.join_next().await
        {
            connections.push(connected??);
        }
        connecting.spawn(connect_one(endpoint.clone(), Arc::clone(&place), config.clone()));
    }
    while let Some(connected) = connecting.join_next().await {
        connections.push(connected??);
    }
    Ok(connections)
}

async fn connect_one(endpoint: Endpoint, place: Arc<Place>, config: ClientConfig) -> Result<Connection> {
    let connection = endpoint.connect_with(config, place.listen, SERVER_NAME)?.await.context("a connection fails")?;
    if let Some(channel) = &place.channel {
        greet(&connection, channel).await?;
    }
    Ok(connection)
}

async fn greet(connection: &Connection, channel: &Channel) -> Result<()> {
    let (mut send, mut recv) = connection.open_bi().await?;
    let mut exporter = [0; EXPORTER_LEN];
    ensure!(
        connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").is_ok(),
        "the connection gives no exporter"
    );
    let binding = Binding { exporter, stream: u64::from(VarInt::from(send.id())) };
    let mut flight = encode_frame(&Hello { minor_version: MINOR_VERSION, chain: channel.chain })?;
    let key = SecretKey::from_bytes(&channel.signer);
    flight
        .extend(Signed::new(&Bind { channel: channel.id, id: None, replaces: Vec::new() }, &key, &binding)?.to_frame());
    send.write_all(&flight).await?;
    ensure!(frame(&mut recv).await? == NodeHello::KIND, "no hello");
    ensure!(frame(&mut recv).await? == Bound::KIND, "not bound");
    // The control stream lives as long as the connection, and so do its halves here.
    let held = connection.clone();
    tokio::spawn(async move {
        let _halves = (send, recv);
        held.closed().await;
    });
    Ok(())
}

async fn frame(recv: &mut RecvStream) -> Result<u8> {
    let mut head = [0; FRAME_HEAD];
    recv.read_exact(&mut head).await?;
    let head = FrameHead::parse(&head)?;
    let mut body = vec![0; head.body_len];
    recv.read_exact(&mut body).await?;
    Ok(head.kind)
}

/// Handshakes at once: fewer than an endpoint takes in.
const AT_ONCE: usize = 64;
