//! The same channel twice in one batch never credits twice, whatever the batch does.

use settlement_chain::{Address, Signer};
use settlement_interface::{accounts::status, errors::SettlementError};

use crate::{
    instructions as ix,
    ledger::{
        AgentParty, MIN_GRACE_S, NodeParty, OperatorParty, START, Voucher, World, assert_refused, open_entry, skipped,
    },
};

struct Scene {
    world: World,
    agent: AgentParty,
    node: NodeParty,
    operator: OperatorParty,
    channel: Address,
}

fn scene() -> Scene {
    let mut world = World::new();
    let operator = world.operator(100);
    let node = world.node(Some(&operator));
    let agent = world.agent(1_000);
    let channel = world.channel(&agent, &node, 100);
    Scene { world, agent, node, operator, channel }
}

impl Scene {
    fn entry(&self, amount: u64) -> (Address, Voucher) {
        (self.channel, Voucher::of(&self.agent, &self.channel, amount))
    }

    /// What node, operator and protocol were credited together.
    fn credited(&self) -> u64 {
        let node = self.world.read_node(&self.node);
        node.earned + node.protocol_fees + self.world.read_operator(&self.operator).fees
    }
}

#[test]
// r[verify settlement.batch.skip]
fn the_same_channel_twice_in_one_batch_never_credits_twice_when_settling() {
    // Amounts of the entries, which of them are skipped, and what all of them credit.
    for (amounts, bitmap, credited) in [
        (vec![60, 60], 0b10, 60),
        (vec![60, 61], 0, 61),
        (vec![61, 60], 0b10, 61),
        (vec![100, 100, 100], 0b110, 100),
        (vec![10, 20, 10, 30, 20], 0b10100, 30),
    ] {
        let mut scene = scene();
        let entries: Vec<_> = amounts.iter().map(|amount| scene.entry(*amount)).collect();
        let done = scene.world.run(&[ix::settle_batch(&scene.node, &entries)], &[]).unwrap();
        assert_eq!((skipped(&done), scene.credited()), (bitmap, credited), "{amounts:?}");
        assert_eq!(scene.world.read_channel(&scene.channel).settled, credited);
    }
}

#[test]
// r[verify settlement.batch.skip]
fn the_same_channel_in_two_batches_of_one_transaction_never_credits_twice() {
    let mut scene = scene();
    let settle = ix::settle_batch(&scene.node, &[scene.entry(60)]);
    let close = ix::close_batch(&scene.node.owner.pubkey(), &scene.node, &[scene.entry(60)]);
    scene.world.run(&[settle.clone(), settle.clone(), close.clone(), settle, close], &[&scene.node.owner]).unwrap();
    assert_eq!(scene.credited(), 60);
}

#[test]
// r[verify settlement.batch.skip]
fn the_same_channel_twice_in_one_batch_never_credits_twice_when_closing() {
    // Closed is closed: not even a higher voucher counts after it.
    for (amounts, bitmap, credited) in
        [(vec![60, 60], 0b10, 60), (vec![60, 61], 0b10, 60), (vec![0, 60], 0b10, 0), (vec![100, 0, 100], 0b110, 100)]
    {
        let mut scene = scene();
        let entries: Vec<_> = amounts.iter().map(|amount| scene.entry(*amount)).collect();
        let close = ix::close_batch(&scene.node.owner.pubkey(), &scene.node, &entries);
        let done = scene.world.run(&[close], &[&scene.node.owner]).unwrap();
        assert_eq!((skipped(&done), scene.credited()), (bitmap, credited), "{amounts:?}");
    }
}

#[test]
// r[verify channel.nonce.rising]
fn the_same_channel_twice_in_one_batch_never_credits_twice_when_opening() {
    let mut scene = scene();
    let (entry, channel) = open_entry(&scene.agent, &scene.node, 1, 100);
    let twice = [(); 2].map(|()| (entry.clone(), scene.node.account, channel));
    let open = ix::open_batch(&scene.world, &scene.agent, &twice);
    assert_refused(scene.world.run(&[open], &[&scene.agent.owner]), SettlementError::NonceUsed);
    assert!(scene.world.data(&channel).is_empty());
    assert_eq!(scene.world.read_agent(&scene.agent).available, 900);

    // Nor does a second nonce open the first one's address.
    let (mut second, _) = open_entry(&scene.agent, &scene.node, 2, 100);
    second.bump = entry.bump;
    let open = ix::open_batch(&scene.world, &scene.agent, &[twice[0].clone(), (second, scene.node.account, channel)]);
    assert_refused(scene.world.run(&[open], &[&scene.agent.owner]), SettlementError::WrongAddress);
    assert_eq!(scene.world.read_agent(&scene.agent).available, 900);
}

#[test]
// r[verify settlement.batch.skip]
fn the_same_channel_twice_in_one_batch_never_credits_twice_when_reclaiming() {
    let mut scene = scene();
    let close = ix::close_batch(&scene.node.owner.pubkey(), &scene.node, &[scene.entry(60)]);
    scene.world.run(&[close], &[&scene.node.owner]).unwrap();
    let sponsor = scene.world.sponsor.pubkey();
    let before = scene.world.svm.get_balance(&sponsor).unwrap();
    let rent = scene.world.svm.get_balance(&scene.channel).unwrap();
    let reclaim = ix::reclaim_batch(&scene.world, &scene.agent, &[scene.channel; 3]);
    let done = scene.world.run(&[reclaim], &[]).unwrap();
    assert_eq!(skipped(&done), 0b110);
    assert_eq!(scene.world.read_agent(&scene.agent).available, 940);
    assert_eq!(scene.world.svm.get_balance(&sponsor).unwrap(), before + rent);
}

#[test]
// r[verify settlement.batch.skip]
fn the_same_channel_twice_in_one_batch_never_credits_twice_when_finalizing() {
    let mut scene = scene();
    scene.world.run(&[ix::request_close(&scene.agent, &scene.channel)], &[&scene.agent.owner]).unwrap();
    scene.world.set_time(START + i64::from(MIN_GRACE_S));
    let done = scene.world.run(&[ix::finalize_batch(&[scene.channel; 2])], &[]).unwrap();
    assert_eq!(skipped(&done), 0b10);
    assert_eq!(scene.world.read_channel(&scene.channel).status, status::CLOSED);
    assert_eq!((scene.credited(), scene.world.read_agent(&scene.agent).available), (0, 900));
}
