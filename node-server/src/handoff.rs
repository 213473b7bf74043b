//! Handing the best vouchers to the operator, over `aro/1`, until it has made them durable.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aro_proto::error::close;
use aro_proto::identity::{Binding, Signed};
use aro_proto::limits::{EXPORTER_LABEL, EXPORTER_LEN, MAX_HANDOFF, MINOR_VERSION};
use aro_proto::message::{
    Goaway, Handoff, HandoffAck, HandoffVerdict, HandoffVoucher, Hello, Message, OperatorHello, Refused,
};
use aro_proto::transport::{SERVER_NAME, client_config};
use aro_proto::wire::DecodeError;
use aro_proto::{Amount, ChannelId};
use quinn::{Connection, VarInt};
use settlement_chain::Address;
use tokio::time::timeout;

use crate::channels::PaidChannel;
use crate::config::OperatorEndpoint;
use crate::error::HandoffError;
use crate::ledger::Handed;
use crate::shared::{Phase, Shared};
use crate::transport::{Frame, FrameError, FrameReader, client_endpoint, send_frame};

/// What the operator has taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandoffReport {
    /// Vouchers that are durable at the operator now.
    pub handed: Vec<HandedVoucher>,
    /// Vouchers that it did not take, and why.
    pub refused: Vec<(ChannelId, aro_proto::Refusal)>,
}

/// A voucher that is durable at the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandedVoucher {
    /// Its channel.
    pub channel: ChannelId,
    /// Its amount.
    pub cumulative: Amount,
    /// Whether the operator was asked to close the channel.
    pub close: bool,
}

/// Hands over at intervals and when asked, until the node stops. The last handoff is the shutdown's.
pub(crate) async fn run(node: Arc<Shared>) {
    if node.config.operator.is_none() {
        return;
    }
    let interval = Duration::from_millis(node.config.handoff_interval_ms);
    let mut wait = interval;
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = node.hand_off.notified() => {}
            () = node.comes_to(Phase::Draining) => return,
        }
        retire_idle(&node);
        wait = match hand_off(&node).await {
            Ok(_) => interval,
            Err(error) => {
                tracing::warn!(%error, "vouchers could not be handed to the operator; trying again");
                // Sooner than the interval at first, then ever more seldom.
                if wait >= interval { FIRST_RETRY.min(interval) } else { (wait * 2).min(interval) }
            }
        };
    }
}

/// Hands over everything that the operator does not have yet.
pub(crate) async fn hand_off(node: &Arc<Shared>) -> Result<HandoffReport, HandoffError> {
    let operator = node.config.operator.as_ref().ok_or(HandoffError::NoOperator)?;
    let mut report = HandoffReport::default();
    let waiting: Vec<_> = node
        .channels
        .all()
        .into_iter()
        .filter_map(|channel| {
            let unhanded = channel.unhanded()?;
            let voucher = unhanded.voucher;
            let offer = HandoffVoucher {
                channel: channel.id(),
                cumulative: voucher.voucher.cumulative,
                expires_at: voucher.voucher.expires_at,
                signature: voucher.signature,
                close: unhanded.close,
            };
            Some((channel, offer))
        })
        .collect();
    if waiting.is_empty() {
        return Ok(report);
    }
    let line = timeout(PATIENCE, Line::open(node, operator)).await.map_err(|_| HandoffError::Timeout)??;
    for part in waiting.chunks(MAX_HANDOFF) {
        let vouchers = part.iter().map(|(_, offer)| *offer).collect();
        let verdicts = timeout(PATIENCE, line.deliver(node, Handoff { vouchers })).await;
        note(node, part, verdicts.map_err(|_| HandoffError::Timeout)??, &mut report)?;
    }
    line.close();
    Ok(report)
}

/// Only what the operator has acknowledged counts as handed.
// r[impl settlement.handoff.durable]
fn note(
    node: &Shared,
    part: &[(Arc<PaidChannel>, HandoffVoucher)],
    verdicts: Vec<HandoffVerdict>,
    report: &mut HandoffReport,
) -> Result<(), HandoffError> {
    let in_order = verdicts.iter().map(|verdict| verdict.channel).eq(part.iter().map(|(_, offer)| offer.channel));
    if !in_order {
        return Err(HandoffError::Misbehaved("its verdicts are not those of the vouchers".into()));
    }
    let mut handed = Vec::new();
    for ((channel, offer), verdict) in part.iter().zip(verdicts) {
        let holds_it = verdict.watermark.is_some_and(|watermark| watermark >= offer.cumulative);
        match verdict.refusal {
            None if holds_it => {
                let now = Handed { cumulative: offer.cumulative, close: offer.close };
                handed.push((Arc::clone(channel), now));
                report.handed.push(HandedVoucher {
                    channel: offer.channel,
                    cumulative: offer.cumulative,
                    close: offer.close,
                });
            }
            None => return Err(HandoffError::Misbehaved("it acknowledged less than it was given".into())),
            Some(refusal) => {
                tracing::warn!(channel = %offer.channel, %refusal, "the operator refuses a voucher");
                report.refused.push((offer.channel, refusal));
                if holds_it {
                    // It has as much or more: offering it again would change nothing.
                    let close = channel.handed().is_some_and(|handed| handed.close);
                    handed.push((Arc::clone(channel), Handed { cumulative: offer.cumulative, close }));
                }
            }
        }
    }
    let rows: Vec<_> = handed.iter().map(|(channel, handed)| (channel.id(), *handed)).collect();
    node.ledger.mark_handed(&rows)?;
    for (channel, handed) in handed {
        channel.mark_handed(handed);
    }
    Ok(())
}

/// Channels that nobody has used for long are given up, so that what they hold gets settled and refunded.
fn retire_idle(node: &Shared) {
    let idle = Duration::from_secs(node.config.close_idle_after_s);
    for channel in node.channels.all() {
        if channel.is_idle_for(idle) && channel.has_unsettled() {
            tracing::info!(channel = %channel.id(), "the channel is idle: it is handed over to be closed");
            channel.retire();
        }
    }
}

/// A connection to the operator, past the hello.
struct Line {
    connection: Connection,
    /// Kept open: dropping it would end the control stream.
    _control: (quinn::SendStream, FrameReader),
}

impl Line {
    async fn open(node: &Shared, operator: &OperatorEndpoint) -> Result<Self, HandoffError> {
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
        let found = Address::from(answer.operator);
        match node.operator_account {
            Some(expected) if expected != found => Err(HandoffError::WrongAccount { expected, found }),
            _ => Ok(Self { connection, _control: (send, frames) }),
        }
    }

    async fn deliver(&self, node: &Shared, handoff: Handoff) -> Result<Vec<HandoffVerdict>, HandoffError> {
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

    fn close(&self) {
        self.connection.close(VarInt::from_u32(close::DONE), b"done");
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
/// Wait after the first failed handoff.
const FIRST_RETRY: Duration = Duration::from_secs(1);
