//! The reference store: in memory, what the other stores are compared with.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aro_proto::ChannelId;
use async_trait::async_trait;
use settlement_chain::Signature;

use super::rules::{self, Holding};
use super::{
    Binding, Cursor, Deployment, Grant, History, HistoryQuery, HistoryRow, Lease, Leases, MAX_PAGE, Offer, Quarantined,
    Ruling, StoreError, StoredVoucher, VoucherStore,
};
use crate::batch::Kind;
use crate::submit::{Begun, Journal, JournalEntry};

/// Durable as long as the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    channels: BTreeMap<ChannelId, Holding>,
    quarantine: BTreeMap<ChannelId, Quarantined>,
    journal: Vec<JournalEntry>,
    history: BTreeMap<Cursor, HistoryRow>,
    rows: u64,
    leases: HashMap<String, (Grant, Instant)>,
    deployment: Option<Deployment>,
    wishes: u64,
}

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn voucher(&self, channel: ChannelId) -> Option<&StoredVoucher> {
        self.channels.get(&channel)?.voucher.as_ref()
    }

    /// The store's clock says when the grant lapses; whoever has its fence still has it until another takes it.
    fn prolong(&mut self, grant: &Grant, ttl: Duration) -> bool {
        match self.leases.get_mut(&grant.name) {
            Some((held, until)) if held == grant => {
                *until = Instant::now() + ttl;
                true
            }
            _ => false,
        }
    }

    fn count_closes(&mut self, entry: &JournalEntry, change: impl Fn(u32) -> u32) {
        if entry.kind == Kind::Close {
            for item in &entry.items {
                let holding = self.channels.entry(item.channel).or_default();
                holding.closes = change(holding.closes);
            }
        }
        self.channels.retain(|_, holding| *holding != Holding::default());
    }
}

#[async_trait]
impl VoucherStore for MemoryStore {
    async fn commit(&self, offers: Vec<Offer>, now: i64) -> Result<(Vec<Ruling>, bool), StoreError> {
        let mut state = self.lock();
        let held = |(channel, _): &Offer| (*channel, state.channels.get(channel).copied().unwrap_or_default());
        let mut holdings: HashMap<ChannelId, Holding> = offers.iter().map(held).collect();
        let judged = rules::judge_all(&mut holdings, &offers, now);
        for changed in &judged.changed {
            state.channels.entry(changed.channel()).or_default().voucher = Some(*changed);
            if !changed.quarantined {
                state.quarantine.remove(&changed.channel());
            }
        }
        let closes = judged.changed.iter().any(|changed| changed.is_to_close(false));
        state.wishes = state.wishes.saturating_add(u64::from(closes));
        Ok((judged.rulings, closes))
    }

    async fn get(&self, channels: &[ChannelId]) -> Result<Vec<Option<StoredVoucher>>, StoreError> {
        let state = self.lock();
        Ok(channels.iter().map(|channel| state.voucher(*channel).copied()).collect())
    }

    async fn page(&self, after: Option<ChannelId>, limit: usize) -> Result<Vec<StoredVoucher>, StoreError> {
        let state = self.lock();
        let later = state.channels.iter().filter(|(channel, _)| after.is_none_or(|after| **channel > after));
        Ok(later.filter_map(|(_, holding)| holding.voucher).take(limit).collect())
    }

    async fn prune(&self, done: &[StoredVoucher]) -> Result<(), StoreError> {
        let mut state = self.lock();
        for voucher in done {
            let channel = voucher.channel();
            if state.voucher(channel) == Some(voucher) {
                state.channels.entry(channel).or_default().voucher = None;
                state.quarantine.remove(&channel);
            }
        }
        state.channels.retain(|_, holding| *holding != Holding::default());
        Ok(())
    }

    async fn doubt_wishes(&self) -> Result<u64, StoreError> {
        let mut state = self.lock();
        let mut doubted = 0_u64;
        for voucher in state.channels.values_mut().filter_map(|holding| holding.voucher.as_mut()) {
            *voucher = voucher.with_doubt();
            doubted = doubted.saturating_add(u64::from(voucher.doubted));
        }
        Ok(doubted)
    }

    async fn quarantine(&self, entry: &Quarantined) -> Result<(), StoreError> {
        let mut state = self.lock();
        if let Some(Holding { voucher: Some(voucher), .. }) = state.channels.get_mut(&entry.channel)
            && voucher.cumulative() == entry.cumulative
        {
            voucher.quarantined = true;
            state.quarantine.insert(entry.channel, entry.bounded());
        }
        Ok(())
    }

    async fn quarantined(&self) -> Result<Vec<Quarantined>, StoreError> {
        Ok(self.lock().quarantine.values().cloned().collect())
    }
}

#[async_trait]
impl Journal for MemoryStore {
    async fn begin(&self, entry: &JournalEntry, grant: &Grant, ttl: Duration) -> Result<Begun, StoreError> {
        let mut state = self.lock();
        if !state.prolong(grant, ttl) {
            return Ok(Begun::Superseded);
        }
        let stands = |item| rules::may_begin(entry.kind, item, state.voucher(item.channel), entry.at);
        if !entry.items.iter().all(stands) {
            return Ok(Begun::Overtaken);
        }
        if !state.journal.iter().any(|known| known.prepared.signature == entry.prepared.signature) {
            state.journal.push(entry.clone());
            state.count_closes(entry, |closes| closes.saturating_add(1));
        }
        Ok(Begun::Recorded)
    }

    async fn entries(&self) -> Result<Vec<JournalEntry>, StoreError> {
        Ok(self.lock().journal.clone())
    }

    async fn resolve(&self, signature: &Signature, trail: &[HistoryRow]) -> Result<bool, StoreError> {
        let mut state = self.lock();
        let Some(index) = state.journal.iter().position(|entry| entry.prepared.signature == *signature) else {
            return Ok(false);
        };
        let entry = state.journal.remove(index);
        state.count_closes(&entry, |closes| closes.saturating_sub(1));
        for row in trail {
            if let Some(Holding { voucher: Some(voucher), .. }) = state.channels.get_mut(&row.channel) {
                *voucher = voucher.settled_by(row, entry.at);
            }
            state.rows = state.rows.saturating_add(1);
            let cursor = Cursor { at: row.at, number: state.rows };
            state.history.insert(cursor, row.clone());
        }
        Ok(true)
    }
}

#[async_trait]
impl History for MemoryStore {
    async fn history(&self, query: &HistoryQuery) -> Result<Vec<(Cursor, HistoryRow)>, StoreError> {
        let state = self.lock();
        let wanted = state.history.iter().filter(|(cursor, row)| query.wants(cursor, row));
        Ok(wanted.map(|(cursor, row)| (*cursor, row.clone())).take(query.limit.min(MAX_PAGE)).collect())
    }

    async fn forget_history(&self, before: i64) -> Result<u64, StoreError> {
        let mut state = self.lock();
        let kept = state.history.split_off(&Cursor { at: before, number: 0 });
        let forgotten = std::mem::replace(&mut state.history, kept);
        Ok(u64::try_from(forgotten.len()).unwrap_or(u64::MAX))
    }
}

#[async_trait]
impl Leases for MemoryStore {
    async fn acquire(&self, name: &str, holder: &str, ttl: Duration) -> Result<Lease, StoreError> {
        let mut state = self.lock();
        let now = Instant::now();
        let fence = match state.leases.get(name) {
            Some((held, _)) if held.holder == holder => held.fence,
            Some((held, until)) if *until > now => {
                let left = until.duration_since(now).as_millis();
                let for_ms = u64::try_from(left).unwrap_or(u64::MAX);
                return Ok(Lease::Elsewhere { holder: held.holder.clone(), for_ms });
            }
            lapsed => lapsed.map_or(0, |(held, _)| held.fence).saturating_add(1),
        };
        let grant = Grant { name: name.to_owned(), holder: holder.to_owned(), fence };
        state.leases.insert(name.to_owned(), (grant.clone(), now + ttl));
        Ok(Lease::Held(grant))
    }

    async fn renew(&self, grant: &Grant, ttl: Duration) -> Result<bool, StoreError> {
        Ok(self.lock().prolong(grant, ttl))
    }

    async fn release(&self, grant: &Grant) -> Result<(), StoreError> {
        if let Some((held, until)) = self.lock().leases.get_mut(&grant.name)
            && held == grant
        {
            held.holder.clear();
            *until = Instant::now();
        }
        Ok(())
    }

    async fn wishes(&self) -> Result<u64, StoreError> {
        Ok(self.lock().wishes)
    }
}

#[async_trait]
impl Binding for MemoryStore {
    async fn bind(&self, deployment: &Deployment) -> Result<Deployment, StoreError> {
        Ok(*self.lock().deployment.get_or_insert(*deployment))
    }
}
