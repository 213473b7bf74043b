//! One channel's payee behind a lock, and the news that wake whoever waits for credit.

mod chain;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aro_proto::channel::{
    BeginError, ChannelState, ChannelTerms, Credit, Delivered, DurableVoucher, InFlight, Offer, Payee, Permit,
    SendError, SignedVoucher, StreamKey, VoucherError,
};
use aro_proto::message::{Bound, PayRefused, Replaced, VoucherOnWire};
use aro_proto::{AgentId, Amount, ByteCount, ChannelId, Charge, NodeId, Refusal, Tariff};
use tokio::sync::watch;

pub(crate) use self::chain::Unsettled;

use self::chain::Presence;
use super::acks::{Acks, Taker, Unhanded};
use super::owner::OwnerTab;
use super::queue::Queue;
use super::seats::Seats;
use crate::ledger::Handed;
use crate::shared::unix_now;

/// A channel that pays this node.
#[derive(Debug)]
pub(crate) struct PaidChannel {
    id: ChannelId,
    signer: AgentId,
    /// Seconds between a request to close and the deadline.
    grace_s: u32,
    tariff: Tariff,
    tab: Arc<OwnerTab>,
    queue: Queue,
    seats: Seats,
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
    /// What the last look at the chain showed. The payee's terms only rise; these fall back where a fork does.
    on_chain: ChannelTerms,
    /// What other servers of the chain showed otherwise, when all channels were last read.
    otherwise: Vec<ChannelTerms>,
    /// What the owner's tab counts for this channel.
    counted: Charge,
    next_stream: u64,
    last_used: Instant,
    acks: Acks,
    /// No new requests: the channel is given to the operator to close.
    retired: bool,
    /// Polls in a row in which the chain did not show the channel.
    missed_polls: u32,
    presence: Presence,
    /// The highest deposit that an agent has announced, while the chain is read for it.
    awaited: Option<Amount>,
}

impl PaidChannel {
    pub(crate) fn new(payee: Payee, tariff: Tariff, grace_s: u32, tab: Arc<OwnerTab>, handed: Option<Handed>) -> Self {
        let terms = *payee.terms();
        let state = State {
            payee,
            on_chain: terms,
            otherwise: Vec::new(),
            counted: Charge::ZERO,
            next_stream: 0,
            last_used: Instant::now(),
            acks: Acks::new(handed),
            // A channel once given up stays so: the operator may close it with the voucher that it has.
            retired: handed.is_some_and(|handed| handed.close),
            missed_polls: 0,
            presence: Presence::OnChain,
            awaited: None,
        };
        let (state, news) = (Mutex::new(state), watch::Sender::default());
        let (queue, seats) = (Queue::default(), Seats::default());
        Self { id: terms.channel, signer: terms.signer, grace_s, tariff, tab, queue, seats, state, news }
    }

    pub(crate) fn id(&self) -> ChannelId {
        self.id
    }

    /// The key whose requests and vouchers count.
    pub(crate) fn signer(&self) -> AgentId {
        self.signer
    }

    /// What the owner's channels owe together.
    pub(crate) fn tab(&self) -> &OwnerTab {
        &self.tab
    }

    /// The streams that wait for credit.
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The connections that are bound to it.
    pub(crate) fn seats(&self) -> &Seats {
        &self.seats
    }

    /// Hears of credit and of changes on chain. Subscribe before asking [`may_send`](Self::may_send).
    pub(crate) fn subscribe(&self) -> watch::Receiver<News> {
        self.news.subscribe()
    }

    /// Admits a request for so many content bytes at this price.
    pub(crate) fn begin(&self, tariff: Tariff, content_bytes: ByteCount) -> Result<StreamKey, BeginError> {
        let mut state = self.lock();
        if state.retired || !state.is_usable(unix_now()) {
            return Err(BeginError::ChannelClosing);
        }
        // r[impl channel.owner.bound]
        if let Some(owed) = self.tab.open().used_up(state.counted) {
            return Err(BeginError::Unpaid { owed: owed.to_amount().unwrap_or(state.payee.terms().deposit) });
        }
        let key = StreamKey(state.next_stream);
        state.payee.begin_at(key, tariff, content_bytes)?;
        state.next_stream += 1;
        state.last_used = Instant::now();
        Ok(key)
    }

    /// Whether a batch may leave.
    pub(crate) fn may_send(&self, stream: StreamKey, bytes: ByteCount) -> Result<Permit, SendError> {
        let mut state = self.lock();
        if !state.is_usable(unix_now()) {
            return Err(SendError::ChannelClosed);
        }
        let mut tab = self.tab.open();
        let paid = Charge::from_amount(state.payee.paid());
        let tariff = state.payee.tariff_of(stream).unwrap_or(self.tariff);
        let billed = state.payee.billed().checked_add(tariff.charge(bytes));
        if !billed.is_some_and(|billed| tab.has_room(state.counted, billed.saturating_sub(paid))) {
            return Ok(Permit::Wait);
        }
        let permit = state.payee.may_send(stream, bytes)?;
        let owed = state.payee.owed();
        tab.recount(&mut state.counted, owed);
        Ok(permit)
    }

    /// Ends a request; see [`Payee::end`]. What was delivered belongs to its binding.
    pub(crate) fn end(&self, stream: StreamKey, proven: Option<ByteCount>) -> Delivered {
        let settled = {
            let mut state = self.lock();
            state.last_used = Instant::now();
            let settled = state.payee.end(stream, proven);
            self.recount(&mut state);
            settled
        };
        let disputed = settled.filter(|settled| settled.disputed != Charge::ZERO);
        if let Some(settled) = disputed {
            tracing::warn!(channel = %self.id, ?settled, "the agent's count of a cancelled stream is too low");
        }
        // What is disputed lowers the window, by which the agent measures its steps.
        self.wake(disputed.is_some());
        settled.map(|settled| settled.delivered).unwrap_or_default()
    }

    /// Ends a request whose connection is gone; see [`Payee::lost`]. What was delivered belongs to its binding.
    pub(crate) fn lost(&self, stream: StreamKey, seen: InFlight) -> Delivered {
        let lost = {
            let mut state = self.lock();
            state.last_used = Instant::now();
            let lost = state.payee.lost(stream, seen);
            self.recount(&mut state);
            lost
        };
        tracing::debug!(channel = %self.id, ?seen, ?lost, "a stream's connection is gone");
        // What is lent lowers the window too.
        self.wake(true);
        lost.map(|lost| lost.delivered).unwrap_or_default()
    }

    /// Settles a dead binding by what its agent had proven on it, if that is said, once the binding has ended; see
    /// [`Payee::claimed`].
    // r[impl bind.replace.proven]
    pub(crate) fn settle_replaced(&self, replaced: &Replaced) {
        let (delivered, proven) = (self.seats.take_delivered(replaced.id), replaced.proven);
        let (Some(delivered), Some(proven)) = (delivered, proven) else { return };
        let claimed = {
            let mut state = self.lock();
            // r[impl channel.owner.bound]
            let most_owed = self.tab.open().most_owed(state.counted);
            let claimed = state.payee.claimed(delivered, Charge::from_parts(proven), most_owed);
            self.recount(&mut state);
            claimed
        };
        tracing::debug!(channel = %self.id, ?delivered, proven, ?claimed, "a dead binding is settled by its agent's word");
        self.wake(true);
    }

    /// Looks at a voucher.
    pub(crate) fn offer(&self, signed: &SignedVoucher, now_s: i64) -> Result<Offer, VoucherError> {
        let mut state = self.lock();
        if !state.is_usable(now_s) {
            return Err(VoucherError::ChannelClosed);
        }
        state.payee.offer(signed, now_s)
    }

    /// Counts a durable voucher and wakes everyone who waits for it.
    pub(crate) fn credit(&self, voucher: DurableVoucher) {
        {
            let mut state = self.lock();
            state.last_used = Instant::now();
            state.payee.credit(voucher);
            self.recount(&mut state);
        }
        self.wake(true);
    }

    /// What new requests may still cost, in base units.
    pub(crate) fn deposit_left(&self) -> Amount {
        self.lock().payee.deposit_left()
    }

    /// The durable watermark, and what is billed beyond it.
    pub(crate) fn paid_and_owed(&self) -> (Amount, Charge) {
        let state = self.lock();
        (state.payee.paid(), state.payee.owed())
    }

    /// What is billed in all.
    pub(crate) fn billed(&self) -> Charge {
        self.lock().payee.billed()
    }

    /// Where the channel stands.
    pub(crate) fn standing(&self) -> Credit {
        let state = self.lock();
        Credit { cumulative: state.payee.paid(), window: state.payee.stated_window() }
    }

    /// The store could not persist a voucher.
    pub(crate) fn persist_failed(&self, cumulative: Amount) {
        self.lock().payee.persist_failed(cumulative);
    }

    /// Takes no new requests from now on. True if it took them before.
    pub(crate) fn retire(&self) -> bool {
        !std::mem::replace(&mut self.lock().retired, true)
    }

    /// True while a request is being served.
    pub(crate) fn is_busy(&self) -> bool {
        self.lock().payee.is_busy()
    }

    /// True if something delivered is not paid.
    pub(crate) fn is_owed(&self) -> bool {
        self.lock().payee.owed() > Charge::ZERO
    }

    /// True if nothing has happened for so long, and the channel is open.
    pub(crate) fn is_idle_for(&self, time: Duration) -> bool {
        let state = self.lock();
        !state.payee.is_busy() && state.last_used.elapsed() >= time && state.payee.terms().state == ChannelState::Open
    }

    /// The best voucher and what the chain has settled.
    pub(crate) fn best(&self) -> Option<DurableVoucher> {
        self.lock().payee.watermark().copied()
    }

    /// What the chain says.
    pub(crate) fn terms(&self) -> ChannelTerms {
        *self.lock().payee.terms()
    }

    /// The best that any operator has acknowledged.
    pub(crate) fn handed(&self) -> Option<Handed> {
        self.lock().acks.best()
    }

    /// Whether this operator was asked to close the channel, and has acknowledged it.
    pub(crate) fn is_asked_to_close(&self, operator: NodeId) -> bool {
        self.lock().acks.is_asked_to_close(operator)
    }

    /// Notes what an operator has acknowledged. Returns the best that any has.
    pub(crate) fn mark_handed(&self, operator: NodeId, handed: Handed) -> Handed {
        self.lock().acks.note(operator, handed, Instant::now())
    }

    /// What an operator does not have yet, or might have lost. A retired or closing channel is handed over to be
    /// closed, but only once it is quiet: what its streams still earn belongs in the last voucher.
    pub(crate) fn unhanded(&self, taker: &Taker) -> Option<Unhanded> {
        let state = self.lock();
        let voucher = *state.payee.watermark()?.signed();
        let on_chain_state = state.on_chain_state();
        let close = match on_chain_state {
            ChannelState::Open => state.retired && !state.payee.is_busy(),
            ChannelState::Closing { .. } => !state.payee.is_busy(),
            ChannelState::Closed => return None,
        };
        let on_chain = ChannelTerms { state: on_chain_state, ..state.on_chain };
        state.acks.unhanded(voucher, &on_chain, close, taker)
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
            window: state.payee.stated_window(),
        }
    }

    /// The answer to a voucher that does not count.
    pub(crate) fn pay_refused(&self, cumulative: Amount, refusal: Refusal) -> PayRefused {
        PayRefused { cumulative, refusal, watermark: self.lock().payee.watermark().map(on_wire) }
    }

    /// The owner's tab follows what this channel owes; one that is pruned owes nothing. What is lent is not on it: it goes
    /// only by paying on this channel, and would lock the owner's others up.
    fn recount(&self, state: &mut State) {
        let owed = if state.presence == Presence::Forgotten { Charge::ZERO } else { state.payee.owed() };
        self.tab.open().recount(&mut state.counted, owed);
    }

    /// Wakes all who wait, and if the channel stands differently now, `tells` them how. The latest news is never older than
    /// what came before it: where the channel stands is read while nobody else can tell. Not to be called under the state's
    /// lock.
    fn wake(&self, tells: bool) {
        self.news.send_modify(|news| {
            if tells {
                news.credit = Some(self.standing());
            }
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
