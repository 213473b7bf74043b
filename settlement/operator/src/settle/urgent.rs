//! The urgent lane: closing channels with a better stored voucher, beside everything else.
//!
//! It waits for no search, no round and no other batch, not even for one that names the same channel: watermarks only
//! rise, so that at worst one more fee is spent. Where there are several servers it does what each of them shows to be
//! needed, for one may hide it; see [`Tries`](settlement_chain::views::Tries) for what that may cost.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use aro_proto::{Amount, ChannelId};
use settlement_chain::Address;
use settlement_interface::accounts::status;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{SettleError, SettleReport, Settler, address, channels, interrupted, snapshot};
use crate::batch::{Facts, Planned};
use crate::metrics::Lane;
use crate::submit::{End, JournalEntry, Resumed};
use crate::vouchers::StoredVoucher;

/// What was seen of a channel with a stored voucher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) channel: ChannelId,
    /// Its grace in seconds; none if the channel is gone.
    pub(crate) grace_s: Option<u32>,
    /// True if it is closing and its stored voucher has not landed.
    pub(crate) urgent: bool,
}

impl Settler {
    /// Looks at the channels of these stored vouchers, and sends what cannot wait. What is sent goes on in `sending`
    /// while others are looked at.
    pub(crate) async fn look(
        self: &Arc<Self>,
        ids: &[ChannelId],
        sending: &mut JoinSet<Result<SettleReport, SettleError>>,
    ) -> Result<Vec<Seen>, SettleError> {
        let known = self.book.known(ids).await?;
        let vouchers: Vec<StoredVoucher> = known.into_iter().flatten().collect();
        let mut views = snapshot::by_server(&*self.chain, &self.program, &vouchers).await?;
        for facts in &mut views {
            facts.cost = self.costs.now(&self.submitter.fees, true);
        }
        let mut planned = self.needed(&views, &vouchers);
        // Whoever does not settle only looks, unless the one who does has died.
        if !planned.is_empty() && !self.book.leads() && !self.leads(&mut SettleReport::default()).await? {
            planned.clear();
        }
        for (view, planned) in planned {
            let channels = planned.items.iter().map(|item| item.channel).collect();
            let claim = self.claims.take(Lane::Urgent, channels);
            let (settler, facts) = (Arc::clone(self), views.get(view).cloned().unwrap_or_default());
            sending.spawn(async move {
                let mut report = SettleReport::default();
                let landed = settler.settle_urgently(planned, &mut report).await?;
                settler.after(&facts, &landed, &mut report).await?;
                drop(claim);
                Ok(report)
            });
        }
        let seen = vouchers.iter().map(|stored| {
            let in_view = |facts: &Facts| {
                let channel = facts.channels.get(&stored.channel())?;
                let closing = channel.status == status::CLOSING && channel.is_settleable(facts.now);
                let live = stored.live(facts.now).map_or(0, |live| live.voucher.cumulative.get());
                Some((channel.grace_s, closing && live > channel.settled))
            };
            let shown: Vec<(u32, bool)> = views.iter().filter_map(in_view).collect();
            let grace_s = shown.iter().map(|(grace_s, _)| *grace_s).min();
            Seen { channel: stored.channel(), grace_s, urgent: shown.iter().any(|(_, urgent)| *urgent) }
        });
        Ok(seen.collect())
    }

    /// What must be sent now by any of these views, each with the number of its view. What an earlier view has sent in
    /// the same way is not sent twice; where two name different operators for a node, or different best vouchers, both
    /// are sent, for one of them is wrong.
    // r[impl settlement.servers.each]
    fn needed(&self, views: &[Facts], vouchers: &[StoredVoucher]) -> Vec<(usize, Planned)> {
        let now = Instant::now();
        let in_flight = self.claims.of(&[Lane::Urgent]);
        let way = |facts: &Facts, stored: &StoredVoucher| {
            let operator = facts.nodes.get(&stored.node).map(|node| Address::from(node.operator));
            (operator, stored.due(facts.now).voucher.cumulative)
        };
        let mut sent: HashMap<ChannelId, Vec<(Option<Address>, Amount)>> = HashMap::new();
        let mut needed = Vec::new();
        for (number, facts) in views.iter().enumerate() {
            let mut busy = in_flight.clone();
            for stored in vouchers {
                let (operator, cumulative) = way(facts, stored);
                let interval = facts.channels.get(&stored.channel()).map(|it| look_interval(it.grace_s));
                let id = address(stored.channel());
                let rests = interval.is_some_and(|it| self.tries.rests(id, cumulative.get(), it, now));
                let is_sent = sent.get(&stored.channel()).is_some_and(|ways| ways.contains(&(operator, cumulative)));
                if rests || is_sent {
                    busy.insert(stored.channel());
                }
            }
            let named = |planned: &[Planned]| -> HashSet<ChannelId> {
                planned.iter().flat_map(|it| &it.items).map(|item| item.channel).collect()
            };
            let mut planned = self.planner.urgent(facts, vouchers, &busy);
            // What expires soon by the first view is the round's, which also goes first.
            if number > 0 {
                busy.extend(named(&planned));
                busy.extend(self.claims.of(&[Lane::Settle, Lane::Sweep]));
                planned.extend(self.planner.at_risk(facts, vouchers, &busy));
            }
            let named = named(&planned);
            for stored in vouchers.iter().filter(|stored| named.contains(&stored.channel())) {
                sent.entry(stored.channel()).or_default().push(way(facts, stored));
            }
            needed.extend(planned.into_iter().map(|planned| (number, planned)));
        }
        needed
    }

    /// Sends a batch and stays with it until its fate is known.
    async fn settle_urgently(
        &self,
        planned: Planned,
        report: &mut SettleReport,
    ) -> Result<Vec<JournalEntry>, SettleError> {
        self.count_dues(&planned, report);
        let kind = planned.kind;
        let mut landed = Vec::new();
        for end in self.submitter.run(planned).await? {
            let End::Open { signature, .. } = &end else {
                landed.extend(self.conclude(kind, end, report));
                continue;
            };
            // Uncertain is never dead: nothing else is signed for these channels in this lane until it is known.
            let Some(entry) =
                self.book.pending().await?.into_iter().find(|entry| entry.prepared.signature == *signature)
            else {
                continue;
            };
            let resumed = loop {
                match self.submitter.resume(&entry).await? {
                    Resumed::Open => tracing::warn!(%signature, "the fate of an urgent transaction is unknown"),
                    known => break known,
                }
                sleep(RETRY).await;
            };
            if resumed == Resumed::Landed && self.book.pending().await?.contains(&entry) {
                landed.extend(self.conclude(kind, End::Landed(entry), report));
            }
        }
        self.cache.forget(landed.iter().flat_map(channels));
        Ok(landed)
    }
}

/// What a task that carries an urgent batch out came to.
pub(crate) fn joined(
    joined: Result<Result<SettleReport, SettleError>, tokio::task::JoinError>,
) -> Result<SettleReport, SettleError> {
    joined.map_err(interrupted)?
}

/// Between two looks at a channel: a sixteenth of its grace. Together with a few sends this leaves most of a quarter of
/// it.
pub(crate) fn look_interval(grace_s: u32) -> Duration {
    (Duration::from_secs(u64::from(grace_s)) / 16).clamp(SHORTEST_LOOK, LONGEST_LOOK)
}

/// No channel is asked about more often.
pub(crate) const SHORTEST_LOOK: Duration = Duration::from_secs(1);
/// A voucher that is handed over in the last minutes of a grace must still be seen: nodes stop taking them two minutes
/// before the deadline.
pub(crate) const LONGEST_LOOK: Duration = Duration::from_secs(60);
/// Between two questions about an urgent transaction whose fate is unknown.
const RETRY: Duration = Duration::from_secs(2);
