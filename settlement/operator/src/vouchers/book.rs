//! What the rest of the operator holds: one store under one lease.

use std::sync::{Arc, Mutex, PoisonError};

use aro_proto::ChannelId;
use settlement_chain::Signature;

use super::{
    Cursor, Grant, HistoryQuery, HistoryRow, Lease, LeaseTerms, MAX_PAGE, Offer, OperatorStore, Quarantined, Ruling,
    StoreError, StoredVoucher,
};
use crate::submit::{Begun, JournalEntry};

/// An operator's memory.
pub struct Book {
    store: Arc<dyn OperatorStore>,
    terms: LeaseTerms,
    grant: Mutex<Option<Grant>>,
}

/// Rulings that are durable. Only [`Book::commit`] makes one, so nothing can be acknowledged before.
#[derive(Debug)]
pub struct Committed {
    rulings: Vec<Ruling>,
    closes: bool,
}

impl Committed {
    /// One for each offer, in order.
    pub fn rulings(&self) -> &[Ruling] {
        &self.rulings
    }

    /// True if a voucher that was stored now asks to close its channel.
    pub fn closes(&self) -> bool {
        self.closes
    }
}

impl Book {
    /// Takes up a store. Settling needs [`Self::lead`] first.
    pub fn new(store: Arc<dyn OperatorStore>, terms: LeaseTerms) -> Self {
        Self { store, terms, grant: Mutex::new(None) }
    }

    /// Judges offers against what is stored, in order, and makes the accepted ones durable, in one write. `now` is
    /// the chain's time in unix seconds.
    ///
    /// # Errors
    /// On any error nothing of the batch may be acknowledged.
    // r[impl settlement.handoff.durable]
    pub async fn commit(&self, offers: Vec<Offer>, now: i64) -> Result<Committed, StoreError> {
        let (rulings, closes) = self.store.commit(offers, now).await?;
        Ok(Committed { rulings, closes })
    }

    /// Every stored voucher.
    pub async fn vouchers(&self) -> Result<Vec<StoredVoucher>, StoreError> {
        let mut all: Vec<StoredVoucher> = Vec::new();
        loop {
            let page = self.store.page(all.last().map(StoredVoucher::channel), MAX_PAGE).await?;
            let is_last = page.len() < MAX_PAGE;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// The vouchers of these channels, in their order.
    pub async fn known(&self, channels: &[ChannelId]) -> Result<Vec<Option<StoredVoucher>>, StoreError> {
        self.store.get(channels).await
    }

    /// Takes the lease, or prolongs it: who holds it settles, everybody else only takes vouchers.
    ///
    /// # Errors
    /// The store does not answer: do not settle. A transaction begun before is safe.
    // r[impl settlement.lease]
    pub async fn lead(&self) -> Result<Lease, StoreError> {
        let lease = self.store.acquire(&self.terms.name, &self.terms.holder, self.terms.ttl).await?;
        self.set_grant(match &lease {
            Lease::Held(grant) => Some(grant.clone()),
            Lease::Elsewhere { .. } => None,
        });
        Ok(lease)
    }

    /// Prolongs the lease if it is held; false if it is not, or no more.
    pub async fn renew(&self) -> Result<bool, StoreError> {
        let Some(grant) = self.grant() else { return Ok(false) };
        let held = self.store.renew(&grant, self.terms.ttl).await?;
        if !held {
            self.set_grant(None);
        }
        Ok(held)
    }

    /// Gives the lease back, so that another need not wait until it lapses.
    pub async fn step_down(&self) -> Result<(), StoreError> {
        match self.grant() {
            Some(grant) => {
                self.set_grant(None);
                self.store.release(&grant).await
            }
            None => Ok(()),
        }
    }

    /// How the lease is asked for.
    pub fn lease_terms(&self) -> &LeaseTerms {
        &self.terms
    }

    /// True if the lease was ours when the store was last asked.
    pub fn leads(&self) -> bool {
        self.grant().is_some()
    }

    /// The fence of the lease, if it was ours when the store was last asked.
    pub fn fence(&self) -> Option<u64> {
        self.grant().map(|grant| grant.fence)
    }

    /// Makes a signed transaction durable, if the lease is still ours and it still carries the best voucher of every
    /// channel that it closes.
    // r[impl settlement.write_ahead]
    pub async fn begin(&self, entry: &JournalEntry) -> Result<Begun, StoreError> {
        let Some(grant) = self.grant() else { return Ok(Begun::Superseded) };
        let begun = self.store.begin(entry, &grant, self.terms.ttl).await?;
        if begun == Begun::Superseded {
            self.set_grant(None);
        }
        Ok(begun)
    }

    /// Every transaction whose end is not known for good.
    pub async fn pending(&self) -> Result<Vec<JournalEntry>, StoreError> {
        self.store.entries().await
    }

    /// Forgets a transaction that has failed or can never land.
    pub async fn forget(&self, signature: &Signature) -> Result<(), StoreError> {
        self.store.resolve(signature, &[]).await.map(|_| ())
    }

    /// Forgets a transaction that is final, and keeps what it did in the history. Doing it again does nothing.
    // r[impl settlement.audit]
    pub async fn conclude(&self, signature: &Signature, trail: &[HistoryRow]) -> Result<(), StoreError> {
        self.store.resolve(signature, trail).await.map(|_| ())
    }

    /// Forgets vouchers that the chain has taken for good; one that has changed since it was read stays.
    // r[impl settlement.prune]
    pub async fn prune(&self, done: &[StoredVoucher]) -> Result<(), StoreError> {
        if done.is_empty() { Ok(()) } else { self.store.prune(done).await }
    }

    /// Puts every stored wish to close in doubt, until its node says it anew. Returns their number.
    pub async fn doubt_wishes(&self) -> Result<u64, StoreError> {
        self.store.doubt_wishes().await
    }

    /// Rises with each wish to close that is stored, whichever process was asked; see [`super::Leases::wishes`].
    pub async fn wishes(&self) -> Result<u64, StoreError> {
        self.store.wishes().await
    }

    /// Sets a voucher aside until a higher one comes.
    pub async fn quarantine(&self, entry: &Quarantined) -> Result<(), StoreError> {
        self.store.quarantine(&entry.bounded()).await
    }

    /// Everything that is set aside.
    pub async fn quarantined(&self) -> Result<Vec<Quarantined>, StoreError> {
        self.store.quarantined().await
    }

    /// A page of the history; the last row's cursor leads to the next.
    pub async fn history(&self, query: &HistoryQuery) -> Result<Vec<(Cursor, HistoryRow)>, StoreError> {
        self.store.history(query).await
    }

    /// Forgets history from before a unix second.
    pub async fn forget_history(&self, before: i64) -> Result<u64, StoreError> {
        self.store.forget_history(before).await
    }

    fn grant(&self) -> Option<Grant> {
        self.grant.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_grant(&self, grant: Option<Grant>) {
        *self.grant.lock().unwrap_or_else(PoisonError::into_inner) = grant;
    }
}
