use settlement_chain::{Address, Signer};
use settlement_interface::{accounts::status, errors::SettlementError, fees::split};

use crate::{
    instructions as ix,
    ledger::{
        AgentParty, MIN_GRACE_S, NodeParty, OperatorParty, PROTOCOL_FEE_BPS, START, Voucher, World, assert_refused,
        skipped,
    },
};

const OPERATOR_FEE_BPS: u16 = 150;

struct Scene {
    world: World,
    agent: AgentParty,
    node: NodeParty,
    operator: OperatorParty,
}

fn scene() -> Scene {
    let mut world = World::new();
    let operator = world.operator(OPERATOR_FEE_BPS);
    let node = world.node(Some(&operator));
    let agent = world.agent(1_000_000);
    Scene { world, agent, node, operator }
}

impl Scene {
    fn channel(&mut self, deposit: u64) -> Address {
        self.world.channel(&self.agent, &self.node, deposit)
    }

    fn settle(&mut self, entries: &[(Address, Voucher)]) -> Result<u64, settlement_chain::TransactionError> {
        self.world.run(&[ix::settle_batch(&self.node, entries)], &[]).map(|done| skipped(&done))
    }

    fn credited(&self) -> (u64, u64, u64) {
        let node = self.world.read_node(&self.node);
        (node.earned, self.world.read_operator(&self.operator).fees, node.protocol_fees)
    }
}

#[test]
// r[verify settlement.fees.conserved]
fn credits_each_rise_and_splits_it_without_loss() {
    let mut scene = scene();
    let channel = scene.channel(100_000);
    let mut expected = (0, 0, 0);
    let mut settled = 0;
    for cumulative in [1, 99, 10_000, 33_333, 100_000] {
        let voucher = Voucher::of(&scene.agent, &channel, cumulative);
        assert_eq!(scene.settle(&[(channel, voucher)]), Ok(0));
        let parts = split(cumulative - settled, OPERATOR_FEE_BPS, PROTOCOL_FEE_BPS).unwrap();
        settled = cumulative;
        expected = (expected.0 + parts.node, expected.1 + parts.operator, expected.2 + parts.protocol);
        assert_eq!(scene.credited(), expected);
        assert_eq!(expected.0 + expected.1 + expected.2, settled);
        assert_eq!(scene.world.read_channel(&channel).settled, settled);
    }
}

#[test]
// r[verify voucher.amount.monotonic]
fn a_voucher_that_does_not_rise_is_skipped_unread() {
    let mut scene = scene();
    let channel = scene.channel(100);
    let voucher = Voucher::of(&scene.agent, &channel, 50);
    assert_eq!(scene.settle(&[(channel, voucher.clone())]), Ok(0));
    let before = scene.credited();
    assert_eq!(scene.settle(&[(channel, voucher)]), Ok(1));
    assert_eq!(scene.settle(&[(channel, Voucher::of(&scene.agent, &channel, 49))]), Ok(1));
    // Nothing is verified that changes nothing.
    assert_eq!(scene.settle(&[(channel, Voucher { cumulative: 50, ..Voucher::none() })]), Ok(1));
    assert_eq!(scene.credited(), before);
}

#[test]
// r[verify voucher.amount.deposit]
fn the_whole_deposit_settles_and_one_unit_more_fails() {
    let mut scene = scene();
    let channel = scene.channel(100);
    for cumulative in [101, u64::MAX] {
        let refused = scene
            .world
            .run(&[ix::settle_batch(&scene.node, &[(channel, Voucher::of(&scene.agent, &channel, cumulative))])], &[]);
        assert_refused(refused, SettlementError::AboveDeposit);
    }
    assert_eq!(scene.settle(&[(channel, Voucher::of(&scene.agent, &channel, 100))]), Ok(0));
}

#[test]
// r[verify settlement.batch.skip]
fn the_same_channel_twice_is_credited_once() {
    let mut scene = scene();
    let channel = scene.channel(100);
    let equal = Voucher::of(&scene.agent, &channel, 40);
    assert_eq!(scene.settle(&[(channel, equal.clone()), (channel, equal)]), Ok(0b10));
    let (node, operator, protocol) = scene.credited();
    assert_eq!(node + operator + protocol, 40);

    let rising = [50, 70].map(|amount| (channel, Voucher::of(&scene.agent, &channel, amount)));
    assert_eq!(scene.settle(&rising), Ok(0));
    let falling = [90, 80].map(|amount| (channel, Voucher::of(&scene.agent, &channel, amount)));
    assert_eq!(scene.settle(&falling), Ok(0b10));
    let (node, operator, protocol) = scene.credited();
    assert_eq!(node + operator + protocol, 90);
}

#[test]
// r[verify settlement.voucher.expired]
fn a_voucher_settles_before_its_expiry_and_is_skipped_at_it() {
    let mut scene = scene();
    let channel = scene.channel(100);
    let voucher = |amount, expires_at| Voucher::signed(&scene.agent.signer, &channel, amount, expires_at);
    let [last_second, at_expiry, past, unexpiring] =
        [voucher(10, START + 1), voucher(20, START), voucher(20, i64::MIN), voucher(30, 0)];
    assert_eq!(scene.settle(&[(channel, last_second)]), Ok(0));
    assert_eq!(scene.settle(&[(channel, at_expiry), (channel, past), (channel, unexpiring)]), Ok(0b011));
    assert_eq!(scene.world.read_channel(&channel).settled, 30);
}

#[test]
fn an_expiry_is_part_of_what_was_signed() {
    let mut scene = scene();
    let channel = scene.channel(100);
    for (signed, claimed) in [(START + 10, START + 11), (START + 10, 0), (0, START + 10)] {
        let voucher = Voucher::signed(&scene.agent.signer, &channel, 10, signed);
        let instruction = ix::settle_batch(&scene.node, &[(channel, Voucher { expires_at: claimed, ..voucher })]);
        assert_refused(scene.world.run(&[instruction], &[]), SettlementError::BadSignature);
    }
}

#[test]
// r[verify channel.grace.deadline]
fn a_closing_channel_settles_until_the_second_before_its_deadline() {
    let mut scene = scene();
    let channel = scene.channel(100);
    scene.world.run(&[ix::request_close(&scene.agent, &channel)], &[&scene.agent.owner]).unwrap();
    let deadline = START + i64::from(MIN_GRACE_S);
    assert_eq!(scene.world.read_channel(&channel).deadline, deadline);
    scene.world.set_time(deadline - 1);
    assert_eq!(scene.settle(&[(channel, Voucher::of(&scene.agent, &channel, 10))]), Ok(0));
    assert_eq!(scene.world.read_channel(&channel).status, status::CLOSING);
    for time in [deadline, deadline + 1, i64::MAX] {
        scene.world.set_time(time);
        assert_eq!(scene.settle(&[(channel, Voucher::of(&scene.agent, &channel, 20))]), Ok(1));
    }
    assert_eq!(scene.world.read_channel(&channel).settled, 10);
}

#[test]
// r[verify settlement.batch.skip]
fn lost_races_are_skipped_and_the_rest_settles() {
    let mut scene = scene();
    let [closed, reclaimed, expired, settled, good] = [(); 5].map(|()| scene.channel(100));
    let authority = scene.node.owner.pubkey();
    let closing = [closed, reclaimed].map(|channel| (channel, Voucher::none()));
    let instruction = ix::close_batch(&authority, &scene.node, &closing);
    scene.world.run(&[instruction], &[&scene.node.owner]).unwrap();
    let instruction = ix::reclaim_batch(&scene.world, &scene.agent, &[reclaimed]);
    scene.world.run(&[instruction], &[]).unwrap();

    let signer = &scene.agent.signer;
    let mut entries =
        [closed, reclaimed, expired, settled, good].map(|channel| (channel, Voucher::signed(signer, &channel, 10, 0)));
    assert_eq!(scene.settle(&entries[3..4]), Ok(0));
    entries[2].1 = Voucher::signed(&scene.agent.signer, &expired, 10, START);
    assert_eq!(scene.settle(&entries), Ok(0b01111));
    assert_eq!(scene.world.read_channel(&good).settled, 10);
    let (node, operator, protocol) = scene.credited();
    assert_eq!(node + operator + protocol, 20);
}

#[test]
// r[verify settlement.batch.fail]
fn one_bad_signature_fails_the_whole_batch() {
    let mut scene = scene();
    let [good, bad] = [(); 2].map(|()| scene.channel(100));
    let mut forged = Voucher::of(&scene.agent, &bad, 10);
    forged.signature[40] ^= 1;
    let entries = [(good, Voucher::of(&scene.agent, &good, 10)), (bad, forged)];
    let refused = scene.world.run(&[ix::settle_batch(&scene.node, &entries)], &[]);
    assert_refused(refused, SettlementError::BadSignature);
    assert_eq!(scene.world.read_channel(&good).settled, 0);
}

#[test]
// r[verify voucher.channel.bound]
fn vouchers_for_other_channels_amounts_or_by_other_keys_fail() {
    let mut scene = scene();
    let [channel, sibling] = [(); 2].map(|()| scene.channel(100));
    let elsewhere = Voucher::of(&scene.agent, &sibling, 10);
    let raised = Voucher { cumulative: 11, ..Voucher::of(&scene.agent, &channel, 10) };
    let by_owner = Voucher::signed(&scene.agent.owner, &channel, 10, 0);
    let by_node = Voucher::signed(&scene.node.id, &channel, 10, 0);
    for voucher in [elsewhere, raised, by_owner, by_node, Voucher { cumulative: 10, ..Voucher::none() }] {
        let refused = scene.world.run(&[ix::settle_batch(&scene.node, &[(channel, voucher)])], &[]);
        assert_refused(refused, SettlementError::BadSignature);
    }
}

#[test]
// r[verify settlement.batch.fail]
fn a_channel_of_another_node_fails_the_batch() {
    let mut scene = scene();
    let other = scene.world.node(None);
    let channel = scene.world.channel(&scene.agent, &other, 100);
    let voucher = Voucher::of(&scene.agent, &channel, 10);
    let refused = scene.world.run(&[ix::settle_batch(&scene.node, &[(channel, voucher)])], &[]);
    assert_refused(refused, SettlementError::WrongParty);
}

#[test]
fn the_operator_slot_holds_the_nodes_operator_and_no_other() {
    let mut scene = scene();
    let channel = scene.channel(100);
    let (rival, without) = (scene.world.operator(100), scene.world.node(None));
    let voucher = Voucher::of(&scene.agent, &channel, 10);
    for slot in [rival.account, Address::default(), scene.node.account] {
        let mut instruction = ix::settle_batch(&scene.node, &[(channel, voucher.clone())]);
        instruction.accounts[1].pubkey = slot;
        assert_refused(scene.world.run(&[instruction], &[]), SettlementError::WrongParty);
    }
    let channel = scene.world.channel(&scene.agent, &without, 100);
    let voucher = Voucher::of(&scene.agent, &channel, 10);
    let mut instruction = ix::settle_batch(&without, &[(channel, voucher.clone())]);
    instruction.accounts[1].pubkey = rival.account;
    assert_refused(scene.world.run(&[instruction], &[]), SettlementError::WrongParty);
    scene.world.run(&[ix::settle_batch(&without, &[(channel, voucher)])], &[]).unwrap();
    assert_eq!(scene.world.read_node(&without).earned, 10);
}

#[test]
fn malformed_batches_are_refused() {
    let mut scene = scene();
    let channel = scene.channel(100);
    let good = ix::settle_batch(&scene.node, &[(channel, Voucher::of(&scene.agent, &channel, 10))]);
    let change = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut instruction = good.clone();
        change(&mut instruction.data);
        instruction
    };
    for (instruction, expected) in [
        (change(&|data| data[1] = 2), SettlementError::MalformedData),
        (change(&|data| data[1] = 1), SettlementError::MalformedData),
        (change(&|data| data[2] = 0), SettlementError::BadBatch),
        (change(&|data| data[2] = 65), SettlementError::BadBatch),
        (change(&|data| data[2] = 2), SettlementError::MalformedData),
        (change(&|data| data.push(0)), SettlementError::MalformedData),
        (change(&|data| data.truncate(2)), SettlementError::MalformedData),
        (change(&|data| data.truncate(0)), SettlementError::MalformedData),
        (change(&|data| data[0] = 200), SettlementError::MalformedData),
    ] {
        assert_refused(scene.world.run(&[instruction], &[]), expected);
    }
}

#[test]
// r[verify settlement.pause.scope]
fn a_pause_does_not_stop_settling() {
    let mut scene = scene();
    let channel = scene.channel(100);
    scene.world.pause();
    assert_eq!(scene.settle(&[(channel, Voucher::of(&scene.agent, &channel, 10))]), Ok(0));
}

#[test]
fn amounts_at_the_edge_of_64_bits_add_up_or_are_refused() {
    let mut scene = scene();
    let whale = scene.world.agent(u64::MAX / 2 - 2_000_000);
    let deposit = u64::MAX / 2 - 2_000_000;
    let channel = scene.world.channel(&whale, &scene.node, deposit);
    let voucher = Voucher::of(&whale, &channel, deposit);
    let done = scene.world.run(&[ix::settle_batch(&scene.node, &[(channel, voucher)])], &[]).unwrap();
    assert_eq!(skipped(&done), 0);
    let (node, operator, protocol) = scene.credited();
    assert_eq!(node + operator + protocol, deposit);
}

#[test]
fn compute_of_one_and_seven_entries() {
    for (count, limit) in [(1u64, 30_000), (7, 190_000)] {
        let mut scene = scene();
        let entries: Vec<_> = (0..count)
            .map(|_| {
                let channel = scene.channel(100);
                (channel, Voucher::of(&scene.agent, &channel, 10))
            })
            .collect();
        let done = scene.world.run(&[ix::settle_batch(&scene.node, &entries)], &[]).unwrap();
        println!("settle_batch of {count}: {} CU", done.compute_units_consumed);
        assert!(done.compute_units_consumed < limit, "{}", done.compute_units_consumed);
    }
}
