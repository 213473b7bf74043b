//! Asking: the signed request goes out at once; what its answer claims is checked against our own sums.

use std::sync::Arc;
use std::time::Duration;

use aro_proto::merkle::{AnsweredRanges, ByteRanges, Decoder, GroupSize};
use aro_proto::message::{Describe, Description, Fetch, FetchHead, FetchItem, Message, Quote, Refused};
use aro_proto::wire::DecodeError;
use aro_proto::{Address, Amount, ByteCount, ContentId, Refusal, RefusalCode, Tariff, error::close};
use quinn::{ReadError, RecvStream, VarInt};

use super::account::StreamAccount;
use super::offer::Offer;
use crate::agent::Agent;
use crate::budget::Purpose;
use crate::config::AgentConfig;
use crate::error::{FetchError, Misbehaviour, RequestFacts};
use crate::receipts::Subject;
use crate::transport::{BindStatus, Exchange, Frame, FrameError, Session, read_any_frame};
use crate::wallet::{Lack, Lane, Provider};

/// What is wanted, and on which terms.
pub(crate) struct Request {
    pub(crate) content: ContentId,
    pub(crate) ranges: ByteRanges,
    pub(crate) group: GroupSize,
    /// The most that it may cost, in base units.
    pub(crate) allowed: Amount,
    /// What it costs, if somebody knows.
    pub(crate) price: Option<Amount>,
    /// Most bytes that the caller takes.
    pub(crate) limit: u64,
    /// What its cost counts as.
    pub(crate) purpose: Purpose,
}

/// An answer whose head was accepted: the encoding follows on `recv`.
pub(crate) struct Answer {
    pub(crate) recv: RecvStream,
    pub(crate) decoder: Decoder,
    pub(crate) account: StreamAccount,
    pub(crate) tariff: Tariff,
    pub(crate) wire_bytes: u64,
}

impl Request {
    /// Asks the node of an address until it answers: what it takes for the answer to be paid is provided, within the
    /// agent's channel policy and its budget.
    pub(crate) async fn ask_paying(
        &self,
        agent: &Agent,
        address: &Address,
    ) -> Result<(Arc<Session>, Answer), FetchError> {
        let mut provider = Provider::new(agent, address.node());
        let mut offer = Offer::new(agent, &self.purpose, self.allowed, self.price).await?;
        loop {
            let session = agent.session(address).await?;
            // Whatever better reason than the want of a channel the node has, its quote brings at once.
            let unbound_wait = if provider.may_provide() { Duration::ZERO } else { UNBOUND_WAIT };
            let error = match self.ask(&session, agent.config(), unbound_wait, &mut offer).await {
                Ok(answer) => return Ok((session, answer)),
                Err(error) => error,
            };
            if let FetchError::PriceTooHigh { price, .. } = error
                && offer.may_rise_to(price)
            {
                offer.rise_to(price).await?;
                continue;
            }
            match provider.lack(error).await? {
                Lack::Channel => {
                    // Free to ask for, and it says if there is no such content before anything is locked.
                    let price = self.quote(&session, agent.config()).await?.price;
                    offer.rise_to(price).await?;
                    provider.open(price).await?;
                }
                // By our own books the channel holds the price: more would be locked for a node that only lags.
                Lack::Deposit { .. }
                    if self.is_covered(&session, agent.config()).await && provider.gives_time().await => {}
                Lack::Deposit { channel, missing } => provider.top_up(&session, channel, missing).await?,
                Lack::Nothing => {}
            }
        }
    }

    /// Whether the bound channel holds the price that the node quotes, by what this agent has locked and signed.
    async fn is_covered(&self, session: &Session, config: &AgentConfig) -> bool {
        let left = session.deposit_left();
        left.is_some() && self.quote(session, config).await.is_ok_and(|quote| left >= Some(quote.price))
    }

    /// Sends the request with what is offered for it, and waits for a head that holds. A node that wants money where no
    /// channel is bound has `unbound_wait` to say something better than that.
    async fn ask(
        &self,
        session: &Session,
        config: &AgentConfig,
        unbound_wait: Duration,
        offer: &mut Offer,
    ) -> Result<Answer, FetchError> {
        let item = FetchItem { content: self.content, ranges: self.ranges.clone() };
        let fetch = Fetch { items: vec![item], group_log2: self.group.log2(), max_price: offer.most() };
        let Exchange { stream, mut recv } = session.request(&fetch, config.answer_timeout_ms).await?;
        let subject = Subject::fetch(self.content, self.ranges.clone());
        let mut account = StreamAccount::open(session.control().clone(), stream, self.purpose.clone(), subject);
        match self.accept(session, config, &mut recv, &mut account, unbound_wait, offer).await {
            Ok((decoder, tariff, wire_bytes)) => Ok(Answer { recv, decoder, account, tariff, wire_bytes }),
            Err(error) => {
                // Refused and broken streams are closed already; the rest is told to stop.
                let _ = recv.stop(VarInt::from_u32(close::CANCELLED));
                Err(error)
            }
        }
    }

    /// Asks for a quote, and takes it only if the node signed it for this very request.
    // r[impl pricing.quote.checked]
    pub(crate) async fn quote(&self, session: &Session, config: &AgentConfig) -> Result<Quote, FetchError> {
        let describe = Describe { content: self.content, ranges: self.ranges.clone(), group_log2: self.group.log2() };
        let Exchange { mut recv, .. } = session.request(&describe, config.answer_timeout_ms).await?;
        let frame = self.first_frame(session, config, &mut recv).await?;
        hello(session, config).await?;
        let description: Description = decode(session, &frame)?;
        let misbehaved = || FetchError::misbehaved(session.node(), Misbehaviour::Quote);
        let quote = description.quote.verify(&session.node()).map_err(|_| misbehaved())?;
        let (answered, price) = self.sums(session, quote.size, &quote.tariff)?;
        let matches = quote.content == self.content
            && quote.content_bytes.get() == answered.content_bytes()
            && Some(quote.price) == price;
        if matches { Ok(quote) } else { Err(misbehaved()) }
    }

    async fn accept(
        &self,
        session: &Session,
        config: &AgentConfig,
        recv: &mut RecvStream,
        account: &mut StreamAccount,
        unbound_wait: Duration,
        offer: &mut Offer,
    ) -> Result<(Decoder, Tariff, u64), FetchError> {
        let first = tokio::select! {
            frame = self.first_frame(session, config, recv) => frame,
            error = self.unpayable(session, config, unbound_wait) => Err(error),
        };
        let frame = match first {
            Ok(frame) => frame,
            Err(error) => {
                if !matches!(error, FetchError::Timeout { .. }) {
                    account.refused();
                }
                return Err(error);
            }
        };
        // No money before the node's chain is compared, whatever came first.
        // r[impl identity.chain.before_money]
        let tariff = hello(session, config).await?;
        let head: FetchHead = decode(session, &frame)?;
        let (answered, price) = self.check_head(session, &head, &tariff, offer.most())?;
        let delivered = delivered_bytes(&self.ranges, head.size.get());
        if delivered > self.limit {
            return Err(FetchError::TooLarge { size: delivered, limit: self.limit });
        }
        let lane = if price.is_zero() { None } else { Some(self.lane(session, config).await?) };
        let bytes = ByteCount::new(answered.content_bytes());
        account.accept(bytes, price, lane, offer.reserved())?;
        let size = head.size.get();
        let decoder = Decoder::new(self.content, answered)
            .map_err(|_| FetchError::misbehaved(session.node(), Misbehaviour::Size(size)))?;
        Ok((decoder, tariff, frame.wire_len()))
    }

    /// Resolves when a node that wants money has had its time to say something better than that no channel is bound,
    /// which it only knows after waiting for one.
    async fn unpayable(&self, session: &Session, config: &AgentConfig, wait: Duration) -> FetchError {
        if session.channel().is_some() {
            return std::future::pending().await;
        }
        match hello(session, config).await {
            Ok(tariff) if tariff.is_free() => std::future::pending().await,
            Ok(_) => {
                tokio::time::sleep(wait).await;
                FetchError::NoChannel { node: session.node() }
            }
            Err(error) => error,
        }
    }

    /// The first frame of the answer, if it is not a refusal.
    async fn first_frame(
        &self,
        session: &Session,
        config: &AgentConfig,
        recv: &mut RecvStream,
    ) -> Result<Frame, FetchError> {
        let waited_ms = config.answer_timeout_ms;
        let limit = Duration::from_millis(waited_ms);
        let frame = match tokio::time::timeout(limit, read_any_frame(recv)).await {
            Err(_) => return Err(FetchError::Timeout { doing: "waiting for an answer", waited_ms }),
            Ok(Err(error)) => return Err(frame_failure(session, error)),
            Ok(Ok(frame)) => frame,
        };
        if frame.kind != Refused::KIND {
            return Ok(frame);
        }
        let refused: Refused = decode(session, &frame)?;
        // The binding's own answer says more than the request's, which only knows that nothing is bound.
        let why = match &session.control().status().bind {
            BindStatus::Refused(refusal) if refused.refusal.code() == RefusalCode::NoChannel => refusal.clone(),
            _ => refused.refusal,
        };
        Err(FetchError::from_refusal(why, &self.facts(session)))
    }

    /// The channel that pays, once it is bound.
    pub(super) async fn lane(&self, session: &Session, config: &AgentConfig) -> Result<Arc<Lane>, FetchError> {
        let ready = session.wait_for("binding the channel", config.answer_timeout_ms, |status| {
            !matches!(status.bind, BindStatus::Pending)
        });
        match &ready.await?.bind {
            BindStatus::Bound(lane) => Ok(Arc::clone(lane)),
            BindStatus::Refused(refusal) => Err(FetchError::from_refusal(refusal.clone(), &self.facts(session))),
            BindStatus::Unbound | BindStatus::Pending => Err(FetchError::NoChannel { node: session.node() }),
        }
    }

    /// Holds the head against our own sums, and against what the request allowed.
    // r[impl request.head.checked]
    pub(super) fn check_head(
        &self,
        session: &Session,
        head: &FetchHead,
        tariff: &Tariff,
        allowed: Amount,
    ) -> Result<(AnsweredRanges, Amount), FetchError> {
        let misbehaved = |what| FetchError::misbehaved(session.node(), what);
        let (answered, price) = self.sums(session, head.size, tariff)?;
        let computed = ByteCount::new(answered.content_bytes());
        if head.content_bytes != computed {
            return Err(misbehaved(Misbehaviour::ContentBytes { claimed: head.content_bytes, computed }));
        }
        let computed = price.unwrap_or(Amount::new(u64::MAX));
        if head.price != computed {
            return Err(misbehaved(Misbehaviour::Price { claimed: head.price, computed }));
        }
        if computed > allowed {
            return Err(misbehaved(Misbehaviour::AboveMaxPrice { price: computed, allowed }));
        }
        Ok((answered, computed))
    }

    /// What a content of this size answers and costs.
    // r[impl content.size.hint]
    fn sums(
        &self,
        session: &Session,
        size: ByteCount,
        tariff: &Tariff,
    ) -> Result<(AnsweredRanges, Option<Amount>), FetchError> {
        if size.get() > aro_proto::limits::MAX_CONTENT_SIZE {
            return Err(FetchError::misbehaved(session.node(), Misbehaviour::Size(size.get())));
        }
        let answered = self.ranges.answered(size.get(), self.group);
        let price = tariff.price(ByteCount::new(answered.content_bytes()));
        Ok((answered, price))
    }

    pub(super) fn facts(&self, session: &Session) -> RequestFacts {
        let (content, allowed) = (self.content, self.allowed);
        RequestFacts { content, node: session.node(), allowed, channel: session.channel() }
    }
}

/// The node's tariff, once its hello is there and its chain is compared.
pub(super) async fn hello(session: &Session, config: &AgentConfig) -> Result<Tariff, FetchError> {
    let ready = session.wait_for("waiting for the node's hello", config.answer_timeout_ms, |s| s.hello.is_some());
    Ok(ready.await?.hello.map(|hello| hello.tariff).unwrap_or_default())
}

/// Longer than a node needs to see that it has no such content.
const UNBOUND_WAIT: Duration = Duration::from_secs(1);

/// Bytes of the asked ranges that a content of `size` has.
pub(super) fn delivered_bytes(ranges: &ByteRanges, size: u64) -> u64 {
    ranges.iter().map(|range| range.end.min(size).saturating_sub(range.start)).sum()
}

/// What a broken request stream means.
pub(super) fn read_failure(session: &Session, error: &ReadError) -> FetchError {
    let misbehaved = |what| FetchError::misbehaved(session.node(), what);
    match error {
        ReadError::Reset(code) => match u32::try_from(code.into_inner()) {
            Ok(close::UNPAID) => FetchError::Refused(Refusal::new(RefusalCode::Unpaid, "payment did not come in time")),
            Ok(close::SHUTDOWN) => FetchError::Refused(Refusal::new(RefusalCode::ShuttingDown, "the node is stopping")),
            _ => misbehaved(Misbehaviour::Reset(code.into_inner())),
        },
        ReadError::ConnectionLost(error) => session.broken(error),
        other => FetchError::Unreachable { place: session.place().to_owned(), why: other.to_string() },
    }
}

pub(crate) fn decode<M: Message>(session: &Session, frame: &Frame) -> Result<M, FetchError> {
    frame.decode().map_err(|error| broken_framing(session, error))
}

pub(crate) fn frame_failure(session: &Session, error: FrameError) -> FetchError {
    match error {
        FrameError::Read(error) => read_failure(session, &error),
        FrameError::Ended => FetchError::misbehaved(session.node(), Misbehaviour::Ended("an answer")),
        FrameError::Cut => broken_framing(session, DecodeError::Truncated),
        FrameError::Decode(error) => broken_framing(session, error),
    }
}

/// A frame that cannot be read is the connection's error.
pub(super) fn broken_framing(session: &Session, error: DecodeError) -> FetchError {
    let error = FetchError::misbehaved(session.node(), error);
    session.fail(error.clone());
    error
}
