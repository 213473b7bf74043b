//! What the chain would refuse, the node refuses.

use aro_proto::channel::Voucher;
use aro_proto::error::close;
use aro_proto::message::{PayRefused, ToppedUp};
use aro_proto::{ChannelId, RefusalCode, SecretKey};
use settlement_chain::submit::submit;
use settlement_chain::{Address, Program, Signer, instructions};

use crate::agent::{Agent, Answer, answer, say, until, whole};
use crate::chain::LossyChain;
use crate::world::{MIB, PRICE, World, bytes, store, units};

// r[verify voucher.amount.monotonic]
// r[verify voucher.amount.equal]
// r[verify voucher.amount.deposit]
// r[verify voucher.expiry]
// r[verify voucher.channel.bound]
// r[verify voucher.signature.strict]
#[tokio::test(flavor = "multi_thread")]
async fn each_bad_voucher_has_its_own_refusal_and_the_watermark_stays() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let funded = world.fund(1_000_000).await;
    let mut agent = Agent::bound(&world, &node, &funded).await;
    agent.pay(&funded, 500).await.unwrap();
    // The very same again is no mistake.
    assert_eq!(agent.pay(&funded, 500).await.unwrap().cumulative, units(500));

    let good = Voucher { channel: funded.channel, cumulative: units(600), expires_at: 0 };
    let now =
        i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let stranger = SecretKey::from_bytes(&[9; 32]);
    let other_channel = ChannelId::from_bytes([5; 32]);
    let cases = [
        (
            "falling",
            Voucher { cumulative: units(499), ..good },
            &funded.signer,
            RefusalCode::VoucherNotRising,
            Some(500),
        ),
        (
            "equal differs",
            Voucher { cumulative: units(500), expires_at: now + 1_000_000, ..good },
            &funded.signer,
            RefusalCode::VoucherEqualDiffers,
            Some(500),
        ),
        (
            "above the deposit",
            Voucher { cumulative: units(1_000_001), ..good },
            &funded.signer,
            RefusalCode::VoucherAboveDeposit,
            Some(1_000_000),
        ),
        ("expired", Voucher { expires_at: now - 10, ..good }, &funded.signer, RefusalCode::VoucherExpired, None),
        (
            "expires too soon",
            Voucher { expires_at: now + 60, ..good },
            &funded.signer,
            RefusalCode::VoucherExpired,
            None,
        ),
        ("another signer", good, &stranger, RefusalCode::VoucherBadSignature, None),
        (
            "another channel",
            Voucher { channel: other_channel, ..good },
            &funded.signer,
            RefusalCode::VoucherBadSignature,
            None,
        ),
    ];
    for (what, voucher, key, code, amount) in cases {
        let PayRefused { cumulative, refusal, watermark } = agent.pay_with(voucher, key).await.unwrap_err();
        assert_eq!((refusal.code(), refusal.amount), (code, amount.map(units)), "{what}");
        // The agent's own signature comes with it, so a node cannot invent a watermark.
        assert_eq!((cumulative, watermark.unwrap().cumulative), (voucher.cumulative, units(500)), "{what}");
    }
    assert_eq!(agent.pay(&funded, 600).await.unwrap().cumulative, units(600));
    let status = node.status().await;
    assert_eq!((status.channel(funded.channel).unwrap().watermark, status.unsettled), (units(600), units(600)));
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_forged_vouchers_end_the_connection() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let funded = world.fund(1_000_000).await;
    let mut agent = Agent::bound(&world, &node, &funded).await;
    let forged = Voucher { channel: funded.channel, cumulative: units(600), expires_at: 0 };
    let stranger = SecretKey::from_bytes(&[9; 32]);
    for _ in 0..aro_proto::limits::MAX_BAD_SIGNATURES {
        assert!(agent.pay_with(forged, &stranger).await.is_err());
    }
    let signature = forged.sign(&stranger).signature;
    let voucher = aro_proto::message::VoucherOnWire { cumulative: units(600), expires_at: 0, signature };
    say(&mut agent.control.0, &aro_proto::message::Pay { voucher }).await;
    assert_eq!(agent.closed_with().await, close::ABUSE);
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn paying_without_a_bound_channel_is_refused() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let funded = world.fund(1000).await;
    let mut agent = Agent::greet(&world, &node).await;
    assert_eq!(agent.pay(&funded, 10).await.unwrap_err().refusal.code(), RefusalCode::NoChannel);
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_top_up_that_the_agent_announces_counts_at_once() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let funded = world.fund(1000).await;
    let mut agent = Agent::bound(&world, &node, &funded).await;
    let refusal = agent.pay(&funded, 1500).await.unwrap_err().refusal;
    assert_eq!(refusal.code(), RefusalCode::VoucherAboveDeposit);

    let channel = Address::from(funded.channel.to_bytes());
    let top_up = instructions::top_up(&Program::local(), &funded.owner.pubkey(), &channel, 1000);
    submit(&world.chain, &funded.owner, &[], &[top_up]).await.unwrap();
    say(&mut agent.control.0, &ToppedUp { deposit: units(2000) }).await;
    crate::agent::soon(async { while agent.pay(&funded, 1500).await.is_err() {} }).await;
    node.shutdown().await.unwrap();
}

// r[verify request.deposit.looked]
#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_the_deposit_that_the_agent_has_announced() {
    let world = World::new().await;
    let chain = LossyChain::new(world.chain.clone(), 1_900_000_000);
    let node = world.start_on(&chain, world.config()).await;
    let content = store(&node, world.dir.path(), &bytes(2 * MIB));
    let funded = world.fund(PRICE).await;
    let mut agent = Agent::bound(&world, &node, &funded).await;
    let reads = chain.account_reads();
    say(&mut agent.control.0, &ToppedUp { deposit: units(2 * PRICE) }).await;
    until(async || chain.account_reads() > reads).await;

    // The node has looked, and seen nothing yet.
    let (_send, mut receive) = agent.ask(&whole(content), &funded.signer).await;
    let channel = Address::from(funded.channel.to_bytes());
    let top_up = instructions::top_up(&Program::local(), &funded.owner.pubkey(), &channel, PRICE);
    submit(&world.chain, &funded.owner, &[], &[top_up]).await.unwrap();
    let answer = answer(&mut receive).await;
    assert!(matches!(answer, Answer::Head(_)), "{answer:?}");
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_of_a_channel_hear_of_its_credit() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let funded = world.fund(1_000_000).await;
    let mut payer = Agent::bound(&world, &node, &funded).await;
    let mut other = Agent::bound(&world, &node, &funded).await;
    payer.pay(&funded, 700).await.unwrap();
    let credit: aro_proto::message::Credit = crate::agent::hear(&mut other.control.1).await;
    assert_eq!(credit.cumulative, units(700));
    node.shutdown().await.unwrap();
}
