//! What could break: money lost or made between deposit and payout, a voucher settled below the best one, a
//! transaction sent twice with effect or forgotten in a crash, one bad entry that holds up all others.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod fixture;

use std::sync::Arc;
use std::time::Duration;

use aro_proto::channel::{SignedVoucher, Voucher};
use aro_proto::{Amount, ChannelId, RefusalCode, SecretKey};
use fixture::{FUNDS, Fault, GRACE_S, NOW, OPERATOR_BPS, PROTOCOL_BPS, TestChain, World, address};
use settlement_chain::instructions::{self, WithdrawEarned};
use settlement_chain::reads::{self, associated_token_address};
use settlement_chain::{Address, Signer, check_size, submit, tokens};
use settlement_interface::accounts::status;
use settlement_interface::fees;
use settlement_interface::instructions::{EVERYTHING, VoucherEntry};
use settlement_operator::batch::Rules;
use settlement_operator::vouchers::{Accepted, Claim, MemoryStore, RedbStore, VoucherStore};
use settlement_operator::{
    FeeSource, Operator, OperatorConfig, RunningOperator, SettleReport, StartError, register, withdraw_fees,
};

async fn settle(operator: &RunningOperator) -> SettleReport {
    tokio::time::timeout(Duration::from_secs(30), operator.settle_once()).await.expect("in time").unwrap()
}

/// Cuts an operator off in the middle of a round, at the moment when the fault strikes.
async fn crash(operator: RunningOperator, chain: &TestChain) {
    tokio::select! {
        report = operator.settle_once() => panic!("the fault did not strike: {report:?}"),
        () = chain.struck.notified() => {}
    }
    chain.set(Fault::None);
}

// r[verify settlement.fee.operator]
// r[verify settlement.fee.payout]
#[tokio::test]
async fn forty_channels_close_in_full_batches_and_every_unit_is_accounted_for() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let chain = TestChain::new(world.chain.clone());
    let operator = world.start_on(dir.path(), Arc::new(chain.clone())).await;
    let client = world.client(&operator).await;
    let channels = world.open(40, 1_000_000).await;
    let amount = |index: usize| 12_345 + 7 * u64::try_from(index).unwrap();
    let vouchers: Vec<_> = channels.iter().enumerate().map(|(i, id)| world.closing(*id, amount(i))).collect();
    client.hand(&vouchers).await.ack();

    let report = settle(&operator).await;
    assert_eq!((report.closed.len(), report.reclaimed.len()), (40, 40), "{report:?}");
    assert!(report.skipped.is_empty() && report.trouble.is_empty(), "{report:?}");
    for (index, id) in channels.iter().enumerate() {
        let closed = report.closed.iter().find(|closed| closed.channel == *id).unwrap();
        assert_eq!(closed.cumulative, Amount::new(amount(index)));
        assert_eq!(world.channel(*id).await, None);
    }
    // 36 closes fill a transaction, then 4, then all refunds in one; each pays for one signature.
    let sent = chain.sent();
    let sizes: Vec<usize> = sent.iter().map(|transaction| check_size(transaction).unwrap()).collect();
    assert_eq!(sizes.len(), 3, "{sizes:?}");
    assert!(sizes.contains(&4_040) && sent.iter().all(|transaction| transaction.signatures.len() == 1), "{sizes:?}");
    assert!(operator.vouchers().await.unwrap().is_empty(), "what is final is pruned");
    assert!(settle(&operator).await.is_empty(), "nothing is left to do");

    let mut expected = fees::Split { node: 0, operator: 0, protocol: 0 };
    // The program divides each voucher's rise for itself.
    for index in 0..channels.len() {
        let parts = fees::split(amount(index), OPERATOR_BPS, PROTOCOL_BPS).unwrap();
        expected.node += parts.node;
        expected.operator += parts.operator;
        expected.protocol += parts.protocol;
    }
    let node = world.node().await;
    let paid: u64 = (0..channels.len()).map(amount).sum();
    assert_eq!(world.available().await, FUNDS - paid);
    assert_eq!(node.earned + node.protocol_fees + world.operator_fees().await, paid);
    assert_eq!((node.earned, world.operator_fees().await), (expected.node, expected.operator));

    let program = &world.program;
    let mine = FeeSource::Operator(operator.operator_account());
    let fees = withdraw_fees(&world.chain, program, &world.authority, mine).await.unwrap();
    let swept = withdraw_fees(&world.chain, program, &world.authority, FeeSource::Protocol(world.node_account()));
    let swept = swept.await.unwrap();
    let withdraw = WithdrawEarned {
        authority: world.node_owner.pubkey(),
        node: world.node_account(),
        operator: operator.operator_account(),
        payout: Address::from(node.payout),
        amount: EVERYTHING,
    };
    let step = instructions::withdraw_earned(program, &withdraw);
    submit::submit(&world.chain, &world.node_owner, &[], &[step]).await.unwrap();
    let step = instructions::withdraw_available(
        program,
        &world.agent.pubkey(),
        &associated_token_address(&world.agent.pubkey(), &world.setup.mint),
        world.available().await,
    );
    submit::submit(&world.chain, &world.agent, &[], &[step]).await.unwrap();

    let payout = |owner: &Address| associated_token_address(owner, &world.setup.mint);
    assert_eq!(world.tokens(&payout(&world.node_owner.pubkey())).await, expected.node);
    assert_eq!((world.tokens(&fees.destination).await, fees.amount), (expected.operator, expected.operator));
    assert_eq!((world.tokens(&swept.destination).await, swept.amount), (expected.protocol, expected.protocol));
    assert_eq!(swept.destination, world.setup.treasury);
    assert_eq!(world.tokens(&payout(&world.agent.pubkey())).await, FUNDS - paid);
    assert_eq!(world.tokens(&world.setup.vault).await, 0);
    let again = withdraw_fees(&world.chain, program, &world.authority, mine).await.unwrap();
    assert_eq!((again.amount, again.signature), (0, None));
}

// r[verify settlement.worth]
#[tokio::test]
async fn open_channels_are_settled_when_it_is_worth_it_and_stay_open() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let operator = world.start(dir.path()).await;
    let client = world.client(&operator).await;
    let [rich, poor] = world.open(2, 1_000_000).await[..] else { panic!("two channels") };
    client.hand(&[world.voucher(rich, 1_000), world.voucher(poor, 999)]).await.ack();
    let report = settle(&operator).await;
    assert_eq!(
        report.settled.iter().map(|s| (s.channel, s.cumulative)).collect::<Vec<_>>(),
        [(rich, Amount::new(1_000))]
    );
    let channel = world.channel(rich).await.unwrap();
    assert_eq!((channel.status, channel.settled), (status::OPEN, 1_000));

    // The settled voucher is pruned; the chain's watermark stands in for it.
    assert_eq!(operator.vouchers().await.unwrap().len(), 1);
    assert_eq!(client.refused_with(world.voucher(rich, 999)).await, RefusalCode::VoucherNotRising);
    let verdict = client.hand(&[world.voucher(rich, 1_000)]).await.ack().verdicts.remove(0);
    assert_eq!((verdict.watermark, verdict.refusal), (Some(Amount::new(1_000)), None), "safe: settled on chain");
    assert_eq!(client.refusal(world.closing(rich, 1_000)).await, None, "nothing to pay, but to close");
    let report = settle(&operator).await;
    assert_eq!(
        report.closed.iter().map(|c| (c.channel, c.cumulative)).collect::<Vec<_>>(),
        [(rich, Amount::new(1_000))]
    );
}

// r[verify settlement.worth]
#[tokio::test]
async fn what_is_worth_a_transaction_follows_what_a_place_in_a_block_costs() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let chain = TestChain::new(world.chain.clone());
    // One base unit a lamport, and a fee may be all of what is settled.
    let rules = Rules {
        min_settle: Amount::new(1),
        aro_per_sol: Amount::new(1_000_000_000),
        worth_factor: 1,
        ..Rules::default()
    };
    let config = OperatorConfig { rules, ..world.config(dir.path()) };
    let operator = world.start_another(config, world.operator_key.clone(), Arc::new(chain.clone())).await;
    let channel = world.open(1, 1_000_000).await[0];
    world.client(&operator).await.hand(&[world.voucher(channel, 6_000)]).await.ack();
    *chain.paid.lock().unwrap() = vec![10_000];
    assert!(settle(&operator).await.is_empty(), "worth the base fee, and not the priority fee of a busy chain");
    chain.paid.lock().unwrap().clear();
    assert_eq!(settle(&operator).await.settled[0].cumulative, Amount::new(6_000));
}

#[tokio::test]
async fn closing_channel_is_settled_in_its_grace_and_finalized_after_it() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let operator = world.start(dir.path()).await;
    let client = world.client(&operator).await;
    let [paid, unpaid] = world.open(2, 1_000_000).await[..] else { panic!("two channels") };
    client.hand(&[world.voucher(paid, 10)]).await.ack();
    world.request_close(paid).await;
    world.request_close(unpaid).await;

    let report = settle(&operator).await;
    assert_eq!(report.settled.len(), 1, "below what is worth settling, but urgent: {report:?}");
    assert_eq!(world.channel(paid).await.unwrap().status, status::CLOSING);
    assert_eq!(client.refusal(world.voucher(paid, 20)).await, None, "a better voucher still counts");
    assert_eq!(settle(&operator).await.settled[0].cumulative, Amount::new(20));

    world.chain.warp_clock(NOW + i64::from(GRACE_S));
    let report = settle(&operator).await;
    assert_eq!((report.finalized.len(), report.reclaimed.len()), (2, 2), "{report:?}");
    assert_eq!(world.available().await, FUNDS - 20);
}

// r[verify settlement.write_ahead]
#[tokio::test]
async fn crash_before_the_send_sends_the_recorded_transaction() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let chain = TestChain::new(world.chain.clone());
    let channel = world.open(1, 1_000_000).await[0];
    let operator = world.start_on(dir.path(), Arc::new(chain.clone())).await;
    world.client(&operator).await.hand(&[world.closing(channel, 5_000)]).await.ack();
    chain.set(Fault::HangBeforeSend);
    crash(operator, &chain).await;
    assert!(chain.sent().is_empty());

    let operator = world.start_on(dir.path(), Arc::new(chain.clone())).await;
    let client = world.client(&operator).await;
    let late = client.refusal(world.closing(channel, 6_000)).await.unwrap();
    assert_eq!(late.code(), RefusalCode::OverCapacity, "a close at less is signed already");
    let report = settle(&operator).await;
    assert_eq!(report.closed[0].signature, chain.sent()[0].signatures[0]);
    assert_eq!((report.closed.len(), report.closed[0].cumulative), (1, Amount::new(5_000)));
    assert_eq!(world.available().await, FUNDS - 5_000);
}

// r[verify settlement.close.said_anew]
#[tokio::test]
async fn wish_of_an_earlier_life_closes_nothing_until_its_node_says_it_anew() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let channel = world.open(1, 1_000_000).await[0];
    let operator = world.start(dir.path()).await;
    world.client(&operator).await.hand(&[world.closing(channel, 5_000)]).await.ack();
    operator.shutdown().await;

    let chain = Arc::new(world.chain.clone());
    let deaf = Operator::once(&world.config(dir.path()), world.authority.insecure_clone(), chain).await.unwrap();
    assert_eq!((deaf.closed.len(), deaf.settled.len()), (0, 1), "who hears no node closes nothing: {deaf:?}");
    let operator = world.start(dir.path()).await;
    assert!(settle(&operator).await.closed.is_empty());
    let client = world.client(&operator).await;
    assert_eq!(client.refusal(world.voucher(channel, 5_000)).await, None, "its best voucher is no wish");
    assert!(settle(&operator).await.closed.is_empty());
    assert_eq!(world.channel(channel).await.unwrap().status, status::OPEN);
    assert_eq!(client.refusal(world.closing(channel, 5_000)).await, None);
    assert_eq!(settle(&operator).await.closed[0].cumulative, Amount::new(5_000));
}

// r[verify settlement.write_ahead]
#[tokio::test]
async fn crash_after_the_landing_is_reported_and_not_repeated() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let chain = TestChain::new(world.chain.clone());
    let channel = world.open(1, 1_000_000).await[0];
    let operator = world.start_on(dir.path(), Arc::new(chain.clone())).await;
    world.client(&operator).await.hand(&[world.closing(channel, 5_000)]).await.ack();
    chain.set(Fault::HangAfterSend);
    crash(operator, &chain).await;
    assert_eq!(chain.sent().len(), 1);

    let operator = world.start_on(dir.path(), Arc::new(chain.clone())).await;
    let report = settle(&operator).await;
    assert_eq!((report.closed.len(), report.reclaimed.len()), (1, 1));
    assert_eq!(report.closed[0].signature, chain.sent()[0].signatures[0]);
    assert_eq!(chain.sent().len(), 2, "the close of the earlier life, and the refund");
    assert_eq!((world.node().await.earned, world.available().await), (4_900, FUNDS - 5_000));
}

// r[verify settlement.uncertain]
#[tokio::test]
async fn transaction_that_can_never_land_is_signed_anew_but_an_uncertain_one_is_not() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let chain = TestChain::new(world.chain.clone());
    let channel = world.open(1, 1_000_000).await[0];
    let operator = world.start_on(dir.path(), Arc::new(chain.clone())).await;
    world.client(&operator).await.hand(&[world.closing(channel, 5_000)]).await.ack();
    chain.set(Fault::HangBeforeSend);
    crash(operator, &chain).await;
    world.chain.skip_blocks(200);

    chain.set(Fault::NoStatuses);
    let operator = world.start_on(dir.path(), Arc::new(chain.clone())).await;
    // As nodes do after every start.
    assert_eq!(world.client(&operator).await.refusal(world.closing(channel, 5_000)).await, None);
    let round = tokio::time::timeout(Duration::from_secs(30), operator.settle_once()).await;
    let error = round.expect("nothing is sent that would have to be waited for").unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(chain.sent().is_empty(), "uncertain is never dead");

    chain.set(Fault::None);
    let report = settle(&operator).await;
    assert_eq!(report.closed.len(), 1, "{report:?}");
    assert_eq!(chain.sent().len(), 2);
}

// r[verify settlement.database.bound]
#[tokio::test]
async fn database_of_another_operator_account_is_refused_and_left_as_it_was() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let channel = world.open(1, 1_000_000).await[0];
    let operator = world.start(dir.path()).await;
    world.client(&operator).await.hand(&[world.closing(channel, 5_000)]).await.ack();
    let before = operator.vouchers().await.unwrap();
    operator.shutdown().await;

    let other = settlement_chain::Keypair::new();
    world.chain.airdrop(&other.pubkey(), 1_000_000_000).unwrap();
    register(&world.chain, &world.program, &world.admin, &other, OPERATOR_BPS, &other.pubkey()).await.unwrap();
    let chain = || Arc::new(world.chain.clone());
    let started = Operator::start(world.config(dir.path()), world.operator_key.clone(), other, chain()).await;
    let Err(StartError::OtherDeployment(error)) = started.map(|_| ()) else { panic!("it starts") };
    assert_eq!((error.what, error.stored), ("operator account", world.operator_account().to_string()));
    let store = RedbStore::open(&world.config(dir.path()).database()).await.unwrap();
    assert_eq!(store.page(None, 10).await.unwrap(), before);
}

// r[verify settlement.prune]
#[tokio::test]
async fn voucher_is_kept_until_its_settlement_is_final() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let chain = TestChain::new(world.chain.clone());
    let [settled, closed] = world.open(2, 1_000_000).await[..] else { panic!("two channels") };
    let operator = world.start_on(dir.path(), Arc::new(chain.clone())).await;
    let vouchers = [world.voucher(settled, 5_000), world.closing(closed, 5_000)];
    world.client(&operator).await.hand(&vouchers).await.ack();
    chain.set(Fault::NotFinal);
    let report = settle(&operator).await;
    assert_eq!((report.settled.len(), report.closed.len()), (1, 1));
    assert_eq!(operator.vouchers().await.unwrap().len(), 2, "a fork may still take it back");
    let sent = chain.sent().len();
    assert!(settle(&operator).await.is_empty(), "told once");
    assert_eq!((operator.vouchers().await.unwrap().len(), chain.sent().len()), (2, sent));

    chain.set(Fault::None);
    assert!(settle(&operator).await.is_empty());
    assert!(operator.vouchers().await.unwrap().is_empty());
}

// r[verify settlement.prune]
#[tokio::test]
async fn voucher_that_somebody_else_settled_is_kept_for_64_blocks() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let operator = world.start(dir.path()).await;
    let channel = world.open(1, 1_000_000).await[0];
    let voucher = world.voucher(channel, 5_000);
    world.client(&operator).await.hand(&[voucher]).await.ack();
    let entry = VoucherEntry { signature: voucher.signature, cumulative: 5_000 };
    let batch = [(address(channel), entry, 0)];
    let by_hand = instructions::settle_batch(&world.program, &world.node_account(), &world.operator_account(), &batch);
    submit::submit(&world.chain, &world.admin, &[], &[by_hand]).await.unwrap();

    let kept = async || operator.vouchers().await.unwrap().len();
    // No journal says that it is final, so blocks must.
    assert!(settle(&operator).await.is_empty());
    assert_eq!(kept().await, 1);
    world.chain.skip_blocks(63);
    assert!(settle(&operator).await.is_empty());
    assert_eq!(kept().await, 1, "a fork may still take it back");
    world.chain.skip_blocks(1);
    assert!(settle(&operator).await.is_empty());
    assert_eq!(kept().await, 0);
}

#[tokio::test]
async fn voucher_that_the_chain_refuses_holds_up_no_other() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let channels = world.open(5, 1_000_000).await;
    let store = Arc::new(MemoryStore::default());
    let operator = world.start_with_store(dir.path(), Arc::<MemoryStore>::clone(&store)).await;
    // Straight into the store, past the intake that would refuse it.
    let stranger = SecretKey::from_bytes(&[66; 32]);
    for (index, id) in channels.iter().enumerate() {
        let key = if index == 2 { &stranger } else { &world.signer };
        let voucher = Voucher { channel: *id, cumulative: Amount::new(5_000), expires_at: 0 };
        let signed: SignedVoucher = voucher.sign(key);
        let voucher = signed.verify(&key.agent_id()).unwrap();
        let accepted = Accepted { voucher, node: world.node_account(), close: true };
        store.commit(vec![(*id, Ok(Claim::Rise(accepted)))], NOW).await.unwrap();
    }
    let report = settle(&operator).await;
    assert_eq!(report.closed.len(), 4, "{report:?}");
    let skipped: Vec<ChannelId> = report.skipped.iter().map(|skipped| skipped.channel).collect();
    assert_eq!(skipped, [channels[2]]);
    assert!(report.skipped[0].reason.contains("BadSignature"), "{}", report.skipped[0].reason);
    assert_eq!(world.channel(channels[2]).await.unwrap().status, status::OPEN);
}

#[tokio::test]
async fn operator_without_sol_says_so_and_loses_nothing() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let operator = world.start(dir.path()).await;
    let channels = world.open(12, 1_000_000).await;
    let vouchers: Vec<_> = channels.iter().map(|id| world.closing(*id, 5_000)).collect();
    world.client(&operator).await.hand(&vouchers).await.ack();
    let authority = world.authority.pubkey();
    let move_out = |lamports| {
        let instruction = tokens::transfer_lamports(&authority, &world.admin.pubkey(), lamports);
        async { submit::submit(&world.chain, &world.admin, &[&world.authority], &[instruction]).await.unwrap() }
    };
    move_out(reads::lamports(&world.chain, &authority).await.unwrap()).await;

    let report = settle(&operator).await;
    assert_eq!(report.trouble.len(), 1, "{report:?}");
    assert_eq!(report.trouble[0].remedy, submit::Remedy::FundFees);
    assert_eq!((report.skipped.len(), operator.vouchers().await.unwrap().len()), (12, 12));
    world.chain.airdrop(&authority, 1_000_000_000).unwrap();
    assert_eq!(settle(&operator).await.closed.len(), 12);
}

#[tokio::test]
async fn background_rounds_close_when_a_node_asks() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let config = OperatorConfig { settle_interval_ms: 3_600_000, ..world.config(dir.path()) };
    let chain = Arc::new(world.chain.clone());
    let authority = world.authority.insecure_clone();
    let key = world.operator_key.clone();
    let operator = Operator::start(config, key, authority, chain).await.unwrap();
    let channel = world.open(1, 1_000_000).await[0];
    world.client(&operator).await.hand(&[world.closing(channel, 5_000)]).await.ack();
    let gone = async {
        while world.channel(channel).await.is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.expect("closed and refunded long before the interval");
    operator.shutdown().await;
}
