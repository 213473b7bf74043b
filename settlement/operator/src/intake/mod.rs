//! Takes vouchers from nodes over `aro/1`.
//!
//! Two streams of a connection matter: the control stream, on which the chains are compared, and one request stream
//! for each handoff. A handoff is judged in three steps, cheapest first: who hands it over, what the chain says of
//! each channel, what is stored already. It is acknowledged when it is durable, and not before.

mod channel_cache;
mod endpoint;
mod fairness;
mod framed;
mod groups;
mod judge;
mod session;
mod strikes;
mod turns;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use aro_proto::channel::VoucherError;
use aro_proto::message::{ChainIds, Handoff, HandoffAck, HandoffVerdict, OperatorHello};
use aro_proto::{AgentId, Amount, ChannelId, NodeId, Refusal, RefusalCode, limits};
use settlement_chain::{Address, ChainClient, Program};
use settlement_interface::accounts::{Node, status};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

pub use channel_cache::ChannelCache;
pub(crate) use endpoint::{Bounds, Listener, bind};
pub(crate) use fairness::Fairness;
use framed::PATIENCE;

use crate::metrics::Metrics;
use crate::vouchers::{Book, Claim, StoreError};
use crate::watch::{Alarms, News};

/// What every session of the intake shares.
pub(crate) struct Intake {
    pub(crate) chain: Arc<dyn ChainClient>,
    pub(crate) program: Program,
    pub(crate) chain_ids: ChainIds,
    /// The operator's account.
    pub(crate) operator: Address,
    pub(crate) min_settle: Amount,
    pub(crate) watch_for: WatchFor,
    pub(crate) book: Arc<Book>,
    pub(crate) cache: Arc<ChannelCache>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) alarms: Arc<Alarms>,
    pub(crate) fairness: Fairness,
    /// Told when a stored voucher asks to close its channel.
    pub(crate) close_wanted: Notify,
}

/// Which nodes that name another operator may hand vouchers over here as well, to be settled in need: their closing
/// channels are watched, at this operator's cost and for the other's fee.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WatchFor {
    /// None.
    #[default]
    Nobody,
    /// These nodes.
    Nodes(BTreeSet<NodeId>),
    /// Every registered node.
    Anyone,
}

impl WatchFor {
    fn includes(&self, node: AgentId) -> bool {
        match self {
            Self::Nobody => false,
            Self::Nodes(nodes) => nodes.contains(&NodeId::from_bytes(node.to_bytes())),
            Self::Anyone => true,
        }
    }
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

/// What a node is to this operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It names this operator.
    Own,
    /// It names another, and this one watches for it: nothing is closed.
    Watched,
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
    // r[impl settlement.handoff.fair]
    pub(crate) async fn take(&self, signer: AgentId, handoff: &Handoff) -> Answer {
        let answer = match self.admitted(signer, handoff).await {
            Ok(answer) => answer,
            Err(refusal) => Answer::Refused(refusal),
        };
        match &answer {
            Answer::Ack { ack, .. } => {
                for refusal in ack.verdicts.iter().filter_map(|verdict| verdict.refusal.as_ref()) {
                    self.metrics.refused(refusal.code());
                }
            }
            Answer::Refused(refusal) => self.metrics.handoff_refused(refusal.code()),
        }
        answer
    }

    async fn admitted(&self, signer: AgentId, handoff: &Handoff) -> Result<Answer, Refusal> {
        let Fairness { work, turns, forgers, guessers, .. } = &self.fairness;
        self.fairness.check(signer)?;
        let (node, _) = self.program.node(&Address::new_from_array(signer.to_bytes()));
        let wants_close = handoff.vouchers.iter().any(|voucher| voucher.close);
        let standing = self.standing(signer, &node, wants_close).await?;
        let busy = |reason| Refusal::new(RefusalCode::OverCapacity, reason);
        let turn = turns.of(signer);
        let _turn = timeout(PATIENCE, turn.lock()).await.map_err(|_| busy("an earlier handoff of yours takes long"))?;
        // What came in together is judged one after the other, and the first may have been enough.
        self.fairness.check(signer)?;
        // First come, first served: who waits here is one handoff of each node.
        let permit = timeout(PATIENCE, work.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return Err(busy("the operator is busy")) };
        let (answer, guessed) = match standing {
            Standing::Own => self.judge(&node, handoff).await?,
            Standing::Watched => {
                let mut handoff = handoff.clone();
                handoff.vouchers.iter_mut().for_each(|voucher| voucher.close = false);
                self.judge(&node, &handoff).await?
            }
        };
        guessers.add(signer, guessed);
        if let Answer::Ack { bad_signatures, .. } = &answer {
            forgers.add(signer, *bad_signatures);
        }
        Ok(answer)
    }

    /// The answer, and how many vouchers named no channel of this node.
    async fn judge(&self, node: &Address, handoff: &Handoff) -> Result<(Answer, u32), Refusal> {
        let ids: Vec<ChannelId> = handoff.vouchers.iter().map(|voucher| voucher.channel).collect();
        let began = Instant::now();
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

        let news: Vec<Option<News>> = ids
            .iter()
            .map(|id| {
                let channel = facts.channel(*id)?;
                Some(News { grace_s: channel.grace_s, closing: channel.status == status::CLOSING })
            })
            .collect();

        let now = facts.now();
        let known = self.book.known(&ids).await.map_err(unstorable)?;
        let (node, vouchers) = (*node, handoff.vouchers.clone());
        // Signatures take long enough to keep others waiting.
        let cpu = self.fairness.cpus.acquire().await;
        let judged = tokio::task::spawn_blocking(move || groups::judge_all(&vouchers, &node, &facts, &known)).await;
        drop(cpu);
        let (offers, count) = judged.map_err(|e| unstorable(StoreError::Database(e.to_string())))?;
        let rises: Vec<bool> = offers.iter().map(|(_, claim)| matches!(claim, Ok(Claim::Rise(_)))).collect();
        let committed = self.book.commit(offers, now).await.map_err(unstorable)?;
        let accepted = ids.iter().zip(committed.rulings()).zip(&rises);
        let accepted = accepted.filter(|((_, ruling), rises)| **rises && ruling.refusal.is_none());
        let accepted: Vec<ChannelId> = accepted.map(|((channel, _), _)| *channel).collect();
        let ended = self.ended_since(began, &accepted).await?;
        if committed.closes() {
            self.close_wanted.notify_one();
        }
        let mut accepted: u64 = 0;
        for (((channel, ruling), news), rises) in ids.iter().zip(committed.rulings()).zip(news).zip(rises) {
            if rises && ruling.refusal.is_none() && !ended.contains_key(channel) {
                accepted = accepted.saturating_add(1);
                if let Some(news) = news {
                    self.alarms.raise(*channel, news);
                }
            }
        }
        self.metrics.accepted(accepted);
        let verdicts = ids.iter().zip(committed.rulings()).zip(settled).map(|((channel, ruling), settled)| {
            if let Some(at) = ended.get(channel) {
                let refusal = Some(VoucherError::ChannelClosed.refusal());
                return HandoffVerdict { channel: *channel, watermark: *at, refusal };
            }
            let (watermark, refusal) = (ruling.watermark.max(settled), ruling.refusal.clone());
            HandoffVerdict { channel: *channel, watermark, refusal }
        });
        let ack = HandoffAck { verdicts: verdicts.collect() };
        Ok((Answer::Ack { ack, bad_signatures: count.forged }, count.guessed))
    }

    /// Channels that were closed while their vouchers were judged, with the amounts at which they were. While a close of
    /// ours is open the store refuses better vouchers; once it is final only the chain knows of it, so facts that have
    /// outlived their time do not vouch for what has just been stored.
    // r[impl settlement.close.best_voucher]
    async fn ended_since(
        &self,
        began: Instant,
        accepted: &[ChannelId],
    ) -> Result<HashMap<ChannelId, Option<Amount>>, Refusal> {
        if accepted.is_empty() || began.elapsed() < self.cache.lifetime() {
            return Ok(HashMap::new());
        }
        self.cache.forget(accepted.iter().copied());
        let facts = self.cache.read(&*self.chain, &self.program, accepted).await.map_err(unreadable)?;
        let ended = accepted.iter().filter_map(|id| match facts.channel(*id) {
            Some(channel) if channel.status == status::CLOSED => Some((*id, Some(Amount::new(channel.settled)))),
            Some(_) => None,
            None => Some((*id, None)),
        });
        Ok(ended.collect())
    }

    /// What a signer is to this operator. What is remembered is enough to let it in, not to turn it away or to leave a
    /// wish to close aside: it may have switched a moment ago.
    // r[impl settlement.handoff.second]
    async fn standing(&self, signer: AgentId, node: &Address, wants_close: bool) -> Result<Standing, Refusal> {
        let of = |account: Node| {
            if Address::from(account.operator) == self.operator {
                return Some(Standing::Own);
            }
            self.watch_for.includes(signer).then_some(Standing::Watched)
        };
        match self.cache.remembered_node(node).and_then(of) {
            Some(standing) if standing == Standing::Own || !wants_close => return Ok(standing),
            _ => {}
        }
        let Ok(Ok(_lookup)) = timeout(PATIENCE, self.fairness.lookups.acquire()).await else {
            return Err(Refusal::new(RefusalCode::OverCapacity, "the operator is busy"));
        };
        let account = self.cache.node(&*self.chain, &self.program, node).await.map_err(unreadable)?;
        account.and_then(of).ok_or_else(|| {
            let reason = "the signer is no node whose account on chain names this operator";
            Refusal::new(RefusalCode::Unauthorised, reason)
        })
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
