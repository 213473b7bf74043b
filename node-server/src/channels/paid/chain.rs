//! A channel as the chain shows it: whether it is there, what it still takes, and until when.

use std::sync::Arc;

use aro_proto::Amount;
use aro_proto::channel::{ChannelState, ChannelTerms, SignedVoucher};
use aro_proto::limits::CLOSING_MARGIN_S;

use super::{PaidChannel, State};

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

/// Whether the channel is there at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
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
        self.0.wake(false);
    }
}

impl PaidChannel {
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
            self.wake(false);
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
        self.wake(false);
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
        self.wake(false);
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

    /// True while the chain is read for a deposit that an agent has announced.
    pub(crate) fn awaits_deposit(&self) -> bool {
        self.lock().awaited.is_some()
    }

    /// Waits until the chain shows a larger deposit, or is not read for an announced one any more.
    pub(crate) async fn deposit_comes(&self) {
        let mut news = self.subscribe();
        let before = self.terms().deposit;
        while self.awaits_deposit() && self.terms().deposit == before && news.changed().await.is_ok() {}
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
        let believed = ChannelTerms { state: state.on_chain_state(), ..state.on_chain };
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

    /// True if the agent is closing the channel on chain: the voucher must settle before the deadline.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.lock().on_chain_state(), ChannelState::Closing { .. })
    }
}

impl State {
    /// Whether the channel is open. A close that was shown once is believed for good, but for its end, where the chain does not
    /// show that any more: it was a lie, or a fork, and the voucher can settle.
    pub(super) fn on_chain_state(&self) -> ChannelState {
        match self.payee.terms().state {
            ChannelState::Closed => self.on_chain.state,
            shown => shown,
        }
    }

    /// True unless the channel is gone, or its deadline so near that what is paid now might not settle.
    pub(super) fn is_usable(&self, now_s: i64) -> bool {
        let in_time = |terms: &ChannelTerms| match terms.state {
            ChannelState::Closing { deadline } => now_s < deadline.saturating_sub(CLOSING_MARGIN_S),
            ChannelState::Open => true,
            ChannelState::Closed => false,
        };
        // One server alone can so hold a channel up for as long as it lies; believing the others may lose what is lent.
        in_time(self.payee.terms()) && self.otherwise.iter().all(in_time) && self.presence == Presence::OnChain
    }
}
