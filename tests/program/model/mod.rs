//! What the settlement program should do, written from protocol-spec/07 in the plainest way: maps of records, wide
//! integers, one clone of everything per instruction, so that a refusal leaves nothing behind.
//!
//! It shares no code with the program. Signatures and addresses are not its business: the caller says whether a
//! voucher is genuine. When several things are wrong at once, the refusal is the first in the order of the checks
//! here, which is the program's: signer and parameters, then the accounts in their order, then the entries.

mod channels;
mod money;
mod parties;
mod vouchers;

use std::collections::BTreeMap;

use settlement_chain::Address;
use settlement_interface::errors::SettlementError;

pub use channels::Opening;
pub use parties::{NewConfig, NewNode};
pub use vouchers::Payment;

/// Everything that the program's instructions read or write.
#[derive(Clone, Debug)]
pub struct Model {
    /// The cluster's clock, in unix seconds.
    pub now: i64,
    /// What each byte of an account must hold in lamports.
    pub lamports_per_byte: u64,
    pub vault: Address,
    pub config: Config,
    pub agents: BTreeMap<Address, Agent>,
    pub nodes: BTreeMap<Address, Node>,
    pub operators: BTreeMap<Address, Operator>,
    pub channels: BTreeMap<Address, Channel>,
    /// Token accounts: who may spend, and how much is there.
    pub tokens: BTreeMap<Address, Tokens>,
    /// Lamports of every account that takes part.
    pub lamports: BTreeMap<Address, u64>,
}

#[derive(Clone, Debug)]
pub struct Config {
    pub admin: Address,
    pub mint: Address,
    pub treasury: Address,
    /// The key that becomes admin when it accepts.
    pub pending_admin: Option<Address>,
    pub paused: bool,
    pub max_grace_s: u32,
    pub protocol_fee_bps: u16,
    pub max_operator_fee_bps: u16,
    pub payout_delay_s: u32,
}

#[derive(Clone, Debug)]
pub struct Agent {
    pub owner: Address,
    pub available: u64,
    pub next_nonce: u64,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub id: Address,
    pub owner: Address,
    pub operator: Option<Address>,
    pub payout: Address,
    /// The next payout, and the unix second from which it counts.
    pub pending_payout: Option<(Address, i64)>,
    pub earned: u64,
    pub protocol_fees: u64,
    pub min_grace_s: u32,
    pub operator_fee_bps: u16,
}

#[derive(Clone, Debug)]
pub struct Operator {
    pub authority: Address,
    pub payout: Address,
    pub fees: u64,
    pub fee_bps: u16,
}

#[derive(Clone, Debug)]
pub struct Channel {
    pub agent: Address,
    pub node: Address,
    pub signer: [u8; 32],
    pub rent_payer: Address,
    pub nonce: u64,
    pub deposit: u64,
    pub settled: u64,
    pub grace_s: u32,
    pub protocol_fee_bps: u16,
    pub state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Open,
    Closing { deadline: i64 },
    Closed,
}

#[derive(Clone, Debug)]
pub struct Tokens {
    pub owner: Address,
    pub amount: u64,
}

/// Why an instruction fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// One of the program's own errors, by number.
    Ours(u32),
    /// The token program's.
    Tokens,
}

/// The skipped entries of a batch, by number; nothing for an instruction without a bitmap.
pub type Done = Result<Option<u64>, Refusal>;

impl Model {
    /// Runs one instruction: on refusal nothing has changed.
    pub fn attempt(&mut self, instruction: impl FnOnce(&mut Self) -> Done) -> Done {
        let mut next = self.clone();
        let done = instruction(&mut next)?;
        *self = next;
        Ok(done)
    }

    /// What the program owes to everyone together, in base units.
    pub fn owed(&self) -> u128 {
        let wide = |amounts: Vec<u64>| amounts.into_iter().map(u128::from).sum::<u128>();
        wide(self.agents.values().map(|agent| agent.available).collect())
            + wide(self.channels.values().map(|channel| channel.deposit - channel.settled).collect())
            + wide(self.nodes.values().map(|node| node.earned).collect())
            + wide(self.nodes.values().map(|node| node.protocol_fees).collect())
            + wide(self.operators.values().map(|operator| operator.fees).collect())
    }

    pub fn all_tokens(&self) -> u128 {
        self.tokens.values().map(|account| u128::from(account.amount)).sum()
    }

    pub fn all_lamports(&self) -> u128 {
        self.lamports.values().copied().map(u128::from).sum()
    }

    /// Lamports move from one account to another, who pays more than it has.
    pub fn move_lamports(&mut self, from: Address, to: Address, lamports: u64) {
        let left = self.lamports[&from].checked_sub(lamports).expect("the model's parties are rich");
        self.lamports.insert(from, left);
        *self.lamports.entry(to).or_default() += lamports;
    }

    /// Funds a new account with what its length needs beyond what somebody has sent ahead.
    fn pay_rent(&mut self, payer: Address, account: Address, bytes: u64) {
        let needed = (128 + bytes) * self.lamports_per_byte;
        let held = self.lamports.get(&account).copied().unwrap_or(0);
        self.move_lamports(payer, account, needed.saturating_sub(held));
    }
}

fn no<T>(error: SettlementError) -> Result<T, Refusal> {
    Err(Refusal::Ours(error.code()))
}

fn need(condition: bool, error: SettlementError) -> Result<(), Refusal> {
    if condition { Ok(()) } else { no(error) }
}

/// The record at an address. Where nothing is, the account is the system program's, not ours.
fn at<'a, T>(records: &'a mut BTreeMap<Address, T>, address: &Address) -> Result<&'a mut T, Refusal> {
    records.get_mut(address).ok_or(Refusal::Ours(SettlementError::WrongOwner.code()))
}

/// What is left of a balance; an amount of zero is as wrong as one above it.
fn take(balance: u64, amount: u64) -> Result<u64, Refusal> {
    need(amount > 0 && amount <= balance, SettlementError::BadAmount)?;
    Ok(balance - amount)
}

/// A sum of two amounts.
fn sum(one: u64, other: u64) -> Result<u64, Refusal> {
    let wide = u128::from(one) + u128::from(other);
    u64::try_from(wide).map_err(|_| Refusal::Ours(SettlementError::Overflow.code()))
}
