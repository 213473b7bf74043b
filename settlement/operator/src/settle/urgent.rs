//! The urgent lane: closing channels with a better stored voucher, beside everything else.
//!
//! It waits for no search, no round and no other batch, not even for one that names the same channel: watermarks only
//! rise, so that at worst one more fee is spent.

use std::sync::Arc;
use std::time::Duration;

use aro_proto::ChannelId;
use settlement_interface::accounts::status;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{SettleError, SettleReport, Settler, channels, interrupted, snapshot};
use crate::batch::Planned;
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
        let mut facts = snapshot::stored(&*self.chain, &self.program, &vouchers).await?;
        facts.cost = self.costs.now(&self.submitter.fees, true);
        let in_flight = self.claims.of(&[Lane::Urgent]);
        let mut planned = self.planner.urgent(&facts, &vouchers, &in_flight);
        // Whoever does not settle only looks, unless the one who does has died.
        if !planned.is_empty() && !self.book.leads() && !self.leads(&mut SettleReport::default()).await? {
            planned.clear();
        }
        for planned in planned {
            let channels = planned.items.iter().map(|item| item.channel).collect();
            let claim = self.claims.take(Lane::Urgent, channels);
            let (settler, facts) = (Arc::clone(self), facts.clone());
            sending.spawn(async move {
                let mut report = SettleReport::default();
                let landed = settler.settle_urgently(planned, &mut report).await?;
                settler.after(&facts, &landed, &mut report).await?;
                drop(claim);
                Ok(report)
            });
        }
        let seen = vouchers.iter().map(|stored| {
            let channel = facts.channels.get(&stored.channel());
            let closing = channel.is_some_and(|it| it.status == status::CLOSING && it.is_settleable(facts.now));
            let live = stored.live(facts.now).map_or(0, |live| live.voucher.cumulative.get());
            let above = channel.is_some_and(|it| live > it.settled);
            Seen { channel: stored.channel(), grace_s: channel.map(|it| it.grace_s), urgent: closing && above }
        });
        Ok(seen.collect())
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
            while self.submitter.resume(&entry).await? == Resumed::Open {
                tracing::warn!(%signature, "the fate of an urgent transaction is unknown");
                sleep(RETRY).await;
            }
            if self.book.pending().await?.contains(&entry) {
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

/// Between two questions about an urgent transaction whose fate is unknown.
const RETRY: Duration = Duration::from_secs(2);
