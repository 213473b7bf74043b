//! Accounts at every rent that the network has had or will have, and at addresses where lamports lie already.

use settlement_chain::{Address, Signer};
use settlement_interface::accounts::{Agent, Channel, Config, Node, Operator, status};
use solana_account::Account;
use solana_rent::Rent;

use crate::{
    instructions as ix,
    ledger::{MIN_GRACE_S, SYSTEM_PROGRAM, Voucher, World, config, open_entry, skipped, vault},
};

/// Lamports per byte: of old, of now, and as proposed.
const RATES: [u64; 3] = [6_960, 5_080, 696];

/// What every account is charged for beyond its data.
const OVERHEAD: u64 = 128;
const TOKEN_ACCOUNT_LEN: usize = 165;

#[derive(Clone, Copy, Debug)]
enum Spelling {
    /// The rate per byte, to be held for one year.
    Whole,
    /// Half the rate, to be held for two.
    Halved,
}

fn set_rent(world: &mut World, lamports_per_byte: u64, spelling: Spelling) {
    let (rate, years) = match spelling {
        Spelling::Whole => (lamports_per_byte, 1f64),
        Spelling::Halved => (lamports_per_byte / 2, 2f64),
    };
    #[allow(deprecated, reason = "the field that older clusters still use")]
    let rent = Rent { lamports_per_byte: rate, exemption_threshold: years.to_le_bytes(), ..Rent::default() };
    world.svm.set_sysvar(&rent);
}

/// A world that begins at this rent.
fn world(lamports_per_byte: u64, spelling: Spelling) -> World {
    let mut world = World::bare();
    set_rent(&mut world, lamports_per_byte, spelling);
    world
}

fn lamports(world: &World, address: &Address) -> u64 {
    world.svm.get_balance(address).unwrap_or(0)
}

#[track_caller]
fn assert_holds(world: &World, address: &Address, space: usize, lamports_per_byte: u64) {
    let needed = (OVERHEAD + space as u64) * lamports_per_byte;
    assert_eq!(lamports(world, address), needed, "{space} bytes at {lamports_per_byte} a byte");
}

#[test]
// r[verify settlement.accounts.prefunded]
fn every_account_costs_exactly_its_rent_and_a_channels_comes_back() {
    for (rate, spelling) in RATES.into_iter().flat_map(|rate| [(rate, Spelling::Whole), (rate, Spelling::Halved)]) {
        println!("{rate} lamports a byte, {spelling:?}");
        let mut world = world(rate, spelling);
        world.run(&[ix::init_config(&world)], &[]).unwrap();
        assert_holds(&world, &config(), Config::LEN, rate);
        assert_holds(&world, &vault(), TOKEN_ACCOUNT_LEN, rate);
        let operator = world.operator(100);
        assert_holds(&world, &operator.account, Operator::LEN, rate);
        let node = world.node(Some(&operator));
        assert_holds(&world, &node.account, Node::LEN, rate);
        let agent = world.agent(1_000);
        assert_holds(&world, &agent.account, Agent::LEN, rate);

        let before = lamports(&world, &world.sponsor.pubkey());
        let channel = world.channel(&agent, &node, 100);
        assert_holds(&world, &channel, Channel::LEN, rate);
        let voucher = Voucher::of(&agent, &channel, 60);
        let close = ix::close_batch(&operator.authority.pubkey(), &node, &[(channel, voucher)]);
        world.run(&[close], &[&operator.authority]).unwrap();
        world.run(&[ix::reclaim_batch(&world, &agent, &[channel])], &[]).unwrap();
        assert_eq!(lamports(&world, &world.sponsor.pubkey()), before);
        assert_eq!(world.read_agent(&agent).available, 940);
    }
}

#[test]
// r[verify settlement.accounts.prefunded]
fn lamports_sent_ahead_block_no_account_at_any_rent() {
    for rate in RATES {
        for sent in [Sent::One, Sent::AllButOne, Sent::Exactly, Sent::More] {
            println!("{rate} lamports a byte, {sent:?}");
            let mut world = world(rate, Spelling::Whole);
            let ahead = |world: &mut World, address: Address, space: usize| {
                let held = sent.lamports((OVERHEAD + space as u64) * rate);
                let account = Account { lamports: held, owner: SYSTEM_PROGRAM, ..Account::default() };
                world.svm.set_account(address, account).unwrap();
                held.max((OVERHEAD + space as u64) * rate)
            };
            let expected = [ahead(&mut world, config(), Config::LEN), ahead(&mut world, vault(), TOKEN_ACCOUNT_LEN)];
            world.run(&[ix::init_config(&world)], &[]).unwrap();
            assert_eq!([lamports(&world, &config()), lamports(&world, &vault())], expected);

            let operator = world.unregistered_operator();
            let expected = ahead(&mut world, operator.account, Operator::LEN);
            world.run(&[ix::register_operator(&world, &operator, 100)], &[&operator.authority]).unwrap();
            assert_eq!(lamports(&world, &operator.account), expected);

            let node = world.unregistered_node(Some(&operator));
            let expected = ahead(&mut world, node.account, Node::LEN);
            let register = ix::register_node(&world, &node, MIN_GRACE_S, 500);
            world.run(&[register], &[&node.owner, &node.id]).unwrap();
            assert_eq!(lamports(&world, &node.account), expected);

            let agent = world.agent_without_account(1_000);
            let expected = ahead(&mut world, agent.account, Agent::LEN);
            world.run(&[ix::deposit(&agent, 1_000)], &[&agent.owner]).unwrap();
            assert_eq!(lamports(&world, &agent.account), expected);

            let (entry, channel) = open_entry(&agent, &node, 0, 100);
            let expected = ahead(&mut world, channel, Channel::LEN);
            let open = ix::open_batch(&world, &agent, &[(entry, node.account, channel)]);
            world.run(&[open], &[&agent.owner]).unwrap();
            assert_eq!(lamports(&world, &channel), expected);
            assert_eq!(world.read_channel(&channel).deposit, 100);

            // What was sent ahead goes where the rent goes.
            let before = lamports(&world, &world.sponsor.pubkey());
            let close = ix::close_batch(&node.owner.pubkey(), &node, &[(channel, Voucher::none())]);
            world.run(&[close], &[&node.owner]).unwrap();
            world.run(&[ix::reclaim_batch(&world, &agent, &[channel])], &[]).unwrap();
            assert_eq!(lamports(&world, &world.sponsor.pubkey()), before + expected);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Sent {
    One,
    AllButOne,
    Exactly,
    More,
}

impl Sent {
    const fn lamports(self, rent: u64) -> u64 {
        match self {
            Self::One => 1,
            Self::AllButOne => rent - 1,
            Self::Exactly => rent,
            Self::More => rent + 1_000_000,
        }
    }
}

#[test]
fn a_rent_that_rises_or_falls_leaves_living_accounts_usable() {
    for (then, now) in [(696, 6_960), (6_960, 696), (5_080, 6_960)] {
        let mut world = world(then, Spelling::Whole);
        world.run(&[ix::init_config(&world)], &[]).unwrap();
        let operator = world.operator(100);
        let node = world.node(Some(&operator));
        let agent = world.agent(1_000);
        let [first, second] = [(); 2].map(|()| world.channel(&agent, &node, 100));
        set_rent(&mut world, now, Spelling::Whole);

        let settle = ix::settle_batch(&node, &[(first, Voucher::of(&agent, &first, 10))]);
        assert_eq!(skipped(&world.run(&[settle], &[]).unwrap()), 0);
        world.run(&[ix::top_up(&agent, &first, 5)], &[&agent.owner]).unwrap();
        world.run(&[ix::request_close(&agent, &second)], &[&agent.owner]).unwrap();
        let close = ix::close_batch(&node.owner.pubkey(), &node, &[(first, Voucher::of(&agent, &first, 50))]);
        world.run(&[close], &[&node.owner]).unwrap();
        world.set_time(world.read_channel(&second).deadline);
        world.run(&[ix::finalize_batch(&[second])], &[]).unwrap();
        assert_eq!(world.read_channel(&second).status, status::CLOSED);
        world.run(&[ix::reclaim_batch(&world, &agent, &[first, second])], &[]).unwrap();
        world.run(&[ix::withdraw_available(&agent, 100)], &[&agent.owner]).unwrap();
        world.run(&[ix::withdraw_earned(&node.owner.pubkey(), &node, 10)], &[&node.owner]).unwrap();
        let third = world.channel(&agent, &node, 100);
        assert_holds(&world, &third, Channel::LEN, now);
    }
}
