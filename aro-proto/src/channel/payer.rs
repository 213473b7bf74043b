//! The payer: an agent's side of one channel. It pays for what it has proven, and for nothing else.
//!
//! What can never be: a voucher above the deposit; more signed than what is proven, rounded up, and the prepaid
//! part that the agent chose to risk.

use thiserror::Error;

use super::streams::{CountError, StreamKey, Streams, add};
use super::terms::{ChannelState, ChannelTerms};
use super::voucher::SignedVoucher;
use super::window::{LEAST, counting_allowance, crash_allowance, credit_window, payment_step, window_less};
use crate::amount::{Amount, ByteCount};
use crate::tariff::{Charge, Tariff};

/// What this agent has proven, signed and promised on one channel.
#[derive(Clone, Debug)]
pub struct Payer {
    terms: ChannelTerms,
    tariff: Tariff,
    /// The dearest price that the node's streams may have: measures what a broken connection explains.
    dearest: Tariff,
    prepay: Amount,
    signed: Amount,
    accepted: Amount,
    /// What the node's window lacks, by what it says: lent or disputed.
    taken: Amount,
    owes: Charge,
    conceded: Charge,
    streams: Streams,
    /// True until the first proven byte or reconciliation: the count is then only a guess from what was signed.
    is_guess: bool,
    /// The last run of this agent died: what it had proven and not signed for, and what was on its way, is not in the
    /// record.
    crashed: bool,
}

/// A voucher is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The amount to sign, in base units.
    pub cumulative: Amount,
}

/// What came of comparing counts with the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// The node showed a voucher of ours above our record: it is the record now, and must be made durable.
    pub adopted: Option<Amount>,
    /// The node does not have our highest voucher: sign this amount again and send it.
    pub resend: Option<Amount>,
    /// Taken onto our count although we did not prove it: bytes in flight when something broke off.
    pub conceded: Charge,
}

/// Why the payer refuses: the deposit, the channel, the node's claim, or the caller's mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PayerError {
    /// The deposit does not cover the request beside all that is owed and reserved.
    #[error("the channel's deposit lacks {missing} $ARO for this request")]
    DepositExhausted {
        /// What is missing, in base units.
        missing: Amount,
    },
    /// The channel is closing or closed.
    #[error("the channel takes no new requests: it is closing or closed")]
    ChannelNotOpen,
    /// The node claims to hold a voucher that was never signed.
    #[error("the node claims {accepted} $ARO as paid, but only {signed} were ever signed")]
    NeverSigned {
        /// What the node claims.
        accepted: Amount,
        /// The highest amount signed.
        signed: Amount,
    },
    /// A stream of this key is open: the caller's mistake.
    #[error("stream {} is open already", .0.0)]
    DuplicateStream(StreamKey),
    /// No stream of this key is open: the caller's mistake.
    #[error("stream {} is not open", .0.0)]
    UnknownStream(StreamKey),
    /// More was proven than [`Payer::begin`] was told: the caller's mistake.
    #[error("stream {} has {} bytes left", .stream.0, .left.get())]
    BeyondReservation {
        /// The stream.
        stream: StreamKey,
        /// What is left of its reservation.
        left: ByteCount,
    },
}

/// Why the node's account of the channel is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReconcileError {
    /// The watermark that the node shows is not a voucher of ours on this channel: the node lies.
    #[error("the node shows a voucher that this agent never signed")]
    Misbehaved,
    /// The watermark is ours, and above the deposit as we know it: either the chain shows more by now, or another wallet
    /// has our key. Nothing is adopted; who asks the chain first may try again.
    #[error("the node shows our voucher of {shown} $ARO, but the deposit is {deposit} $ARO")]
    AboveDeposit {
        /// The voucher's amount, in base units.
        shown: Amount,
        /// The deposit as far as we know, in base units.
        deposit: Amount,
    },
    /// The node bills more than was proven, beyond what a broken connection explains. Nothing more is conceded.
    #[error("the node bills {claimed} $ARO, but only {own} were proven here")]
    Overcharged {
        /// The node's bill, rounded up, in base units.
        claimed: Amount,
        /// Our own count, rounded up, in base units.
        own: Amount,
    },
}

impl Payer {
    /// Takes up a channel. `signed` is the highest amount that this agent's durable record says it signed;
    /// `prepay` is what it is willing to lose to this node by paying ahead (0: pay only for what is proven).
    pub fn new(terms: ChannelTerms, tariff: Tariff, signed: Amount, prepay: Amount) -> Self {
        let signed = signed.max(terms.settled);
        Self {
            terms,
            tariff,
            dearest: tariff,
            prepay,
            signed,
            accepted: terms.settled,
            taken: Amount::ZERO,
            owes: Charge::from_amount(signed),
            conceded: Charge::ZERO,
            streams: Streams::default(),
            is_guess: true,
            crashed: false,
        }
    }

    /// The same, with what earlier runs conceded on this channel, so that the bound holds over all of them.
    pub fn with_conceded(mut self, conceded: Charge) -> Self {
        self.conceded = conceded;
        self
    }

    /// The same, towards a node whose streams have other prices too, such as that of uploads.
    pub fn with_price(mut self, other: Tariff) -> Self {
        self.dearest.per_mib = self.dearest.per_mib.max(other.per_mib);
        self
    }

    /// The same after a run of this agent that died while the channel was in use: the first reconciliation takes the
    /// node's word for what that may have cost, at most what the node lends.
    pub fn after_crash(mut self, crashed: bool) -> Self {
        self.crashed = crashed;
        self
    }

    /// Announces a request for `content_bytes`: reserves its charge in the deposit.
    // r[impl channel.reserve]
    pub fn begin(&mut self, stream: StreamKey, content_bytes: ByteCount) -> Result<(), PayerError> {
        self.begin_at(stream, self.tariff, content_bytes)
    }

    /// The same for a stream with a price of its own, such as an upload.
    // r[impl channel.stream.price]
    pub fn begin_at(&mut self, stream: StreamKey, tariff: Tariff, content_bytes: ByteCount) -> Result<(), PayerError> {
        if self.terms.state != ChannelState::Open {
            return Err(PayerError::ChannelNotOpen);
        }
        if self.streams.contains(stream) {
            return Err(PayerError::DuplicateStream(stream));
        }
        if let Some(missing) = self.streams.missing(self.owes, self.terms.deposit, &tariff, content_bytes) {
            return Err(PayerError::DepositExhausted { missing });
        }
        self.streams.open(stream, &tariff, content_bytes);
        Ok(())
    }

    /// Announces `content_bytes` more on an open stream, where one request brings several contents: reserves their charge
    /// too.
    pub fn grow(&mut self, stream: StreamKey, content_bytes: ByteCount) -> Result<(), PayerError> {
        let tariff = self.streams.tariff(stream)?;
        if let Some(missing) = self.streams.missing(self.owes, self.terms.deposit, &tariff, content_bytes) {
            return Err(PayerError::DepositExhausted { missing });
        }
        Ok(self.streams.grow(stream, content_bytes)?)
    }

    /// Counts `bytes` of content that have just been proven: here, or in an upload by the node, which says so.
    // r[impl channel.pay_proven_only]
    pub fn proved(&mut self, stream: StreamKey, bytes: ByteCount) -> Result<(), PayerError> {
        let charge = self.streams.count(stream, bytes)?;
        self.owes = add(self.owes, charge);
        self.is_guess = false;
        Ok(())
    }

    /// Ends a stream, whole or cancelled, and releases the rest of its reservation. Returns the proven bytes: what
    /// to tell the node if the stream was cancelled.
    pub fn end(&mut self, stream: StreamKey) -> Result<ByteCount, PayerError> {
        Ok(self.streams.close(stream)?.0)
    }

    /// The node says what it has accepted and what window it gives now: what that lacks is lent or disputed, and lacks the
    /// streams of all prices. A window below the protocol's least is not believed: it would only make this agent sign more
    /// often.
    // r[impl channel.window.stated]
    pub fn credited(&mut self, accepted: Amount, window: Amount) -> Result<(), PayerError> {
        if accepted > self.signed {
            return Err(PayerError::NeverSigned { accepted, signed: self.signed });
        }
        self.accepted = self.accepted.max(accepted);
        self.taken = credit_window(accepted, &self.tariff).saturating_sub(window);
        Ok(())
    }

    /// The voucher to sign now, if one is due: when what is proven and not yet signed reaches a payment step; or down to
    /// the last unit with `flush` (the end of a fetch, a moment in which nothing comes). Ask the budget, sign, then
    /// [`record_signed`](Self::record_signed); until then the same voucher stays due.
    // r[impl channel.pay_proven_only]
    pub fn due(&self, flush: bool) -> Option<Due> {
        if self.terms.state == ChannelState::Closed {
            return None;
        }
        let ahead = Charge::from_amount(self.prepay).min(self.streams.reserved());
        let goal = add(self.owes, ahead).to_amount().unwrap_or(self.terms.deposit).min(self.terms.deposit);
        let rise = goal.saturating_sub(self.signed);
        let enough = if flush { LEAST } else { self.step() };
        (rise >= enough).then_some(Due { cumulative: goal })
    }

    /// The wallet has signed this amount, durably, here or on another connection: it is spent, whether or not the node
    /// gets it.
    pub fn record_signed(&mut self, cumulative: Amount) {
        self.signed = self.signed.max(cumulative);
    }

    /// Compares counts when a connection binds to the channel. `watermark` is the node's best voucher, `billed` what
    /// it says it has delivered. Our own signature in its hands is proof; its bill is a claim, and is caught up with
    /// only as far as bytes in flight at a break explain: what one stream may have in flight (at most the credit window)
    /// and a 16th of all that was signed, in total.
    // r[impl channel.reconcile]
    pub fn reconcile(
        &mut self,
        watermark: Option<SignedVoucher>,
        billed: Charge,
    ) -> Result<Reconciled, ReconcileError> {
        let mut outcome = Reconciled::default();
        let mut accepted = self.terms.settled;
        if let Some(shown) = watermark {
            self.check_own(&shown)?;
            let (shown, deposit) = (shown.voucher.cumulative, self.terms.deposit);
            if shown > deposit {
                return Err(ReconcileError::AboveDeposit { shown, deposit });
            }
            accepted = accepted.max(shown);
        }
        if self.adopt(accepted) {
            outcome.adopted = Some(accepted);
        }
        self.accepted = self.accepted.max(accepted);
        outcome.resend = (accepted < self.signed).then_some(self.signed);
        outcome.conceded = self.compare(billed)?;
        self.is_guess = false;
        Ok(outcome)
    }

    /// Takes in what the chain says now. Old news and another channel's change nothing.
    pub fn refresh(&mut self, news: &ChannelTerms) {
        self.terms.advance(news);
        self.adopt(self.terms.settled);
    }

    /// What is owed in all: proven, or conceded.
    pub fn owes(&self) -> Charge {
        self.owes
    }

    /// The highest amount signed, in base units.
    pub fn signed(&self) -> Amount {
        self.signed
    }

    /// The highest amount that the node has acknowledged as durable, in base units.
    pub fn accepted(&self) -> Amount {
        self.accepted
    }

    /// What was taken onto the count without proof and without a crash that explains it, over all runs. Keep it with the
    /// record of what was signed.
    pub fn conceded(&self) -> Charge {
        self.conceded
    }

    /// What new requests may still reserve, in base units.
    pub fn deposit_left(&self) -> Amount {
        let taken = add(self.owes, self.streams.reserved()).to_amount().unwrap_or(self.terms.deposit);
        self.terms.deposit.saturating_sub(taken)
    }

    /// The price of a quantum on the cheapest open stream, in base units; at the channel's price if none is open.
    pub fn least_quantum(&self) -> Amount {
        let least = self.streams.tariffs().filter_map(|tariff| tariff.quantum()).min();
        least.or_else(|| self.tariff.quantum()).unwrap_or_default()
    }

    /// What the chain says, as far as this agent has seen.
    pub fn terms(&self) -> &ChannelTerms {
        &self.terms
    }

    /// True while a stream is open.
    pub fn is_busy(&self) -> bool {
        !self.streams.is_empty()
    }

    /// The least step of the open streams: where a cheap one waits at its window, a dear one's step may never come.
    fn step(&self) -> Amount {
        let step_at = |tariff: Tariff| {
            let window = window_less(self.accepted, self.taken, &tariff);
            payment_step(self.accepted, window, &tariff, self.streams.len())
        };
        self.streams.tariffs().map(step_at).min().unwrap_or_else(|| step_at(self.tariff))
    }

    /// Takes up an amount that we have signed by all evidence, although our record does not know it.
    fn adopt(&mut self, cumulative: Amount) -> bool {
        let is_news = cumulative > self.signed;
        if is_news {
            self.signed = cumulative;
            self.owes = self.owes.max(Charge::from_amount(cumulative));
        }
        is_news
    }

    fn check_own(&self, shown: &SignedVoucher) -> Result<(), ReconcileError> {
        let of_this_channel = shown.voucher.channel == self.terms.channel;
        if of_this_channel && shown.verify(&self.terms.signer).is_ok() {
            Ok(())
        } else {
            Err(ReconcileError::Misbehaved)
        }
    }

    /// Moves our count to the node's as far as it may go; returns what that conceded.
    fn compare(&mut self, billed: Charge) -> Result<Charge, ReconcileError> {
        if self.is_guess && billed < self.owes {
            self.owes = billed;
            return Ok(Charge::ZERO);
        }
        // What open streams may still bring is no difference yet.
        let explained = add(self.owes, self.streams.reserved());
        let difference = billed.saturating_sub(explained);
        let lost =
            if core::mem::take(&mut self.crashed) { crash_allowance(self.signed, &self.dearest) } else { Charge::ZERO };
        let beyond = difference.saturating_sub(lost);
        let left = counting_allowance(self.signed, &self.dearest).saturating_sub(self.conceded);
        let room = Charge::from_amount(self.terms.deposit).saturating_sub(explained);
        if beyond > left || difference > room {
            let amount = |charge: Charge| charge.to_amount().unwrap_or(Amount::new(u64::MAX));
            return Err(ReconcileError::Overcharged { claimed: amount(billed), own: amount(self.owes) });
        }
        self.owes = add(self.owes, difference);
        self.conceded = add(self.conceded, beyond);
        Ok(difference)
    }
}

impl From<CountError> for PayerError {
    fn from(error: CountError) -> Self {
        match error {
            CountError::Unknown(stream) => Self::UnknownStream(stream),
            CountError::Beyond { stream, left } => Self::BeyondReservation { stream, left },
        }
    }
}
