//! A node's line to an operator, written against aro-proto alone: hands over what the test wants and tells what came
//! back.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, bail};
use aro_proto::identity::{Binding, Signed};
use aro_proto::limits::{EXPORTER_LABEL, EXPORTER_LEN, MINOR_VERSION};
use aro_proto::message::{ChainIds, Handoff, HandoffAck, HandoffVoucher, Hello, Message, OperatorHello, Refused};
use aro_proto::wire::{FRAME_HEAD, FrameHead, decode_body, encode_frame};
use aro_proto::{NodeId, Refusal, SecretKey};
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use settlement_operator::RunningOperator;

/// A connection past the hello.
pub struct Line {
    key: SecretKey,
    connection: Connection,
    /// Dropping it would end the control stream.
    _control: (SendStream, RecvStream),
    _endpoint: Endpoint,
}

/// What a handoff was answered with.
#[derive(Debug)]
pub enum Reply {
    /// Each voucher has its verdict.
    Ack(HandoffAck),
    /// None was looked at.
    Refused(Refusal),
}

impl Line {
    /// Connects as the node with this key.
    ///
    /// # Errors
    /// The operator cannot be reached or sends the node away.
    pub async fn to(operator: &RunningOperator, key: &SecretKey, chain: ChainIds) -> Result<Self> {
        Self::dial(Ipv4Addr::LOCALHOST, operator.id(), operator.local_addr(), key, chain).await
    }

    /// Connects from one of this machine's addresses to an operator's.
    ///
    /// # Errors
    /// As [`Self::to`].
    pub async fn dial(
        from: Ipv4Addr,
        operator: NodeId,
        address: SocketAddr,
        key: &SecretKey,
        chain: ChainIds,
    ) -> Result<Self> {
        let endpoint = Endpoint::client(SocketAddr::from((from, 0)))?;
        let config = aro_proto::transport::client_config(operator);
        let connection = endpoint.connect_with(config, address, aro_proto::transport::SERVER_NAME)?.await?;
        let (mut send, mut receive) = connection.open_bi().await?;
        send.write_all(&encode_frame(&Hello { minor_version: MINOR_VERSION, chain })?).await?;
        let (kind, body) = frame(&mut receive).await?;
        decode_body::<OperatorHello>(kind, &body).context("the operator does not greet")?;
        Ok(Self { key: key.clone(), connection, _control: (send, receive), _endpoint: endpoint })
    }

    /// Hands vouchers over and waits for the answer.
    ///
    /// # Errors
    /// The connection is gone, or the answer is none.
    pub async fn hand(&self, vouchers: &[HandoffVoucher]) -> Result<Reply> {
        let (mut send, mut receive) = self.connection.open_bi().await?;
        let mut exporter = [0; EXPORTER_LEN];
        if self.connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").is_err() {
            bail!("the TLS session has no exporter");
        }
        let binding = Binding { exporter, stream: u64::from(VarInt::from(send.id())) };
        let signed = Signed::new(&Handoff { vouchers: vouchers.to_vec() }, &self.key, &binding)?;
        send.write_all(&signed.to_frame()).await?;
        // The operator may have closed the connection over what was written.
        let _ = send.finish();
        let (kind, body) = frame(&mut receive).await?;
        Ok(if kind == Refused::KIND {
            Reply::Refused(decode_body::<Refused>(kind, &body)?.refusal)
        } else {
            Reply::Ack(decode_body(kind, &body)?)
        })
    }
}

async fn frame(receive: &mut RecvStream) -> Result<(u8, Vec<u8>)> {
    let mut head = [0; FRAME_HEAD];
    receive.read_exact(&mut head).await?;
    let head = FrameHead::parse(&head)?;
    let mut body = vec![0; head.body_len];
    receive.read_exact(&mut body).await?;
    Ok((head.kind, body))
}
