use settlement_chain::{Keypair, Signer};
use settlement_interface::{accounts::NO_KEY, errors::SettlementError};

use crate::{
    instructions as ix,
    ledger::{World, assert_refused},
};

/// A configured program whose admin has proposed another.
fn proposed() -> (World, Keypair) {
    let mut world = World::new();
    let next = Keypair::new();
    world.set_config(|config| config.pending_admin = next.pubkey().to_bytes());
    (world, next)
}

#[test]
// r[verify settlement.config.two_step]
fn the_proposed_admin_takes_the_office_and_the_former_has_no_right_any_more() {
    let (mut world, next) = proposed();
    let former = world.admin.insecure_clone();
    world.run(&[ix::accept_admin(&next.pubkey())], &[&next]).unwrap();
    let stored = world.read_config();
    assert_eq!((stored.admin, stored.pending_admin), (next.pubkey().to_bytes(), NO_KEY));

    let instruction = ix::set_config(&world, &stored);
    assert_refused(world.run(&[instruction], &[&former]), SettlementError::Unauthorised);
    world.admin = next;
    world.set_config(|config| config.paused = 1);
    assert_eq!(world.read_config().paused, 1);
}

#[test]
// r[verify settlement.config.two_step]
fn until_then_the_admin_stays_in_office() {
    let (mut world, next) = proposed();
    let stored = world.read_config();
    assert_eq!((stored.admin, stored.pending_admin), (world.admin.pubkey().to_bytes(), next.pubkey().to_bytes()));
    world.set_config(|config| config.max_grace_s = 1_000);
    assert_eq!(world.read_config().max_grace_s, 1_000);

    let mut instruction = ix::set_config(&world, &stored);
    instruction.accounts[0].pubkey = next.pubkey();
    assert_refused(world.run(&[instruction], &[&next]), SettlementError::Unauthorised);
}

#[test]
// r[verify settlement.config.two_step]
fn nobody_else_accepts() {
    let (mut world, next) = proposed();
    let (admin, stranger) = (world.admin.insecure_clone(), Keypair::new());
    for key in [&admin, &stranger] {
        assert_refused(world.run(&[ix::accept_admin(&key.pubkey())], &[key]), SettlementError::Unauthorised);
    }
    let mut unsigned = ix::accept_admin(&next.pubkey());
    unsigned.accounts[0].is_signer = false;
    assert_refused(world.run(&[unsigned], &[]), SettlementError::MissingSignature);
    assert_eq!(world.read_config().admin, admin.pubkey().to_bytes());
}

#[test]
fn a_later_proposal_replaces_the_earlier_and_none_takes_it_back() {
    let (mut world, first) = proposed();
    let second = Keypair::new();
    world.set_config(|config| config.pending_admin = second.pubkey().to_bytes());
    assert_refused(world.run(&[ix::accept_admin(&first.pubkey())], &[&first]), SettlementError::Unauthorised);

    world.set_config(|config| config.pending_admin = NO_KEY);
    assert_refused(world.run(&[ix::accept_admin(&second.pubkey())], &[&second]), SettlementError::Unauthorised);
}

#[test]
fn an_acceptance_works_once() {
    let (mut world, next) = proposed();
    world.run(&[ix::accept_admin(&next.pubkey())], &[&next]).unwrap();
    assert_refused(world.run(&[ix::accept_admin(&next.pubkey())], &[&next]), SettlementError::Unauthorised);
}

#[test]
// r[verify settlement.accounts.checked]
fn only_the_config_is_taken_for_the_config() {
    let (mut world, next) = proposed();
    let node = world.node(None);
    let forged = world.place(crate::ledger::PROGRAM, world.data(&crate::ledger::config()));
    let foreign = world.place(crate::ledger::TOKEN_PROGRAM, world.data(&crate::ledger::config()));
    for (slot, expected) in [
        (forged, SettlementError::WrongAddress),
        (foreign, SettlementError::WrongOwner),
        (node.account, SettlementError::WrongLayout),
    ] {
        let mut instruction = ix::accept_admin(&next.pubkey());
        instruction.accounts[1].pubkey = slot;
        assert_refused(world.run(&[instruction], &[&next]), expected);
    }
}
