//! Leases. The file's lock lets one process in at a time, so here they only keep the fence rising, and let the same
//! tests run on every store.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use redb::{ReadableTable, WriteTransaction};

use super::super::{Grant, Lease, Leases, StoreError};
use super::RedbStore;
use super::tables::{LEASES, database_error};

#[async_trait]
impl Leases for RedbStore {
    async fn acquire(&self, name: &str, holder: &str, ttl: Duration) -> Result<Lease, StoreError> {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.write(move |transaction| {
            let now = now_ms();
            let (held_by, fence, until) = lease(transaction, &name)?.unwrap_or_default();
            if held_by != holder && until > now {
                let for_ms = u64::try_from(until.saturating_sub(now)).unwrap_or(0);
                return Ok(Lease::Elsewhere { holder: held_by, for_ms });
            }
            let fence = if held_by == holder { fence } else { fence.saturating_add(1) };
            let grant = Grant { name: name.clone(), holder: holder.clone(), fence };
            put(transaction, &grant, deadline(now, ttl))?;
            Ok(Lease::Held(grant))
        })
        .await
    }

    async fn renew(&self, grant: &Grant, ttl: Duration) -> Result<bool, StoreError> {
        let grant = grant.clone();
        self.write(move |transaction| prolong(transaction, &grant, ttl)).await
    }

    async fn release(&self, grant: &Grant) -> Result<(), StoreError> {
        let grant = grant.clone();
        self.write(move |transaction| {
            if is_held(transaction, &grant)? {
                put(transaction, &Grant { holder: String::new(), ..grant.clone() }, 0)?;
            }
            Ok(())
        })
        .await
    }

    async fn wishes(&self) -> Result<u64, StoreError> {
        Ok(self.wishes.load(Ordering::SeqCst))
    }
}

/// Prolongs a lease within a transaction; false if it has another fence or holder by now.
pub(super) fn prolong(transaction: &WriteTransaction, grant: &Grant, ttl: Duration) -> Result<bool, StoreError> {
    let held = is_held(transaction, grant)?;
    if held {
        put(transaction, grant, deadline(now_ms(), ttl))?;
    }
    Ok(held)
}

/// Frees every lease, and keeps the fences.
pub(super) fn lapse_all(transaction: &WriteTransaction) -> Result<(), StoreError> {
    let mut fences: Vec<(String, u64)> = Vec::new();
    for record in transaction.open_table(LEASES).map_err(database_error)?.iter().map_err(database_error)? {
        let (name, lease) = record.map_err(database_error)?;
        fences.push((name.value().to_owned(), lease.value().1));
    }
    fences.into_iter().try_for_each(|(name, fence)| put(transaction, &Grant { name, holder: String::new(), fence }, 0))
}

fn is_held(transaction: &WriteTransaction, grant: &Grant) -> Result<bool, StoreError> {
    let held = lease(transaction, &grant.name)?;
    Ok(held.is_some_and(|(holder, fence, _)| holder == grant.holder && fence == grant.fence))
}

fn lease(transaction: &WriteTransaction, name: &str) -> Result<Option<(String, u64, i64)>, StoreError> {
    let table = transaction.open_table(LEASES).map_err(database_error)?;
    let found = table.get(name).map_err(database_error)?.map(|lease| {
        let (holder, fence, until) = lease.value();
        (holder.to_owned(), fence, until)
    });
    Ok(found)
}

fn put(transaction: &WriteTransaction, grant: &Grant, until: i64) -> Result<(), StoreError> {
    let mut table = transaction.open_table(LEASES).map_err(database_error)?;
    table.insert(grant.name.as_str(), (grant.holder.as_str(), grant.fence, until)).map_err(database_error)?;
    Ok(())
}

fn deadline(now: i64, ttl: Duration) -> i64 {
    now.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
