use settlement_chain::Signer;
use settlement_interface::errors::SettlementError;

use crate::{
    instructions as ix,
    ledger::{MIN_GRACE_S, START, Voucher, World, assert_refused},
};

#[test]
fn moves_available_money_into_the_deposit() {
    let mut world = World::new();
    let agent = world.agent(100);
    let node = world.node(None);
    let channel = world.channel(&agent, &node, 40);
    world.run(&[ix::top_up(&agent, &channel, 25)], &[&agent.owner]).unwrap();
    assert_eq!((world.read_agent(&agent).available, world.read_channel(&channel).deposit), (35, 65));
    // What was above the deposit is now within it.
    let voucher = Voucher::of(&agent, &channel, 65);
    world.run(&[ix::settle_batch(&node, &[(channel, voucher)])], &[]).unwrap();
    assert_eq!(world.read_channel(&channel).settled, 65);
}

#[test]
fn refuses_nothing_and_more_than_available() {
    let mut world = World::new();
    let agent = world.agent(100);
    let node = world.node(None);
    let channel = world.channel(&agent, &node, 40);
    for amount in [0, 61, u64::MAX] {
        let refused = world.run(&[ix::top_up(&agent, &channel, amount)], &[&agent.owner]);
        assert_refused(refused, SettlementError::BadAmount);
    }
}

#[test]
fn refuses_a_channel_of_another_agent_and_another_owner() {
    let mut world = World::new();
    let (agent, other) = (world.agent(100), world.agent(100));
    let node = world.node(None);
    let channel = world.channel(&agent, &node, 40);
    let refused = world.run(&[ix::top_up(&other, &channel, 1)], &[&other.owner]);
    assert_refused(refused, SettlementError::WrongParty);

    let mut instruction = ix::top_up(&agent, &channel, 1);
    instruction.accounts[0].pubkey = other.owner.pubkey();
    assert_refused(world.run(&[instruction], &[&other.owner]), SettlementError::Unauthorised);
}

#[test]
fn refuses_a_channel_that_is_closing_or_closed() {
    let mut world = World::new();
    let agent = world.agent(100);
    let node = world.node(None);
    let channel = world.channel(&agent, &node, 40);
    world.run(&[ix::request_close(&agent, &channel)], &[&agent.owner]).unwrap();
    let refused = world.run(&[ix::top_up(&agent, &channel, 1)], &[&agent.owner]);
    assert_refused(refused, SettlementError::WrongStatus);
    world.set_time(START + i64::from(MIN_GRACE_S));
    world.run(&[ix::finalize_batch(&[channel])], &[]).unwrap();
    let refused = world.run(&[ix::top_up(&agent, &channel, 1)], &[&agent.owner]);
    assert_refused(refused, SettlementError::WrongStatus);
}
