//! One channel's payee behind a lock, and the news that wake whoever waits for credit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aro_proto::channel::{
    BeginError, ChannelState, ChannelTerms, Credit, Delivered, DurableVoucher, InFlight, Offer, Payee, Permit,
    SendError, SignedVoucher, StreamKey, VoucherError,
};
use aro_proto::limits::CLOSING_MARGIN_S;
use aro_proto::message::{Bound, PayRefused, Replaced, VoucherOnWire};
use aro_proto::{AgentId, Amount, ByteCount, ChannelId, Charge, NodeId, Refusal, Tariff};
use tokio::sync::watch;

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

/// A best voucher that the chain has not taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unsettled {
    /// The voucher.
    pub(crate) voucher: SignedVoucher,
    /// Base units above the chain's watermark.
    pub(crate) amount: Amount,
    /// Whether the channel is open or closing.
    pub(crate) state: ChannelState,
    /// Seconds between a request to close and the deadline.
    pub(crate) grace_s: u32,
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

/// Whether the channel is there at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// As far as is known.
    OnChain,
    /// The chain denies it, for now, since this block height.
    Missing {
        /// Block height.
        since: u64,
    },
    /// Its voucher is pruned: if it comes again, it comes as another payee.
    Forgotten,
}

/// A look at the chain for an announced deposit, the only one of its channel until dropped.
#[derive(Debug)]
pub(crate) struct AwaitedDeposit(Arc<PaidChannel>);

impl AwaitedDeposit {
    /// True if the chain has shown all that was announced.
    pub(crate) fn has_come(&self) -> bool {
        let state = self.0.lock();
        state.awaited.is_none_or(|awaited| state.payee.terms().deposit >= awaited)
    }
}

impl Drop for AwaitedDeposit {
    fn drop(&mut self) {
        self.0.lock().awaited = None;
    }
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

    /// Admits a request.
    pub(crate) fn begin(&self, content_bytes: ByteCount) -> Result<StreamKey, BeginError> {
        self.begin_at(self.tariff, content_bytes)
    }

    /// Admits a request that has a price of its own.
    pub(crate) fn begin_at(&self, tariff: Tariff, content_bytes: ByteCount) -> Result<StreamKey, BeginError> {
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
        if let Some(settled) = settled.filter(|settled| settled.disputed != Charge::ZERO) {
            tracing::warn!(channel = %self.id, ?settled, "the agent's count of a cancelled stream is too low");
        }
        self.wake(None);
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
        // What is lent lowers the window, by which those who live measure their steps.
        self.wake(Some(self.standing()));
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
        self.wake(Some(self.standing()));
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
        let credit = {
            let mut state = self.lock();
            state.last_used = Instant::now();
            let credit = state.payee.credit(voucher);
            self.recount(&mut state);
            credit
        };
        self.wake(Some(credit));
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

    /// Takes in what the chain says.
    pub(crate) fn refresh(&self, terms: &ChannelTerms) {
        let changed = {
            let mut state = self.lock();
            state.missed_polls = 0;
            if matches!(state.presence, Presence::Missing { .. }) {
                state.presence = Presence::OnChain;
            }
            let before = *state.payee.terms();
            state.payee.refresh(terms);
            state.on_chain = *terms;
            self.recount(&mut state);
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

    /// The chain denies the channel: nothing is served on it until it shows again.
    pub(crate) fn mark_missing(&self, since: u64) {
        self.lock().presence = Presence::Missing { since };
        self.wake(None);
    }

    /// The block height since which the chain denies the channel, if it does.
    pub(crate) fn missing_since(&self) -> Option<u64> {
        match self.lock().presence {
            Presence::Missing { since } => Some(since),
            Presence::OnChain | Presence::Forgotten => None,
        }
    }

    /// The voucher is pruned: nothing is served and nothing is taken any more.
    pub(crate) fn mark_forgotten(&self) {
        let mut state = self.lock();
        state.presence = Presence::Forgotten;
        self.recount(&mut state);
        drop(state);
        self.wake(None);
    }

    /// True if the best voucher can never settle more than is settled.
    pub(crate) fn is_worthless(&self, now_s: i64) -> bool {
        let state = self.lock();
        let terms = state.payee.terms();
        let is_over = match terms.state {
            ChannelState::Closed => true,
            ChannelState::Closing { deadline } => now_s >= deadline,
            ChannelState::Open => false,
        };
        is_over || state.payee.watermark().is_none_or(|best| best.cumulative() <= terms.settled)
    }

    /// Notes a deposit that an agent has announced. `None` if the chain is read for an earlier one already, which
    /// then goes on until this one shows too.
    pub(crate) fn await_deposit(self: &Arc<Self>, deposit: Amount) -> Option<AwaitedDeposit> {
        let mut state = self.lock();
        let is_first = state.awaited.is_none();
        state.awaited = state.awaited.max(Some(deposit));
        drop(state);
        is_first.then(|| AwaitedDeposit(Arc::clone(self)))
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

    /// Notes what servers show otherwise than what is believed.
    pub(crate) fn see_otherwise(&self, otherwise: Vec<ChannelTerms>) {
        self.lock().otherwise = otherwise;
    }

    /// The best voucher, if the chain can still take more from it than it has.
    pub(crate) fn unsettled(&self) -> Option<Unsettled> {
        self.unsettled_by_any().into_iter().next()
    }

    /// The same by what is believed, and by what any server shows otherwise.
    // r[impl settlement.servers.each]
    pub(crate) fn unsettled_by_any(&self) -> Vec<Unsettled> {
        let state = self.lock();
        let believed = ChannelTerms { state: state.payee.terms().state, ..state.on_chain };
        let shown = std::iter::once(&believed).chain(&state.otherwise);
        shown.filter_map(|terms| self.unsettled_in(&state, terms)).collect()
    }

    /// The same by these terms, which one server shows.
    pub(crate) fn unsettled_by(&self, terms: &ChannelTerms) -> Option<Unsettled> {
        self.unsettled_in(&self.lock(), terms)
    }

    fn unsettled_in(&self, state: &State, terms: &ChannelTerms) -> Option<Unsettled> {
        let best = state.payee.watermark()?;
        let amount = best.cumulative().checked_sub(terms.settled).filter(|amount| !amount.is_zero())?;
        let is_there = terms.state != ChannelState::Closed && state.presence == Presence::OnChain;
        is_there.then_some(Unsettled { voucher: *best.signed(), amount, state: terms.state, grace_s: self.grace_s })
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
        let close = match state.payee.terms().state {
            ChannelState::Open => state.retired && !state.payee.is_busy(),
            ChannelState::Closing { .. } => !state.payee.is_busy(),
            ChannelState::Closed => return None,
        };
        let on_chain = ChannelTerms { state: state.payee.terms().state, ..state.on_chain };
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

    /// The owner's tab follows what this channel owes; one that is pruned owes nothing.
    fn recount(&self, state: &mut State) {
        let owed = if state.presence == Presence::Forgotten { Charge::ZERO } else { state.payee.owed() };
        self.tab.open().recount(&mut state.counted, owed);
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

impl State {
    /// True unless the channel is gone, or its deadline so near that what is paid now might not settle.
    fn is_usable(&self, now_s: i64) -> bool {
        let in_time = |terms: &ChannelTerms| match terms.state {
            ChannelState::Closing { deadline } => now_s < deadline.saturating_sub(CLOSING_MARGIN_S),
            ChannelState::Open | ChannelState::Closed => true,
        };
        // One server alone can so hold a channel up for as long as it lies; believing the others may lose what is lent.
        in_time(self.payee.terms()) && self.otherwise.iter().all(in_time) && self.presence == Presence::OnChain
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

#[cfg(test)]
mod tests {
    use aro_proto::SecretKey;
    use aro_proto::channel::{MemoryVouchers, Voucher, persist_all};

    use super::*;

    // r[verify settlement.close.best_voucher]
    #[test]
    fn closing_channel_is_handed_over_to_be_closed_only_once_its_streams_have_ended() {
        let signer = SecretKey::from_bytes(&[7; 32]);
        let channel = ChannelId::from_bytes([3; 32]);
        let open = ChannelTerms {
            channel,
            signer: signer.agent_id(),
            deposit: Amount::new(1_000_000),
            settled: Amount::ZERO,
            state: ChannelState::Open,
        };
        let voucher = Voucher { channel, cumulative: Amount::new(900), expires_at: 0 };
        let verified = voucher.sign(&signer).verify(&signer.agent_id()).unwrap();
        let best = persist_all(&MemoryVouchers::default(), vec![verified]).unwrap()[0];
        let paid = paid_channel(Payee::new(open, Tariff::default(), Some(best)), Tariff::default());
        let stream = paid.begin(ByteCount::new(1_000)).unwrap();
        paid.refresh(&ChannelTerms { state: ChannelState::Closing { deadline: i64::MAX }, ..open });

        let (id, now) = (NodeId::from_bytes([1; 32]), Instant::now());
        let taker = Taker { id, may_close: true, now, again_after: Duration::from_secs(3_600) };
        let early = paid.unhanded(&taker).unwrap();
        assert!(!early.close, "what the stream still earns belongs in the last voucher");
        paid.mark_handed(id, Handed { cumulative: early.voucher.voucher.cumulative, close: early.close });
        assert!(paid.unhanded(&taker).is_none());
        paid.end(stream, None);
        assert!(paid.unhanded(&taker).unwrap().close);
    }

    fn paid_channel(payee: Payee, tariff: Tariff) -> PaidChannel {
        let tab = Arc::new(OwnerTab::new(tariff.charge(ByteCount::new(64 << 20))));
        PaidChannel::new(payee, tariff, 900, tab, None)
    }

    fn channel_at(state: ChannelState) -> (Arc<PaidChannel>, ChannelTerms, SecretKey) {
        let signer = SecretKey::from_bytes(&[7; 32]);
        let channel = ChannelId::from_bytes([3; 32]);
        let deposit = Amount::new(1_000_000);
        let terms = ChannelTerms { channel, signer: signer.agent_id(), deposit, settled: Amount::ZERO, state };
        let verified = Voucher { channel, cumulative: Amount::new(900), expires_at: 0 }
            .sign(&signer)
            .verify(&terms.signer)
            .unwrap();
        let best = persist_all(&MemoryVouchers::default(), vec![verified]).unwrap()[0];
        let tariff = Tariff { per_mib: 1 };
        (Arc::new(paid_channel(Payee::new(terms, tariff, Some(best)), tariff)), terms, signer)
    }

    #[test]
    fn closing_channel_takes_and_serves_nothing_shortly_before_its_deadline() {
        let now = unix_now();
        let (paid, terms, signer) = channel_at(ChannelState::Open);
        let stream = paid.begin(ByteCount::new(1_000)).unwrap();
        let voucher = |cumulative| {
            Voucher { channel: terms.channel, cumulative: Amount::new(cumulative), expires_at: 0 }.sign(&signer)
        };
        let deadline = now + 10_000;
        paid.refresh(&ChannelTerms { state: ChannelState::Closing { deadline }, ..terms });
        assert_eq!(paid.may_send(stream, ByteCount::new(10)), Ok(Permit::Granted));
        assert!(paid.offer(&voucher(910), deadline - CLOSING_MARGIN_S - 1).is_ok());
        assert_eq!(paid.offer(&voucher(920), deadline - CLOSING_MARGIN_S), Err(VoucherError::ChannelClosed));

        let (paid, terms, _) = channel_at(ChannelState::Open);
        let stream = paid.begin(ByteCount::new(1_000)).unwrap();
        let state = ChannelState::Closing { deadline: now + CLOSING_MARGIN_S };
        paid.refresh(&ChannelTerms { state, ..terms });
        assert_eq!(paid.may_send(stream, ByteCount::new(10)), Err(SendError::ChannelClosed));
    }

    // r[verify settlement.servers.each]
    #[test]
    fn close_that_one_server_shows_is_heeded_while_it_shows_it_and_no_longer() {
        let now = unix_now();
        let (paid, terms, _) = channel_at(ChannelState::Open);
        let stream = paid.begin(ByteCount::new(1_000)).unwrap();
        let closing = ChannelTerms { state: ChannelState::Closing { deadline: now + CLOSING_MARGIN_S }, ..terms };
        let send = || paid.may_send(stream, ByteCount::new(10));
        // It may be the only honest one: what is believed shows a channel that is open and settled in full.
        paid.refresh(&ChannelTerms { settled: Amount::new(900), ..terms });
        paid.see_otherwise(vec![closing]);
        assert_eq!(send(), Err(SendError::ChannelClosed), "near the deadline nothing is lent");
        let shown: Vec<_> = paid.unsettled_by_any().iter().map(|it| (it.state, it.amount)).collect();
        assert_eq!(shown, [(closing.state, Amount::new(900))]);
        paid.see_otherwise(vec![]);
        assert_eq!((send(), paid.unsettled_by_any().len()), (Ok(Permit::Granted), 0));
        paid.refresh(&terms);
        paid.see_otherwise(vec![ChannelTerms { state: ChannelState::Closed, ..terms }]);
        assert_eq!(paid.unsettled().unwrap().amount, Amount::new(900), "one that calls it closed hides nothing");
    }

    #[test]
    fn voucher_is_worthless_only_once_it_can_settle_nothing_more() {
        let (open, terms, _) = channel_at(ChannelState::Open);
        assert!(!open.is_worthless(i64::MAX));
        open.refresh(&ChannelTerms { settled: Amount::new(900), ..terms });
        assert!(open.is_worthless(0));
        let (closing, ..) = channel_at(ChannelState::Closing { deadline: 500 });
        assert!(!closing.is_worthless(499));
        assert!(closing.is_worthless(500));
        assert!(channel_at(ChannelState::Closed).0.is_worthless(0));
    }

    #[test]
    fn channel_that_is_gone_serves_nothing_and_only_a_missing_one_comes_back() {
        let (paid, terms, signer) = channel_at(ChannelState::Open);
        let stream = paid.begin(ByteCount::new(1_000)).unwrap();
        let voucher = Voucher { channel: terms.channel, cumulative: Amount::new(910), expires_at: 0 }.sign(&signer);
        let refuses = || {
            paid.begin(ByteCount::new(1)) == Err(BeginError::ChannelClosing)
                && paid.may_send(stream, ByteCount::new(1)) == Err(SendError::ChannelClosed)
                && paid.offer(&voucher, 0) == Err(VoucherError::ChannelClosed)
        };
        paid.mark_missing(5);
        assert!(refuses() && paid.unsettled().is_none());
        assert_eq!(paid.missing_since(), Some(5));
        paid.refresh(&terms);
        assert_eq!(paid.may_send(stream, ByteCount::new(1)), Ok(Permit::Granted));
        paid.mark_forgotten();
        paid.refresh(&terms);
        assert!(refuses());
    }

    #[test]
    fn what_a_fork_takes_back_is_unsettled_again() {
        let (paid, terms, _) = channel_at(ChannelState::Open);
        assert_eq!(paid.unsettled().unwrap().amount, Amount::new(900));
        paid.refresh(&ChannelTerms { settled: Amount::new(900), ..terms });
        assert!(paid.unsettled().is_none());
        paid.refresh(&ChannelTerms { settled: Amount::new(300), ..terms });
        assert_eq!(paid.unsettled().unwrap().amount, Amount::new(600));
        // Whoever paid once is never asked to pay again.
        assert_eq!(paid.standing().cumulative, Amount::new(900));
    }

    #[test]
    fn chain_is_read_for_announced_deposits_by_one_task_at_a_time() {
        let (paid, terms, _) = channel_at(ChannelState::Open);
        let first = paid.await_deposit(Amount::new(2_000_000)).unwrap();
        assert!(paid.await_deposit(Amount::new(3_000_000)).is_none());
        paid.refresh(&ChannelTerms { deposit: Amount::new(2_000_000), ..terms });
        assert!(!first.has_come());
        paid.refresh(&ChannelTerms { deposit: Amount::new(3_000_000), ..terms });
        assert!(first.has_come());
        drop(first);
        assert!(paid.await_deposit(Amount::new(4_000_000)).is_some());
    }
}
