//! The sweep: what no stored voucher points at. Channels past their grace are finalized, closed ones reclaimed, so
//! that agents and rent payers have their money back, and the operator's own fees are paid out.

use std::collections::HashSet;

use aro_proto::ChannelId;
use settlement_chain::submit::Remedy;
use settlement_chain::{TransactionSigner, reads};

use super::{SettleError, SettleReport, Settler, Trouble, channels, snapshot};
use crate::account::{FeeSource, withdraw_fees};
use crate::batch::Facts;
use crate::metrics::Lane;
use crate::submit::JournalEntry;

impl Settler {
    /// One sweep. Concurrent calls wait for each other; settling does not wait for them.
    ///
    /// # Errors
    /// The operator's file could not be read or written. A search that fails is only trouble: nothing is lost by
    /// waiting for the next.
    pub(crate) async fn sweep(&self) -> Result<SettleReport, SettleError> {
        let _one = self.sweeping.lock().await;
        let mut report = SettleReport::default();
        if !self.leads(&mut report).await? {
            return Ok(report);
        }
        match snapshot::search(&*self.chain, &self.program, &self.operator).await {
            Ok(facts) => {
                let busy = self.undecided().await?;
                self.end_and_reclaim(facts, &busy, Lane::Sweep, &mut report).await?;
            }
            Err(error) => report.trouble.push(Trouble {
                message: format!("channels without stored vouchers could not be searched for: {error}"),
                remedy: Remedy::Retry,
            }),
        }
        if let Err(error) = self.pay_fees_out(&mut report).await {
            let message = format!("the operator's fees could not be paid out: {error}");
            report.trouble.push(Trouble { message, remedy: Remedy::Retry });
        }
        Ok(report)
    }

    /// Finalizes and reclaims what can be among these facts.
    pub(super) async fn end_and_reclaim(
        &self,
        facts: Facts,
        busy: &HashSet<ChannelId>,
        lane: Lane,
        report: &mut SettleReport,
    ) -> Result<Facts, SettleError> {
        let ended = self.send(self.planner.finalize(&facts, busy), lane, report).await?;
        let closed = self.after(&facts, &ended, report).await?;
        let reclaimed = self.send(self.planner.reclaim(&closed, busy), lane, report).await?;
        self.after(&closed, &reclaimed, report).await
    }

    /// Channels that a transaction in flight names, or one whose fate is open.
    pub(super) async fn undecided(&self) -> Result<HashSet<ChannelId>, SettleError> {
        let mut busy = self.claims.of(&[Lane::Settle, Lane::Urgent, Lane::Sweep]);
        let pending = self.book.pending().await?;
        let is_open = |entry: &&JournalEntry| !self.is_told(entry) && !self.submitter.has_failed(entry);
        busy.extend(pending.iter().filter(is_open).flat_map(channels));
        Ok(busy)
    }

    /// What the chain says after these landed, told in the report.
    pub(super) async fn after(
        &self,
        before: &Facts,
        landed: &[JournalEntry],
        report: &mut SettleReport,
    ) -> Result<Facts, SettleError> {
        let mut after = before.clone();
        let touched: Vec<ChannelId> = landed.iter().flat_map(channels).collect();
        snapshot::refresh(&*self.chain, &self.program, &touched, &mut after).await?;
        self.metrics.credited(report.tell(landed, before, &after));
        self.tell(landed);
        Ok(after)
    }

    /// Pays the operator's fees out when they are worth it. What the hot key and the account hold is measured here.
    async fn pay_fees_out(&self, report: &mut SettleReport) -> Result<(), crate::AccountError> {
        let authority = &self.submitter.authority;
        let lamports = reads::lamports(&*self.chain, &authority.address()).await?;
        let fees = reads::operator_at(&*self.chain, &self.program, &self.operator).await?.map_or(0, |it| it.fees);
        self.metrics.balances(lamports, fees);
        if self.withdraw_fees_above.is_some_and(|least| fees > 0 && fees >= least.get()) {
            let source = FeeSource::Operator(self.operator);
            let withdrawn = withdraw_fees(&*self.chain, &self.program, authority, source).await?;
            self.metrics.balances(lamports, 0);
            tracing::info!(amount = withdrawn.amount, destination = %withdrawn.destination, "fees were paid out");
            report.withdrawn = Some(withdrawn);
        }
        Ok(())
    }
}
