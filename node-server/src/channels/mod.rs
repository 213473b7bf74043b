//! The channels that pay this node: one payee each, shared by every connection and stream of the channel.

pub(crate) mod follow;
mod paid;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aro_proto::channel::{ChannelTerms, Payee, RestoreError, TermsError, restore};
use aro_proto::{ChannelId, Tariff};
use settlement_chain::interface::accounts::Channel;
use thiserror::Error;

pub(crate) use paid::{News, PaidChannel};

use crate::ledger::{Handed, LedgerError, RedbLedger};

/// All channels to this node that the chain has, as far as it was followed.
pub(crate) struct Channels {
    tariff: Tariff,
    ledger: Arc<RedbLedger>,
    /// What the operator had acknowledged when the node started.
    handed: HashMap<ChannelId, Handed>,
    known: Mutex<HashMap<ChannelId, Arc<PaidChannel>>>,
}

/// Why a channel on chain cannot be served.
#[derive(Debug, Error)]
pub(crate) enum ChannelError {
    /// Written by a later program.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// Its voucher cannot be read or does not verify.
    #[error(transparent)]
    Restore(#[from] RestoreError<LedgerError>),
}

impl Channels {
    /// No channels yet; vouchers come from the ledger when the chain shows their channels.
    pub(crate) fn new(tariff: Tariff, ledger: Arc<RedbLedger>) -> Result<Self, LedgerError> {
        let handed = ledger.handed()?.into_iter().collect();
        Ok(Self { tariff, ledger, handed, known: Mutex::default() })
    }

    /// A channel, if it is known.
    pub(crate) fn get(&self, id: ChannelId) -> Option<Arc<PaidChannel>> {
        self.lock().get(&id).cloned()
    }

    /// All known channels.
    pub(crate) fn all(&self) -> Vec<Arc<PaidChannel>> {
        self.lock().values().cloned().collect()
    }

    /// Takes in a channel as the chain has it.
    pub(crate) fn see(&self, id: ChannelId, account: &Channel) -> Result<Arc<PaidChannel>, ChannelError> {
        let terms = ChannelTerms::from_account(id, account)?;
        if let Some(known) = self.get(id) {
            known.refresh(&terms);
            return Ok(known);
        }
        let best = restore(&*self.ledger, id, &terms.signer)?;
        let fresh = PaidChannel::new(Payee::new(terms, self.tariff, best), self.handed.get(&id).copied());
        // Another task may have been faster: there must never be two payees of one channel.
        let known = Arc::clone(self.lock().entry(id).or_insert_with(|| Arc::new(fresh)));
        known.refresh(&terms);
        Ok(known)
    }

    /// Forgets a channel that is no more on chain, with its voucher.
    pub(crate) fn forget(&self, id: ChannelId) -> Result<(), LedgerError> {
        if let Some(channel) = self.lock().remove(&id) {
            // Connections may still hold it.
            channel.mark_forgotten();
        }
        self.ledger.prune(id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ChannelId, Arc<PaidChannel>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
