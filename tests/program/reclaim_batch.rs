use settlement_chain::{Address, Signer};
use settlement_interface::{accounts::status, errors::SettlementError};

use crate::{
    instructions as ix,
    ledger::{AgentParty, NodeParty, SYSTEM_PROGRAM, Voucher, World, assert_refused, open_entry, skipped},
};

fn setup() -> (World, AgentParty, NodeParty) {
    let mut world = World::new();
    let agent = world.agent(1_000);
    let node = world.node(None);
    (world, agent, node)
}

fn close(world: &mut World, node: &NodeParty, channel: Address, voucher: Voucher) {
    let instruction = ix::close_batch(&node.owner.pubkey(), node, &[(channel, voucher)]);
    world.run(&[instruction], &[&node.owner]).unwrap();
}

#[test]
fn returns_the_rest_to_the_agent_and_the_lamports_to_their_payer() {
    let (mut world, agent, node) = setup();
    let [part, none, whole] = [(); 3].map(|()| world.channel(&agent, &node, 100));
    for (channel, settled) in [(part, 30), (none, 0), (whole, 100)] {
        let voucher = Voucher::of(&agent, &channel, settled);
        close(&mut world, &node, channel, voucher);
    }
    let lamports = world.svm.get_balance(&part).unwrap();
    let before = world.svm.get_balance(&world.sponsor.pubkey()).unwrap();
    let done = world.run(&[ix::reclaim_batch(&world, &agent, &[part, none, whole])], &[]).unwrap();
    println!("reclaim_batch of 3: {} CU", done.compute_units_consumed);
    assert_eq!(skipped(&done), 0);
    assert_eq!(world.read_agent(&agent).available, 700 + 70 + 100);
    assert_eq!(world.svm.get_balance(&world.sponsor.pubkey()).unwrap(), before + 3 * lamports);
    for channel in [part, none, whole] {
        assert_eq!(world.svm.get_balance(&channel).unwrap_or(0), 0);
        assert!(world.data(&channel).is_empty());
    }
}

#[test]
// r[verify settlement.batch.skip]
fn open_closing_repeated_and_reclaimed_channels_are_skipped() {
    let (mut world, agent, node) = setup();
    let [open, closing, closed] = [(); 3].map(|()| world.channel(&agent, &node, 100));
    world.run(&[ix::request_close(&agent, &closing)], &[&agent.owner]).unwrap();
    close(&mut world, &node, closed, Voucher::none());
    let done = world.run(&[ix::reclaim_batch(&world, &agent, &[open, closing, closed, closed])], &[]).unwrap();
    assert_eq!(skipped(&done), 0b1011);
    assert_eq!(world.read_agent(&agent).available, 800);
    let done = world.run(&[ix::reclaim_batch(&world, &agent, &[closed])], &[]).unwrap();
    assert_eq!(skipped(&done), 1);
    assert_eq!(world.read_agent(&agent).available, 800);
}

#[test]
fn the_agent_and_the_rent_payer_must_be_the_channels() {
    let (mut world, agent, node) = setup();
    let other = world.agent(10);
    let channel = world.channel(&agent, &node, 100);
    close(&mut world, &node, channel, Voucher::none());
    for slot in [0, 1] {
        let mut instruction = ix::reclaim_batch(&world, &agent, &[channel]);
        instruction.accounts[slot].pubkey = [other.account, other.owner.pubkey()][slot];
        assert_refused(world.run(&[instruction], &[]), SettlementError::WrongParty);
    }
}

#[test]
// r[verify channel.reclaim.final]
fn lamports_sent_in_the_same_transaction_revive_nothing() {
    let (mut world, agent, node) = setup();
    let channel = world.channel(&agent, &node, 100);
    close(&mut world, &node, channel, Voucher::none());
    let mut data = vec![2, 0, 0, 0];
    data.extend(10_000_000u64.to_le_bytes());
    let transfer = settlement_chain::Instruction {
        program_id: SYSTEM_PROGRAM,
        accounts: vec![
            settlement_chain::AccountMeta::new(world.payer.pubkey(), true),
            settlement_chain::AccountMeta::new(channel, false),
        ],
        data,
    };
    let reclaim = ix::reclaim_batch(&world, &agent, &[channel]);
    world.run(&[reclaim.clone(), transfer, reclaim], &[]).unwrap();
    assert_eq!(world.read_agent(&agent).available, 1_000);
    let left = world.svm.get_account(&channel).unwrap();
    assert_eq!((left.owner, left.data.len(), left.lamports), (SYSTEM_PROGRAM, 0, 10_000_000));
}

#[test]
// r[verify channel.nonce.rising]
fn an_old_voucher_stays_dead_after_reclaim_and_reopen() {
    let (mut world, agent, node) = setup();
    let old = world.channel(&agent, &node, 100);
    let voucher = Voucher::of(&agent, &old, 80);
    close(&mut world, &node, old, Voucher::none());
    world.run(&[ix::reclaim_batch(&world, &agent, &[old])], &[]).unwrap();

    // The same address does not open again.
    let (entry, same) = open_entry(&agent, &node, 0, 100);
    assert_eq!(same, old);
    let instruction = ix::open_batch(&world, &agent, &[(entry, node.account, same)]);
    assert_refused(world.run(&[instruction], &[&agent.owner]), SettlementError::NonceUsed);

    // At the next address the old signature is another message.
    let new = world.channel(&agent, &node, 100);
    assert_ne!(new, old);
    let replay = ix::settle_batch(&node, &[(new, voucher.clone())]);
    assert_refused(world.run(&[replay], &[]), SettlementError::BadSignature);
    let done = world.run(&[ix::settle_batch(&node, &[(old, voucher)])], &[]).unwrap();
    assert_eq!(skipped(&done), 1);
    assert_eq!(world.read_channel(&new).settled, 0);
    assert_eq!(world.read_channel(&new).status, status::OPEN);
}

#[test]
fn refuses_an_empty_batch() {
    let (mut world, agent, _) = setup();
    assert_refused(world.run(&[ix::reclaim_batch(&world, &agent, &[])], &[]), SettlementError::BadBatch);
}

#[test]
// r[verify settlement.pause.scope]
fn a_pause_does_not_hold_refunds_back() {
    let (mut world, agent, node) = setup();
    let channel = world.channel(&agent, &node, 100);
    world.pause();
    close(&mut world, &node, channel, Voucher::none());
    world.run(&[ix::reclaim_batch(&world, &agent, &[channel])], &[]).unwrap();
    assert_eq!(world.read_agent(&agent).available, 1_000);
}
