//! What could break: a voucher acknowledged and lost, one taken that the chain will refuse, a handoff that counts on
//! another stream or from another key, a peer that breaks the framing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod fixture;

use std::collections::BTreeSet;
use std::sync::Arc;

use aro_proto::error::close;
use aro_proto::limits::{MAX_BAD_SIGNATURES, MAX_FRAME, MAX_HANDOFF};
use aro_proto::message::{ChainIds, HandoffVoucher, Hello};
use aro_proto::wire::encode_frame;
use aro_proto::{Amount, ChannelId, RefusalCode, SecretKey};
use fixture::{Client, FailingStore, NOW, Reply, World, address};
use settlement_chain::instructions::UpdateNode;
use settlement_chain::{instructions, reads, submit};
use settlement_interface::instructions::VoucherEntry;
use settlement_operator::vouchers::{StoreError, StoredVoucher};
use settlement_operator::{Operator, OperatorConfig, RunningOperator, WatchFor};

// r[verify settlement.handoff.durable]
#[tokio::test]
async fn acknowledged_vouchers_survive_a_crash() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let channels = world.open(3, 100_000).await;
    let operator = world.start(dir.path()).await;
    let client = world.client(&operator).await;
    assert_eq!(client.hello.unwrap().operator, world.operator_account().to_bytes());

    let vouchers: Vec<HandoffVoucher> = channels.iter().map(|id| world.voucher(*id, 5_000)).collect();
    let ack = client.hand(&vouchers).await.ack();
    assert!(ack.verdicts.iter().all(|v| v.refusal.is_none() && v.watermark == Some(Amount::new(5_000))));
    drop(operator);

    let operator = world.start(dir.path()).await;
    let stored = operator.vouchers().await.unwrap();
    assert_eq!(stored.len(), 3);
    assert!(stored.iter().all(|stored| stored.cumulative() == Amount::new(5_000)));
    let report = operator.settle_once().await.unwrap();
    assert_eq!(report.settled.len(), 3);
}

// r[verify settlement.handoff.checks]
#[tokio::test]
async fn vouchers_that_the_chain_would_refuse_are_refused() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let operator = world.start(dir.path()).await;
    let client = world.client(&operator).await;
    let channel = world.open(1, 100_000).await[0];
    let other_node = world.register_node(&SecretKey::from_bytes(&[50; 32]), Some(world.operator_account())).await;
    let elsewhere = world.open_to(other_node, 1, 100_000).await[0];

    assert_eq!(client.refusal(world.voucher(channel, 5_000)).await, None);
    assert_eq!(client.refusal(world.voucher(channel, 5_000)).await, None, "the same again");
    let falling = client.refusal(world.voucher(channel, 4_999)).await.unwrap();
    assert_eq!((falling.code(), falling.amount), (RefusalCode::VoucherNotRising, Some(Amount::new(5_000))));
    let equal = world.voucher_until(channel, 5_000, NOW + 1_000_000);
    assert_eq!(client.refused_with(equal).await, RefusalCode::VoucherEqualDiffers);
    assert_eq!(client.refused_with(world.voucher(channel, 100_001)).await, RefusalCode::VoucherAboveDeposit);
    assert_eq!(client.refused_with(world.voucher_until(channel, 6_000, NOW)).await, RefusalCode::VoucherExpired);
    assert_eq!(client.refused_with(world.voucher_until(channel, 6_000, NOW + 60)).await, RefusalCode::VoucherExpired);
    assert_eq!(client.refused_with(world.voucher(elsewhere, 5_000)).await, RefusalCode::VoucherWrongChannel);
    let unknown = ChannelId::from_bytes([9; 32]);
    assert_eq!(client.refused_with(world.voucher(unknown, 5_000)).await, RefusalCode::ChannelUnusable);
    let not_a_channel = ChannelId::from_bytes(world.node_account().to_bytes());
    assert_eq!(client.refused_with(world.voucher(not_a_channel, 5_000)).await, RefusalCode::ChannelUnusable);
    let mut forged = world.voucher(channel, 7_000);
    forged.signature = world.voucher(channel, 7_001).signature;
    assert_eq!(client.refused_with(forged).await, RefusalCode::VoucherBadSignature);

    let stored = operator.vouchers().await.unwrap();
    assert_eq!(stored.iter().map(StoredVoucher::cumulative).collect::<Vec<_>>(), [Amount::new(5_000)]);
}

#[tokio::test]
async fn top_up_counts_at_once_although_the_channel_is_remembered() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let operator = world.start(dir.path()).await;
    let client = world.client(&operator).await;
    let channel = world.open(1, 10_000).await[0];
    assert_eq!(client.refused_with(world.voucher(channel, 10_001)).await, RefusalCode::VoucherAboveDeposit);
    let owner = settlement_chain::Signer::pubkey(&world.agent);
    let top_up = instructions::top_up(&world.program, &owner, &address(channel), 5_000);
    submit::submit(&world.chain, &world.agent, &[], &[top_up]).await.unwrap();
    assert_eq!(client.refusal(world.voucher(channel, 10_001)).await, None);
}

// r[verify settlement.handoff.node_key]
// r[verify request.signature.bound]
#[tokio::test]
async fn handoff_counts_only_on_its_stream_and_from_the_node_that_names_this_operator() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let operator = world.start(dir.path()).await;
    let client = world.client(&operator).await;
    let channel = world.open(1, 100_000).await[0];
    let vouchers = [world.voucher(channel, 5_000)];

    let (first, first_recv) = client.connection.open_bi().await.unwrap();
    let captured = client.signed(&client.key, &first, &vouchers).to_frame();
    let (second, second_recv) = client.connection.open_bi().await.unwrap();
    let replayed = client.exchange(second, second_recv, &captured).await.unwrap();
    assert_eq!(replayed.refused().code(), RefusalCode::Unauthorised);
    let other = world.client(&operator).await;
    let (send, recv) = other.connection.open_bi().await.unwrap();
    let replayed = other.exchange(send, recv, &captured).await.unwrap();
    assert_eq!(replayed.refused().code(), RefusalCode::Unauthorised);
    assert!(operator.vouchers().await.unwrap().is_empty());
    assert!(matches!(client.exchange(first, first_recv, &captured).await, Some(Reply::Ack(_))), "its own stream");

    let without_operator = SecretKey::from_bytes(&[51; 32]);
    world.register_node(&without_operator, None).await;
    for stranger in [without_operator, world.signer.clone(), SecretKey::from_bytes(&[99; 32])] {
        let client = Client::connect(&operator, stranger, world.chain_ids()).await;
        assert_eq!(client.hand(&vouchers).await.refused().code(), RefusalCode::Unauthorised);
    }
}

// r[verify identity.chain]
#[tokio::test]
async fn other_chain_is_refused_before_anything_is_taken() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let operator = world.start(dir.path()).await;
    let channel = world.open(1, 100_000).await[0];
    let right = world.chain_ids();
    for wrong in [
        ChainIds { genesis_hash: [1; 32], ..right },
        ChainIds { program: [1; 32], ..right },
        ChainIds { mint: [1; 32], ..right },
    ] {
        let mut client = Client::dial(&operator, world.node_key.clone()).await.unwrap();
        let (send, recv) = client.connection.open_bi().await.unwrap();
        let frame = client.signed(&client.key, &send, &[world.voucher(channel, 5_000)]).to_frame();
        client.say_hello(wrong).await;
        assert!(client.exchange(send, recv, &frame).await.is_none());
        assert_eq!(client.goaway().await.code(), RefusalCode::WrongChain);
        assert_eq!(client.closed_with().await, close::WRONG_CHAIN);
    }
    assert!(operator.vouchers().await.unwrap().is_empty());
}

#[tokio::test]
async fn broken_framing_closes_the_connection() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let operator = world.start(dir.path()).await;
    let too_long = [&u32::try_from(MAX_FRAME + 1).unwrap().to_le_bytes()[..], &[0x10, 1, 2]].concat();
    let empty = 0_u32.to_le_bytes().to_vec();
    let garbage = [&64_u32.to_le_bytes()[..], &[0x10], &[7; 63]].concat();
    let truncated = vec![200, 0, 0, 0, 0x10, 1, 2, 3];
    for bytes in [too_long, [empty, vec![0x10]].concat(), garbage, truncated] {
        let client = world.client(&operator).await;
        let (send, recv) = client.connection.open_bi().await.unwrap();
        assert!(client.exchange(send, recv, &bytes).await.is_none(), "{bytes:?}");
        assert_eq!(client.closed_with().await, close::PROTOCOL);
    }

    // A second hello on the control stream, and another message where the hello is due.
    let mut client = world.client(&operator).await;
    client.say_hello(world.chain_ids()).await;
    assert_eq!(client.closed_with().await, close::PROTOCOL);
    let mut client = Client::dial(&operator, world.node_key.clone()).await.unwrap();
    client.raw_control(&[1, 0, 0, 0, 0x0e]).await;
    assert_eq!(client.closed_with().await, close::PROTOCOL);

    // A request that is not signed, or not a handoff, is refused by word.
    let client = world.client(&operator).await;
    let (send, recv) = client.connection.open_bi().await.unwrap();
    let hello = encode_frame(&Hello { minor_version: 0, chain: world.chain_ids() }).unwrap();
    let reply = client.exchange(send, recv, &hello).await.unwrap();
    assert_eq!(reply.refused().code(), RefusalCode::BadRequest);
}

#[tokio::test]
async fn too_many_bad_signatures_close_the_connection() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let operator = world.start(dir.path()).await;
    let client = world.client(&operator).await;
    let channel = world.open(1, 100_000).await[0];
    let mut forged = world.voucher(channel, 5_000);
    forged.signature[0] ^= 1;
    let count = usize::try_from(MAX_BAD_SIGNATURES).unwrap();
    let ack = client.hand(&vec![forged; count]).await.ack();
    let codes = ack.verdicts.iter().map(|verdict| verdict.refusal.as_ref().unwrap().code());
    assert!(codes.into_iter().all(|code| code == RefusalCode::VoucherBadSignature));
    assert_eq!(client.refused_with(forged).await, RefusalCode::VoucherBadSignature);
    assert_eq!(client.closed_with().await, close::ABUSE);
}

async fn start(world: &World, config: OperatorConfig) -> RunningOperator {
    let chain = Arc::new(world.chain.clone());
    Operator::start(config, world.operator_key.clone(), world.authority.insecure_clone(), chain).await.unwrap()
}

#[tokio::test]
async fn connections_beyond_the_bounds_are_turned_away() {
    let world = World::new().await;
    let channel = world.open(1, 100_000).await[0];
    for (max_connections, max_connections_per_ip) in [(1, 64), (64, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let config = OperatorConfig { max_connections, max_connections_per_ip, ..world.config(dir.path()) };
        let operator = start(&world, config).await;
        let first = world.client(&operator).await;
        assert!(Client::dial(&operator, world.node_key.clone()).await.is_err());
        assert_eq!(first.refusal(world.voucher(channel, 5_000)).await, None, "the first goes on");
    }
}

#[tokio::test]
async fn connection_without_a_hello_or_beyond_its_age_is_closed() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let operator = start(&world, OperatorConfig { hello_timeout_ms: 10, ..world.config(dir.path()) }).await;
    let silent = Client::dial(&operator, world.node_key.clone()).await.unwrap();
    assert_eq!(silent.closed_with().await, close::PROTOCOL);

    let dir = tempfile::tempdir().unwrap();
    let operator = start(&world, OperatorConfig { max_connection_age_ms: 500, ..world.config(dir.path()) }).await;
    let old = Client::dial(&operator, world.node_key.clone()).await.unwrap();
    assert_eq!(old.closed_with().await, close::DONE);
}

// r[verify settlement.handoff.durable]
#[tokio::test]
async fn nothing_is_acknowledged_that_could_not_be_stored() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(FailingStore::default());
    let operator = world.start_with_store(dir.path(), Arc::<FailingStore>::clone(&store)).await;
    let client = world.client(&operator).await;
    let channel = world.open(1, 100_000).await[0];
    let hand = async || client.hand(&[world.voucher(channel, 5_000)]).await.refused().code();
    let retryable = [StoreError::Full("no space left".into()), StoreError::Unavailable("gone".into())];
    for error in retryable {
        store.fail_with(Some(error));
        assert_eq!(hand().await, RefusalCode::OverCapacity, "come back later");
    }
    store.fail_with(Some(StoreError::Damaged("voucher")));
    assert_eq!(hand().await, RefusalCode::Internal);
    store.fail_with(None);
    assert!(operator.vouchers().await.unwrap().is_empty());
    assert_eq!(client.refusal(world.voucher(channel, 5_000)).await, None);
}

#[tokio::test]
async fn concurrent_handoffs_leave_the_highest_voucher() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let operator = world.start(dir.path()).await;
    let client = Arc::new(world.client(&operator).await);
    let channel = world.open(1, 100_000).await[0];
    let mut tasks = tokio::task::JoinSet::new();
    for cumulative in 1..=20_u64 {
        let (client, voucher) = (Arc::clone(&client), world.voucher(channel, cumulative * 100));
        tasks.spawn(async move { client.refusal(voucher).await.map(|refusal| refusal.code()) });
    }
    for refused in tasks.join_all().await {
        assert!(matches!(refused, None | Some(RefusalCode::VoucherNotRising)), "{refused:?}");
    }
    assert_eq!(operator.vouchers().await.unwrap()[0].cumulative(), Amount::new(2_000));
}

#[tokio::test]
async fn shutdown_says_goodbye() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let operator = world.start(dir.path()).await;
    let mut client = world.client(&operator).await;
    let stopping = tokio::spawn(operator.shutdown());
    assert_eq!(client.goaway().await.code(), RefusalCode::ShuttingDown);
    assert_eq!(client.closed_with().await, close::SHUTDOWN);
    stopping.await.unwrap();
}

// r[verify settlement.handoff.fair]
#[tokio::test]
async fn node_that_floods_bad_vouchers_is_put_off_and_others_at_its_address_are_not() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let operator = world.start(dir.path()).await;
    let bad_key = SecretKey::from_bytes(&[52; 32]);
    let bad_node = world.register_node(&bad_key, Some(world.operator_account())).await;
    let bad_channel = world.open_to(bad_node, 1, 100_000).await[0];
    let channel = world.open(1, 1_000_000).await[0];
    let good = world.client(&operator).await;
    let mut forged = world.voucher(bad_channel, 5_000);
    forged.signature[0] ^= 1;

    let (mut verified, mut put_off) = (0, 0);
    for round in 0..12 {
        let flooder = Client::connect(&operator, bad_key.clone(), world.chain_ids()).await;
        match flooder.hand(&[forged; MAX_HANDOFF]).await {
            Reply::Ack(ack) => {
                let codes = ack.verdicts.iter().map(|verdict| verdict.refusal.as_ref().unwrap().code());
                verified += codes.filter(|code| *code == RefusalCode::VoucherBadSignature).count();
            }
            Reply::Refused(refusal) => {
                assert_eq!(refusal.code(), RefusalCode::OverCapacity);
                put_off += 1;
            }
        }
        let voucher = world.voucher(channel, 1_000 + round);
        assert_eq!(good.refusal(voucher).await, None, "the good node is heard every time");
    }
    assert_eq!((verified, put_off), (16, 10), "of 3,072 forged vouchers sixteen were verified");
    let late = world.client(&operator).await;
    assert_eq!(late.refusal(world.voucher(channel, 2_000)).await, None, "a new connection of the good node too");
}

// r[verify settlement.handoff.second]
#[tokio::test]
async fn node_of_another_operator_is_watched_over_if_that_is_wanted_but_never_closed() {
    let world = World::new().await;
    let other = settlement_chain::Keypair::new();
    let other_authority = settlement_chain::Signer::pubkey(&other);
    world.chain.airdrop(&other_authority, 1_000_000_000).unwrap();
    let payout = settlement_chain::Signer::pubkey(&world.admin);
    let registered =
        settlement_operator::register(&world.chain, &world.program, &world.admin, &other, 150, &payout).await.unwrap();
    let key = SecretKey::from_bytes(&[53; 32]);
    let node = world.register_node(&key, Some(registered.account)).await;
    let [closing, open] = world.open_to(node, 2, 1_000_000).await[..] else { panic!("two channels") };

    let dir = tempfile::tempdir().unwrap();
    let operator = world.start(dir.path()).await;
    let client = Client::connect(&operator, key.clone(), world.chain_ids()).await;
    assert_eq!(client.hand(&[world.voucher(open, 5_000)]).await.refused().code(), RefusalCode::Unauthorised);
    operator.shutdown().await;

    let ids = BTreeSet::from([key.node_id()]);
    let config = OperatorConfig { watch_for: WatchFor::Nodes(ids), ..world.config(dir.path()) };
    let operator = start(&world, config).await;
    let client = Client::connect(&operator, key.clone(), world.chain_ids()).await;
    client.hand(&[world.closing(closing, 5_000), world.closing(open, 900_000)]).await.ack();
    world.request_close(closing).await;
    let report = operator.settle_once().await.unwrap();
    assert_eq!(report.settled.iter().map(|settled| settled.channel).collect::<Vec<_>>(), [closing]);
    assert!(report.closed.is_empty(), "{report:?}");
    let fees = reads::operator(&world.chain, &world.program, &other_authority).await.unwrap().unwrap().fees;
    assert_eq!((fees, world.operator_fees().await), (75, 0), "the fee is the other operator's");

    // The node switches over: from then on everything is this operator's to do.
    let account = reads::node_at(&world.chain, &world.program, &node).await.unwrap().unwrap();
    let operator_account = Some(world.operator_account());
    let update = UpdateNode { operator: operator_account, ..UpdateNode::keeping(node, &account) };
    let step = instructions::update_node(&world.program, &update);
    submit::submit(&world.chain, &world.node_owner, &[], &[step]).await.unwrap();
    client.hand(&[world.closing(open, 900_000)]).await.ack();
    let report = operator.settle_once().await.unwrap();
    assert_eq!(report.closed.iter().map(|closed| closed.channel).collect::<Vec<_>>(), [open]);
}

#[tokio::test]
async fn node_that_has_just_switched_is_let_in_although_its_refusal_is_remembered() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let config = OperatorConfig { chain_cache_ms: 3_600_000, ..world.config(dir.path()) };
    let operator = start(&world, config).await;
    let key = SecretKey::from_bytes(&[54; 32]);
    let node = world.register_node(&key, None).await;
    let channel = world.open_to(node, 1, 1_000_000).await[0];
    let client = Client::connect(&operator, key.clone(), world.chain_ids()).await;
    assert_eq!(client.hand(&[world.voucher(channel, 5_000)]).await.refused().code(), RefusalCode::Unauthorised);
    let account = reads::node_at(&world.chain, &world.program, &node).await.unwrap().unwrap();
    let operator_account = Some(world.operator_account());
    let kept = UpdateNode::keeping(node, &account);
    let update = UpdateNode { operator: operator_account, max_operator_fee_bps: 500, ..kept };
    let step = instructions::update_node(&world.program, &update);
    submit::submit(&world.chain, &world.node_owner, &[], &[step]).await.unwrap();
    assert_eq!(client.refusal(world.voucher(channel, 5_000)).await, None);
}

// r[verify settlement.close.best_voucher]
#[tokio::test]
async fn voucher_whose_channel_is_closed_while_it_is_judged_is_not_acknowledged() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(FailingStore::default());
    // Whatever was read from the chain is old at once.
    let config = OperatorConfig { chain_cache_ms: 0, ..world.config(dir.path()) };
    let (key, authority) = (world.operator_key.clone(), world.authority.insecure_clone());
    let (chain, shared) = (Arc::new(world.chain.clone()), Arc::<FailingStore>::clone(&store));
    let operator = Operator::start_with_store(config, key, authority, chain, shared).await.unwrap();
    let client = world.client(&operator).await;
    let channel = world.open(1, 1_000_000).await[0];
    let lower = world.voucher(channel, 1_000);

    // The chain was read when the channel was open; the store is slow to answer.
    let gate = store.gate.write().await;
    let close = async {
        store.asked.notified().await;
        let entry = VoucherEntry { signature: lower.signature, cumulative: 1_000 };
        let (authority, node) = (world.operator_authority(), world.node_account());
        let batch = [(address(channel), entry, 0)];
        let step = instructions::close_batch(&world.program, &authority, &node, &world.operator_account(), &batch);
        submit::submit(&world.chain, &world.authority, &[], &[step]).await.unwrap();
        drop(gate);
    };
    let higher = [world.voucher(channel, 5_000)];
    let (reply, ()) = tokio::join!(client.hand(&higher), close);
    let verdict = reply.ack().verdicts.remove(0);
    assert_eq!(verdict.watermark, Some(Amount::new(1_000)), "what the chain has settled is safe, and no more");
    assert_eq!(verdict.refusal.expect("nothing above it is").code(), RefusalCode::ChannelUnusable);
}
