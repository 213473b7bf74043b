use settlement_chain::Address;
use settlement_interface::{accounts::status, errors::SettlementError};

use crate::{
    instructions as ix,
    ledger::{MIN_GRACE_S, START, World, assert_refused, skipped},
};

#[test]
// r[verify channel.grace.deadline]
fn closes_at_the_deadline_and_not_a_second_before() {
    let mut world = World::new();
    let agent = world.agent(100);
    let node = world.node(None);
    let channel = world.channel(&agent, &node, 40);
    world.run(&[ix::request_close(&agent, &channel)], &[&agent.owner]).unwrap();
    let deadline = START + i64::from(MIN_GRACE_S);
    for (time, bitmap, expected) in [(deadline - 1, 1, status::CLOSING), (deadline, 0, status::CLOSED)] {
        world.set_time(time);
        let done = world.run(&[ix::finalize_batch(&[channel])], &[]).unwrap();
        assert_eq!(skipped(&done), bitmap);
        assert_eq!(world.read_channel(&channel).status, expected);
    }
    assert_eq!(world.read_channel(&channel).deadline, 0);
}

#[test]
// r[verify settlement.batch.skip]
fn open_closed_reclaimed_and_repeated_channels_are_skipped() {
    let mut world = World::new();
    let agent = world.agent(100);
    let node = world.node(None);
    let [open, closed, gone, due] = [(); 4].map(|()| world.channel(&agent, &node, 10));
    for channel in [closed, gone, due] {
        world.run(&[ix::request_close(&agent, &channel)], &[&agent.owner]).unwrap();
    }
    world.set_time(START + i64::from(MIN_GRACE_S));
    world.run(&[ix::finalize_batch(&[closed, gone])], &[]).unwrap();
    world.run(&[ix::reclaim_batch(&world, &agent, &[gone])], &[]).unwrap();
    let done = world.run(&[ix::finalize_batch(&[open, closed, gone, due, due])], &[]).unwrap();
    assert_eq!(skipped(&done), 0b10111);
    assert_eq!(world.read_channel(&open).status, status::OPEN);
    assert_eq!(world.read_channel(&due).status, status::CLOSED);
}

#[test]
fn refuses_an_empty_batch_and_accounts_that_are_no_channels() {
    let mut world = World::new();
    let agent = world.agent(100);
    assert_refused(world.run(&[ix::finalize_batch(&[])], &[]), SettlementError::BadBatch);
    assert_refused(world.run(&[ix::finalize_batch(&[agent.account])], &[]), SettlementError::WrongLayout);
    assert_refused(world.run(&[ix::finalize_batch(&[agent.tokens])], &[]), SettlementError::WrongOwner);
    let many: Vec<Address> = vec![agent.account; 65];
    assert_refused(world.run(&[ix::finalize_batch(&many)], &[]), SettlementError::BadBatch);
}
