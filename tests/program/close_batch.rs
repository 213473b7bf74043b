use settlement_chain::{Address, Signer};
use settlement_interface::{accounts::status, errors::SettlementError};

use crate::{
    instructions as ix,
    ledger::{AgentParty, MIN_GRACE_S, NodeParty, OperatorParty, START, Voucher, World, assert_refused, skipped},
};

struct Scene {
    world: World,
    agent: AgentParty,
    node: NodeParty,
    operator: OperatorParty,
}

fn scene() -> Scene {
    let mut world = World::new();
    let operator = world.operator(100);
    let node = world.node(Some(&operator));
    let agent = world.agent(1_000_000);
    Scene { world, agent, node, operator }
}

impl Scene {
    fn channel(&mut self) -> Address {
        self.world.channel(&self.agent, &self.node, 100)
    }

    fn close(&mut self, entries: &[(Address, Voucher)]) -> u64 {
        let instruction = ix::close_batch(&self.operator.authority.pubkey(), &self.node, entries);
        skipped(&self.world.run(&[instruction], &[&self.operator.authority]).unwrap())
    }
}

#[test]
fn settles_the_last_voucher_and_seals() {
    let mut scene = scene();
    let channel = scene.channel();
    let voucher = Voucher::of(&scene.agent, &channel, 60);
    assert_eq!(scene.close(&[(channel, voucher)]), 0);
    let stored = scene.world.read_channel(&channel);
    assert_eq!((stored.status, stored.settled, stored.deadline), (status::CLOSED, 60, 0));
    let higher = Voucher::of(&scene.agent, &channel, 61);
    let done = scene.world.run(&[ix::settle_batch(&scene.node, &[(channel, higher.clone())])], &[]).unwrap();
    assert_eq!(skipped(&done), 1);
    assert_eq!(scene.close(&[(channel, higher)]), 1);
    assert_eq!(scene.world.read_channel(&channel).settled, 60);
}

#[test]
fn an_entry_not_above_the_watermark_closes_there_without_a_signature() {
    let mut scene = scene();
    let [fresh, settled] = [(); 2].map(|()| scene.channel());
    let voucher = Voucher::of(&scene.agent, &settled, 30);
    scene.world.run(&[ix::settle_batch(&scene.node, &[(settled, voucher)])], &[]).unwrap();
    let at_watermark = Voucher { cumulative: 30, ..Voucher::none() };
    assert_eq!(scene.close(&[(fresh, Voucher::none()), (settled, at_watermark)]), 0);
    assert_eq!(scene.world.read_channel(&fresh).status, status::CLOSED);
    let stored = scene.world.read_channel(&settled);
    assert_eq!((stored.status, stored.settled), (status::CLOSED, 30));
}

#[test]
fn above_the_watermark_the_signature_counts() {
    let mut scene = scene();
    let channel = scene.channel();
    let authority = scene.node.owner.pubkey();
    let unsigned = Voucher { cumulative: 1, ..Voucher::none() };
    let instruction = ix::close_batch(&authority, &scene.node, &[(channel, unsigned)]);
    assert_refused(scene.world.run(&[instruction], &[&scene.node.owner]), SettlementError::BadSignature);
    let too_high = Voucher::of(&scene.agent, &channel, 101);
    let instruction = ix::close_batch(&authority, &scene.node, &[(channel, too_high)]);
    assert_refused(scene.world.run(&[instruction], &[&scene.node.owner]), SettlementError::AboveDeposit);
    assert_eq!(scene.world.read_channel(&channel).status, status::OPEN);
}

#[test]
// r[verify settlement.voucher.expired]
fn an_expired_voucher_does_not_close() {
    let mut scene = scene();
    let channel = scene.channel();
    let voucher = Voucher::signed(&scene.agent.signer, &channel, 60, START);
    assert_eq!(scene.close(&[(channel, voucher)]), 1);
    assert_eq!(scene.world.read_channel(&channel).status, status::OPEN);
}

#[test]
// r[verify channel.close.node_only]
fn only_the_nodes_owner_and_operator_close() {
    let mut scene = scene();
    let rival = scene.world.operator(100);
    let channel = scene.channel();
    for stranger in [&scene.agent.owner, &scene.node.id, &rival.authority] {
        let instruction = ix::close_batch(&stranger.pubkey(), &scene.node, &[(channel, Voucher::none())]);
        assert_refused(scene.world.run(&[instruction], &[stranger]), SettlementError::Unauthorised);
    }
    // Nor does the rival's own account help.
    let mut instruction = ix::close_batch(&rival.authority.pubkey(), &scene.node, &[(channel, Voucher::none())]);
    instruction.accounts[2].pubkey = rival.account;
    assert_refused(scene.world.run(&[instruction], &[&rival.authority]), SettlementError::WrongParty);
    let mut unsigned = ix::close_batch(&scene.node.owner.pubkey(), &scene.node, &[(channel, Voucher::none())]);
    unsigned.accounts[0].is_signer = false;
    assert_refused(scene.world.run(&[unsigned], &[]), SettlementError::MissingSignature);

    let instruction = ix::close_batch(&scene.node.owner.pubkey(), &scene.node, &[(channel, Voucher::none())]);
    scene.world.run(&[instruction], &[&scene.node.owner]).unwrap();
    assert_eq!(scene.world.read_channel(&channel).status, status::CLOSED);
}

#[test]
// r[verify channel.grace.deadline]
fn a_closing_channel_closes_until_the_second_before_its_deadline() {
    let mut scene = scene();
    let [early, late] = [(); 2].map(|()| scene.channel());
    for channel in [early, late] {
        scene.world.run(&[ix::request_close(&scene.agent, &channel)], &[&scene.agent.owner]).unwrap();
    }
    let deadline = START + i64::from(MIN_GRACE_S);
    scene.world.set_time(deadline - 1);
    let voucher = Voucher::of(&scene.agent, &early, 60);
    assert_eq!(scene.close(&[(early, voucher)]), 0);
    scene.world.set_time(deadline);
    let voucher = Voucher::of(&scene.agent, &late, 60);
    assert_eq!(scene.close(&[(late, voucher), (late, Voucher::none())]), 0b11);
    assert_eq!(scene.world.read_channel(&late).settled, 0);
}

#[test]
// r[verify settlement.batch.skip]
fn the_same_channel_twice_closes_once() {
    let mut scene = scene();
    let channel = scene.channel();
    let [low, high] = [10, 20].map(|amount| (channel, Voucher::of(&scene.agent, &channel, amount)));
    assert_eq!(scene.close(&[low, high]), 0b10);
    let node = scene.world.read_node(&scene.node);
    let operator = scene.world.read_operator(&scene.operator);
    assert_eq!(node.earned + node.protocol_fees + operator.fees, 10);
}

#[test]
fn compute_of_one_and_seven_entries() {
    for (count, limit) in [(1u64, 30_000), (7, 190_000)] {
        let mut scene = scene();
        let entries: Vec<_> = (0..count)
            .map(|_| {
                let channel = scene.channel();
                (channel, Voucher::of(&scene.agent, &channel, 10))
            })
            .collect();
        let instruction = ix::close_batch(&scene.operator.authority.pubkey(), &scene.node, &entries);
        let done = scene.world.run(&[instruction], &[&scene.operator.authority]).unwrap();
        println!("close_batch of {count}: {} CU", done.compute_units_consumed);
        assert!(done.compute_units_consumed < limit, "{}", done.compute_units_consumed);
    }
}
