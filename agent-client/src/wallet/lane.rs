//! The way of money to one node: the payer's machine, the budget's permits and the wallet's signature together.
//!
//! Proven bytes come in, vouchers go out. A voucher is signed only for what is proven, only under a permit, and only
//! after it is durable.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aro_proto::channel::{Payer, PayerError, SignedVoucher, StreamKey, Voucher};
use aro_proto::message::{Bound, Credit, VoucherOnWire};
use aro_proto::{Amount, ByteCount, ChannelId, Charge, Tariff};

use super::{ChannelRecord, Wallet};
use crate::budget::{BudgetGuard, SpendPermit, Spending};
use crate::error::{FetchError, Misbehaviour};

/// One channel, bound on one connection.
#[derive(Debug)]
pub(crate) struct Lane {
    wallet: Wallet,
    guard: BudgetGuard,
    tariff: Tariff,
    channel: ChannelId,
    books: Mutex<Books>,
}

#[derive(Debug)]
struct Books {
    payer: Payer,
    /// Permits of all open streams in one, less what was signed.
    pot: SpendPermit,
    /// Content bytes that open streams may still bring.
    left: HashMap<StreamKey, ByteCount>,
    vouchers: u64,
}

impl Lane {
    /// Takes up a channel where wallet and node stand. Blocks on the wallet's disk.
    ///
    /// Returns the lane, and the last voucher if the node does not have it.
    pub(crate) fn open(
        wallet: Wallet,
        guard: BudgetGuard,
        tariff: Tariff,
        prepay: Amount,
        record: &ChannelRecord,
        bound: &Bound,
    ) -> Result<(Self, Option<VoucherOnWire>), FetchError> {
        let channel = record.channel;
        if bound.channel != channel {
            return Err(FetchError::misbehaved(record.node, Misbehaviour::OtherChannel));
        }
        let conceded = Charge::from_parts(record.conceded);
        let mut payer =
            Payer::new(record.terms(wallet.signer()), tariff, record.signed, prepay).with_conceded(conceded);
        let watermark = bound.watermark.map(|shown| off_wire(channel, shown));
        let outcome = payer
            .reconcile(watermark, Charge::from_parts(bound.billed))
            .map_err(|error| FetchError::misbehaved(record.node, Misbehaviour::Accounts(error)))?;
        if outcome.adopted.is_some() || outcome.conceded > Charge::ZERO {
            wallet.adopt(channel, payer.signed(), payer.conceded().parts())?;
        }
        // A claim about the window is taken only within the protocol's bounds; what is accepted was just proven.
        payer
            .credited(payer.accepted(), bound.window)
            .map_err(|error| FetchError::misbehaved(record.node, Misbehaviour::Credit(error)))?;
        let resend = if outcome.resend.is_some() { wallet.last_voucher(channel)? } else { None };
        let pot = guard.reserve(Spending::Vouchers, Amount::ZERO)?;
        let books = Mutex::new(Books { payer, pot, left: HashMap::new(), vouchers: 0 });
        Ok((Self { wallet, guard, tariff, channel, books }, resend.map(on_wire)))
    }

    pub(crate) fn channel(&self) -> ChannelId {
        self.channel
    }

    /// Announces an answer: its price is set aside in the budget and in the deposit.
    pub(crate) fn begin(&self, stream: StreamKey, bytes: ByteCount, price: Amount) -> Result<(), FetchError> {
        let permit = self.guard.reserve(Spending::Vouchers, price)?;
        let mut books = self.lock();
        books.payer.begin(stream, bytes).map_err(|error| match error {
            PayerError::DepositExhausted { missing } => {
                FetchError::DepositExhausted { channel: Some(self.channel), missing }
            }
            _ => FetchError::ChannelUnusable { channel: self.channel },
        })?;
        books.left.insert(stream, bytes);
        books.pot.merge(permit).expect("both permits are of this lane's guard");
        Ok(())
    }

    /// Counts proven bytes. Says by how much they raised what the channel owes, in whole base units (so that these
    /// rises sum to what is paid), and whether a voucher is due.
    pub(crate) fn proved(&self, stream: StreamKey, bytes: ByteCount) -> (Amount, bool) {
        let mut books = self.lock();
        let before = books.payer.owes().to_amount();
        books.payer.proved(stream, bytes).expect("the decoder proves no more than the head announced");
        let after = books.payer.owes().to_amount();
        let rise = after.unwrap_or_default().saturating_sub(before.unwrap_or_default());
        if let Some(left) = books.left.get_mut(&stream) {
            *left = left.saturating_sub(bytes);
        }
        (rise, books.payer.due(false).is_some())
    }

    /// Ends an answer, whole or not; what it will not need any more goes back to the budget.
    pub(crate) fn end(&self, stream: StreamKey) {
        let mut books = self.lock();
        if books.left.remove(&stream).is_some() {
            books.payer.end(stream).expect("a stream that is counted here is open in the machine");
        }
        books.trim(&self.tariff);
    }

    /// The next voucher, signed and durable; none if none is due. Blocks for one disk sync.
    pub(crate) fn pay(&self, flush: bool) -> Result<Option<VoucherOnWire>, FetchError> {
        let (permit, cumulative) = {
            let mut books = self.lock();
            let Some(due) = books.payer.due(flush) else { return Ok(None) };
            let rise = due.cumulative.saturating_sub(books.payer.signed());
            let mut permit = books.pot.split(rise);
            let short = rise.saturating_sub(permit.amount());
            if !short.is_zero() {
                // Conceded or paid ahead: no stream has set it aside.
                let more = self.guard.reserve(Spending::Vouchers, short)?;
                permit.merge(more).expect("both permits are of this lane's guard");
            }
            (permit, due.cumulative)
        };
        let signed = self.wallet.sign_voucher(permit, self.channel, cumulative)?;
        let mut books = self.lock();
        books.payer.record_signed(cumulative);
        books.vouchers += 1;
        books.trim(&self.tariff);
        Ok(Some(on_wire(signed)))
    }

    /// Takes in an acknowledgement.
    pub(crate) fn credited(&self, credit: &Credit) -> Result<Amount, PayerError> {
        let mut books = self.lock();
        books.payer.credited(credit.cumulative, credit.window)?;
        Ok(books.payer.accepted())
    }

    /// What the node must have acknowledged for everything proven so far to be paid, in base units.
    pub(crate) fn target(&self) -> Amount {
        let books = self.lock();
        books.payer.due(true).map_or(books.payer.signed(), |due| due.cumulative)
    }

    pub(crate) fn accepted(&self) -> Amount {
        self.lock().payer.accepted()
    }

    /// Vouchers signed on this connection.
    pub(crate) fn vouchers(&self) -> u64 {
        self.lock().vouchers
    }

    /// Takes in what the chain says now.
    pub(crate) fn refresh(&self, record: &ChannelRecord) {
        self.lock().payer.refresh(&record.terms(self.wallet.signer()));
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        // The machine changes nothing before it has checked everything.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    /// Gives back what neither unpaid proven bytes nor open streams can need. Each part is rounded up by itself, so
    /// the sum never falls short of what will be signed.
    fn trim(&mut self, tariff: &Tariff) {
        let unpaid = self.payer.owes().to_amount().unwrap_or(self.pot.amount()).saturating_sub(self.payer.signed());
        let open = self.left.values().map(|bytes| tariff.price(*bytes).unwrap_or(self.pot.amount()));
        let needed = open.fold(unpaid, Amount::saturating_add);
        self.pot.shrink_to(needed);
    }
}

fn on_wire(signed: SignedVoucher) -> VoucherOnWire {
    let Voucher { cumulative, expires_at, .. } = signed.voucher;
    VoucherOnWire { cumulative, expires_at, signature: signed.signature }
}

fn off_wire(channel: ChannelId, shown: VoucherOnWire) -> SignedVoucher {
    let voucher = Voucher { channel, cumulative: shown.cumulative, expires_at: shown.expires_at };
    SignedVoucher { voucher, signature: shown.signature }
}
