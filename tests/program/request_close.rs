use settlement_chain::Signer;
use settlement_interface::{accounts::status, errors::SettlementError};

use crate::{
    instructions as ix,
    ledger::{MIN_GRACE_S, START, World, assert_refused},
};

#[test]
// r[verify channel.grace.deadline]
fn sets_the_deadline_one_grace_from_now() {
    let mut world = World::new();
    let agent = world.agent(100);
    let node = world.node(None);
    let channel = world.channel(&agent, &node, 40);
    world.set_time(START + 17);
    world.run(&[ix::request_close(&agent, &channel)], &[&agent.owner]).unwrap();
    let stored = world.read_channel(&channel);
    assert_eq!((stored.status, stored.deadline), (status::CLOSING, START + 17 + i64::from(MIN_GRACE_S)));
}

#[test]
fn a_deadline_that_runs_cannot_be_moved() {
    let mut world = World::new();
    let agent = world.agent(100);
    let node = world.node(None);
    let channel = world.channel(&agent, &node, 40);
    world.run(&[ix::request_close(&agent, &channel)], &[&agent.owner]).unwrap();
    world.set_time(START - 10);
    let refused = world.run(&[ix::request_close(&agent, &channel)], &[&agent.owner]);
    assert_refused(refused, SettlementError::WrongStatus);
    assert_eq!(world.read_channel(&channel).deadline, START + i64::from(MIN_GRACE_S));
}

#[test]
fn only_the_agents_owner_asks() {
    let mut world = World::new();
    let (agent, other) = (world.agent(100), world.agent(100));
    let node = world.node(None);
    let channel = world.channel(&agent, &node, 40);
    for stranger in [&agent.signer, &node.owner, &other.owner] {
        let mut instruction = ix::request_close(&agent, &channel);
        instruction.accounts[0].pubkey = stranger.pubkey();
        assert_refused(world.run(&[instruction], &[stranger]), SettlementError::Unauthorised);
    }
    let refused = world.run(&[ix::request_close(&other, &channel)], &[&other.owner]);
    assert_refused(refused, SettlementError::WrongParty);
}

#[test]
fn a_deadline_beyond_64_bits_is_refused() {
    let mut world = World::new();
    let agent = world.agent(100);
    let node = world.node(None);
    let channel = world.channel(&agent, &node, 40);
    world.set_time(i64::MAX - i64::from(MIN_GRACE_S) + 1);
    let refused = world.run(&[ix::request_close(&agent, &channel)], &[&agent.owner]);
    assert_refused(refused, SettlementError::Overflow);
}
