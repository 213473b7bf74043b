use settlement_chain::Address;
use settlement_interface::{errors::SettlementError, instructions::EVERYTHING};

use crate::{
    instructions as ix,
    ledger::{TOKEN_PROGRAM, World, assert_refused, token_data, vault},
};

#[test]
fn pays_a_part_and_then_everything() {
    let mut world = World::new();
    let agent = world.agent(1_000);
    world.run(&[ix::withdraw_available(&agent, 400)], &[&agent.owner]).unwrap();
    assert_eq!((world.read_agent(&agent).available, world.tokens(&agent.tokens)), (600, 1_400));
    world.run(&[ix::withdraw_available(&agent, EVERYTHING)], &[&agent.owner]).unwrap();
    assert_eq!((world.read_agent(&agent).available, world.tokens(&agent.tokens)), (0, 2_000));
    assert_eq!(world.tokens(&vault()), 0);
}

#[test]
fn refuses_zero_more_than_available_and_everything_of_nothing() {
    let mut world = World::new();
    let agent = world.agent(100);
    for amount in [0, 101, EVERYTHING - 1] {
        let refused = world.run(&[ix::withdraw_available(&agent, amount)], &[&agent.owner]);
        assert_refused(refused, SettlementError::BadAmount);
    }
    world.run(&[ix::withdraw_available(&agent, 100)], &[&agent.owner]).unwrap();
    let refused = world.run(&[ix::withdraw_available(&agent, EVERYTHING)], &[&agent.owner]);
    assert_refused(refused, SettlementError::BadAmount);
}

#[test]
fn money_in_channels_is_not_available() {
    let mut world = World::new();
    let agent = world.agent(100);
    let node = world.node(None);
    world.channel(&agent, &node, 60);
    let refused = world.run(&[ix::withdraw_available(&agent, 41)], &[&agent.owner]);
    assert_refused(refused, SettlementError::BadAmount);
    world.run(&[ix::withdraw_available(&agent, 40)], &[&agent.owner]).unwrap();
}

#[test]
fn refuses_another_owner() {
    let mut world = World::new();
    let (agent, thief) = (world.agent(100), world.agent(100));
    let mut instruction = ix::withdraw_available(&thief, 50);
    instruction.accounts[1].pubkey = agent.account;
    assert_refused(world.run(&[instruction], &[&thief.owner]), SettlementError::Unauthorised);
}

#[test]
fn refuses_destinations_that_are_not_plain_token_accounts_of_the_mint() {
    let mut world = World::new();
    let agent = world.agent(100);
    let foreign = token_data(&Address::new_unique(), &Address::new_unique(), 0);
    for destination in [world.place(TOKEN_PROGRAM, foreign), vault(), agent.account] {
        let mut instruction = ix::withdraw_available(&agent, 5);
        instruction.accounts[2].pubkey = destination;
        assert_refused(world.run(&[instruction], &[&agent.owner]), SettlementError::BadTokenAccount);
    }
    let mut instruction = ix::withdraw_available(&agent, 5);
    instruction.accounts[3].pubkey = agent.tokens;
    assert_refused(world.run(&[instruction], &[&agent.owner]), SettlementError::WrongAddress);
}

#[test]
// r[verify settlement.pause.scope]
fn a_pause_does_not_hold_money_back() {
    let mut world = World::new();
    let agent = world.agent(100);
    world.pause();
    world.run(&[ix::withdraw_available(&agent, 100)], &[&agent.owner]).unwrap();
}
