//! The one writer: rules that must hold between vouchers and journal, under one lock.
//!
//! A close that is signed but not resolved fixes a channel's fate at its voucher. A higher voucher taken after that
//! would be acknowledged and then lost. So none is taken while such a close is open, and no close is recorded whose
//! voucher has been overtaken.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aro_proto::channel::{SignedVoucher, VoucherError};
use aro_proto::{Amount, ChannelId, Refusal, RefusalCode};

use super::{Accepted, OperatorStore, StoreError, StoredVoucher};
use crate::batch::Kind;
use crate::submit::JournalEntry;

/// Guards an operator's store. Blocking: call it off the async threads.
pub struct Book {
    store: Arc<dyn OperatorStore>,
    /// Channels named by a recorded close, with the number of such records.
    closing: Mutex<HashMap<ChannelId, u32>>,
}

/// A voucher that passed every check that needs no store.
#[derive(Clone, Copy, Debug)]
pub enum Claim {
    /// Rises above the chain's watermark: to be stored.
    Rise(Accepted),
    /// The very voucher that was stored when it was looked at, and no new wish to close: nothing to store.
    Known(Amount),
    /// Already settled in full: nothing to store.
    Settled,
}

/// What became of one claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// The durable watermark.
    pub watermark: Option<Amount>,
    /// Why the voucher was refused, if it was.
    pub refusal: Option<Refusal>,
}

/// Rulings that are durable. Only [`Book::commit`] makes one, so nothing can be acknowledged before.
#[derive(Debug)]
pub struct Committed {
    rulings: Vec<Ruling>,
    closes: bool,
}

impl Committed {
    /// One for each claim, in order.
    pub fn rulings(&self) -> &[Ruling] {
        &self.rulings
    }

    /// True if a stored voucher asks to close its channel.
    pub fn closes(&self) -> bool {
        self.closes
    }
}

/// Whether a transaction may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It is durable: send it.
    Recorded,
    /// A channel's voucher has changed since it was planned: plan again.
    Overtaken,
}

impl Book {
    /// Takes up a store, with the closes that its journal still holds.
    pub fn open(store: Arc<dyn OperatorStore>) -> Result<Self, StoreError> {
        let mut closing = HashMap::new();
        for entry in store.entries()? {
            count_closes(&mut closing, &entry);
        }
        Ok(Self { store, closing: Mutex::new(closing) })
    }

    /// Judges claims against what is stored, in order, and makes the accepted ones durable, in one write.
    ///
    /// # Errors
    /// On any error nothing of the batch may be acknowledged.
    // r[impl settlement.handoff.durable]
    // r[impl settlement.handoff.rising]
    pub fn commit(&self, claims: &[(ChannelId, Result<Claim, Refusal>)]) -> Result<Committed, StoreError> {
        let closing = self.lock();
        let mut batch: Vec<Accepted> = Vec::new();
        let mut best: HashMap<ChannelId, StoredVoucher> = HashMap::new();
        let mut rulings = Vec::with_capacity(claims.len());
        for (channel, claim) in claims {
            let known = match best.get(channel) {
                Some(known) => Some(*known),
                None => self.store.get(*channel)?,
            };
            let judged = match claim {
                Err(refusal) => Err(refusal.clone()),
                Ok(Claim::Settled) => Ok(None),
                Ok(Claim::Known(cumulative)) => still_known(known.as_ref(), *cumulative),
                Ok(Claim::Rise(accepted)) => judge(known.as_ref(), accepted, closing.contains_key(channel)),
            };
            let refusal = match judged {
                Ok(None) => None,
                Ok(Some(accepted)) => {
                    best.insert(*channel, known.map_or_else(|| (&accepted).into(), |kept| kept.merged(&accepted)));
                    batch.push(accepted);
                    None
                }
                Err(refusal) => Some(refusal),
            };
            let watermark = best.get(channel).or(known.as_ref()).map(StoredVoucher::cumulative);
            rulings.push(Ruling { watermark, refusal });
        }
        if !batch.is_empty() {
            self.store.put(&batch)?;
        }
        Ok(Committed { rulings, closes: batch.iter().any(|accepted| accepted.close) })
    }

    /// Every stored voucher.
    pub fn vouchers(&self) -> Result<Vec<StoredVoucher>, StoreError> {
        self.store.all()
    }

    /// The best voucher of a channel.
    pub fn voucher(&self, channel: ChannelId) -> Result<Option<StoredVoucher>, StoreError> {
        self.store.get(channel)
    }

    /// Makes a signed transaction durable, if it still carries the best voucher of every channel that it closes.
    // r[impl settlement.write_ahead]
    // r[impl settlement.close.best_voucher]
    pub fn begin(&self, entry: &JournalEntry) -> Result<Begun, StoreError> {
        let mut closing = self.lock();
        if entry.kind == Kind::Close {
            for item in &entry.items {
                let stored = self.store.get(item.channel)?;
                if stored.map(|stored| stored.cumulative()) != item.voucher {
                    return Ok(Begun::Overtaken);
                }
            }
        }
        self.store.record(entry)?;
        count_closes(&mut closing, entry);
        Ok(Begun::Recorded)
    }

    /// Every transaction whose end is not known for good.
    pub fn pending(&self) -> Result<Vec<JournalEntry>, StoreError> {
        self.store.entries()
    }

    /// Forgets a transaction: it is final, has failed, or can never land.
    pub fn resolve(&self, entry: &JournalEntry) -> Result<(), StoreError> {
        let mut closing = self.lock();
        self.store.resolve(&entry.prepared.signature)?;
        if entry.kind == Kind::Close {
            for item in &entry.items {
                if let Some(count) = closing.get_mut(&item.channel) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        closing.remove(&item.channel);
                    }
                }
            }
        }
        Ok(())
    }

    /// Forgets vouchers that the chain has taken for good.
    // r[impl settlement.prune]
    pub fn prune(&self, done: &[(ChannelId, Amount)]) -> Result<(), StoreError> {
        let _closing = self.lock();
        self.store.prune(done)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ChannelId, u32>> {
        // Counts change only after the store has; a panic in between leaves them too careful, never too lax.
        self.closing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be stored of a verified voucher, if anything.
fn judge(known: Option<&StoredVoucher>, accepted: &Accepted, being_closed: bool) -> Result<Option<Accepted>, Refusal> {
    let offered = accepted.voucher.cumulative();
    if let Some(known) = known {
        let watermark = known.cumulative();
        if offered < watermark {
            return Err(VoucherError::NotRising { watermark, offered }.refusal());
        }
        if offered == watermark {
            return repeated(&known.signed, known.close, accepted);
        }
    }
    if being_closed {
        let reason = "the channel is being closed at a lower amount; hand the voucher over again in a moment";
        return Err(Refusal::new(RefusalCode::OverCapacity, reason));
    }
    Ok(Some(*accepted))
}

/// What was stored a moment ago can only have risen, or been settled and forgotten.
fn still_known(known: Option<&StoredVoucher>, cumulative: Amount) -> Result<Option<Accepted>, Refusal> {
    if known.is_some_and(|known| known.cumulative() >= cumulative) {
        return Ok(None);
    }
    Err(Refusal::new(RefusalCode::OverCapacity, "the voucher is being settled; hand it over again in a moment"))
}

fn repeated(known: &SignedVoucher, close: bool, accepted: &Accepted) -> Result<Option<Accepted>, Refusal> {
    if known != accepted.voucher.signed() {
        return Err(VoucherError::EqualDiffers { cumulative: known.voucher.cumulative }.refusal());
    }
    Ok((accepted.close && !close).then_some(*accepted))
}

fn count_closes(closing: &mut HashMap<ChannelId, u32>, entry: &JournalEntry) {
    if entry.kind == Kind::Close {
        for item in &entry.items {
            let count = closing.entry(item.channel).or_default();
            *count = count.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submit::tests::entry;
    use crate::vouchers::MemoryStore;
    use crate::vouchers::tests::accepted;

    fn book() -> Book {
        Book::open(Arc::new(MemoryStore::default())).unwrap()
    }

    fn offer(book: &Book, accepted: Accepted) -> Ruling {
        book.commit(&[(accepted.voucher.channel(), Ok(Claim::Rise(accepted)))]).unwrap().rulings()[0].clone()
    }

    // r[verify settlement.handoff.rising]
    #[test]
    fn vouchers_rise_or_repeat_and_never_fall() {
        let book = book();
        for cumulative in [5, 5, 8] {
            assert_eq!(offer(&book, accepted(2, cumulative, false)).refusal, None);
        }
        let falling = offer(&book, accepted(2, 7, false));
        let refusal = falling.refusal.unwrap();
        assert_eq!((refusal.code(), refusal.amount), (RefusalCode::VoucherNotRising, Some(Amount::new(8))));
        assert_eq!(falling.watermark, Some(Amount::new(8)));
    }

    #[test]
    fn order_within_one_batch_counts() {
        let book = book();
        let channel = accepted(2, 1, false).voucher.channel();
        let claims = [5, 9, 7].map(|cumulative| (channel, Ok(Claim::Rise(accepted(2, cumulative, false)))));
        let committed = book.commit(&claims).unwrap();
        let refused: Vec<bool> = committed.rulings().iter().map(|ruling| ruling.refusal.is_some()).collect();
        assert_eq!(refused, [false, false, true]);
        assert_eq!(book.voucher(channel).unwrap().unwrap().cumulative(), Amount::new(9));
    }

    #[test]
    fn repeated_voucher_can_still_ask_to_close() {
        let book = book();
        let channel = accepted(2, 5, false).voucher.channel();
        offer(&book, accepted(2, 5, false));
        offer(&book, accepted(2, 5, true));
        offer(&book, accepted(2, 5, false));
        assert!(book.voucher(channel).unwrap().unwrap().close);
    }

    // r[verify settlement.close.best_voucher]
    #[test]
    fn close_is_not_recorded_once_its_voucher_is_overtaken() {
        let book = book();
        offer(&book, accepted(2, 5, true));
        offer(&book, accepted(2, 6, true));
        assert_eq!(book.begin(&entry(Kind::Close, 2, Some(5))).unwrap(), Begun::Overtaken);
        assert!(book.pending().unwrap().is_empty());
        assert_eq!(book.begin(&entry(Kind::Close, 2, Some(6))).unwrap(), Begun::Recorded);
    }

    // r[verify settlement.close.best_voucher]
    #[test]
    fn no_higher_voucher_is_taken_while_a_close_is_open() {
        let store = Arc::new(MemoryStore::default());
        let book = Book::open(Arc::<MemoryStore>::clone(&store)).unwrap();
        offer(&book, accepted(2, 5, true));
        let close = entry(Kind::Close, 2, Some(5));
        book.begin(&close).unwrap();

        for book in [&book, &Book::open(store).unwrap()] {
            let ruling = offer(book, accepted(2, 9, false));
            assert_eq!(ruling.refusal.unwrap().code(), RefusalCode::OverCapacity);
            assert_eq!(ruling.watermark, Some(Amount::new(5)));
            assert_eq!(offer(book, accepted(2, 5, true)).refusal, None, "what is closed with may be repeated");
        }
        book.resolve(&close).unwrap();
        assert_eq!(offer(&book, accepted(2, 9, false)).refusal, None);
    }

    // r[verify settlement.handoff.durable]
    #[test]
    fn known_voucher_is_acknowledged_only_while_it_is_stored() {
        let book = book();
        let channel = accepted(2, 5, false).voucher.channel();
        let repeat = || book.commit(&[(channel, Ok(Claim::Known(Amount::new(5))))]).unwrap().rulings()[0].clone();
        offer(&book, accepted(2, 5, false));
        assert_eq!(repeat(), Ruling { watermark: Some(Amount::new(5)), refusal: None });
        book.prune(&[(channel, Amount::new(5))]).unwrap();
        assert_eq!((repeat().watermark, repeat().refusal.unwrap().code()), (None, RefusalCode::OverCapacity));
    }

    #[test]
    fn settling_does_not_hold_vouchers_up() {
        let book = book();
        offer(&book, accepted(2, 5, false));
        book.begin(&entry(Kind::Settle, 2, Some(5))).unwrap();
        assert_eq!(offer(&book, accepted(2, 9, false)).refusal, None);
    }
}
