//! Serving content: reserved before it begins, billed before it leaves, never beyond the credit window.
//!
//! The path of a byte, a quarter MiB at a time and all in the stream's own task: the batch is hot and taken as it is, or
//! one scattering read copies it out of the system's page cache into a pooled page, around its hashes; credit is asked
//! for; the page goes to quinn, which copies it into packets and lets the page return when they are acknowledged. Only a
//! batch that lies on the disk is read by a thread that may wait. Nothing is hashed: that was done when the content
//! came. Vouchers arrive on the control stream, are made durable by the committer's thread and only move the window,
//! so that a paying agent's stream never waits for them. A stream holds one batch at most, whatever the content's size. Small contents are
//! kept whole in memory, and many of them leave in one write.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aro_proto::channel::{BATCH_BYTES, InFlight, StreamKey};
use aro_proto::error::close;
use aro_proto::identity::Verified;
use aro_proto::merkle::{AnsweredRanges, ByteRanges};
use aro_proto::message::{self, Fetch, FetchHead, Message, Refused, list_id};
use aro_proto::wire::encode_frame;
use aro_proto::{Amount, ByteCount, Charge, ContentId, Refusal, RefusalCode, Tariff};
use bytes::Bytes;
use quinn::{SendStream, StoppedError, StreamId, VarInt, WriteError};
use tokio::sync::oneshot;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::credit::{NoCredit, bill};
use super::describe::{not_found, sizes, unpayable, unreadable};
use super::{Outcome, deposit, group_size};
use crate::channels::PaidChannel;
use crate::content::{Batch, BatchReader, SmallContent, StoredContent};
use crate::shared::{Counters, Shared};
use crate::transport::{Acknowledged, Fault, SendFrameError, Session, send_frame_within};

pub(super) async fn answer(
    session: &Arc<Session>,
    request: &Verified<Fetch>,
    send: &mut SendStream,
    ended: oneshot::Receiver<ByteCount>,
) -> Result<Outcome, Fault> {
    let node = &session.node;
    let (plan, account) = match admit(session, request).await {
        Ok(admitted) => admitted,
        Err(refusal) => return Ok(Outcome::Refused(refusal)),
    };
    // Only now: a request that waits for its channel must not keep others out.
    let (Ok(_own), Ok(_place)) = (session.fetches.try_acquire(), node.requests.try_acquire()) else {
        return Ok(Outcome::Refused(Refusal::new(RefusalCode::OverCapacity, "too many fetches at once")));
    };
    let (stopped, stream, patience) = (Box::pin(send.stopped()), send.id(), session.stall_timeout());
    let arrived = Arc::default();
    let mut delivery = Delivery { session, send, stopped, account, sent: 0, arrived, patience };
    let ending = delivery.run(plan).await;
    if let Some((account, sent)) = delivery.settle(ending, ended).await {
        receipt_is_due(session, request.message(), stream, account, sent);
    }
    Ok(Outcome::Done)
}

/// The request has ended: once it is paid it is signed for.
fn receipt_is_due(session: &Session, fetch: &Fetch, stream: StreamId, account: Account, sent: ByteCount) {
    let (channel, bytes) = (Arc::clone(&account.channel), account.end.delivered(sent));
    // Ends the stream in the channel, whose bill is then what is to be paid.
    drop(account);
    if bytes == ByteCount::ZERO {
        return;
    }
    let (content, ranges) = match fetch.items.as_slice() {
        [one] => (one.content, one.ranges.clone()),
        several => (list_id(several.iter().map(|item| item.content)), ByteRanges::all()),
    };
    let delivery = message::Delivery {
        stream: u64::from(VarInt::from(stream)),
        content,
        contents: u32::try_from(fetch.items.len()).unwrap_or(u32::MAX),
        ranges,
        bytes,
        amount: session.node.config.tariff.price(bytes).unwrap_or_default(),
    };
    session.receipts.add(channel.billed(), delivery);
}

/// One item of a fetch, looked up and priced.
enum Item {
    Serve { content: ContentId, answered: AnsweredRanges, head: FetchHead },
    Refuse(Refusal),
}

/// A request's place in its channel; released when dropped.
struct Account {
    session: Arc<Session>,
    channel: Arc<PaidChannel>,
    stream: StreamKey,
    end: End,
}

/// What is known of a delivery's end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Delivered whole, all acknowledged.
    Whole,
    /// The agent says that it proved so much.
    Proven(ByteCount),
    /// It says nothing, so the transport does.
    Lost(InFlight),
}

impl End {
    /// Content bytes that count as delivered.
    fn delivered(self, sent: ByteCount) -> ByteCount {
        match self {
            Self::Whole => sent,
            Self::Proven(bytes) | Self::Lost(InFlight { acknowledged: bytes, .. }) => bytes.min(sent),
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let delivered = match self.end {
            End::Whole => self.channel.end(self.stream, None),
            End::Proven(bytes) => self.channel.end(self.stream, Some(bytes)),
            End::Lost(seen) => self.channel.lost(self.stream, seen),
        };
        self.session.delivers(delivered);
    }
}

// r[impl request.refusal.finish]
async fn admit(session: &Arc<Session>, request: &Verified<Fetch>) -> Result<(Vec<Item>, Option<Account>), Refusal> {
    let (fetch, tariff) = (request.message(), session.node.config.tariff);
    let items = look_up(&session.node, fetch, tariff).await?;
    let content_bytes = items.iter().try_fold(0_u64, |sum, item| match item {
        Item::Serve { head, .. } => sum.checked_add(head.content_bytes.get()),
        Item::Refuse(_) => Some(sum),
    });
    let content_bytes = ByteCount::new(content_bytes.ok_or_else(unpayable)?);
    let charge = tariff.charge(content_bytes);
    let price = charge.to_amount().ok_or_else(unpayable)?;
    if let [Item::Refuse(refusal)] = items.as_slice() {
        return Err(refusal.clone());
    }
    // r[impl request.max_price]
    if price > fetch.max_price {
        let reason = format!("the price is {price} $ARO, the request allows {}", fetch.max_price);
        return Err(Refusal::new(RefusalCode::PriceTooHigh, reason).with_amount(price));
    }
    if charge == Charge::ZERO {
        return Ok((items, None));
    }
    let channel = session.channel().await.map_err(|refusal| with_price(refusal, price))?;
    if let Some(refusal) = session.node.freshness.refusal(std::time::Instant::now()) {
        return Err(refusal);
    }
    // r[impl request.signature.bound]
    if request.signer() != channel.signer() {
        return Err(Refusal::new(RefusalCode::Unauthorised, "the request is not signed by the channel's signer"));
    }
    let stream = deposit::reserve(session, &channel, tariff, content_bytes).await?;
    Ok((items, Some(Account { session: Arc::clone(session), channel, stream, end: End::Whole })))
}

async fn look_up(node: &Arc<Shared>, fetch: &Fetch, tariff: Tariff) -> Result<Vec<Item>, Refusal> {
    let group = group_size(fetch.group_log2)?;
    let sizes = sizes(node, fetch.items.iter().map(|item| item.content).collect()).await?;
    let items = fetch.items.iter().zip(sizes).map(|(item, size)| {
        // One that is damaged does not stand in the way of the others.
        let size = match size {
            Ok(Some(size)) => size,
            Ok(None) => return Ok(Item::Refuse(not_found(item.content))),
            Err(refusal) => return Ok(Item::Refuse(refusal)),
        };
        let answered = item.ranges.answered(size, group);
        let content_bytes = ByteCount::new(answered.content_bytes());
        let price = tariff.price(content_bytes).ok_or_else(unpayable)?;
        let head = FetchHead { size: ByteCount::new(size), content_bytes, price };
        Ok(Item::Serve { content: item.content, answered, head })
    });
    items.collect()
}

pub(super) fn with_price(refusal: Refusal, price: Amount) -> Refusal {
    if refusal.code() == RefusalCode::NoChannel { refusal.with_amount(price) } else { refusal }
}

/// How a delivery ended.
#[derive(Debug)]
enum Ending {
    /// Everything is written; whether it arrives is still to be seen.
    Written,
    /// The agent does not want the rest.
    Stopped,
    /// The connection is gone.
    Lost,
    /// Payment did not come in time, or the channel has closed.
    Unpaid,
    /// The chain was out of sight for too long to lend more.
    Blind,
    /// The agent reads nothing any more.
    Stalled,
    /// The disk failed.
    Failed,
}

/// Answers that are written together.
#[derive(Default)]
struct Run {
    wire: Vec<Bytes>,
    content_bytes: u64,
}

impl Run {
    fn has_room_for(&self, content: ByteCount) -> bool {
        self.content_bytes == 0 || self.content_bytes.saturating_add(content.get()) <= BATCH_BYTES
    }

    fn push(&mut self, head: &FetchHead, content: &SmallContent, answered: &AnsweredRanges) -> io::Result<()> {
        self.say(head);
        content.encode(answered, &mut self.wire)?;
        self.content_bytes += head.content_bytes.get();
        Ok(())
    }

    fn say<M: Message>(&mut self, message: &M) {
        self.wire.push(encode_frame(message).expect("what a node says fits a frame").into());
    }
}

type Stopped = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send>>;

struct Delivery<'a> {
    session: &'a Arc<Session>,
    send: &'a mut SendStream,
    stopped: Stopped,
    account: Option<Account>,
    /// Content bytes that were given to the transport.
    sent: u64,
    /// Of these, what has arrived.
    arrived: Arc<Acknowledged>,
    /// How long the agent may leave no room for a write.
    patience: Duration,
}

impl Delivery<'_> {
    fn node(&self) -> &Arc<Shared> {
        &self.session.node
    }

    async fn run(&mut self, plan: Vec<Item>) -> Ending {
        match self.serve_all(plan).await {
            Ok(()) => match self.send.finish() {
                Ok(()) => Ending::Written,
                Err(_) => Ending::Lost,
            },
            Err(ending) => ending,
        }
    }

    /// Small contents leave together from memory, up to a batch in one write.
    async fn serve_all(&mut self, plan: Vec<Item>) -> Result<(), Ending> {
        let mut run = Run::default();
        for (place, item) in plan.iter().enumerate() {
            let (content, answered, head) = match item {
                Item::Serve { content, answered, head } => (*content, answered, head),
                Item::Refuse(refusal) => {
                    run.say(&Refused { refusal: refusal.clone() });
                    continue;
                }
            };
            if !run.has_room_for(head.content_bytes) {
                self.send_run(&mut run).await?;
            }
            if !self.node().store.holds_small(answered.size()) {
                self.send_run(&mut run).await?;
                self.serve(content, answered.clone(), *head).await?;
                continue;
            }
            match small(self.node(), content, &plan[place..]).await {
                Some(small) if small.size() == answered.size() => {
                    run.push(head, &small, answered).map_err(|error| {
                        tracing::error!(%content, %error, "a content in memory cannot be encoded");
                        Ending::Failed
                    })?;
                }
                Some(_) | None => run.say(&Refused { refusal: unreadable() }),
            }
        }
        self.send_run(&mut run).await
    }

    async fn send_run(&mut self, run: &mut Run) -> Result<(), Ending> {
        let Run { mut wire, content_bytes } = std::mem::take(run);
        if wire.is_empty() {
            return Ok(());
        }
        if content_bytes > 0 {
            self.permit(ByteCount::new(content_bytes)).await?;
        }
        // The last one is dropped when all of them are acknowledged.
        if let Some(last) = wire.last_mut() {
            *last = self.hand_over(std::mem::take(last), ByteCount::new(content_bytes));
        }
        let kept = wire.last().cloned();
        // An agent that does not read would keep its place for ever.
        let written = timeout(self.patience, self.send.write_all_chunks(&mut wire)).await;
        self.written(written, ByteCount::new(content_bytes), kept)
    }

    /// Counts content as sent, whatever becomes of it.
    fn hand_over(&mut self, wire: Bytes, content: ByteCount) -> Bytes {
        self.sent += content.get();
        if self.account.is_some() {
            self.session.hands_over(content);
        }
        self.arrived.track(wire, content)
    }

    /// What became of a write; `kept` keeps what was tracked until here.
    fn written(
        &self,
        written: Result<Result<(), WriteError>, Elapsed>,
        content: ByteCount,
        kept: Option<Bytes>,
    ) -> Result<(), Ending> {
        let outcome = match written {
            Ok(written) => written.map_err(Ending::from),
            Err(_) => Err(Ending::Stalled),
        };
        match outcome {
            Ok(()) => Counters::add(&self.node().counters.content_bytes, content.get()),
            Err(_) => self.arrived.close(),
        }
        drop(kept);
        outcome
    }

    async fn serve(&mut self, content: ContentId, answered: AnsweredRanges, head: FetchHead) -> Result<(), Ending> {
        let Some(found) = find(self.node(), content).await.filter(|found| found.size() == answered.size()) else {
            // A content of another size under the same id cannot be: the folder was touched by hand.
            tracing::error!(%content, "a content went away while it was asked for");
            return self.say(&Refused { refusal: unreadable() }).await;
        };
        let mut reader = BatchReader::new(found, answered);
        let mut batch;
        (reader, batch) = next_batch(reader).await?;
        if let Err(error) = &batch {
            tracing::error!(%content, %error, "a content cannot be read");
            return self.say(&Refused { refusal: unreadable() }).await;
        }
        self.say(&head).await?;
        loop {
            match batch {
                Ok(Some(current)) => self.send(current).await?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::error!(%content, %error, "a content cannot be read");
                    return Err(Ending::Failed);
                }
            }
            (reader, batch) = next_batch(reader).await?;
        }
    }

    async fn send(&mut self, batch: Batch) -> Result<(), Ending> {
        if batch.wire.is_empty() {
            return Ok(());
        }
        let content = ByteCount::new(batch.content_bytes);
        self.permit(content).await?;
        let wire = self.hand_over(batch.wire, content);
        let kept = Some(wire.clone());
        // An agent that does not read would keep its place for ever.
        let written = timeout(self.patience, self.send.write_chunk(wire)).await;
        self.written(written, content, kept)
    }

    async fn say<M: Message>(&mut self, message: &M) -> Result<(), Ending> {
        Ok(send_frame_within(self.send, message, self.patience).await?)
    }

    /// Waits until the batch may be sent and bills it with that, unless the agent stops the stream first.
    async fn permit(&mut self, bytes: ByteCount) -> Result<(), Ending> {
        let Some(account) = &self.account else { return Ok(()) };
        tokio::select! {
            // In this order, for credit is there at once as a rule.
            biased;
            billed = bill(&self.session.node, &account.channel, account.stream, bytes) => Ok(billed?),
            stopped = &mut self.stopped => Err(ending_of(&stopped)),
        }
    }

    /// Brings the two counts together. What comes back releases the reservation, and tells the bytes sent.
    // r[impl channel.cancel.settle]
    async fn settle(mut self, ending: Ending, mut ended: oneshot::Receiver<ByteCount>) -> Option<(Account, ByteCount)> {
        let ending = match ending {
            Ending::Written => match timeout(self.patience, &mut self.stopped).await {
                // All is acknowledged.
                Ok(Ok(None)) => Ending::Written,
                Ok(stopped) => ending_of(&stopped),
                Err(_) => Ending::Stalled,
            },
            other => other,
        };
        let code = match ending {
            Ending::Unpaid => Some(close::UNPAID),
            Ending::Blind | Ending::Stalled | Ending::Failed => Some(close::CANCELLED),
            Ending::Written | Ending::Stopped | Ending::Lost => None,
        };
        // A reset drops what is not acknowledged.
        self.arrived.close();
        if let Some(code) = code {
            // Closed already is as good.
            let _ = self.send.reset(VarInt::from_u32(code));
        }
        let mut account = self.account.take()?;
        let said = match ending {
            Ending::Written | Ending::Lost => ended.try_recv().ok(),
            Ending::Stopped | Ending::Unpaid | Ending::Blind | Ending::Stalled | Ending::Failed => {
                tokio::select! {
                    said = timeout(self.session.exchange_timeout(), ended) => said.ok().and_then(Result::ok),
                    _ = self.session.connection.closed() => None,
                }
            }
        };
        account.end = match (said, ending) {
            (Some(proven), _) => End::Proven(proven),
            (None, Ending::Written) => End::Whole,
            (None, _) => End::Lost(self.in_flight()),
        };
        Some((account, ByteCount::new(self.sent)))
    }

    /// What the transport knows of the delivery, once nothing more is written.
    // r[impl channel.lost.settle]
    fn in_flight(&self) -> InFlight {
        let acknowledged = self.arrived.bytes();
        let unsent = self.session.never_left(ByteCount::new(self.sent).saturating_sub(acknowledged));
        InFlight { acknowledged, unsent }
    }
}

/// A small content in memory. If it is not there yet, it is read now, and what follows it in the answer along with it, up
/// to a batch.
async fn small(node: &Shared, content: ContentId, coming: &[Item]) -> Option<Arc<SmallContent>> {
    if let Some(small) = node.store.small(content) {
        return Some(small);
    }
    let mut room = BATCH_BYTES;
    let wanted = coming.iter().map_while(|item| match item {
        Item::Serve { content, answered, .. } => {
            room = room.checked_sub(answered.size())?;
            node.store.holds_small(answered.size()).then_some(*content)
        }
        Item::Refuse(_) => None,
    });
    let (wanted, store) = (wanted.collect::<Vec<_>>(), node.store.clone());
    let loading = tokio::task::spawn_blocking(move || {
        let load = |content: ContentId| {
            let loaded = store.load_small(content);
            loaded.inspect_err(|error| tracing::error!(%content, %error, "a content cannot be read")).ok().flatten()
        };
        // All of them, for each is kept; the first may be gone from there again before it is looked for.
        wanted.into_iter().map(load).fold(None, |first, loaded| first.or(Some(loaded)))
    });
    loading.await.ok()?.flatten()
}

/// The content, open: at once if it was read lately.
async fn find(node: &Shared, content: ContentId) -> Option<Arc<StoredContent>> {
    if let Some(found) = node.store.cached(content) {
        return Some(found);
    }
    let store = node.store.clone();
    let found = tokio::task::spawn_blocking(move || store.get(content)).await;
    found.ok().and_then(Result::ok).flatten()
}

/// The next batch: here and now if the system holds it in memory, on a thread that may wait if it is on the disk. The
/// system reads ahead, so that the disk works while the network does.
async fn next_batch(mut reader: BatchReader) -> Result<(BatchReader, io::Result<Option<Batch>>), Ending> {
    match reader.next_in_memory() {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let reading = tokio::task::spawn_blocking(move || {
                let batch = reader.next_batch();
                (reader, batch)
            });
            reading.await.map_err(|_| Ending::Failed)
        }
        batch => Ok((reader, batch)),
    }
}

fn ending_of(stopped: &Result<Option<VarInt>, StoppedError>) -> Ending {
    match stopped {
        Ok(Some(_)) => Ending::Stopped,
        Ok(None) | Err(_) => Ending::Lost,
    }
}

impl From<NoCredit> for Ending {
    fn from(why: NoCredit) -> Self {
        match why {
            NoCredit::Unpaid => Self::Unpaid,
            NoCredit::Blind => Self::Blind,
        }
    }
}

impl From<SendFrameError> for Ending {
    fn from(error: SendFrameError) -> Self {
        match error {
            SendFrameError::Stalled => Self::Stalled,
            SendFrameError::Write(error) => error.into(),
        }
    }
}

impl From<WriteError> for Ending {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(_) => Self::Stopped,
            WriteError::ConnectionLost(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::Lost,
        }
    }
}
