//! One request's account: what it proved, what that costs, and its end, which is told to the node on every way out.

use std::sync::Arc;

use aro_proto::channel::StreamKey;
use aro_proto::message::SignedPublishReceipt;
use aro_proto::{Amount, ByteCount, Tariff};

use crate::budget::Purpose;
use crate::error::FetchError;
use crate::receipts::{Entry, Subject};
use crate::transport::{BindStatus, Control, Session};
use crate::wallet::Lane;

/// Counts one request's proven bytes. Dropped before its end it cancels: proven bytes are paid, the rest is not owed.
pub(crate) struct StreamAccount {
    control: Control,
    stream: u64,
    purpose: Purpose,
    subject: Subject,
    /// The node's word for an upload.
    receipt: Option<SignedPublishReceipt>,
    /// The channel that pays, once the answer's head was accepted; none where content is free.
    lane: Option<Arc<Lane>>,
    vouchers_before: u64,
    proven: u64,
    cost: Amount,
    expected: Option<u64>,
    is_open: bool,
}

impl StreamAccount {
    pub(crate) fn open(control: Control, stream: u64, purpose: Purpose, subject: Subject) -> Self {
        Self {
            control,
            stream,
            purpose,
            subject,
            receipt: None,
            lane: None,
            vouchers_before: 0,
            proven: 0,
            cost: Amount::ZERO,
            expected: None,
            is_open: true,
        }
    }

    /// The head is accepted: `bytes` will be proven, on this channel, if any.
    pub(crate) fn accept(
        &mut self,
        bytes: ByteCount,
        price: Amount,
        lane: Option<Arc<Lane>>,
    ) -> Result<(), FetchError> {
        let tariff = lane.as_ref().map(|lane| lane.tariff()).unwrap_or_default();
        self.accept_at(bytes, price, tariff, lane)
    }

    /// The same for an upload, which has a price of its own.
    pub(crate) fn accept_at(
        &mut self,
        bytes: ByteCount,
        price: Amount,
        tariff: Tariff,
        lane: Option<Arc<Lane>>,
    ) -> Result<(), FetchError> {
        if let Some(lane) = &lane {
            lane.begin(StreamKey(self.stream), tariff, bytes, price, &self.purpose)?;
            self.vouchers_before = lane.vouchers();
        }
        self.lane = lane;
        self.expected = Some(bytes.get());
        Ok(())
    }

    /// The head of one of several contents is accepted: `bytes` more will be proven. The answer is whole only with
    /// [`complete`](Self::complete).
    pub(crate) fn accept_one_of_many(
        &mut self,
        bytes: ByteCount,
        price: Amount,
        lane: Option<&Arc<Lane>>,
    ) -> Result<(), FetchError> {
        match (&self.lane, lane) {
            (Some(lane), _) => lane.grow(StreamKey(self.stream), bytes)?,
            (None, Some(lane)) => {
                lane.begin(StreamKey(self.stream), lane.tariff(), bytes, price, &self.purpose)?;
                self.vouchers_before = lane.vouchers();
                self.lane = Some(Arc::clone(lane));
            }
            (None, None) => {}
        }
        Ok(())
    }

    /// All contents of the answer are whole. Pays nothing yet: more requests of the same fetch follow.
    pub(crate) fn complete(&mut self) {
        self.expected = Some(self.proven);
        self.finish(Pays::WithTheRest);
    }

    /// The node refused: nothing was begun on either side.
    pub(crate) fn refused(&mut self) {
        self.is_open = false;
    }

    /// The node has signed for an upload, which was of this content. One that brought nothing has ended before.
    pub(crate) fn signed(&mut self, receipt: SignedPublishReceipt) {
        self.subject.content = receipt.receipt.content;
        self.receipt = Some(receipt);
        if !self.is_open {
            self.note();
        }
    }

    /// What was counted is all there is, although more was announced: the end of a stream came before its bound.
    pub(crate) fn whole(&mut self) {
        self.expected = Some(self.proven);
    }

    /// Counts proven bytes, and pays when enough have gathered.
    // r[impl channel.pay_proven_only]
    pub(crate) fn proved(&mut self, bytes: u64) {
        self.proven += bytes;
        let Some(lane) = &self.lane else { return };
        let (rise, is_due) = lane.proved(StreamKey(self.stream), ByteCount::new(bytes));
        self.cost = self.cost.saturating_add(rise);
        if is_due {
            self.control.wake_payment();
        }
    }

    pub(crate) fn proven(&self) -> u64 {
        self.proven
    }

    /// What the proven bytes added to the channel's bill, in base units: at most their price, because the channel is
    /// rounded up as a whole.
    pub(crate) fn cost(&self) -> Amount {
        self.cost
    }

    /// Vouchers signed on the channel since the head was accepted.
    pub(crate) fn vouchers(&self) -> u64 {
        self.lane.as_ref().map_or(0, |lane| lane.vouchers().saturating_sub(self.vouchers_before))
    }

    /// Ends the request, has everything proven paid to the last unit, and waits for the node to acknowledge it, at
    /// most `limit_ms`. False if it did not: the voucher is signed and goes out again at the next connection. With a limit
    /// of zero nobody waits, and one voucher pays for all requests that end within a moment.
    pub(crate) async fn settle(&mut self, session: &Session, limit_ms: u64) -> bool {
        self.finish(if limit_ms > 0 { Pays::Now } else { Pays::Soon });
        self.lane.is_none() || acknowledged(session, limit_ms).await
    }

    /// Enters the request in the account.
    fn note(&self) {
        let scribe = self.control.scribe();
        let Subject { kind, content, contents, ranges } = self.subject.clone();
        scribe.note(Entry {
            entry: 0,
            at: scribe.now(),
            kind,
            node: self.purpose.node(),
            channel: self.lane.as_ref().map(|lane| lane.channel()),
            content,
            contents,
            ranges,
            bytes: self.proven,
            amount: self.cost,
            class: self.purpose.class_name().to_string(),
            receipt: self.receipt,
        });
    }

    fn finish(&mut self, pays: Pays) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        if self.expected != Some(self.proven) {
            self.control.end_stream(self.stream, self.proven);
        }
        if self.proven > 0 || self.receipt.is_some() {
            self.note();
        }
        if let Some(lane) = &self.lane {
            lane.end(StreamKey(self.stream));
            match pays {
                Pays::Now => self.control.flush_payment(),
                Pays::Soon => self.control.flush_payment_soon(),
                Pays::WithTheRest => {}
            }
        }
    }
}

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
