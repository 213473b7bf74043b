//! Uploads: who may, how much, for how much; and agents that stall, lie, break off and come again.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use aro_proto::error::close;
use aro_proto::merkle::{ByteRanges, Encoder, GroupSize, Outboard, PAIR_LEN, PreOrderOutboard, Step};
use aro_proto::message::{
    Message, Publish, PublishHead, PublishReceipt, Published, Refused, StreamEnd, Taken, Trailer,
};
use aro_proto::wire::decode_body;
use aro_proto::{Amount, ByteCount, ContentId, Refusal, RefusalCode, SecretKey, Tariff, WhoActs};
use node_server::{NodeConfig, PublishConfig, Publishers, RunningNode};
use quinn::{RecvStream, SendStream, VarInt};
use settlement_chain::submit::submit;
use settlement_chain::{Address, Program, Signer, instructions};

use crate::agent::{Agent, frame, say, soon};
use crate::world::{MIB, PRICE, World, bytes, units};

const GROUP: GroupSize = GroupSize::KIB64;

fn key() -> SecretKey {
    SecretKey::from_bytes(&[77; 32])
}

/// Free for the one listed key.
fn listed(world: &World) -> NodeConfig {
    with(world, PublishConfig { publishers: Publishers::Listed([key().agent_id()].into()), ..PublishConfig::default() })
}

fn with(world: &World, publish: PublishConfig) -> NodeConfig {
    NodeConfig { publish, ..world.config() }
}

/// For whoever pays.
fn paying() -> PublishConfig {
    PublishConfig { publishers: Publishers::WhoPays, tariff: Tariff { per_mib: PRICE }, ..PublishConfig::default() }
}

fn request(content: &[u8]) -> Publish {
    Publish {
        content: Some(ContentId::of(content)),
        size: content.len() as u64,
        group_log2: GROUP.log2(),
        max_price: Amount::new(u64::MAX),
    }
}

fn encoding(content: &[u8], missing: &ByteRanges) -> Vec<u8> {
    let outboard = PreOrderOutboard::build(content);
    let mut wire = Vec::new();
    for step in Encoder::new(missing.answered(content.len() as u64, GROUP)) {
        match step {
            Step::Parent(node) => wire.extend::<[u8; PAIR_LEN]>(outboard.parent(node).unwrap()),
            Step::Leaf { offset, len } => wire.extend(&content[offset as usize..][..len as usize]),
        }
    }
    wire
}

#[derive(Debug)]
enum Word {
    Head(PublishHead),
    Taken(u64),
    Done(PublishReceipt),
    Refused(Refusal),
}

async fn word(node: &RunningNode, receive: &mut RecvStream) -> Word {
    let (kind, body) = soon(frame(receive)).await.expect("the node answers");
    match kind {
        PublishHead::KIND => Word::Head(decode_body(kind, &body).unwrap()),
        Taken::KIND => Word::Taken(decode_body::<Taken>(kind, &body).unwrap().bytes),
        Published::KIND => {
            Word::Done(decode_body::<Published>(kind, &body).unwrap().receipt.verify(&node.node_id()).unwrap())
        }
        Refused::KIND => Word::Refused(decode_body::<Refused>(kind, &body).unwrap().refusal),
        other => panic!("kind {other:#x}"),
    }
}

/// The last word, and how much was taken before it.
async fn last_word(node: &RunningNode, receive: &mut RecvStream) -> (u64, Word) {
    let mut taken = 0;
    loop {
        match word(node, receive).await {
            Word::Taken(bytes) => {
                assert!(bytes > taken || bytes == 0);
                taken = bytes;
            }
            last => return (taken, last),
        }
    }
}

async fn refusal_of(node: &RunningNode, agent: &Agent, publish: &Publish, key: &SecretKey) -> Refusal {
    let (_send, mut receive) = agent.ask(publish, key).await;
    let Word::Refused(refusal) = word(node, &mut receive).await else { panic!("not refused") };
    assert_eq!(soon(receive.read(&mut [0; 1])).await.unwrap(), None);
    refusal
}

async fn begin(
    node: &RunningNode,
    agent: &Agent,
    publish: &Publish,
    key: &SecretKey,
) -> (SendStream, RecvStream, PublishHead) {
    let (send, mut receive) = agent.ask(publish, key).await;
    match word(node, &mut receive).await {
        Word::Head(head) => (send, receive, head),
        other => panic!("{other:?}"),
    }
}

/// Uploads all of a content for nothing.
async fn put(node: &RunningNode, agent: &Agent, content: &[u8]) -> PublishReceipt {
    let (mut send, mut receive, head) = begin(node, agent, &request(content), &key()).await;
    send.write_all(&encoding(content, &head.missing)).await.unwrap();
    let (taken, Word::Done(receipt)) = last_word(node, &mut receive).await else { panic!("not published") };
    assert_eq!((receipt.taken.get(), head.content_bytes.get()), (taken, taken));
    receipt
}

/// Where a node keeps an upload of our key that is not over.
fn upload_folder(world: &World, content: &[u8]) -> PathBuf {
    world.dir.path().join("publishing").join(format!("{}-{}", key().agent_id(), ContentId::of(content)))
}

fn held(node: &RunningNode, content: &[u8]) -> bool {
    node.store().get(ContentId::of(content)).unwrap().is_some_and(|found| found.size() == content.len() as u64)
}

/// Waits until no upload runs: then the same one may come again.
async fn free_again(node: &RunningNode, agent: &Agent, content: &[u8]) -> (SendStream, RecvStream, PublishHead) {
    soon(async {
        loop {
            let (send, mut receive) = agent.ask(&request(content), &key()).await;
            match word(node, &mut receive).await {
                Word::Head(head) => return (send, receive, head),
                Word::Refused(refusal) => assert_eq!(refusal.code(), RefusalCode::OverCapacity),
                other => panic!("{other:?}"),
            }
        }
    })
    .await
}

// r[verify publish.authorised]
#[tokio::test(flavor = "multi_thread")]
async fn a_listed_key_publishes_contents_of_nasty_sizes_and_nobody_else_does() {
    let world = World::new().await;
    let node = world.start(listed(&world)).await;
    let agent = Agent::greet(&world, &node).await;
    for size in [0, 1, 1024, 65_536, 65_537, 300_000, 3 * MIB + 77] {
        let content = bytes(size);
        let receipt = put(&node, &agent, &content).await;
        let expected = (ContentId::of(&content), size as u64, key().agent_id(), Amount::ZERO);
        assert_eq!((receipt.content, receipt.size.get(), receipt.publisher, receipt.price), expected);
        assert!(held(&node, &content));
        assert_eq!(node.store().publisher(receipt.content).unwrap(), Some(key().agent_id()));
        // Again: it is there, and nothing is taken.
        let (_send, mut receive) = agent.ask(&request(&content), &key()).await;
        let (0, Word::Done(again)) = last_word(&node, &mut receive).await else { panic!("not published") };
        assert_eq!((again.content, again.taken), (receipt.content, ByteCount::ZERO));
    }
    let stranger = SecretKey::from_bytes(&[78; 32]);
    let refusal = refusal_of(&node, &agent, &request(b"other"), &stranger).await;
    assert_eq!((refusal.code(), refusal.code().who_acts()), (RefusalCode::PublishDenied, WhoActs::Authorise));
    node.shutdown().await.unwrap();

    let node = world.start(world.config()).await;
    let agent = Agent::greet(&world, &node).await;
    let refusal = refusal_of(&node, &agent, &request(b"other"), &key()).await;
    assert_eq!(refusal.code(), RefusalCode::PublishDenied);
    node.shutdown().await.unwrap();
}

// r[verify publish.stream.trailer]
// r[verify publish.stream.bound]
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_known_end_becomes_a_content_if_its_trailer_agrees() {
    let world = World::new().await;
    let node = world.start(listed(&world)).await;
    let agent = Agent::greet(&world, &node).await;
    for (size, lie) in [(0, false), (39, false), (600_000, false), (700_000, true)] {
        let content = bytes(size);
        let bound = Publish { content: None, size: 1 << 20, ..request(&content) };
        let (mut send, mut receive, head) = begin(&node, &agent, &bound, &key()).await;
        assert!(head.missing.is_all() && head.content_bytes.get() == 1 << 20);
        send.write_all(&content).await.unwrap();
        let trailer = Trailer { content: ContentId::of(&content), size: size as u64 + u64::from(lie) };
        send.write_all(&trailer.to_bytes()).await.unwrap();
        send.finish().unwrap();
        match last_word(&node, &mut receive).await {
            (taken, Word::Done(receipt)) if !lie => {
                assert_eq!((taken, receipt.content, receipt.size.get()), (size as u64, ContentId::of(&content), taken));
            }
            (_, Word::Refused(refusal)) if lie => assert_eq!(refusal.code(), RefusalCode::WrongContent),
            other => panic!("{other:?}"),
        }
        assert_eq!(held(&node, &content), !lie);
    }
    // More than was announced, and an end without a trailer.
    let bound = Publish { content: None, size: 300_000, ..request(b"") };
    let (mut send, mut receive, _) = begin(&node, &agent, &bound, &key()).await;
    let _ = send.write_all(&bytes(MIB)).await;
    let (taken, Word::Refused(refusal)) = last_word(&node, &mut receive).await else { panic!("taken") };
    assert_eq!(refusal.code(), RefusalCode::ContentTooLarge);
    assert!(taken <= 300_000);
    let (mut send, mut receive, _) = begin(&node, &agent, &bound, &key()).await;
    send.write_all(&[1; 39]).await.unwrap();
    send.finish().unwrap();
    let (0, Word::Refused(refusal)) = last_word(&node, &mut receive).await else { panic!("taken") };
    assert_eq!(refusal.code(), RefusalCode::BadRequest);
    assert_eq!(std::fs::read_dir(world.dir.path().join("publishing")).unwrap().count(), 0, "nothing is left");
    node.shutdown().await.unwrap();
}

// r[verify publish.resume.missing]
// r[verify publish.verify.first_error]
#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_before_a_lie_a_reset_or_a_crash_is_not_asked_for_again() {
    broken_off_and_taken_up(PublishConfig::default().page_cache_bytes).await;
}

// r[verify publish.resume.missing]
// r[verify publish.verify.first_error]
#[tokio::test(flavor = "multi_thread")]
async fn nor_is_it_where_it_went_past_the_page_cache() {
    broken_off_and_taken_up(0).await;
}

async fn broken_off_and_taken_up(page_cache_bytes: u64) {
    let world = World::new().await;
    let publish = PublishConfig { page_cache_bytes, ..listed(&world).publish };
    let node = world.start(with(&world, publish.clone())).await;
    let agent = Agent::greet(&world, &node).await;
    let content = bytes(2 * MIB + 5);
    let (mut send, mut receive, head) = begin(&node, &agent, &request(&content), &key()).await;
    let mut wire = encoding(&content, &head.missing);
    let wrong = wire.len() - MIB;
    wire[wrong] ^= 1;
    let _ = send.write_all(&wire).await;
    let (taken, Word::Refused(refusal)) = last_word(&node, &mut receive).await else { panic!("taken") };
    assert_eq!((refusal.code(), refusal.code().who_acts()), (RefusalCode::WrongContent, WhoActs::GiveUp));
    assert!(taken > 0 && !held(&node, &content));

    let (mut send, mut receive, head) = free_again(&node, &agent, &content).await;
    assert_eq!(head.content_bytes.get(), content.len() as u64 - taken);
    // A second one beside it is refused.
    let refusal = refusal_of(&node, &agent, &request(&content), &key()).await;
    assert_eq!(refusal.code(), RefusalCode::OverCapacity);
    let wire = encoding(&content, &head.missing);
    send.write_all(&wire[..wire.len() / 4 * 3]).await.unwrap();
    let Word::Taken(more) = word(&node, &mut receive).await else { panic!("not taken") };
    send.reset(VarInt::from_u32(close::CANCELLED)).unwrap();

    let (_send, _receive, head) = free_again(&node, &agent, &content).await;
    assert!(head.content_bytes.get() <= content.len() as u64 - taken - more);
    drop((agent, node));

    // The crash: what is on disk proves.
    let node = soon(async {
        loop {
            let chain = std::sync::Arc::new(world.chain.clone());
            match node_server::Node::start(with(&world, publish.clone()), world.key.clone(), chain).await {
                Ok(node) => return node,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    let agent = Agent::greet(&world, &node).await;
    // A disk that does not even open what is there: it waits for one that does.
    let (outboard, aside) = (upload_folder(&world, &content).join("outboard.obao4"), world.dir.path().join("aside"));
    std::fs::rename(&outboard, &aside).unwrap();
    std::fs::create_dir(&outboard).unwrap();
    let refusal = refusal_of(&node, &agent, &request(&content), &key()).await;
    assert_eq!(refusal.code(), RefusalCode::Internal);
    std::fs::remove_dir(&outboard).unwrap();
    std::fs::rename(&aside, &outboard).unwrap();
    let (mut send, mut receive, head) = begin(&node, &agent, &request(&content), &key()).await;
    assert!(head.content_bytes.get() <= content.len() as u64 - taken - more);
    send.write_all(&encoding(&content, &head.missing)).await.unwrap();
    let (_, Word::Done(receipt)) = last_word(&node, &mut receive).await else { panic!("not published") };
    assert_eq!(receipt.taken, head.content_bytes);
    assert!(held(&node, &content));
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_about_the_size_a_stall_a_short_end_and_a_full_disk_each_have_an_answer() {
    let world = World::new().await;
    // Whatever would go past the page cache and cannot goes the usual way.
    let publish = PublishConfig { page_cache_bytes: 0, ..listed(&world).publish };
    let node = world.start(NodeConfig { stall_timeout_ms: 700, ..with(&world, publish) }).await;
    let agent = Agent::greet(&world, &node).await;
    let content = bytes(400_000);
    // The tree of another size.
    let lie = Publish { size: 400_001, ..request(&content) };
    let (mut send, mut receive, _) = begin(&node, &agent, &lie, &key()).await;
    let _ = send.write_all(&encoding(&content, &ByteRanges::all())).await;
    let _ = send.write_all(&[0; 1]).await;
    let (_, Word::Refused(refusal)) = last_word(&node, &mut receive).await else { panic!("taken") };
    assert_eq!(refusal.code(), RefusalCode::WrongContent);

    let (mut send, mut receive, _) = free_again(&node, &agent, &content).await;
    send.write_all(&[1; 10]).await.unwrap();
    let (0, Word::Refused(refusal)) = last_word(&node, &mut receive).await else { panic!("taken") };
    assert_eq!((refusal.code(), refusal.code().who_acts()), (RefusalCode::OverCapacity, WhoActs::RetryHere));

    let (mut send, mut receive, head) = free_again(&node, &agent, &content).await;
    send.write_all(&encoding(&content, &head.missing)[..100_000]).await.unwrap();
    send.finish().unwrap();
    let (_, Word::Refused(refusal)) = last_word(&node, &mut receive).await else { panic!("taken") };
    assert_eq!(refusal.code(), RefusalCode::BadRequest);

    let full = bytes(100_000);
    let folder = upload_folder(&world, &full);
    std::fs::create_dir(&folder).unwrap();
    symlink("/dev/full", folder.join("data")).unwrap();
    let (mut send, mut receive, head) = begin(&node, &agent, &request(&full), &key()).await;
    let _ = send.write_all(&encoding(&full, &head.missing)).await;
    let (0, Word::Refused(refusal)) = last_word(&node, &mut receive).await else { panic!("taken") };
    assert_eq!((refusal.code(), refusal.code().who_acts()), (RefusalCode::StorageFull, WhoActs::RetryElsewhere));
    assert!(!folder.exists(), "nothing leaks");
    node.shutdown().await.unwrap();
}

// r[verify publish.durable]
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_synced_ends_the_upload_and_must_come_again() {
    let world = World::new().await;
    let node = world.start(NodeConfig { stall_timeout_ms: 3_000, ..listed(&world) }).await;
    let agent = Agent::greet(&world, &node).await;
    // All of a small one, which is synced at its end, and a large one that stops behind the first sync beside it.
    for (size, left_out) in [(100_000, 0), (36 * MIB, MIB)] {
        let content = bytes(size);
        let folder = upload_folder(&world, &content);
        std::fs::create_dir(&folder).unwrap();
        // It takes whatever is written, and cannot be synced.
        symlink("/dev/null", folder.join("data")).unwrap();
        let (mut send, mut receive, head) = begin(&node, &agent, &request(&content), &key()).await;
        let wire = encoding(&content, &head.missing);
        let _ = send.write_all(&wire[..wire.len() - left_out]).await;
        let (_, Word::Refused(refusal)) = last_word(&node, &mut receive).await else { panic!("taken") };
        assert_eq!(refusal.code(), RefusalCode::Internal);
        assert!(!folder.exists() && !held(&node, &content));
        let (_send, _receive, head) = begin(&node, &agent, &request(&content), &key()).await;
        assert_eq!(head.content_bytes.get(), size as u64);
    }
    node.shutdown().await.unwrap();
}

// r[verify publish.quota]
#[tokio::test(flavor = "multi_thread")]
async fn sizes_quotas_and_places_are_bounded_over_restarts() {
    let world = World::new().await;
    let publish = PublishConfig {
        publishers: Publishers::Listed([key().agent_id()].into()),
        max_content_bytes: 200_000,
        quota_bytes_per_publisher: 250_000,
        max_at_once: 1,
        ..PublishConfig::default()
    };
    let node = world.start(with(&world, publish.clone())).await;
    let agent = Agent::greet(&world, &node).await;
    let refusal = refusal_of(&node, &agent, &request(&bytes(200_001)), &key()).await;
    assert_eq!((refusal.code(), refusal.code().who_acts()), (RefusalCode::ContentTooLarge, WhoActs::RetryElsewhere));
    put(&node, &agent, &bytes(200_000)).await;
    node.shutdown().await.unwrap();

    let node = world.start(with(&world, publish)).await;
    let agent = Agent::greet(&world, &node).await;
    let refusal = refusal_of(&node, &agent, &request(&bytes(50_001)), &key()).await;
    assert_eq!((refusal.code(), refusal.code().who_acts()), (RefusalCode::QuotaExceeded, WhoActs::RetryElsewhere));
    let small = bytes(50_000);
    let _running = begin(&node, &agent, &request(&small), &key()).await;
    let refusal = refusal_of(&node, &agent, &request(b"another"), &key()).await;
    assert_eq!(refusal.code(), RefusalCode::OverCapacity);
    node.shutdown().await.unwrap();
}

// r[verify publish.stream.bound]
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_may_bring_what_the_agent_has_just_topped_up_for() {
    let world = World::new().await;
    let node = world.start(with(&world, paying())).await;
    let bound = Publish { content: None, size: 4 * MIB as u64, ..request(b"") };
    for topped_up_mib in [0, 1, 2] {
        let funded = world.fund(2 * PRICE).await;
        let agent = Agent::bound(&world, &node, &funded).await;
        if topped_up_mib > 0 {
            let channel = Address::from(funded.channel.to_bytes());
            let amount = topped_up_mib * PRICE;
            let top_up = instructions::top_up(&Program::local(), &funded.owner.pubkey(), &channel, amount);
            submit(&world.chain, &funded.owner, &[], &[top_up]).await.unwrap();
        }
        let (_send, _receive, head) = begin(&node, &agent, &bound, &funded.signer).await;
        let mib = 2 + topped_up_mib;
        assert_eq!((head.content_bytes.get(), head.price), (mib * MIB as u64, units(mib * PRICE)));
    }
    node.shutdown().await.unwrap();
}

// r[verify publish.billed.taken]
// r[verify channel.stream.price]
#[tokio::test(flavor = "multi_thread")]
async fn who_pays_publishes_who_does_not_gets_one_quantum_and_a_cancel_is_settled() {
    let world = World::new().await;
    // Content is free here, uploads are not.
    let config = NodeConfig { tariff: Tariff { per_mib: 0 }, payment_timeout_ms: 500, ..with(&world, paying()) };
    let node = world.start(config).await;
    let funded = world.fund(10 * PRICE).await;
    let content = bytes(3 * MIB);
    let mut agent = Agent::greet(&world, &node).await;
    let refusal = refusal_of(&node, &agent, &request(&content), &funded.signer).await;
    assert_eq!((refusal.code(), refusal.amount), (RefusalCode::NoChannel, Some(units(3 * PRICE))));
    agent.bind(&funded).await.unwrap();
    let cheap = Publish { max_price: units(3 * PRICE - 1), ..request(&content) };
    let refusal = refusal_of(&node, &agent, &cheap, &funded.signer).await;
    assert_eq!((refusal.code(), refusal.amount), (RefusalCode::PriceTooHigh, Some(units(3 * PRICE))));
    let refusal = refusal_of(&node, &agent, &request(&bytes(11 * MIB)), &funded.signer).await;
    assert_eq!((refusal.code(), refusal.amount), (RefusalCode::DepositExhausted, Some(units(PRICE))));
    let refusal = refusal_of(&node, &agent, &request(&content), &key()).await;
    assert_eq!(refusal.code(), RefusalCode::Unauthorised);

    // Nothing is paid: a quantum is taken, and not a byte more.
    let (mut send, mut receive, head) = begin(&node, &agent, &request(&content), &funded.signer).await;
    let wire = encoding(&content, &head.missing);
    let writing = tokio::spawn(async move {
        let _ = send.write_all(&wire).await;
    });
    let (taken, Word::Refused(refusal)) = last_word(&node, &mut receive).await else { panic!("taken") };
    assert_eq!((taken, refusal.code(), refusal.amount), (MIB as u64, RefusalCode::Unpaid, Some(units(PRICE))));
    writing.await.unwrap();
    let channel = |status: node_server::NodeStatus| status.channel(funded.channel).unwrap().clone();
    agent.pay(&funded, PRICE).await.unwrap();

    // Resumed and paid to the end.
    let (mut send, mut receive, head) = soon(async {
        loop {
            let (send, mut receive) = agent.ask(&request(&content), &funded.signer).await;
            if let Word::Head(head) = word(&node, &mut receive).await {
                return (send, receive, head);
            }
        }
    })
    .await;
    assert_eq!((head.content_bytes.get(), head.price), (2 * MIB as u64, units(2 * PRICE)));
    let wire = encoding(&content, &head.missing);
    let writing = tokio::spawn(async move { send.write_all(&wire).await.map(|()| send) });
    let (mut taken, mut paid) = (0, PRICE);
    let receipt = loop {
        match word(&node, &mut receive).await {
            Word::Taken(bytes) => {
                taken = bytes;
                let due = PRICE + Tariff { per_mib: PRICE }.price(ByteCount::new(taken)).unwrap().get();
                if due >= paid + PRICE / 2 {
                    paid = due;
                    agent.pay(&funded, due).await.unwrap();
                }
            }
            Word::Done(receipt) => break receipt,
            other => panic!("{other:?}"),
        }
    };
    writing.await.unwrap().unwrap();
    assert_eq!((taken, receipt.taken.get(), receipt.price), (2 * MIB as u64, 2 * MIB as u64, units(2 * PRICE)));
    assert!(held(&node, &content));
    assert_eq!(channel(node.status().await).watermark, units(3 * PRICE));

    // Cancelled: what the agent did not hear of is forgiven.
    let other = bytes(MIB + 1);
    let (mut send, mut receive, head) = begin(&node, &agent, &request(&other), &funded.signer).await;
    let stream = u64::from(VarInt::from(send.id()));
    send.write_all(&encoding(&other, &head.missing)[..600_000]).await.unwrap();
    let Word::Taken(heard) = word(&node, &mut receive).await else { panic!("not taken") };
    send.reset(VarInt::from_u32(close::CANCELLED)).unwrap();
    say(&mut agent.control.0, &StreamEnd { stream, proven_bytes: heard }).await;
    let owed = 3 * PRICE + Tariff { per_mib: PRICE }.price(ByteCount::new(heard)).unwrap().get();
    agent.pay(&funded, owed).await.unwrap();
    node.shutdown().await.unwrap();
}
