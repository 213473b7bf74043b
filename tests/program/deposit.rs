use settlement_chain::{Address, Signer};
use settlement_interface::errors::SettlementError;

use crate::{
    instructions as ix,
    ledger::{TOKEN_PROGRAM, World, assert_refused, token_data, vault},
};

#[test]
fn the_first_deposit_creates_the_agent_and_the_second_adds() {
    let mut world = World::new();
    let agent = world.agent_without_account(1_000);
    world.run(&[ix::deposit(&agent, 300)], &[&agent.owner]).unwrap();
    let stored = world.read_agent(&agent);
    assert_eq!(stored.owner, agent.owner.pubkey().to_bytes());
    assert_eq!((stored.available, stored.next_nonce), (300, 0));

    world.run(&[ix::deposit(&agent, 700)], &[&agent.owner]).unwrap();
    assert_eq!(world.read_agent(&agent).available, 1_000);
    assert_eq!((world.tokens(&agent.tokens), world.tokens(&vault())), (0, 1_000));
}

#[test]
fn anyone_may_deposit_for_another() {
    let mut world = World::new();
    let beneficiary = world.agent_without_account(0);
    let giver = world.agent_without_account(50);
    let mut instruction = ix::deposit(&giver, 50);
    instruction.accounts[1].pubkey = beneficiary.owner.pubkey();
    instruction.accounts[2].pubkey = beneficiary.account;
    world.run(&[instruction], &[&giver.owner]).unwrap();
    assert_eq!(world.read_agent(&beneficiary).available, 50);
    assert!(world.data(&giver.account).is_empty());
}

#[test]
fn refuses_zero() {
    let mut world = World::new();
    let agent = world.agent_without_account(10);
    assert_refused(world.run(&[ix::deposit(&agent, 0)], &[&agent.owner]), SettlementError::BadAmount);
}

#[test]
fn more_than_the_source_holds_changes_nothing() {
    let mut world = World::new();
    let agent = world.agent_without_account(10);
    world.run(&[ix::deposit(&agent, 11)], &[&agent.owner]).unwrap_err();
    assert!(world.data(&agent.account).is_empty());
    assert_eq!(world.tokens(&agent.tokens), 10);
}

#[test]
fn refuses_to_credit_an_agent_that_is_not_the_beneficiarys() {
    let mut world = World::new();
    let (agent, other) = (world.agent(10), world.agent(10));
    let mut instruction = ix::deposit(&agent, 5);
    instruction.accounts[2].pubkey = other.account;
    assert_refused(world.run(&[instruction], &[&agent.owner]), SettlementError::WrongParty);

    let newcomer = world.agent_without_account(10);
    let mut instruction = ix::deposit(&newcomer, 5);
    instruction.accounts[2].pubkey = Address::new_unique();
    assert_refused(world.run(&[instruction], &[&newcomer.owner]), SettlementError::WrongAddress);
}

#[test]
fn refuses_another_vault_and_another_mints_tokens() {
    let mut world = World::new();
    let agent = world.agent(10);
    let mut instruction = ix::deposit(&agent, 5);
    instruction.accounts[4].pubkey = world.treasury;
    assert_refused(world.run(&[instruction], &[&agent.owner]), SettlementError::WrongAddress);

    let foreign = token_data(&Address::new_unique(), &agent.owner.pubkey(), 10);
    for source in [world.place(TOKEN_PROGRAM, foreign), vault()] {
        let mut instruction = ix::deposit(&agent, 5);
        instruction.accounts[3].pubkey = source;
        assert_refused(world.run(&[instruction], &[&agent.owner]), SettlementError::BadTokenAccount);
    }
}

#[test]
// r[verify settlement.pause.scope]
fn a_pause_stops_deposits() {
    let mut world = World::new();
    let agent = world.agent(10);
    world.pause();
    assert_refused(world.run(&[ix::deposit(&agent, 5)], &[&agent.owner]), SettlementError::Paused);
}

#[test]
// r[verify settlement.accounts.prefunded]
fn succeeds_where_someone_sent_lamports_ahead() {
    for lamports in [900_000, 50_000_000] {
        let mut world = World::new();
        let agent = world.agent_without_account(10);
        world.svm.airdrop(&agent.account, lamports).unwrap();
        world.run(&[ix::deposit(&agent, 10)], &[&agent.owner]).unwrap();
        assert_eq!(world.read_agent(&agent).available, 10);
    }
}

#[test]
fn a_sum_beyond_64_bits_is_refused() {
    let mut world = World::new();
    let agent = world.agent(10);
    world.place_at(agent.tokens, TOKEN_PROGRAM, token_data(&world.mint, &agent.owner.pubkey(), u64::MAX));
    let refused = world.run(&[ix::deposit(&agent, u64::MAX)], &[&agent.owner]);
    assert_refused(refused, SettlementError::Overflow);
}
