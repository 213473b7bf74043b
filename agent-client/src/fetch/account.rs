//! One request's account: what it proved, what that costs, and its end, which is told to the node on every way out.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aro_proto::channel::StreamKey;
use aro_proto::merkle::ByteRanges;
use aro_proto::message::{Delivery, SignedPublishReceipt};
use aro_proto::{Amount, ByteCount, Tariff};

use crate::budget::{Purpose, Reservation};
use crate::error::FetchError;
use crate::receipts::{Check, Entry, EntryKind, Subject, Word};
use crate::transport::{BindStatus, Control, Session};
use crate::wallet::Lane;
use tokio::sync::oneshot;

/// Counts one request's proven bytes. Dropped before its end it cancels: proven bytes are paid, the rest is not owed.
pub(crate) struct StreamAccount {
    tally: Arc<Tally>,
    subject: Subject,
    /// The node's word for an upload.
    receipt: Option<SignedPublishReceipt>,
    /// Tells what becomes of the node's receipt.
    awaited: Option<oneshot::Receiver<Check>>,
    vouchers_before: u64,
    expected: Option<u64>,
}

/// The count itself, which whoever makes proven bytes safe shares: what waits for a disk is proven, but the channel owes
/// for it only once it is written, so that what is signed is never ahead of what a crash leaves. The end of the request
/// waits for nothing.
pub(crate) struct Tally {
    control: Control,
    stream: u64,
    purpose: Purpose,
    books: Mutex<Books>,
}

struct Books {
    /// The channel that pays, once the answer's head was accepted; none where content is free.
    lane: Option<Arc<Lane>>,
    proven: u64,
    /// Of these, what the channel does not owe for yet.
    waiting: u64,
    cost: Amount,
    is_open: bool,
}

impl StreamAccount {
    pub(crate) fn open(control: Control, stream: u64, purpose: Purpose, subject: Subject) -> Self {
        let books = Mutex::new(Books { lane: None, proven: 0, waiting: 0, cost: Amount::ZERO, is_open: true });
        control.receipt_may_come(stream);
        let tally = Arc::new(Tally { control, stream, purpose, books });
        Self { tally, subject, receipt: None, awaited: None, vouchers_before: 0, expected: None }
    }

    /// The head is accepted: `bytes` will be proven, on this channel, if any. What is set aside for the request is
    /// brought to its price.
    pub(crate) fn accept(
        &mut self,
        bytes: ByteCount,
        price: Amount,
        lane: Option<Arc<Lane>>,
        reserved: &mut Option<Reservation>,
    ) -> Result<(), FetchError> {
        if let Some(reserved) = reserved {
            reserved.settle_at(price)?;
        }
        if let Some(lane) = lane {
            self.begin(bytes, price, None, &lane, reserved)?;
        }
        self.expected = Some(bytes.get());
        Ok(())
    }

    /// The same for an upload, which has a price of its own, and of which nothing is sent before that is set aside.
    pub(crate) fn accept_at(
        &mut self,
        bytes: ByteCount,
        price: Amount,
        tariff: Tariff,
        lane: Option<Arc<Lane>>,
    ) -> Result<(), FetchError> {
        if let Some(lane) = lane {
            self.begin(bytes, price, Some(tariff), &lane, &mut None)?;
        }
        self.expected = Some(bytes.get());
        Ok(())
    }

    /// The head of one of several contents is accepted: `bytes` more will be proven. What is set aside for the request is
    /// for all of them. The answer is whole only with [`complete`](Self::complete).
    pub(crate) fn accept_one_of_many(
        &mut self,
        bytes: ByteCount,
        price: Amount,
        lane: Option<&Arc<Lane>>,
        reserved: &mut Option<Reservation>,
    ) -> Result<(), FetchError> {
        match (self.lane(), lane) {
            (Some(lane), _) => lane.grow(self.key(), bytes),
            (None, Some(lane)) => self.begin(bytes, price, None, lane, reserved),
            (None, None) => Ok(()),
        }
    }

    /// The last head of several is accepted.
    pub(crate) fn all_announced(&self) {
        if let Some(lane) = self.lane() {
            lane.all_announced(self.key());
        }
    }

    /// Begins on a channel with what is set aside, which is then spent from there; where nothing is, the price is now. An
    /// upload has a price of its own.
    fn begin(
        &mut self,
        bytes: ByteCount,
        price: Amount,
        upload: Option<Tariff>,
        lane: &Arc<Lane>,
        reserved: &mut Option<Reservation>,
    ) -> Result<(), FetchError> {
        let reserved = match reserved {
            Some(reserved) => reserved,
            None => reserved.insert(lane.set_aside(&self.tally.purpose, price)?),
        };
        reserved.cover(price)?;
        match upload {
            Some(tariff) => lane.begin_upload(self.key(), tariff, bytes, reserved)?,
            None => lane.begin(self.key(), bytes, reserved)?,
        }
        self.vouchers_before = lane.vouchers();
        self.tally.lock().lane = Some(Arc::clone(lane));
        // From now on a quiet moment counts.
        self.tally.control.wake_payment();
        Ok(())
    }

    /// All contents of the answer are whole. Pays nothing yet: more requests of the same fetch follow.
    pub(crate) fn complete(&mut self) {
        self.whole();
        self.finish(Pays::WithTheRest);
    }

    /// The node refused: nothing was begun on either side.
    pub(crate) fn refused(&mut self) {
        self.tally.lock().is_open = false;
    }

    /// The node has signed for an upload, which was of this content. One that brought nothing has ended before.
    pub(crate) fn signed(&mut self, receipt: SignedPublishReceipt) {
        self.subject.content = receipt.receipt.content;
        self.receipt = Some(receipt);
        if !self.tally.lock().is_open {
            self.note();
        }
    }

    /// What was counted is all there is, although more was announced: the end of a stream came before its bound.
    pub(crate) fn whole(&mut self) {
        self.expected = Some(self.proven());
    }

    /// Counts proven bytes that are safe at once, and pays when enough have gathered.
    // r[impl channel.pay_proven_only]
    pub(crate) fn proved(&mut self, bytes: u64) {
        self.tally.proved(bytes);
    }

    /// The count, for those who make the bytes safe.
    pub(crate) fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// Everything proven, safe or not.
    pub(crate) fn proven(&self) -> u64 {
        self.tally.lock().proven
    }

    /// What the proven bytes added to the channel's bill, in base units: at most their price, because the channel is
    /// rounded up as a whole.
    pub(crate) fn cost(&self) -> Amount {
        self.tally.lock().cost
    }

    /// Vouchers signed on the channel since the head was accepted.
    pub(crate) fn vouchers(&self) -> u64 {
        self.lane().map_or(0, |lane| lane.vouchers().saturating_sub(self.vouchers_before))
    }

    /// Ends the request, has everything proven paid to the last unit, and waits for the node to acknowledge it, at
    /// most `limit_ms`. False if it did not: the voucher is signed and goes out again at the next connection. With a limit
    /// of zero nobody waits, and one voucher pays for all requests that end within a moment.
    pub(crate) async fn settle(&mut self, session: &Session, limit_ms: u64) -> bool {
        self.finish(if limit_ms > 0 { Pays::Now } else { Pays::Soon });
        self.lane().is_none() || acknowledged(session, limit_ms).await
    }

    /// What the node's receipt was found to be, for which it has a moment; a connection whose node has let one moment pass
    /// is not waited for again.
    pub(crate) async fn receipt(&mut self, limit_ms: u64) -> Check {
        let Some(awaited) = self.awaited.take() else { return Check::Unsigned };
        let control = &self.tally.control;
        let limit = Duration::from_millis(limit_ms.min(RECEIPT_WAIT_MS));
        if control.is_slow_to_sign() {
            return Check::Unsigned;
        }
        match tokio::time::timeout(limit, awaited).await {
            Ok(found) => found.unwrap_or(Check::Unsigned),
            Err(_) => {
                if limit_ms > 0 {
                    control.note_slow_to_sign();
                }
                Check::Unsigned
            }
        }
    }

    /// Enters the request in the account.
    fn note(&mut self) {
        let (scribe, purpose) = (self.tally.control.scribe(), &self.tally.purpose);
        let (lane, bytes, amount) = {
            let books = self.tally.lock();
            (books.lane.clone(), books.proven, books.cost)
        };
        let Subject { kind, content, contents, ranges } = self.subject.clone();
        let due = Delivery {
            stream: self.tally.stream,
            content,
            contents,
            ranges: ranges.clone().unwrap_or_else(ByteRanges::all),
            bytes: ByteCount::new(bytes),
            amount: lane.as_ref().and_then(|lane| lane.tariff().price(ByteCount::new(bytes))).unwrap_or_default(),
        };
        let is_paid_fetch = lane.is_some() && kind == EntryKind::Fetch;
        let key = scribe.note(Entry {
            entry: 0,
            at: scribe.now(),
            kind,
            node: purpose.node(),
            channel: lane.map(|lane| lane.channel()),
            content,
            contents,
            ranges,
            bytes,
            amount,
            class: purpose.class_name().to_string(),
            receipt: self.receipt.map(Word::Published),
            refuted: false,
        });
        if is_paid_fetch {
            self.awaited = self.tally.control.await_receipt(due, key);
        }
    }

    fn finish(&mut self, pays: Pays) {
        let Some(proven) = self.tally.close() else { return };
        // First, so that a node which learns of the end cannot sign before it is awaited.
        if proven > 0 || self.receipt.is_some() {
            self.note();
        }
        let (control, stream) = (&self.tally.control, self.tally.stream);
        if self.expected != Some(proven) {
            control.end_stream(stream, proven);
        }
        if let Some(lane) = self.lane() {
            lane.end(self.key());
            match pays {
                Pays::Now => control.flush_payment(),
                Pays::Soon => control.flush_payment_soon(),
                Pays::WithTheRest => {}
            }
        }
    }

    fn lane(&self) -> Option<Arc<Lane>> {
        self.tally.lock().lane.clone()
    }

    fn key(&self) -> StreamKey {
        StreamKey(self.tally.stream)
    }
}

impl Tally {
    /// Counts proven bytes that are safe at once.
    pub(crate) fn proved(&self, bytes: u64) {
        let mut books = self.lock();
        books.proven += bytes;
        books.waiting += bytes;
        if books.owe(self.stream, bytes) {
            self.control.wake_payment();
        }
    }

    /// Counts proven bytes that are not safe yet.
    pub(crate) fn taken(&self, bytes: u64) {
        let mut books = self.lock();
        books.proven += bytes;
        books.waiting += bytes;
    }

    /// So many of the taken bytes are safe, and the channel owes for them.
    // r[impl channel.pay_proven_only]
    pub(crate) fn safe(&self, bytes: u64) {
        let mut books = self.lock();
        // After the end of the request all of them are counted.
        let bytes = bytes.min(books.waiting);
        if books.owe(self.stream, bytes) {
            self.control.wake_payment();
        }
    }

    /// Ends the count: what still waits is proven all the same. The proven bytes come back, the first time.
    fn close(&self) -> Option<u64> {
        let mut books = self.lock();
        if !mem::take(&mut books.is_open) {
            return None;
        }
        let rest = books.waiting;
        books.owe(self.stream, rest);
        Some(books.proven)
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        // Plain numbers, changed in one go.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    /// Has the channel owe for bytes that waited. True if a voucher is due.
    fn owe(&mut self, stream: u64, bytes: u64) -> bool {
        self.waiting -= bytes;
        let Some(lane) = self.lane.as_ref().filter(|_| bytes > 0) else { return false };
        let (rise, is_due) = lane.proved(StreamKey(stream), ByteCount::new(bytes));
        self.cost = self.cost.saturating_add(rise);
        is_due
    }
}

/// Milliseconds that a node has for its receipt once it has acknowledged the voucher, with which the receipt comes.
const RECEIPT_WAIT_MS: u64 = 500;

/// Whether the node acknowledges, within `limit_ms`, everything that was proven on the channel so far.
pub(super) async fn acknowledged(session: &Session, limit_ms: u64) -> bool {
    let BindStatus::Bound(lane) = session.control().status().bind.clone() else { return true };
    let target = lane.target();
    if limit_ms == 0 {
        return session.control().status().accepted >= target;
    }
    session.wait_for("paying", limit_ms, |status| status.accepted >= target).await.is_ok()
}

impl Drop for StreamAccount {
    fn drop(&mut self) {
        self.finish(Pays::Now);
        self.tally.control.receipt_is_settled(self.tally.stream);
    }
}

/// When everything that was proven is signed for, beside what is due anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pays {
    /// At once: somebody waits for the acknowledgement, or the rest is not wanted.
    Now,
    /// In a moment, together with whatever else ends until then.
    Soon,
    /// When the fetch that this request is a part of ends.
    WithTheRest,
}
