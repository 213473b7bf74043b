//! A process that is killed says no goodbye: the next one's binding does it for it.

use aro_proto::channel::BATCH_BYTES;
use aro_proto::error::close;
use aro_proto::message::{Bind, BindId};
use aro_proto::{ByteCount, Charge, RefusalCode, Tariff};

use crate::agent::{Agent, Answer, Proving, soon, whole};
use crate::world::{Funded, MIB, PRICE, World, bytes, store};

const TARIFF: Tariff = Tariff { per_mib: PRICE };

fn id(byte: u8) -> BindId {
    BindId::from_bytes([byte; 16])
}

fn bind(funded: &Funded, id: Option<BindId>, replaces: &[BindId]) -> Bind {
    Bind { channel: funded.channel, id, replaces: replaces.iter().map(|id| id.replaced()).collect() }
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
    for death in 1..=12 {
        got += and_dies(async {
            let mut agent = Agent::greet(&world, &node).await;
            agent.bind_with(&bind(&funded, Some(id(death)), &[id(death - 1)]), &funded.signer).await.unwrap();
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
