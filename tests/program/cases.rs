//! One honest call of every instruction, and beside it the accounts of strangers to put in the wrong place.

use settlement_chain::{Address, Instruction, Keypair, Signer};
use settlement_interface::instructions::table;

use crate::{
    instructions as ix,
    ledger::{LOADER, MIN_GRACE_S, Outcome, SYSTEM_PROGRAM, Voucher, World, open_entry},
};

/// A call that would succeed in its world.
pub struct Case {
    /// The instruction's name, and what sets this call apart where there are several.
    pub name: String,
    pub table: &'static table::Instruction,
    pub world: World,
    pub instruction: Instruction,
    pub signers: Vec<Keypair>,
    pub strangers: Strangers,
}

/// Living accounts of every kind that this call has nothing to do with.
#[derive(Clone)]
pub struct Strangers {
    pub key: [u8; 32],
    pub agent: Address,
    pub node: Address,
    pub operator: Address,
    /// From the other agent to the other node, open.
    pub open: Address,
    /// The same, closed.
    pub closed: Address,
    pub tokens: Address,
    pub mint: Address,
}

impl Case {
    pub fn send(&mut self, instruction: &Instruction) -> Outcome {
        let stranger = Keypair::new_from_array(self.strangers.key);
        let signers: Vec<&Keypair> = self.signers.iter().chain([&stranger]).collect();
        self.world.send(std::slice::from_ref(instruction), &signers)
    }

    /// The table's slot of an account of this call.
    pub fn slot(&self, index: usize) -> &'static table::Slot {
        let slots = self.table.accounts;
        let once = slots.iter().take_while(|slot| !slot.repeated).count();
        if index < once { &slots[index] } else { &slots[once + (index - once) % (slots.len() - once)] }
    }
}

/// At least one call of every instruction.
pub fn all() -> Vec<Case> {
    let mut cases = vec![init_config()];
    cases.extend(configured());
    for instruction in table::ALL {
        assert!(cases.iter().any(|case| case.table == instruction), "{} has no case", instruction.name);
    }
    cases
}

fn init_config() -> Case {
    let mut world = World::bare();
    let mut data = vec![0; 60];
    (data[0], data[12]) = (3, 1);
    data[13..45].copy_from_slice(world.admin.pubkey().as_ref());
    world.place_at(ix::program_data(), LOADER, data);
    let nowhere = SYSTEM_PROGRAM;
    let strangers = Strangers {
        key: world.chance.bytes(),
        agent: nowhere,
        node: nowhere,
        operator: nowhere,
        open: nowhere,
        closed: nowhere,
        tokens: world.token_account(&nowhere, 0),
        mint: world.mint_account(),
    };
    let instruction = ix::init_config(&world);
    case("init_config", &world, instruction, &[], &strangers)
}

fn configured() -> Vec<Case> {
    let mut world = World::new();
    let operator = world.operator(100);
    let node = world.node(Some(&operator));
    let agent = world.agent(1_000_000);
    let [open, closing, closed, paid] = [(); 4].map(|()| world.channel(&agent, &node, 10_000));
    let strangers = strangers(&mut world);

    world.run(&[ix::request_close(&agent, &closing)], &[&agent.owner]).unwrap();
    world.set_time(world.read_channel(&closing).deadline);
    let owner = node.owner.pubkey();
    let close = ix::close_batch(&owner, &node, &[(closed, Voucher::none())]);
    world.run(&[close], &[&node.owner]).unwrap();
    let settle = ix::settle_batch(&node, &[(paid, Voucher::of(&agent, &paid, 10_000))]);
    world.run(&[settle], &[]).unwrap();
    let next_admin = world.funded();
    let proposed = next_admin.pubkey().to_bytes();
    world.set_config(|config| config.pending_admin = proposed);

    let (entry, opened) = open_entry(&agent, &node, 9, 10);
    let voucher = Voucher::of(&agent, &open, 5_000);
    let new_operator = world.unregistered_operator();
    let new_node = world.unregistered_node(Some(&operator));
    let new_agent = world.agent_without_account(100);
    let mut new_config = world.read_config();
    new_config.treasury = world.token_account(&SYSTEM_PROGRAM, 0).to_bytes();
    let mut moved = node.clone();
    moved.payout = world.token_account(&owner, 0);

    let world = &world;
    let strangers = &strangers;
    let case = |name, instruction, signers: &[&Keypair]| case(name, world, instruction, signers, strangers);
    vec![
        case("register_operator", ix::register_operator(world, &new_operator, 1), &[&new_operator.authority]),
        case("register_node", ix::register_node(world, &new_node, MIN_GRACE_S, 500), &[&new_node.owner, &new_node.id]),
        case("deposit", ix::deposit(&agent, 10), &[&agent.owner]),
        case("deposit, the first", ix::deposit(&new_agent, 10), &[&new_agent.owner]),
        case("withdraw_available", ix::withdraw_available(&agent, 10), &[&agent.owner]),
        case("open_batch", ix::open_batch(world, &agent, &[(entry, node.account, opened)]), &[&agent.owner]),
        case("top_up", ix::top_up(&agent, &open, 10), &[&agent.owner]),
        case("settle_batch", ix::settle_batch(&node, &[(open, voucher.clone())]), &[]),
        case("close_batch", ix::close_batch(&owner, &node, &[(open, voucher.clone())]), &[&node.owner]),
        case(
            "close_batch, by the operator",
            ix::close_batch(&operator.authority.pubkey(), &node, &[(open, voucher)]),
            &[&operator.authority],
        ),
        case("request_close", ix::request_close(&agent, &open), &[&agent.owner]),
        case("finalize_batch", ix::finalize_batch(&[closing]), &[]),
        case("reclaim_batch", ix::reclaim_batch(world, &agent, &[closed]), &[]),
        case("withdraw_earned", ix::withdraw_earned(&owner, &node, 10), &[&node.owner]),
        case("withdraw_fees, of an operator", ix::withdraw_fees(&operator.account, &operator.payout, 1), &[]),
        case("withdraw_fees, of the protocol", ix::withdraw_fees(&node.account, &world.treasury, 1), &[]),
        case("set_config", ix::set_config(world, &new_config), &[]),
        case("accept_admin", ix::accept_admin(&next_admin.pubkey()), &[&next_admin]),
        case("update_node", ix::update_node(&moved, MIN_GRACE_S, 500), &[&node.owner]),
    ]
}

/// Somebody else's everything, with money in it.
fn strangers(world: &mut World) -> Strangers {
    let key = world.chance.bytes();
    let wallet = Keypair::new_from_array(key).pubkey();
    world.svm.airdrop(&wallet, 1_000_000_000).unwrap();
    let operator = world.operator(100);
    let node = world.node(Some(&operator));
    let agent = world.agent(1_000_000);
    let [open, closed] = [(); 2].map(|()| world.channel(&agent, &node, 10_000));
    let owner = node.owner.pubkey();
    let voucher = Voucher::of(&agent, &closed, 9_000);
    world.run(&[ix::close_batch(&owner, &node, &[(closed, voucher)])], &[&node.owner]).unwrap();
    Strangers {
        key,
        agent: agent.account,
        node: node.account,
        operator: operator.account,
        open,
        closed,
        tokens: world.token_account(&wallet, 0),
        mint: world.mint_account(),
    }
}

fn case(name: &str, world: &World, instruction: Instruction, signers: &[&Keypair], strangers: &Strangers) -> Case {
    let table = table::Instruction::of(instruction.data[0]).unwrap();
    assert!(name.starts_with(table.name));
    Case {
        name: name.to_owned(),
        table,
        world: world.clone(),
        instruction,
        signers: signers.iter().map(|key| key.insecure_clone()).collect(),
        strangers: strangers.clone(),
    }
}
