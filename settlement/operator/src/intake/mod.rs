//! Takes vouchers from nodes over `aro/1`.
//!
//! Two streams of a connection matter: the control stream, on which the chains are compared, and one request stream
//! for each handoff. A handoff is judged in three steps, cheapest first: who hands it over, what the chain says of
//! each channel, what is stored already. It is acknowledged when it is durable, and not before.

mod channel_cache;
mod endpoint;
mod framed;
mod judge;
mod places;
mod session;
mod turns;

use std::collections::HashSet;
use std::sync::Arc;

use aro_proto::channel::VoucherError;
use aro_proto::message::{ChainIds, Handoff, HandoffAck, HandoffVerdict, HandoffVoucher, OperatorHello};
use aro_proto::{AgentId, Amount, ChannelId, Refusal, RefusalCode, limits};
use settlement_chain::{Address, ChainClient, Program};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

pub use channel_cache::ChannelCache;
use channel_cache::ChannelFacts;
pub(crate) use endpoint::{Bounds, Listener, bind};
use framed::PATIENCE;
use judge::Fault;
pub(crate) use turns::Turns;

use crate::vouchers::{Book, Committed, Offer, StoreError};

/// What every session of the intake shares.
pub(crate) struct Intake {
    pub(crate) chain: Arc<dyn ChainClient>,
    pub(crate) program: Program,
    pub(crate) chain_ids: ChainIds,
    /// The operator's account.
    pub(crate) operator: Address,
    pub(crate) min_settle: Amount,
    pub(crate) book: Arc<Book>,
    pub(crate) cache: Arc<ChannelCache>,
    /// Handoffs that read the chain or the store at once.
    pub(crate) work: Semaphore,
    /// One handoff of a node at a time.
    pub(crate) turns: Turns,
    /// Told when a stored voucher asks to close its channel.
    pub(crate) close_wanted: Notify,
}

/// What a handoff is answered with.
pub(crate) enum Answer {
    /// All of it is judged, and what was accepted is durable.
    Ack {
        /// One verdict for each voucher.
        ack: HandoffAck,
        /// Vouchers whose signature did not verify: honest nodes hand over none.
        bad_signatures: u32,
    },
    /// None of it was looked at.
    Refused(Refusal),
}

impl Intake {
    pub(crate) fn hello(&self) -> OperatorHello {
        OperatorHello {
            minor_version: limits::MINOR_VERSION,
            chain: self.chain_ids,
            operator: self.operator.to_bytes(),
            min_settle: self.min_settle,
        }
    }

    /// Judges a handoff whose envelope was signed by `signer`.
    // r[impl settlement.handoff.node_key]
    pub(crate) async fn take(&self, signer: AgentId, handoff: &Handoff) -> Answer {
        let turn = self.turns.of(signer);
        let Ok(_turn) = timeout(PATIENCE, turn.lock()).await else {
            return Answer::Refused(Refusal::new(RefusalCode::OverCapacity, "an earlier handoff of yours takes long"));
        };
        let Ok(_permit) = self.work.try_acquire() else {
            return Answer::Refused(Refusal::new(RefusalCode::OverCapacity, "the operator is busy"));
        };
        let (node, _) = self.program.node(&Address::new_from_array(signer.to_bytes()));
        match self.serves(&node).await {
            Ok(true) => {}
            Ok(false) => {
                let reason = "the signer is no node whose account on chain names this operator";
                return Answer::Refused(Refusal::new(RefusalCode::Unauthorised, reason));
            }
            Err(refusal) => return Answer::Refused(refusal),
        }
        match self.judge(&node, handoff).await {
            Ok(answer) => answer,
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    async fn judge(&self, node: &Address, handoff: &Handoff) -> Result<Answer, Refusal> {
        let ids: Vec<ChannelId> = handoff.vouchers.iter().map(|voucher| voucher.channel).collect();
        let mut facts = self.cache.read(&*self.chain, &self.program, &ids).await.map_err(unreadable)?;
        // What a remembered channel would refuse may have changed on chain since: a top-up, an opening.
        let stale: HashSet<ChannelId> = handoff
            .vouchers
            .iter()
            .filter(|voucher| facts.is_remembered(voucher.channel) && judge::may_be_stale(voucher, node, &facts))
            .map(|voucher| voucher.channel)
            .collect();
        if !stale.is_empty() {
            self.cache.forget(stale);
            facts = self.cache.read(&*self.chain, &self.program, &ids).await.map_err(unreadable)?;
        }

        let settled: Vec<Option<Amount>> = ids
            .iter()
            .map(|id| facts.channel(*id).map(|channel| Amount::new(channel.settled)).filter(|amount| !amount.is_zero()))
            .collect();

        let now = facts.now();
        let (committed, bad_signatures) =
            self.store(*node, handoff.vouchers.clone(), facts, ids.clone(), now).await.map_err(unstorable)?;
        if committed.closes() {
            self.close_wanted.notify_one();
        }
        let verdicts = ids.iter().zip(committed.rulings()).zip(settled).map(|((channel, ruling), settled)| {
            let (watermark, refusal) = (ruling.watermark.max(settled), ruling.refusal.clone());
            HandoffVerdict { channel: *channel, watermark, refusal }
        });
        let ack = HandoffAck { verdicts: verdicts.collect() };
        Ok(Answer::Ack { ack, bad_signatures: u32::try_from(bad_signatures).unwrap_or(u32::MAX) })
    }

    async fn store(
        &self,
        node: Address,
        vouchers: Vec<HandoffVoucher>,
        facts: ChannelFacts,
        ids: Vec<ChannelId>,
        now: i64,
    ) -> Result<(Committed, usize), StoreError> {
        let known = self.book.known(&ids).await?;
        // Signatures take long enough to keep others waiting.
        let judged = tokio::task::spawn_blocking(move || {
            let judged = vouchers.iter().zip(&known).map(|(voucher, known)| {
                let claim = judge::judge(voucher, &node, &facts, known.as_ref());
                (voucher.channel, claim)
            });
            let is_bad = |claim: &Result<_, Fault>| matches!(claim, Err(Fault::Voucher(VoucherError::BadSignature)));
            let mut bad_signatures = 0_usize;
            let offers: Vec<Offer> = judged
                .inspect(|(_, claim)| bad_signatures = bad_signatures.saturating_add(usize::from(is_bad(claim))))
                .map(|(channel, claim)| (channel, claim.map_err(|fault| fault.refusal())))
                .collect();
            (offers, bad_signatures)
        });
        let (offers, bad_signatures) = judged.await.map_err(|e| StoreError::Database(e.to_string()))?;
        Ok((self.book.commit(offers, now).await?, bad_signatures))
    }

    async fn serves(&self, node: &Address) -> Result<bool, Refusal> {
        let account = self.cache.node(&*self.chain, &self.program, node).await.map_err(unreadable)?;
        Ok(account.is_some_and(|account| Address::from(account.operator) == self.operator))
    }
}

fn unstorable(error: StoreError) -> Refusal {
    tracing::error!(%error, "vouchers could not be stored");
    let code = if error.is_retryable() { RefusalCode::OverCapacity } else { RefusalCode::Internal };
    Refusal::new(code, "the operator could not store the vouchers; nothing was taken")
}

fn unreadable(error: settlement_chain::reads::ReadError) -> Refusal {
    tracing::warn!(%error, "the chain could not be read for a handoff");
    Refusal::new(RefusalCode::OverCapacity, "the operator cannot read the chain right now")
}
