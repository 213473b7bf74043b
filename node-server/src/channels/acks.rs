//! What each operator has acknowledged of one channel.
//!
//! An acknowledgement is a promise, not a settlement: the voucher stays here until the chain has taken it, and is
//! offered again now and then, since an operator may come back from an old backup and not know what it has forgotten.

use std::time::{Duration, Instant};

use aro_proto::channel::{ChannelState, ChannelTerms, SignedVoucher};
use aro_proto::{Amount, NodeId};

use crate::ledger::Handed;

/// Acknowledgements since the node started, and the best one of all time.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    best: Option<Handed>,
    /// One for each operator of the configuration that has acknowledged something.
    by_operator: Vec<(NodeId, Handed, Instant)>,
}

/// To whom a voucher might be offered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taker {
    /// The operator's transport key.
    pub(crate) id: NodeId,
    /// Whether the node's account names it, so that it may close.
    pub(crate) may_close: bool,
    /// The time now.
    pub(crate) now: Instant,
    /// When an acknowledged voucher is offered again.
    pub(crate) again_after: Duration,
}

/// What is to be handed to an operator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unhanded {
    /// The best voucher.
    pub(crate) voucher: SignedVoucher,
    /// Whether the channel is to be closed.
    pub(crate) close: bool,
    /// False if the operator has acknowledged all of it before.
    pub(crate) is_news: bool,
}

impl Acks {
    /// Begins with what the ledger remembers.
    pub(crate) fn new(best: Option<Handed>) -> Self {
        Self { best, by_operator: Vec::new() }
    }

    /// The best that any operator has acknowledged.
    pub(crate) fn best(&self) -> Option<Handed> {
        self.best
    }

    /// Notes an acknowledgement. Returns the best of all.
    pub(crate) fn note(&mut self, operator: NodeId, handed: Handed, now: Instant) -> Handed {
        self.by_operator.retain(|(id, ..)| *id != operator);
        self.by_operator.push((operator, handed, now));
        let best = self.best.map_or(handed, |best| Handed {
            cumulative: best.cumulative.max(handed.cumulative),
            close: best.close || handed.close,
        });
        self.best = Some(best);
        best
    }

    /// Whether this operator has acknowledged that it is to close.
    pub(crate) fn is_asked_to_close(&self, operator: NodeId) -> bool {
        self.by_operator.iter().any(|(id, handed, _)| *id == operator && handed.close)
    }

    /// What `taker` does not have yet, or might have lost. `close`: the channel is to be closed.
    // r[impl settlement.handoff.again]
    pub(crate) fn unhanded(
        &self,
        voucher: SignedVoucher,
        on_chain: &ChannelTerms,
        close: bool,
        taker: &Taker,
    ) -> Option<Unhanded> {
        let cumulative = voucher.voucher.cumulative;
        let is_unsettled = cumulative > on_chain.settled;
        let close = close && taker.may_close;
        // A closing channel closes by itself; an open one only if somebody does it.
        let wants_close = close && (is_unsettled || on_chain.state == ChannelState::Open);
        let known = self.by_operator.iter().find(|(id, ..)| *id == taker.id);
        let (known, asked, at) = match known {
            Some((_, handed, at)) => (handed.cumulative, handed.close, Some(*at)),
            None => (Amount::ZERO, false, None),
        };
        let is_news = (is_unsettled && cumulative > known) || (wants_close && !asked);
        // An operator that has started anew closes only where the wish is said anew, though all may be settled by then.
        let is_left = is_unsettled || wants_close;
        let is_due_again = is_left && at.is_some_and(|at| taker.now.saturating_duration_since(at) >= taker.again_after);
        (is_news || is_due_again).then_some(Unhanded { voucher, close: close || (asked && taker.may_close), is_news })
    }
}

#[cfg(test)]
mod tests {
    use aro_proto::channel::Voucher;
    use aro_proto::{ChannelId, SecretKey};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn voucher(cumulative: u64) -> SignedVoucher {
        let channel = ChannelId::from_bytes([3; 32]);
        Voucher { channel, cumulative: Amount::new(cumulative), expires_at: 0 }.sign(&SecretKey::from_bytes(&[7; 32]))
    }

    fn terms(settled: u64) -> ChannelTerms {
        ChannelTerms {
            channel: ChannelId::from_bytes([3; 32]),
            signer: SecretKey::from_bytes(&[7; 32]).agent_id(),
            deposit: Amount::new(1_000),
            settled: Amount::new(settled),
            state: ChannelState::Open,
        }
    }

    fn handed(cumulative: u64, close: bool) -> Handed {
        Handed { cumulative: Amount::new(cumulative), close }
    }

    // r[verify settlement.handoff.again]
    #[test]
    fn an_unsettled_voucher_is_offered_again_to_each_operator_in_its_own_time() {
        let now = Instant::now();
        let taker = |id, now| Taker { id: NodeId::from_bytes([id; 32]), may_close: true, now, again_after: HOUR };
        let mut acks = Acks::default();
        assert!(acks.unhanded(voucher(500), &terms(0), false, &taker(1, now)).unwrap().is_news);
        acks.note(NodeId::from_bytes([1; 32]), handed(500, false), now);
        assert!(acks.unhanded(voucher(500), &terms(0), false, &taker(1, now)).is_none());
        assert!(acks.unhanded(voucher(500), &terms(0), false, &taker(2, now)).unwrap().is_news, "another operator");
        assert!(acks.unhanded(voucher(501), &terms(0), false, &taker(1, now)).unwrap().is_news);

        let later = now + HOUR;
        assert!(!acks.unhanded(voucher(500), &terms(0), false, &taker(1, later)).unwrap().is_news);
        assert!(acks.unhanded(voucher(500), &terms(500), false, &taker(1, later)).is_none(), "the chain has it");
        assert!(acks.unhanded(voucher(500), &terms(499), false, &taker(1, later)).is_some(), "a fork has dropped it");
    }

    // r[verify settlement.handoff.again]
    #[test]
    fn a_wish_to_close_is_said_again_until_the_channel_is_closed_though_all_is_settled() {
        let now = Instant::now();
        let taker = |now| Taker { id: NodeId::from_bytes([1; 32]), may_close: true, now, again_after: HOUR };
        let mut acks = Acks::default();
        acks.note(NodeId::from_bytes([1; 32]), handed(500, true), now);
        assert!(acks.unhanded(voucher(500), &terms(500), true, &taker(now)).is_none());
        let again = acks.unhanded(voucher(500), &terms(500), true, &taker(now + HOUR)).unwrap();
        assert!(again.close && !again.is_news);
        let closing = ChannelTerms { state: ChannelState::Closing { deadline: 9 }, ..terms(500) };
        assert!(acks.unhanded(voucher(500), &closing, true, &taker(now + HOUR)).is_none(), "it closes by itself");
    }

    #[test]
    fn only_the_operator_that_the_chain_names_is_asked_to_close() {
        let now = Instant::now();
        let taker = |may_close| Taker { id: NodeId::from_bytes([1; 32]), may_close, now, again_after: HOUR };
        let mut acks = Acks::default();
        assert!(!acks.unhanded(voucher(500), &terms(0), true, &taker(false)).unwrap().close);
        acks.note(NodeId::from_bytes([1; 32]), handed(500, false), now);
        assert!(acks.unhanded(voucher(500), &terms(0), true, &taker(false)).is_none());
        // The node switches to it.
        let offer = acks.unhanded(voucher(500), &terms(500), true, &taker(true)).unwrap();
        assert!(offer.close && offer.is_news, "an open channel is closed even where all is settled");
        acks.note(NodeId::from_bytes([1; 32]), handed(500, true), now);
        assert!(acks.unhanded(voucher(500), &terms(0), true, &taker(true)).is_none());
        assert_eq!(acks.best(), Some(handed(500, true)));
    }
}
