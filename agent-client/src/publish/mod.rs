//! Publishing: giving a content to a node, which proves it, keeps it and serves it.
//!
//! A file is hashed first, so that only what the node lacks is sent: an upload that broke off goes on where it was, by itself
//! while the node can be reached again, and else when the same bytes are published again, from whatever file or pipe. The
//! agent pays for what the node acknowledges, step by step, and takes the node's receipt only if it follows from its own
//! sums.

mod encoding;
mod source;
mod upload;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aro_proto::merkle::GroupSize;
use aro_proto::message::{Publish, SignedPublishReceipt};
use aro_proto::{Address, Amount, ByteCount, ContentId, NodeAddress, WhoActs};
use serde::{Serialize, Serializer};

pub use source::PublishSource;

use crate::agent::Agent;
use crate::budget::{Approval, Purpose, Spending};
use crate::config::AgentConfig;
use crate::error::FetchError;
use crate::fetch::progress::{Progress, ProgressStream, Reporter};
use crate::fetch::refusal;
use crate::transport::Session;
use crate::wallet::{Lack, Provider};
use source::{HashedFile, Unread};
use upload::{Brought, Sending, Sent};

/// An upload being put together; [`run`](Self::run) runs it.
///
/// Dropping the running future cancels the upload: what was acknowledged is paid, and a file goes on from there when
/// it is published again.
#[must_use = "nothing is published until run is awaited"]
pub struct PublishBuilder {
    agent: Agent,
    node: NodeAddress,
    source: PublishSource,
    max_price: Option<Amount>,
    budget: Option<Amount>,
    /// Whoever has to be asked has approved as much as it may cost.
    is_approved: bool,
    class: String,
    max_bytes: u64,
    progress: Reporter,
}

/// What an upload brought and cost.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PublishReport {
    /// Where the content can be fetched now.
    #[serde(serialize_with = "as_text")]
    pub address: Address,
    /// The content.
    #[serde(serialize_with = "as_text")]
    pub content: ContentId,
    /// Its bytes.
    pub size: u64,
    /// Content bytes that this upload brought; the node had the others.
    pub taken_bytes: u64,
    /// Bytes sent on the upload's stream, proofs included.
    pub wire_bytes: u64,
    /// What this upload added to the channel's bill, in base units.
    pub paid: Amount,
    /// Vouchers signed on the channel while this upload ran.
    pub vouchers: u64,
    /// Whether the node acknowledged the last voucher in time. If not, it gets it again at the next connection.
    pub acknowledged: bool,
    /// The node's signed word that the content is durable there. Where the upload broke off in between, what it says of
    /// bytes and price is of the last part.
    #[serde(skip)]
    pub receipt: SignedPublishReceipt,
    /// From the call to the end, in whole milliseconds where it is written out.
    #[serde(rename = "elapsed_ms", serialize_with = "as_millis")]
    pub elapsed: Duration,
}

impl PublishBuilder {
    pub(crate) fn new(agent: Agent, node: NodeAddress, source: PublishSource) -> Self {
        let (max_price, budget, class, progress) = (None, None, String::new(), Reporter::default());
        let is_approved = false;
        Self { agent, node, source, max_price, budget, is_approved, class, max_bytes: MAX_STREAM_BYTES, progress }
    }

    /// The most that the node may ask, in base units; default whatever the budget leaves.
    pub fn max_price(mut self, max_price: Amount) -> Self {
        self.max_price = Some(max_price);
        self
    }

    /// The most that this upload may cost, in base units; default whatever the agent's budget leaves.
    pub fn budget(mut self, budget: Amount) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Nobody is asked any more about what it may cost.
    pub(crate) fn asks_nobody(mut self) -> Self {
        self.is_approved = true;
        self
    }

    /// Which class of content it is; a policy may cap what each class costs. At most 64 bytes.
    pub fn class(mut self, class: impl Into<String>) -> Self {
        self.class = class.into();
        self
    }

    /// The most that a stream may bring, in bytes; default 1 GiB. The price of one that is sent as it comes is set aside while
    /// it runs; one that is kept first takes so much room in the system's temporary folder.
    pub fn max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes.min(aro_proto::limits::MAX_CONTENT_SIZE);
        self
    }

    /// Called as the node takes bytes, at most once for each 256 KiB, and at the end of a file. It must not block.
    pub fn progress(mut self, report: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.progress = Reporter::new(Arc::new(report));
        self
    }

    /// The same as a stream, which replaces the callback: poll it beside the running upload.
    pub fn progress_stream(mut self) -> (Self, ProgressStream) {
        let (reporter, stream) = Reporter::stream();
        self.progress = reporter;
        (self, stream)
    }

    /// Publishes. Returns when the content is durable at the node.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn run(self) -> Result<PublishReport, FetchError> {
        let Self { agent, node, source, max_price, budget, is_approved, class, max_bytes, progress } = self;
        let started = Instant::now();
        let cap = agent.budget().per_request().min(budget.unwrap_or(UNBOUNDED));
        let purpose = Purpose::vouchers(node.node()).class(&class).request(cap);
        let allowed = max_price.unwrap_or(UNBOUNDED).min(agent.budget().left(&purpose));
        let terms = Terms { agent: &agent, node: &node, allowed, is_approved, progress: &progress, purpose: &purpose };
        let sent = match source {
            PublishSource::File(path) => {
                let opened = tokio::task::spawn_blocking(move || HashedFile::open(&path)).await;
                let file = opened.map_err(|error| source::source(std::io::Error::other(error)))??;
                terms.send(Some(file.content), file.size, Body::File(&Arc::new(file))).await
            }
            PublishSource::Spool(mut bytes) => {
                let file = HashedFile::spool(&mut *bytes, max_bytes).await?;
                terms.send(Some(file.content), file.size, Body::File(&Arc::new(file))).await
            }
            PublishSource::Stream(bytes) => terms.send(None, max_bytes, Body::Stream(Unread::new(bytes))).await,
        };
        if let Err(FetchError::ChannelUnusable { channel }) = &sent {
            agent.forget_session(node.node()).await;
            if let Err(error) = agent.look_up_channel(*channel).await {
                tracing::debug!(%error, %channel, "the chain does not say what became of the channel");
            }
        }
        let (sent, before, acknowledged) = sent.map_err(|error| explain(&agent, error, max_price, &purpose))?;
        let receipt = sent.receipt.receipt;
        Ok(PublishReport {
            address: node.with_content(receipt.content),
            content: receipt.content,
            size: receipt.size.get(),
            taken_bytes: before.content + receipt.taken.get(),
            wire_bytes: before.wire + sent.wire_bytes,
            paid: before.cost.saturating_add(sent.account.cost()),
            vouchers: before.vouchers + sent.account.vouchers(),
            acknowledged,
            receipt: sent.receipt,
            elapsed: started.elapsed(),
        })
    }
}

/// What an upload is sent under.
struct Terms<'a> {
    agent: &'a Agent,
    node: &'a NodeAddress,
    allowed: Amount,
    is_approved: bool,
    progress: &'a Reporter,
    purpose: &'a Purpose,
}

enum Body<'a> {
    File(&'a Arc<HashedFile>),
    Stream(Unread),
}

impl Terms<'_> {
    /// Sends, and provides what it takes to be paid, as long as nothing is read that could not be read again.
    async fn send(
        &self,
        content: Option<ContentId>,
        size: u64,
        mut body: Body<'_>,
    ) -> Result<(Sent, Brought, bool), FetchError> {
        let nowhere = ContentId::from_bytes([0; 32]);
        let address = self.node.with_content(content.unwrap_or(nowhere));
        let mut provider = Provider::new(self.agent, self.node.node());
        let session = self.agent.session(&address).await?;
        let allowed = self.approved(&session, content, size).await?;
        if matches!(body, Body::Stream(_)) {
            self.provide_for_all(&mut provider, &session, size, allowed).await?;
        }
        let (mut brought, mut breaks) = (Brought::default(), Breaks::default());
        loop {
            let session = match self.agent.session(&address).await {
                Ok(session) => session,
                Err(error) => {
                    breaks.pause(error, brought).await?;
                    continue;
                }
            };
            let left = allowed.saturating_sub(brought.cost);
            let error = match self.send_on(&session, content, size, left, &mut body, &mut brought).await {
                Ok((sent, acknowledged)) => return Ok((sent, brought, acknowledged)),
                Err(error) => error,
            };
            if error.who_acts() == WhoActs::RetryHere {
                breaks.pause(error, brought).await?;
                continue;
            }
            if matches!(&body, Body::Stream(bytes) if bytes.has_begun()) {
                // What was read is gone: only its caller can begin again.
                return Err(error);
            }
            match provider.lack(error).await? {
                Lack::Channel => provider.open(session.publish_price(size).min(allowed)).await?,
                Lack::Deposit { channel, missing } => provider.top_up(&session, channel, missing).await?,
                Lack::Nothing => {}
            }
        }
    }

    /// A stream is read once, so what all of it may need is provided before it begins, as far as that is allowed: with less, the
    /// node takes less. Where there is no channel yet, one that holds enough is opened when the node asks for it.
    async fn provide_for_all(
        &self,
        provider: &mut Provider,
        session: &Session,
        size: u64,
        allowed: Amount,
    ) -> Result<(), FetchError> {
        let (Some(channel), true) = (session.channel(), provider.may_provide()) else { return Ok(()) };
        let needed = upload_price(session, self.agent.config(), size).await?.min(allowed);
        let left = self.agent.deposit_left(self.node.node())?.unwrap_or_default();
        if needed > left
            && let Err(error) = provider.top_up(session, channel, needed.saturating_sub(left)).await
        {
            tracing::info!(%error, "the channel does not hold enough for all that the stream may bring");
        }
        Ok(())
    }

    /// Of a stream no more is announced than its channel pays for, so that a node which would take less knows that it has
    /// to look at the chain again.
    fn affordable(&self, session: &Session, size: u64) -> Result<u64, FetchError> {
        let left = self.agent.deposit_left(session.node())?.filter(|_| session.channel().is_some());
        let (Some(left), Some(tariff)) = (left, session.publish_tariff()) else { return Ok(size) };
        // Where nothing is left, the refusal says what is missing.
        Ok(size.min(tariff.affordable(left).get().max(1)))
    }

    /// What it may cost, once whoever must be asked has approved the price of all of it; what the node has already costs
    /// nothing.
    async fn approved(&self, session: &Session, content: Option<ContentId>, size: u64) -> Result<Amount, FetchError> {
        let threshold = self.agent.budget().ask_above().filter(|_| !self.is_approved);
        let Some(threshold) = threshold else { return Ok(self.allowed) };
        let price = upload_price(session, self.agent.config(), size).await?;
        let (node, amount, spending) = (session.node(), price.min(self.allowed), Spending::Vouchers);
        self.agent.approve(Approval { amount, threshold, node, content, spending }).await?;
        Ok(self.allowed.min(price.max(threshold)))
    }

    async fn send_on(
        &self,
        session: &Session,
        content: Option<ContentId>,
        size: u64,
        max_price: Amount,
        body: &mut Body<'_>,
        brought: &mut Brought,
    ) -> Result<(Sent, bool), FetchError> {
        let size = if matches!(body, Body::Stream(_)) { self.affordable(session, size)? } else { size };
        let request = Publish { content, size, group_log2: GroupSize::KIB64.log2(), max_price };
        let purpose = self.purpose.clone();
        let (config, progress, before) = (self.agent.config(), self.progress, *brought);
        let sending = Sending { session, config, request, progress, purpose, before };
        let mut sent = match body {
            Body::File(file) => sending.file(file, brought).await?,
            Body::Stream(bytes) => sending.stream(bytes).await?,
        };
        let acknowledged = sent.account.settle(session, self.agent.config().credit_timeout_ms).await;
        Ok((sent, acknowledged))
    }
}

/// How often an upload broke off since it last came further.
#[derive(Default)]
struct Breaks {
    content: u64,
    count: u32,
}

impl Breaks {
    /// Waits until the upload may go on. One that has brought nothing does not begin to wait, nor one whose bytes are gone: it
    /// fails at once, as does one that broke off too often and came no further.
    async fn pause(&mut self, error: FetchError, brought: Brought) -> Result<(), FetchError> {
        if brought.content > self.content {
            *self = Self { content: brought.content, count: 0 };
        }
        if brought.content == 0 || self.count >= MAX_BREAKS {
            return Err(error);
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.count);
        tracing::info!(%error, taken = brought.content, "an upload broke off; it goes on in {} ms", pause.as_millis());
        tokio::time::sleep(pause).await;
        self.count += 1;
        Ok(())
    }
}

/// What an upload of so many bytes costs at most.
async fn upload_price(session: &Session, config: &AgentConfig, size: u64) -> Result<Amount, FetchError> {
    let limit_ms = config.answer_timeout_ms;
    let hello =
        session.wait_for("waiting for the node's hello", limit_ms, |status| status.hello.is_some()).await?.hello;
    // A node that takes none refuses, whatever is approved.
    let tariff = hello.and_then(|hello| hello.publish).map(|terms| terms.tariff).unwrap_or_default();
    Ok(tariff.price(ByteCount::new(size)).unwrap_or(UNBOUNDED))
}

/// Puts an error into the caller's terms.
fn explain(agent: &Agent, error: FetchError, max_price: Option<Amount>, purpose: &Purpose) -> FetchError {
    let max_price = max_price.unwrap_or(UNBOUNDED);
    match error {
        FetchError::PriceTooHigh { price, .. } if price <= max_price => refusal(agent, purpose, price),
        FetchError::PriceTooHigh { price, .. } => FetchError::PriceTooHigh { price, allowed: max_price },
        other => other,
    }
}

fn as_text<T: std::fmt::Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn as_millis<S: Serializer>(elapsed: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// Tries of an upload that comes no further: with their pauses a quarter of a minute, which a node needs to start anew.
const MAX_BREAKS: u32 = 6;
/// Before the first of them; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const UNBOUNDED: Amount = Amount::new(u64::MAX);
/// The most that a stream brings, if its sender does not say otherwise: 1 GiB.
const MAX_STREAM_BYTES: u64 = 1 << 30;
