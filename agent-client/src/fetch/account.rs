//! One request's account: what it proved, what that costs, and its end, which is told to the node on every way out.

use std::sync::Arc;

use aro_proto::channel::StreamKey;
use aro_proto::{Amount, ByteCount, Tariff};

use crate::error::FetchError;
use crate::transport::{Control, Session};
use crate::wallet::Lane;

/// Counts one request's proven bytes. Dropped before its end it cancels: proven bytes are paid, the rest is not owed.
pub(crate) struct StreamAccount {
    control: Control,
    stream: u64,
    /// The channel that pays, once the answer's head was accepted; none where content is free.
    lane: Option<Arc<Lane>>,
    vouchers_before: u64,
    proven: u64,
    cost: Amount,
    expected: Option<u64>,
    is_open: bool,
}

impl StreamAccount {
    pub(crate) fn open(control: Control, stream: u64) -> Self {
        Self {
            control,
            stream,
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
            lane.begin(StreamKey(self.stream), tariff, bytes, price)?;
            self.vouchers_before = lane.vouchers();
        }
        self.lane = lane;
        self.expected = Some(bytes.get());
        Ok(())
    }

    /// The node refused: nothing was begun on either side.
    pub(crate) fn refused(&mut self) {
        self.is_open = false;
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
    /// most `limit_ms`. False if it did not: the voucher is signed and goes out again at the next connection.
    pub(crate) async fn settle(&mut self, session: &Session, limit_ms: u64) -> bool {
        self.end();
        let Some(lane) = &self.lane else { return true };
        let target = lane.target();
        session.wait_for("paying", limit_ms, |status| status.accepted >= target).await.is_ok()
    }

    fn end(&mut self) {
        if !std::mem::take(&mut self.is_open) {
            return;
        }
        if self.expected != Some(self.proven) {
            self.control.end_stream(self.stream, self.proven);
        }
        if let Some(lane) = &self.lane {
            lane.end(StreamKey(self.stream));
            self.control.flush_payment();
        }
    }
}

impl Drop for StreamAccount {
    fn drop(&mut self) {
        self.end();
    }
}
