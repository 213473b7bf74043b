//! Many small contents of one node: a signature and a stream for dozens of them, several such requests at once.
//!
//! What a single fetch promises holds for each content: checked heads, nothing unproven to the caller, nothing unproven
//! paid. What is paid is settled once, at the end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aro_proto::limits::MAX_FETCH_ITEMS;
use aro_proto::merkle::{ByteRanges, Decoder, GroupSize};
use aro_proto::message::{Fetch, FetchHead, FetchItem, Message, Refused};
use aro_proto::wire::{FRAME_HEAD, FrameHead, decode_body};
use aro_proto::{Address, Amount, ByteCount, Charge, ContentId, Tariff, error::close};
use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, VarInt};
use serde::Serialize;
use tokio::task::JoinSet;

use super::account::{StreamAccount, acknowledged};
use super::receive::{Inflow, within};
use super::request::{Request, broken_framing, hello, read_failure};
use super::{UNBOUNDED, as_millis, refusal};
use crate::agent::Agent;
use crate::budget::{Approval, Purpose, Spending};
use crate::error::{FetchError, Misbehaviour};
use crate::receipts::Subject;
use crate::transport::{Exchange, Session};
use crate::wallet::{Lack, Lane, Provider};

/// A fetch of many contents being put together; [`to_bytes`](Self::to_bytes) runs it.
///
/// Dropping the running future cancels it: what was proven is paid, the rest is not owed.
#[must_use = "nothing is fetched until to_bytes is awaited"]
pub struct FetchManyBuilder {
    agent: Agent,
    node: Address,
    contents: Vec<ContentId>,
    max_price: Option<Amount>,
    class: String,
    in_flight: usize,
}

/// What a fetch of many contents brought and cost.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FetchManyReport {
    /// Contents that came, whole and proven.
    pub fetched: u64,
    /// Contents that the node does not have, or does not give.
    pub refused: u64,
    /// Content bytes proven, all of which are billed.
    pub verified_bytes: u64,
    /// Bytes of the answers on their streams, proofs and heads included.
    pub wire_bytes: u64,
    /// Signed requests that it took.
    pub requests: u64,
    /// What it added to the channel's bill, in base units.
    pub paid: Amount,
    /// Whether the node acknowledged the last voucher in time. If not, it gets it again at the next connection.
    pub acknowledged: bool,
    /// From the call to the end, in whole milliseconds where it is written out.
    #[serde(rename = "elapsed_ms", serialize_with = "as_millis")]
    pub elapsed: Duration,
}

/// One content of many: its bytes, or why there are none.
pub type Fetched = Result<Vec<u8>, FetchError>;

impl FetchManyBuilder {
    pub(crate) fn new(agent: Agent, node: Address, contents: Vec<ContentId>) -> Self {
        Self { agent, node, contents, max_price: None, class: String::new(), in_flight: IN_FLIGHT }
    }

    /// The most that all contents together may cost, in base units; default whatever the budget leaves, and no more than
    /// a policy lets go without asking. More than that is asked about before anything is fetched.
    pub fn max_price(mut self, max_price: Amount) -> Self {
        self.max_price = Some(max_price);
        self
    }

    /// Which class of content it is; a policy may cap what each class costs. At most 64 bytes.
    pub fn class(mut self, class: impl Into<String>) -> Self {
        self.class = class.into();
        self
    }

    /// How many contents are asked for at once; default 64. More hides longer round trips, and as much more is in
    /// memory and on its way when something breaks.
    pub fn in_flight(mut self, contents: usize) -> Self {
        self.in_flight = contents.max(1);
        self
    }

    /// Fetches everything into memory, at most `limit` bytes in all. The results stand in the order of the contents; one
    /// that the node does not have is an error in its place, and the others come all the same.
    ///
    /// # Errors
    /// What ends the whole fetch; see [`FetchError`].
    pub async fn to_bytes(self, limit: u64) -> Result<(FetchManyReport, Vec<Fetched>), FetchError> {
        let started = Instant::now();
        let agent = &self.agent;
        let mut provider = Provider::new(agent, self.node.node());
        let session = loop {
            let session = agent.session(&self.node).await?;
            if session.channel().is_some() || hello(&session, agent.config()).await?.is_free() {
                break session;
            }
            // The node would only find out after waiting for a binding. What it will take nobody knows yet.
            let _ = provider.lack(FetchError::NoChannel { node: session.node() }).await?;
            provider.open(Amount::ZERO).await?;
        };
        let purpose = Purpose::vouchers(session.node()).class(&self.class).request(agent.budget().per_request());
        let mut allowed = self.max_price.unwrap_or(UNBOUNDED).min(agent.budget().left(&purpose));
        if let Some(threshold) = agent.budget().ask_above() {
            match self.max_price {
                None => allowed = allowed.min(threshold),
                Some(_) => {
                    let (amount, node) = (allowed, session.node());
                    let spending = Spending::Vouchers;
                    agent.approve(Approval { amount, threshold, node, content: None, spending }).await?;
                }
            }
        }
        let shared = Arc::new(Shared {
            session: Arc::clone(&session),
            agent: agent.clone(),
            allowance: Mutex::new(Allowance { charge: Charge::ZERO, bytes: limit }),
            limit,
            allowed,
            provides: provider.may_provide(),
            purpose: purpose.clone(),
        });
        // However it ends, also if nobody waits for it any more: what is proven is paid now.
        let paying = PaysAtTheEnd(Arc::clone(&session));
        let fetched = self.run_rounds(&shared, provider).await;
        drop(paying);
        let acknowledged = acknowledged(&session, agent.config().credit_timeout_ms).await;
        let done = match fetched {
            Ok(done) => done,
            Err(error) => return Err(self.explain(error, &purpose).await),
        };
        let mut report = FetchManyReport {
            fetched: 0,
            refused: 0,
            verified_bytes: 0,
            wire_bytes: done.wire_bytes,
            requests: done.requests,
            paid: done.paid,
            acknowledged,
            elapsed: started.elapsed(),
        };
        let results: Vec<Fetched> = done.results.into_iter().flatten().collect();
        for result in &results {
            match result {
                Ok(bytes) => {
                    report.fetched += 1;
                    report.verified_bytes += bytes.len() as u64;
                }
                Err(_) => report.refused += 1,
            }
        }
        Ok((report, results))
    }

    /// Runs the requests; what the deposit did not cover is asked for again once it has grown.
    async fn run_rounds(&self, shared: &Arc<Shared>, mut provider: Provider) -> Result<Brought, FetchError> {
        let mut brought = Brought::default();
        brought.results.resize_with(self.contents.len(), || None);
        let mut wanted: Vec<usize> = (0..self.contents.len()).collect();
        loop {
            let contents: Vec<ContentId> = wanted.iter().map(|place| self.contents[*place]).collect();
            let mut places = wanted.iter().copied();
            for batch in self.run(shared, &contents).await? {
                brought.requests += 1;
                brought.wire_bytes += batch.wire_bytes;
                brought.paid = brought.paid.saturating_add(batch.paid);
                for (result, place) in batch.results.into_iter().zip(&mut places) {
                    brought.results[place] = Some(result);
                }
            }
            wanted.retain(|place| matches!(brought.results[*place], Some(Err(FetchError::DepositExhausted { .. }))));
            let Some(Some(Err(short))) = wanted.first().map(|place| &brought.results[*place]) else {
                return Ok(brought);
            };
            let grown = match provider.lack(short.clone()).await {
                Ok(Lack::Deposit { channel, missing }) => provider.top_up(&shared.session, channel, missing).await,
                Ok(Lack::Channel | Lack::Nothing) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = grown {
                wanted.iter().for_each(|place| brought.results[*place] = Some(Err(error.clone())));
                return Ok(brought);
            }
        }
    }

    /// Runs the requests, [`REQUESTS`] at once, and returns what they brought in their order.
    async fn run(&self, shared: &Arc<Shared>, contents: &[ContentId]) -> Result<Vec<Batch>, FetchError> {
        let each = self.in_flight.div_ceil(REQUESTS).min(MAX_FETCH_ITEMS);
        let ways = self.in_flight.div_ceil(each);
        let mut waiting: VecDeque<(usize, Vec<ContentId>)> =
            contents.chunks(each).map(<[ContentId]>::to_vec).enumerate().collect();
        let mut done: Vec<Option<Batch>> = Vec::new();
        done.resize_with(waiting.len(), || None);
        let mut running = JoinSet::new();
        loop {
            while running.len() < ways
                && let Some((place, contents)) = waiting.pop_front()
            {
                let shared = Arc::clone(shared);
                running.spawn(async move { (place, shared.fetch(contents).await) });
            }
            let Some(ended) = running.join_next().await else { break };
            match ended {
                Ok((place, batch)) => done[place] = Some(batch?),
                Err(panicked) => match panicked.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return Err(shared.session.broken(&quinn::ConnectionError::LocallyClosed)),
                },
            }
        }
        Ok(done.into_iter().flatten().collect())
    }

    /// Our own budget is not the node's fault, and a channel that is gone is looked up.
    async fn explain(&self, error: FetchError, purpose: &Purpose) -> FetchError {
        match error {
            FetchError::ChannelUnusable { channel } => {
                self.agent.forget_channel(self.node.node(), channel).await;
                FetchError::ChannelUnusable { channel }
            }
            FetchError::PriceTooHigh { price, .. } if self.max_price.is_none_or(|most| price <= most) => {
                refusal(&self.agent, purpose, price)
            }
            other => other,
        }
    }
}

/// Has everything proven paid when dropped.
struct PaysAtTheEnd(Arc<Session>);

impl Drop for PaysAtTheEnd {
    fn drop(&mut self) {
        self.0.control().flush_payment();
    }
}

/// What the requests of one fetch share.
struct Shared {
    session: Arc<Session>,
    agent: Agent,
    allowance: Mutex<Allowance>,
    limit: u64,
    allowed: Amount,
    /// Whether a deposit that does not suffice may grow.
    provides: bool,
    purpose: Purpose,
}

/// What was accepted, and what may still be.
#[derive(Clone, Copy)]
struct Allowance {
    /// Of everything accepted, exactly: contents are smaller than what a base unit pays for, and bills add up charges.
    charge: Charge,
    /// Bytes that may still come.
    bytes: u64,
}

/// What all requests brought.
#[derive(Default)]
struct Brought {
    /// One for each content, in its place.
    results: Vec<Option<Fetched>>,
    requests: u64,
    wire_bytes: u64,
    paid: Amount,
}

/// What one request brought.
struct Batch {
    results: Vec<Fetched>,
    wire_bytes: u64,
    paid: Amount,
}

impl Shared {
    /// One signed request, its answer proven content by content.
    async fn fetch(&self, contents: Vec<ContentId>) -> Result<Batch, FetchError> {
        let items = contents.iter().map(|content| FetchItem { content: *content, ranges: ByteRanges::all() }).collect();
        let max_price = self.left();
        let fetch = Fetch { items, group_log2: GROUP.log2(), max_price };
        let Exchange { stream, recv } = self.session.request(&fetch, self.agent.config().answer_timeout_ms).await?;
        let account = {
            let subject = Subject::fetch_many(&contents);
            StreamAccount::open(self.session.control().clone(), stream, self.purpose.clone(), subject)
        };
        let mut answer = ManyAnswer { shared: self, reader: Reader::new(recv), account, tariff: None, lane: None };
        let mut results = Vec::with_capacity(contents.len());
        for content in &contents {
            let request = Request {
                content: *content,
                ranges: ByteRanges::all(),
                group: GROUP,
                allowed: max_price,
                limit: self.limit,
                purpose: self.purpose.clone(),
            };
            match answer.next(&request, results.len()).await {
                Ok(fetched) => results.push(fetched),
                Err(error @ FetchError::DepositExhausted { .. }) if self.provides && results.is_empty() => {
                    // A refusal of the whole request, of which nothing was begun.
                    let results = contents.iter().map(|_| Err(error.clone())).collect();
                    return Ok(Batch { results, wire_bytes: answer.reader.wire_bytes, paid: Amount::ZERO });
                }
                Err(error) => {
                    // Streams that are over need no stop.
                    let _ = answer.reader.recv.stop(VarInt::from_u32(stop_code(&error)));
                    return Err(error);
                }
            }
        }
        answer.account.complete();
        answer.reader.end(&self.session).await;
        Ok(Batch { results, wire_bytes: answer.reader.wire_bytes, paid: answer.account.cost() })
    }

    /// What the rest may cost.
    fn left(&self) -> Amount {
        let accepted = self.allowance.lock().unwrap_or_else(PoisonError::into_inner).charge;
        self.allowed.saturating_sub(accepted.to_amount().unwrap_or(self.allowed))
    }

    /// Takes a content's charge and bytes from what may still be accepted.
    fn take(&self, charge: Charge, bytes: u64) -> Result<(), FetchError> {
        let mut left = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rest) = left.bytes.checked_sub(bytes) else {
            let size = self.limit.saturating_sub(left.bytes).saturating_add(bytes);
            return Err(FetchError::TooLarge { size, limit: self.limit });
        };
        let charge = left.charge.checked_add(charge).unwrap_or(left.charge);
        let price = charge.to_amount().unwrap_or(UNBOUNDED);
        if price > self.allowed {
            return Err(FetchError::PriceTooHigh { price, allowed: self.allowed });
        }
        *left = Allowance { charge, bytes: rest };
        Ok(())
    }
}

/// The answer to one request of many contents.
struct ManyAnswer<'a> {
    shared: &'a Shared,
    reader: Reader,
    account: StreamAccount,
    /// Known with the first head.
    tariff: Option<Tariff>,
    /// Known with the first head that costs something.
    lane: Option<Arc<Lane>>,
}

impl ManyAnswer<'_> {
    /// The next content: proven, or refused. `before` counts those that came before it.
    async fn next(&mut self, request: &Request, before: usize) -> Result<Fetched, FetchError> {
        let (kind, body) = self.frame(before).await?;
        let session = &self.shared.session;
        if kind == Refused::KIND {
            let refused: Refused = decode(session, kind, &body)?;
            let refusal = FetchError::from_refusal(refused.refusal, &request.facts(session));
            // A refusal of the whole request is the only thing on its stream.
            let may_be_all = before == 0 && !matches!(refusal, FetchError::NotFound { .. });
            if may_be_all && self.reader.is_over(session, self.stall()).await? {
                self.account.refused();
                return Err(refusal);
            }
            return Ok(Err(refusal));
        }
        let head: FetchHead = decode(session, kind, &body)?;
        let config = self.shared.agent.config();
        // No money before the node's chain is compared, whatever came first.
        // r[impl identity.chain.before_money]
        let tariff = match self.tariff {
            Some(tariff) => tariff,
            None => *self.tariff.insert(hello(session, config).await?),
        };
        let (answered, price) = request.check_head(session, &head, &tariff)?;
        let content_bytes = ByteCount::new(answered.content_bytes());
        self.shared.take(tariff.charge(content_bytes), head.size.get())?;
        if self.lane.is_none() && !price.is_zero() {
            self.lane = Some(request.lane(session, config).await?);
        }
        self.accept(content_bytes, price).await?;
        let size = head.size.get();
        let decoder = Decoder::new(request.content, answered)
            .map_err(|_| FetchError::misbehaved(session.node(), Misbehaviour::Size(size)))?;
        self.prove(decoder).await.map(Ok)
    }

    /// Sets a content's price aside, in a deposit that grows for it if need be: the node waits at its window meanwhile.
    async fn accept(&mut self, content_bytes: ByteCount, price: Amount) -> Result<(), FetchError> {
        let mut provider = Provider::new(&self.shared.agent, self.shared.session.node());
        loop {
            let error = match self.account.accept_one_of_many(content_bytes, price, self.lane.as_ref()) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match provider.lack(error).await? {
                Lack::Deposit { channel, missing } => provider.top_up(&self.shared.session, channel, missing).await?,
                Lack::Channel => return Err(FetchError::NoChannel { node: self.shared.session.node() }),
                Lack::Nothing => {}
            }
        }
    }

    // r[impl content.verify.unproven]
    async fn prove(&mut self, mut decoder: Decoder) -> Result<Vec<u8>, FetchError> {
        let mut bytes = Vec::new();
        while let Some(len) = decoder.expects() {
            let offset = decoder.next_covers().map_or(0, |range| range.start);
            let session = &self.shared.session;
            let failure = |source, proven| FetchError::Proof {
                group: None,
                offset,
                proven: ByteCount::new(proven),
                node: session.node(),
                source,
            };
            if !self.reader.has(len, session, self.stall()).await? {
                let cut = decoder.finish().err().unwrap_or(aro_proto::merkle::VerifyError::AfterError);
                return Err(failure(cut, self.account.proven()));
            }
            // r[impl content.verify.first_error]
            match decoder.accept(self.reader.take(len)) {
                Ok(None) => {}
                Ok(Some(leaf)) => {
                    self.account.proved(leaf.len());
                    bytes.extend_from_slice(leaf.bytes());
                }
                Err(source) => return Err(failure(source, self.account.proven())),
            }
        }
        Ok(bytes)
    }

    /// The next frame; the first may take the node as long as any answer.
    async fn frame(&mut self, before: usize) -> Result<(u8, Bytes), FetchError> {
        let session = &self.shared.session;
        let waits_ms = if before == 0 { self.shared.agent.config().answer_timeout_ms } else { self.stall() };
        let ended = || FetchError::misbehaved(session.node(), Misbehaviour::Ended("an answer"));
        if !self.reader.has(FRAME_HEAD, session, waits_ms).await? {
            return Err(ended());
        }
        let head = self.reader.take(FRAME_HEAD);
        let head: &[u8; FRAME_HEAD] = head.first_chunk().expect("so many were taken");
        let head = FrameHead::parse(head).map_err(|error| broken_framing(session, error))?;
        if !self.reader.has(head.body_len, session, waits_ms).await? {
            return Err(ended());
        }
        Ok((head.kind, self.reader.take(head.body_len)))
    }

    fn stall(&self) -> u64 {
        self.shared.agent.config().stall_timeout_ms
    }
}

/// One stream's bytes in a buffer, from which whole items are split off without a copy.
struct Reader {
    recv: RecvStream,
    inflow: Inflow,
    buffer: BytesMut,
    wire_bytes: u64,
}

impl Reader {
    fn new(recv: RecvStream) -> Self {
        Self { recv, inflow: Inflow::default(), buffer: BytesMut::new(), wire_bytes: 0 }
    }

    /// Waits for so many bytes; false if the stream ends before.
    async fn has(&mut self, len: usize, session: &Session, waits_ms: u64) -> Result<bool, FetchError> {
        while self.buffer.len() < len {
            let missing = len - self.buffer.len();
            if self.buffer.capacity() - self.buffer.len() < missing.max(LEAST_ROOM) {
                self.buffer.reserve(missing.max(BUFFER));
            }
            let room = self.buffer.capacity() - self.buffer.len();
            let filling = self.inflow.fill(&mut self.recv, &mut self.buffer, room);
            match within(Duration::from_millis(waits_ms), filling).await {
                Some(Ok(0)) => return Ok(false),
                Some(Ok(got)) => self.wire_bytes += got as u64,
                Some(Err(error)) => return Err(read_failure(session, &error)),
                None => return Err(FetchError::Timeout { doing: "receiving", waited_ms: waits_ms }),
            }
        }
        Ok(true)
    }

    /// Splits off what [`has`](Self::has) found.
    fn take(&mut self, len: usize) -> Bytes {
        self.buffer.split_to(len).freeze()
    }

    async fn is_over(&mut self, session: &Session, waits_ms: u64) -> Result<bool, FetchError> {
        Ok(!self.has(1, session, waits_ms).await?)
    }

    /// All is proven, whatever follows.
    // r[impl content.end.harmless]
    async fn end(&mut self, session: &Session) {
        if !matches!(self.is_over(session, END_WAIT_MS).await, Ok(true)) {
            let _ = self.recv.stop(VarInt::from_u32(close::BAD_PROOF));
            tracing::warn!(node = %session.node(), "the node did not end an answer where it should");
        }
    }
}

fn decode<M: Message>(session: &Session, kind: u8, body: &[u8]) -> Result<M, FetchError> {
    decode_body(kind, body).map_err(|error| broken_framing(session, error))
}

fn stop_code(error: &FetchError) -> u32 {
    match error {
        FetchError::Proof { .. } => close::BAD_PROOF,
        _ => close::CANCELLED,
    }
}

/// Whole contents are asked for in the groups of bulk, which are one group for small ones.
const GROUP: GroupSize = GroupSize::KIB64;
/// Contents at once, unless said otherwise.
const IN_FLIGHT: usize = 64;
/// Requests that they are divided into: while one is waited for, another arrives.
const REQUESTS: usize = 2;
/// Bytes of a reader's buffer.
const BUFFER: usize = 256 << 10;
/// Room below which a new buffer is taken.
const LEAST_ROOM: usize = 16 << 10;
/// Milliseconds for the end of a stream to follow its last byte.
const END_WAIT_MS: u64 = 1_000;
