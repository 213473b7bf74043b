//! From what is to be sent to transactions, each as full as its size allows.

use aro_proto::ChannelId;
use aro_proto::channel::SignedVoucher;
use settlement_chain::instructions::{self, BatchVoucher, NO_VOUCHER};
use settlement_chain::{Address, Instruction};
use settlement_interface::accounts::{Channel, status};
use settlement_interface::instructions::{MAX_BATCH, VoucherEntry};
use settlement_interface::voucher::{NEVER, is_expired};

use super::{Due, Item, Kind, Planned, Planner, Trace, transaction_bytes};

impl Planner {
    /// The same work in two transactions, or none if it cannot be divided.
    pub fn halves(&self, planned: &Planned) -> Option<[Planned; 2]> {
        let middle = planned.source.entries.len() / 2;
        if middle == 0 {
            return None;
        }
        let (first, second) = planned.source.entries.split_at(middle);
        Some([self.build(&planned.source, first), self.build(&planned.source, second)])
    }

    /// Fills transactions one after the other, each as full as its size allows.
    // r[impl settlement.batch.size]
    pub(super) fn pack(&self, source: Source) -> Vec<Planned> {
        let mut rest: &[Entry] = &source.entries;
        let mut planned = Vec::new();
        while !rest.is_empty() {
            let mut count = 1;
            while count < rest.len().min(MAX_BATCH) && self.fits(&source, &rest[..=count]) {
                count += 1;
            }
            let (taken, left) = rest.split_at(count);
            planned.push(self.build(&source, taken));
            rest = left;
        }
        planned
    }

    fn fits(&self, source: &Source, entries: &[Entry]) -> bool {
        transaction_bytes(self.format, &self.authority, &self.instruction(source, entries)) <= self.format.max_bytes()
    }

    fn build(&self, source: &Source, entries: &[Entry]) -> Planned {
        Planned {
            kind: source.kind,
            at: source.at,
            items: entries.iter().map(|entry| entry.item).collect(),
            dues: entries.iter().filter_map(|entry| entry.due).collect(),
            instruction: self.instruction(source, entries),
            source: Source { entries: entries.to_vec(), ..*source },
        }
    }

    pub(super) fn instruction(&self, source: &Source, entries: &[Entry]) -> Instruction {
        let channels = || entries.iter().map(|entry| entry.voucher.0).collect::<Vec<_>>();
        match source.target {
            Target::Node { node, operator } => {
                let vouchers: Vec<BatchVoucher> = entries.iter().map(|entry| entry.voucher.clone()).collect();
                if source.kind == Kind::Close {
                    instructions::close_batch(&self.program, &self.authority, &node, &operator, &vouchers)
                } else {
                    instructions::settle_batch(&self.program, &node, &operator, &vouchers)
                }
            }
            Target::Anyone => instructions::finalize_batch(&self.program, &channels()),
            Target::Agent { agent, rent_payer } => {
                instructions::reclaim_batch(&self.program, &agent, &rent_payer, &channels())
            }
        }
    }
}

/// Entries that may share a transaction.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(super) kind: Kind,
    /// The chain's unix second.
    pub(super) at: i64,
    pub(super) target: Target,
    pub(super) entries: Vec<Entry>,
}

/// What they have in common.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    Node { node: Address, operator: Address },
    Agent { agent: Address, rent_payer: Address },
    Anyone,
}

/// One channel's part.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) item: Item,
    pub(super) voucher: BatchVoucher,
    /// Unix second from which the chain takes it no more; [`NO_DEADLINE`] while its channel is not closing.
    pub(super) deadline: i64,
    /// Why; none where no voucher is settled.
    pub(super) due: Option<Due>,
}

impl Source {
    /// True if an entry's channel is closing.
    pub(super) fn is_urgent(&self) -> bool {
        self.deadline() != NO_DEADLINE
    }

    /// The earliest of its entries.
    pub(super) fn deadline(&self) -> i64 {
        self.entries.iter().map(|entry| entry.deadline).min().unwrap_or(NO_DEADLINE)
    }
}

impl Entry {
    /// A stored voucher at the chain's unix second `now`. It goes along as long as it lives, even if the chain seems to
    /// have settled as much: the program then does not look at it, and where a server has lied about the watermark the
    /// channel does not close below it. One that has expired is left out: its channel closes where the chain stands.
    // r[impl settlement.close.best_voucher]
    pub(super) fn of(signed: &SignedVoucher, account: &Channel, trace: Trace, due: Due, now: i64) -> Self {
        let channel = signed.voucher.channel;
        let item = Item { channel, voucher: Some(signed.voucher.cumulative), trace };
        let address = Address::new_from_array(channel.to_bytes());
        let deadline = if account.status == status::CLOSING { account.deadline } else { NO_DEADLINE };
        let due = Some(due);
        if is_expired(signed.voucher.expires_at, now) {
            return Self { item, voucher: (address, NO_VOUCHER, NEVER), deadline, due };
        }
        let entry = VoucherEntry { signature: signed.signature, cumulative: signed.voucher.cumulative.get() };
        Self { item, voucher: (address, entry, signed.voucher.expires_at), deadline, due }
    }

    pub(super) fn bare(channel: ChannelId, trace: Trace) -> Self {
        let address = Address::new_from_array(channel.to_bytes());
        let item = Item { channel, voucher: None, trace };
        Self { item, voucher: (address, NO_VOUCHER, NEVER), deadline: NO_DEADLINE, due: None }
    }
}

/// After every deadline.
pub(super) const NO_DEADLINE: i64 = i64::MAX;
