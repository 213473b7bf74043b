//! One upload on its stream: bytes out, acknowledgements in, and money for what is acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aro_proto::channel::BATCH_BYTES;
use aro_proto::error::close;
use aro_proto::merkle::{AnsweredRanges, ContentHasher};
use aro_proto::message::{
    Message, Publish, PublishHead, PublishReceipt, PublishTerms, Published, Refused, SignedPublishReceipt, TRAILER_LEN,
    Taken, Trailer,
};
use aro_proto::{Amount, ByteCount, ContentId, RefusalCode};
use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream, VarInt, WriteError};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinHandle;

use super::encoding::{Batch, Encoding};
use super::source::{HashedFile, source};
use crate::budget::Purpose;
use crate::config::AgentConfig;
use crate::error::{FetchError, Misbehaviour, RequestFacts};
use crate::fetch::account::StreamAccount;
use crate::fetch::progress::{Progress, Reporter};
use crate::fetch::request::{decode, frame_failure};
use crate::receipts::Subject;
use crate::transport::{BindStatus, Frame, Session, Upload, read_any_frame};
use crate::wallet::Lane;

/// Everything about one upload but its bytes.
pub(super) struct Sending<'a> {
    pub(super) session: &'a Session,
    pub(super) config: &'a AgentConfig,
    pub(super) request: Publish,
    pub(super) progress: &'a Reporter,
    pub(super) purpose: Purpose,
    /// What this upload brought before it broke off.
    pub(super) before: Brought,
}

/// What an upload has brought so far, and what that cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Brought {
    /// Content bytes that the node has acknowledged.
    pub(super) content: u64,
    pub(super) wire: u64,
    pub(super) cost: Amount,
    pub(super) vouchers: u64,
}

impl Brought {
    /// With what another try has brought.
    pub(super) fn and(self, account: &StreamAccount, wire: u64) -> Self {
        Self {
            content: self.content + account.proven(),
            wire: self.wire + wire,
            cost: self.cost.saturating_add(account.cost()),
            vouchers: self.vouchers + account.vouchers(),
        }
    }
}

/// An upload that has ended well.
pub(super) struct Sent {
    pub(super) receipt: SignedPublishReceipt,
    pub(super) account: StreamAccount,
    pub(super) wire_bytes: u64,
}

/// How much has left, for whoever hears the acknowledgements.
#[derive(Default)]
struct Meter {
    content: AtomicU64,
    wire: AtomicU64,
    is_done: AtomicBool,
}

impl Meter {
    fn content(&self) -> u64 {
        self.content.load(Ordering::Relaxed)
    }

    fn wire(&self) -> u64 {
        self.wire.load(Ordering::Relaxed)
    }
}

/// The way of an upload's bytes, which is reset when it is left. A stream that is only dropped ends as one that is whole: a
/// node that finds something missing refuses it, and bills what it has acknowledged, although nobody hears that any more.
// r[impl publish.cancel.reset]
struct Outgoing(SendStream);

impl Drop for Outgoing {
    fn drop(&mut self) {
        // One that has ended well, or was stopped, is past it.
        let _ = self.0.reset(VarInt::from_u32(close::CANCELLED));
    }
}

/// The node's first word.
enum First {
    Head(PublishHead),
    /// It had the content already.
    Published(Published),
}

impl Sending<'_> {
    /// Sends what the node lacks of a file. If that breaks off, `brought` says how far it came.
    pub(super) async fn file(&self, file: &Arc<HashedFile>, brought: &mut Brought) -> Result<Sent, FetchError> {
        let (upload, mut account) = self.open().await?;
        let Upload { send, mut recv, .. } = upload;
        let mut send = Outgoing(send);
        let head = match self.first(&mut recv, &mut account).await? {
            First::Published(published) => {
                return self.conclude(&published, (file.content, file.size, 0), account, 0);
            }
            First::Head(head) => head,
        };
        let answered = self.check_file_head(&head).await?;
        self.accept(&head, &mut account).await?;
        let (meter, total) = (Meter::default(), answered.content_bytes());
        let sending = send_file(&mut send.0, Encoding::new(Arc::clone(file), answered), &meter);
        let published = self.exchange(sending, &mut recv, &mut account, &meter, total).await;
        if published.is_err() {
            *brought = brought.and(&account, meter.wire());
        }
        self.conclude(&published?, (file.content, file.size, total), account, meter.wire())
    }

    /// Sends a stream to its end.
    pub(super) async fn stream(&self, bytes: &mut (dyn AsyncRead + Send + Unpin)) -> Result<Sent, FetchError> {
        let (upload, mut account) = self.open().await?;
        let Upload { send, mut recv, .. } = upload;
        let mut send = Outgoing(send);
        let First::Head(head) = self.first(&mut recv, &mut account).await? else {
            return Err(self.misbehaved(Misbehaviour::Receipt));
        };
        let terms = self.terms().await?;
        if !head.missing.is_all() || head.content_bytes.get() > self.request.size {
            return Err(self.misbehaved(Misbehaviour::ContentBytes {
                claimed: head.content_bytes,
                computed: ByteCount::new(self.request.size),
            }));
        }
        self.check_price(&head, &terms)?;
        self.accept(&head, &mut account).await?;
        let (meter, mut hasher, limit) = (Meter::default(), ContentHasher::default(), head.content_bytes.get());
        let sending = send_stream(&mut send.0, bytes, &mut hasher, limit, &meter);
        let published = self.exchange(sending, &mut recv, &mut account, &meter, limit).await?;
        let (content, size) = hasher.finish();
        self.conclude(&published, (content, size, size), account, meter.wire())
    }

    async fn open(&self) -> Result<(Upload, StreamAccount), FetchError> {
        let upload = self.session.upload(&self.request, self.config.answer_timeout_ms).await?;
        let account = {
            let subject = Subject::publish(self.request.content);
            StreamAccount::open(self.session.control().clone(), upload.stream, self.purpose.clone(), subject)
        };
        Ok((upload, account))
    }

    async fn first(&self, recv: &mut RecvStream, account: &mut StreamAccount) -> Result<First, FetchError> {
        let waited_ms = self.config.answer_timeout_ms;
        let heard = tokio::time::timeout(Duration::from_millis(waited_ms), read_any_frame(recv)).await;
        let frame = match heard {
            Err(_) => return Err(FetchError::Timeout { doing: "waiting for an answer", waited_ms }),
            Ok(frame) => frame.map_err(|error| frame_failure(self.session, error))?,
        };
        // No money before the node's chain is compared, whatever came first.
        // r[impl identity.chain.before_money]
        self.hello().await?;
        match frame.kind {
            Refused::KIND => {
                account.refused();
                Err(self.refusal(&frame)?)
            }
            Published::KIND => {
                account.refused();
                Ok(First::Published(decode(self.session, &frame)?))
            }
            _ => Ok(First::Head(decode(self.session, &frame)?)),
        }
    }

    /// The node wants what is missing of the file and nothing else, at its own price.
    // r[impl publish.head.checked]
    async fn check_file_head(&self, head: &PublishHead) -> Result<AnsweredRanges, FetchError> {
        let terms = self.terms().await?;
        let group = aro_proto::merkle::GroupSize::from_log2(self.request.group_log2).expect("chosen here");
        let answered = head.missing.answered(self.request.size, group);
        let computed = ByteCount::new(answered.content_bytes());
        if head.content_bytes != computed {
            return Err(self.misbehaved(Misbehaviour::ContentBytes { claimed: head.content_bytes, computed }));
        }
        self.check_price(head, &terms)?;
        Ok(answered)
    }

    fn check_price(&self, head: &PublishHead, terms: &PublishTerms) -> Result<(), FetchError> {
        let computed = terms.tariff.price(head.content_bytes).unwrap_or(Amount::new(u64::MAX));
        if head.price != computed {
            return Err(self.misbehaved(Misbehaviour::Price { claimed: head.price, computed }));
        }
        if computed > self.request.max_price {
            let allowed = self.request.max_price;
            return Err(self.misbehaved(Misbehaviour::AboveMaxPrice { price: computed, allowed }));
        }
        Ok(())
    }

    async fn accept(&self, head: &PublishHead, account: &mut StreamAccount) -> Result<(), FetchError> {
        let lane = if head.price.is_zero() { None } else { Some(self.lane().await?) };
        account.accept_at(head.content_bytes, head.price, self.terms().await?.tariff, lane)
    }

    /// Sends and hears until the node has the last word. What goes wrong in sending because the node stopped reading,
    /// the node explains.
    async fn exchange(
        &self,
        sending: impl Future<Output = Result<(), FetchError>>,
        recv: &mut RecvStream,
        account: &mut StreamAccount,
        meter: &Meter,
        total: u64,
    ) -> Result<Published, FetchError> {
        let hearing = self.hear(recv, account, meter, total);
        tokio::pin!(sending, hearing);
        tokio::select! {
            biased;
            heard = &mut hearing => return heard,
            sent = &mut sending => sent?,
        }
        meter.is_done.store(true, Ordering::Relaxed);
        hearing.await
    }

    /// Hears acknowledgements, and pays for them, up to the receipt.
    // r[impl publish.pay.acknowledged]
    async fn hear(
        &self,
        recv: &mut RecvStream,
        account: &mut StreamAccount,
        meter: &Meter,
        total: u64,
    ) -> Result<Published, FetchError> {
        let (mut reported, waited_ms) = (0, self.config.stall_timeout_ms);
        loop {
            let mut sent_before = meter.wire();
            let reading = read_any_frame(recv);
            tokio::pin!(reading);
            let frame = loop {
                match tokio::time::timeout(Duration::from_millis(waited_ms), &mut reading).await {
                    Ok(frame) => break frame.map_err(|error| frame_failure(self.session, error))?,
                    // A slow source leaves the node nothing to say.
                    Err(_) if self.is_idle(account, meter) || meter.wire() != sent_before => {
                        sent_before = meter.wire();
                    }
                    Err(_) => return Err(FetchError::Timeout { doing: "uploading", waited_ms }),
                }
            };
            match frame.kind {
                Taken::KIND => {
                    let taken: Taken = decode(self.session, &frame)?;
                    let sent = meter.content();
                    let Some(rise) = taken.bytes.checked_sub(account.proven()).filter(|_| taken.bytes <= sent) else {
                        return Err(self.misbehaved(Misbehaviour::Taken { claimed: taken.bytes, sent }));
                    };
                    account.proved(rise);
                    let progress = || Progress {
                        proven_bytes: self.before.content + account.proven(),
                        total_bytes: self.before.content + total,
                        wire_bytes: self.before.wire + meter.wire(),
                        spent: self.before.cost.saturating_add(account.cost()),
                    };
                    reported = self.progress.step(reported, progress, account.proven(), total);
                }
                Refused::KIND => return Err(self.refusal(&frame)?),
                _ => return decode(self.session, &frame),
            }
        }
    }

    /// True if the node waits for us.
    fn is_idle(&self, account: &StreamAccount, meter: &Meter) -> bool {
        let unheard = meter.content().saturating_sub(account.proven());
        !meter.is_done.load(Ordering::Relaxed) && unheard < BATCH_BYTES + TRAILER_LEN as u64
    }

    /// Takes the receipt if it is the node's, for this very upload.
    // r[impl publish.receipt.checked]
    fn conclude(
        &self,
        published: &Published,
        (content, size, taken): (ContentId, u64, u64),
        mut account: StreamAccount,
        wire_bytes: u64,
    ) -> Result<Sent, FetchError> {
        let receipt = published.receipt.verify(&self.session.node());
        let receipt = receipt.map_err(|_| self.misbehaved(Misbehaviour::Receipt))?;
        let PublishReceipt { at, price, .. } = receipt;
        let due = PublishReceipt {
            content,
            size: ByteCount::new(size),
            publisher: self.session.signer(),
            taken: ByteCount::new(taken),
            price,
            at,
        };
        if receipt != due || account.proven() != taken {
            return Err(self.misbehaved(Misbehaviour::Receipt));
        }
        account.whole();
        account.signed(published.receipt);
        Ok(Sent { receipt: published.receipt, account, wire_bytes })
    }

    async fn hello(&self) -> Result<Option<PublishTerms>, FetchError> {
        let limit_ms = self.config.answer_timeout_ms;
        let ready = self.session.wait_for("waiting for the node's hello", limit_ms, |status| status.hello.is_some());
        Ok(ready.await?.hello.and_then(|hello| hello.publish))
    }

    async fn terms(&self) -> Result<PublishTerms, FetchError> {
        self.hello().await?.ok_or_else(|| self.misbehaved(Misbehaviour::Ended("the terms of uploads in its hello")))
    }

    /// The channel that pays, once it is bound.
    async fn lane(&self) -> Result<Arc<Lane>, FetchError> {
        let limit_ms = self.config.answer_timeout_ms;
        let is_ready = |status: &crate::transport::Status| !matches!(status.bind, BindStatus::Pending);
        match &self.session.wait_for("binding the channel", limit_ms, is_ready).await?.bind {
            BindStatus::Bound(lane) => Ok(Arc::clone(lane)),
            BindStatus::Refused(refusal) => Err(FetchError::from_refusal(refusal.clone(), &self.facts())),
            BindStatus::Unbound | BindStatus::Pending => Err(FetchError::NoChannel { node: self.session.node() }),
        }
    }

    fn refusal(&self, frame: &Frame) -> Result<FetchError, FetchError> {
        let refused: Refused = decode(self.session, frame)?;
        // The binding's own answer says more than the request's, which only knows that nothing is bound.
        let why = match &self.session.control().status().bind {
            BindStatus::Refused(refusal) if refused.refusal.code() == RefusalCode::NoChannel => refusal.clone(),
            _ => refused.refusal,
        };
        Ok(FetchError::from_refusal(why, &self.facts()))
    }

    fn facts(&self) -> RequestFacts {
        RequestFacts {
            content: self.request.content.unwrap_or(ContentId::from_bytes([0; 32])),
            node: self.session.node(),
            allowed: self.request.max_price,
            channel: self.session.channel(),
        }
    }

    fn misbehaved(&self, what: Misbehaviour) -> FetchError {
        FetchError::misbehaved(self.session.node(), what)
    }
}

/// While one batch leaves, the next is read.
async fn send_file(send: &mut SendStream, encoding: Encoding, meter: &Meter) -> Result<(), FetchError> {
    let mut reading = read_next(encoding);
    loop {
        let (encoding, batch) = reading.await.map_err(|error| source(std::io::Error::other(error)))?;
        let Some(batch) = batch.map_err(source)? else { break };
        reading = read_next(encoding);
        meter.content.fetch_add(batch.content_bytes, Ordering::Relaxed);
        if !put(send, batch.wire, meter).await {
            return Ok(());
        }
    }
    // Stopped already is as good.
    let _ = send.finish();
    Ok(())
}

fn read_next(mut encoding: Encoding) -> JoinHandle<(Encoding, std::io::Result<Option<Batch>>)> {
    tokio::task::spawn_blocking(move || {
        let batch = encoding.next_batch();
        (encoding, batch)
    })
}

async fn send_stream(
    send: &mut SendStream,
    bytes: &mut (dyn AsyncRead + Send + Unpin),
    hasher: &mut ContentHasher,
    limit: u64,
    meter: &Meter,
) -> Result<(), FetchError> {
    loop {
        let mut buffer = BytesMut::with_capacity(READ_AT_ONCE);
        if bytes.read_buf(&mut buffer).await.map_err(source)? == 0 {
            break;
        }
        hasher.update(&buffer);
        let size = hasher.count();
        if size > limit {
            return Err(FetchError::TooLarge { size, limit });
        }
        meter.content.store(size, Ordering::Relaxed);
        if !put(send, buffer.freeze(), meter).await {
            return Ok(());
        }
    }
    let (content, size) = hasher.finish();
    if put(send, Bytes::copy_from_slice(&Trailer { content, size }.to_bytes()), meter).await {
        let _ = send.finish();
    }
    Ok(())
}

/// Sends bytes. False if nobody reads them any more: why, the answer tells, or the connection.
async fn put(send: &mut SendStream, bytes: Bytes, meter: &Meter) -> bool {
    let len = bytes.len() as u64;
    match send.write_chunk(bytes).await {
        Ok(()) => {
            meter.wire.fetch_add(len, Ordering::Relaxed);
            true
        }
        Err(WriteError::Stopped(_) | WriteError::ConnectionLost(_)) => false,
        Err(WriteError::ClosedStream | WriteError::ZeroRttRejected) => false,
    }
}

/// Bytes read from a stream at once.
const READ_AT_ONCE: usize = 64 << 10;
