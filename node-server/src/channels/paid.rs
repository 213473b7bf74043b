//! One channel's payee behind a lock, and the news that wake whoever waits for credit.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aro_proto::channel::{
    BeginError, ChannelState, ChannelTerms, Credit, DurableVoucher, Offer, Payee, Permit, SendError, SignedVoucher,
    StreamKey, VoucherError,
};
use aro_proto::message::{Bound, PayRefused, VoucherOnWire};
use aro_proto::{AgentId, Amount, ByteCount, ChannelId, Refusal};
use tokio::sync::watch;

use crate::ledger::Handed;

/// A channel that pays this node.
#[derive(Debug)]
pub(crate) struct PaidChannel {
    id: ChannelId,
    signer: AgentId,
    state: Mutex<State>,
    news: watch::Sender<News>,
}

/// What has changed about a channel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct News {
    /// The last credit, for the agent.
    pub(crate) credit: Option<Credit>,
    /// Rises with each piece of news.
    turn: u64,
}

#[derive(Debug)]
struct State {
    payee: Payee,
    next_stream: u64,
    last_used: Instant,
    handed: Option<Handed>,
    /// No new requests: the channel is given to the operator to close.
    retired: bool,
    /// Polls in a row in which the chain did not show the channel.
    missed_polls: u32,
}

/// What is to be handed to the operator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unhanded {
    /// The best voucher.
    pub(crate) voucher: SignedVoucher,
    /// Whether the channel is to be closed.
    pub(crate) close: bool,
}

impl PaidChannel {
    pub(crate) fn new(payee: Payee, handed: Option<Handed>) -> Self {
        let terms = *payee.terms();
        // A channel once given up stays so: the operator may close it with the voucher that it has.
        let retired = handed.is_some_and(|handed| handed.close);
        let last_used = Instant::now();
        let state = State { payee, next_stream: 0, last_used, handed, retired, missed_polls: 0 };
        Self { id: terms.channel, signer: terms.signer, state: Mutex::new(state), news: watch::Sender::default() }
    }

    pub(crate) fn id(&self) -> ChannelId {
        self.id
    }

    /// The key whose requests and vouchers count.
    pub(crate) fn signer(&self) -> AgentId {
        self.signer
    }

    /// Hears of credit and of changes on chain. Subscribe before asking [`may_send`](Self::may_send).
    pub(crate) fn subscribe(&self) -> watch::Receiver<News> {
        self.news.subscribe()
    }

    /// Admits a request.
    pub(crate) fn begin(&self, content_bytes: ByteCount) -> Result<StreamKey, BeginError> {
        let mut state = self.lock();
        if state.retired {
            return Err(BeginError::ChannelClosing);
        }
        let key = StreamKey(state.next_stream);
        state.payee.begin(key, content_bytes)?;
        state.next_stream += 1;
        state.last_used = Instant::now();
        Ok(key)
    }

    /// Whether a batch may leave.
    pub(crate) fn may_send(&self, stream: StreamKey, bytes: ByteCount) -> Result<Permit, SendError> {
        self.lock().payee.may_send(stream, bytes)
    }

    /// Ends a request; see [`Payee::end`].
    pub(crate) fn end(&self, stream: StreamKey, proven: Option<ByteCount>) {
        let settled = {
            let mut state = self.lock();
            state.last_used = Instant::now();
            state.payee.end(stream, proven)
        };
        if let Some(settled) = settled.filter(|settled| settled.disputed != aro_proto::Charge::ZERO) {
            tracing::warn!(channel = %self.id, ?settled, "the agent's count of a cancelled stream is too low");
        }
        self.wake(None);
    }

    /// Looks at a voucher.
    pub(crate) fn offer(&self, signed: &SignedVoucher, now_s: i64) -> Result<Offer, VoucherError> {
        self.lock().payee.offer(signed, now_s)
    }

    /// Counts a durable voucher and wakes everyone who waits for it.
    pub(crate) fn credit(&self, voucher: DurableVoucher) {
        let credit = {
            let mut state = self.lock();
            state.last_used = Instant::now();
            state.payee.credit(voucher)
        };
        self.wake(Some(credit));
    }

    /// Where the channel stands.
    pub(crate) fn standing(&self) -> Credit {
        let state = self.lock();
        Credit { cumulative: state.payee.paid(), window: state.payee.window() }
    }

    /// The store could not persist a voucher.
    pub(crate) fn persist_failed(&self, cumulative: Amount) {
        self.lock().payee.persist_failed(cumulative);
    }

    /// Takes in what the chain says.
    pub(crate) fn refresh(&self, terms: &ChannelTerms) {
        let changed = {
            let mut state = self.lock();
            state.missed_polls = 0;
            let before = *state.payee.terms();
            state.payee.refresh(terms);
            before != *state.payee.terms()
        };
        if changed {
            self.wake(None);
        }
    }

    /// The chain did not show the channel this time. Returns how often in a row.
    pub(crate) fn missed(&self) -> u32 {
        let mut state = self.lock();
        state.missed_polls = state.missed_polls.saturating_add(1);
        state.missed_polls
    }

    /// Takes no new requests from now on.
    pub(crate) fn retire(&self) {
        self.lock().retired = true;
    }

    /// True while a request is being served.
    pub(crate) fn is_busy(&self) -> bool {
        self.lock().payee.is_busy()
    }

    /// True if something delivered is not paid.
    pub(crate) fn is_owed(&self) -> bool {
        self.lock().payee.owed() > aro_proto::Charge::ZERO
    }

    /// True if the best voucher pays more than the chain has settled.
    pub(crate) fn has_unsettled(&self) -> bool {
        let state = self.lock();
        state.payee.watermark().is_some_and(|best| best.cumulative() > state.payee.terms().settled)
    }

    /// True if nothing has happened for so long, and the channel is open.
    pub(crate) fn is_idle_for(&self, time: Duration) -> bool {
        let state = self.lock();
        !state.payee.is_busy() && state.last_used.elapsed() >= time && state.payee.terms().state == ChannelState::Open
    }

    /// True if the agent is closing the channel on chain: the voucher must settle before the deadline.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.lock().payee.terms().state, ChannelState::Closing { .. })
    }

    /// The best voucher and what the chain has settled.
    pub(crate) fn best(&self) -> Option<DurableVoucher> {
        self.lock().payee.watermark().copied()
    }

    /// What the chain says.
    pub(crate) fn terms(&self) -> ChannelTerms {
        *self.lock().payee.terms()
    }

    /// What the operator has acknowledged.
    pub(crate) fn handed(&self) -> Option<Handed> {
        self.lock().handed
    }

    /// Notes what the operator has acknowledged.
    pub(crate) fn mark_handed(&self, handed: Handed) {
        self.lock().handed = Some(handed);
    }

    /// What the operator does not have yet. A retired or closing channel is handed over to be closed, but only once
    /// it is quiet: what its streams still earn belongs in the last voucher.
    pub(crate) fn unhanded(&self) -> Option<Unhanded> {
        let state = self.lock();
        let terms = state.payee.terms();
        let voucher = *state.payee.watermark()?.signed();
        let cumulative = voucher.voucher.cumulative;
        let close = match terms.state {
            ChannelState::Open => state.retired && !state.payee.is_busy(),
            ChannelState::Closing { .. } => true,
            ChannelState::Closed => return None,
        };
        let asked = state.handed.is_some_and(|handed| handed.close);
        let known = state.handed.map_or(Amount::ZERO, |handed| handed.cumulative).max(terms.settled);
        (cumulative > known || (close && !asked && cumulative > terms.settled)).then_some(Unhanded { voucher, close })
    }

    /// The answer to a bind.
    pub(crate) fn bound(&self) -> Bound {
        let state = self.lock();
        let terms = state.payee.terms();
        Bound {
            channel: self.id,
            watermark: state.payee.watermark().map(on_wire),
            billed: state.payee.billed().parts(),
            deposit: terms.deposit,
            settled: terms.settled,
            window: state.payee.window(),
        }
    }

    /// The answer to a voucher that does not count.
    pub(crate) fn pay_refused(&self, cumulative: Amount, refusal: Refusal) -> PayRefused {
        PayRefused { cumulative, refusal, watermark: self.lock().payee.watermark().map(on_wire) }
    }

    fn wake(&self, credit: Option<Credit>) {
        self.news.send_modify(|news| {
            news.credit = credit.or(news.credit);
            news.turn = news.turn.wrapping_add(1);
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn on_wire(voucher: &DurableVoucher) -> VoucherOnWire {
    let signed = voucher.signed();
    VoucherOnWire {
        cumulative: signed.voucher.cumulative,
        expires_at: signed.voucher.expires_at,
        signature: signed.signature,
    }
}
