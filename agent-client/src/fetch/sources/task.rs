//! What runs beside the driver, a task each: joining a source, and receiving a segment.

use std::sync::Arc;

use aro_proto::merkle::{ByteRanges, GroupSize};
use aro_proto::{Address, Amount, ContentId, Tariff, error::close};
use quinn::VarInt;

use super::track::Track;
use crate::agent::Agent;
use crate::budget::Purpose;
use crate::error::{FetchError, Misbehaviour};
use crate::fetch::progress::Reporter;
use crate::fetch::receive::receive;
use crate::fetch::request::{Request, hello};
use crate::fetch::sink::Output;
use crate::transport::Session;
use crate::wallet::Provider;

/// A source that can be asked.
pub(super) struct Joined {
    pub(super) session: Arc<Session>,
    pub(super) tariff: Tariff,
    /// The content's size, as the node claims and signs.
    pub(super) size: u64,
}

/// Connects to a source and asks what it has. That is free, and tells the price before anything is asked that costs.
/// Only a node that has the content and wants money for it gets a channel, if the agent's policy opens any: at once, or
/// when something is asked of it.
pub(super) async fn join(agent: Agent, address: Address, group: GroupSize, opens: bool) -> Result<Joined, FetchError> {
    let mut provider = Provider::new(&agent, address.node());
    let (content, ranges) = (address.content(), ByteRanges::all());
    let purpose = Purpose::vouchers(address.node());
    let (allowed, limit) = (Amount::new(u64::MAX), u64::MAX);
    let question = Request { content, ranges, group, allowed, price: None, limit, purpose };
    loop {
        let session = agent.session(&address).await?;
        let quote = question.quote(&session, agent.config()).await?;
        let tariff = hello(&session, agent.config()).await?;
        let size = quote.size.get();
        if size == 0 && content != ContentId::of(&[]) {
            return Err(FetchError::misbehaved(session.node(), Misbehaviour::Size(0)));
        }
        let comes_later = !opens && provider.may_provide();
        if session.channel().is_some() || tariff.is_free() || comes_later {
            return Ok(Joined { session, tariff, size });
        }
        // What it will bring nobody knows yet; the deposit grows with it.
        let _ = provider.lack(FetchError::NoChannel { node: session.node() }).await?;
        provider.open(Amount::ZERO).await?;
    }
}

/// What is asked of one source.
pub(super) struct Errand {
    pub(super) agent: Agent,
    pub(super) address: Address,
    pub(super) request: Request,
    /// The size that the node has claimed before.
    pub(super) size: u64,
    /// There is no channel yet that pays for it.
    pub(super) opens: bool,
    pub(super) output: Output,
    pub(super) track: Arc<Track>,
}

/// What came of it.
pub(super) struct Fetched {
    pub(super) verified_bytes: u64,
    pub(super) wire_bytes: u64,
    pub(super) paid: Amount,
    /// The connection that it came on.
    pub(super) session: Option<Arc<Session>>,
    pub(super) vouchers: u64,
    pub(super) size_proven: bool,
    /// Why it ended before its end.
    pub(super) error: Option<FetchError>,
}

impl Fetched {
    fn nothing() -> Self {
        let (verified_bytes, wire_bytes, paid, vouchers) = (0, 0, Amount::ZERO, 0);
        Self { verified_bytes, wire_bytes, paid, session: None, vouchers, size_proven: false, error: None }
    }

    pub(super) fn failed(error: FetchError) -> Self {
        Self { error: Some(error), ..Self::nothing() }
    }
}

impl Errand {
    /// Asks, and receives until the segment's end, wherever that is by then. Everything proven is counted and paid.
    pub(super) async fn run(self) -> Fetched {
        let config = self.agent.config();
        // The chain's time to open a channel is not the node's.
        self.track.hold(self.opens);
        let asked = tokio::select! {
            asked = self.request.ask_paying(&self.agent, &self.address) => asked,
            // Not wanted any more: the node is told when the request is dropped.
            () = self.track.ended() => return Fetched::nothing(),
        };
        self.track.hold(false);
        let (session, mut answer) = match asked {
            Ok(answered) => answered,
            Err(error) => return Fetched::failed(error),
        };
        let claimed = answer.decoder.answered().size();
        let feed = self.output.feed(answer.account.tally(), claimed).filter(|_| claimed == self.size);
        let received = match feed {
            Some(feed) => {
                let silent = Reporter::default();
                let received = receive(&mut answer, &session, &feed, &silent, config, Some(&self.track)).await;
                // What is not written after that is counted all the same, for it is proven.
                received.and(feed.flush().await)
            }
            None => {
                let _ = answer.recv.stop(VarInt::from_u32(close::CANCELLED));
                Err(FetchError::misbehaved(session.node(), Misbehaviour::Size(claimed)))
            }
        };
        // Nobody waits for the acknowledgement here: one at the end stands for all.
        answer.account.settle(&session, 0).await;
        Fetched {
            verified_bytes: answer.account.proven(),
            wire_bytes: answer.wire_bytes,
            paid: answer.account.cost(),
            session: Some(session),
            vouchers: answer.account.vouchers(),
            size_proven: answer.decoder.size_is_proven(),
            error: received.err(),
        }
    }
}
