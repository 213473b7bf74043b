//! What an operator remembers: the best voucher of each channel, kept until the chain has taken it for good, the
//! journal of what was signed, the history of what became final, and who settles.
//!
//! [`OperatorStore`] is all of it. Each of its calls is one transaction of its database and keeps the rules of
//! `rules`, so that processes which share a database cannot step on each other. [`Book`] is what the rest of the
//! operator holds: one store under one lease.

mod book;
mod deployment;
mod error;
mod history;
mod lease;
mod memory;
mod postgres;
mod redb;
mod rules;
mod stored;
mod url;

use std::time::Duration;

use aro_proto::ChannelId;
use async_trait::async_trait;

pub use book::{Book, Committed};
pub use deployment::{Deployment, OtherDeployment, Owner};
pub use error::StoreError;
pub use history::{Cursor, Effect, Finality, HistoryQuery, HistoryRow, MAX_PAGE, NotAQuery};
pub use lease::{Grant, Lease, LeaseTerms};
pub use memory::MemoryStore;
pub use postgres::PostgresStore;
pub use redb::RedbStore;
pub use stored::{Accepted, Claim, MAX_REASON, Offer, Quarantined, Ruling, StoredVoucher};
pub use url::{StoreUrl, open};

use crate::submit::Journal;

/// Where an operator keeps vouchers.
#[async_trait]
pub trait VoucherStore: Send + Sync + 'static {
    /// Judges offers in order against what is stored and makes the accepted ones durable, in one transaction, whole
    /// or not at all. `now` is the chain's time in unix seconds. Returns a ruling for each offer, in order, and
    /// whether a voucher that was stored now asks to close its channel.
    ///
    /// # Errors
    /// Nothing of the batch may be acknowledged; offering it again is harmless.
    async fn commit(&self, offers: Vec<Offer>, now: i64) -> Result<(Vec<Ruling>, bool), StoreError>;

    /// The vouchers of these channels, in their order.
    async fn get(&self, channels: &[ChannelId]) -> Result<Vec<Option<StoredVoucher>>, StoreError>;

    /// Up to `limit` vouchers, by channel, after the given one.
    async fn page(&self, after: Option<ChannelId>, limit: usize) -> Result<Vec<StoredVoucher>, StoreError>;

    /// Forgets these vouchers; one that has changed since it was read stays.
    async fn prune(&self, done: &[StoredVoucher]) -> Result<(), StoreError>;

    /// Puts every stored wish to close in doubt, until its node says it anew. Returns their number.
    async fn doubt_wishes(&self) -> Result<u64, StoreError>;

    /// Sets a voucher aside until a higher one comes; nothing happens if one has come already.
    async fn quarantine(&self, entry: &Quarantined) -> Result<(), StoreError>;

    /// Everything that is set aside, by channel.
    async fn quarantined(&self) -> Result<Vec<Quarantined>, StoreError>;
}

/// Where an operator keeps what became of its transactions.
#[async_trait]
pub trait History: Send + Sync + 'static {
    /// Rows in the order of their cursors. [`Journal::resolve`] alone appends.
    async fn history(&self, query: &HistoryQuery) -> Result<Vec<(Cursor, HistoryRow)>, StoreError>;

    /// Forgets rows from before a unix second; how long they are kept is the operator's choice. Returns their number.
    async fn forget_history(&self, before: i64) -> Result<u64, StoreError>;
}

/// Who may plan and send, and whether it should.
#[async_trait]
pub trait Leases: Send + Sync + 'static {
    /// Takes a lease that is free, lapsed or the holder's own already, for `ttl` from now by the store's clock. A new
    /// holder gets a higher fence.
    async fn acquire(&self, name: &str, holder: &str, ttl: Duration) -> Result<Lease, StoreError>;

    /// Prolongs a lease; false if somebody else has taken it since.
    async fn renew(&self, grant: &Grant, ttl: Duration) -> Result<bool, StoreError>;

    /// Gives a lease back; nothing happens if it has been taken already.
    async fn release(&self, grant: &Grant) -> Result<(), StoreError>;

    /// A number that has risen with each commit of a wish to close, no later than the wish could be read: so whoever
    /// settles hears of what another process was asked.
    async fn wishes(&self) -> Result<u64, StoreError>;
}

/// What a database belongs to.
#[async_trait]
pub trait Binding: Send + Sync + 'static {
    /// Binds a database that belongs to nothing yet to this deployment. Returns what it belongs to.
    async fn bind(&self, deployment: &Deployment) -> Result<Deployment, StoreError>;
}

/// Everything that an operator remembers, behind one handle.
pub trait OperatorStore: VoucherStore + Journal + History + Leases + Binding {}

impl<S: VoucherStore + Journal + History + Leases + Binding> OperatorStore for S {}

#[cfg(test)]
pub(crate) mod tests {
    use aro_proto::channel::Voucher;
    use aro_proto::{Amount, SecretKey};
    use settlement_chain::Address;

    use super::*;

    pub(crate) fn accepted(channel: u8, cumulative: u64, close: bool) -> Accepted {
        let key = SecretKey::from_bytes(&[7; 32]);
        let voucher = Voucher {
            channel: ChannelId::from_bytes([channel; 32]),
            cumulative: Amount::new(cumulative),
            expires_at: 0,
        };
        let voucher = voucher.sign(&key).verify(&key.agent_id()).unwrap();
        Accepted { voucher, node: Address::new_from_array([1; 32]), close }
    }
}
