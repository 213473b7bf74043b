//! The node's own watchtower: a closing channel's best voucher reaches the chain even if every operator is down.
//!
//! Settling needs no permission, and pays to the node's ledger whoever sends it. So the node does it itself with a key
//! that holds SOL for fees and nothing else; whoever steals that key steals the SOL. Operators go first, see [`due`].

mod due;
mod hand;
mod settler;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use aro_proto::channel::{ChannelState, SignedVoucher};
use aro_proto::{Amount, ChannelId};
use settlement_chain::reads;
use settlement_chain::submit::{Remedy, SubmitError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

pub(crate) use hand::settle_all;
pub use hand::{SettleError, SettleReport, SettledVoucher, of_ledger};
pub(crate) use settler::Settler;

use self::due::{Due, due};
use self::settler::{End, Hurry};
use crate::channels::Unsettled;
use crate::config::FeeKey;
use crate::shared::{Shared, unix_now};

/// Watches until it is aborted, which is harmless at any time: see [`settler`].
pub(crate) async fn run(node: Arc<Shared>) {
    greet(&node).await;
    let settler = node.config.fee_key.clone().map(|payer| settler_of(&node, payer));
    let mut bell = node.bell.listen();
    let mut tower = Tower { node, settler, memory: Memory::default() };
    let mut batches = JoinSet::new();
    loop {
        tokio::select! {
            () = sleep(TICK) => {}
            // The bell hangs in the node itself.
            _ = bell.changed() => {}
            Some(ended) = batches.join_next() => match ended {
                Ok(ended) => tower.conclude(ended).await,
                Err(error) => tracing::error!(%error, "a settlement was interrupted"),
            },
        }
        tower.look(&mut batches).await;
    }
}

/// Sends the vouchers of a running node with this key.
pub(crate) fn settler_of(node: &Shared, payer: FeeKey) -> Settler {
    Settler {
        chain: Arc::clone(&node.chain),
        program: node.program,
        node: node.account,
        payer,
        resend: Duration::from_millis(node.config.resend_interval_ms),
        max_priority_lamports: node.config.max_priority_lamports,
    }
}

/// Lamports of the fee key below which it is said to be nearly empty: some two hundred settlements.
pub(crate) const LOW_LAMPORTS: u64 = 1_000_000;

/// Says at the start what the tower cannot do.
async fn greet(node: &Shared) {
    let Some(key) = &node.config.fee_key else {
        tracing::warn!(
            "this node has no fee key: if its operators fail while an agent closes a channel, what is unsettled is \
             lost; start it with --fee-keypair and a key that holds a little SOL"
        );
        return;
    };
    let address = key.address();
    match reads::lamports(&*node.chain, &address).await {
        Ok(lamports) if lamports < LOW_LAMPORTS => {
            tracing::warn!(%address, lamports, "the fee key is nearly empty: send it SOL, or it cannot settle");
        }
        Ok(lamports) => tracing::info!(%address, lamports, "the node settles closing channels itself if it must"),
        Err(error) => tracing::warn!(%address, %error, "the fee key's SOL could not be read"),
    }
}

/// What the watchtower remembers from look to look.
#[derive(Default)]
struct Memory {
    /// When the node last settled a voucher of a channel, by the chain's clock.
    last: HashMap<ChannelId, i64>,
    /// Channels in batches that are under way.
    busy: HashSet<ChannelId>,
    /// Channels that were in a refused batch: each goes alone.
    alone: HashSet<ChannelId>,
    /// Channels that were refused alone, and until when they are left.
    resting: HashMap<ChannelId, Instant>,
    /// Batches in a row that did not land while they could.
    expired: u32,
    /// The key cannot pay or the chain does not answer: nothing is begun before this.
    pause: Option<Instant>,
    /// When the lack of a key was last complained of.
    complained: Option<Instant>,
}

struct Tower {
    node: Arc<Shared>,
    settler: Option<Settler>,
    memory: Memory,
}

/// A batch that has ended.
struct Ended {
    vouchers: Vec<SignedVoucher>,
    /// When it began, by the chain's clock.
    begun: i64,
    end: End,
}

impl Tower {
    /// Begins batches for everything that is due.
    async fn look(&mut self, batches: &mut JoinSet<Ended>) {
        let candidates = self.candidates();
        if candidates.is_empty() {
            return;
        }
        let now = match timeout(CLOCK_PATIENCE, self.node.chain.clock()).await {
            Ok(Ok(now)) => now,
            // Better by another clock than too late.
            Ok(Err(_)) | Err(_) => unix_now(),
        };
        let is_due = |unsettled: &Unsettled| due(unsettled, self.memory.last.get(&id_of(unsettled)).copied(), now);
        let mut waiting: Vec<(Unsettled, Due)> =
            candidates.iter().filter_map(|unsettled| Some((*unsettled, is_due(unsettled)?))).collect();
        waiting.sort_by_key(|(_, due)| due.latest());
        if waiting.is_empty() {
            return;
        }
        let Some(settler) = self.settler.clone() else { return self.complain(&waiting, now) };
        if self.memory.pause.is_some_and(|until| Instant::now() < until) {
            return;
        }
        self.refresh(&settler, waiting.iter().map(|(unsettled, _)| id_of(unsettled)).collect()).await;
        let still = |unsettled: &Unsettled| {
            self.node.channels.get(id_of(unsettled)).and_then(|channel| channel.unsettled()).is_some()
        };
        waiting.retain(|(unsettled, _)| still(unsettled));
        self.begin(&settler, &waiting, now, batches);
    }

    /// What might become due: it is closing or it expires, and nothing is under way for it.
    fn candidates(&mut self) -> Vec<Unsettled> {
        let memory = &mut self.memory;
        memory.resting.retain(|_, until| Instant::now() < *until);
        memory.last.retain(|id, _| self.node.channels.get(*id).is_some());
        let channels = self.node.channels.all();
        let unsettled = channels.iter().filter_map(|channel| channel.unsettled());
        unsettled
            .filter(|unsettled| {
                let can_be_late = matches!(unsettled.state, ChannelState::Closing { .. })
                    || unsettled.voucher.voucher.expires_at != 0;
                let id = id_of(unsettled);
                can_be_late && !memory.busy.contains(&id) && !memory.resting.contains_key(&id)
            })
            .collect()
    }

    fn begin(&mut self, settler: &Settler, waiting: &[(Unsettled, Due)], now: i64, batches: &mut JoinSet<Ended>) {
        let (alone, together): (Vec<_>, Vec<_>) =
            waiting.iter().partition(|(unsettled, _)| self.memory.alone.contains(&id_of(unsettled)));
        let vouchers: Vec<_> = together.iter().map(|(unsettled, _)| unsettled.voucher).collect();
        let operator = self.node.registered.borrow().operator;
        let together = settler.divide(&operator, &vouchers);
        let alone = alone.iter().map(|(unsettled, _)| vec![unsettled.voucher]);
        let until_quarter = waiting.iter().map(|(_, due)| match due {
            Due::Closing { until_quarter_s, .. } => u64::from(*until_quarter_s),
            Due::Expiring { .. } => UNHURRIED_S,
        });
        let window = Duration::from_secs(until_quarter.min().unwrap_or(UNHURRIED_S));
        let hurry = Hurry { window, patience: BATCH_PATIENCE, failed_before: self.memory.expired };
        for vouchers in together.into_iter().chain(alone) {
            // The rest is looked at again when one has ended.
            if batches.len() >= MAX_IN_FLIGHT {
                return;
            }
            self.memory.busy.extend(vouchers.iter().map(|signed| signed.voucher.channel));
            let settler = settler.clone();
            tracing::warn!(
                channels = vouchers.len(),
                "the operators have not settled in time: the node settles itself"
            );
            batches.spawn(async move {
                let end = settler.settle(&vouchers, hurry).await;
                Ended { vouchers, begun: now, end }
            });
        }
    }

    async fn conclude(&mut self, ended: Ended) {
        let Ended { vouchers, begun, end } = ended;
        let ids: Vec<_> = vouchers.iter().map(|signed| signed.voucher.channel).collect();
        self.memory.busy.retain(|id| !ids.contains(id));
        match end {
            End::Landed(signature) => {
                tracing::info!(%signature, channels = ids.len(), "settled by the node itself");
                self.memory.expired = 0;
                self.memory.alone.retain(|id| !ids.contains(id));
                self.memory.last.extend(ids.iter().map(|id| (*id, begun)));
                if let Some(settler) = self.settler.clone() {
                    self.refresh(&settler, ids).await;
                }
            }
            End::Refused(error) if error.remedy() == Remedy::Refresh => {
                tracing::info!(%error, "the chain has changed under a settlement: it is made anew");
                self.memory.resting.extend(ids.iter().map(|id| (*id, Instant::now() + PAUSE)));
                self.memory.alone.extend(ids);
            }
            End::Refused(error) => match ids.as_slice() {
                [id] => {
                    tracing::error!(channel = %id, %error, "the chain refuses a voucher that this node holds");
                    self.memory.resting.insert(*id, Instant::now() + REST);
                }
                _ => self.memory.alone.extend(ids),
            },
            End::NotSent(error) => self.pause(&error),
            End::Expired => {
                self.memory.expired = self.memory.expired.saturating_add(1);
                tracing::warn!("a settlement did not land while it could: it is made anew, and offers more");
            }
            End::Uncertain(signature) => tracing::warn!(%signature, "what became of a settlement is not known yet"),
        }
    }

    fn pause(&mut self, error: &SubmitError) {
        let address = self.node.config.fee_key.as_ref().map(FeeKey::address);
        if error.remedy() == Remedy::FundFees {
            tracing::error!(?address, "the fee key cannot pay: send it SOL, or what is closing is lost");
        } else {
            tracing::warn!(%error, "the node cannot settle now; trying again");
        }
        self.memory.pause = Some(Instant::now() + PAUSE);
    }

    /// Takes in what the chain says of these channels now.
    async fn refresh(&self, settler: &Settler, ids: Vec<ChannelId>) {
        match timeout(CLOCK_PATIENCE, settler.read(&ids)).await {
            Ok(Ok(accounts)) => {
                for (id, account) in accounts {
                    if let Err(error) = self.node.channels.see(id, &account) {
                        tracing::error!(channel = %id, %error, "a channel on chain cannot be served");
                    }
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "closing channels could not be read"),
            Err(_) => tracing::warn!("closing channels could not be read: the chain does not answer"),
        }
    }

    fn complain(&mut self, waiting: &[(Unsettled, Due)], now: i64) {
        if self.memory.complained.is_some_and(|at| at.elapsed() < COMPLAINT_INTERVAL) {
            return;
        }
        self.memory.complained = Some(Instant::now());
        let at_risk = waiting.iter().fold(Amount::ZERO, |sum, (unsettled, _)| sum.saturating_add(unsettled.amount));
        let seconds_left = waiting.first().map_or(0, |(_, due)| due.latest().saturating_sub(now));
        tracing::error!(
            channels = waiting.len(), %at_risk, seconds_left,
            "closing channels are not settled, and this node has no fee key: run `aro-node settle --fee-keypair`"
        );
    }
}

fn id_of(unsettled: &Unsettled) -> ChannelId {
    unsettled.voucher.voucher.channel
}

/// Between two looks. A look asks the chain only if something is closing.
const TICK: Duration = Duration::from_millis(500);
/// How long the chain may take to tell the time, or what a channel is like.
const CLOCK_PATIENCE: Duration = Duration::from_secs(5);
/// Batches under way at once.
const MAX_IN_FLIGHT: usize = 8;
/// How long one batch is followed: twice the life of a blockhash.
const BATCH_PATIENCE: Duration = Duration::from_secs(180);
/// Seconds that nothing hurries.
const UNHURRIED_S: u64 = 600;
/// How long a voucher that was refused alone is left.
const REST: Duration = Duration::from_secs(60);
/// How long nothing is begun after the chain or the key has failed.
const PAUSE: Duration = Duration::from_secs(3);
/// Between two complaints about the missing key.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
