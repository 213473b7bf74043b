//! Proven bytes in, vouchers out, under one budget.

use super::*;
use crate::budget::{Policy, Spending};
use aro_proto::{NodeId, Tariff};

const V: Spending = Spending::Vouchers;
const A: StreamKey = StreamKey(4);
const MIB: u64 = 1 << 20;

struct Scene {
    dir: tempfile::TempDir,
    wallet: Wallet,
    guard: BudgetGuard,
    record: ChannelRecord,
}

impl Scene {
    fn new(cap: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let wallet = Wallet::create(dir.path()).unwrap();
        let (channel, node) = (ChannelId::from_bytes([9; 32]), NodeId::from_bytes([1; 32]));
        let record = ChannelRecord::open(channel, node, Amount::new(10_000), 0);
        let guard = wallet.budget(Policy { total: Some(Amount::new(cap)), ..Policy::default() }).unwrap();
        Self { dir, wallet, guard, record }
    }

    /// A lane at 100 base units per MiB, the node's books empty.
    fn lane(&self) -> Lane {
        self.lane_billed(0, Amount::ZERO)
    }

    /// The same where the node has billed so much, and this much may be paid ahead.
    fn lane_billed(&self, billed: u64, prepay: Amount) -> Lane {
        let bound = Bound {
            channel: self.record.channel,
            watermark: None,
            billed: Charge::from_amount(Amount::new(billed)).parts(),
            deposit: self.record.deposit,
            settled: Amount::ZERO,
            window: Amount::new(100),
        };
        let (wallet, guard) = (self.wallet.clone(), self.guard.clone());
        let mark = wallet.mark_in_use(self.record.channel).unwrap();
        let tariff = Tariff { per_mib: 100 };
        let prices = Prices { tariff, publish: tariff };
        Lane::open(wallet, guard, prices, prepay, &self.record, mark, &bound).unwrap().0
    }

    fn signed(&self) -> u64 {
        self.wallet.record(self.record.channel).unwrap().unwrap().signed.get()
    }

    fn held(&self) -> (u64, u64) {
        (self.guard.spent(V).get(), self.guard.reserved(V).get())
    }
}

fn begin_and_prove(lane: &Lane, proven: u64) {
    let mut reserved = lane.set_aside(&lane.purpose, Amount::new(400)).unwrap();
    lane.begin(A, ByteCount::new(4 * MIB), &mut reserved).unwrap();
    lane.proved(A, ByteCount::new(proven));
}

#[test]
fn a_voucher_is_due_at_the_step_or_to_the_last_unit() {
    let scene = Scene::new(1_000);
    scene.wallet.remember(scene.record).unwrap();
    let lane = scene.lane();
    assert!(!lane.is_due(true));
    begin_and_prove(&lane, MIB / 4);
    assert_eq!((lane.is_due(false), lane.is_due(true)), (false, true));
    lane.proved(A, ByteCount::new(MIB / 4));
    assert!(lane.is_due(false));
    lane.pay(false).unwrap().unwrap();
    assert!(!lane.is_due(true));
}

#[test]
fn the_last_payment_signs_for_all_that_is_proven_and_holds_no_budget() {
    let scene = Scene::new(1_000);
    scene.wallet.remember(scene.record).unwrap();
    let lane = scene.lane();
    begin_and_prove(&lane, MIB / 4);
    assert_eq!(scene.held(), (0, 400));
    lane.pay_last().unwrap();
    assert_eq!((scene.signed(), scene.held()), (25, (25, 0)));

    // The stream ends later: what it proved since is signed too, under a new permit.
    lane.proved(A, ByteCount::new(MIB / 4));
    lane.end(A);
    lane.pay_last().unwrap();
    assert_eq!((scene.signed(), scene.held()), (50, (50, 0)));
}

#[test]
fn what_cannot_be_signed_or_reserved_leaves_the_budget_as_it_was() {
    // The wallet does not know the channel, so it does not sign.
    let scene = Scene::new(1_000);
    let lane = scene.lane();
    begin_and_prove(&lane, MIB);
    assert!(matches!(lane.pay(true), Err(FetchError::Wallet(_))));
    assert_eq!((scene.held(), lane.lock().pot.amount()), ((0, 400), Amount::new(400)));

    // Another one has taken what the budget had left beside the pot.
    let scene = Scene::new(400);
    scene.wallet.remember(scene.record).unwrap();
    let lane = scene.lane();
    begin_and_prove(&lane, MIB);
    lane.lock().pot.shrink_to(Amount::new(60));
    let other = scene.guard.reserve(&lane.purpose, Amount::new(340)).unwrap();
    assert!(matches!(lane.pay(true), Err(FetchError::BudgetExceeded(_))));
    assert_eq!((scene.held(), lane.lock().pot.amount()), ((0, 400), Amount::new(60)));
    drop(other);
    lane.pay(true).unwrap().unwrap();
    assert_eq!(scene.signed(), 100);
}

/// Proves so many halves of a MiB, and says by how much they raised the bill.
fn rises(lane: &Lane, halves: u64) -> u64 {
    (0..halves).map(|_| lane.proved(A, ByteCount::new(MIB / 2)).0.get()).sum()
}

#[test]
fn what_a_node_has_forgotten_is_counted_once_however_its_lanes_follow_each_other() {
    let scene = Scene::new(10_000);
    scene.wallet.remember(scene.record).unwrap();
    let first = scene.lane();
    begin_and_prove(&first, 0);
    let mut said = rises(&first, 5);
    // The next begins while this one has not signed, and the node has forgotten all but a part.
    let second = scene.lane_billed(60, Amount::ZERO);
    begin_and_prove(&second, 0);
    said += rises(&second, 1);
    first.pay_last().unwrap();
    assert_eq!((said, scene.signed()), (250, 250));
    said += rises(&second, 5);
    second.pay_last().unwrap();
    let third = scene.lane_billed(0, Amount::ZERO);
    begin_and_prove(&third, 0);
    assert_eq!(rises(&third, 5), 0, "all of it is signed for");
    said += rises(&third, 3);
    third.pay_last().unwrap();
    assert_eq!((said, scene.signed(), scene.guard.spent(V).get()), (400, 400, 400));
}

#[test]
fn what_was_paid_ahead_is_counted_when_it_comes() {
    let scene = Scene::new(10_000);
    scene.wallet.remember(scene.record).unwrap();
    let first = scene.lane_billed(0, Amount::new(1_000));
    begin_and_prove(&first, 0);
    let mut said = rises(&first, 2);
    assert_eq!(first.pay(true).unwrap().unwrap().cumulative, Amount::new(400));
    // It breaks off, and the rest comes on another connection.
    let second = scene.lane_billed(100, Amount::new(1_000));
    begin_and_prove(&second, 0);
    said += rises(&second, 8);
    second.end(A);
    second.pay_last().unwrap();
    assert_eq!((said, scene.signed()), (500, 500));
}

#[test]
fn what_another_connection_signed_on_the_channel_is_not_signed_again() {
    let scene = Scene::new(10_000);
    scene.wallet.remember(scene.record).unwrap();
    let (broken, fresh) = (scene.lane(), scene.lane());
    begin_and_prove(&broken, 2 * MIB);
    begin_and_prove(&fresh, MIB);
    broken.pay_last().unwrap();
    let shown = fresh.pay(true).unwrap().unwrap();
    assert_eq!((shown.cumulative, fresh.target(), fresh.is_due(true)), (Amount::new(200), Amount::new(200), false));
    fresh.proved(A, ByteCount::new(2 * MIB));
    assert_eq!(fresh.pay(true).unwrap().unwrap().cumulative, Amount::new(300));
    assert_eq!((scene.signed(), scene.guard.spent(V)), (300, Amount::new(300)));
    assert_eq!(scene.lane().target(), Amount::new(300), "a new lane begins at the wallet's record");
}

// r[verify bind.replace.proven.true]
#[test]
fn the_mark_holds_what_fetches_proved_and_never_less_than_is_signed_for() {
    let scene = Scene::new(10_000);
    scene.wallet.remember(scene.record).unwrap();
    let lane = scene.lane();
    let marks = scene.dir.path().join("in-use");
    let marked = || {
        let mark = std::fs::read_dir(&marks).unwrap().next().unwrap().unwrap();
        u128::from_le_bytes(*std::fs::read(mark.path()).unwrap().first_chunk().unwrap())
    };
    let charge = |bytes| lane.tariff().charge(ByteCount::new(bytes)).parts();
    begin_and_prove(&lane, MARKED_BYTES - 1);
    assert_eq!(marked(), 0, "small fetches write now and then");
    lane.proved(A, ByteCount::new(1));
    assert_eq!(marked(), charge(MARKED_BYTES));
    lane.proved(A, ByteCount::new(5));
    assert!(lane.pay(true).unwrap().is_some());
    assert_eq!(marked(), charge(MARKED_BYTES + 5));

    // What the node says that it took of an upload is its own word.
    let upload = StreamKey(8);
    let mut reserved = lane.set_aside(&lane.purpose, Amount::new(400)).unwrap();
    lane.begin_upload(upload, lane.tariff(), ByteCount::new(4 * MIB), &mut reserved).unwrap();
    lane.proved(upload, ByteCount::new(2 * MIB));
    assert!(lane.pay(true).unwrap().is_some());
    assert_eq!(marked(), charge(MARKED_BYTES + 5));
    lane.end(upload);
    lane.proved(A, ByteCount::new(MARKED_BYTES));
    assert_eq!(marked(), charge(2 * MARKED_BYTES + 5));
    // The more is proven, the seldomer: a 256th may be missing.
    let before = 2 * MARKED_BYTES + 5;
    lane.end(A);
    let mut reserved = lane.set_aside(&lane.purpose, Amount::new(2_000)).unwrap();
    lane.begin(A, ByteCount::new(20 * MIB), &mut reserved).unwrap();
    lane.proved(A, ByteCount::new(256 * MARKED_BYTES));
    let so_far = before + 256 * MARKED_BYTES;
    assert_eq!(marked(), charge(so_far));
    lane.proved(A, ByteCount::new(MARKED_BYTES + 100));
    assert_eq!(marked(), charge(so_far));
    lane.proved(A, ByteCount::new(MARKED_BYTES));
    assert_eq!(marked(), charge(so_far + 2 * MARKED_BYTES + 100));
    drop(lane);
    assert_eq!(std::fs::read_dir(&marks).unwrap().count(), 0);
}
