//! One builder for each instruction of the settlement program.
//!
//! The account lists are those of [`settlement_interface::instructions::table`]; the builders add the addresses that
//! follow from others and leave every choice to the caller. They do not check what the program checks, such as batch
//! sizes: the program is the one judge.

mod config;
mod node;

use settlement_interface::{
    accounts::Channel,
    instructions::{self as encoding, FLAG_EXPIRIES, OpenEntry, VoucherEntry, tag},
    voucher::NEVER,
};
use solana_address::Address;
use solana_instruction::{AccountMeta, Instruction};

pub use self::config::{InitConfig, SetConfig, accept_admin, init_config, set_config};
pub use self::node::{RegisterNode, UpdateNode, WithdrawEarned, register_node, update_node, withdraw_earned};
use crate::{Program, tokens::TOKEN_PROGRAM};

/// The system program. In an operator's place it means "none", just as the zeros of a node's account do.
pub const SYSTEM_PROGRAM: Address = Address::new_from_array([0; 32]);

/// Creates the operator account of `authority`, who signs as `payer` does. `payout` is a token account of the
/// $ARO mint; `fee_bps` is the published fee in basis points.
pub fn register_operator(
    program: &Program,
    rent_payer: &Address,
    authority: &Address,
    payout: &Address,
    fee_bps: u16,
) -> Instruction {
    let accounts = vec![
        payer(*rent_payer),
        signer(*authority),
        writable(program.operator(authority).0),
        readonly(*payout),
        readonly(program.config().0),
        readonly(SYSTEM_PROGRAM),
    ];
    instruction(program, accounts, &encoding::RegisterOperator { tag: tag::REGISTER_OPERATOR, fee_bps }.to_bytes())
}

/// Moves `amount` base units from the token account `source` of `depositor` (signs, pays rent) into the vault, to
/// the credit of the agent account of `owner`, which is created if it is not there.
pub fn deposit(program: &Program, depositor: &Address, owner: &Address, source: &Address, amount: u64) -> Instruction {
    let accounts = vec![
        payer(*depositor),
        readonly(*owner),
        writable(program.agent(owner).0),
        writable(*source),
        writable(program.vault().0),
        readonly(program.config().0),
        readonly(TOKEN_PROGRAM),
        readonly(SYSTEM_PROGRAM),
    ];
    instruction(program, accounts, &encoding::Deposit { tag: tag::DEPOSIT, amount }.to_bytes())
}

/// Pays `amount` base units of the available money of `owner` (signs) to the token account `destination`.
pub fn withdraw_available(program: &Program, owner: &Address, destination: &Address, amount: u64) -> Instruction {
    let accounts = vec![
        signer(*owner),
        writable(program.agent(owner).0),
        writable(*destination),
        writable(program.vault().0),
        readonly(program.config().0),
        readonly(TOKEN_PROGRAM),
    ];
    instruction(program, accounts, &encoding::WithdrawAvailable { tag: tag::WITHDRAW_AVAILABLE, amount }.to_bytes())
}

/// One channel of [`open_batch`].
#[derive(Clone, Debug)]
pub struct OpenChannel {
    /// The earning node's account.
    pub node: Address,
    /// At least the agent's `next_nonce`, and rising within the batch.
    pub nonce: u64,
    /// Base units, taken from what is available.
    pub deposit: u64,
    /// Seconds between a request to close and the deadline.
    pub grace_s: u32,
    /// The key whose vouchers count.
    pub signer: Address,
}

/// Opens channels of the agent of `owner` (signs); `rent_payer` (signs) gets the rent back at reclaim.
///
/// The addresses of the channels are `program.channel(&program.agent(owner).0, &node, nonce)`.
pub fn open_batch(program: &Program, owner: &Address, rent_payer: &Address, channels: &[OpenChannel]) -> Instruction {
    let (agent, _) = program.agent(owner);
    let mut accounts = vec![
        signer(*owner),
        payer(*rent_payer),
        writable(agent),
        readonly(program.config().0),
        readonly(SYSTEM_PROGRAM),
    ];
    let mut data = encoding::OpenBatch { tag: tag::OPEN_BATCH, count: count(channels.len()) }.to_bytes().to_vec();
    for open in channels {
        let (channel, bump) = program.channel(&agent, &open.node, open.nonce);
        accounts.push(readonly(open.node));
        accounts.push(writable(channel));
        let entry = OpenEntry {
            nonce: open.nonce,
            deposit: open.deposit,
            grace_s: open.grace_s,
            bump,
            signer: open.signer.to_bytes(),
        };
        data.extend_from_slice(&entry.to_bytes());
    }
    instruction(program, accounts, &data)
}

/// Adds `amount` base units of the available money of `owner` (signs) to the deposit of their channel.
pub fn top_up(program: &Program, owner: &Address, channel: &Address, amount: u64) -> Instruction {
    let accounts = vec![signer(*owner), writable(program.agent(owner).0), writable(*channel)];
    instruction(program, accounts, &encoding::TopUp { tag: tag::TOP_UP, amount }.to_bytes())
}

/// A channel account, its voucher, and when the voucher expires (unix seconds, 0 for never).
pub type BatchVoucher = (Address, VoucherEntry, i64);

/// A [`VoucherEntry`] that carries no voucher: closes a channel at the chain's watermark.
pub const NO_VOUCHER: VoucherEntry = VoucherEntry { signature: [0; 64], cumulative: 0 };

/// Credits vouchers of channels to one node; anyone may send it.
///
/// `node` is the node's account and `operator` what its `operator` field says (zeros are [`SYSTEM_PROGRAM`]).
pub fn settle_batch(program: &Program, node: &Address, operator: &Address, vouchers: &[BatchVoucher]) -> Instruction {
    voucher_batch(program, tag::SETTLE_BATCH, vec![writable(*node), operator_slot(operator)], vouchers)
}

/// Credits vouchers and closes their channels. `authority` signs: the node's owner or its operator's authority.
/// Where there is nothing above the watermark to credit, give [`NO_VOUCHER`].
pub fn close_batch(
    program: &Program,
    authority: &Address,
    node: &Address,
    operator: &Address,
    vouchers: &[BatchVoucher],
) -> Instruction {
    let head = vec![signer(*authority), writable(*node), operator_slot(operator)];
    voucher_batch(program, tag::CLOSE_BATCH, head, vouchers)
}

/// The agent's `owner` (signs) starts the grace of an open channel.
pub fn request_close(program: &Program, owner: &Address, channel: &Address) -> Instruction {
    let accounts = vec![signer(*owner), readonly(program.agent(owner).0), writable(*channel)];
    instruction(program, accounts, &encoding::RequestClose { tag: tag::REQUEST_CLOSE }.to_bytes())
}

/// Closes channels whose deadline has passed; anyone may send it.
pub fn finalize_batch(program: &Program, channels: &[Address]) -> Instruction {
    let accounts = channels.iter().copied().map(writable).collect();
    instruction(program, accounts, &encoding::FinalizeBatch { tag: tag::FINALIZE_BATCH }.to_bytes())
}

/// Returns what closed channels hold to one agent account and their lamports to one rent payer (both as the
/// channel accounts say); anyone may send it.
pub fn reclaim_batch(program: &Program, agent: &Address, rent_payer: &Address, channels: &[Address]) -> Instruction {
    let mut accounts = vec![writable(*agent), writable(*rent_payer)];
    accounts.extend(channels.iter().copied().map(writable));
    instruction(program, accounts, &encoding::ReclaimBatch { tag: tag::RECLAIM_BATCH }.to_bytes())
}

/// Pays fees to where they always go; anyone may send it. `source` is an operator account (then `destination` is
/// its payout) or a node account (then `destination` is the config's treasury).
pub fn withdraw_fees(program: &Program, source: &Address, destination: &Address, amount: u64) -> Instruction {
    let accounts = vec![
        writable(*source),
        writable(*destination),
        writable(program.vault().0),
        readonly(program.config().0),
        readonly(TOKEN_PROGRAM),
    ];
    instruction(program, accounts, &encoding::WithdrawFees { tag: tag::WITHDRAW_FEES, amount }.to_bytes())
}

/// What a closed or reclaimable channel still holds for its agent, in base units.
pub fn refundable(channel: &Channel) -> u64 {
    channel.deposit.saturating_sub(channel.settled)
}

fn voucher_batch(program: &Program, tag: u8, mut accounts: Vec<AccountMeta>, vouchers: &[BatchVoucher]) -> Instruction {
    let with_expiries = vouchers.iter().any(|(.., expires_at)| *expires_at != NEVER);
    let head = encoding::VoucherBatch {
        tag,
        flags: if with_expiries { FLAG_EXPIRIES } else { 0 },
        count: count(vouchers.len()),
    };
    let mut data = head.to_bytes().to_vec();
    for (channel, entry, _) in vouchers {
        accounts.push(writable(*channel));
        data.extend_from_slice(&entry.to_bytes());
    }
    if with_expiries {
        data.extend(vouchers.iter().flat_map(|(.., expires_at)| expires_at.to_le_bytes()));
    }
    instruction(program, accounts, &data)
}

/// The system program stands for no operator; it can be named but not locked for writing.
fn operator_slot(operator: &Address) -> AccountMeta {
    if *operator == SYSTEM_PROGRAM { readonly(*operator) } else { writable(*operator) }
}

/// Batches beyond 255 entries carry a count that cannot be right, and the program refuses them as it refuses all
/// above its own maximum.
fn count(entries: usize) -> u8 {
    u8::try_from(entries).unwrap_or(u8::MAX)
}

fn instruction(program: &Program, accounts: Vec<AccountMeta>, data: &[u8]) -> Instruction {
    Instruction { program_id: program.id, accounts, data: data.to_vec() }
}

fn payer(address: Address) -> AccountMeta {
    AccountMeta::new(address, true)
}

fn signer(address: Address) -> AccountMeta {
    AccountMeta::new_readonly(address, true)
}

fn writable(address: Address) -> AccountMeta {
    AccountMeta::new(address, false)
}

fn readonly(address: Address) -> AccountMeta {
    AccountMeta::new_readonly(address, false)
}

#[cfg(test)]
mod tests {
    use settlement_interface::instructions::table;

    use super::*;

    fn voucher(channel: u8, cumulative: u64, expires_at: i64) -> BatchVoucher {
        (Address::new_from_array([channel; 32]), VoucherEntry { signature: [channel; 64], cumulative }, expires_at)
    }

    #[test]
    fn batch_carries_expiries_only_when_one_expires() {
        let program = Program::local();
        let node = Address::new_from_array([1; 32]);
        let plain = settle_batch(&program, &node, &SYSTEM_PROGRAM, &[voucher(2, 7, 0), voucher(3, 8, 0)]);
        assert_eq!(plain.data.len(), 3 + 2 * VoucherEntry::LEN);
        assert_eq!(plain.data[..3], [tag::SETTLE_BATCH, 0, 2]);

        let expiring = settle_batch(&program, &node, &SYSTEM_PROGRAM, &[voucher(2, 7, 0), voucher(3, 8, 99)]);
        assert_eq!(expiring.data.len(), 3 + 2 * VoucherEntry::LEN + 2 * 8);
        assert_eq!(expiring.data[1], FLAG_EXPIRIES);
        assert_eq!(expiring.data[expiring.data.len() - 8..], 99_i64.to_le_bytes());
    }

    #[test]
    fn no_operator_is_the_system_program_and_is_not_written() {
        let program = Program::local();
        let (node, operator) = (Address::new_from_array([1; 32]), Address::new_from_array([4; 32]));
        let owner = Address::new_from_array([5; 32]);
        let without = close_batch(&program, &owner, &node, &SYSTEM_PROGRAM, &[voucher(2, 7, 0)]);
        assert!(!without.accounts[2].is_writable);
        let with = close_batch(&program, &owner, &node, &operator, &[voucher(2, 7, 0)]);
        assert!(with.accounts[2].is_writable && with.accounts[0].is_signer);
    }

    #[test]
    fn open_batch_derives_channel_addresses_from_agent_node_and_nonce() {
        let program = Program::local();
        let (owner, node) = (Address::new_from_array([1; 32]), Address::new_from_array([2; 32]));
        let open = OpenChannel { node, nonce: 9, deposit: 5, grace_s: 60, signer: owner };
        let built = open_batch(&program, &owner, &owner, &[open]);
        let (channel, bump) = program.channel(&program.agent(&owner).0, &node, 9);
        assert_eq!(built.accounts[6].pubkey, channel);
        let entry = OpenEntry::from_bytes(built.data[2..].try_into().unwrap());
        assert_eq!((entry.bump, entry.nonce, entry.deposit), (bump, 9, 5));
    }

    /// One call of every builder, the batches with two entries.
    fn every_instruction() -> Vec<Instruction> {
        let program = Program::local();
        let [owner, node, operator, other] = [5, 1, 4, 6].map(|byte| Address::new_from_array([byte; 32]));
        let channels = [2, 3].map(|byte| Address::new_from_array([byte; 32]));
        let vouchers = [voucher(2, 7, 0), voucher(3, 8, 0)];
        let opens = [0, 1].map(|nonce| OpenChannel { node, nonce, deposit: 1, grace_s: 1, signer: owner });
        let init = InitConfig {
            payer: owner,
            admin: owner,
            mint: other,
            treasury: other,
            max_grace_s: 1,
            protocol_fee_bps: 1,
            max_operator_fee_bps: 1,
            payout_delay_s: 1,
        };
        let set = SetConfig {
            admin: owner,
            treasury: other,
            paused: true,
            max_grace_s: 1,
            protocol_fee_bps: 1,
            max_operator_fee_bps: 1,
            payout_delay_s: 1,
            pending_admin: Some(other),
        };
        let register = RegisterNode {
            payer: owner,
            owner,
            id: node,
            payout: other,
            operator: Some(operator),
            min_grace_s: 1,
            max_operator_fee_bps: 1,
        };
        let update = UpdateNode {
            owner,
            node,
            payout: other,
            operator: Some(operator),
            min_grace_s: 1,
            max_operator_fee_bps: 1,
        };
        let earned = WithdrawEarned { authority: owner, node, operator, payout: other, amount: 1 };
        vec![
            init_config(&program, &init),
            register_operator(&program, &owner, &owner, &other, 1),
            register_node(&program, &register),
            deposit(&program, &owner, &owner, &other, 1),
            withdraw_available(&program, &owner, &other, 1),
            open_batch(&program, &owner, &owner, &opens),
            top_up(&program, &owner, &channels[0], 1),
            settle_batch(&program, &node, &operator, &vouchers),
            close_batch(&program, &owner, &node, &operator, &vouchers),
            request_close(&program, &owner, &channels[0]),
            finalize_batch(&program, &channels),
            reclaim_batch(&program, &other, &owner, &channels),
            withdraw_earned(&program, &earned),
            withdraw_fees(&program, &operator, &other, 1),
            set_config(&program, &set),
            accept_admin(&program, &owner),
            update_node(&program, &update),
        ]
    }

    #[test]
    fn builders_follow_the_table_of_the_interface() {
        let built = every_instruction();
        assert_eq!(built.len(), table::ALL.len());
        for (instruction, row) in built.iter().zip(table::ALL) {
            assert_eq!(instruction.data[0], row.tag, "{}", row.name);
            let entries = if row.accounts.iter().any(|slot| slot.repeated) { 2 } else { 0 };
            let head: usize = row.head.iter().map(|field| field.len).sum();
            let entry: usize = row.entry.into_iter().flatten().map(|field| field.len).sum();
            assert_eq!(instruction.data.len(), head + entries * entry, "{}", row.name);

            let once = row.accounts.iter().filter(|slot| !slot.repeated);
            let each: Vec<_> = row.accounts.iter().filter(|slot| slot.repeated).collect();
            let slots: Vec<_> = once.chain(each.repeat(entries)).collect();
            assert_eq!(instruction.accounts.len(), slots.len(), "{}", row.name);
            for (meta, slot) in instruction.accounts.iter().zip(slots) {
                let (found, said) = ((meta.is_writable, meta.is_signer), (slot.writable, slot.signer));
                assert_eq!(found, said, "{} of {}", slot.name, row.name);
            }
        }
    }
}
