use settlement_chain::{Keypair, Signer};
use settlement_interface::errors::SettlementError;

use crate::{
    instructions as ix,
    ledger::{MAX_GRACE_S, MIN_GRACE_S, SYSTEM_PROGRAM, World, assert_refused, vault},
};

#[test]
fn stores_who_owns_settles_and_is_paid() {
    let mut world = World::new();
    let operator = world.operator(150);
    let node = world.node(Some(&operator));
    let stored = world.read_node(&node);
    assert_eq!(stored.id, node.id.pubkey().to_bytes());
    assert_eq!(stored.owner, node.owner.pubkey().to_bytes());
    assert_eq!(stored.operator, operator.account.to_bytes());
    assert_eq!(stored.payout, node.payout.to_bytes());
    assert_eq!((stored.earned, stored.protocol_fees), (0, 0));
    assert_eq!((stored.min_grace_s, stored.operator_fee_bps), (MIN_GRACE_S, 150));
}

#[test]
fn no_operator_is_zeros_and_no_fee() {
    let mut world = World::new();
    let node = world.node(None);
    let stored = world.read_node(&node);
    assert_eq!(stored.operator, SYSTEM_PROGRAM.to_bytes());
    assert_eq!(stored.operator_fee_bps, 0);
}

#[test]
// r[verify settlement.node.id_signs]
fn nobody_takes_an_id_without_its_key() {
    let mut world = World::new();
    let node = world.unregistered_node(None);
    let mut instruction = ix::register_node(&world, &node, MIN_GRACE_S, 0);
    instruction.accounts[2].is_signer = false;
    assert_refused(world.run(&[instruction], &[&node.owner]), SettlementError::MissingSignature);

    // Another key's signature does not help: the address follows from the id.
    let other = Keypair::new();
    let mut instruction = ix::register_node(&world, &node, MIN_GRACE_S, 0);
    instruction.accounts[2].pubkey = other.pubkey();
    assert_refused(world.run(&[instruction], &[&node.owner, &other]), SettlementError::WrongAddress);
}

#[test]
fn refuses_an_operator_that_asks_more_than_the_node_allows() {
    let mut world = World::new();
    let operator = world.operator(200);
    let node = world.unregistered_node(Some(&operator));
    let instruction = ix::register_node(&world, &node, MIN_GRACE_S, 199);
    assert_refused(world.run(&[instruction], &[&node.owner, &node.id]), SettlementError::FeeTooHigh);
    let instruction = ix::register_node(&world, &node, MIN_GRACE_S, 200);
    world.run(&[instruction], &[&node.owner, &node.id]).unwrap();
}

#[test]
fn refuses_a_grace_that_no_channel_could_have() {
    let mut world = World::new();
    let node = world.unregistered_node(None);
    let instruction = ix::register_node(&world, &node, MAX_GRACE_S + 1, 0);
    assert_refused(world.run(&[instruction], &[&node.owner, &node.id]), SettlementError::BadGrace);
}

#[test]
fn refuses_an_operator_slot_that_holds_no_operator() {
    let mut world = World::new();
    let other = world.node(None);
    for (operator, expected) in
        [(world.payer.pubkey(), SettlementError::WrongOwner), (other.account, SettlementError::WrongLayout)]
    {
        let mut node = world.unregistered_node(None);
        node.operator = operator;
        let instruction = ix::register_node(&world, &node, MIN_GRACE_S, 500);
        assert_refused(world.run(&[instruction], &[&node.owner, &node.id]), expected);
    }
}

#[test]
fn refuses_the_vault_as_payout_and_a_second_account() {
    let mut world = World::new();
    let mut node = world.unregistered_node(None);
    let payout = std::mem::replace(&mut node.payout, vault());
    let instruction = ix::register_node(&world, &node, MIN_GRACE_S, 0);
    assert_refused(world.run(&[instruction], &[&node.owner, &node.id]), SettlementError::BadTokenAccount);

    node.payout = payout;
    let instruction = ix::register_node(&world, &node, MIN_GRACE_S, 0);
    world.run(std::slice::from_ref(&instruction), &[&node.owner, &node.id]).unwrap();
    assert_refused(world.run(&[instruction], &[&node.owner, &node.id]), SettlementError::AlreadyExists);
}

#[test]
// r[verify settlement.accounts.prefunded]
fn succeeds_where_someone_sent_lamports_ahead() {
    let mut world = World::new();
    let node = world.unregistered_node(None);
    world.svm.airdrop(&node.account, 1_000_000_000).unwrap();
    let instruction = ix::register_node(&world, &node, MIN_GRACE_S, 0);
    world.run(&[instruction], &[&node.owner, &node.id]).unwrap();
    assert_eq!(world.read_node(&node).id, node.id.pubkey().to_bytes());
}
