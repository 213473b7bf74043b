//! What runs beside the driver, a task each: joining a source, and receiving a segment.

use std::sync::Arc;

use aro_proto::merkle::{ByteRanges, GroupSize};
use aro_proto::{Address, Amount, ContentId, Tariff, error::close};
use quinn::VarInt;

use super::track::Track;
use crate::agent::Agent;
use crate::error::{FetchError, Misbehaviour};
use crate::fetch::progress::Reporter;
use crate::fetch::receive::receive;
use crate::fetch::request::{Request, hello};
use crate::fetch::sink::Output;
use crate::transport::Session;

/// A source that can be asked.
pub(super) struct Joined {
    pub(super) session: Arc<Session>,
    pub(super) tariff: Tariff,
    /// The content's size, as the node claims and signs.
    pub(super) size: u64,
}

/// Connects to a source and asks what it has. That is free, and tells the price before anything is asked that costs.
pub(super) async fn join(agent: Agent, address: Address, group: GroupSize) -> Result<Joined, FetchError> {
    // The one place where a source gets its channel: a session binds the one that the agent has to the node.
    let session = agent.session(&address).await?;
    let (content, ranges) = (address.content(), ByteRanges::all());
    let question = Request { content, ranges, group, allowed: Amount::new(u64::MAX), limit: u64::MAX };
    let quote = question.quote(&session, agent.config()).await?;
    let tariff = hello(&session, agent.config()).await?;
    if session.channel().is_none() && !tariff.is_free() {
        return Err(FetchError::NoChannel { node: session.node() });
    }
    let size = quote.size.get();
    if size == 0 && content != ContentId::of(&[]) {
        return Err(FetchError::misbehaved(session.node(), Misbehaviour::Size(0)));
    }
    Ok(Joined { session, tariff, size })
}

/// What is asked of one source.
pub(super) struct Errand {
    pub(super) agent: Agent,
    pub(super) session: Arc<Session>,
    pub(super) request: Request,
    /// The size that the node has claimed before.
    pub(super) size: u64,
    pub(super) output: Output,
    pub(super) track: Arc<Track>,
}

/// What came of it.
pub(super) struct Fetched {
    pub(super) verified_bytes: u64,
    pub(super) wire_bytes: u64,
    pub(super) paid: Amount,
    pub(super) vouchers: u64,
    pub(super) size_proven: bool,
    /// Why it ended before its end.
    pub(super) error: Option<FetchError>,
}

impl Fetched {
    fn nothing() -> Self {
        let (verified_bytes, wire_bytes, paid, vouchers) = (0, 0, Amount::ZERO, 0);
        Self { verified_bytes, wire_bytes, paid, vouchers, size_proven: false, error: None }
    }

    pub(super) fn failed(error: FetchError) -> Self {
        Self { error: Some(error), ..Self::nothing() }
    }
}

impl Errand {
    /// Asks, and receives until the segment's end, wherever that is by then. Everything proven is counted and paid.
    pub(super) async fn run(self) -> Fetched {
        let config = self.agent.config();
        let asked = tokio::select! {
            asked = self.request.ask(&self.session, config) => asked,
            // Not wanted any more: the node is told when the request is dropped.
            () = self.track.ended() => return Fetched::nothing(),
        };
        let mut answer = match asked {
            Ok(answer) => answer,
            Err(error) => return Fetched::failed(error),
        };
        let claimed = answer.decoder.answered().size();
        let feed = self.output.feed(answer.account.tally(), claimed).filter(|_| claimed == self.size);
        let received = match feed {
            Some(feed) => {
                let silent = Reporter::default();
                let received = receive(&mut answer, &self.session, &feed, &silent, config, Some(&self.track)).await;
                // What is not written after that is counted all the same, for it is proven.
                received.and(feed.flush().await)
            }
            None => {
                let _ = answer.recv.stop(VarInt::from_u32(close::CANCELLED));
                Err(FetchError::misbehaved(self.session.node(), Misbehaviour::Size(claimed)))
            }
        };
        // Nobody waits for the acknowledgement here: one at the end stands for all.
        answer.account.settle(&self.session, 0).await;
        Fetched {
            verified_bytes: answer.account.proven(),
            wire_bytes: answer.wire_bytes,
            paid: answer.account.cost(),
            vouchers: answer.account.vouchers(),
            size_proven: answer.decoder.size_is_proven(),
            error: received.err(),
        }
    }
}
