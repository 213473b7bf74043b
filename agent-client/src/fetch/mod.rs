//! Fetching: one request, one answer, every byte proven before anyone sees it and before it is paid.

pub(crate) mod account;
mod many;
mod offer;
pub(crate) mod progress;
mod reader;
mod receive;
pub(crate) mod request;
mod scheduler;
mod sink;
mod sources;
mod terms;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aro_proto::merkle::{ByteRanges, GroupSize};
use aro_proto::message::Quote;
use aro_proto::{Address, Amount, ContentId, NodeAddress, NodeId, Tariff};
use bytes::Bytes;
use serde::{Serialize, Serializer};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

pub(crate) use many::Tap;
pub use many::{FetchManyBuilder, FetchManyReport, Fetched};
pub use progress::{Progress, ProgressStream};
pub use reader::FetchReader;
pub(crate) use scheduler::Failure;
pub use scheduler::{Preference, PreferenceError};
pub use sources::{Blame, LeftOut, SourceReport};
pub(crate) use sources::{Weight, weigh};

use crate::agent::Agent;
use crate::budget::{Approval, BudgetExceeded, Cap, NotApproved, Purpose, Spending, Verdict};
use crate::error::{FetchError, Misbehaviour};
use crate::receipts::Check;
use crate::wallet::WalletError;
use progress::Reporter;
use request::Request;
use sink::{Memory, Output, Written};
use sources::{Allowed, Brought, Sources};
use terms::{Terms, terms_setters};

/// A fetch being put together; [`to_file`](Self::to_file), [`to_bytes`](Self::to_bytes), [`to_reader`](Self::to_reader)
/// or [`to_each`](Self::to_each) runs it.
///
/// Dropping the running future cancels the fetch: the node is told how much was proven, and that much is paid. What a
/// fetch to a file had proven stays beside it for the next try.
#[must_use = "nothing is fetched until to_file, to_bytes, to_reader or to_each is called"]
pub struct FetchBuilder {
    agent: Agent,
    address: Address,
    ranges: ByteRanges,
    terms: Terms,
    budget: Option<Amount>,
    resume: bool,
    sources: Sources,
    progress: Reporter,
}

/// What a fetch would cost, and what would stand in its way. Nothing was spent or set aside for it.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DryRun {
    /// The content, in base58 where it is written out.
    #[serde(serialize_with = "as_text")]
    pub content: ContentId,
    /// Its size in bytes, as the node claims.
    pub size: u64,
    /// Content bytes that would be billed.
    pub content_bytes: u64,
    /// Their price, in base units, signed by the node.
    pub price: Amount,
    /// What each cap says to the price, the tightest first.
    pub caps: Vec<Verdict>,
    /// Whether somebody would be asked.
    pub needs_approval: bool,
    /// Base units that the channel still holds for it; none if there is no channel.
    pub deposit_left: Option<Amount>,
    /// Whether price, caps and deposit let it go ahead.
    pub allowed: bool,
}

/// What a fetch brought and cost.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FetchReport {
    /// The content, in base58 where it is written out.
    #[serde(serialize_with = "as_text")]
    pub content: ContentId,
    /// The content's size in bytes: proven if `size_proven`, else the node's claim.
    pub size: u64,
    /// Whether the last chunk group was among the proven ones.
    pub size_proven: bool,
    /// Content bytes proven: the asked ranges in whole chunk groups. All of them are billed.
    pub verified_bytes: u64,
    /// Content bytes delivered: the asked ranges themselves.
    pub delivered_bytes: u64,
    /// Of these, what an earlier fetch had left on disk: proven anew, neither fetched nor paid.
    pub resumed_bytes: u64,
    /// Bytes of the answer on its stream, proofs and head included.
    pub wire_bytes: u64,
    /// What this fetch added to the channel's bill, in base units: the reports of a channel sum to what it paid for proven
    /// bytes. At most the price, because the channel is rounded up as a whole, and because a node that has lost its bill
    /// brings for nothing what it was paid for before. What was conceded after a broken connection is in no report.
    pub paid: Amount,
    /// Vouchers signed on the channel while this fetch ran; fetches that share a channel share them.
    pub vouchers: u64,
    /// Whether the node acknowledged the last voucher in time. If not, it gets it again at the next connection.
    pub acknowledged: bool,
    /// What the node has signed for this fetch, held against what came: `unsigned` if it signs nothing, or nothing in
    /// time. The receipt itself is in the wallet's account.
    pub receipt: Check,
    /// What each node brought, the address's own first.
    pub sources: Vec<SourceReport>,
    /// From the call to the end, in whole milliseconds where it is written out.
    #[serde(rename = "elapsed_ms", serialize_with = "as_millis")]
    pub elapsed: Duration,
}

impl FetchBuilder {
    pub(crate) fn new(agent: Agent, address: Address) -> Self {
        let progress = Reporter::default();
        Self {
            agent,
            address,
            ranges: ByteRanges::all(),
            terms: Terms::default(),
            budget: None,
            resume: true,
            sources: Sources::default(),
            progress,
        }
    }

    /// Another node that may have the content. All of them are used at once, as [`prefer`](Self::prefer) says; what one
    /// fails to bring the others do. A node that wants money and has no channel gets one as the agent's policy says, or is left
    /// out.
    pub fn also_from(mut self, node: NodeAddress) -> Self {
        self.sources.add(node);
        self
    }

    /// Several of them.
    pub fn sources(self, nodes: impl IntoIterator<Item = NodeAddress>) -> Self {
        nodes.into_iter().fold(self, Self::also_from)
    }

    /// What counts where several nodes have the content; default [`Preference::Balanced`].
    pub fn prefer(mut self, preference: Preference) -> Self {
        self.sources.prefer = preference;
        self
    }

    /// Lets a slow end be asked of a second node too, where that may cost at most so many base units in all; the slower
    /// of the two is cancelled. Default: nothing is asked for twice.
    pub fn hedge(mut self, most: Amount) -> Self {
        self.sources.hedge = Some(most);
        self
    }

    /// Which bytes; default all. They are delivered one after another, without the gaps between them.
    pub fn ranges(mut self, ranges: ByteRanges) -> Self {
        self.ranges = ranges;
        self
    }

    terms_setters!();

    /// The most that this fetch may cost, in base units; default whatever the agent's budget leaves. Unlike
    /// [`max_price`](Self::max_price), running into it is our own doing, not the node's.
    pub fn budget(mut self, budget: Amount) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Asks the node for its price, and every cap whether it would allow it. Nothing is fetched, paid or set aside.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn dry_run(self) -> Result<DryRun, FetchError> {
        let agent = &self.agent;
        let quote = quote(agent, &self.address, self.ranges.clone()).await?;
        let purpose = self.purpose();
        let (guard, asked, price) = (agent.budget().clone(), purpose.clone(), quote.price);
        let verdicts = tokio::task::spawn_blocking(move || guard.verdicts(&asked, price)).await;
        let caps = verdicts.map_err(|_| WalletError::Ending)?.map_err(WalletError::from)?;
        let deposit_left = agent.deposit_left(self.address.node())?;
        let is_paid = price.is_zero() || deposit_left.is_some_and(|left| left >= price);
        let is_cheap = price <= self.terms.max_price;
        Ok(DryRun {
            content: quote.content,
            size: quote.size.get(),
            content_bytes: quote.content_bytes.get(),
            price,
            needs_approval: agent.budget().ask_above().is_some_and(|threshold| price > threshold),
            deposit_left,
            allowed: is_paid && is_cheap && caps.iter().all(|verdict| verdict.allows),
            caps,
        })
    }

    /// Whether a fetch to a file takes up what an earlier one of the same content left beside it; default true. Without,
    /// that is thrown away, and everything is fetched and paid anew.
    pub fn resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// Called as bytes are proven, at most once for each 256 KiB, and once at the end. It must not block.
    pub fn progress(mut self, report: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.progress = Reporter::new(Arc::new(report));
        self
    }

    /// The same as a stream, which replaces the callback: poll it beside the running fetch.
    pub fn progress_stream(mut self) -> (Self, ProgressStream) {
        let (reporter, stream) = Reporter::stream();
        self.progress = reporter;
        (self, stream)
    }

    /// Fetches into a file. The bytes gather beside it in `<name>.aro-part`, which takes the file's place only when
    /// all of them are proven and on disk; after any error the file is as it was before.
    ///
    /// After an error, a cancel or a crash, `<name>.aro-part` and `<name>.aro-proof` stay. The next fetch of the same
    /// content to the same file, from whatever node, proves them anew and asks only for what they lack; a fetch of
    /// another content replaces them. A whole fetch to a file that is the content already asks nobody.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn to_file(self, path: impl AsRef<Path>) -> Result<FetchReport, FetchError> {
        let (path, content, asked) = (path.as_ref().to_owned(), self.address.content(), self.ranges.clone());
        let config = self.agent.config();
        let memory = Memory { queue_bytes: config.write_queue_bytes, cached_bytes: config.page_cache_bytes };
        let output = Output::file(path, content, asked, memory, self.resume).await?;
        let (report, _) = self.run(output, u64::MAX).await?;
        Ok(report)
    }

    /// Fetches into memory, at most `limit` bytes.
    ///
    /// # Errors
    /// [`FetchError::TooLarge`] before anything is paid; else see [`FetchError`].
    pub async fn to_bytes(self, limit: u64) -> Result<(FetchReport, Vec<u8>), FetchError> {
        let window_bytes = self.window_bytes();
        let output = Output::memory(self.address.content(), self.ranges.clone(), window_bytes);
        self.run(output, limit).await
    }

    /// Hands each proven piece to `take` as it comes: where it begins in the content, and its bytes, which may be kept.
    /// Pieces come in rising order, without the parts that were not asked for. `take` must not block; while it runs,
    /// this fetch reads nothing, and the node waits once its window is full. After an error, what was handed over
    /// remains proven and paid.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn to_each(self, take: impl FnMut(u64, Bytes) + Send + 'static) -> Result<FetchReport, FetchError> {
        let window_bytes = self.window_bytes();
        let output = Output::caller(self.address.content(), self.ranges.clone(), window_bytes, take);
        let (report, _) = self.run(output, u64::MAX).await?;
        Ok(report)
    }

    /// Starts the fetch in a task of its own, and gives its bytes to read while it runs. At most
    /// [`read_ahead_bytes`](crate::AgentConfig::read_ahead_bytes) wait for the reader.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn to_reader(self) -> FetchReader {
        let window_bytes = self.window_bytes();
        let (output, pieces) = Output::reader(self.address.content(), self.ranges.clone(), window_bytes);
        FetchReader::new(pieces, self, output)
    }

    /// How far ahead of what is due anything is taken where the order matters: more sources are further apart.
    fn window_bytes(&self) -> usize {
        let sources = self.sources.addresses(&self.address).len();
        self.agent.config().read_ahead_bytes.saturating_mul(sources)
    }

    async fn run(self, output: Output, limit: u64) -> Result<(FetchReport, Vec<u8>), FetchError> {
        let started = Instant::now();
        let resumed_bytes = output.held_bytes();
        tracing::debug!(content = %self.address.content(), resumed_bytes, "a fetch begins");
        let purpose = self.purpose();
        let max_price = self.terms.max_price;
        let addresses = self.sources.addresses(&self.address);
        // Each node's own cap is held where money is set aside for it; this is for the whole.
        let lefts = addresses.iter().map(|address| self.agent.budget().left(&purpose.at(address.node())));
        let left = lefts.max().unwrap_or_default();
        let missing = output.missing();
        let approved = match &missing {
            Some(missing) => self.approved(&addresses, max_price.min(left), missing).await?,
            None => Approved::default(),
        };
        // What is left of the budget, a fetch from one node finds out when it knows its price.
        let allowed = max_price.min(approved.most);
        // An empty content has nothing to share out.
        let is_alone = addresses.len() == 1 || self.address.content() == ContentId::of(&[]);
        let brought = if is_alone {
            self.bring(&output, allowed, approved.price.or(self.terms.price), limit, &purpose).await
        } else {
            let group = output.group(group_for(&self.ranges));
            let purpose = purpose.clone();
            let (asked, price, quoted) = (&self.ranges, allowed.min(left), approved.quoted);
            let allowed = Allowed { asked, group, price, limit, purpose, quoted };
            self.sources.bring(&self.agent, addresses, &output, &allowed, &self.progress).await
        };
        let (brought, written) = match brought {
            Ok(done) => done,
            Err(error) => return Err(self.explain(error, max_price, &purpose).await),
        };
        let report = FetchReport {
            content: self.address.content(),
            size: written.size,
            size_proven: written.size_proven,
            verified_bytes: brought.verified_bytes,
            delivered_bytes: written.bytes,
            resumed_bytes,
            wire_bytes: brought.wire_bytes,
            paid: brought.paid,
            vouchers: brought.vouchers,
            acknowledged: brought.acknowledged,
            receipt: brought.receipt,
            sources: brought.sources,
            elapsed: started.elapsed(),
        };
        Ok((report, written.memory))
    }

    /// What its cost counts as. A fetch's own budget is the cap of its request.
    fn purpose(&self) -> Purpose {
        self.terms.purpose(&self.agent, self.address.node(), self.budget.unwrap_or(UNBOUNDED))
    }

    /// The most that may be spent as far as anybody was asked: the threshold without asking, and a price above it once
    /// somebody has approved it. Asked is before anything is requested, so that no node waits for the answer.
    async fn approved(
        &self,
        addresses: &[Address],
        allowed: Amount,
        missing: &ByteRanges,
    ) -> Result<Approved, FetchError> {
        let agent = &self.agent;
        let Some(threshold) = self.terms.threshold(agent, allowed) else { return Ok(Approved::default()) };
        let quotes = quotes(agent, addresses, missing).await?;
        // Whichever of them bring it, it costs no more than at the dearest that may be paid.
        let dearest = quotes.iter().filter(|(_, quote)| quote.price <= allowed).max_by_key(|(_, quote)| quote.price);
        let Some((node, quote)) = dearest else {
            // Refused anyway, in words that fit.
            return Ok(Approved::default());
        };
        let (content, amount) = (Some(self.address.content()), quote.price);
        agent.approve(Approval { amount, threshold, node: *node, content, spending: Spending::Vouchers }).await?;
        let quoted = quotes.iter().map(|(node, quote)| (*node, quote.tariff)).collect();
        Ok(Approved { most: amount.max(threshold), price: Some(amount), quoted })
    }

    /// Fetches what the output lacks: usually one request, and as many as it takes where it lacks more than one can name.
    async fn bring(
        &self,
        output: &Output,
        allowed: Amount,
        mut price: Option<Amount>,
        limit: u64,
        purpose: &Purpose,
    ) -> Result<(Brought, Written), FetchError> {
        let started = Instant::now();
        let (config, mut brought) = (self.agent.config(), Brought { acknowledged: true, ..Brought::default() });
        while let Some(missing) = output.missing() {
            let request = Request {
                content: self.address.content(),
                ranges: missing,
                group: output.group(group_for(&self.ranges)),
                allowed: allowed.saturating_sub(brought.paid).min(purpose.left()),
                // Of all that was missing, which is the first request's.
                price: price.take(),
                limit,
                purpose: purpose.clone(),
            };
            let (session, mut answer) = request.ask_paying(&self.agent, &self.address).await?;
            let size = answer.decoder.answered().size();
            let Some(feed) = output.feed(answer.account.tally(), size) else {
                return Err(FetchError::misbehaved(session.node(), Misbehaviour::Size(size)));
            };
            let received = receive::receive(&mut answer, &session, &feed, &self.progress, config, None).await;
            // What is not written after that is counted all the same, for it is proven.
            let received = received.and(feed.flush().await);
            let is_last = received.is_ok() && output.missing().is_none();
            let written = async { if is_last { output.finish().await.map(Some) } else { Ok(None) } };
            let settled = answer.account.settle(&session, config.credit_timeout_ms);
            let (acknowledged, written) = tokio::join!(settled, written);
            received?;
            let receipt = answer.account.receipt(config.credit_timeout_ms).await;
            brought.add(&answer, acknowledged, receipt);
            if let Some(written) = written? {
                brought.sources = vec![SourceReport::alone(session.node(), &brought, started.elapsed())];
                return Ok((brought, written));
            }
        }
        // All of it was there before.
        Ok((brought, output.finish().await?))
    }

    /// Puts an error into the caller's terms, and learns from it which channel is gone.
    async fn explain(&self, error: FetchError, max_price: Amount, purpose: &Purpose) -> FetchError {
        match error {
            FetchError::PriceTooHigh { price, .. } if price <= max_price => refusal(&self.agent, purpose, price),
            FetchError::PriceTooHigh { price, .. } => FetchError::PriceTooHigh { price, allowed: max_price },
            FetchError::ChannelUnusable { channel } => {
                self.agent.forget_channel(self.address.node(), channel).await;
                FetchError::ChannelUnusable { channel }
            }
            other => other,
        }
    }
}

/// What may be spent as far as anybody was asked.
struct Approved {
    /// In base units.
    most: Amount,
    /// What the node was said to want, if it was asked.
    price: Option<Amount>,
    /// What each node asked.
    quoted: Vec<(NodeId, Tariff)>,
}

impl Default for Approved {
    fn default() -> Self {
        Self { most: UNBOUNDED, price: None, quoted: Vec::new() }
    }
}

/// Which of our own bounds is below the price: a cap, or what was approved.
pub(crate) fn refusal(agent: &Agent, purpose: &Purpose, price: Amount) -> FetchError {
    match (agent.budget().reserve(purpose, price), agent.budget().ask_above()) {
        (Err(refused), _) => refused.into(),
        (Ok(_), Some(threshold)) if price > threshold => NotApproved { amount: price, threshold }.into(),
        // What stood in the way a moment ago is gone.
        (Ok(permit), _) => {
            let left = permit.amount();
            BudgetExceeded { cap: Cap::Total, needed: price, left, sufficient: price }.into()
        }
    }
}

/// What each node wants for these ranges, of those that say so in time; the first node's error if none does.
async fn quotes(agent: &Agent, addresses: &[Address], ranges: &ByteRanges) -> Result<Vec<(NodeId, Quote)>, FetchError> {
    let mut asked = JoinSet::new();
    for (place, address) in addresses.iter().enumerate() {
        let (agent, address, ranges) = (agent.clone(), address.clone(), ranges.clone());
        asked.spawn(async move { (place, address.node(), quote(&agent, &address, ranges).await) });
    }
    let (mut quotes, mut failed) = (Vec::new(), BTreeMap::new());
    let mut until = None;
    loop {
        let answer = match until {
            None => asked.join_next().await,
            // One that says nothing holds nobody up; what it may get is bounded by what the others want.
            Some(until) => timeout_at(until, asked.join_next()).await.unwrap_or_default(),
        };
        match answer {
            Some(Ok((_, node, Ok(quote)))) => {
                quotes.push((node, quote));
                until.get_or_insert(tokio::time::Instant::now() + QUOTE_WAIT);
            }
            Some(Ok((place, _, Err(error)))) => drop(failed.insert(place, error)),
            Some(Err(panicked)) => match panicked.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return Err(WalletError::Ending.into()),
            },
            None => break,
        }
    }
    match failed.pop_first().filter(|_| quotes.is_empty()) {
        Some((_, error)) => Err(error),
        None => Ok(quotes),
    }
}

/// Asks what a fetch of these ranges would cost.
pub(crate) async fn quote(agent: &Agent, address: &Address, ranges: ByteRanges) -> Result<Quote, FetchError> {
    let session = agent.session(address).await?;
    let group = group_for(&ranges);
    let purpose = Purpose::vouchers(address.node());
    let (content, allowed, limit) = (address.content(), UNBOUNDED, u64::MAX);
    let request = Request { content, ranges, group, allowed, price: None, limit, purpose };
    request.quote(&session, agent.config()).await
}

/// Small groups where little is asked, so that little beside it is billed; large ones, with fewer hashes, for bulk.
fn group_for(ranges: &ByteRanges) -> GroupSize {
    let asked = ranges.iter().map(|range| range.end - range.start).fold(0, u64::saturating_add);
    if asked < BULK_BYTES { GroupSize::KIB16 } else { GroupSize::KIB64 }
}

fn as_text<S: Serializer>(content: &ContentId, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(content)
}

fn as_millis<S: Serializer>(elapsed: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

const UNBOUNDED: Amount = Amount::new(u64::MAX);
/// How long further quotes are waited for, from the first on.
const QUOTE_WAIT: Duration = Duration::from_secs(1);
/// Bytes asked from which on proofs weigh more than rounding: 1 MiB.
const BULK_BYTES: u64 = 1 << 20;
