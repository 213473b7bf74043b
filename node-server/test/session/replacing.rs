//! A process that is killed says no goodbye: the next one's binding does it for it.

use aro_proto::channel::BATCH_BYTES;
use aro_proto::error::close;
use aro_proto::message::{Bind, BindId, Credit, Replaced};
use aro_proto::{ByteCount, Charge, ContentId, RefusalCode, Tariff};
use quinn::{RecvStream, SendStream};

use crate::agent::{Agent, Answer, Proving, hear, soon, whole};
use crate::world::{Funded, MIB, PRICE, World, bytes, store};

const TARIFF: Tariff = Tariff { per_mib: PRICE };

fn id(byte: u8) -> BindId {
    BindId::from_bytes([byte; 16])
}

fn bind(funded: &Funded, id: Option<BindId>, replaces: &[BindId]) -> Bind {
    Bind { channel: funded.channel, id, replaces: replaces.iter().map(|id| id.replaced()).collect() }
}

/// Binding `own` says what was proven on another that it replaces.
fn telling(funded: &Funded, own: u8, dead: u8, proven: Option<u128>) -> Bind {
    Bind { channel: funded.channel, id: Some(id(own)), replaces: vec![Replaced { id: id(dead), proven }] }
}

fn charge(bytes: u64) -> Charge {
    TARIFF.charge(ByteCount::new(bytes))
}

/// A life in a process of its own, which is then killed with all that it has: nothing of it is said to be over.
fn and_dies<T: Send, U: Send>(life: impl Future<Output = (T, U)> + Send) -> T {
    let process = || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (told, had) = runtime.block_on(life);
        drop(runtime);
        drop(had);
        told
    };
    tokio::task::block_in_place(|| std::thread::scope(|scope| scope.spawn(process).join().unwrap()))
}

// r[verify bind.replace]
// r[verify channel.lost.settle]
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_process_is_replaced_at_once_and_only_what_had_arrived_is_owed() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let funded = world.fund(1_000_000).await;
    let content = store(&node, world.dir.path(), &bytes(4 * MIB));
    let mut expected = Charge::ZERO;
    for death in 1..=5 {
        let proven = and_dies(async {
            let mut agent = Agent::greet_with_window(&world, &node, 300_000).await;
            let bound =
                agent.bind_with(&bind(&funded, Some(id(death)), &[id(death - 1)]), &funded.signer).await.unwrap();
            assert!(Charge::from_parts(bound.billed) >= expected);
            let (send, mut receive, first) = agent.open(&whole(content), &funded.signer).await;
            let Answer::Head(head) = first else { panic!("{first:?}") };
            let mut reader = Proving::new(content, head.size.get());
            while (reader.proven.len() as u64) < BATCH_BYTES {
                reader.next(&mut receive).await;
            }
            // What arrived is acknowledged with the next word at the latest; of the rest the agent takes no more.
            agent.bind(&funded).await.unwrap();
            // All that it owes but for a little: else the window would end its lives.
            let billed =
                Charge::from_parts(bound.billed).checked_add(TARIFF.charge(ByteCount::new(BATCH_BYTES))).unwrap();
            agent.pay(&funded, billed.to_amount().unwrap().get()).await.unwrap();
            (billed, (agent, send, receive))
        });
        expected = proven;
    }
    let mut next = Agent::greet(&world, &node).await;
    let bound = next.bind_with(&bind(&funded, Some(id(9)), &[id(5)]), &funded.signer).await.unwrap();
    let billed = Charge::from_parts(bound.billed);
    // At each death one batch more may have come, and been acknowledged, than was proven; the third was never written.
    let most = expected.checked_add(TARIFF.charge(ByteCount::new(5 * BATCH_BYTES))).unwrap();
    assert!(billed >= expected && billed <= most, "{billed:?} billed for {expected:?}");
    // Nothing is refused for the sake of the dead, whatever they left.
    let paid = billed.to_amount().unwrap().get();
    assert_eq!(next.fetch(content, &funded, paid).await, bytes(4 * MIB));
    let whole = TARIFF.charge(ByteCount::new(4 << 20));
    let all = billed.checked_add(whole).unwrap();
    soon(async { while Charge::from_parts(next.bind(&funded).await.unwrap().billed) != all {} }).await;
    node.shutdown().await.unwrap();
}

// r[verify channel.lost.settle]
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_never_pays_gains_no_more_by_dying_than_by_going_away() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let funded = world.fund(1_000_000).await;
    let content = store(&node, world.dir.path(), &bytes(4 * MIB));
    let mut got = 0;
    // Whatever it says of the dead.
    let lies = [None, Some(0), Some(charge(MIB as u64 / 2).parts()), Some(u128::MAX)];
    for (death, lie) in (1..=12).zip(lies.iter().cycle()) {
        got += and_dies(async {
            let mut agent = Agent::greet(&world, &node).await;
            agent.bind_with(&telling(&funded, death, death - 1, *lie), &funded.signer).await.unwrap();
            let (send, mut receive, first) = agent.open(&whole(content), &funded.signer).await;
            let Answer::Head(head) = first else { panic!("{first:?}") };
            let mut reader = Proving::new(content, head.size.get());
            // All that the node lends, or what comes until it lends nothing any more.
            let greedy = async { while reader.next(&mut receive).await {} };
            let _ = tokio::time::timeout(std::time::Duration::from_millis(150), greedy).await;
            (reader.proven.len(), (agent, send, receive))
        });
    }
    // The window and the allowance are a quantum each.
    assert!(got >= MIB - BATCH_BYTES as usize && got <= 2 * MIB, "{got} bytes for nothing");
    node.shutdown().await.unwrap();
}

/// Opens a fetch of all of a content and proves so much of it.
async fn proving(agent: &Agent, content: ContentId, funded: &Funded, least: usize) -> (SendStream, RecvStream) {
    let (send, mut receive, first) = agent.open(&whole(content), &funded.signer).await;
    let Answer::Head(head) = first else { panic!("{first:?}") };
    let mut reader = Proving::new(content, head.size.get());
    while reader.proven.len() < least && reader.next(&mut receive).await {}
    (send, receive)
}

/// A node whose agent has paid for 16 MiB, on a binding that has ended: the window has room for what follows.
async fn after_paying(world: &World, content: ContentId, node: &node_server::RunningNode) -> (Funded, Charge) {
    let funded = world.fund(1_000_000).await;
    let mut agent = Agent::greet(world, node).await;
    agent.bind_with(&bind(&funded, Some(id(200)), &[]), &funded.signer).await.unwrap();
    for fetch in 0..8 {
        agent.fetch(content, &funded, fetch * 2 * PRICE).await;
    }
    (funded, charge(16 * MIB as u64))
}

// r[verify bind.replace.proven]
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_process_is_billed_what_the_next_one_says_that_it_had_proven() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let (content, small) =
        (store(&node, world.dir.path(), &bytes(2 * MIB)), store(&node, world.dir.path(), &bytes(100_000)));
    let (funded, mut billed) = after_paying(&world, content, &node).await;
    // One lives on all the while, with something proven that is not paid.
    let mut living = Agent::greet(&world, &node).await;
    living.bind_with(&bind(&funded, Some(id(100)), &[]), &funded.signer).await.unwrap();
    let _open = proving(&living, small, &funded, usize::MAX).await;
    billed = billed.checked_add(charge(100_000)).unwrap();

    // Of the first nothing is open to doubt: all was proven.
    let mut proven = charge(16 * MIB as u64).parts();
    let (mut dead, written) = (200, 700_001);
    for life in 1..=4 {
        let (told, closes) = (telling(&funded, life, dead, Some(proven)), life % 2 == 0);
        let found = and_dies(async {
            let mut agent = Agent::greet(&world, &node).await;
            let bound = agent.bind_with(&told, &funded.signer).await.unwrap();
            // One stream ends whole, two are cut: of one much arrived and little was written, of the other nothing.
            let ended = proving(&agent, small, &funded, usize::MAX).await;
            let cut = proving(&agent, content, &funded, MIB).await;
            let other = agent.ask(&whole(small), &funded.signer).await;
            if closes {
                // The node finds out by itself, and settles as it can.
                agent.connection.close(quinn::VarInt::from_u32(0), b"");
            }
            (Charge::from_parts(bound.billed), (agent, ended, cut, other))
        });
        assert_eq!(found, billed, "life {life}");
        (proven, dead) = (charge(written).parts(), life);
        billed = billed.checked_add(charge(written)).unwrap();
    }
    let mut next = Agent::greet(&world, &node).await;
    let bound = next.bind_with(&telling(&funded, 90, dead, Some(proven)), &funded.signer).await.unwrap();
    assert_eq!(Charge::from_parts(bound.billed), billed);
    // Once: and of who is alive nobody's word is taken but its own.
    for (own, named, word) in [(91, dead, Some(0)), (92, 200, Some(0)), (93, 77, Some(0)), (94, dead, None)] {
        let mut again = Agent::greet(&world, &node).await;
        let bound = again.bind_with(&telling(&funded, own, named, word), &funded.signer).await.unwrap();
        assert_eq!(Charge::from_parts(bound.billed), billed, "{named} said to have proven {word:?}");
    }
    let stranger = world.fund(1_000_000).await;
    let mut other = Agent::greet(&world, &node).await;
    other.bind_with(&telling(&stranger, 95, 100, Some(0)), &stranger.signer).await.unwrap();
    let paid = billed.to_amount().unwrap().get();
    assert_eq!(living.fetch(content, &funded, paid).await, bytes(2 * MIB));
    node.shutdown().await.unwrap();
}

// r[verify bind.replace.proven]
#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_cannot_be_true_takes_no_more_than_the_allowance_and_bills_no_more_than_was_sent() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let content = store(&node, world.dir.path(), &bytes(2 * MIB));
    for (word, least, most) in [
        (None, 0, 2 * MIB as u64),
        (Some(u128::MAX), MIB as u64, 2 * MIB as u64),
        (Some(charge(64 * MIB as u64).parts()), MIB as u64, 2 * MIB as u64),
        (Some(0), 0, 0),
    ] {
        let (funded, billed) = after_paying(&world, content, &node).await;
        let mut living = Agent::bound(&world, &node, &funded).await;
        and_dies(async {
            let mut agent = Agent::greet(&world, &node).await;
            agent.bind_with(&bind(&funded, Some(id(1)), &[]), &funded.signer).await.unwrap();
            let cut = proving(&agent, content, &funded, MIB).await;
            ((), (agent, cut))
        });
        let mut next = Agent::greet(&world, &node).await;
        let bound = next.bind_with(&telling(&funded, 2, 1, word), &funded.signer).await.unwrap();
        let found = Charge::from_parts(bound.billed).checked_sub(billed).unwrap();
        assert!(found >= charge(least) && found <= charge(most), "{found:?} for {word:?}");
        // Of all that was paid for, no more comes back than the allowance and what the window has room for.
        let bound = next.bind_with(&telling(&funded, 3, 200, Some(0)), &funded.signer).await.unwrap();
        // Of which half of what was paid is the window, and less is told as long as it is lent.
        let (paid, window) = (billed, charge(8 * MIB as u64));
        assert!(Charge::from_amount(bound.window) < window);
        // So are those who live, who would let too much gather before they pay.
        let told = async { while hear::<Credit>(&mut living.control.1).await.window != bound.window {} };
        soon(told).await;
        let off = paid.checked_add(found).unwrap().checked_sub(Charge::from_parts(bound.billed)).unwrap();
        assert!(off > Charge::ZERO && off <= charge(3 * MIB as u64 + BATCH_BYTES).checked_add(window).unwrap());
        assert_eq!(next.fetch(content, &funded, paid.to_amount().unwrap().get()).await, bytes(2 * MIB));
    }
    node.shutdown().await.unwrap();
}

// r[verify bind.replace]
// r[verify bind.replace.late]
#[tokio::test(flavor = "multi_thread")]
async fn only_the_bindings_that_the_channels_signer_names_are_ended() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let (funded, other) = (world.fund(1_000_000).await, world.fund(1_000_000).await);
    let content = store(&node, world.dir.path(), &bytes(MIB));
    let [mut first, mut second] = [Agent::greet(&world, &node).await, Agent::greet(&world, &node).await];
    first.bind_with(&bind(&funded, Some(id(1)), &[]), &funded.signer).await.unwrap();
    second.bind_with(&bind(&funded, Some(id(2)), &[]), &funded.signer).await.unwrap();

    // Another channel's binding means bindings of its own; another's signature means nothing.
    let mut stranger = Agent::greet(&world, &node).await;
    let forged = bind(&funded, Some(id(3)), &[id(1), id(2)]);
    let refusal = stranger.bind_with(&forged, &other.signer).await.unwrap_err();
    assert_eq!(refusal.code(), RefusalCode::Unauthorised);
    stranger.bind_with(&bind(&other, Some(id(1)), &[id(2)]), &other.signer).await.unwrap();
    assert_eq!(first.fetch(content, &funded, 0).await, bytes(MIB));

    let mut third = Agent::greet(&world, &node).await;
    third.bind_with(&bind(&funded, Some(id(3)), &[id(1), id(8)]), &funded.signer).await.unwrap();
    assert_eq!(first.closed_with().await, close::REPLACED);
    assert_eq!(second.fetch(content, &funded, PRICE).await, bytes(MIB));

    // One that was on its way while it was replaced comes too late, and an id names one connection.
    for taken in [8, 2] {
        let mut late = Agent::greet(&world, &node).await;
        let binding = late.binding(&late.control.0);
        let signed = aro_proto::identity::Signed::new(&bind(&funded, Some(id(taken)), &[]), &funded.signer, &binding);
        late.control.0.write_all(&signed.unwrap().to_frame()).await.unwrap();
        assert_eq!(late.closed_with().await, close::REPLACED);
    }
    assert!(second.connection.close_reason().is_none() && third.connection.close_reason().is_none());
    node.shutdown().await.unwrap();
}
