//! A node that settles by itself when nobody else does.

use std::collections::HashSet;

use node_server::{FeeKey, NodeConfig, RunningNode, SettleError};
use settlement_chain::instructions::{self, SYSTEM_PROGRAM};
use settlement_chain::interface::instructions::VoucherEntry;
use settlement_chain::submit::submit;
use settlement_chain::{Address, Keypair, Program};

use crate::agent::{Agent, until};
use crate::chain::LossyChain;
use crate::handing_over::Scripted;
use crate::world::{Funded, World, units};

/// The chain's time when these tests begin. The grace of their channels is 900 seconds.
const START: i64 = 1_900_000_000;
const EIGHTH: i64 = 900 / 8;
const QUARTER: i64 = 900 / 4;

/// A node whose only operator is down, and a chain that the test can break.
struct Alone {
    world: World,
    chain: LossyChain,
    node: RunningNode,
}

impl Alone {
    async fn start(fee_key: impl FnOnce(&World) -> Option<FeeKey>) -> Self {
        let world = World::new().await;
        let chain = LossyChain::new(world.chain.clone(), START);
        let fee_key = fee_key(&world);
        let config =
            NodeConfig { operators: vec![Scripted::down(&world)], fee_key, resend_interval_ms: 5, ..world.config() };
        let node = world.start_on(&chain, config).await;
        Self { world, chain, node }
    }

    /// An agent that pays so much and then begins to close; the node has seen it.
    async fn closing(&self, paid: u64) -> Funded {
        let funded = self.world.fund(1_000_000).await;
        let mut agent = Agent::bound(&self.world, &self.node, &funded).await;
        agent.pay(&funded, paid).await.unwrap();
        let deadline = self.world.request_close(&funded).await;
        assert_eq!(deadline, self.chain.now() + 900);
        self.node.follow_now().await.unwrap();
        funded
    }

    async fn until_settled(&self, funded: &Funded, amount: u64) {
        until(async || self.world.settled(funded).await >= amount).await;
    }
}

// r[verify settlement.watch.node]
// r[verify settlement.submit.same_bytes]
#[tokio::test(flavor = "multi_thread")]
async fn a_closing_channel_is_settled_within_a_quarter_though_nine_of_ten_sends_are_lost_and_its_operator_is_down() {
    let alone = Alone::start(|world| Some(world.fee_key())).await;
    let funded = alone.closing(900).await;
    alone.chain.lose(10, 1);
    alone.chain.warp_clock(START + EIGHTH);
    alone.until_settled(&funded, 900).await;

    assert!(alone.chain.now() < START + QUARTER, "it took {} s", alone.chain.now() - START);
    let sends = alone.chain.sends();
    assert!(sends.len() >= 10, "nine of ten are lost");
    assert_eq!(sends.iter().collect::<HashSet<_>>().len(), 1, "the same bytes, again and again");
    assert_eq!(alone.chain.landed(), 1);
    until(async || alone.node.status().await.at_risk.is_zero()).await;
    let status = alone.node.status().await;
    assert_eq!(status.channel(funded.channel).unwrap().settled, units(900));
    assert!(status.earned.unwrap() > units(0), "the money is the node's");
}

// r[verify settlement.watch.node]
#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_whose_blockhash_has_died_is_made_anew() {
    let alone = Alone::start(|world| Some(world.fee_key())).await;
    let funded = alone.closing(900).await;
    alone.chain.lose(0, 0);
    alone.chain.warp_clock(START + EIGHTH);
    until(async || !alone.chain.sends().is_empty()).await;
    alone.world.chain.skip_blocks(200);
    alone.chain.lose(1, 0);
    alone.until_settled(&funded, 900).await;
    assert!(alone.chain.sends().iter().collect::<HashSet<_>>().len() >= 2);
    let offered = alone.chain.offered();
    let (first, last) = (offered.first().unwrap(), offered.last().unwrap());
    assert!((1..100).contains(first), "nobody else pays: the least for what is closing, not {first}");
    assert!(last > first, "what did not land offers more");
    assert_eq!(alone.chain.landed(), 1, "one fee");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_has_settled_in_time_costs_the_node_no_fee() {
    let alone = Alone::start(|world| Some(world.fee_key())).await;
    let funded = alone.closing(900).await;
    // Somebody settles, and the node has not followed the chain since.
    let program = Program::local();
    let (node, _) = program.node(&Address::from(alone.world.key.public()));
    let voucher = aro_proto::channel::Voucher { channel: funded.channel, cumulative: units(900), expires_at: 0 };
    let entry = VoucherEntry { signature: voucher.sign(&funded.signer).signature, cumulative: 900 };
    let entries = [(Address::from(funded.channel.to_bytes()), entry, 0)];
    let settle = instructions::settle_batch(&program, &node, &SYSTEM_PROGRAM, &entries);
    submit(&alone.world.chain, &alone.world.admin, &[], &[settle]).await.unwrap();

    let reads = alone.chain.account_reads();
    alone.chain.warp_clock(START + EIGHTH);
    until(async || alone.node.status().await.channel(funded.channel).unwrap().settled == units(900)).await;
    assert!(alone.chain.account_reads() > reads, "the node has looked before it would have paid");
    assert_eq!(alone.chain.sends(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voucher_that_the_chain_refuses_does_not_keep_the_others_from_settling() {
    let alone = Alone::start(|world| Some(world.fee_key())).await;
    let (bad, good, other) = (alone.closing(900).await, alone.closing(800).await, alone.closing(700).await);
    alone.chain.refuse(Address::from(bad.channel.to_bytes()));
    alone.chain.warp_clock(START + EIGHTH);
    alone.until_settled(&good, 800).await;
    alone.until_settled(&other, 700).await;
    assert_eq!(alone.world.settled(&bad).await, 0);
    assert_eq!(alone.node.status().await.channel(bad.channel).unwrap().watermark, units(900), "it is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_fee_key_status_says_what_is_at_risk_and_settling_by_hand_helps() {
    let alone = Alone::start(|_| None).await;
    let funded = alone.closing(900).await;
    let status = alone.node.status().await;
    assert_eq!((status.at_risk, status.fee_key.clone()), (units(900), None));
    assert_eq!(status.channel(funded.channel).unwrap().deadline, Some(START + 900));
    assert!(status.warnings.iter().any(|warning| warning.contains("aro-node settle")), "{:?}", status.warnings);
    assert!(status.warnings.iter().any(|warning| warning.contains("--fee-keypair")), "{:?}", status.warnings);

    assert!(matches!(alone.node.settle(None).await, Err(SettleError::NoFeeKey)));
    let empty = alone.node.settle(Some(FeeKey::new(Keypair::new()))).await;
    assert!(matches!(&empty, Err(SettleError::Submit(_))), "{empty:?}");

    let report = alone.node.settle(Some(alone.world.fee_key())).await.unwrap();
    assert_eq!((report.settled[0].channel, report.settled[0].cumulative), (funded.channel, units(900)));
    assert_eq!(alone.world.settled(&funded).await, 900);
    assert_eq!(alone.node.status().await.at_risk, units(0));
    assert_eq!(alone.node.settle(Some(alone.world.fee_key())).await.unwrap().settled, [], "nothing is left");
}

// r[verify settlement.priority.bounded]
#[tokio::test(flavor = "multi_thread")]
async fn the_cap_of_an_hour_holds_over_settlements_by_hand_and_over_a_restart() {
    let world = World::new().await;
    let chain = LossyChain::new(world.chain.clone(), START);
    let fee_key = Some(world.fee_key());
    let config = NodeConfig { fee_key, max_priority_lamports: 1, resend_interval_ms: 5, ..world.config() };
    let funded = world.fund(1_000_000).await;
    let settle = async |node: &RunningNode, paid: u64| {
        Agent::bound(&world, node, &funded).await.pay(&funded, paid).await.unwrap();
        assert_eq!(node.settle(None).await.unwrap().settled.len(), 1);
        *chain.offered().last().unwrap()
    };
    let node = world.start_on(&chain, config.clone()).await;
    for paid in 1..=40 {
        assert_eq!(settle(&node, paid).await, 1, "settlement {paid}");
    }
    assert_eq!(settle(&node, 41).await, 0, "the hour is used up");
    node.shutdown().await.unwrap();

    let node = world.start_on(&chain, config).await;
    assert_eq!(settle(&node, 42).await, 0, "and is no other one after a restart");
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_channels_settle_by_hand_in_batches_even_if_one_is_refused() {
    let alone = Alone::start(|world| Some(world.fee_key())).await;
    let mut all = Vec::new();
    for number in 0..11 {
        let funded = alone.world.fund(10_000).await;
        Agent::bound(&alone.world, &alone.node, &funded).await.pay(&funded, 100 + number).await.unwrap();
        all.push(funded);
    }
    alone.chain.refuse(Address::from(all[3].channel.to_bytes()));
    let report = alone.node.settle(None).await.unwrap();
    assert_eq!((report.settled.len(), report.skipped.len()), (10, 1));
    assert_eq!(report.skipped[0].0, all[3].channel);
    for (number, funded) in all.iter().enumerate().filter(|(number, _)| *number != 3) {
        assert_eq!(alone.world.settled(funded).await, 100 + number as u64);
    }
}
