//! Batches of any size, each entry of which would do its work, sent by whoever pays the fee with one signature.

use settlement_chain::{Address, Instruction, Keypair, Signer};

use crate::{
    instructions as ix,
    ledger::{AgentParty, MIN_GRACE_S, NodeParty, OperatorParty, START, Voucher, World, open_entry},
    transactions::Format,
};

/// The instructions that take many entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    Open,
    Settle,
    Close,
    Finalize,
    Reclaim,
}

impl Batch {
    pub const ALL: [Self; 5] = [Self::Open, Self::Settle, Self::Close, Self::Finalize, Self::Reclaim];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open_batch",
            Self::Settle => "settle_batch",
            Self::Close => "close_batch",
            Self::Finalize => "finalize_batch",
            Self::Reclaim => "reclaim_batch",
        }
    }
}

/// A world with channels in the state that a batch wants them in.
pub struct Lot {
    pub world: World,
    batch: Batch,
    agent: AgentParty,
    node: NodeParty,
    operator: OperatorParty,
    channels: Vec<Address>,
}

impl Lot {
    pub fn new(batch: Batch, count: usize) -> Self {
        let mut world = World::new();
        let operator = world.operator(100);
        let node = world.node(Some(&operator));
        let agent = world.agent(count as u64 * DEPOSIT);
        let mut lot = Self { world, batch, agent, node, operator, channels: Vec::new() };
        if batch != Batch::Open {
            lot.open(count);
        }
        match batch {
            Batch::Open | Batch::Settle | Batch::Close => {}
            Batch::Finalize => {
                for channel in lot.channels.clone() {
                    lot.world.run(&[ix::request_close(&lot.agent, &channel)], &[&lot.agent.owner]).unwrap();
                }
                lot.world.set_time(START + i64::from(MIN_GRACE_S));
            }
            Batch::Reclaim => {
                for some in lot.channels.chunks(20) {
                    let entries: Vec<_> = some.iter().map(|channel| (*channel, Voucher::none())).collect();
                    let close = ix::close_batch(&lot.node.owner.pubkey(), &lot.node, &entries);
                    let close = lot.world.signed(&Format::v1(), &[close], &[&lot.node.owner]);
                    lot.world.send_signed(close).unwrap();
                }
            }
        }
        // One signature for all: an agent pays for its opens, an operator for the rest and for the rent of none.
        let payer = if batch == Batch::Open { &lot.agent.owner } else { &lot.operator.authority };
        lot.world.payer = payer.insecure_clone();
        if batch == Batch::Open {
            lot.world.sponsor = lot.world.payer.insecure_clone();
        }
        lot
    }

    fn open(&mut self, count: usize) {
        for first in (0..count).step_by(20) {
            let entries: Vec<_> = (first..count.min(first + 20)).map(|nonce| self.opening(nonce)).collect();
            self.channels.extend(entries.iter().map(|(_, _, channel)| *channel));
            let open = ix::open_batch(&self.world, &self.agent, &entries);
            let open = self.world.signed(&Format::v1(), &[open], &[&self.agent.owner]);
            self.world.send_signed(open).unwrap();
        }
    }

    fn opening(&self, nonce: usize) -> (settlement_interface::instructions::OpenEntry, Address, Address) {
        let (entry, channel) = open_entry(&self.agent, &self.node, nonce as u64, DEPOSIT);
        (entry, self.node.account, channel)
    }

    /// The first `count` entries as one instruction.
    pub fn instruction(&self, count: usize) -> Instruction {
        let vouchers = || -> Vec<_> {
            let some = self.channels[..count].iter();
            some.map(|channel| (*channel, Voucher::of(&self.agent, channel, DEPOSIT / 2))).collect()
        };
        match self.batch {
            Batch::Open => {
                let entries: Vec<_> = (0..count).map(|nonce| self.opening(nonce)).collect();
                ix::open_batch(&self.world, &self.agent, &entries)
            }
            Batch::Settle => ix::settle_batch(&self.node, &vouchers()),
            Batch::Close => ix::close_batch(&self.operator.authority.pubkey(), &self.node, &vouchers()),
            Batch::Finalize => ix::finalize_batch(&self.channels[..count]),
            Batch::Reclaim => ix::reclaim_batch(&self.world, &self.agent, &self.channels[..count]),
        }
    }

    pub fn signers(&self) -> [&Keypair; 2] {
        [&self.agent.owner, &self.operator.authority]
    }
}

const DEPOSIT: u64 = 1_000;
