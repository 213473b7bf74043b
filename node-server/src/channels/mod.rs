//! The channels that pay this node: one payee each, shared by every connection and stream of the channel.

mod acks;
pub(crate) mod follow;
mod freshness;
mod owner;
mod paid;
mod queue;
mod seats;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use aro_proto::channel::{ChannelTerms, Payee, RestoreError, TermsError, VoucherStore, restore};
use aro_proto::identity::Verifier;
use aro_proto::{ByteCount, ChannelId, Tariff};
use settlement_chain::Address;
use settlement_chain::interface::accounts::Channel;
use thiserror::Error;

pub(crate) use acks::Taker;
pub(crate) use freshness::Freshness;
pub(crate) use owner::OwnerTab;
pub(crate) use paid::{News, PaidChannel, Unsettled};
pub(crate) use seats::Seat;

use crate::ledger::{Handed, LedgerError, RedbLedger};

/// All channels to this node that the chain has, as far as it was followed.
pub(crate) struct Channels {
    tariff: Tariff,
    /// The dearest of the node's prices: measures what owners may owe.
    dearest: Tariff,
    /// Bytes' worth that one owner's channels may owe together.
    owner_bytes: ByteCount,
    ledger: Arc<RedbLedger>,
    /// What operators had acknowledged when the node started.
    handed: HashMap<ChannelId, Handed>,
    known: Mutex<HashMap<ChannelId, Arc<PaidChannel>>>,
    /// By agent account.
    owners: Mutex<HashMap<Address, Weak<OwnerTab>>>,
    /// Verifies the vouchers of all of them.
    verifier: Arc<Verifier>,
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
    pub(crate) fn new(
        tariff: Tariff,
        publish: Tariff,
        owner_bytes: ByteCount,
        ledger: Arc<RedbLedger>,
    ) -> Result<Self, LedgerError> {
        let handed = ledger.handed()?.into_iter().collect();
        let dearest = Tariff { per_mib: tariff.per_mib.max(publish.per_mib) };
        let (known, owners, verifier) = (Mutex::default(), Mutex::default(), Arc::default());
        Ok(Self { tariff, dearest, owner_bytes, ledger, handed, known, owners, verifier })
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
        let payee = Payee::new(terms, self.tariff, best).with_verifier(Arc::clone(&self.verifier));
        let handed = self.handed.get(&id).copied();
        let fresh = PaidChannel::new(payee, self.tariff, account.grace_s, self.tab_of(account.agent.into()), handed);
        // Another task may have been faster: there must never be two payees of one channel.
        let known = Arc::clone(self.lock().entry(id).or_insert_with(|| Arc::new(fresh)));
        known.refresh(&terms);
        Ok(known)
    }

    /// True if a voucher of this channel is in the ledger.
    pub(crate) fn holds(&self, id: ChannelId) -> Result<bool, LedgerError> {
        Ok(self.ledger.load(id)?.is_some())
    }

    /// Forgets a channel that is no more on chain, with its voucher.
    pub(crate) fn forget(&self, id: ChannelId) -> Result<(), LedgerError> {
        if let Some(channel) = self.lock().remove(&id) {
            // Connections may still hold it.
            channel.mark_forgotten();
        }
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, tab| tab.strong_count() > 0);
        self.ledger.prune(id)
    }

    fn tab_of(&self, agent: Address) -> Arc<OwnerTab> {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tab) = owners.get(&agent).and_then(Weak::upgrade) {
            return tab;
        }
        let tab = Arc::new(OwnerTab::new(self.dearest.charge(self.owner_bytes)));
        owners.insert(agent, Arc::downgrade(&tab));
        tab
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ChannelId, Arc<PaidChannel>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
