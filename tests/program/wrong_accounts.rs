//! Every instruction, every account slot: an account with the wrong owner, kind, version or length is refused, and
//! so are missing signatures, missing or surplus accounts and data of the wrong length.

use settlement_chain::{Address, Instruction, Keypair, Signer};
use settlement_interface::errors::SettlementError;

use crate::{
    instructions as ix,
    ledger::{MIN_GRACE_S, PROGRAM, SYSTEM_PROGRAM, TOKEN_PROGRAM, Voucher, World, assert_refused, open_entry},
};

struct Case {
    name: &'static str,
    instruction: Instruction,
    signers: Vec<Keypair>,
    /// Lists any number of channels: a surplus account is one more entry.
    is_open_ended: bool,
}

impl Case {
    fn new(name: &'static str, instruction: Instruction, signers: &[&Keypair]) -> Self {
        let signers = signers.iter().map(|key| key.insecure_clone()).collect();
        Self { name, instruction, signers, is_open_ended: false }
    }

    fn send(&self, world: &mut World, instruction: &Instruction) -> crate::ledger::Outcome {
        let signers: Vec<&Keypair> = self.signers.iter().collect();
        world.send(std::slice::from_ref(instruction), &signers)
    }
}

/// A world in which each of the cases would succeed.
fn scene() -> (World, Vec<Case>) {
    let mut world = World::new();
    let operator = world.operator(100);
    let node = world.node(Some(&operator));
    let agent = world.agent(1_000_000);
    let [open, closing, closed, paid] = [(); 4].map(|()| world.channel(&agent, &node, 10_000));
    world.run(&[ix::request_close(&agent, &closing)], &[&agent.owner]).unwrap();
    world.set_time(world.read_channel(&closing).deadline);
    let owner = node.owner.pubkey();
    let close = ix::close_batch(&owner, &node, &[(closed, Voucher::none())]);
    world.run(&[close], &[&node.owner]).unwrap();
    let settle = ix::settle_batch(&node, &[(paid, Voucher::of(&agent, &paid, 10_000))]);
    world.run(&[settle], &[]).unwrap();

    let (entry, opened) = open_entry(&agent, &node, 9, 10);
    let voucher = Voucher::of(&agent, &open, 5_000);
    let new_operator = world.unregistered_operator();
    let new_node = world.unregistered_node(Some(&operator));
    let everyone = [&agent.owner, &node.owner, &operator.authority, &new_operator.authority];
    let mut cases = vec![
        Case::new("register_operator", ix::register_operator(&world, &new_operator, 1), &everyone),
        Case::new(
            "register_node",
            ix::register_node(&world, &new_node, MIN_GRACE_S, 500),
            &[&new_node.owner, &new_node.id],
        ),
        Case::new("deposit", ix::deposit(&agent, 10), &everyone),
        Case::new("withdraw_available", ix::withdraw_available(&agent, 10), &everyone),
        Case::new("open_batch", ix::open_batch(&world, &agent, &[(entry, node.account, opened)]), &everyone),
        Case::new("top_up", ix::top_up(&agent, &open, 10), &everyone),
        Case::new("settle_batch", ix::settle_batch(&node, &[(open, voucher.clone())]), &everyone),
        Case::new("close_batch", ix::close_batch(&owner, &node, &[(open, voucher)]), &everyone),
        Case::new("request_close", ix::request_close(&agent, &open), &everyone),
        Case::new("finalize_batch", ix::finalize_batch(&[closing]), &everyone),
        Case::new("reclaim_batch", ix::reclaim_batch(&world, &agent, &[closed]), &everyone),
        Case::new("withdraw_earned", ix::withdraw_earned(&owner, &node, 10), &everyone),
        Case::new("withdraw_fees", ix::withdraw_fees(&operator.account, &operator.payout, 1), &everyone),
    ];
    for case in &mut cases {
        case.is_open_ended = ["finalize_batch", "reclaim_batch"].contains(&case.name);
    }
    (world, cases)
}

#[test]
fn each_case_succeeds_as_it_stands() {
    let (world, cases) = scene();
    for case in cases {
        let mut world = world.clone();
        let outcome = case.send(&mut world, &case.instruction);
        assert!(outcome.is_ok(), "{}: {outcome:?}", case.name);
        world.assert_solvent();
    }
}

#[test]
// r[verify settlement.accounts.checked]
fn accounts_of_the_program_are_checked_in_every_slot() {
    let (mut world, cases) = scene();
    let mut slots = 0;
    for case in &cases {
        for meta in &case.instruction.accounts {
            let Some(honest) = world.svm.get_account(&meta.pubkey) else { continue };
            if honest.owner != PROGRAM {
                continue;
            }
            slots += 1;
            let mut broken = vec![(honest.clone(), SettlementError::WrongOwner)];
            broken[0].0.owner = TOKEN_PROGRAM;
            let mut change = |change: &dyn Fn(&mut Vec<u8>)| {
                let mut account = honest.clone();
                change(&mut account.data);
                broken.push((account, SettlementError::WrongLayout));
            };
            change(&|data| data[0] = 0);
            change(&|data| data[0] = 99);
            change(&|data| data[0] = if data[0] == 5 { 2 } else { data[0] + 1 });
            change(&|data| data[1] = 2);
            change(&|data| data.truncate(data.len() - 1));
            change(&|data| data.push(0));
            change(&|data| data.truncate(1));
            for (account, expected) in broken {
                world.svm.set_account(meta.pubkey, account).unwrap();
                println!("{}: {} must give {expected:?}", case.name, meta.pubkey);
                assert_refused(case.send(&mut world, &case.instruction), expected);
            }
            world.svm.set_account(meta.pubkey, honest).unwrap();
        }
    }
    assert!(slots >= 25, "only {slots} slots were tried");
}

#[test]
fn every_required_signature_is_checked() {
    let (mut world, cases) = scene();
    let mut slots = 0;
    for case in &cases {
        for index in 0..case.instruction.accounts.len() {
            let mut instruction = case.instruction.clone();
            if !instruction.accounts[index].is_signer {
                continue;
            }
            slots += 1;
            instruction.accounts[index].is_signer = false;
            println!("{}: slot {index} unsigned", case.name);
            assert_refused(case.send(&mut world, &instruction), SettlementError::MissingSignature);
        }
    }
    assert!(slots >= 13, "only {slots} slots were tried");
}

#[test]
fn program_slots_take_only_their_program() {
    let (mut world, cases) = scene();
    for case in &cases {
        for index in 0..case.instruction.accounts.len() {
            let slot = case.instruction.accounts[index].pubkey;
            if slot != SYSTEM_PROGRAM && slot != TOKEN_PROGRAM {
                continue;
            }
            let mut instruction = case.instruction.clone();
            for wrong in [Address::new_unique(), PROGRAM] {
                instruction.accounts[index].pubkey = wrong;
                println!("{}: slot {index}", case.name);
                assert_refused(case.send(&mut world, &instruction), SettlementError::WrongProgram);
            }
        }
    }
}

#[test]
fn the_config_is_the_one_at_its_address() {
    let (mut world, cases) = scene();
    let honest = world.svm.get_account(&crate::ledger::config()).unwrap();
    let forged = Address::new_unique();
    world.svm.set_account(forged, honest).unwrap();
    for case in &cases {
        let mut instruction = case.instruction.clone();
        let Some(slot) = instruction.accounts.iter_mut().find(|meta| meta.pubkey == crate::ledger::config()) else {
            continue;
        };
        slot.pubkey = forged;
        println!("{}", case.name);
        assert_refused(case.send(&mut world, &instruction), SettlementError::WrongAddress);
    }
}

#[test]
fn accounts_and_data_come_in_exact_number() {
    let (mut world, cases) = scene();
    for case in &cases {
        println!("{}", case.name);
        let mut shorter = case.instruction.clone();
        shorter.accounts.pop();
        let expected = if case.is_open_ended { SettlementError::BadBatch } else { SettlementError::MissingAccount };
        assert_refused(case.send(&mut world, &shorter), expected);
        let mut none = case.instruction.clone();
        none.accounts.clear();
        let expected =
            if case.name == "finalize_batch" { SettlementError::BadBatch } else { SettlementError::MissingAccount };
        assert_refused(case.send(&mut world, &none), expected);

        if !case.is_open_ended {
            let mut longer = case.instruction.clone();
            longer.accounts.push(longer.accounts[0].clone());
            assert_refused(case.send(&mut world, &longer), SettlementError::MissingAccount);
        }
        let mut longer = case.instruction.clone();
        longer.data.push(0);
        assert_refused(case.send(&mut world, &longer), SettlementError::MalformedData);
        if case.instruction.data.len() > 1 {
            let mut shorter = case.instruction.clone();
            shorter.data.pop();
            assert_refused(case.send(&mut world, &shorter), SettlementError::MalformedData);
        }
    }
}

#[test]
fn the_vault_is_not_to_be_replaced() {
    let (mut world, cases) = scene();
    let vault = crate::ledger::vault();
    let honest = world.svm.get_account(&vault).unwrap();
    let forged = Address::new_unique();
    world.svm.set_account(forged, honest).unwrap();
    for case in &cases {
        let mut instruction = case.instruction.clone();
        let Some(slot) = instruction.accounts.iter_mut().find(|meta| meta.pubkey == vault) else { continue };
        slot.pubkey = forged;
        println!("{}", case.name);
        assert_refused(case.send(&mut world, &instruction), SettlementError::WrongAddress);
    }
}
