use settlement_chain::{Address, Signer};
use settlement_interface::errors::SettlementError;

use crate::{
    instructions as ix,
    ledger::{MAX_OPERATOR_FEE_BPS, TOKEN_PROGRAM, World, assert_refused, token_data, vault},
};

#[test]
fn stores_authority_payout_and_fee() {
    let mut world = World::new();
    let operator = world.operator(MAX_OPERATOR_FEE_BPS);
    let stored = world.read_operator(&operator);
    assert_eq!(stored.authority, operator.authority.pubkey().to_bytes());
    assert_eq!(stored.payout, operator.payout.to_bytes());
    assert_eq!((stored.fees, stored.fee_bps), (0, MAX_OPERATOR_FEE_BPS));
}

#[test]
fn refuses_a_fee_above_the_configs_maximum() {
    let mut world = World::new();
    let operator = world.unregistered_operator();
    let instruction = ix::register_operator(&world, &operator, MAX_OPERATOR_FEE_BPS + 1);
    assert_refused(world.run(&[instruction], &[&operator.authority]), SettlementError::FeeTooHigh);
}

#[test]
fn refuses_a_second_account_for_one_authority() {
    let mut world = World::new();
    let operator = world.operator(1);
    let instruction = ix::register_operator(&world, &operator, 2);
    assert_refused(world.run(&[instruction], &[&operator.authority]), SettlementError::AlreadyExists);
}

#[test]
// r[verify settlement.accounts.prefunded]
fn succeeds_where_someone_sent_lamports_ahead() {
    let mut world = World::new();
    let operator = world.unregistered_operator();
    world.svm.airdrop(&operator.account, 5_000_000).unwrap();
    let instruction = ix::register_operator(&world, &operator, 7);
    world.run(&[instruction], &[&operator.authority]).unwrap();
    assert_eq!(world.read_operator(&operator).fee_bps, 7);
}

#[test]
fn refuses_a_payout_that_could_not_be_paid() {
    let mut world = World::new();
    let mut operator = world.unregistered_operator();
    let other = Address::new_unique();
    let foreign = world.place(TOKEN_PROGRAM, token_data(&other, &other, 0));
    let mut frozen = token_data(&world.mint, &other, 0);
    frozen[108] = 2;
    let frozen = world.place(TOKEN_PROGRAM, frozen);
    for payout in [foreign, frozen, vault(), operator.authority.pubkey()] {
        operator.payout = payout;
        let instruction = ix::register_operator(&world, &operator, 1);
        assert_refused(world.run(&[instruction], &[&operator.authority]), SettlementError::BadTokenAccount);
    }
}

#[test]
fn refuses_an_address_that_does_not_follow_from_the_authority() {
    let mut world = World::new();
    let mut operator = world.unregistered_operator();
    operator.account = world.unregistered_operator().account;
    let instruction = ix::register_operator(&world, &operator, 1);
    assert_refused(world.run(&[instruction], &[&operator.authority]), SettlementError::WrongAddress);
}
