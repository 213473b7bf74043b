//! The way of money to one node: the payer's machine, the budget's permits and the wallet's signature together.
//!
//! Proven bytes come in, vouchers go out. A voucher is signed only for what is proven, only under a permit, and only
//! after it is durable.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aro_proto::channel::{Payer, PayerError, SignedVoucher, StreamKey, Voucher};
use aro_proto::message::{Bound, Credit, VoucherOnWire};
use aro_proto::{Amount, ByteCount, ChannelId, Charge, Tariff};

use super::marker::{Count, InUse, Left};
use super::{ChannelRecord, Wallet, WalletError};
use crate::budget::{BudgetGuard, Class, Purpose, Reservation, SpendPermit};
use crate::error::{FetchError, Misbehaviour};
use crate::ledger::Hold;

/// One channel, bound on one connection.
#[derive(Debug)]
pub(crate) struct Lane {
    wallet: Wallet,
    guard: BudgetGuard,
    tariff: Tariff,
    channel: ChannelId,
    /// Of what no stream has set aside.
    purpose: Purpose,
    books: Mutex<Books>,
    /// Up to which the channel's bill was said to have risen, by whichever lane of this wallet, in base units.
    counted: Arc<AtomicU64>,
    _hold: Option<Arc<Hold>>,
    /// Gone with the lane: by then all that is proven is signed for, or known not to be.
    in_use: InUse,
}

#[derive(Debug)]
struct Books {
    payer: Payer,
    /// Permits of all open streams in one, less what was signed.
    pot: SpendPermit,
    open: HashMap<StreamKey, Open>,
    /// What is proven and not signed for, by the class of the content.
    dues: Vec<(Class, Amount)>,
    vouchers: u64,
    /// For the mark, and what of it was proven when that was written last.
    count: Count,
    marked: Charge,
}

/// What a node asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prices {
    /// For content.
    pub(crate) tariff: Tariff,
    /// For uploads.
    pub(crate) publish: Tariff,
}

/// A stream that brings content.
#[derive(Debug)]
struct Open {
    tariff: Tariff,
    is_fetch: bool,
    purpose: Purpose,
    /// Content bytes that it brings, as far as heads have said.
    announced: ByteCount,
    proven: ByteCount,
    /// For all that it brings.
    set_aside: Amount,
    /// Of that, for what no head has announced yet.
    ahead: Amount,
    /// By how much it has raised what the channel owes.
    due: Amount,
}

impl Open {
    /// What it may still cost.
    fn needs(&self) -> Option<Amount> {
        if self.ahead.is_zero() {
            self.tariff.price(self.announced.saturating_sub(self.proven))
        } else {
            Some(self.set_aside.saturating_sub(self.due))
        }
    }
}

impl Lane {
    /// Takes up a channel where wallet and node stand. Blocks on the wallet's disk.
    ///
    /// Returns the lane, and the last voucher if the node does not have it.
    pub(crate) fn open(
        wallet: Wallet,
        guard: BudgetGuard,
        Prices { tariff, publish }: Prices,
        prepay: Amount,
        record: &ChannelRecord,
        (in_use, left): (InUse, Left),
        bound: &Bound,
    ) -> Result<(Self, Option<VoucherOnWire>), FetchError> {
        let channel = record.channel;
        if bound.channel != channel {
            return Err(FetchError::misbehaved(record.node, Misbehaviour::OtherChannel));
        }
        // A connection that broke may have signed for its last bytes since the record was read.
        let record = &wallet.record(channel)?.unwrap_or(*record);
        let conceded = Charge::from_parts(record.conceded);
        let mut payer =
            Payer::new(record.terms(wallet.signer()), tariff, record.signed, prepay).with_conceded(conceded);
        payer = payer.with_price(publish).after_crash(left.is_any());
        let watermark = bound.watermark.map(|shown| off_wire(channel, shown));
        let outcome = payer
            .reconcile(watermark, Charge::from_parts(bound.billed))
            .map_err(|error| FetchError::misbehaved(record.node, Misbehaviour::Accounts(error)))?;
        if outcome.adopted.is_some() || outcome.conceded > Charge::ZERO {
            wallet.adopt(channel, payer.signed(), payer.conceded().parts())?;
        }
        wallet.forget(left)?;
        let counted = wallet.counted(channel, record.signed);
        let known = payer.owes().to_amount().unwrap_or_default().max(outcome.adopted.unwrap_or_default());
        counted.fetch_max(known.get(), Ordering::Relaxed);
        // A claim about the window is taken only within the protocol's bounds; what is accepted was just proven.
        payer
            .credited(payer.accepted(), bound.window)
            .map_err(|error| FetchError::misbehaved(record.node, Misbehaviour::Credit(error)))?;
        let resend = if outcome.resend.is_some() { wallet.last_voucher(channel)? } else { None };
        let purpose = Purpose::vouchers(record.node);
        let pot = guard.reserve(&purpose, Amount::ZERO)?;
        let owes = payer.owes().max(Charge::from_amount(payer.signed()));
        let free = owes.checked_add(Charge::from_amount(prepay)).unwrap_or(owes);
        let count = Count { proven: Charge::ZERO, free };
        in_use.counts(count);
        let books = Mutex::new(Books {
            payer,
            pot,
            open: HashMap::new(),
            dues: Vec::new(),
            vouchers: 0,
            count,
            marked: count.proven,
        });
        let lane = Self { wallet, guard, tariff, channel, purpose, books, counted, _hold: None, in_use };
        Ok((lane, resend.map(on_wire)))
    }

    /// Keeps the channel from other processes for as long as this lane lives.
    pub(crate) fn holding(self, hold: Option<Arc<Hold>>) -> Self {
        Self { _hold: hold, ..self }
    }

    /// What content costs at the node.
    pub(crate) fn tariff(&self) -> Tariff {
        self.tariff
    }

    pub(crate) fn channel(&self) -> ChannelId {
        self.channel
    }

    /// Sets aside what a request to this node costs.
    pub(crate) fn set_aside(&self, purpose: &Purpose, price: Amount) -> Result<Reservation, FetchError> {
        Ok(self.guard.set_aside(&purpose.at(self.purpose.node()), price)?)
    }

    /// Announces an answer, for which its price is set aside in the budget, and now in the deposit too. What is set aside
    /// beyond that is for what [`grow`](Self::grow) announces.
    pub(crate) fn begin(
        &self,
        stream: StreamKey,
        bytes: ByteCount,
        reserved: &mut Reservation,
    ) -> Result<(), FetchError> {
        self.open_stream(stream, self.tariff, true, bytes, reserved)
    }

    /// The same for an upload, at a price of its own.
    pub(crate) fn begin_upload(
        &self,
        stream: StreamKey,
        tariff: Tariff,
        bytes: ByteCount,
        reserved: &mut Reservation,
    ) -> Result<(), FetchError> {
        self.open_stream(stream, tariff, false, bytes, reserved)
    }

    fn open_stream(
        &self,
        stream: StreamKey,
        tariff: Tariff,
        is_fetch: bool,
        bytes: ByteCount,
        reserved: &mut Reservation,
    ) -> Result<(), FetchError> {
        let price = tariff.price(bytes).unwrap_or(Amount::new(u64::MAX));
        let mut books = self.lock();
        books.payer.begin_at(stream, tariff, bytes).map_err(|error| self.unable(error))?;
        let (purpose, set_aside) = (reserved.purpose().clone(), reserved.amount());
        let ahead = set_aside.saturating_sub(price);
        let (proven, due) = (ByteCount::ZERO, Amount::ZERO);
        let open = Open { tariff, is_fetch, purpose, announced: bytes, proven, set_aside, ahead, due };
        books.open.insert(stream, open);
        books.pot.merge(reserved.take()).expect(ONE_GUARD);
        Ok(())
    }

    /// Announces another content of an answer that has begun. By how much it raises the price is taken from what was set
    /// aside for the request, and what that lacks is set aside too.
    pub(crate) fn grow(&self, stream: StreamKey, bytes: ByteCount) -> Result<(), FetchError> {
        let mut guarded = self.lock();
        let books = &mut *guarded;
        let unusable = || FetchError::ChannelUnusable { channel: self.channel };
        let open = books.open.get_mut(&stream).ok_or_else(unusable)?;
        let announced = open.announced.saturating_add(bytes);
        let price = |bytes| open.tariff.price(bytes).ok_or_else(unusable);
        let rise = price(announced)?.saturating_sub(price(open.announced)?);
        let mut more = self.guard.set_aside(&open.purpose, rise.saturating_sub(open.ahead))?;
        books.payer.grow(stream, bytes).map_err(|error| self.unable(error))?;
        open.announced = announced;
        open.ahead = open.ahead.saturating_sub(rise);
        open.set_aside = open.set_aside.saturating_add(more.amount());
        books.pot.merge(more.take()).expect(ONE_GUARD);
        Ok(())
    }

    /// Nothing more is announced on a stream: what is set aside for it and not needed goes back to the budget.
    pub(crate) fn all_announced(&self, stream: StreamKey) {
        let mut books = self.lock();
        let Some(open) = books.open.get_mut(&stream) else { return };
        let ahead = std::mem::take(&mut open.ahead);
        open.set_aside = open.set_aside.saturating_sub(ahead);
        open.purpose.give_back(ahead);
        books.trim();
    }

    /// Counts proven bytes. Says by how much they raised what the channel owes, in whole base units, and whether a voucher
    /// is due. Whatever of them is to survive this process is written already.
    ///
    /// The rises that all lanes of a channel say sum to what is paid for proven bytes: a node that has lost its bill brings
    /// bytes for what is signed already, and those raise nothing until they come to more than that.
    pub(crate) fn proved(&self, stream: StreamKey, bytes: ByteCount) -> (Amount, bool) {
        let mut books = self.lock();
        let before = books.payer.owes().to_amount().unwrap_or_default();
        books.payer.proved(stream, bytes).expect("no more is counted than the head announced");
        let after = books.payer.owes().to_amount().unwrap_or_default();
        books.count(stream, bytes, after.saturating_sub(before));
        let counted = Amount::new(self.counted.fetch_max(after.get(), Ordering::Relaxed));
        let (rise, is_due) = (after.saturating_sub(before.max(counted)), books.payer.due(false).is_some());
        let part = Charge::from_parts(books.count.proven.parts() / MARKED_PART);
        let unmarked = self.tariff.charge(ByteCount::new(MARKED_BYTES)).max(part);
        if books.count.proven.saturating_sub(books.marked) >= unmarked {
            let count = books.count;
            books.marked = count.proven;
            // Whoever counts beside this does not wait for the write.
            drop(books);
            self.in_use.counts(count);
        }
        (rise, is_due)
    }

    /// Ends an answer, whole or not; what it will not need any more goes back to the budget.
    pub(crate) fn end(&self, stream: StreamKey) {
        let mut books = self.lock();
        if let Some(open) = books.open.remove(&stream) {
            books.payer.end(stream).expect("a stream that is counted here is open in the machine");
            let needed = open.tariff.price(open.proven).unwrap_or(open.set_aside);
            open.purpose.give_back(open.set_aside.saturating_sub(needed));
        }
        books.trim();
    }

    /// Whether [`pay`](Self::pay) has a voucher to sign. Cheap, and never blocks on a disk.
    pub(crate) fn is_due(&self, flush: bool) -> bool {
        self.lock().payer.due(flush).is_some()
    }

    /// The next voucher, signed and durable; none if none is due. Blocks for one disk sync.
    ///
    /// If another connection has signed as much on this channel already, it is that voucher again.
    pub(crate) fn pay(&self, flush: bool) -> Result<Option<VoucherOnWire>, FetchError> {
        let (permit, cumulative, count) = {
            let mut guarded = self.lock();
            let books = &mut *guarded;
            let Some(due) = books.payer.due(flush) else { return Ok(None) };
            let rise = due.cumulative.saturating_sub(books.payer.signed());
            let (mut permit, missing) = books.permit_for(rise);
            for (class, amount) in missing {
                match self.guard.reserve(&self.purpose.clone().class(&class), amount) {
                    Ok(more) => permit.merge(more).expect(ONE_GUARD),
                    Err(error) => {
                        books.pot.merge(permit).expect(ONE_GUARD);
                        return Err(error.into());
                    }
                }
            }
            books.marked = books.count.proven;
            (permit, due.cumulative, books.count)
        };
        // Before it is signed for, so that no process dies with less marked as proven than it has signed for.
        // r[impl bind.replace.proven.true]
        self.in_use.counts(count);
        let outcome = self.wallet.sign_or_return(permit, self.channel, cumulative);
        let mut books = self.lock();
        match outcome {
            Ok(signed) => {
                books.signed(cumulative);
                books.vouchers += 1;
                books.trim();
                Ok(Some(on_wire(signed)))
            }
            Err((permit, error)) => {
                books.pot.merge(permit).expect(ONE_GUARD);
                let WalletError::NotRising { signed, .. } = error else { return Err(error.into()) };
                books.signed(signed);
                books.trim();
                drop(books);
                self.last_voucher()
            }
        }
    }

    /// Signs for everything proven although no connection can carry the voucher: the next one does. Then nothing of
    /// the budget is held any more. Blocks for one disk sync.
    pub(crate) fn pay_last(&self) -> Result<(), FetchError> {
        let paid = self.pay(true);
        self.release();
        paid.map(|_| ())
    }

    /// Gives back all that is set aside; what is still signed afterwards asks the budget anew.
    pub(crate) fn release(&self) {
        self.lock().pot.shrink_to(Amount::ZERO);
    }

    /// The highest voucher signed on the channel, the very same bytes. Blocks on the wallet's disk.
    pub(crate) fn last_voucher(&self) -> Result<Option<VoucherOnWire>, FetchError> {
        Ok(self.wallet.last_voucher(self.channel)?.map(on_wire))
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

    /// The price of a quantum on the cheapest open stream, in base units.
    pub(crate) fn least_quantum(&self) -> Amount {
        self.lock().payer.least_quantum()
    }

    /// What is owed in all, and how much of it could be signed for now.
    pub(crate) fn unsigned(&self) -> (Charge, Amount) {
        let books = self.lock();
        let due = books.payer.due(true).map_or(Amount::ZERO, |due| due.cumulative.saturating_sub(books.payer.signed()));
        (books.payer.owes(), due)
    }

    pub(crate) fn accepted(&self) -> Amount {
        self.lock().payer.accepted()
    }

    /// The deposit as far as the payer knows, in base units.
    pub(crate) fn deposit(&self) -> Amount {
        self.lock().payer.terms().deposit
    }

    /// What new requests may still reserve as far as the payer knows, in base units.
    pub(crate) fn deposit_left(&self) -> Amount {
        self.lock().payer.deposit_left()
    }

    /// True while a stream is open, or something proven is not signed for yet.
    pub(crate) fn is_busy(&self) -> bool {
        let books = self.lock();
        books.payer.is_busy() || books.payer.due(true).is_some()
    }

    /// Vouchers signed on this connection.
    pub(crate) fn vouchers(&self) -> u64 {
        self.lock().vouchers
    }

    /// The highest amount signed on the channel, as far as this lane knows.
    pub(crate) fn signed(&self) -> Amount {
        self.lock().payer.signed()
    }

    /// Takes in what the chain says now.
    pub(crate) fn refresh(&self, record: &ChannelRecord) {
        self.lock().payer.refresh(&record.terms(self.wallet.signer()));
    }

    fn unable(&self, error: PayerError) -> FetchError {
        match error {
            PayerError::DepositExhausted { missing } => {
                FetchError::DepositExhausted { channel: Some(self.channel), missing }
            }
            _ => FetchError::ChannelUnusable { channel: self.channel },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        // The machine changes nothing before it has checked everything.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    /// Proven bytes are due, and fewer may still come.
    fn count(&mut self, stream: StreamKey, bytes: ByteCount, rise: Amount) {
        let Some(open) = self.open.get_mut(&stream) else { return };
        open.due = open.due.saturating_add(rise);
        open.proven = open.proven.saturating_add(bytes);
        let sum = if open.is_fetch { &mut self.count.proven } else { &mut self.count.free };
        // A 128-bit sum of what 64-bit deposits pay.
        *sum = sum.checked_add(open.tariff.charge(bytes)).unwrap_or(*sum);
        let class = open.purpose.class_name();
        match self.dues.iter_mut().find(|(known, _)| known == class) {
            Some((_, due)) => *due = due.saturating_add(rise),
            None => self.dues.push((Class::clone(class), rise)),
        }
    }

    /// Takes a permit for the next voucher out of the pot. Says too what of each class is missing, which is what streams
    /// have given back, and what is conceded or paid ahead, which none has set aside.
    fn permit_for(&mut self, rise: Amount) -> (SpendPermit, Vec<(Class, Amount)>) {
        let (mut permit, mut missing, mut left) = (self.pot.split(Amount::ZERO), Vec::new(), rise);
        let dues = self.dues.iter().map(|(class, due)| (Class::clone(class), *due));
        let all: Vec<_> = dues.chain([(Class::from(""), rise)]).collect();
        for (class, due) in all {
            let wanted = due.min(left);
            let part = self.pot.split_class(&class, wanted);
            let short = wanted.saturating_sub(part.amount());
            permit.merge(part).expect(ONE_GUARD);
            left = left.saturating_sub(wanted);
            if !short.is_zero() {
                missing.push((class, short));
            }
        }
        (permit, missing)
    }

    /// So much is signed: the oldest dues first.
    fn signed(&mut self, cumulative: Amount) {
        let mut rise = cumulative.saturating_sub(self.payer.signed());
        self.payer.record_signed(cumulative);
        for (_, due) in &mut self.dues {
            let taken = rise.min(*due);
            *due = due.saturating_sub(taken);
            rise = rise.saturating_sub(taken);
        }
        self.dues.retain(|(_, due)| !due.is_zero());
    }

    /// Gives back what neither unpaid proven bytes nor open streams can need. Each part is rounded up by itself, so
    /// the sum never falls short of what will be signed.
    fn trim(&mut self) {
        let all = self.pot.amount();
        let unpaid = self.payer.owes().to_amount().unwrap_or(all).saturating_sub(self.payer.signed());
        let mut needed = self.dues.clone();
        for open in self.open.values() {
            let price = open.needs().unwrap_or(all);
            let class = open.purpose.class_name();
            match needed.iter_mut().find(|(known, _)| known == class) {
                Some((_, sum)) => *sum = sum.saturating_add(price),
                None => needed.push((Class::clone(class), price)),
            }
        }
        self.pot.shrink_classes(&needed);
        let open = self.open.values().map(|open| open.needs().unwrap_or(all));
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

/// Bytes proven since the mark was last written after which it is written anew, at least: a group of bulk, four small fetches.
const MARKED_BYTES: u64 = 64 << 10;
/// And this part of all that was proven, for a write takes one to two microseconds beside a fetch: what a process may have
/// proven that its mark does not say is at most that, and less than a voucher.
const MARKED_PART: u128 = 256;
/// Why permits merge.
const ONE_GUARD: &str = "both permits are of this lane's guard";
