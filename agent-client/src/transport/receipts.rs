//! Requests of one connection that have ended, and whose node has not signed for them yet.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use aro_proto::limits::{MAX_AWAITED_RECEIPTS, MAX_BAD_RECEIPTS, MAX_EARLY_RECEIPTS};
use aro_proto::message::{Delivery, Receipt};
use aro_proto::{Amount, ChannelId, NodeId};
use tokio::sync::oneshot;

use crate::receipts::{Check, EntryKey, Scribe};

/// What a node is still to sign for. Bounded: of a node that signs nothing the oldest are forgotten, and their entries stay
/// as they are.
#[derive(Debug, Default)]
pub(crate) struct Awaited {
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// Requests that run. A receipt may be quicker than we are with the end of its request, and is then kept.
    open: HashMap<u64, Option<Early>>,
    waiting: HashMap<u64, Waiting>,
    order: VecDeque<u64>,
    /// Requests that we have forgotten, and for which a receipt may still come.
    forgotten: u64,
    bad: u32,
}

#[derive(Debug)]
struct Waiting {
    due: Delivery,
    entry: EntryKey,
    told: oneshot::Sender<Check>,
}

/// A receipt that came before its request had ended here.
#[derive(Debug)]
struct Early {
    receipt: Arc<Receipt>,
    is_sound: bool,
}

/// Too many receipts were not what they had to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyBad;

impl Awaited {
    /// A request begins.
    pub(crate) fn open(&self, stream: u64) {
        self.books.lock().unwrap_or_else(PoisonError::into_inner).open.insert(stream, None);
    }

    /// A request is over, whether or not there is to be a receipt for it.
    pub(crate) fn close(&self, stream: u64) {
        self.books.lock().unwrap_or_else(PoisonError::into_inner).open.remove(&stream);
    }

    /// A request has ended like this. What becomes of its receipt is told, if anything does.
    pub(crate) fn add(
        &self,
        due: Delivery,
        entry: EntryKey,
        node: NodeId,
        scribe: &Scribe,
    ) -> oneshot::Receiver<Check> {
        let (told, hears) = oneshot::channel();
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(Early { receipt, is_sound })) = books.open.remove(&due.stream) {
            let found = receipt.receipt.deliveries.iter().find(|delivery| delivery.stream == due.stream);
            let is_right = is_sound && found == Some(&due) && due.amount <= receipt.receipt.cumulative;
            let check = if is_right { Check::Valid } else { Check::Wrong };
            scribe.receipt(node, Receipt::clone(&receipt), vec![(entry, check)]);
            // It is heard by the caller, who has the other end.
            let _ = told.send(check);
            return hears;
        }
        books.order.push_back(due.stream);
        books.waiting.insert(due.stream, Waiting { due, entry, told });
        while books.order.len() > MAX_AWAITED_RECEIPTS {
            if let Some(oldest) = books.order.pop_front() {
                books.waiting.remove(&oldest);
                books.forgotten += 1;
            }
        }
        hears
    }

    /// Holds a receipt against what was counted here, and has it kept.
    // r[impl receipt.checked]
    pub(crate) fn take_in(
        &self,
        receipt: &Receipt,
        node: NodeId,
        channel: ChannelId,
        signed: Amount,
        scribe: &Scribe,
    ) -> Result<(), TooManyBad> {
        let body = &receipt.receipt;
        let is_sound = body.channel == channel && body.cumulative <= signed && receipt.verify(&node).is_ok();
        let (mut checks, mut to_tell, mut is_bad, mut kept) = (Vec::new(), Vec::new(), !is_sound, None);
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        for delivery in &body.deliveries {
            let Some(waiting) = books.waiting.remove(&delivery.stream) else {
                let early = || Arc::clone(kept.get_or_insert_with(|| Arc::new(receipt.clone())));
                is_bad |= !books.take_early(delivery.stream, is_sound, early);
                continue;
            };
            let is_right = is_sound && *delivery == waiting.due && delivery.amount <= body.cumulative;
            is_bad |= !is_right;
            let check = if is_right { Check::Valid } else { Check::Wrong };
            checks.push((waiting.entry, check));
            to_tell.push((waiting.told, check));
        }
        let Books { waiting, order, bad, .. } = &mut *books;
        order.retain(|stream| waiting.contains_key(stream));
        *bad += u32::from(is_bad);
        let outcome = if *bad > MAX_BAD_RECEIPTS { Err(TooManyBad) } else { Ok(()) };
        drop(books);
        if is_bad {
            tracing::warn!(%node, "a receipt is not for what was delivered, or not signed by the node");
        }
        if !checks.is_empty() {
            scribe.receipt(node, receipt.clone(), checks);
        }
        // Once it is noted, so that who hears of it finds it in the account. Who no longer waits need not know.
        for (told, check) in to_tell {
            let _ = told.send(check);
        }
        outcome
    }
}

impl Books {
    /// Keeps a receipt for the end of a request that runs, if there is room. False if nothing can have made the node sign.
    fn take_early(&mut self, stream: u64, is_sound: bool, receipt: impl FnOnce() -> Arc<Receipt>) -> bool {
        let early: HashSet<*const Receipt> =
            self.open.values().flatten().map(|early| Arc::as_ptr(&early.receipt)).collect();
        match self.open.get_mut(&stream) {
            Some(Some(_)) => false,
            Some(place) => {
                let receipt = receipt();
                if early.len() < MAX_EARLY_RECEIPTS || early.contains(&Arc::as_ptr(&receipt)) {
                    *place = Some(Early { receipt, is_sound });
                }
                true
            }
            None if self.forgotten > 0 => {
                self.forgotten -= 1;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use aro_proto::merkle::ByteRanges;
    use aro_proto::message::DeliveryReceipt;
    use aro_proto::{ByteCount, ContentId, SecretKey};

    use super::*;
    use crate::ledger::Ledger;

    const CHANNEL: ChannelId = ChannelId::from_bytes([9; 32]);

    fn delivery(stream: u64) -> Delivery {
        Delivery {
            stream,
            content: ContentId::of(b"x"),
            contents: 1,
            ranges: ByteRanges::all(),
            bytes: ByteCount::new(5),
            amount: Amount::new(5),
        }
    }

    fn receipt(deliveries: Vec<Delivery>, key: &SecretKey) -> Receipt {
        DeliveryReceipt { channel: CHANNEL, cumulative: Amount::new(10), at: 60, deliveries }.sign(key)
    }

    // r[verify receipt.checked]
    #[test]
    fn only_the_nodes_own_word_for_this_very_request_counts() {
        let dir = tempfile::tempdir().unwrap();
        let scribe = Scribe::new(Ledger::open(dir.path()).unwrap());
        let (key, other) = (SecretKey::from_bytes(&[7; 32]), SecretKey::from_bytes(&[8; 32]));
        let altered = |change: fn(&mut Delivery)| {
            let mut delivery = delivery(4);
            change(&mut delivery);
            receipt(vec![delivery], &key)
        };
        let signed = Amount::new(10);
        let cases = [
            (receipt(vec![delivery(4)], &key), CHANNEL, signed, Check::Valid),
            (receipt(vec![delivery(4)], &other), CHANNEL, signed, Check::Wrong),
            (receipt(vec![delivery(4)], &key), ChannelId::from_bytes([8; 32]), signed, Check::Wrong),
            (receipt(vec![delivery(4)], &key), CHANNEL, Amount::new(9), Check::Wrong),
            (altered(|delivery| delivery.content = ContentId::of(b"y")), CHANNEL, signed, Check::Wrong),
            (altered(|delivery| delivery.amount = Amount::new(4)), CHANNEL, signed, Check::Wrong),
            (altered(|delivery| delivery.bytes = ByteCount::new(6)), CHANNEL, signed, Check::Wrong),
            (altered(|delivery| delivery.contents = 2), CHANNEL, signed, Check::Wrong),
            (altered(|delivery| delivery.ranges = ByteRanges::single(0, 5).unwrap()), CHANNEL, signed, Check::Wrong),
        ];
        for (number, (receipt, channel, signed, due)) in cases.into_iter().enumerate() {
            let awaited = Awaited::default();
            let mut told = awaited.add(delivery(4), scribe.key(), key.node_id(), &scribe);
            awaited.take_in(&receipt, key.node_id(), channel, signed, &scribe).unwrap();
            assert_eq!(told.try_recv(), Ok(due), "case {number}");
        }
    }

    #[test]
    fn a_receipt_that_is_quicker_than_the_end_of_its_request_is_kept_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let scribe = Scribe::new(Ledger::open(dir.path()).unwrap());
        let (key, signed) = (SecretKey::from_bytes(&[7; 32]), Amount::new(10));
        let (early, mut other) = (receipt(vec![delivery(4)], &key), delivery(4));
        other.bytes = ByteCount::new(4);
        for (due, check) in [(delivery(4), Check::Valid), (other, Check::Wrong)] {
            let awaited = Awaited::default();
            awaited.open(4);
            awaited.take_in(&early, key.node_id(), CHANNEL, signed, &scribe).unwrap();
            let mut told = awaited.add(due, scribe.key(), key.node_id(), &scribe);
            assert_eq!(told.try_recv(), Ok(check));
            assert!(awaited.books.lock().unwrap().open.is_empty());
        }
    }

    // r[verify receipt.checked]
    #[test]
    fn a_flood_of_receipts_ends_the_connection_and_what_is_awaited_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let scribe = Scribe::new(Ledger::open(dir.path()).unwrap());
        let key = SecretKey::from_bytes(&[7; 32]);
        let awaited = Awaited::default();
        let unasked = receipt(vec![delivery(4)], &key);
        let take = || awaited.take_in(&unasked, key.node_id(), CHANNEL, Amount::new(10), &scribe);
        assert!((0..MAX_BAD_RECEIPTS).all(|_| take().is_ok()));
        assert_eq!(take(), Err(TooManyBad));

        let awaited = Awaited::default();
        for stream in 0..3 * MAX_AWAITED_RECEIPTS as u64 {
            drop(awaited.add(delivery(stream), scribe.key(), key.node_id(), &scribe));
        }
        {
            let books = awaited.books.lock().unwrap();
            assert_eq!((books.waiting.len(), books.order.len()), (MAX_AWAITED_RECEIPTS, MAX_AWAITED_RECEIPTS));
        }
        // What we have forgotten ourselves is not held against a node that signs for it, once each.
        let late = || awaited.take_in(&unasked, key.node_id(), CHANNEL, Amount::new(10), &scribe);
        assert!((0..2 * MAX_AWAITED_RECEIPTS).all(|_| late().is_ok()));
        assert!((0..MAX_BAD_RECEIPTS).all(|_| late().is_ok()));
        assert_eq!(late(), Err(TooManyBad));
    }

    #[test]
    fn receipts_that_come_early_are_few_and_come_once() {
        let dir = tempfile::tempdir().unwrap();
        let scribe = Scribe::new(Ledger::open(dir.path()).unwrap());
        let key = SecretKey::from_bytes(&[7; 32]);
        let awaited = Awaited::default();
        let take = |stream| {
            let early = receipt(vec![delivery(stream)], &key);
            awaited.take_in(&early, key.node_id(), CHANNEL, Amount::new(10), &scribe)
        };
        for stream in 0..2 * MAX_EARLY_RECEIPTS as u64 {
            awaited.open(stream);
            take(stream).unwrap();
        }
        let kept = awaited.books.lock().unwrap().open.values().flatten().count();
        assert_eq!(kept, MAX_EARLY_RECEIPTS);
        assert!((0..MAX_BAD_RECEIPTS).all(|_| take(0).is_ok()));
        assert_eq!(take(0), Err(TooManyBad));
    }
}
