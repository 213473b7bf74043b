use settlement_chain::{Address, Signer};
use settlement_interface::{
    accounts::{MAX_PAYOUT_DELAY_S, NO_KEY},
    errors::SettlementError,
    fees,
    instructions::InitConfig,
};
use solana_account::Account;

use crate::{
    instructions as ix,
    ledger::{
        LOADER, MAX_GRACE_S, MAX_OPERATOR_FEE_BPS, PAYOUT_DELAY_S, PROTOCOL_FEE_BPS, SYSTEM_PROGRAM, TOKEN_PROGRAM,
        World, assert_refused, config, mint_data, token_data, vault,
    },
};

#[test]
fn stores_parameters_and_makes_the_vault() {
    let mut world = World::bare();
    world.run(&[ix::init_config(&world)], &[]).unwrap();

    let stored = world.read_config();
    assert_eq!(stored.admin, world.admin.pubkey().to_bytes());
    assert_eq!(stored.mint, world.mint.to_bytes());
    assert_eq!(stored.vault, vault().to_bytes());
    assert_eq!(stored.treasury, world.treasury.to_bytes());
    assert_eq!((stored.max_grace_s, stored.paused), (MAX_GRACE_S, 0));
    assert_eq!((stored.protocol_fee_bps, stored.max_operator_fee_bps), (PROTOCOL_FEE_BPS, MAX_OPERATOR_FEE_BPS));
    assert_eq!((stored.payout_delay_s, stored.pending_admin), (PAYOUT_DELAY_S, NO_KEY));
    assert_eq!((stored.reserved_head, stored.reserved), ([0; 3], [0; 12]));

    let made = world.svm.get_account(&vault()).unwrap();
    assert_eq!(made.owner, TOKEN_PROGRAM);
    assert_eq!(made.data, token_data(&world.mint, &config(), 0));
}

#[test]
fn refuses_a_second_config() {
    let mut world = World::new();
    let again = world.run(&[ix::init_config(&world)], &[]);
    assert_refused(again, SettlementError::AlreadyExists);
}

#[test]
// r[verify settlement.accounts.prefunded]
fn succeeds_where_someone_sent_lamports_ahead() {
    for lamports in [1_000_000, 1_000_000_000] {
        let mut world = World::bare();
        for address in [config(), vault()] {
            world.svm.airdrop(&address, lamports).unwrap();
        }
        world.run(&[ix::init_config(&world)], &[]).unwrap();
        assert_eq!(world.read_config().vault, vault().to_bytes());
    }
}

#[test]
// r[verify settlement.config.deployer]
fn only_the_upgrade_authority_configures() {
    let mut world = World::bare();
    let mut data = world.data(&ix::program_data());
    data[12] = 1;
    data[13..45].copy_from_slice(Address::new_unique().as_ref());
    world.place_at(ix::program_data(), LOADER, data.clone());
    let refused = world.run(&[ix::init_config(&world)], &[]);
    assert_refused(refused, SettlementError::Unauthorised);

    data[13..45].copy_from_slice(world.admin.pubkey().as_ref());
    world.place_at(ix::program_data(), LOADER, data);
    world.run(&[ix::init_config(&world)], &[]).unwrap();
}

#[test]
fn program_data_must_be_this_programs_and_well_formed() {
    let mut world = World::bare();
    let mut instruction = ix::init_config(&world);
    instruction.accounts[6].pubkey = Address::new_unique();
    assert_refused(world.run(&[instruction], &[]), SettlementError::WrongAddress);

    world.place_at(ix::program_data(), LOADER, vec![3; 20]);
    let refused = world.run(&[ix::init_config(&world)], &[]);
    assert_refused(refused, SettlementError::WrongLayout);

    // A loader without such accounts knows no upgrade authority.
    world.svm.set_account(ix::program_data(), Account { owner: SYSTEM_PROGRAM, ..Account::default() }).unwrap();
    world.run(&[ix::init_config(&world)], &[]).unwrap();
}

#[test]
// r[verify settlement.mint.plain]
fn refuses_every_mint_that_is_not_plain() {
    let mut uninitialised = mint_data(None, 6);
    uninitialised[45] = 0;
    let mut longer = mint_data(None, 6);
    longer.push(0);
    let token_2022 = Address::from_str_const("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb");
    let cases = [
        (TOKEN_PROGRAM, mint_data(Some(Address::new_unique()), 6)),
        (TOKEN_PROGRAM, mint_data(None, 9)),
        (TOKEN_PROGRAM, uninitialised),
        (TOKEN_PROGRAM, longer),
        (TOKEN_PROGRAM, token_data(&Address::new_unique(), &Address::new_unique(), 0)),
        (token_2022, mint_data(None, 6)),
    ];
    for (owner, data) in cases {
        let mut world = World::bare();
        world.mint = world.place(owner, data);
        world.treasury = world.token_account(&Address::new_unique(), 0);
        let refused = world.run(&[ix::init_config(&world)], &[]);
        assert_refused(refused, SettlementError::BadMint);
    }
}

#[test]
fn refuses_a_treasury_of_another_mint_or_kind() {
    let mut world = World::bare();
    let other = Address::new_unique();
    let foreign = world.place(TOKEN_PROGRAM, token_data(&other, &other, 0));
    let wallet = world.payer.pubkey();
    for treasury in [foreign, wallet, vault()] {
        world.treasury = treasury;
        let refused = world.run(&[ix::init_config(&world)], &[]);
        assert_refused(refused, SettlementError::BadTokenAccount);
    }
}

#[test]
// r[verify settlement.config.ceilings]
fn refuses_fees_and_delays_above_their_ceilings() {
    let world = World::bare();
    let highest = InitConfig {
        protocol_fee_bps: fees::MAX_PROTOCOL_FEE_BPS,
        max_operator_fee_bps: fees::MAX_OPERATOR_FEE_BPS,
        payout_delay_s: MAX_PAYOUT_DELAY_S,
        ..InitConfig::from_bytes(&ix::init_config(&world).data.try_into().unwrap())
    };
    let outcome = |init: &InitConfig| {
        let mut world = world.clone();
        let mut instruction = ix::init_config(&world);
        instruction.data = init.to_bytes().to_vec();
        world.run(&[instruction], &[])
    };
    outcome(&highest).unwrap();
    for (above, expected) in [
        (
            InitConfig { protocol_fee_bps: fees::MAX_PROTOCOL_FEE_BPS + 1, ..highest.clone() },
            SettlementError::FeeTooHigh,
        ),
        (
            InitConfig { max_operator_fee_bps: fees::MAX_OPERATOR_FEE_BPS + 1, ..highest.clone() },
            SettlementError::FeeTooHigh,
        ),
        (InitConfig { payout_delay_s: MAX_PAYOUT_DELAY_S + 1, ..highest.clone() }, SettlementError::DelayTooLong),
        (InitConfig { protocol_fee_bps: u16::MAX, ..highest.clone() }, SettlementError::FeeTooHigh),
    ] {
        assert_refused(outcome(&above), expected);
    }
}

#[test]
fn config_and_vault_live_only_at_their_addresses() {
    for slot in [2, 3] {
        let mut world = World::bare();
        let mut instruction = ix::init_config(&world);
        instruction.accounts[slot].pubkey = Address::new_unique();
        assert_refused(world.run(&[instruction], &[]), SettlementError::WrongAddress);
    }
}
