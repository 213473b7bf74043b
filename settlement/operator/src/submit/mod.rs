//! From a plan to a confirmed transaction that no crash can forget.
//!
//! Sign, record, send: in this order. The chain takes the same bytes at most once and its watermarks only rise, so
//! sending again after a crash is harmless, and at-least-once is exactly-once in effect.

mod journal;

use std::sync::Arc;

use settlement_chain::submit::{self, Outcome, Prepared, Remedy, SubmitError};
use settlement_chain::{ChainClient, ChainError, Commitment, Keypair, Signature, Status};

pub use journal::{Begun, Journal, JournalEntry};

use crate::batch::{Planned, Planner};
use crate::vouchers::{Book, StoreError};

/// Signs, records, sends.
#[derive(Clone)]
pub struct Submitter {
    /// The chain.
    pub chain: Arc<dyn ChainClient>,
    /// The operator's hot key.
    pub authority: Arc<Keypair>,
    /// The journal, and the rules about it.
    pub book: Arc<Book>,
    /// Divides batches that the chain refuses.
    pub planner: Planner,
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
    /// It had no effect and never will; the journal has forgotten it.
    Void,
    /// Nobody knows.
    Open,
}

impl Submitter {
    /// Carries a plan out. A batch that the chain refuses is tried again in halves, so that one bad entry holds up
    /// no other.
    ///
    /// # Errors
    /// The journal could not be written: nothing was sent.
    pub async fn run(&self, planned: Planned) -> Result<Vec<End>, StoreError> {
        let mut queue = vec![planned];
        let mut ends = Vec::new();
        while let Some(planned) = queue.pop() {
            match self.attempt(&planned).await? {
                Attempt::Landed(entry) => ends.push(End::Landed(entry)),
                Attempt::Open { signature, reason } => ends.push(End::Open { signature, reason }),
                Attempt::PutOff { reason } => ends.push(End::Void { planned, reason, stop: None }),
                Attempt::Refused { reason, stop } => match self.planner.halves(&planned) {
                    Some(halves) if stop.is_none() => queue.extend(halves),
                    _ => ends.push(End::Void { planned, reason, stop }),
                },
            }
        }
        Ok(ends)
    }

    // r[impl settlement.write_ahead]
    async fn attempt(&self, planned: &Planned) -> Result<Attempt, StoreError> {
        let instructions = std::slice::from_ref(&planned.instruction);
        let prepared = match submit::prepare(&*self.chain, &self.authority, &[], instructions).await {
            Ok(prepared) => prepared,
            Err(error) => return Ok(Attempt::Refused { reason: error.to_string(), stop: Some(error.remedy()) }),
        };
        let entry = JournalEntry {
            kind: planned.kind,
            at: planned.at,
            items: planned.items.clone(),
            fee_lamports: fee_lamports(&prepared),
            prepared,
        };
        match self.book.begin(&entry).await? {
            Begun::Recorded => {}
            Begun::Overtaken => {
                let reason = "a better voucher has come in; the next round closes with it".into();
                return Ok(Attempt::PutOff { reason });
            }
            Begun::Superseded => {
                let reason = "another operator of this database settles now".into();
                return Ok(Attempt::PutOff { reason });
            }
        }
        match submit::confirm(&*self.chain, &entry.prepared).await {
            Ok(_) => Ok(Attempt::Landed(entry)),
            // Never uncertain: keep the entry, whatever the reason.
            Err(SubmitError::Uncertain { signature, trouble }) => {
                let reason = trouble.map_or_else(|| "not confirmed in time".into(), |trouble| trouble.to_string());
                Ok(Attempt::Open { signature, reason })
            }
            // Leaders left it out: nothing is wrong with it, and the next may well go in.
            Err(error @ SubmitError::Expired { .. }) => {
                self.forget(&entry).await?;
                Ok(Attempt::PutOff { reason: error.to_string() })
            }
            Err(error) => {
                self.forget(&entry).await?;
                Ok(Attempt::Refused { reason: error.to_string(), stop: stops_all(&error).then(|| error.remedy()) })
            }
        }
    }

    /// Finds out about an entry of an earlier life, sending it again if it may still land.
    ///
    /// # Errors
    /// The journal could not be written.
    // r[impl settlement.uncertain]
    pub async fn resume(&self, entry: &JournalEntry) -> Result<Resumed, StoreError> {
        let prepared = &entry.prepared;
        let confirmed = |commitment| commitment >= Commitment::Confirmed;
        let height = prepared.last_valid_block_height;
        let resumed = match submit::outcome(&*self.chain, &prepared.signature, height).await {
            Ok(Outcome::Landed { commitment, .. }) if confirmed(commitment) => Resumed::Landed,
            Ok(Outcome::Failed { commitment, .. }) if confirmed(commitment) => Resumed::Void,
            Ok(Outcome::Dead) => Resumed::Void,
            Ok(Outcome::Landed { .. } | Outcome::Failed { .. } | Outcome::Live) => {
                match submit::confirm(&*self.chain, prepared).await {
                    Ok(_) => Resumed::Landed,
                    Err(SubmitError::Failed { .. } | SubmitError::Expired { .. }) => Resumed::Void,
                    // It was sent before, so a refusal now proves nothing: only its height does.
                    Err(_) => Resumed::Open,
                }
            }
            Err(_) => Resumed::Open,
        };
        if resumed == Resumed::Void {
            self.forget(entry).await?;
        }
        Ok(resumed)
    }

    /// Entries whose landing is final, with their slots; and the chain's block height.
    ///
    /// # Errors
    /// The chain did not answer.
    pub async fn finals(&self, entries: Vec<JournalEntry>) -> Result<(Vec<(JournalEntry, u64)>, u64), ChainError> {
        let signatures: Vec<Signature> = entries.iter().map(|entry| entry.prepared.signature).collect();
        let answer = self.chain.statuses(&signatures).await?;
        let slots = answer.statuses.iter().map(|status| {
            let is_final = |status: &&Status| status.commitment == Commitment::Finalized && status.err.is_none();
            status.as_ref().filter(is_final).map(|status| status.slot)
        });
        let finals = entries.into_iter().zip(slots).filter_map(|(entry, slot)| Some((entry, slot?)));
        Ok((finals.collect(), answer.block_height))
    }

    /// Takes an entry that had no effect out of the journal.
    ///
    /// # Errors
    /// The journal could not be written.
    pub async fn forget(&self, entry: &JournalEntry) -> Result<(), StoreError> {
        self.book.forget(&entry.prepared.signature).await
    }
}

/// How one send ended. What is put off comes up again in the next round, whole.
enum Attempt {
    Landed(JournalEntry),
    PutOff { reason: String },
    Refused { reason: String, stop: Option<Remedy> },
    Open { signature: Signature, reason: String },
}

/// What the signatures cost.
fn fee_lamports(prepared: &Prepared) -> u64 {
    let signatures = u64::from(prepared.transaction.message.header().num_required_signatures);
    signatures.saturating_mul(LAMPORTS_PER_SIGNATURE)
}

/// The cluster's base fee.
const LAMPORTS_PER_SIGNATURE: u64 = 5_000;

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
    use settlement_chain::{Message, Signer, VersionedMessage, VersionedTransaction, tokens};

    use super::*;
    use crate::batch::{Item, Kind, Trace};

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
