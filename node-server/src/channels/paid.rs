//! One channel's payee behind a lock, and the news that wake whoever waits for credit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aro_proto::channel::{
    BeginError, ChannelState, ChannelTerms, Credit, DurableVoucher, Offer, Payee, Permit, SendError, SignedVoucher,
    StreamKey, VoucherError,
};
use aro_proto::limits::CLOSING_MARGIN_S;
use aro_proto::message::{Bound, PayRefused, VoucherOnWire};
use aro_proto::{AgentId, Amount, ByteCount, ChannelId, Refusal};
use tokio::sync::watch;

use crate::ledger::Handed;
use crate::shared::unix_now;

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
    presence: Presence,
    /// The highest deposit that an agent has announced, while the chain is read for it.
    awaited: Option<Amount>,
}

/// Whether the channel is there at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// As far as is known.
    OnChain,
    /// The chain denies it, for now.
    Missing,
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
        let (presence, awaited) = (Presence::OnChain, None);
        let state = State { payee, next_stream: 0, last_used, handed, retired, missed_polls: 0, presence, awaited };
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
        if state.retired || !state.is_usable(unix_now()) {
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
        let mut state = self.lock();
        if !state.is_usable(unix_now()) {
            return Err(SendError::ChannelClosed);
        }
        state.payee.may_send(stream, bytes)
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
            if state.presence == Presence::Missing {
                state.presence = Presence::OnChain;
            }
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

    /// The chain denies the channel: nothing is served on it until it shows again.
    pub(crate) fn mark_missing(&self) {
        self.lock().presence = Presence::Missing;
        self.wake(None);
    }

    /// True if the chain denies the channel.
    pub(crate) fn is_missing(&self) -> bool {
        self.lock().presence == Presence::Missing
    }

    /// The voucher is pruned: nothing is served and nothing is taken any more.
    pub(crate) fn mark_forgotten(&self) {
        self.lock().presence = Presence::Forgotten;
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
            ChannelState::Closing { .. } => !state.payee.is_busy(),
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

impl State {
    /// True unless the channel is gone, or its deadline so near that what is paid now might not settle.
    fn is_usable(&self, now_s: i64) -> bool {
        let in_time = match self.payee.terms().state {
            ChannelState::Closing { deadline } => now_s < deadline.saturating_sub(CLOSING_MARGIN_S),
            ChannelState::Open | ChannelState::Closed => true,
        };
        in_time && self.presence == Presence::OnChain
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
    use aro_proto::channel::{MemoryVouchers, Voucher, persist_all};
    use aro_proto::{SecretKey, Tariff};

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
        let paid = PaidChannel::new(Payee::new(open, Tariff::default(), Some(best)), None);
        let stream = paid.begin(ByteCount::new(1_000)).unwrap();
        paid.refresh(&ChannelTerms { state: ChannelState::Closing { deadline: i64::MAX }, ..open });

        let early = paid.unhanded().unwrap();
        assert!(!early.close, "what the stream still earns belongs in the last voucher");
        paid.mark_handed(Handed { cumulative: early.voucher.voucher.cumulative, close: early.close });
        assert!(paid.unhanded().is_none());
        paid.end(stream, None);
        assert!(paid.unhanded().unwrap().close);
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
        (Arc::new(PaidChannel::new(Payee::new(terms, Tariff { per_mib: 1 }, Some(best)), None)), terms, signer)
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
        paid.mark_missing();
        assert!(refuses());
        paid.refresh(&terms);
        assert_eq!(paid.may_send(stream, ByteCount::new(1)), Ok(Permit::Granted));
        paid.mark_forgotten();
        paid.refresh(&terms);
        assert!(refuses());
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
