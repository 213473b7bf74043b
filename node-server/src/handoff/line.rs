//! The wire to one operator: a connection past the hello, and handoffs on it.

use std::net::SocketAddr;
use std::time::Duration;

use aro_proto::error::close;
use aro_proto::identity::{Binding, Signed};
use aro_proto::limits::{EXPORTER_LABEL, EXPORTER_LEN, MINOR_VERSION};
use aro_proto::message::{
    Goaway, Handoff, HandoffAck, HandoffVerdict, HandoffVoucher, Hello, Message, OperatorHello, Refused,
};
use aro_proto::transport::{SERVER_NAME, client_config};
use aro_proto::wire::{DecodeError, Frame};
use quinn::{Connection, VarInt};
use settlement_chain::Address;
use tokio::time::timeout;

use crate::config::OperatorEndpoint;
use crate::error::HandoffError;
use crate::shared::Shared;
use crate::transport::{FrameError, FrameReader, client_endpoint, send_frame};

/// A connection to an operator, past the hello.
pub(super) struct Line {
    connection: Connection,
    /// The operator's account on chain, by its own word.
    pub(super) account: Address,
    /// Kept open: dropping it would end the control stream.
    _control: (quinn::SendStream, FrameReader),
}

impl Line {
    /// Connects and greets.
    pub(super) async fn open(node: &Shared, operator: &OperatorEndpoint) -> Result<Self, HandoffError> {
        timeout(PATIENCE, Self::connect(node, operator)).await.map_err(|_| HandoffError::Timeout)?
    }

    /// Hands vouchers over and hears what became of each, in their order.
    pub(super) async fn deliver(
        &self,
        node: &Shared,
        vouchers: Vec<HandoffVoucher>,
    ) -> Result<Vec<HandoffVerdict>, HandoffError> {
        let exchange = self.exchange(node, Handoff { vouchers });
        timeout(PATIENCE, exchange).await.map_err(|_| HandoffError::Timeout)?
    }

    /// Ends the connection.
    pub(super) fn close(&self) {
        self.connection.close(VarInt::from_u32(close::DONE), b"done");
    }

    async fn connect(node: &Shared, operator: &OperatorEndpoint) -> Result<Self, HandoffError> {
        let unreachable = |cause: String| HandoffError::Unreachable { address: operator.address.clone(), cause };
        let peer = resolve(&operator.address).await.map_err(|error| unreachable(error.to_string()))?;
        let endpoint = client_endpoint(peer).map_err(|error| unreachable(error.to_string()))?;
        let connection = endpoint
            .connect_with(client_config(operator.id), peer, SERVER_NAME)
            .map_err(|error| unreachable(error.to_string()))?
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let (mut send, receive) = connection.open_bi().await.map_err(lost)?;
        let hello = Hello { minor_version: MINOR_VERSION, chain: node.chain_ids };
        send_frame(&mut send, &hello).await.map_err(lost)?;
        let mut frames = FrameReader::new(receive, PATIENCE);
        let frame = next(&mut frames).await?;
        if frame.kind == Goaway::KIND {
            let goaway: Goaway = decode(&frame)?;
            return Err(HandoffError::Refused(goaway.refusal));
        }
        let answer: OperatorHello = decode(&frame)?;
        if answer.chain != node.chain_ids {
            return Err(HandoffError::WrongChain);
        }
        Ok(Self { connection, account: Address::from(answer.operator), _control: (send, frames) })
    }

    async fn exchange(&self, node: &Shared, handoff: Handoff) -> Result<Vec<HandoffVerdict>, HandoffError> {
        let (mut send, receive) = self.connection.open_bi().await.map_err(lost)?;
        let mut exporter = [0; EXPORTER_LEN];
        self.connection
            .export_keying_material(&mut exporter, EXPORTER_LABEL, b"")
            .map_err(|_| HandoffError::Misbehaved("its TLS has no exporter".into()))?;
        let binding = Binding { exporter, stream: u64::from(VarInt::from(send.id())) };
        let signed = Signed::new(&handoff, &node.key, &binding).expect("a bounded handoff fits a frame");
        send.write_all(&signed.to_frame()).await.map_err(lost)?;
        // The answer tells whether it arrived.
        let _ = send.finish();
        let mut frames = FrameReader::new(receive, PATIENCE);
        let frame = next(&mut frames).await?;
        if frame.kind == Refused::KIND {
            let refused: Refused = decode(&frame)?;
            return Err(HandoffError::Refused(refused.refusal));
        }
        let ack: HandoffAck = decode(&frame)?;
        Ok(ack.verdicts)
    }
}

async fn resolve(address: &str) -> std::io::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(address).await?;
    found.next().ok_or_else(|| std::io::Error::other("the name has no address"))
}

async fn next(frames: &mut FrameReader) -> Result<Frame, HandoffError> {
    match frames.next().await {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(HandoffError::Misbehaved("it ended a stream without an answer".into())),
        Err(FrameError::Timeout) => Err(HandoffError::Timeout),
        Err(FrameError::Decode(error)) => Err(HandoffError::Misbehaved(error.to_string())),
        Err(FrameError::Read(error)) => Err(lost(error)),
    }
}

fn decode<M: Message>(frame: &Frame) -> Result<M, HandoffError> {
    frame.decode().map_err(|error: DecodeError| HandoffError::Misbehaved(error.to_string()))
}

fn lost(error: impl std::fmt::Display) -> HandoffError {
    HandoffError::Unreachable { address: "the other end".into(), cause: error.to_string() }
}

/// How long the operator may take for each step.
const PATIENCE: Duration = Duration::from_secs(10);
