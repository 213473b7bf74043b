//! Requests of one connection that have ended, and wait for the voucher that pays for them to be durable.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use aro_proto::limits::{MAX_AWAITED_RANGES, MAX_AWAITED_RECEIPTS, MAX_RECEIPT_DELIVERIES, MAX_RECEIPT_RANGES};
use aro_proto::message::Delivery;
use aro_proto::{Amount, Charge};
use tokio::sync::Notify;

/// What is still to be signed for. Bounded: an agent that lets too much stand unpaid gets no receipt for the oldest.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    /// The agent knows of receipts.
    is_wanted: AtomicBool,
    queue: Mutex<Queue>,
    grown: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Ranges of all of them.
    ranges: usize,
}

#[derive(Debug)]
struct Waiting {
    /// What was billed on the channel when the request ended.
    billed: Charge,
    delivery: Delivery,
}

impl Receipts {
    /// The agent's minor version knows of receipts.
    pub(crate) fn want(&self) {
        self.is_wanted.store(true, Ordering::Release);
    }

    /// A request has ended, with so much billed on its channel.
    pub(crate) fn add(&self, billed: Charge, delivery: Delivery) {
        if !self.is_wanted.load(Ordering::Acquire) {
            return;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.ranges += delivery.ranges.iter().len();
        queue.waiting.push_back(Waiting { billed, delivery });
        while queue.waiting.len() > MAX_AWAITED_RECEIPTS || queue.ranges > MAX_AWAITED_RANGES {
            queue.pop();
        }
        drop(queue);
        self.grown.notify_one();
    }

    /// Returns when a request has ended since this was last awaited. May be cancelled.
    pub(crate) async fn grown(&self) {
        self.grown.notified().await;
    }

    /// Takes what `paid` pays for, as much as one receipt holds; everything if nothing is owed.
    // r[impl receipt.after_payment]
    pub(crate) fn take_paid(&self, paid: Amount, owed: Charge) -> Vec<Delivery> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let (paid, mut taken, mut ranges) = (Charge::from_amount(paid), Vec::new(), 0);
        while let Some(first) = queue.waiting.front() {
            ranges += first.delivery.ranges.iter().len();
            let is_paid = owed == Charge::ZERO || first.billed <= paid;
            let has_room = taken.is_empty() || (taken.len() < MAX_RECEIPT_DELIVERIES && ranges <= MAX_RECEIPT_RANGES);
            if !is_paid || !has_room {
                break;
            }
            taken.extend(queue.pop());
        }
        taken
    }
}

impl Queue {
    fn pop(&mut self) -> Option<Delivery> {
        let Waiting { delivery, .. } = self.waiting.pop_front()?;
        self.ranges -= delivery.ranges.iter().len();
        Some(delivery)
    }
}

#[cfg(test)]
mod tests {
    use aro_proto::merkle::ByteRanges;
    use aro_proto::{ByteCount, ContentId};

    use super::*;

    fn delivery(stream: u64, ranges: u64) -> Delivery {
        Delivery {
            stream,
            content: ContentId::of(b"x"),
            contents: 1,
            ranges: ByteRanges::new((0..ranges).map(|at| at * 2..at * 2 + 1)).unwrap(),
            bytes: ByteCount::new(1),
            amount: Amount::new(1),
        }
    }

    fn streams(taken: &[Delivery]) -> Vec<u64> {
        taken.iter().map(|delivery| delivery.stream).collect()
    }

    // r[verify receipt.after_payment]
    #[test]
    fn nothing_is_signed_for_before_it_is_paid() {
        let receipts = Receipts::default();
        receipts.add(Charge::from_amount(Amount::new(1)), delivery(0, 1));
        assert!(receipts.take_paid(Amount::new(9), Charge::ZERO).is_empty(), "the agent knows of no receipts");
        receipts.want();
        for stream in 1..4 {
            receipts.add(Charge::from_amount(Amount::new(stream * 10)), delivery(stream, 1));
        }
        let owed = Charge::from_amount(Amount::new(1));
        assert!(receipts.take_paid(Amount::new(9), owed).is_empty());
        assert_eq!(streams(&receipts.take_paid(Amount::new(20), owed)), [1, 2]);
        assert!(receipts.take_paid(Amount::new(20), owed).is_empty());
        assert_eq!(
            streams(&receipts.take_paid(Amount::new(20), Charge::ZERO)),
            [3],
            "what was billed then was forgiven"
        );
    }

    #[test]
    fn what_waits_and_what_one_receipt_holds_is_bounded() {
        let receipts = Receipts::default();
        receipts.want();
        for stream in 0..2 * MAX_AWAITED_RECEIPTS as u64 {
            receipts.add(Charge::ZERO, delivery(stream, 1));
        }
        let first = receipts.take_paid(Amount::ZERO, Charge::ZERO);
        assert_eq!((first.len(), first[0].stream), (MAX_RECEIPT_DELIVERIES, MAX_AWAITED_RECEIPTS as u64));
        while !receipts.take_paid(Amount::ZERO, Charge::ZERO).is_empty() {}
        for stream in 0..1_000 {
            receipts.add(Charge::ZERO, delivery(stream, 256));
        }
        let mut count = 0;
        loop {
            let taken = receipts.take_paid(Amount::ZERO, Charge::ZERO);
            let ranges: usize = taken.iter().map(|delivery| delivery.ranges.iter().len()).sum();
            assert!(ranges <= MAX_RECEIPT_RANGES);
            count += ranges;
            if taken.is_empty() {
                break;
            }
        }
        assert!(count > 0 && count <= MAX_AWAITED_RANGES, "{count}");
    }
}
