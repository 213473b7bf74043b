use settlement_chain::{Address, Instruction, Keypair, Signer};
use settlement_interface::{
    accounts::{Config, MAX_PAYOUT_DELAY_S, status},
    errors::SettlementError,
    fees,
    instructions::EVERYTHING,
};

use crate::{
    instructions as ix,
    ledger::{
        MAX_GRACE_S, MIN_GRACE_S, PROTOCOL_FEE_BPS, SYSTEM_PROGRAM, TOKEN_PROGRAM, Voucher, World, assert_refused,
        config, open_entry, skipped, token_data, vault,
    },
};

/// What a call of the admin with a changed config comes to.
fn attempt(world: &World, change: impl FnOnce(&mut Config)) -> crate::ledger::Outcome {
    let mut world = world.clone();
    let mut new = world.read_config();
    change(&mut new);
    let instruction = ix::set_config(&world, &new);
    world.run(&[instruction], &[])
}

#[test]
fn writes_every_parameter_and_leaves_the_rest() {
    let mut world = World::new();
    let before = world.read_config();
    let treasury = world.token_account(&Address::new_unique(), 0);
    let wanted = Config {
        paused: 1,
        max_grace_s: 1_234,
        protocol_fee_bps: 77,
        max_operator_fee_bps: 88,
        payout_delay_s: 99,
        pending_admin: [9; 32],
        treasury: treasury.to_bytes(),
        ..before
    };
    world.set_config(|config| *config = wanted.clone());
    assert_eq!(world.read_config(), wanted);
}

#[test]
// r[verify settlement.config.admin]
fn only_the_admin_changes_parameters() {
    let mut world = World::new();
    let stored = world.read_config();
    let stranger = Keypair::new();
    let mut instruction = ix::set_config(&world, &stored);
    instruction.accounts[0].pubkey = stranger.pubkey();
    assert_refused(world.run(&[instruction], &[&stranger]), SettlementError::Unauthorised);

    let mut unsigned = ix::set_config(&world, &stored);
    unsigned.accounts[0].is_signer = false;
    assert_refused(world.run(&[unsigned], &[]), SettlementError::MissingSignature);
    assert_eq!(world.read_config(), stored);
}

#[test]
// r[verify settlement.config.ceilings]
fn no_admin_passes_the_ceilings() {
    let world = World::new();
    for (protocol, operator, delay, expected) in [
        (fees::MAX_PROTOCOL_FEE_BPS + 1, 0, 0, SettlementError::FeeTooHigh),
        (0, fees::MAX_OPERATOR_FEE_BPS + 1, 0, SettlementError::FeeTooHigh),
        (u16::MAX, u16::MAX, 0, SettlementError::FeeTooHigh),
        (0, 0, MAX_PAYOUT_DELAY_S + 1, SettlementError::DelayTooLong),
        (0, 0, u32::MAX, SettlementError::DelayTooLong),
    ] {
        let refused = attempt(&world, |config| {
            (config.protocol_fee_bps, config.max_operator_fee_bps) = (protocol, operator);
            config.payout_delay_s = delay;
        });
        assert_refused(refused, expected);
    }
    let highest = attempt(&world, |config| {
        config.protocol_fee_bps = fees::MAX_PROTOCOL_FEE_BPS;
        config.max_operator_fee_bps = fees::MAX_OPERATOR_FEE_BPS;
        config.payout_delay_s = MAX_PAYOUT_DELAY_S;
    });
    assert!(highest.is_ok(), "{highest:?}");
}

#[test]
fn paused_is_zero_or_one() {
    let world = World::new();
    for paused in [2, 255] {
        assert_refused(attempt(&world, |config| config.paused = paused), SettlementError::MalformedData);
    }
}

#[test]
// r[verify settlement.fees.ceilings]
fn at_the_ceilings_settling_works_and_the_node_gets_its_part() {
    let mut world = World::new();
    world.set_config(|config| {
        config.protocol_fee_bps = fees::MAX_PROTOCOL_FEE_BPS;
        config.max_operator_fee_bps = fees::MAX_OPERATOR_FEE_BPS;
    });
    let operator = world.operator(fees::MAX_OPERATOR_FEE_BPS);
    let node = world.unregistered_node(Some(&operator));
    let register = ix::register_node(&world, &node, MIN_GRACE_S, u16::MAX);
    world.run(&[register], &[&node.owner, &node.id]).unwrap();
    let agent = world.agent(10_000);
    let channel = world.channel(&agent, &node, 10_000);
    // Whatever the admin does now, both copies stay.
    world.set_config(|config| (config.protocol_fee_bps, config.max_operator_fee_bps) = (0, 0));
    let settle = ix::settle_batch(&node, &[(channel, Voucher::of(&agent, &channel, 10_000))]);
    assert_eq!(skipped(&world.run(&[settle], &[]).unwrap()), 0);
    let stored = world.read_node(&node);
    assert_eq!((stored.earned, stored.protocol_fees, world.read_operator(&operator).fees), (3_000, 2_000, 5_000));
}

#[test]
fn open_channels_keep_their_protocol_fee_and_new_ones_take_the_new() {
    let mut world = World::new();
    let node = world.node(None);
    let agent = world.agent(20_000);
    let old = world.channel(&agent, &node, 10_000);
    world.set_config(|config| config.protocol_fee_bps = 1_000);
    let new = world.channel(&agent, &node, 10_000);
    assert_eq!(world.read_channel(&old).protocol_fee_bps, PROTOCOL_FEE_BPS);
    assert_eq!(world.read_channel(&new).protocol_fee_bps, 1_000);
    let entries = [old, new].map(|channel| (channel, Voucher::of(&agent, &channel, 10_000)));
    world.run(&[ix::settle_batch(&node, &entries)], &[]).unwrap();
    assert_eq!(world.read_node(&node).protocol_fees, 50 + 1_000);
}

#[test]
fn a_shorter_longest_grace_binds_new_channels_only() {
    let mut world = World::new();
    let node = world.node(None);
    let agent = world.agent(1_000);
    let (mut entry, channel) = open_entry(&agent, &node, 0, 10);
    entry.grace_s = MAX_GRACE_S;
    world.run(&[ix::open_batch(&world, &agent, &[(entry, node.account, channel)])], &[&agent.owner]).unwrap();
    world.set_config(|config| config.max_grace_s = MIN_GRACE_S);
    let (mut entry, late) = open_entry(&agent, &node, 1, 10);
    entry.grace_s = MIN_GRACE_S + 1;
    let instruction = ix::open_batch(&world, &agent, &[(entry, node.account, late)]);
    assert_refused(world.run(&[instruction], &[&agent.owner]), SettlementError::BadGrace);
    world.run(&[ix::request_close(&agent, &channel)], &[&agent.owner]).unwrap();
    assert_eq!(world.read_channel(&channel).grace_s, MAX_GRACE_S);
}

#[test]
// r[verify settlement.payout.stored]
fn protocol_fees_go_to_the_new_treasury() {
    let mut world = World::new();
    let node = world.node(None);
    let agent = world.agent(10_000);
    let channel = world.channel(&agent, &node, 10_000);
    let settle = ix::settle_batch(&node, &[(channel, Voucher::of(&agent, &channel, 10_000))]);
    world.run(&[settle], &[]).unwrap();
    let (former, treasury) = (world.treasury, world.token_account(&Address::new_unique(), 0));
    world.set_config(|config| config.treasury = treasury.to_bytes());
    let refused = world.run(&[ix::withdraw_fees(&node.account, &former, EVERYTHING)], &[]);
    assert_refused(refused, SettlementError::BadTokenAccount);
    world.run(&[ix::withdraw_fees(&node.account, &treasury, EVERYTHING)], &[]).unwrap();
    assert_eq!((world.tokens(&treasury), world.tokens(&former)), (50, 0));
}

#[test]
fn refuses_a_treasury_that_could_not_be_paid() {
    let mut world = World::new();
    let other = Address::new_unique();
    let foreign = world.place(TOKEN_PROGRAM, token_data(&other, &other, 0));
    let mut frozen = token_data(&world.mint, &other, 0);
    frozen[108] = 2;
    let frozen = world.place(TOKEN_PROGRAM, frozen);
    for treasury in [foreign, frozen, vault(), world.payer.pubkey(), Address::new_unique()] {
        let refused = attempt(&world, |config| config.treasury = treasury.to_bytes());
        assert_refused(refused, SettlementError::BadTokenAccount);
    }
}

#[test]
fn a_closed_treasury_does_not_hold_a_pause_up() {
    let mut world = World::new();
    let treasury = world.treasury;
    world.place_at(treasury, SYSTEM_PROGRAM, vec![]);
    world.set_config(|config| config.paused = 1);
    assert_eq!(world.read_config().paused, 1);
}

#[test]
// r[verify settlement.accounts.checked]
fn only_the_config_is_taken_for_the_config() {
    let mut world = World::new();
    let node = world.node(None);
    let forged = world.place(crate::ledger::PROGRAM, world.data(&config()));
    let foreign = world.place(TOKEN_PROGRAM, world.data(&config()));
    for (slot, expected) in [
        (forged, SettlementError::WrongAddress),
        (foreign, SettlementError::WrongOwner),
        (node.account, SettlementError::WrongLayout),
    ] {
        let mut instruction = ix::set_config(&world, &world.read_config());
        instruction.accounts[1].pubkey = slot;
        // The vault is not looked at: accounts have been made behind the program's back.
        assert_refused(world.send(&[instruction], &[]), expected);
    }
}

#[test]
// r[verify settlement.pause.scope]
fn a_pause_stops_deposit_and_open_and_nothing_else() {
    let mut world = World::new();
    let operator = world.operator(100);
    let mut node = world.node(Some(&operator));
    let agent = world.agent(100_000);
    let [open, closing, late, closed] = [(); 4].map(|()| world.channel(&agent, &node, 10_000));
    world.run(&[ix::request_close(&agent, &late)], &[&agent.owner]).unwrap();
    let close = ix::close_batch(&node.owner.pubkey(), &node, &[(closed, Voucher::none())]);
    world.run(&[close], &[&node.owner]).unwrap();
    world.set_time(world.read_channel(&late).deadline);

    world.pause();
    let (entry, opened) = open_entry(&agent, &node, 9, 10);
    let open_batch = ix::open_batch(&world, &agent, &[(entry, node.account, opened)]);
    for stopped in [open_batch.clone(), ix::deposit(&agent, 10)] {
        assert_refused(world.run(&[stopped], &[&agent.owner]), SettlementError::Paused);
    }

    let mut passes = |instruction: Instruction, signers: &[&Keypair]| {
        let done = world.run(std::slice::from_ref(&instruction), signers);
        assert!(done.is_ok(), "tag {}: {done:?}", instruction.data[0]);
    };
    let by_owner = node.owner.pubkey();
    passes(ix::top_up(&agent, &open, 10), &[&agent.owner]);
    passes(ix::settle_batch(&node, &[(open, Voucher::of(&agent, &open, 1_000))]), &[]);
    passes(ix::request_close(&agent, &closing), &[&agent.owner]);
    passes(ix::close_batch(&by_owner, &node, &[(closing, Voucher::of(&agent, &closing, 2_000))]), &[&node.owner]);
    passes(ix::finalize_batch(&[late]), &[]);
    passes(ix::withdraw_available(&agent, 10), &[&agent.owner]);
    passes(ix::withdraw_earned(&by_owner, &node, EVERYTHING), &[&node.owner]);
    passes(ix::withdraw_fees(&operator.account, &operator.payout, EVERYTHING), &[]);
    let treasury = world.treasury;
    world.run(&[ix::withdraw_fees(&node.account, &treasury, EVERYTHING)], &[]).unwrap();
    world.run(&[ix::reclaim_batch(&world, &agent, &[closing, late, closed])], &[]).unwrap();
    assert_eq!(world.read_channel(&open).status, status::OPEN);
    assert!([closing, late, closed].iter().all(|channel| world.data(channel).is_empty()));

    // Registering, changing a node and the admin's own instructions go on too.
    let newcomer = world.operator(1);
    world.node(Some(&newcomer));
    node.operator = newcomer.account;
    world.run(&[ix::update_node(&node, MIN_GRACE_S, 500)], &[&node.owner]).unwrap();
    let next = Keypair::new();
    world.set_config(|config| config.pending_admin = next.pubkey().to_bytes());
    world.run(&[ix::accept_admin(&next.pubkey())], &[&next]).unwrap();
    world.admin = next;
    world.set_config(|config| config.paused = 0);
    world.run(&[open_batch], &[&agent.owner]).unwrap();
    world.run(&[ix::deposit(&agent, 10)], &[&agent.owner]).unwrap();
}
