use settlement_chain::{Address, Signer};
use settlement_interface::{
    accounts::{NO_KEY, status},
    errors::SettlementError,
    instructions::EVERYTHING,
};

use crate::{
    instructions as ix,
    ledger::{
        AgentParty, MAX_GRACE_S, MAX_OPERATOR_FEE_BPS, MIN_GRACE_S, NodeParty, OperatorParty, PAYOUT_DELAY_S, START,
        SYSTEM_PROGRAM, TOKEN_PROGRAM, Voucher, World, assert_refused, open_entry, token_data, vault,
    },
};

struct Scene {
    world: World,
    agent: AgentParty,
    node: NodeParty,
    operator: OperatorParty,
    channel: Address,
}

/// A node with an operator, and an open channel of 10,000 of which 1,000 are settled: 985 are earned.
fn scene() -> Scene {
    let mut world = World::new();
    let operator = world.operator(100);
    let node = world.node(Some(&operator));
    let agent = world.agent(100_000);
    let channel = world.channel(&agent, &node, 10_000);
    let settle = ix::settle_batch(&node, &[(channel, Voucher::of(&agent, &channel, 1_000))]);
    world.run(&[settle], &[]).unwrap();
    Scene { world, agent, node, operator, channel }
}

impl Scene {
    /// The owner's call with payout and operator as the party now holds them.
    fn update(&mut self) {
        let instruction = ix::update_node(&self.node, MIN_GRACE_S, MAX_OPERATOR_FEE_BPS);
        self.world.run(&[instruction], &[&self.node.owner]).unwrap();
    }

    /// The owner names another payout, which is returned with the present one.
    fn name_another_payout(&mut self) -> (Address, Address) {
        let another = self.world.token_account(&self.node.owner.pubkey(), 0);
        let present = std::mem::replace(&mut self.node.payout, another);
        self.update();
        (present, another)
    }

    /// What a withdrawal of 100 by the owner to this account comes to.
    fn withdraw(&mut self, payout: Address) -> crate::ledger::Outcome {
        let mut instruction = ix::withdraw_earned(&self.node.owner.pubkey(), &self.node, 100);
        instruction.accounts[3].pubkey = payout;
        self.world.run(&[instruction], &[&self.node.owner])
    }

    fn pending(&self) -> (Address, i64) {
        let stored = self.world.read_node(&self.node);
        (stored.pending_payout.into(), stored.payout_from)
    }
}

const DUE: i64 = START + PAYOUT_DELAY_S as i64;

#[test]
// r[verify settlement.node.update]
fn another_operator_counts_at_once_and_the_former_closes_nothing_more() {
    let mut scene = scene();
    let second = scene.world.operator(200);
    let before = scene.world.read_node(&scene.node);
    scene.node.operator = second.account;
    scene.update();
    let stored = scene.world.read_node(&scene.node);
    assert_eq!((stored.operator, stored.operator_fee_bps), (second.account.to_bytes(), 200));
    assert_eq!(
        (stored.earned, stored.protocol_fees, stored.payout),
        (before.earned, before.protocol_fees, before.payout)
    );

    let (former, channel) = (&scene.operator, scene.channel);
    let entries = [(channel, Voucher::of(&scene.agent, &channel, 2_000))];
    let close = ix::close_batch(&former.authority.pubkey(), &scene.node, &entries);
    assert_refused(scene.world.run(&[close], &[&former.authority]), SettlementError::Unauthorised);
    let mut close = ix::close_batch(&former.authority.pubkey(), &scene.node, &entries);
    close.accounts[2].pubkey = former.account;
    assert_refused(scene.world.run(&[close], &[&former.authority]), SettlementError::WrongParty);
    let mut settle = ix::settle_batch(&scene.node, &entries);
    settle.accounts[1].pubkey = former.account;
    assert_refused(scene.world.run(&[settle], &[]), SettlementError::WrongParty);
    let withdraw = ix::withdraw_earned(&former.authority.pubkey(), &scene.node, 1);
    assert_refused(scene.world.run(&[withdraw], &[&former.authority]), SettlementError::Unauthorised);

    // The open channel goes on with the new operator at its rate; what the former had earned stays its own.
    let close = ix::close_batch(&second.authority.pubkey(), &scene.node, &entries);
    scene.world.run(&[close], &[&second.authority]).unwrap();
    assert_eq!(scene.world.read_channel(&channel).status, status::CLOSED);
    assert_eq!(scene.world.read_operator(&second).fees, 20);
    let (account, payout) = (scene.operator.account, scene.operator.payout);
    scene.world.run(&[ix::withdraw_fees(&account, &payout, EVERYTHING)], &[]).unwrap();
    assert_eq!(scene.world.tokens(&payout), 10);
}

#[test]
// r[verify settlement.node.update]
fn leaving_an_operator_works_at_once() {
    let mut scene = scene();
    scene.node.operator = SYSTEM_PROGRAM;
    scene.update();
    let stored = scene.world.read_node(&scene.node);
    assert_eq!((stored.operator, stored.operator_fee_bps), (NO_KEY, 0));
    let entries = [(scene.channel, Voucher::of(&scene.agent, &scene.channel, 2_000))];
    let former = scene.operator.authority.insecure_clone();
    let close = ix::close_batch(&former.pubkey(), &scene.node, &entries);
    assert_refused(scene.world.run(&[close], &[&former]), SettlementError::Unauthorised);
    let close = ix::close_batch(&scene.node.owner.pubkey(), &scene.node, &entries);
    scene.world.run(&[close], &[&scene.node.owner]).unwrap();
    // 985 of the first 1,000, and of the second all but the protocol's 5.
    assert_eq!(scene.world.read_node(&scene.node).earned, 985 + 995);
    assert_eq!(scene.world.read_operator(&scene.operator).fees, 10);
}

#[test]
// r[verify settlement.node.update]
fn only_the_owner_changes_a_node() {
    let mut scene = scene();
    let other = scene.world.node(None);
    for key in [&scene.node.id, &scene.operator.authority, &other.owner, &scene.agent.owner] {
        let mut instruction = ix::update_node(&scene.node, MIN_GRACE_S, MAX_OPERATOR_FEE_BPS);
        instruction.accounts[0].pubkey = key.pubkey();
        assert_refused(scene.world.run(&[instruction], &[key]), SettlementError::Unauthorised);
    }
    let mut unsigned = ix::update_node(&scene.node, MIN_GRACE_S, MAX_OPERATOR_FEE_BPS);
    unsigned.accounts[0].is_signer = false;
    assert_refused(scene.world.run(&[unsigned], &[]), SettlementError::MissingSignature);
}

#[test]
fn an_operator_that_asks_too_much_is_refused() {
    let mut scene = scene();
    let dear = scene.world.operator(300);
    scene.node.operator = dear.account;
    let instruction = ix::update_node(&scene.node, MIN_GRACE_S, 299);
    assert_refused(scene.world.run(&[instruction], &[&scene.node.owner]), SettlementError::FeeTooHigh);
    scene.world.set_config(|config| config.max_operator_fee_bps = 299);
    let instruction = ix::update_node(&scene.node, MIN_GRACE_S, MAX_OPERATOR_FEE_BPS);
    assert_refused(scene.world.run(&[instruction], &[&scene.node.owner]), SettlementError::FeeTooHigh);
    scene.world.set_config(|config| config.max_operator_fee_bps = 300);
    scene.update();
    assert_eq!(scene.world.read_node(&scene.node).operator_fee_bps, 300);
}

#[test]
fn who_keeps_the_operator_keeps_its_rate_whatever_the_config_says_now() {
    let mut scene = scene();
    scene.world.set_config(|config| config.max_operator_fee_bps = 0);
    scene.update();
    assert_eq!(scene.world.read_node(&scene.node).operator_fee_bps, 100);
    // The owner's own word counts.
    let instruction = ix::update_node(&scene.node, MIN_GRACE_S, 99);
    assert_refused(scene.world.run(&[instruction], &[&scene.node.owner]), SettlementError::FeeTooHigh);
}

#[test]
fn the_operator_slot_holds_an_operator_or_the_system_program() {
    let mut scene = scene();
    let wallet = scene.world.payer.pubkey();
    let node = scene.node.account;
    for (slot, expected) in [(wallet, SettlementError::WrongOwner), (node, SettlementError::WrongLayout)] {
        scene.node.operator = slot;
        let instruction = ix::update_node(&scene.node, MIN_GRACE_S, MAX_OPERATOR_FEE_BPS);
        assert_refused(scene.world.run(&[instruction], &[&scene.node.owner]), expected);
    }
}

#[test]
fn another_grace_binds_channels_that_open_from_now_on() {
    let mut scene = scene();
    let instruction = ix::update_node(&scene.node, MAX_GRACE_S + 1, MAX_OPERATOR_FEE_BPS);
    assert_refused(scene.world.run(&[instruction], &[&scene.node.owner]), SettlementError::BadGrace);
    let instruction = ix::update_node(&scene.node, MIN_GRACE_S + 1, MAX_OPERATOR_FEE_BPS);
    scene.world.run(&[instruction], &[&scene.node.owner]).unwrap();
    assert_eq!(scene.world.read_channel(&scene.channel).grace_s, MIN_GRACE_S);
    let (entry, channel) = open_entry(&scene.agent, &scene.node, 5, 10);
    let open = ix::open_batch(&scene.world, &scene.agent, &[(entry, scene.node.account, channel)]);
    assert_refused(scene.world.run(&[open], &[&scene.agent.owner]), SettlementError::BadGrace);
}

#[test]
fn a_grace_that_the_config_has_outrun_does_not_hold_a_node_with_its_operator() {
    let mut scene = scene();
    scene.world.set_config(|config| config.max_grace_s = MIN_GRACE_S - 1);
    scene.node.operator = SYSTEM_PROGRAM;
    scene.update();
    let stored = scene.world.read_node(&scene.node);
    assert_eq!((stored.operator, stored.min_grace_s), (NO_KEY, MIN_GRACE_S));
    let instruction = ix::update_node(&scene.node, MIN_GRACE_S + 1, MAX_OPERATOR_FEE_BPS);
    assert_refused(scene.world.run(&[instruction], &[&scene.node.owner]), SettlementError::BadGrace);
}

#[test]
// r[verify settlement.payout.delay]
fn another_payout_counts_at_its_second_and_not_before() {
    let mut scene = scene();
    let (present, another) = scene.name_another_payout();
    assert_eq!(scene.pending(), (another, DUE));
    assert_eq!(scene.world.read_node(&scene.node).payout, present.to_bytes());

    scene.world.set_time(DUE - 1);
    assert_refused(scene.withdraw(another), SettlementError::BadTokenAccount);
    scene.withdraw(present).unwrap();
    assert_eq!(scene.pending(), (another, DUE));

    scene.world.set_time(DUE);
    assert_refused(scene.withdraw(present), SettlementError::BadTokenAccount);
    scene.withdraw(another).unwrap();
    assert_eq!((scene.world.tokens(&present), scene.world.tokens(&another)), (100, 100));
    let stored = scene.world.read_node(&scene.node);
    assert_eq!((stored.payout, stored.pending_payout, stored.payout_from), (another.to_bytes(), NO_KEY, 0));
    assert_eq!(stored.earned, 785);
}

#[test]
// r[verify settlement.payout.delay]
fn naming_the_present_payout_takes_the_wish_back() {
    let mut scene = scene();
    let (present, another) = scene.name_another_payout();
    scene.node.payout = present;
    scene.update();
    assert_eq!(scene.pending(), (Address::default(), 0));
    scene.world.set_time(DUE + 1);
    assert_refused(scene.withdraw(another), SettlementError::BadTokenAccount);
    scene.withdraw(present).unwrap();
}

#[test]
// r[verify settlement.payout.delay]
fn a_third_payout_begins_to_wait_anew_and_the_same_one_waits_on() {
    let mut scene = scene();
    let (present, second) = scene.name_another_payout();
    scene.world.set_time(START + 10);
    scene.update();
    assert_eq!(scene.pending(), (second, DUE));
    let (_, third) = scene.name_another_payout();
    assert_eq!(scene.pending(), (third, DUE + 10));
    scene.world.set_time(DUE + 9);
    for payout in [second, third] {
        assert_refused(scene.withdraw(payout), SettlementError::BadTokenAccount);
    }
    scene.withdraw(present).unwrap();
    scene.world.set_time(DUE + 10);
    scene.withdraw(third).unwrap();
}

#[test]
// r[verify settlement.payout.delay]
fn after_its_second_the_former_payout_must_wait_like_any_other() {
    let mut scene = scene();
    let (former, another) = scene.name_another_payout();
    scene.world.set_time(DUE);
    scene.node.payout = former;
    scene.update();
    assert_eq!(scene.world.read_node(&scene.node).payout, another.to_bytes());
    assert_eq!(scene.pending(), (former, DUE + i64::from(PAYOUT_DELAY_S)));
    assert_refused(scene.withdraw(former), SettlementError::BadTokenAccount);
    scene.withdraw(another).unwrap();
}

#[test]
fn a_changed_delay_leaves_pending_payouts_their_second_and_none_at_all_counts_at_once() {
    let mut scene = scene();
    let (_, another) = scene.name_another_payout();
    scene.world.set_config(|config| config.payout_delay_s = 0);
    assert_refused(scene.withdraw(another), SettlementError::BadTokenAccount);
    let (_, third) = scene.name_another_payout();
    scene.withdraw(third).unwrap();
    assert_eq!(scene.world.read_node(&scene.node).payout, third.to_bytes());
}

#[test]
fn a_pending_payout_does_not_stop_settling_or_changes_of_the_operator() {
    let mut scene = scene();
    let (_, another) = scene.name_another_payout();
    scene.world.set_time(DUE + 1);
    let entries = [(scene.channel, Voucher::of(&scene.agent, &scene.channel, 2_000))];
    scene.world.run(&[ix::settle_batch(&scene.node, &entries)], &[]).unwrap();
    assert_eq!(scene.pending(), (another, DUE));
    scene.node.operator = SYSTEM_PROGRAM;
    scene.update();
    // The update has written the due payout into its place.
    assert_eq!(scene.pending(), (Address::default(), 0));
    let stored = scene.world.read_node(&scene.node);
    assert_eq!((stored.payout, stored.earned), (another.to_bytes(), 2 * 985));
}

#[test]
fn refuses_a_payout_that_could_not_be_paid() {
    let mut scene = scene();
    let other = Address::new_unique();
    let foreign = scene.world.place(TOKEN_PROGRAM, token_data(&other, &other, 0));
    let mut frozen = token_data(&scene.world.mint, &other, 0);
    frozen[108] = 2;
    let frozen = scene.world.place(TOKEN_PROGRAM, frozen);
    for payout in [foreign, frozen, vault(), scene.node.owner.pubkey(), Address::new_unique()] {
        scene.node.payout = payout;
        let instruction = ix::update_node(&scene.node, MIN_GRACE_S, MAX_OPERATOR_FEE_BPS);
        assert_refused(scene.world.run(&[instruction], &[&scene.node.owner]), SettlementError::BadTokenAccount);
    }
}

#[test]
fn a_closed_payout_does_not_hold_a_node_with_its_operator() {
    let mut scene = scene();
    scene.world.place_at(scene.node.payout, SYSTEM_PROGRAM, vec![]);
    scene.node.operator = SYSTEM_PROGRAM;
    scene.update();
    assert_eq!(scene.world.read_node(&scene.node).operator, NO_KEY);
    // And another payout rescues what is earned.
    let (_, another) = scene.name_another_payout();
    scene.world.set_time(DUE);
    scene.withdraw(another).unwrap();
}

#[test]
// r[verify settlement.payout.stored]
fn an_operators_key_alone_moves_nothing_to_itself() {
    let mut scene = scene();
    let (key, own) = (scene.operator.authority.insecure_clone(), scene.operator.payout);
    let (former, _) = (scene.node.payout, scene.name_another_payout());
    scene.world.set_time(DUE);
    for payout in [own, former] {
        let mut withdraw = ix::withdraw_earned(&key.pubkey(), &scene.node, 100);
        withdraw.accounts[3].pubkey = payout;
        assert_refused(scene.world.run(&[withdraw], &[&key]), SettlementError::BadTokenAccount);
    }
    let mut update = ix::update_node(&scene.node, MIN_GRACE_S, MAX_OPERATOR_FEE_BPS);
    update.accounts[0].pubkey = key.pubkey();
    update.accounts[2].pubkey = own;
    assert_refused(scene.world.run(&[update], &[&key]), SettlementError::Unauthorised);
    assert_eq!(scene.world.tokens(&own), 0);
}
