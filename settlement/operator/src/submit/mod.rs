//! From a plan to a confirmed transaction that no crash can forget.
//!
//! Sign, record, send: in this order. The chain takes the same bytes at most once and its watermarks only rise, so
//! sending again after a crash is harmless, and at-least-once is exactly-once in effect.

mod journal;
#[cfg(test)]
mod scripted;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aro_proto::Amount;
use settlement_chain::submit::{self, Outcome, Prepared, Refusal, Remedy, SubmitError, Terms};
use settlement_chain::{Account, Address, ChainClient, ChainError, Commitment, Signature, Status, TransactionSigner};
use settlement_interface::accounts::{Channel, status};
use settlement_interface::errors::SettlementError;

pub use journal::{Begun, Journal, JournalEntry};

pub use settlement_chain::submit::{
    BadFeePolicy, FeeBudget, FeePolicy, FormatChoice, LanePolicy, Spent, UnknownFormat, probe_v1,
};

use crate::batch::{Item, Kind, Planned, Planner};
use crate::metrics::Metrics;
use crate::vouchers::{Book, Finality, HistoryQuery, HistoryRow, Quarantined, StoreError};

/// Signs, records, sends.
#[derive(Clone)]
pub struct Submitter {
    /// The chain.
    pub chain: Arc<dyn ChainClient>,
    /// The operator's hot key, wherever it lies.
    pub authority: Arc<dyn TransactionSigner>,
    /// The journal, and the rules about it.
    pub book: Arc<Book>,
    /// Divides batches that the chain refuses.
    pub planner: Planner,
    /// What may be spent on top of base fees.
    pub fees: Arc<FeeBudget>,
    /// Counts what failed transactions cost.
    pub metrics: Arc<Metrics>,
    /// Entries of the journal that have failed in their blocks.
    pub failures: Arc<Failures>,
}

/// Transactions that have failed and whose failure is not final yet. What a process does not remember here, the next
/// asks the chain about.
#[derive(Debug, Default)]
pub struct Failures(Mutex<HashSet<Signature>>);

impl Failures {
    fn note(&self, signature: Signature) {
        self.lock().insert(signature);
    }

    fn forget(&self, signature: &Signature) {
        self.lock().remove(signature);
    }

    fn contains(&self, signature: &Signature) -> bool {
        self.lock().contains(signature)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Signature>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transaction whose end is final.
#[derive(Clone, Debug)]
pub struct Final {
    /// What it was for.
    pub entry: JournalEntry,
    /// The slot that it landed in.
    pub slot: u64,
    /// Why it failed there, if it did.
    pub failure: Option<String>,
}

/// How one transaction ended.
#[derive(Debug)]
pub enum End {
    /// It is confirmed; its entry stays in the journal until it is final.
    Landed(JournalEntry),
    /// It had no effect and never will.
    Void {
        /// What it was for.
        planned: Planned,
        /// Why.
        reason: String,
        /// Set if nothing else can be sent either, for want of fees or of a chain: who must do what.
        stop: Option<Remedy>,
    },
    /// Nobody knows; its entry stays in the journal and its channels wait.
    Open {
        /// The transaction.
        signature: Signature,
        /// The last trouble.
        reason: String,
    },
}

/// What became of an entry of an earlier life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// It is confirmed.
    Landed,
    /// It had no effect: it is dead, and the journal has forgotten it, or it has failed, and the journal keeps it until
    /// that is final.
    Void,
    /// Nobody knows.
    Open,
}

impl Submitter {
    /// Carries a plan out. A batch that the chain refuses is tried again in halves, so that one bad entry holds up
    /// no other; a voucher that is refused for its own sake, alone, is set aside.
    ///
    /// # Errors
    /// The journal could not be written: nothing was sent.
    pub async fn run(&self, planned: Planned) -> Result<Vec<End>, StoreError> {
        let mut queue = vec![planned];
        let mut ends = Vec::new();
        while let Some(planned) = queue.pop() {
            match self.carry_out(&planned).await? {
                Attempt::Landed(entry) => ends.push(End::Landed(entry)),
                Attempt::Open { signature, reason } => ends.push(End::Open { signature, reason }),
                Attempt::PutOff { reason } | Attempt::Expired { reason } => {
                    ends.push(End::Void { planned, reason, stop: None });
                }
                Attempt::Refused { error } if stops_all(&error) => {
                    let stop = Some(error.remedy());
                    ends.push(End::Void { planned, reason: error.to_string(), stop });
                }
                Attempt::Refused { error } => match self.planner.halves(&planned) {
                    Some(halves) => queue.extend(halves),
                    None => {
                        let mut reason = error.to_string();
                        if self.set_aside(&planned, &error).await? {
                            reason.push_str("; the voucher is set aside until a higher one comes");
                        }
                        ends.push(End::Void { planned, reason, stop: None });
                    }
                },
            }
        }
        Ok(ends)
    }

    /// Signs anew, at a higher price, what no block has taken in time.
    // r[impl settlement.submit.replan]
    async fn carry_out(&self, planned: &Planned) -> Result<Attempt, StoreError> {
        let replans = self.fees.policy().lane(planned.is_urgent()).replans;
        for generation in 0..replans {
            match self.attempt(planned, generation).await? {
                Attempt::Expired { reason } => {
                    tracing::info!(generation, %reason, "signed anew at a higher price");
                }
                other => return Ok(other),
            }
        }
        self.attempt(planned, replans).await
    }

    // r[impl settlement.write_ahead]
    async fn attempt(&self, planned: &Planned, generation: u32) -> Result<Attempt, StoreError> {
        self.recall_spending(planned.at).await?;
        let payer = self.authority.address();
        let instructions = std::slice::from_ref(&planned.instruction);
        let base = Terms::estimate(self.planner.format, instructions);
        let (batch, is_urgent) = (&planned.instruction, planned.is_urgent());
        let offered = submit::offer(&*self.chain, &self.fees, &payer, batch, base, is_urgent, generation).await;
        let offer = match offered {
            Ok(offer) => offer,
            Err(error) => return Ok(Attempt::Refused { error }),
        };
        let never_landed = || self.fees.give_back(offer.is_urgent, offer.priority_fee);
        let prepared = submit::prepare_with(&*self.chain, &self.authority, &[], instructions, &offer.terms).await;
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                never_landed();
                return Ok(Attempt::Refused { error });
            }
        };
        let entry = JournalEntry {
            kind: planned.kind,
            at: planned.at,
            items: planned.items.clone(),
            fee_lamports: fee_lamports(&prepared),
            prepared,
        };
        let signature = entry.prepared.signature;
        self.fees.name(offer.is_urgent, offer.priority_fee, signature);
        // Where the store does not say whether it is recorded, it may yet be sent: it stays booked.
        let put_off = match self.book.begin(&entry).await? {
            Begun::Recorded => None,
            Begun::Overtaken => Some("a better voucher has come in; the next round closes with it".into()),
            Begun::Superseded => Some("another operator of this database settles now".into()),
        };
        if let Some(reason) = put_off {
            self.fees.give_back_of(&signature);
            return Ok(Attempt::PutOff { reason });
        }
        match submit::confirm(&*self.chain, &entry.prepared).await {
            Ok(_) => Ok(Attempt::Landed(entry)),
            // Never uncertain: keep the entry, whatever the reason.
            Err(SubmitError::Uncertain { signature, trouble }) => {
                let reason = trouble.map_or_else(|| "not confirmed in time".into(), |trouble| trouble.to_string());
                Ok(Attempt::Open { signature, reason })
            }
            // Its servers deny it. Where the accounts show what it was to do, or cannot be read, that is not believed.
            Err(error @ SubmitError::Expired { signature }) if self.may_have_landed(planned).await => {
                Ok(Attempt::Open { signature, reason: format!("{error}; yet its channels may show what it was to do") })
            }
            Err(error) => {
                match &error {
                    SubmitError::Failed { .. } => self.failures.note(signature),
                    _ => self.forget(&entry).await?,
                }
                // Leaders left it out: nothing is wrong with it, and the next may well go in.
                Ok(match error {
                    SubmitError::Expired { .. } => Attempt::Expired { reason: error.to_string() },
                    error => Attempt::Refused { error },
                })
            }
        }
    }

    /// True unless every channel stands where it stood before the transaction.
    // r[impl settlement.submit.uncertain_not_dead]
    async fn may_have_landed(&self, planned: &Planned) -> bool {
        let address = |item: &Item| Address::new_from_array(item.channel.to_bytes());
        let addresses: Vec<Address> = planned.items.iter().map(address).collect();
        // The newest read is one server's word: each that answers is heard.
        let Ok(views) = self.chain.accounts_by_server(&addresses, 1).await else { return true };
        views.iter().any(|accounts| self.shows(planned, accounts))
    }

    fn shows(&self, planned: &Planned, accounts: &[Option<Account>]) -> bool {
        planned.items.iter().zip(accounts).any(|(item, account)| {
            let channel = account.as_ref().filter(|account| account.owner == self.planner.program.id);
            let Some(Ok(channel)) = channel.map(|account| Channel::decode(&account.data)) else { return true };
            match planned.kind {
                Kind::Settle => item.voucher.is_some_and(|voucher| voucher <= Amount::new(channel.settled)),
                Kind::Close | Kind::Finalize => channel.status == status::CLOSED,
                Kind::Reclaim => false,
            }
        })
    }

    /// Sets a voucher aside that the chain refuses for its own sake: it would spoil every batch that it is in.
    // r[impl settlement.quarantine]
    async fn set_aside(&self, planned: &Planned, error: &SubmitError) -> Result<bool, StoreError> {
        let is_the_vouchers =
            matches!(error.program_error(), Some(SettlementError::BadSignature | SettlementError::WeakKey));
        let ([item], true) = (planned.items.as_slice(), is_the_vouchers) else { return Ok(false) };
        // A close without a voucher's signature is not refused for the voucher's sake.
        let (Some(cumulative), Some(_)) = (item.voucher, item.trace.voucher_signature) else { return Ok(false) };
        let reason = error.to_string();
        tracing::warn!(channel = %item.channel, %cumulative, %reason, "a voucher is set aside");
        self.book.quarantine(&Quarantined { channel: item.channel, cumulative, reason, at: planned.at }).await?;
        Ok(true)
    }

    /// Finds out about an entry of an earlier life, sending it again if it may still land.
    ///
    /// # Errors
    /// The journal could not be written.
    // r[impl settlement.uncertain]
    pub async fn resume(&self, entry: &JournalEntry) -> Result<Resumed, StoreError> {
        let prepared = &entry.prepared;
        let confirmed = |commitment| commitment >= Commitment::Confirmed;
        let (signature, height) = (prepared.signature, prepared.last_valid_block_height);
        match submit::outcome(&*self.chain, &signature, height).await {
            Ok(Outcome::Landed { commitment, .. }) if confirmed(commitment) => return Ok(Resumed::Landed),
            Ok(Outcome::Failed { commitment, .. }) if confirmed(commitment) => self.failures.note(signature),
            Ok(Outcome::Dead) => self.forget(entry).await?,
            // A fork has taken its failure back. Its work has been planned anew; sent again it would fail again.
            Ok(_) if self.failures.contains(&signature) => {}
            Ok(Outcome::Landed { .. } | Outcome::Failed { .. } | Outcome::Live) => {
                match submit::confirm(&*self.chain, prepared).await {
                    Ok(_) => return Ok(Resumed::Landed),
                    Err(SubmitError::Failed { .. }) => self.failures.note(signature),
                    Err(SubmitError::Expired { .. }) => self.forget(entry).await?,
                    // It was sent before, so a refusal now proves nothing: only its height does.
                    Err(_) => return Ok(Resumed::Open),
                }
            }
            Err(_) => return Ok(Resumed::Open),
        }
        Ok(Resumed::Void)
    }

    /// True if this entry is known to have failed in its block: it waits to be final, and holds nothing up.
    pub fn has_failed(&self, entry: &JournalEntry) -> bool {
        self.failures.contains(&entry.prepared.signature)
    }

    /// Entries whose end is final; and the chain's block height.
    ///
    /// # Errors
    /// The chain did not answer.
    pub async fn finals(&self, entries: Vec<JournalEntry>) -> Result<(Vec<Final>, u64), ChainError> {
        let signatures: Vec<Signature> = entries.iter().map(|entry| entry.prepared.signature).collect();
        let answer = self.chain.statuses(&signatures).await?;
        let finals = entries.into_iter().zip(answer.statuses).filter_map(|(entry, status)| {
            let Status { slot, err, .. } = status.filter(|status| status.commitment == Commitment::Finalized)?;
            let failure = err.map(|error| Refusal::new(&entry.prepared.transaction.message, error).to_string());
            Some(Final { entry, slot, failure })
        });
        Ok((finals.collect(), answer.block_height))
    }

    /// Takes an entry that never landed out of the journal, and what it would have cost out of the hour.
    ///
    /// # Errors
    /// The journal could not be written.
    pub async fn forget(&self, entry: &JournalEntry) -> Result<(), StoreError> {
        self.book.forget(&entry.prepared.signature).await?;
        self.failures.forget(&entry.prepared.signature);
        self.fees.give_back_of(&entry.prepared.signature);
        Ok(())
    }

    /// Moves an entry whose failure is final from the journal to the history: its fee is spent. Not before: a fork may
    /// take a failure back. `now` is the chain's unix second.
    ///
    /// # Errors
    /// The journal could not be written.
    // r[impl settlement.audit]
    pub async fn record_failure(
        &self,
        entry: &JournalEntry,
        slot: u64,
        error: &str,
        now: i64,
    ) -> Result<(), StoreError> {
        let end = Finality { slot, at: now.max(entry.at) };
        let signature = entry.prepared.signature;
        self.book.conclude(&signature, &HistoryRow::of_failed(entry, end, error)).await?;
        self.failures.forget(&signature);
        self.metrics.spent_on(entry);
        Ok(())
    }

    /// Books what the last hour has cost already, as the store knows it, whenever this process has taken the lease:
    /// before that another life may have spent. `now` is the chain's unix second.
    // r[impl settlement.priority.bounded]
    async fn recall_spending(&self, now: i64) -> Result<(), StoreError> {
        let Some(fence) = self.book.fence() else { return Ok(()) };
        if self.fees.is_recalled(fence) {
            return Ok(());
        }
        self.fees.recall(fence, spent_lately(&self.book, now).await?, Instant::now());
        Ok(())
    }
}

/// The priority fees of the last hour, as the store knows them: of what is final, of what has failed, and of what may
/// yet land. `now` is the chain's unix second.
///
/// # Errors
/// The store could not be read.
pub async fn spent_lately(book: &Book, now: i64) -> Result<Vec<Spent>, StoreError> {
    let ago = |at: i64| Duration::from_secs(u64::try_from(now.saturating_sub(at)).unwrap_or(0));
    let mut spent: HashMap<Signature, Spent> = HashMap::new();
    let mut query = HistoryQuery { from: now.saturating_sub(HOUR_S), ..HistoryQuery::default() };
    loop {
        let page = book.history(&query).await?;
        let Some((last, _)) = page.last() else { break };
        query.after = Some(*last);
        for (_, row) in page {
            // The operator alone signs what it sends.
            let lamports = row.transaction_fee.saturating_sub(LAMPORTS_PER_SIGNATURE);
            spent.insert(row.signature, Spent { signature: row.signature, lamports, ago: ago(row.at) });
        }
    }
    for entry in book.pending().await? {
        let signature = entry.prepared.signature;
        let lamports = submit::offered_priority_fee(&entry.prepared.transaction);
        spent.insert(signature, Spent { signature, lamports, ago: ago(entry.at) });
    }
    Ok(spent.into_values().collect())
}

/// How one send ended. What is put off comes up again in the next round, whole.
enum Attempt {
    Landed(JournalEntry),
    PutOff { reason: String },
    Expired { reason: String },
    Refused { error: SubmitError },
    Open { signature: Signature, reason: String },
}

/// What it costs if it lands: its signatures and its priority.
fn fee_lamports(prepared: &Prepared) -> u64 {
    let signatures = u64::from(prepared.transaction.message.header().num_required_signatures);
    let priority = submit::offered_priority_fee(&prepared.transaction);
    signatures.saturating_mul(LAMPORTS_PER_SIGNATURE).saturating_add(priority)
}

/// The cluster's base fee.
pub(crate) const LAMPORTS_PER_SIGNATURE: u64 = 5_000;

/// What the hourly caps look back on.
const HOUR_S: i64 = 3_600;

/// True if the trouble is not with the batch, so that another batch would meet it too.
fn stops_all(error: &SubmitError) -> bool {
    match error.remedy() {
        Remedy::FundFees | Remedy::CheckStatus => true,
        Remedy::Retry => matches!(error, SubmitError::NotSent(_)),
        _ => matches!(error, SubmitError::NotSent(_) | SubmitError::Sign(_) | SubmitError::MissingSigner(_)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use aro_proto::{Amount, ChannelId};
    use settlement_chain::submit::TransactionFormat;
    use settlement_chain::{
        EmbeddedChain, Keypair, Message, Signer, TransactionError, VersionedMessage, VersionedTransaction, tokens,
    };

    use super::*;
    use crate::batch::{Item, Kind, Trace};
    use crate::submit::scripted::Scripted;

    // r[verify settlement.transaction.format]
    #[tokio::test]
    async fn version_1_is_written_where_the_chain_takes_it() {
        let (chain, payer) = (EmbeddedChain::new().unwrap(), Keypair::new().pubkey());
        assert_eq!(FormatChoice::Auto.decide(&chain, &payer).await, TransactionFormat::V1, "the payer has no SOL yet");
        chain.airdrop(&payer, 1_000_000_000).unwrap();
        assert_eq!(FormatChoice::Auto.decide(&chain, &payer).await, TransactionFormat::V1);
        assert_eq!(probe_v1(&chain, &payer).await.unwrap(), None, "and as long as they may be");

        for refusal in [TransactionError::UnsupportedVersion, TransactionError::SanitizeFailure] {
            let old = Scripted::default().simulating(Some(refusal));
            assert_eq!(FormatChoice::Auto.decide(&old, &payer).await, TransactionFormat::Legacy);
        }
        let mute = Scripted::default();
        assert_eq!(FormatChoice::Auto.decide(&mute, &payer).await, TransactionFormat::Legacy);
        let always = FormatChoice::Always(TransactionFormat::V1);
        assert_eq!(always.decide(&mute, &payer).await, TransactionFormat::V1);
    }

    #[test]
    fn only_trouble_that_others_would_meet_too_stops_a_round() {
        let signature = Signature::default();
        assert!(!stops_all(&SubmitError::Expired { signature }));
        assert!(stops_all(&SubmitError::NotSent(ChainError::Unreachable("gone".into()))));
        assert!(stops_all(&SubmitError::MissingSigner(Keypair::new().pubkey())));
    }

    pub(crate) fn entry(kind: Kind, channel: u8, voucher: Option<u64>) -> JournalEntry {
        let payer = Keypair::new();
        let instruction = tokens::transfer_lamports(&payer.pubkey(), &payer.pubkey(), 5);
        let message = Message::new(&[instruction], Some(&payer.pubkey()));
        let transaction = VersionedTransaction::try_new(VersionedMessage::Legacy(message), &[&payer]).unwrap();
        let signature = transaction.signatures[0];
        let prepared = Prepared { transaction, signature, last_valid_block_height: 9 };
        let trace =
            Trace { from: Amount::new(1), operator_bps: 150, voucher_signature: Some([7; 64]), ..Trace::default() };
        let item = Item { channel: ChannelId::from_bytes([channel; 32]), voucher: voucher.map(Amount::new), trace };
        JournalEntry { kind, at: 1_800_000_000, items: vec![item], fee_lamports: 5_000, prepared }
    }
}
