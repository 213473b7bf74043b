//! The node's own watchtower: a closing channel's best voucher reaches the chain even if every operator is down.
//!
//! Settling needs no permission, and pays to the node's ledger whoever sends it. So the node does it itself with a key
//! that holds SOL for fees and nothing else; whoever steals that key steals the SOL. Operators go first, see [`due`].
//!
//! Of several servers one may lie: it hides a closing channel, or tells a wrong time. So each is looked through by itself,
//! by its own clock, and what any one of them shows to be due is sent; [`Tries`] bounds what a liar can make that cost.

mod due;
mod fees;
mod hand;
mod settler;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use aro_proto::channel::{ChannelState, ChannelTerms};
use aro_proto::{Amount, ChannelId};
use settlement_chain::submit::{Remedy, SubmitError};
use settlement_chain::views::{self, Tries, View, Views};
use settlement_chain::{Address, reads};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

pub(crate) use fees::Fees;
pub(crate) use hand::settle_all;
pub use hand::{SettleError, SettleReport, SettledVoucher, of_ledger};
pub(crate) use settler::Settler;

use self::due::{Due, due};
use self::settler::{Batch, End, Hurry};
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
        fees: node.fees.clone(),
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
    /// When the node last settled a voucher of a channel.
    last: HashMap<ChannelId, Moment>,
    /// Vouchers that have landed, and may be shown as if they had not.
    tries: Tries,
    /// Channels in batches that are under way.
    busy: HashSet<ChannelId>,
    /// Channels that were in a refused batch: each goes alone.
    alone: HashSet<ChannelId>,
    /// Channels that were refused alone, with the operator that was named, and until when they are left.
    resting: HashMap<(ChannelId, Address), Instant>,
    /// Batches in a row that did not land while they could.
    expired: u32,
    /// The key cannot pay or the chain does not answer: nothing is begun before this.
    pause: Option<Instant>,
    /// When the lack of a key was last complained of.
    complained: Option<Instant>,
}

/// A moment by the earliest of the servers' clocks, and by ours: what has passed since is what either says. One that
/// runs ahead, or stands still, then only makes a settlement come early.
#[derive(Clone, Copy, Debug)]
struct Moment {
    earliest: i64,
    at: Instant,
}

impl Moment {
    fn of(clocks: &[i64]) -> Self {
        Self { earliest: clocks.iter().copied().min().unwrap_or_else(unix_now), at: Instant::now() }
    }

    /// When it was by a clock that shows `now`, where the clocks have come to `present`.
    fn by(&self, now: i64, present: &Self) -> i64 {
        let ours = i64::try_from(present.at.saturating_duration_since(self.at).as_secs()).unwrap_or(i64::MAX);
        now.saturating_sub(ours.max(present.earliest.saturating_sub(self.earliest)))
    }
}

struct Tower {
    node: Arc<Shared>,
    settler: Option<Settler>,
    memory: Memory,
}

/// A batch that has ended.
struct Ended {
    batch: Batch,
    begun: Moment,
    end: End,
}

/// What is due by one view: whose fee it is, and the vouchers.
type Wanted = (Address, Vec<(Unsettled, Due)>);

impl Tower {
    /// Begins batches for everything that is due by any server.
    // r[impl settlement.servers.each]
    async fn look(&mut self, batches: &mut JoinSet<Ended>) {
        let candidates = self.candidates();
        if candidates.is_empty() {
            return;
        }
        let clocks = match timeout(CLOCK_PATIENCE, views::clocks(&*self.node.chain)).await {
            Ok(Ok(clocks)) if !clocks.is_empty() => clocks,
            // Better by another clock than too late.
            Ok(_) | Err(_) => vec![unix_now()],
        };
        let present = Moment::of(&clocks);
        let is_due = |unsettled: &Unsettled| {
            let by = clocks.iter().filter_map(|now| self.due(unsettled, *now, &present));
            by.min_by_key(Due::latest)
        };
        let mut waiting: Vec<(Unsettled, Due)> =
            candidates.iter().filter_map(|unsettled| Some((*unsettled, is_due(unsettled)?))).collect();
        waiting.sort_by_key(|(_, due)| due.latest());
        let mut named = HashSet::new();
        waiting.retain(|(unsettled, _)| named.insert(id_of(unsettled)));
        if waiting.is_empty() {
            return;
        }
        let Some(settler) = self.settler.clone() else { return self.complain(&waiting, present.earliest) };
        if self.memory.pause.is_some_and(|until| Instant::now() < until) {
            return;
        }
        let Some(views) = self.read(&settler, waiting.iter().map(|(unsettled, _)| id_of(unsettled)).collect()).await
        else {
            return;
        };
        let wanted = self.wanted(&views, &waiting, &present);
        if !wanted.is_empty() {
            self.begin(&settler, wanted, present, batches).await;
        }
    }

    fn due(&self, unsettled: &Unsettled, now: i64, present: &Moment) -> Option<Due> {
        let last = self.memory.last.get(&id_of(unsettled)).map(|last| last.by(now, present));
        due(unsettled, last, now)
    }

    /// What might become due: it is closing or it expires, and nothing is under way for it. A channel comes once for
    /// each way in which it is shown.
    fn candidates(&mut self) -> Vec<Unsettled> {
        let memory = &mut self.memory;
        memory.resting.retain(|_, until| Instant::now() < *until);
        memory.last.retain(|id, _| self.node.channels.get(*id).is_some());
        memory.tries.keep(|address| memory.last.contains_key(&ChannelId::from_bytes(address.to_bytes())));
        let channels = self.node.channels.all();
        let unsettled = channels.iter().flat_map(|channel| channel.unsettled_by_any());
        unsettled
            .filter(|unsettled| {
                let can_be_late = matches!(unsettled.state, ChannelState::Closing { .. })
                    || unsettled.voucher.voucher.expires_at != 0;
                can_be_late && !memory.busy.contains(&id_of(unsettled))
            })
            .collect()
    }

    /// What must be sent by these views. What an earlier one wants in the same way is not sent twice; where two name
    /// different operators for the node both are sent, for one of them is wrong.
    fn wanted(&self, views: &Views, waiting: &[(Unsettled, Due)], present: &Moment) -> Vec<Wanted> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for view in &views.each {
            let operator = match view.nodes.get(&self.node.account) {
                Some(account) => Address::from(account.operator),
                None => self.node.registered.borrow().operator,
            };
            for id in waiting.iter().map(|(unsettled, _)| id_of(unsettled)) {
                let Some((unsettled, due)) = self.due_in(view, id, present) else { continue };
                if self.memory.resting.contains_key(&(id, operator)) || self.rests(&unsettled) {
                    continue;
                }
                let of_operator = match wanted.iter().position(|(other, _)| *other == operator) {
                    Some(index) => index,
                    None => {
                        wanted.push((operator, Vec::new()));
                        wanted.len().saturating_sub(1)
                    }
                };
                let Some((_, vouchers)) = wanted.get_mut(of_operator) else { continue };
                if !vouchers.iter().any(|(other, _)| id_of(other) == id) {
                    vouchers.push((unsettled, due));
                }
            }
        }
        wanted
    }

    /// The channel's voucher, if it is due by this view and its own clock.
    fn due_in(&self, view: &View, id: ChannelId, present: &Moment) -> Option<(Unsettled, Due)> {
        let account = view.channels.get(&Address::from(id.to_bytes()))?;
        let terms = ChannelTerms::from_account(id, account).ok()?;
        let unsettled = self.node.channels.get(id)?.unsettled_by(&terms)?;
        let due = self.due(&unsettled, view.clock, present)?;
        Some((unsettled, due))
    }

    /// True if this very voucher has landed so lately that whoever shows it unsettled is not believed yet.
    fn rests(&self, unsettled: &Unsettled) -> bool {
        let voucher = unsettled.voucher.voucher;
        let interval = Duration::from_secs(u64::from(unsettled.grace_s / TRIES_PART));
        let id = Address::from(voucher.channel.to_bytes());
        self.memory.tries.rests(id, voucher.cumulative.get(), interval, Instant::now())
    }

    async fn begin(&mut self, settler: &Settler, wanted: Vec<Wanted>, begun: Moment, batches: &mut JoinSet<Ended>) {
        let format = settler.format().await;
        let all = || wanted.iter().flat_map(|(_, vouchers)| vouchers).map(|(_, due)| due);
        let until_quarter = all().map(|due| match due {
            Due::Closing { until_quarter_s, .. } => u64::from(*until_quarter_s),
            Due::Expiring { .. } => UNHURRIED_S,
        });
        let window = Duration::from_secs(until_quarter.min().unwrap_or(UNHURRIED_S));
        let is_urgent = all().any(|due| matches!(due, Due::Closing { .. }));
        let hurry = Hurry { window, patience: BATCH_PATIENCE, failed_before: self.memory.expired, is_urgent };
        for (operator, vouchers) in wanted {
            let (alone, together): (Vec<_>, Vec<_>) = vouchers
                .iter()
                .map(|(unsettled, _)| unsettled.voucher)
                .partition(|signed| self.memory.alone.contains(&signed.voucher.channel));
            let alone = alone.into_iter().map(|signed| Batch { format, operator, vouchers: vec![signed] });
            for batch in settler.divide(format, operator, &together).into_iter().chain(alone) {
                // The rest is looked at again when one has ended.
                if batches.len() >= MAX_IN_FLIGHT {
                    return;
                }
                self.memory.busy.extend(batch.channels());
                let settler = settler.clone();
                tracing::warn!(
                    channels = batch.vouchers.len(),
                    "the operators have not settled in time: the node settles itself"
                );
                batches.spawn(async move {
                    let end = settler.settle(&batch, hurry).await;
                    Ended { batch, begun, end }
                });
            }
        }
    }

    async fn conclude(&mut self, ended: Ended) {
        let Ended { batch, begun, end } = ended;
        let ids: Vec<_> = batch.channels().collect();
        self.memory.busy.retain(|id| !ids.contains(id));
        let rest = |time| {
            let until = Instant::now() + time;
            ids.iter().map(move |id| ((*id, batch.operator), until))
        };
        match end {
            End::Landed(signature) => {
                tracing::info!(%signature, channels = ids.len(), "settled by the node itself");
                self.memory.expired = 0;
                self.memory.alone.retain(|id| !ids.contains(id));
                self.memory.last.extend(ids.iter().map(|id| (*id, begun)));
                for voucher in batch.vouchers.iter().map(|signed| signed.voucher) {
                    let id = Address::from(voucher.channel.to_bytes());
                    self.memory.tries.landed(id, voucher.cumulative.get(), Instant::now());
                }
                if let Some(settler) = self.settler.clone() {
                    let _ = self.read(&settler, ids).await;
                }
            }
            End::Refused(error) if error.remedy() == Remedy::Refresh => {
                tracing::info!(%error, "the chain has changed under a settlement: it is made anew");
                self.memory.resting.extend(rest(PAUSE));
                self.memory.alone.extend(ids);
            }
            End::Refused(error) => match ids.as_slice() {
                [id] => {
                    tracing::error!(channel = %id, %error, "the chain refuses a voucher that this node holds");
                    self.memory.resting.extend(rest(REST));
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

    /// Reads these channels as each server shows them now, and takes in what the newest read says.
    async fn read(&self, settler: &Settler, ids: Vec<ChannelId>) -> Option<Views> {
        let views = match timeout(CLOCK_PATIENCE, settler.views(ids.into_iter())).await {
            Ok(Ok(views)) => views,
            Ok(Err(error)) => {
                tracing::warn!(%error, "closing channels could not be read");
                return None;
            }
            Err(_) => {
                tracing::warn!("closing channels could not be read: the chain does not answer");
                return None;
            }
        };
        for (address, account) in views.each.first().into_iter().flat_map(|newest| &newest.channels) {
            let id = ChannelId::from_bytes(address.to_bytes());
            if let Err(error) = self.node.channels.see(id, account) {
                tracing::error!(channel = %id, %error, "a channel on chain cannot be served");
            }
        }
        Some(views)
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
/// A voucher that has landed rests for a sixteenth of its channel's grace, if somebody shows it unsettled, and then longer.
const TRIES_PART: u32 = 8;
/// Seconds that nothing hurries.
const UNHURRIED_S: u64 = 600;
/// How long a voucher that was refused alone is left.
const REST: Duration = Duration::from_secs(60);
/// How long nothing is begun after the chain or the key has failed.
const PAUSE: Duration = Duration::from_secs(3);
/// Between two complaints about the missing key.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
