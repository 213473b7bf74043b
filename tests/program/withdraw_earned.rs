use settlement_chain::Signer;
use settlement_interface::{errors::SettlementError, instructions::EVERYTHING};

use crate::{
    instructions as ix,
    ledger::{NodeParty, OperatorParty, Voucher, World, assert_refused},
};

/// A node that has earned 985 of 1,000: the operator took 10, the protocol 5.
fn earned() -> (World, NodeParty, OperatorParty) {
    let mut world = World::new();
    let operator = world.operator(100);
    let node = world.node(Some(&operator));
    let agent = world.agent(1_000);
    let channel = world.channel(&agent, &node, 1_000);
    let voucher = Voucher::of(&agent, &channel, 1_000);
    world.run(&[ix::settle_batch(&node, &[(channel, voucher)])], &[]).unwrap();
    (world, node, operator)
}

#[test]
fn owner_and_operator_pay_out_to_the_stored_account() {
    let (mut world, node, operator) = earned();
    let instruction = ix::withdraw_earned(&node.owner.pubkey(), &node, 100);
    world.run(&[instruction], &[&node.owner]).unwrap();
    assert_eq!((world.read_node(&node).earned, world.tokens(&node.payout)), (885, 100));
    let instruction = ix::withdraw_earned(&operator.authority.pubkey(), &node, EVERYTHING);
    world.run(&[instruction], &[&operator.authority]).unwrap();
    assert_eq!((world.read_node(&node).earned, world.tokens(&node.payout)), (0, 985));
    assert_eq!(world.read_node(&node).protocol_fees, 5);
}

#[test]
// r[verify settlement.payout.stored]
fn earnings_go_nowhere_else() {
    let (mut world, node, operator) = earned();
    let own = operator.payout;
    for authority in [&node.owner, &operator.authority] {
        let mut instruction = ix::withdraw_earned(&authority.pubkey(), &node, 100);
        instruction.accounts[3].pubkey = own;
        assert_refused(world.run(&[instruction], &[authority]), SettlementError::BadTokenAccount);
    }
}

#[test]
fn refuses_strangers() {
    let (mut world, node, _) = earned();
    let rival = world.operator(1);
    for stranger in [&node.id, &rival.authority] {
        let instruction = ix::withdraw_earned(&stranger.pubkey(), &node, 100);
        assert_refused(world.run(&[instruction], &[stranger]), SettlementError::Unauthorised);
    }
    let mut instruction = ix::withdraw_earned(&rival.authority.pubkey(), &node, 100);
    instruction.accounts[2].pubkey = rival.account;
    assert_refused(world.run(&[instruction], &[&rival.authority]), SettlementError::WrongParty);
}

#[test]
fn refuses_zero_and_more_than_earned() {
    let (mut world, node, _) = earned();
    for amount in [0, 986] {
        let instruction = ix::withdraw_earned(&node.owner.pubkey(), &node, amount);
        assert_refused(world.run(&[instruction], &[&node.owner]), SettlementError::BadAmount);
    }
}

#[test]
fn a_payout_that_was_closed_or_frozen_fails_without_a_change() {
    let (mut world, node, _) = earned();
    world.poke(&node.payout, 108, 2);
    let instruction = ix::withdraw_earned(&node.owner.pubkey(), &node, 100);
    assert_refused(world.run(std::slice::from_ref(&instruction), &[&node.owner]), SettlementError::BadTokenAccount);
    world.place_at(node.payout, crate::ledger::SYSTEM_PROGRAM, vec![]);
    assert_refused(world.run(&[instruction], &[&node.owner]), SettlementError::BadTokenAccount);
    assert_eq!(world.read_node(&node).earned, 985);
}

#[test]
// r[verify settlement.pause.scope]
fn a_pause_does_not_hold_earnings_back() {
    let (mut world, node, _) = earned();
    world.pause();
    let instruction = ix::withdraw_earned(&node.owner.pubkey(), &node, EVERYTHING);
    world.run(&[instruction], &[&node.owner]).unwrap();
    assert_eq!(world.tokens(&node.payout), 985);
}
