//! The instructions as an honest caller builds them; tests change what they want wrong.

use settlement_chain::{AccountMeta, Address, Instruction, Signer};
use settlement_interface::{
    accounts::Config,
    instructions::{
        AcceptAdmin, Deposit, FLAG_EXPIRIES, FinalizeBatch, InitConfig, OpenBatch, OpenEntry, ReclaimBatch,
        RegisterNode, RegisterOperator, RequestClose, SetConfig, TopUp, UpdateNode, VoucherBatch, VoucherEntry,
        WithdrawAvailable, WithdrawEarned, WithdrawFees, tag,
    },
};

use crate::ledger::{
    AgentParty, LOADER, MAX_GRACE_S, MAX_OPERATOR_FEE_BPS, NodeParty, OperatorParty, PAYOUT_DELAY_S, PROGRAM,
    PROTOCOL_FEE_BPS, SYSTEM_PROGRAM, TOKEN_PROGRAM, Voucher, World, config, vault,
};

fn r(key: Address) -> AccountMeta {
    AccountMeta::new_readonly(key, false)
}

fn s(key: Address) -> AccountMeta {
    AccountMeta::new_readonly(key, true)
}

fn w(key: Address) -> AccountMeta {
    AccountMeta::new(key, false)
}

fn ws(key: Address) -> AccountMeta {
    AccountMeta::new(key, true)
}

fn instruction(data: &[u8], accounts: Vec<AccountMeta>) -> Instruction {
    Instruction { program_id: PROGRAM, accounts, data: data.to_vec() }
}

pub fn program_data() -> Address {
    Address::find_program_address(&[PROGRAM.as_ref()], &LOADER).0
}

pub fn init_config(world: &World) -> Instruction {
    let data = InitConfig {
        tag: tag::INIT_CONFIG,
        max_grace_s: MAX_GRACE_S,
        protocol_fee_bps: PROTOCOL_FEE_BPS,
        max_operator_fee_bps: MAX_OPERATOR_FEE_BPS,
        payout_delay_s: PAYOUT_DELAY_S,
    };
    let accounts = vec![
        ws(world.sponsor.pubkey()),
        s(world.admin.pubkey()),
        w(config()),
        w(vault()),
        r(world.mint),
        r(world.treasury),
        r(program_data()),
        r(TOKEN_PROGRAM),
        r(SYSTEM_PROGRAM),
    ];
    instruction(&data.to_bytes(), accounts)
}

/// Writes these parameters as the world's admin.
pub fn set_config(world: &World, new: &Config) -> Instruction {
    let data = SetConfig {
        tag: tag::SET_CONFIG,
        paused: new.paused,
        max_grace_s: new.max_grace_s,
        protocol_fee_bps: new.protocol_fee_bps,
        max_operator_fee_bps: new.max_operator_fee_bps,
        payout_delay_s: new.payout_delay_s,
        pending_admin: new.pending_admin,
    };
    let accounts = vec![s(world.admin.pubkey()), w(config()), r(new.treasury.into())];
    instruction(&data.to_bytes(), accounts)
}

pub fn accept_admin(pending_admin: &Address) -> Instruction {
    instruction(&AcceptAdmin { tag: tag::ACCEPT_ADMIN }.to_bytes(), vec![s(*pending_admin), w(config())])
}

/// The node's owner names payout and operator as the party now holds them.
pub fn update_node(node: &NodeParty, min_grace_s: u32, max_operator_fee_bps: u16) -> Instruction {
    let data = UpdateNode { tag: tag::UPDATE_NODE, min_grace_s, max_operator_fee_bps };
    let accounts = vec![s(node.owner.pubkey()), w(node.account), r(node.payout), r(config()), r(node.operator)];
    instruction(&data.to_bytes(), accounts)
}

pub fn register_operator(world: &World, operator: &OperatorParty, fee_bps: u16) -> Instruction {
    let accounts = vec![
        ws(world.sponsor.pubkey()),
        s(operator.authority.pubkey()),
        w(operator.account),
        r(operator.payout),
        r(config()),
        r(SYSTEM_PROGRAM),
    ];
    instruction(&RegisterOperator { tag: tag::REGISTER_OPERATOR, fee_bps }.to_bytes(), accounts)
}

pub fn register_node(world: &World, node: &NodeParty, min_grace_s: u32, max_operator_fee_bps: u16) -> Instruction {
    let data = RegisterNode { tag: tag::REGISTER_NODE, min_grace_s, max_operator_fee_bps };
    let accounts = vec![
        ws(world.sponsor.pubkey()),
        s(node.owner.pubkey()),
        s(node.id.pubkey()),
        w(node.account),
        r(node.payout),
        r(config()),
        r(node.operator),
        r(SYSTEM_PROGRAM),
    ];
    instruction(&data.to_bytes(), accounts)
}

/// The agent's owner deposits from its own token account.
pub fn deposit(agent: &AgentParty, amount: u64) -> Instruction {
    let accounts = vec![
        ws(agent.owner.pubkey()),
        r(agent.owner.pubkey()),
        w(agent.account),
        w(agent.tokens),
        w(vault()),
        r(config()),
        r(TOKEN_PROGRAM),
        r(SYSTEM_PROGRAM),
    ];
    instruction(&Deposit { tag: tag::DEPOSIT, amount }.to_bytes(), accounts)
}

pub fn withdraw_available(agent: &AgentParty, amount: u64) -> Instruction {
    let accounts =
        vec![s(agent.owner.pubkey()), w(agent.account), w(agent.tokens), w(vault()), r(config()), r(TOKEN_PROGRAM)];
    instruction(&WithdrawAvailable { tag: tag::WITHDRAW_AVAILABLE, amount }.to_bytes(), accounts)
}

/// Entries of (what to open, node account, channel account).
pub fn open_batch(world: &World, agent: &AgentParty, entries: &[(OpenEntry, Address, Address)]) -> Instruction {
    let mut accounts =
        vec![s(agent.owner.pubkey()), ws(world.sponsor.pubkey()), w(agent.account), r(config()), r(SYSTEM_PROGRAM)];
    let mut data = OpenBatch { tag: tag::OPEN_BATCH, count: entries.len() as u8 }.to_bytes().to_vec();
    for (entry, node, channel) in entries {
        accounts.extend([r(*node), w(*channel)]);
        data.extend(entry.to_bytes());
    }
    instruction(&data, accounts)
}

pub fn top_up(agent: &AgentParty, channel: &Address, amount: u64) -> Instruction {
    let accounts = vec![s(agent.owner.pubkey()), w(agent.account), w(*channel)];
    instruction(&TopUp { tag: tag::TOP_UP, amount }.to_bytes(), accounts)
}

pub fn settle_batch(node: &NodeParty, entries: &[(Address, Voucher)]) -> Instruction {
    let mut accounts = vec![w(node.account), operator_slot(node)];
    accounts.extend(entries.iter().map(|(channel, _)| w(*channel)));
    instruction(&voucher_batch(tag::SETTLE_BATCH, entries), accounts)
}

pub fn close_batch(authority: &Address, node: &NodeParty, entries: &[(Address, Voucher)]) -> Instruction {
    let mut accounts = vec![s(*authority), w(node.account), operator_slot(node)];
    accounts.extend(entries.iter().map(|(channel, _)| w(*channel)));
    instruction(&voucher_batch(tag::CLOSE_BATCH, entries), accounts)
}

/// The system program cannot be locked for writing; the runtime would demote it anyway.
fn operator_slot(node: &NodeParty) -> AccountMeta {
    if node.operator == SYSTEM_PROGRAM { r(node.operator) } else { w(node.operator) }
}

fn voucher_batch(tag: u8, entries: &[(Address, Voucher)]) -> Vec<u8> {
    let expires = entries.iter().any(|(_, voucher)| voucher.expires_at != 0);
    let flags = if expires { FLAG_EXPIRIES } else { 0 };
    let mut data = VoucherBatch { tag, flags, count: entries.len() as u8 }.to_bytes().to_vec();
    for (_, voucher) in entries {
        data.extend(VoucherEntry { signature: voucher.signature, cumulative: voucher.cumulative }.to_bytes());
    }
    if expires {
        data.extend(entries.iter().flat_map(|(_, voucher)| voucher.expires_at.to_le_bytes()));
    }
    data
}

pub fn request_close(agent: &AgentParty, channel: &Address) -> Instruction {
    let accounts = vec![s(agent.owner.pubkey()), r(agent.account), w(*channel)];
    instruction(&RequestClose { tag: tag::REQUEST_CLOSE }.to_bytes(), accounts)
}

pub fn finalize_batch(channels: &[Address]) -> Instruction {
    let accounts = channels.iter().map(|channel| w(*channel)).collect();
    instruction(&FinalizeBatch { tag: tag::FINALIZE_BATCH }.to_bytes(), accounts)
}

pub fn reclaim_batch(world: &World, agent: &AgentParty, channels: &[Address]) -> Instruction {
    let mut accounts = vec![w(agent.account), w(world.sponsor.pubkey())];
    accounts.extend(channels.iter().map(|channel| w(*channel)));
    instruction(&ReclaimBatch { tag: tag::RECLAIM_BATCH }.to_bytes(), accounts)
}

pub fn withdraw_earned(authority: &Address, node: &NodeParty, amount: u64) -> Instruction {
    let accounts = vec![
        s(*authority),
        w(node.account),
        r(node.operator),
        w(node.payout),
        w(vault()),
        r(config()),
        r(TOKEN_PROGRAM),
    ];
    instruction(&WithdrawEarned { tag: tag::WITHDRAW_EARNED, amount }.to_bytes(), accounts)
}

pub fn withdraw_fees(source: &Address, destination: &Address, amount: u64) -> Instruction {
    let accounts = vec![w(*source), w(*destination), w(vault()), r(config()), r(TOKEN_PROGRAM)];
    instruction(&WithdrawFees { tag: tag::WITHDRAW_FEES, amount }.to_bytes(), accounts)
}
