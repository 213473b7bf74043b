use settlement_chain::{Address, Signer};
use settlement_interface::{accounts::status, errors::SettlementError};

use crate::{
    instructions as ix,
    ledger::{AgentParty, MAX_GRACE_S, MIN_GRACE_S, NodeParty, PROTOCOL_FEE_BPS, World, assert_refused, open_entry},
};

fn setup() -> (World, AgentParty, NodeParty) {
    let mut world = World::new();
    let agent = world.agent(1_000);
    let node = world.node(None);
    (world, agent, node)
}

#[test]
fn opens_several_channels_from_available_money() {
    let (mut world, agent, node) = setup();
    let other = world.node(None);
    let (first, first_channel) = open_entry(&agent, &node, 0, 300);
    let (second, second_channel) = open_entry(&agent, &other, 5, 700);
    let entries = [(first, node.account, first_channel), (second, other.account, second_channel)];
    let done = world.run(&[ix::open_batch(&world, &agent, &entries)], &[&agent.owner]).unwrap();
    println!("open_batch of 2: {} CU", done.compute_units_consumed);

    let stored = world.read_agent(&agent);
    assert_eq!((stored.available, stored.next_nonce), (0, 6));
    let channel = world.read_channel(&second_channel);
    assert_eq!((channel.status, channel.nonce, channel.deposit, channel.settled), (status::OPEN, 5, 700, 0));
    assert_eq!((channel.deadline, channel.grace_s), (0, MIN_GRACE_S));
    assert_eq!(channel.protocol_fee_bps, PROTOCOL_FEE_BPS);
    assert_eq!(channel.agent, agent.account.to_bytes());
    assert_eq!(channel.node, other.account.to_bytes());
    assert_eq!(channel.signer, agent.signer.pubkey().to_bytes());
    assert_eq!(channel.rent_payer, world.sponsor.pubkey().to_bytes());
    assert_eq!(world.read_channel(&first_channel).node, node.account.to_bytes());
}

#[test]
// r[verify channel.nonce.rising]
fn a_nonce_never_comes_twice() {
    let (mut world, agent, node) = setup();
    let (entry, channel) = open_entry(&agent, &node, 3, 10);
    world.run(&[ix::open_batch(&world, &agent, &[(entry, node.account, channel)])], &[&agent.owner]).unwrap();
    for nonce in [0, 2, 3] {
        let (entry, channel) = open_entry(&agent, &node, nonce, 10);
        let instruction = ix::open_batch(&world, &agent, &[(entry, node.account, channel)]);
        assert_refused(world.run(&[instruction], &[&agent.owner]), SettlementError::NonceUsed);
    }
    let (first, first_channel) = open_entry(&agent, &node, 7, 10);
    let (second, second_channel) = open_entry(&agent, &node, 6, 10);
    let entries = [(first, node.account, first_channel), (second, node.account, second_channel)];
    let refused = world.run(&[ix::open_batch(&world, &agent, &entries)], &[&agent.owner]);
    assert_refused(refused, SettlementError::NonceUsed);

    let (entry, channel) = open_entry(&agent, &node, u64::MAX, 10);
    let instruction = ix::open_batch(&world, &agent, &[(entry, node.account, channel)]);
    assert_refused(world.run(&[instruction], &[&agent.owner]), SettlementError::Overflow);
}

#[test]
fn refuses_a_deposit_of_nothing_or_more_than_available() {
    let (mut world, agent, node) = setup();
    for deposit in [0, 1_001, u64::MAX] {
        let (entry, channel) = open_entry(&agent, &node, 0, deposit);
        let instruction = ix::open_batch(&world, &agent, &[(entry, node.account, channel)]);
        assert_refused(world.run(&[instruction], &[&agent.owner]), SettlementError::BadAmount);
    }
    let (first, first_channel) = open_entry(&agent, &node, 0, 600);
    let (second, second_channel) = open_entry(&agent, &node, 1, 401);
    let entries = [(first, node.account, first_channel), (second, node.account, second_channel)];
    let refused = world.run(&[ix::open_batch(&world, &agent, &entries)], &[&agent.owner]);
    assert_refused(refused, SettlementError::BadAmount);
}

#[test]
// r[verify channel.grace.range]
fn grace_lies_between_the_nodes_and_the_configs() {
    let (mut world, agent, node) = setup();
    for (nonce, grace_s, accepted) in
        [(0, MIN_GRACE_S - 1, false), (0, MIN_GRACE_S, true), (1, MAX_GRACE_S, true), (2, MAX_GRACE_S + 1, false)]
    {
        let (mut entry, channel) = open_entry(&agent, &node, nonce, 10);
        entry.grace_s = grace_s;
        let instruction = ix::open_batch(&world, &agent, &[(entry, node.account, channel)]);
        let outcome = world.run(&[instruction], &[&agent.owner]);
        if accepted {
            outcome.unwrap();
        } else {
            assert_refused(outcome, SettlementError::BadGrace);
        }
    }
}

#[test]
// r[verify voucher.signer.strong]
fn refuses_signer_keys_that_fit_any_message() {
    let (mut world, agent, node) = setup();
    let torsion = curve25519_dalek::constants::EIGHT_TORSION.map(|point| point.compress().to_bytes());
    let negated = torsion.map(|mut key| {
        key[31] ^= 0x80;
        key
    });
    // y from p to 2^255 - 1: a second spelling of y - p.
    let aliases = (0u8..19).flat_map(|y| {
        [0x7f, 0xff].map(|top| {
            let mut key = [0xff; 32];
            (key[0], key[31]) = (0xed + y, top);
            key
        })
    });
    let mut off_curve = [0; 32];
    off_curve[0] = 2;
    for signer in torsion.into_iter().chain(negated).chain(aliases).chain([off_curve]) {
        let (mut entry, channel) = open_entry(&agent, &node, 0, 10);
        entry.signer = signer;
        let instruction = ix::open_batch(&world, &agent, &[(entry, node.account, channel)]);
        assert_refused(world.run(&[instruction], &[&agent.owner]), SettlementError::WeakKey);
    }
}

#[test]
fn refuses_a_channel_address_or_bump_that_does_not_follow() {
    let (mut world, agent, node) = setup();
    let (entry, _) = open_entry(&agent, &node, 0, 10);
    let (_, other) = open_entry(&agent, &node, 1, 10);
    let instruction = ix::open_batch(&world, &agent, &[(entry.clone(), node.account, other)]);
    assert_refused(world.run(&[instruction], &[&agent.owner]), SettlementError::WrongAddress);

    let (mut entry, channel) = open_entry(&agent, &node, 0, 10);
    entry.bump ^= 1;
    let instruction = ix::open_batch(&world, &agent, &[(entry, node.account, channel)]);
    assert_refused(world.run(&[instruction], &[&agent.owner]), SettlementError::WrongAddress);
}

#[test]
fn refuses_another_owner() {
    let (mut world, agent, node) = setup();
    let thief = world.agent(10);
    let (entry, channel) = open_entry(&agent, &node, 0, 10);
    let mut instruction = ix::open_batch(&world, &agent, &[(entry, node.account, channel)]);
    instruction.accounts[0].pubkey = thief.owner.pubkey();
    assert_refused(world.run(&[instruction], &[&thief.owner]), SettlementError::Unauthorised);
}

#[test]
fn refuses_counts_that_do_not_match() {
    let (mut world, agent, node) = setup();
    let mut empty = ix::open_batch(&world, &agent, &[]);
    assert_refused(world.run(&[empty.clone()], &[&agent.owner]), SettlementError::BadBatch);
    empty.data[1] = 65;
    assert_refused(world.run(&[empty], &[&agent.owner]), SettlementError::BadBatch);

    let (entry, channel) = open_entry(&agent, &node, 0, 10);
    let mut instruction = ix::open_batch(&world, &agent, &[(entry, node.account, channel)]);
    instruction.data[1] = 2;
    assert_refused(world.run(&[instruction.clone()], &[&agent.owner]), SettlementError::MalformedData);
    instruction.data[1] = 1;
    instruction.accounts.pop();
    assert_refused(world.run(&[instruction], &[&agent.owner]), SettlementError::MissingAccount);
}

#[test]
// r[verify settlement.pause.scope]
fn a_pause_stops_opens() {
    let (mut world, agent, node) = setup();
    world.pause();
    let (entry, channel) = open_entry(&agent, &node, 0, 10);
    let instruction = ix::open_batch(&world, &agent, &[(entry, node.account, channel)]);
    assert_refused(world.run(&[instruction], &[&agent.owner]), SettlementError::Paused);
}

#[test]
// r[verify settlement.accounts.prefunded]
fn succeeds_where_someone_sent_lamports_ahead() {
    let (mut world, agent, node) = setup();
    for (nonce, lamports) in [(0, 900_000), (1, 100_000_000)] {
        let (entry, channel) = open_entry(&agent, &node, nonce, 10);
        world.svm.airdrop(&channel, lamports).unwrap();
        world.run(&[ix::open_batch(&world, &agent, &[(entry, node.account, channel)])], &[&agent.owner]).unwrap();
        assert_eq!(world.read_channel(&channel).deposit, 10);
    }
}

#[test]
fn the_node_must_be_a_node() {
    let (mut world, agent, node) = setup();
    let (entry, channel) = open_entry(&agent, &node, 0, 10);
    for (slot, expected) in
        [(agent.account, SettlementError::WrongLayout), (Address::new_unique(), SettlementError::WrongOwner)]
    {
        let instruction = ix::open_batch(&world, &agent, &[(entry.clone(), slot, channel)]);
        // The agent's account is then named twice; the runtime allows it and the program must notice.
        assert_refused(world.run(&[instruction], &[&agent.owner]), expected);
    }
}
