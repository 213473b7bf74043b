use settlement_interface::{errors::SettlementError, instructions::EVERYTHING};

use crate::{
    instructions as ix,
    ledger::{NodeParty, OperatorParty, Voucher, World, assert_refused, vault},
};

/// The operator holds 10, the node 5 for the protocol.
fn settled() -> (World, NodeParty, OperatorParty) {
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
fn anyone_sends_fees_where_they_always_go() {
    let (mut world, node, operator) = settled();
    world.run(&[ix::withdraw_fees(&operator.account, &operator.payout, 4)], &[]).unwrap();
    assert_eq!((world.read_operator(&operator).fees, world.tokens(&operator.payout)), (6, 4));
    world.run(&[ix::withdraw_fees(&operator.account, &operator.payout, EVERYTHING)], &[]).unwrap();
    let treasury = world.treasury;
    world.run(&[ix::withdraw_fees(&node.account, &treasury, EVERYTHING)], &[]).unwrap();
    assert_eq!((world.tokens(&operator.payout), world.tokens(&treasury)), (10, 5));
    let stored = world.read_node(&node);
    assert_eq!((stored.protocol_fees, stored.earned), (0, 985));
}

#[test]
// r[verify settlement.payout.stored]
fn fees_go_nowhere_else() {
    let (mut world, node, operator) = settled();
    let treasury = world.treasury;
    for (source, destination) in [
        (operator.account, treasury),
        (operator.account, node.payout),
        (node.account, operator.payout),
        (node.account, node.payout),
        (node.account, vault()),
    ] {
        let refused = world.run(&[ix::withdraw_fees(&source, &destination, 1)], &[]);
        assert_refused(refused, SettlementError::BadTokenAccount);
    }
}

#[test]
fn refuses_zero_and_more_than_there_is() {
    let (mut world, node, operator) = settled();
    let treasury = world.treasury;
    for (source, destination, amount) in [
        (operator.account, operator.payout, 0),
        (operator.account, operator.payout, 11),
        (node.account, treasury, 0),
        (node.account, treasury, 6),
    ] {
        let refused = world.run(&[ix::withdraw_fees(&source, &destination, amount)], &[]);
        assert_refused(refused, SettlementError::BadAmount);
    }
}

#[test]
fn other_accounts_hold_no_fees() {
    let (mut world, _, operator) = settled();
    let agent = world.agent(10);
    let refused = world.run(&[ix::withdraw_fees(&agent.account, &operator.payout, 1)], &[]);
    assert_refused(refused, SettlementError::WrongLayout);
    let refused = world.run(&[ix::withdraw_fees(&agent.tokens, &operator.payout, 1)], &[]);
    assert_refused(refused, SettlementError::WrongOwner);
}
