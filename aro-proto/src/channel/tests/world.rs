//! A seeded world of one payer and one payee: late and reordered messages, a slow and failing disk, hostile
//! vouchers, top-ups, cancellations and restarts. Every step checks what must always hold.

use std::collections::{BTreeMap, VecDeque};

use super::persist::FaultyVouchers;
use super::*;
use crate::tariff::Charge;

/// What the agent of a world does beside fetching.
pub(super) struct Habits {
    pub(super) cancels: bool,
    /// What it pays ahead, in MiB.
    pub(super) prepay_mib: u64,
}

/// Who loses its memory.
pub(super) enum Restart {
    Node,
    Agent,
}

/// Payer and payee, and everything on the way between them.
pub(super) struct World {
    pub(super) seed: u64,
    random: Random,
    tariff: Tariff,
    pub(super) prepay: Amount,
    cancels: bool,
    pub(super) payee: Payee,
    pub(super) payer: Payer,
    store: FaultyVouchers,
    streams: BTreeMap<u64, Stream>,
    pub(super) next_stream: u64,
    to_node: VecDeque<ToNode>,
    to_agent: VecDeque<Credit>,
    on_the_way_to_disk: Vec<VerifiedVoucher>,
    deposit: u64,
    highest_paid: Amount,
    /// What the model expects of the two counts.
    granted: Charge,
    proven: Charge,
    pub(super) forgiven: Charge,
    pub(super) lost: Charge,
    /// How often nothing moved any more before everything was delivered.
    pub(super) breaks: u32,
    /// The agent found the node's bill too high and stopped.
    pub(super) has_parted: bool,
}

struct Stream {
    total: u64,
    /// Begun at the node, and not ended there.
    at_node: bool,
    /// Open at the agent.
    at_agent: bool,
    /// The batch that waits for the window; a node does not cut it smaller.
    planned: Option<u64>,
    sent: u64,
    proven: u64,
    in_flight: VecDeque<u64>,
}

enum ToNode {
    Begin(u64),
    Pay(SignedVoucher),
    StreamEnd(u64, u64),
}

impl World {
    pub(super) fn new(seed: u64, habits: Habits) -> Self {
        // Small and odd prices round at every voucher.
        let mut random = Random(seed);
        let tariff = Tariff { per_mib: [100, 1, 7, 3][random.index(4)] };
        let deposit = 30 * tariff.per_mib;
        let prepay = units(habits.prepay_mib * tariff.per_mib);
        Self {
            seed,
            random,
            payee: Payee::new(terms(deposit), tariff, None),
            payer: Payer::new(terms(deposit), tariff, units(0), prepay),
            tariff,
            prepay,
            cancels: habits.cancels,
            store: FaultyVouchers::default(),
            streams: BTreeMap::new(),
            next_stream: 0,
            to_node: VecDeque::new(),
            to_agent: VecDeque::new(),
            on_the_way_to_disk: Vec::new(),
            deposit,
            highest_paid: units(0),
            granted: Charge::ZERO,
            proven: Charge::ZERO,
            forgiven: Charge::ZERO,
            lost: Charge::ZERO,
            breaks: 0,
            has_parted: false,
        }
    }

    pub(super) fn run(&mut self, steps: u32) {
        for _ in 0..steps {
            match self.random.below(100) {
                0..6 => self.request(),
                6..30 => {
                    self.send_somewhere();
                }
                30..60 => {
                    self.arrive_somewhere();
                }
                60..70 => {
                    self.pay(false);
                }
                70..80 => {
                    let place = self.random.index(self.to_node.len().max(1));
                    self.deliver_to_node(place);
                }
                80..88 => {
                    self.persist();
                }
                88..94 => {
                    self.deliver_credit();
                }
                94..97 => self.attack(),
                97..98 => self.store.failures_left.set(1),
                98..99 => self.top_up(),
                _ if self.cancels => self.cancel(),
                _ => {}
            }
            self.check();
        }
    }

    /// No new requests: everything in flight lands, everything asked for is sent, everything owed is paid.
    pub(super) fn finish(&mut self) {
        self.store.failures_left.set(0);
        loop {
            while self.settle_round() {
                self.check();
            }
            if self.streams.values().all(|stream| !stream.at_node && !stream.at_agent) {
                break;
            }
            // The node's payment timeout: nothing moves any more, so the connection breaks off.
            self.breaks += 1;
            assert!(self.payee.disputed() > Charge::ZERO, "seed {}: stuck without a dispute", self.seed);
            self.break_off();
        }
        self.compare_counts();
        while self.settle_round() {
            self.check();
        }
    }

    fn settle_round(&mut self) -> bool {
        let mut has_moved = false;
        has_moved |= self.deliver_to_node(0);
        has_moved |= self.send_somewhere();
        has_moved |= self.arrive_somewhere();
        let flush = !self.payer.is_busy();
        has_moved |= self.pay(flush);
        has_moved |= self.persist();
        has_moved | self.deliver_credit()
    }

    fn request(&mut self) {
        let total = match self.random.below(4) {
            0 => self.random.below(1 << 14),
            1 => self.random.below(1 << 18),
            _ => self.random.below(4 * MIB),
        };
        let stream = self.next_stream;
        if self.payer.begin(StreamKey(stream), bytes(total)).is_ok() {
            self.next_stream += 1;
            let open = Stream {
                total,
                at_node: false,
                at_agent: true,
                planned: None,
                sent: 0,
                proven: 0,
                in_flight: VecDeque::new(),
            };
            self.streams.insert(stream, open);
            self.to_node.push_back(ToNode::Begin(stream));
            self.complete(stream);
        }
    }

    fn send_somewhere(&mut self) -> bool {
        let all: Vec<u64> =
            self.streams.iter().filter(|(_, s)| s.at_node && s.sent < s.total).map(|(k, _)| *k).collect();
        for key in self.random.shuffled(all) {
            let groups = 1 + self.random.below(BATCH_BYTES / GROUP);
            let stream = self.streams.get_mut(&key).unwrap();
            let batch = *stream.planned.get_or_insert((groups * GROUP).min(stream.total - stream.sent));
            if self.payee.may_send(StreamKey(key), bytes(batch)) == Ok(Permit::Granted) {
                stream.planned = None;
                stream.sent += batch;
                stream.in_flight.push_back(batch);
                self.granted = self.granted.checked_add(self.tariff.charge(bytes(batch))).unwrap();
                return true;
            }
        }
        false
    }

    fn arrive_somewhere(&mut self) -> bool {
        let all: Vec<u64> = self.streams.iter().filter(|(_, s)| !s.in_flight.is_empty()).map(|(k, _)| *k).collect();
        let Some(key) = self.random.shuffled(all).first().copied() else { return false };
        let stream = self.streams.get_mut(&key).unwrap();
        let batch = stream.in_flight.pop_front().unwrap();
        if stream.at_agent {
            self.payer.proved(StreamKey(key), bytes(batch)).unwrap();
            stream.proven += batch;
            self.proven = self.proven.checked_add(self.tariff.charge(bytes(batch))).unwrap();
        }
        self.complete(key);
        true
    }

    /// Whole at the agent: the agent ends it, and the acknowledgement lets the node end it.
    fn complete(&mut self, key: u64) {
        let stream = self.streams.get_mut(&key).unwrap();
        if stream.at_agent && stream.at_node && stream.proven == stream.total {
            self.payer.end(StreamKey(key)).unwrap();
            self.payee.end(StreamKey(key), None).unwrap();
            (stream.at_agent, stream.at_node) = (false, false);
        }
    }

    fn cancel(&mut self) {
        let all: Vec<u64> = self.streams.iter().filter(|(_, s)| s.at_agent).map(|(k, _)| *k).collect();
        let Some(key) = self.random.shuffled(all).first().copied() else { return };
        let proven = self.payer.end(StreamKey(key)).unwrap();
        self.streams.get_mut(&key).unwrap().at_agent = false;
        self.to_node.push_back(ToNode::StreamEnd(key, proven.get()));
    }

    fn pay(&mut self, flush: bool) -> bool {
        let Some(due) = self.payer.due(flush) else { return false };
        self.payer.record_signed(due.cumulative);
        self.to_node.push_back(ToNode::Pay(voucher(due.cumulative.get())));
        true
    }

    fn deliver_to_node(&mut self, place: usize) -> bool {
        // A stream's end never overtakes its beginning; vouchers of several connections overtake each other.
        let place = if matches!(self.to_node.get(place), Some(ToNode::Pay(_))) { place } else { 0 };
        match self.to_node.remove(place) {
            None => return false,
            Some(ToNode::Begin(key)) => self.begin_at_node(key),
            Some(ToNode::StreamEnd(key, proven)) => self.end_at_node(key, proven),
            Some(ToNode::Pay(signed)) => match self.payee.offer(&signed, NOW) {
                Ok(Offer::Fresh(verified)) => self.on_the_way_to_disk.push(verified),
                Ok(Offer::Known) | Err(VoucherError::NotRising { .. }) => {}
                Err(error) => panic!("seed {}: an honest voucher is refused: {error}", self.seed),
            },
        }
        true
    }

    fn begin_at_node(&mut self, key: u64) {
        let stream = self.streams.get_mut(&key).unwrap();
        match self.payee.begin(StreamKey(key), bytes(stream.total)) {
            Ok(()) => stream.at_node = true,
            Err(error) => {
                assert!(self.cancels, "seed {}: an honest request is refused: {error}", self.seed);
                if stream.at_agent {
                    stream.at_agent = false;
                    self.payer.end(StreamKey(key)).unwrap();
                }
            }
        }
        self.complete(key);
    }

    fn end_at_node(&mut self, key: u64, proven: u64) {
        let stream = self.streams.get_mut(&key).unwrap();
        if stream.at_node {
            stream.at_node = false;
            let lost = self.tariff.charge(bytes(stream.sent - proven));
            let settled = self.payee.end(StreamKey(key), Some(bytes(proven))).unwrap();
            assert_eq!(settled.forgiven.checked_add(settled.disputed), Some(lost), "seed {}", self.seed);
            self.forgiven = self.forgiven.checked_add(settled.forgiven).unwrap();
            self.lost = self.lost.checked_add(lost).unwrap();
        }
    }

    fn persist(&mut self) -> bool {
        if self.on_the_way_to_disk.is_empty() {
            return false;
        }
        let many = 1 + self.random.index(self.on_the_way_to_disk.len());
        let batch: Vec<_> = self.random.shuffled(std::mem::take(&mut self.on_the_way_to_disk));
        let (now, later) = batch.split_at(many);
        self.on_the_way_to_disk = later.to_vec();
        match persist_all(&self.store, now.to_vec()) {
            Ok(durable) => {
                for voucher in durable {
                    let credit = self.payee.credit(voucher);
                    self.to_agent.push_back(credit);
                }
            }
            Err(_) => {
                for voucher in now {
                    self.payee.persist_failed(voucher.cumulative());
                    // Refused as internal, so the agent sends it again.
                    self.to_node.push_back(ToNode::Pay(*voucher.signed()));
                }
            }
        }
        true
    }

    fn deliver_credit(&mut self) -> bool {
        let Some(credit) = self.to_agent.pop_front() else { return false };
        self.payer.credited(credit.cumulative, credit.window).unwrap();
        true
    }

    fn attack(&mut self) {
        let (paid, high) = (self.payee.paid().get(), self.deposit);
        let honest = Voucher { channel: CHANNEL, cumulative: units(high), expires_at: 0 };
        let hostile = match self.random.below(6) {
            0 => Voucher { channel: ChannelId::from_bytes([1; 32]), ..honest }.sign(&agent()),
            1 => Voucher { cumulative: units(high + 1 + self.random.below(9)), ..honest }.sign(&agent()),
            2 => {
                Voucher { cumulative: units(self.random.below(paid + 1)), expires_at: NOW * 2, ..honest }.sign(&agent())
            }
            3 => Voucher { expires_at: NOW - 128 + i64::from(self.random.byte()), ..honest }.sign(&agent()),
            4 => honest.sign(&SecretKey::from_bytes(&[8; 32])),
            _ => SignedVoucher { signature: [self.random.byte(); 64], voucher: honest },
        };
        let before = (self.payee.paid(), self.payee.billed());
        assert!(self.payee.offer(&hostile, NOW).is_err(), "seed {}: {hostile:?}", self.seed);
        assert_eq!((self.payee.paid(), self.payee.billed()), before);
    }

    fn top_up(&mut self) {
        self.deposit += self.random.below(20 * self.tariff.per_mib);
        let settled = units(self.random.below(self.payee.paid().get() + 1));
        let news = ChannelTerms { settled, ..terms(self.deposit) };
        self.payee.refresh(&news);
        self.payer.refresh(&news);
    }

    /// The connection is lost: both sides end its streams, and what was in flight is gone.
    fn break_off(&mut self) {
        for (key, stream) in &mut self.streams {
            if std::mem::take(&mut stream.at_agent) {
                self.payer.end(StreamKey(*key)).unwrap();
            }
            if std::mem::take(&mut stream.at_node) {
                self.payee.end(StreamKey(*key), None).unwrap();
            }
        }
    }

    fn compare_counts(&mut self) {
        let watermark = self.payee.watermark().map(|best| *best.signed());
        match self.payer.reconcile(watermark, self.payee.billed()) {
            Ok(outcome) => assert_eq!((outcome.adopted, outcome.resend), (None, None), "seed {}", self.seed),
            Err(ReconcileError::Overcharged { .. }) => self.has_parted = true,
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    /// Both sides lose the connection and all messages on it; one of them loses its memory too.
    pub(super) fn restart(&mut self, who: Restart) {
        self.break_off();
        self.streams.clear();
        self.to_node.clear();
        self.to_agent.clear();
        match who {
            Restart::Node => {
                self.on_the_way_to_disk.clear();
                let best = restore(&self.store, CHANNEL, &agent().agent_id()).unwrap();
                self.payee = Payee::new(*self.payee.terms(), self.tariff, best);
            }
            Restart::Agent => {
                let (terms, signed) = (*self.payer.terms(), self.payer.signed());
                self.payer = Payer::new(terms, self.tariff, signed, self.prepay).with_conceded(self.payer.conceded());
            }
        }
        let watermark = self.payee.watermark().map(|best| *best.signed());
        match self.payer.reconcile(watermark, self.payee.billed()) {
            Ok(outcome) => {
                let resend = outcome.resend.map(|amount| ToNode::Pay(voucher(amount.get())));
                self.to_node.extend(resend);
            }
            Err(ReconcileError::Overcharged { .. }) => self.has_parted = true,
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
        self.payer.credited(self.payee.paid(), self.payee.window()).unwrap();
        (self.granted, self.forgiven) = (self.payee.billed(), Charge::ZERO);
        self.proven = self.payer.owes().saturating_sub(self.payer.conceded());
    }

    fn check(&mut self) {
        let (seed, payee, payer) = (self.seed, &self.payee, &self.payer);
        let deposit = Charge::from_amount(units(self.deposit));
        assert!(payee.owed() <= Charge::from_amount(payee.window()), "seed {seed}: credit above the window");
        assert!(payee.billed() <= deposit, "seed {seed}: billed above the deposit");
        assert!(payee.paid() <= units(self.deposit), "seed {seed}: paid above the deposit");
        assert!(payee.paid() >= self.highest_paid, "seed {seed}: the watermark fell");
        assert!(payee.paid() <= payer.signed(), "seed {seed}: paid more than was signed");
        let prepaid = payer.owes().to_amount().unwrap().saturating_add(self.prepay);
        assert!(payer.signed() <= prepaid, "seed {seed}: signed for what is not proven");
        let billed = payee.billed().checked_add(self.forgiven);
        assert_eq!(billed, Some(self.granted), "seed {seed}: bytes were billed twice or not at all");
        assert_eq!(payer.owes().checked_sub(payer.conceded()), Some(self.proven), "seed {seed}: the agent's count");
        let kept = self.store.load(CHANNEL).unwrap();
        assert!(payee.watermark().map(|best| *best.signed()) == kept, "seed {seed}: credited is not what is durable");
        self.highest_paid = self.payee.paid();
    }
}

/// SplitMix64: small, seeded, the same everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    pub(super) fn shuffled<T>(&mut self, mut items: Vec<T>) -> Vec<T> {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
        items
    }
}

const GROUP: u64 = 16 << 10;
