//! The payee: a node's side of one channel, shared by every connection and stream that the channel pays for.
//!
//! What can never be: more unpaid than the credit window, what was lent for lost connections included (beside a stream
//! with a price of its own: than the window at that price, or what is lent and a quantum); more billed than the deposit;
//! credit for a voucher that is not durable; a watermark that falls.

use std::sync::Arc;

use settlement_interface::voucher::{NEVER, is_expired};
use thiserror::Error;

use super::delivered::Delivered;
use super::store::DurableVoucher;
use super::streams::{CountError, StreamKey, Streams, add};
use super::terms::{ChannelState, ChannelTerms};
use super::transitions::{Action, Event, State, step};
use super::voucher::{SignedVoucher, VerifiedVoucher, VoucherError};
use super::window::{
    BATCH_BYTES, counting_allowance, credit_window, dispute_limit, dispute_limit_within, least_room, lending_limit,
    window_less,
};
use crate::amount::{Amount, ByteCount};
use crate::error::{Refusal, RefusalCode};
use crate::identity::{Verifier, VerifyingKey};
use crate::limits::SETTLE_MARGIN_S;
use crate::tariff::{Charge, Tariff};

/// What an agent owes and has paid on one channel, and what it may still have.
#[derive(Clone, Debug)]
pub struct Payee {
    terms: ChannelTerms,
    /// The terms' signer, decoded once; `None` if nobody can sign for it.
    signer: Option<VerifyingKey>,
    verifier: Arc<Verifier>,
    tariff: Tariff,
    best: Option<DurableVoucher>,
    /// The highest verified voucher that is not yet durable: keeps vouchers in flight in order, gives no credit.
    pending: Option<SignedVoucher>,
    billed: Charge,
    forgiven: Charge,
    disputed: Charge,
    /// Off the bill since its connection was lost, but it may have arrived: takes up the window until paying restores
    /// the allowance, which then bears it.
    lent: Charge,
    /// Still on the bill, although not proven by the agent's word, for there was no room: comes off once paying makes some.
    unproven: Charge,
    streams: Streams,
}

/// What became of the bytes of a stream whose connection is gone, as far as the transport knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// Content bytes that the agent's transport has acknowledged: they arrived.
    pub acknowledged: ByteCount,
    /// Content bytes that have certainly never left.
    pub unsent: ByteCount,
}

/// Whether a batch may leave now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// It may, and is billed.
    Granted,
    /// The window is full: ask again after the next [`Payee::credit`] or [`Payee::end`].
    Wait,
}

/// What became of a voucher that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// New: persist it, then [`Payee::credit`] it, or report [`Payee::persist_failed`], even if the connection that
    /// brought it is gone: until then the same voucher, offered again, is only [`Known`](Self::Known).
    Fresh(VerifiedVoucher),
    /// The very voucher that is known already: nothing to do.
    Known,
}

/// What the node tells the agent once a voucher is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// Everything paid so far, in base units: the higher of the node's and the chain's watermark.
    pub cumulative: Amount,
    /// What may stand unpaid, in base units.
    pub window: Amount,
}

/// How the two counts of a stream were settled at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Taken off the bill: sent, but the agent says that it did not arrive.
    pub forgiven: Charge,
    /// Says the agent too, but it stays on the bill: too much was forgiven before.
    pub disputed: Charge,
    /// For the binding that the stream belongs to.
    pub delivered: Delivered,
}

/// How a stream was settled whose connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Taken off the bill: it never left, or was on its way.
    pub off: Charge,
    /// For the binding that the stream belongs to.
    pub delivered: Delivered,
}

/// How the streams of a binding were settled by what its agent says that it had proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Taken off the bill: it had arrived, and was not proven.
    pub off: Charge,
    /// On the bill again: it was on its way, and was proven.
    pub again: Charge,
}

/// Why a request may not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BeginError {
    /// The deposit does not cover it beside all that is billed and reserved.
    #[error("the channel's deposit lacks {missing} $ARO for this request")]
    DepositExhausted {
        /// What is missing, in base units.
        missing: Amount,
    },
    /// The channel is closing or closed.
    #[error("the channel takes no new requests: it is closing or closed")]
    ChannelClosing,
    /// The counts of cancelled streams differed by too much, and the difference is not paid.
    #[error("{owed} $ARO for delivered bytes are not paid")]
    Unpaid {
        /// What is owed, in base units.
        owed: Amount,
    },
    /// A stream of this key is open: the caller's mistake.
    #[error("stream {} is open already", .0.0)]
    DuplicateStream(StreamKey),
}

/// Why a batch may not be asked about: the channel has closed, or the caller's mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// The channel has closed under the stream.
    #[error("the channel is closed")]
    ChannelClosed,
    /// No stream of this key is open.
    #[error("stream {} is not open", .0.0)]
    UnknownStream(StreamKey),
    /// The batch goes beyond what [`Payee::begin`] reserved.
    #[error("stream {} has {} bytes left", .stream.0, .left.get())]
    BeyondReservation {
        /// The stream.
        stream: StreamKey,
        /// What is left of its reservation.
        left: ByteCount,
    },
    /// The batch is larger than a quarter quantum, so payer and payee could wait for each other.
    #[error("a batch of {} bytes is larger than {BATCH_BYTES}", .0.get())]
    BatchTooLarge(ByteCount),
}

impl Payee {
    /// Takes up a channel at its watermark. What was delivered after it and not yet paid before a restart is
    /// forgotten, at most one credit window, and so is what was forgiven.
    pub fn new(terms: ChannelTerms, tariff: Tariff, best: Option<DurableVoucher>) -> Self {
        let best = best.filter(|best| belongs(best, &terms));
        let mut payee = Self {
            terms,
            signer: VerifyingKey::from_bytes(terms.signer.as_bytes()).ok(),
            verifier: Arc::default(),
            tariff,
            best,
            pending: None,
            billed: Charge::ZERO,
            forgiven: Charge::ZERO,
            disputed: Charge::ZERO,
            lent: Charge::ZERO,
            unproven: Charge::ZERO,
            streams: Streams::default(),
        };
        payee.billed = Charge::from_amount(payee.paid());
        payee
    }

    /// Has its vouchers verified by this one, which other channels of the same signers share.
    #[must_use]
    pub fn with_verifier(mut self, verifier: Arc<Verifier>) -> Self {
        self.verifier = verifier;
        self
    }

    /// Admits a request: reserves the charge of its `content_bytes` in the deposit.
    // r[impl channel.reserve]
    pub fn begin(&mut self, stream: StreamKey, content_bytes: ByteCount) -> Result<(), BeginError> {
        self.begin_at(stream, self.tariff, content_bytes)
    }

    /// The same for a stream with a price of its own, such as an upload: that price measures its window too.
    // r[impl channel.stream.price]
    pub fn begin_at(&mut self, stream: StreamKey, tariff: Tariff, content_bytes: ByteCount) -> Result<(), BeginError> {
        if self.action(Event::Begin) == Action::Refuse {
            return Err(BeginError::ChannelClosing);
        }
        if self.streams.contains(stream) {
            return Err(BeginError::DuplicateStream(stream));
        }
        // r[impl channel.cancel.settle]
        if self.leaves_no_room(&tariff) {
            return Err(BeginError::Unpaid { owed: self.owed().to_amount().unwrap_or(self.terms.deposit) });
        }
        if let Some(missing) = self.streams.missing(self.billed, self.terms.deposit, &tariff, content_bytes) {
            return Err(BeginError::DepositExhausted { missing });
        }
        self.streams.open(stream, &tariff, content_bytes);
        Ok(())
    }

    /// Asks to send `bytes` of content: at most [`BATCH_BYTES`], in whole chunk groups, so that the agent can prove
    /// and pay every byte that it has received. A granted batch is billed at once.
    // r[impl channel.window]
    pub fn may_send(&mut self, stream: StreamKey, bytes: ByteCount) -> Result<Permit, SendError> {
        if self.action(Event::Send) == Action::Refuse {
            return Err(SendError::ChannelClosed);
        }
        if bytes.get() > BATCH_BYTES {
            return Err(SendError::BatchTooLarge(bytes));
        }
        self.streams.check(stream, bytes)?;
        let tariff = self.streams.tariff(stream)?;
        let (paid, billed) = (self.paid(), add(self.billed, tariff.charge(bytes)));
        let window = credit_window(paid, &tariff);
        // r[impl channel.lost.settle]
        let at_risk = add(billed, self.lent_of(&tariff));
        if at_risk > add(Charge::from_amount(paid), Charge::from_amount(window)) {
            return Ok(Permit::Wait);
        }
        self.streams.count(stream, bytes)?;
        self.billed = billed;
        Ok(Permit::Granted)
    }

    /// Ends a stream and releases what it reserved. `None`: delivered whole, all acknowledged. `Some(n)`: cancelled,
    /// and the agent says that it proved `n` of the sent bytes. What it did not prove is taken off the bill, in
    /// all up to what one stream may have in flight (at most the credit window) and a 16th of what is paid; then it
    /// stays.
    ///
    /// `None` comes back for a stream that is not open, as when both sides end it at once.
    // r[impl channel.cancel.settle]
    pub fn end(&mut self, stream: StreamKey, proven: Option<ByteCount>) -> Option<Settled> {
        let (sent, tariff) = self.streams.close(stream).ok()?;
        let arrived = proven.unwrap_or(sent).min(sent);
        let lost = sent.saturating_sub(arrived);
        let difference = tariff.charge(lost);
        let forgiven = difference.min(self.allowance_left(&tariff));
        let disputed = difference.saturating_sub(forgiven);
        self.billed = self.billed.saturating_sub(forgiven);
        self.forgiven = add(self.forgiven, forgiven);
        self.disputed = add(self.disputed(), disputed);
        let (charge, mut delivered) = (tariff.charge(arrived), Delivered::default());
        match proven {
            Some(_) => delivered.confirmed = charge,
            None => delivered.presumed = charge,
        }
        Some(Settled { forgiven, disputed, delivered })
    }

    /// Ends a stream whose connection is gone without a word of the agent about it, and releases what it reserved. What
    /// arrived stays billed; what never left is taken off; and so is what was on its way, within the allowance, and
    /// beyond it as far as the window has room for it beside the largest payment step and a batch.
    ///
    /// `None` comes back for a stream that is not open.
    // r[impl channel.lost.settle]
    pub fn lost(&mut self, stream: StreamKey, seen: InFlight) -> Option<Lost> {
        let (sent, tariff) = self.streams.close(stream).ok()?;
        let unacknowledged = sent.saturating_sub(seen.acknowledged);
        let unsent = seen.unsent.min(unacknowledged);
        let never_left = tariff.charge(unsent);
        self.billed = self.billed.saturating_sub(never_left);
        let withdrawn = self.take_off(tariff.charge(unacknowledged.saturating_sub(unsent)), &tariff);
        let off = add(never_left, withdrawn);
        let presumed = tariff.charge(sent).saturating_sub(off);
        Some(Lost { off, delivered: Delivered { presumed, withdrawn, ..Delivered::default() } })
    }

    /// Settles the ended streams of a binding by the agent's word: `proven` is what it had proven on it in all. What was
    /// billed without its word and was not proven comes off, as what was on its way does in [`lost`](Self::lost), and what
    /// there is no room for with later payments. What was taken off there and was proven is billed again, as far as
    /// deposit and window have room, so that the channel comes to owe at most `most_owed`. Each binding's word counts
    /// once: the caller forgets what was delivered on it.
    // r[impl bind.replace.proven]
    pub fn claimed(&mut self, delivered: Delivered, proven: Charge, most_owed: Charge) -> Claimed {
        let proven = proven.saturating_sub(delivered.confirmed);
        let tariff = self.tariff;
        let difference = delivered.presumed.saturating_sub(proven);
        let off = self.take_off(difference, &tariff);
        self.unproven = add(self.unproven, difference.saturating_sub(off));
        let more = proven.saturating_sub(delivered.presumed).min(delivered.withdrawn);
        Claimed { off, again: self.bill_again(more, most_owed) }
    }

    /// Looks at a voucher, the cheap checks first. `now_s` is in unix seconds.
    pub fn offer(&mut self, signed: &SignedVoucher, now_s: i64) -> Result<Offer, VoucherError> {
        let voucher = &signed.voucher;
        // r[impl voucher.channel.bound]
        if voucher.channel != self.terms.channel {
            return Err(VoucherError::WrongChannel { expected: self.terms.channel, got: voucher.channel });
        }
        self.check_settleable(now_s)?;
        if self.check_rising(signed)? == Rising::Known {
            return Ok(Offer::Known);
        }
        // r[impl voucher.amount.deposit]
        if voucher.cumulative > self.terms.deposit {
            let (deposit, offered) = (self.terms.deposit, voucher.cumulative);
            return Err(VoucherError::AboveDeposit { deposit, offered });
        }
        check_expiry(voucher.expires_at, now_s)?;
        let signer = self.signer.as_ref().ok_or(VoucherError::BadSignature)?;
        let verified = signed.verify_by(&self.verifier, signer)?;
        self.pending = Some(*signed);
        Ok(Offer::Fresh(verified))
    }

    /// Counts a durable voucher. One that is lower than the watermark, or of another channel, changes nothing.
    // r[impl channel.persist_before_credit]
    pub fn credit(&mut self, durable: DurableVoucher) -> Credit {
        if self.action(Event::Durable) == Action::Credit && belongs(&durable, &self.terms) {
            if self.best.is_none_or(|best| best.cumulative() < durable.cumulative()) {
                self.best = Some(durable);
            }
            self.pending = self.pending.filter(|pending| pending.voucher.cumulative > durable.cumulative());
            self.disputed = self.disputed();
            let borne = self.lent.min(self.allowance_left(&self.tariff));
            self.lent = self.lent.saturating_sub(borne);
            self.forgiven = add(self.forgiven, borne);
            // r[impl bind.replace.proven]
            let tariff = self.tariff;
            let off = self.take_off(self.unproven, &tariff);
            self.unproven = self.unproven.saturating_sub(off);
        }
        Credit { cumulative: self.paid(), window: self.stated_window() }
    }

    /// The store could not persist the voucher of this amount: the agent may offer it again.
    pub fn persist_failed(&mut self, cumulative: Amount) {
        self.pending = self.pending.filter(|pending| pending.voucher.cumulative != cumulative);
    }

    /// Takes in what the chain says now: top-ups, settlements, closing. Old news and another channel's change nothing.
    pub fn refresh(&mut self, news: &ChannelTerms) {
        self.terms.advance(news);
        self.disputed = self.disputed();
    }

    /// What an open stream is billed at.
    pub fn tariff_of(&self, stream: StreamKey) -> Option<Tariff> {
        self.streams.tariff(stream).ok()
    }

    /// What is delivered or taken and not paid. Never more than the [`window`](Self::window) at the price of the
    /// stream that was billed last.
    pub fn owed(&self) -> Charge {
        self.billed.saturating_sub(Charge::from_amount(self.paid()))
    }

    /// What may stand unpaid, in base units, with what is lent.
    pub fn window(&self) -> Amount {
        credit_window(self.paid(), &self.tariff)
    }

    /// The window that the agent is told of, in base units: what is lent or disputed takes up the rest.
    // r[impl channel.window.stated]
    pub fn stated_window(&self) -> Amount {
        let taken = add(self.lent, self.disputed()).to_amount().unwrap_or(self.terms.deposit);
        window_less(self.paid(), taken, &self.tariff)
    }

    /// Everything paid so far, in base units: the higher of the node's and the chain's watermark.
    pub fn paid(&self) -> Amount {
        self.best.map_or(Amount::ZERO, |best| best.cumulative()).max(self.terms.settled)
    }

    /// Everything delivered so far, less what was forgiven.
    pub fn billed(&self) -> Charge {
        self.billed
    }

    /// The part of what is owed that the agent says it never got.
    pub fn disputed(&self) -> Charge {
        self.disputed.min(self.owed())
    }

    /// What is off the bill since its connection was lost, and takes up the window all the same.
    pub fn lent(&self) -> Charge {
        self.lent
    }

    /// What new requests may still reserve, in base units.
    pub fn deposit_left(&self) -> Amount {
        let taken = add(self.billed, self.streams.reserved()).to_amount().unwrap_or(self.terms.deposit);
        self.terms.deposit.saturating_sub(taken)
    }

    /// The best durable voucher: what to settle with.
    pub fn watermark(&self) -> Option<&DurableVoucher> {
        self.best.as_ref()
    }

    /// What the chain says, as far as this node has seen.
    pub fn terms(&self) -> &ChannelTerms {
        &self.terms
    }

    /// True while a stream is open.
    pub fn is_busy(&self) -> bool {
        !self.streams.is_empty()
    }

    /// Takes off the bill what did not arrive by all that is known: what the allowance has left for it, and beyond that what
    /// the window has room for, which it then takes up. Returns what came off.
    fn take_off(&mut self, difference: Charge, tariff: &Tariff) -> Charge {
        let forgiven = difference.min(self.allowance_left(tariff));
        let room = self.room_to_lend(tariff).saturating_sub(self.lent);
        let lent = difference.saturating_sub(forgiven).min(room);
        let off = add(forgiven, lent);
        self.billed = self.billed.saturating_sub(off);
        self.forgiven = add(self.forgiven, forgiven);
        self.lent = add(self.lent, lent);
        self.disputed = self.disputed();
        off
    }

    /// Bills what was taken off before. What is lent takes up the window already; the rest needs room there.
    fn bill_again(&mut self, charge: Charge, most_owed: Charge) -> Charge {
        let taken = add(self.billed, self.streams.reserved());
        let deposit = Charge::from_amount(self.terms.deposit).saturating_sub(taken);
        let most_owed = Charge::from_amount(self.window()).min(most_owed);
        let at_most = add(Charge::from_amount(self.paid()), most_owed);
        let charge = charge.min(deposit).min(at_most.saturating_sub(self.billed));
        let lent = charge.min(self.lent);
        let room = at_most.saturating_sub(add(self.billed, self.lent));
        let forgiven = charge.saturating_sub(lent).min(self.forgiven).min(room);
        self.billed = add(self.billed, add(lent, forgiven));
        self.lent = self.lent.saturating_sub(lent);
        self.forgiven = self.forgiven.saturating_sub(forgiven);
        add(lent, forgiven)
    }

    fn allowance_left(&self, tariff: &Tariff) -> Charge {
        counting_allowance(self.paid(), tariff).saturating_sub(self.forgiven)
    }

    /// How much of the window at this price counts as lent: at another than the channel's no more than the stated window
    /// tells the agent, and nowhere what a smallest step needs.
    // r[impl channel.window.stated]
    fn lent_of(&self, tariff: &Tariff) -> Charge {
        let counted = self.lent.min(lending_limit(self.paid(), tariff));
        if *tariff == self.tariff {
            return counted;
        }
        let lent = self.lent.to_amount().unwrap_or(self.terms.deposit);
        let told = self.window().saturating_sub(window_less(self.paid(), lent, &self.tariff));
        counted.min(Charge::from_amount(told))
    }

    /// Whether what is disputed leaves the window, or what is not lent of it, no room for the largest payment step and a
    /// batch; where little is left, for the step by which the agent goes then.
    fn leaves_no_room(&self, tariff: &Tariff) -> bool {
        let (paid, disputed) = (self.paid(), self.disputed());
        let lent = self.lent.to_amount().unwrap_or(self.terms.deposit);
        let limit = dispute_limit_within(window_less(paid, lent, tariff), paid, tariff);
        let window = Charge::from_amount(credit_window(paid, tariff));
        let left = window.saturating_sub(add(self.lent_of(tariff), disputed));
        disputed > limit || (disputed > Charge::ZERO && left < least_room(tariff))
    }

    /// How much of the window may be lent beside what is disputed.
    fn room_to_lend(&self, tariff: &Tariff) -> Charge {
        match self.disputed() {
            Charge::ZERO => lending_limit(self.paid(), tariff),
            disputed => dispute_limit(self.paid(), tariff).saturating_sub(disputed),
        }
    }

    fn action(&self, event: Event) -> Action {
        step(State::of(Some(&self.terms.state)), event).1
    }

    fn check_settleable(&self, now_s: i64) -> Result<(), VoucherError> {
        let in_time = match self.terms.state {
            ChannelState::Closing { deadline } => now_s < deadline,
            ChannelState::Open | ChannelState::Closed => true,
        };
        if in_time && self.action(Event::Offer) != Action::Refuse { Ok(()) } else { Err(VoucherError::ChannelClosed) }
    }

    // r[impl voucher.amount.monotonic]
    // r[impl voucher.amount.equal]
    fn check_rising(&self, signed: &SignedVoucher) -> Result<Rising, VoucherError> {
        let offered = signed.voucher.cumulative;
        let best = self.best.map(|best| *best.signed());
        for known in [self.pending, best].into_iter().flatten() {
            if known == *signed {
                return Ok(Rising::Known);
            }
        }
        let highest = [self.pending, best].into_iter().flatten().max_by_key(|known| known.voucher.cumulative);
        let watermark = highest.map_or(Amount::ZERO, |known| known.voucher.cumulative).max(self.terms.settled);
        if offered > watermark {
            return Ok(Rising::New);
        }
        match highest {
            Some(known) if known.voucher.cumulative == offered => {
                Err(VoucherError::EqualDiffers { cumulative: offered })
            }
            _ => Err(VoucherError::NotRising { watermark, offered }),
        }
    }
}

#[derive(PartialEq, Eq)]
enum Rising {
    New,
    Known,
}

// r[impl voucher.expiry]
fn check_expiry(expires_at: i64, now: i64) -> Result<(), VoucherError> {
    if is_expired(expires_at, now) {
        return Err(VoucherError::Expired { expires_at, now });
    }
    let earliest = now.saturating_add(SETTLE_MARGIN_S);
    if expires_at != NEVER && expires_at < earliest {
        return Err(VoucherError::ExpiresTooSoon { expires_at, earliest });
    }
    Ok(())
}

fn belongs(durable: &DurableVoucher, terms: &ChannelTerms) -> bool {
    durable.verified().channel() == terms.channel && durable.verified().signer() == terms.signer
}

impl BeginError {
    /// The code on the wire.
    pub fn refusal_code(&self) -> RefusalCode {
        match self {
            Self::DepositExhausted { .. } => RefusalCode::DepositExhausted,
            Self::ChannelClosing => RefusalCode::ChannelUnusable,
            Self::Unpaid { .. } => RefusalCode::Unpaid,
            Self::DuplicateStream(_) => RefusalCode::Internal,
        }
    }

    /// The refusal to send, with the amount that it speaks of.
    pub fn refusal(&self) -> Refusal {
        let refusal = Refusal::new(self.refusal_code(), self.to_string());
        match *self {
            Self::DepositExhausted { missing: amount } | Self::Unpaid { owed: amount } => refusal.with_amount(amount),
            Self::ChannelClosing | Self::DuplicateStream(_) => refusal,
        }
    }
}

impl From<CountError> for SendError {
    fn from(error: CountError) -> Self {
        match error {
            CountError::Unknown(stream) => Self::UnknownStream(stream),
            CountError::Beyond { stream, left } => Self::BeyondReservation { stream, left },
        }
    }
}
