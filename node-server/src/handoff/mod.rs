//! Handing the best vouchers to the operators, over `aro/1`, until the chain has taken them.
//!
//! Each operator has its own desk, so one that is down holds up no other. The one that the node's account names on
//! chain is asked to close channels; the others are second watchtowers, which settle and no more.

mod line;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aro_proto::channel::ChannelState;
use aro_proto::limits::MAX_HANDOFF;
use aro_proto::message::{HandoffVerdict, HandoffVoucher};
use aro_proto::{Amount, ChannelId, NodeId};
use settlement_chain::{Address, instructions::SYSTEM_PROGRAM};
use tokio::task::JoinSet;

use self::line::Line;
use crate::channels::{PaidChannel, Taker};
use crate::config::OperatorEndpoint;
use crate::error::HandoffError;
use crate::ledger::Handed;
use crate::shared::{Phase, Shared};

/// What the operators have taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandoffReport {
    /// Vouchers that are durable at an operator now.
    pub handed: Vec<HandedVoucher>,
    /// Vouchers that an operator did not take, and why.
    pub refused: Vec<(ChannelId, aro_proto::Refusal)>,
    /// Operators that could not be spoken to, and why.
    pub failed: Vec<(OperatorEndpoint, String)>,
}

/// A voucher that is durable at an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandedVoucher {
    /// Its channel.
    pub channel: ChannelId,
    /// Its amount.
    pub cumulative: Amount,
    /// Whether the operator was asked to close the channel.
    pub close: bool,
    /// The operator's transport key.
    pub operator: NodeId,
}

/// The node's dealings with one operator.
pub(crate) struct Desk {
    pub(crate) endpoint: OperatorEndpoint,
    /// One handoff at a time.
    turn: tokio::sync::Mutex<()>,
    standing: Mutex<Standing>,
}

/// How an operator was found last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    /// Its account on chain, by its own word; none before it was first reached.
    pub(crate) account: Option<Address>,
    /// When it last took or judged vouchers.
    pub(crate) heard: Option<Instant>,
    /// Why the last handoff failed, if it did.
    pub(crate) trouble: Option<String>,
}

/// One voucher on its way.
type Offer = (Arc<PaidChannel>, HandoffVoucher);

impl Desk {
    pub(crate) fn new(endpoint: OperatorEndpoint) -> Self {
        Self { endpoint, turn: tokio::sync::Mutex::default(), standing: Mutex::default() }
    }

    pub(crate) fn standing(&self) -> Standing {
        self.lock().clone()
    }

    /// Hands over everything that this operator does not have, and what it might have lost.
    async fn hand_off(&self, node: &Shared, report: &mut HandoffReport) -> Result<(), HandoffError> {
        let _turn = self.turn.lock().await;
        // Unknown so far: the hello will tell.
        let may_close = self.lock().account.is_none_or(|account| is_named(node, account));
        if self.offers(node, may_close).is_empty() {
            return Ok(());
        }
        let outcome = self.speak(node, report).await;
        let mut standing = self.lock();
        match &outcome {
            Ok(()) => (standing.heard, standing.trouble) = (Some(Instant::now()), None),
            Err(error) => standing.trouble = Some(error.to_string()),
        }
        outcome
    }

    async fn speak(&self, node: &Shared, report: &mut HandoffReport) -> Result<(), HandoffError> {
        let line = Line::open(node, &self.endpoint).await?;
        let may_close = is_named(node, line.account);
        if self.lock().account.replace(line.account) != Some(line.account) && !may_close {
            let (operator, named) = (line.account, node.registered.borrow().operator);
            tracing::warn!(%operator, %named, "this operator is not the one that the chain names: it settles, and cannot close");
        }
        for part in self.offers(node, may_close).chunks(MAX_HANDOFF) {
            let vouchers = part.iter().map(|(_, offer)| *offer).collect();
            let verdicts = line.deliver(node, vouchers).await?;
            self.note(node, part, verdicts, report)?;
        }
        line.close();
        Ok(())
    }

    /// What to hand over, what is most urgent first; of what is only offered again a bounded part.
    // r[impl settlement.handoff.several]
    // r[impl settlement.handoff.again]
    fn offers(&self, node: &Shared, may_close: bool) -> Vec<Offer> {
        let again_after = Duration::from_secs(node.config.reoffer_interval_s);
        let taker = Taker { id: self.endpoint.id, may_close, now: Instant::now(), again_after };
        let (mut news, mut again) = (Vec::new(), Vec::new());
        for channel in node.channels.all() {
            let Some(unhanded) = channel.unhanded(&taker) else { continue };
            let voucher = unhanded.voucher;
            let offer = HandoffVoucher {
                channel: channel.id(),
                cumulative: voucher.voucher.cumulative,
                expires_at: voucher.voucher.expires_at,
                signature: voucher.signature,
                close: unhanded.close,
            };
            if unhanded.is_news { &mut news } else { &mut again }.push((channel, offer));
        }
        news.sort_by_key(|(channel, _): &Offer| match channel.terms().state {
            ChannelState::Closing { deadline } => deadline,
            ChannelState::Open | ChannelState::Closed => i64::MAX,
        });
        again.truncate(MAX_AGAIN);
        news.append(&mut again);
        news
    }

    /// Only what the operator has acknowledged counts as handed.
    // r[impl settlement.handoff.durable]
    fn note(
        &self,
        node: &Shared,
        part: &[Offer],
        verdicts: Vec<HandoffVerdict>,
        report: &mut HandoffReport,
    ) -> Result<(), HandoffError> {
        let in_order = verdicts.iter().map(|verdict| verdict.channel).eq(part.iter().map(|(_, offer)| offer.channel));
        if !in_order {
            return Err(HandoffError::Misbehaved("its verdicts are not those of the vouchers".into()));
        }
        let operator = self.endpoint.id;
        let mut rows = Vec::new();
        for ((channel, offer), verdict) in part.iter().zip(verdicts) {
            let HandoffVoucher { cumulative, close, .. } = *offer;
            let holds_it = verdict.watermark.is_some_and(|watermark| watermark >= cumulative);
            match verdict.refusal {
                None if holds_it => {
                    rows.push((channel.id(), channel.mark_handed(operator, Handed { cumulative, close })));
                    report.handed.push(HandedVoucher { channel: offer.channel, cumulative, close, operator });
                }
                None => return Err(HandoffError::Misbehaved("it acknowledged less than it was given".into())),
                Some(refusal) => {
                    tracing::warn!(channel = %offer.channel, %refusal, "an operator refuses a voucher");
                    report.refused.push((offer.channel, refusal));
                    if holds_it {
                        // It has as much or more: offering it again soon would change nothing.
                        let close = channel.is_asked_to_close(operator);
                        rows.push((channel.id(), channel.mark_handed(operator, Handed { cumulative, close })));
                    }
                }
            }
        }
        Ok(node.ledger.mark_handed(&rows)?)
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands over at intervals and when the bell rings, until the node stops. The last handoff is the shutdown's.
pub(crate) async fn run(node: Arc<Shared>) {
    let mut desks = JoinSet::new();
    for desk in 0..node.desks.len() {
        desks.spawn(serve(Arc::clone(&node), desk));
    }
    desks.join_all().await;
}

async fn serve(node: Arc<Shared>, desk: usize) {
    let Some(desk) = node.desks.get(desk) else { return };
    let interval = Duration::from_millis(node.config.handoff_interval_ms);
    let mut bell = node.bell.listen();
    let mut wait = interval;
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // The bell hangs in the node itself.
            _ = bell.changed() => {}
            () = node.comes_to(Phase::Draining) => return,
        }
        retire_idle(&node);
        wait = match desk.hand_off(&node, &mut HandoffReport::default()).await {
            Ok(()) => interval,
            Err(error) => {
                let operator = &desk.endpoint;
                tracing::warn!(%operator, %error, "vouchers could not be handed over; trying again");
                // Sooner than the interval at first, then ever more seldom.
                if wait >= interval { FIRST_RETRY.min(interval) } else { (wait * 2).min(interval) }
            }
        };
    }
}

/// Hands over everything to all operators at once. An error only if none of them could be spoken to.
pub(crate) async fn hand_off(node: &Arc<Shared>) -> Result<HandoffReport, HandoffError> {
    if node.desks.is_empty() {
        return Err(HandoffError::NoOperator);
    }
    let mut tasks = JoinSet::new();
    for (number, desk) in node.desks.iter().enumerate() {
        let (node, endpoint) = (Arc::clone(node), desk.endpoint.clone());
        tasks.spawn(async move {
            let mut report = HandoffReport::default();
            let outcome = match node.desks.get(number) {
                Some(desk) => desk.hand_off(&node, &mut report).await,
                None => Ok(()),
            };
            (number, endpoint, report, outcome)
        });
    }
    let mut outcomes = tasks.join_all().await;
    outcomes.sort_by_key(|(number, ..)| *number);
    let mut whole = HandoffReport::default();
    let (mut reached, mut first_error) = (false, None);
    for (_, endpoint, report, outcome) in outcomes {
        whole.handed.extend(report.handed);
        whole.refused.extend(report.refused);
        match outcome {
            Ok(()) => reached = true,
            Err(error) => {
                whole.failed.push((endpoint, error.to_string()));
                first_error.get_or_insert(error);
            }
        }
    }
    match first_error {
        Some(error) if !reached => Err(error),
        _ => Ok(whole),
    }
}

/// Whether the chain lets this operator close the node's channels.
pub(crate) fn is_named(node: &Shared, account: Address) -> bool {
    node.registered.borrow().operator == account
}

/// What is wrong with the choice of operators, if something is: vouchers that nobody may close with.
pub(crate) fn trouble(node: &Shared) -> Option<String> {
    let named = node.registered.borrow().operator;
    if named == SYSTEM_PROGRAM {
        return (!node.desks.is_empty())
            .then(|| "the chain names no operator for this node: its operators settle, and cannot close".to_owned());
    }
    let accounts: Vec<_> = node.desks.iter().map(|desk| desk.standing().account).collect();
    let all_known = accounts.iter().all(Option::is_some);
    (all_known && !accounts.contains(&Some(named)))
        .then(|| format!("the chain names the operator {named}, which is none of those that get this node's vouchers"))
}

/// Channels that nobody has used for long are given up, so that what they hold gets settled and refunded.
fn retire_idle(node: &Shared) {
    let idle = Duration::from_secs(node.config.close_idle_after_s);
    for channel in node.channels.all() {
        if channel.is_idle_for(idle) && channel.unsettled().is_some() && channel.retire() {
            tracing::info!(channel = %channel.id(), "the channel is idle: it is handed over to be closed");
        }
    }
}

/// Wait after the first failed handoff.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Acknowledged vouchers that are offered again in one handoff: half a megabyte. The rest follows with the next.
const MAX_AGAIN: usize = 4096;
