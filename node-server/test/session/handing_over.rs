//! Vouchers reach the operator, and count as handed only when it has acknowledged them.

use std::sync::{Arc, Mutex};

use aro_proto::identity::{Binding, Signed};
use aro_proto::limits::EXPORTER_LABEL;
use aro_proto::message::{Handoff, HandoffAck, HandoffVerdict, HandoffVoucher, Hello, OperatorHello};
use aro_proto::transport::server_config;
use aro_proto::{Refusal, RefusalCode, SecretKey};
use node_server::{HandoffError, NodeConfig, OperatorEndpoint};
use quinn::{Connection, Endpoint, VarInt};

use crate::agent::{Agent, chain_ids, frame, hear, say, soon, whole};
use crate::world::{World, bytes, store, units};

/// An operator that acknowledges, or refuses all.
pub(crate) struct Scripted {
    pub(crate) endpoint: OperatorEndpoint,
    got: Arc<Mutex<Vec<HandoffVoucher>>>,
    refuse: Arc<Mutex<bool>>,
}

impl Scripted {
    pub(crate) fn start(world: &World) -> Self {
        Self::start_as(world, 11, [0; 32])
    }

    /// With a key of its own, and this account on chain.
    pub(crate) fn start_as(world: &World, key: u8, operator: [u8; 32]) -> Self {
        let key = SecretKey::from_bytes(&[key; 32]);
        let server = Endpoint::server(server_config(&key), "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = server.local_addr().unwrap().to_string();
        let (got, refuse) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(false)));
        let (chain, node) = (chain_ids(world), world.key.clone());
        let (noted, refuses) = (Arc::clone(&got), Arc::clone(&refuse));
        tokio::spawn(async move {
            while let Some(incoming) = server.accept().await {
                let Ok(connection) = incoming.await else { continue };
                let (mut send, mut receive) = connection.accept_bi().await.unwrap();
                let hello: Hello = hear(&mut receive).await;
                assert_eq!(hello.chain, chain);
                let answer = OperatorHello { minor_version: 0, chain, operator, min_settle: units(0) };
                say(&mut send, &answer).await;
                tokio::spawn(take(connection, (send, receive), node.clone(), Arc::clone(&noted), Arc::clone(&refuses)));
            }
        });
        Self { endpoint: OperatorEndpoint { id: key.node_id(), address }, got, refuse }
    }

    /// Where somebody else answers than who is expected: a node gets nowhere here, and learns so at once.
    pub(crate) fn down(world: &World) -> OperatorEndpoint {
        OperatorEndpoint { id: world.key.node_id(), ..Self::start_as(world, 13, [0; 32]).endpoint }
    }

    pub(crate) fn got(&self) -> Vec<HandoffVoucher> {
        std::mem::take(&mut self.got.lock().unwrap())
    }
}

async fn take(
    connection: Connection,
    _control: (quinn::SendStream, quinn::RecvStream),
    node: SecretKey,
    got: Arc<Mutex<Vec<HandoffVoucher>>>,
    refuse: Arc<Mutex<bool>>,
) {
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let (kind, body) = frame(&mut receive).await.unwrap();
        assert_eq!(kind, Signed::KIND);
        let mut exporter = [0; 32];
        connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").unwrap();
        let binding = Binding { exporter, stream: u64::from(VarInt::from(send.id())) };
        let handoff = Signed::from_bytes(&body).unwrap().verify::<Handoff>(&binding).unwrap();
        assert_eq!(handoff.signer().as_bytes(), &node.public());
        let refuse = *refuse.lock().unwrap();
        let verdicts = handoff.message().vouchers.iter().map(|voucher| HandoffVerdict {
            channel: voucher.channel,
            watermark: (!refuse).then_some(voucher.cumulative),
            refusal: refuse.then(|| Refusal::new(RefusalCode::Internal, "full")),
        });
        let ack = HandoffAck { verdicts: verdicts.collect() };
        got.lock().unwrap().extend(&handoff.message().vouchers);
        say(&mut send, &ack).await;
        send.finish().unwrap();
    }
}

// r[verify settlement.handoff.durable]
#[tokio::test(flavor = "multi_thread")]
async fn a_voucher_is_handed_until_it_is_acknowledged_and_then_no_more() {
    let world = World::new().await;
    let operator = Scripted::start(&world);
    let config = NodeConfig { operators: vec![operator.endpoint.clone()], ..world.config() };
    let node = world.start(config.clone()).await;
    let funded = world.fund(1_000_000).await;
    let mut agent = Agent::bound(&world, &node, &funded).await;
    assert_eq!(node.hand_off().await.unwrap().handed, []);

    agent.pay(&funded, 400).await.unwrap();
    *operator.refuse.lock().unwrap() = true;
    let report = node.hand_off().await.unwrap();
    assert_eq!((report.handed.len(), report.refused.len()), (0, 1));
    assert_eq!(operator.got().len(), 1);

    *operator.refuse.lock().unwrap() = false;
    let report = node.hand_off().await.unwrap();
    assert_eq!((report.handed[0].channel, report.handed[0].cumulative), (funded.channel, units(400)));
    assert!(!operator.got()[0].close);
    assert_eq!(node.hand_off().await.unwrap().handed, []);
    assert!(operator.got().is_empty());

    // The stop hands over what came last.
    agent.pay(&funded, 500).await.unwrap();
    drop(agent);
    node.shutdown().await.unwrap();
    assert_eq!(operator.got()[0].cumulative, units(500));
    // The chain has not taken it, so a node that starts anew offers it once more.
    let node = world.start(config).await;
    assert_eq!(node.hand_off().await.unwrap().handed[0].cumulative, units(500));
    assert_eq!(node.hand_off().await.unwrap().handed, []);
    node.shutdown().await.unwrap();
}

// r[verify settlement.handoff.again]
// r[verify settlement.node.keeps]
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_has_forgotten_gets_every_voucher_again_until_the_chain_has_taken_it() {
    let world = World::new().await;
    let operator = Scripted::start(&world);
    let operators = vec![operator.endpoint.clone()];
    let node = world.start(NodeConfig { operators, reoffer_interval_s: 0, ..world.config() }).await;
    let funded = world.fund(1_000_000).await;
    Agent::bound(&world, &node, &funded).await.pay(&funded, 400).await.unwrap();
    for _ in 0..3 {
        assert_eq!(node.hand_off().await.unwrap().handed[0].cumulative, units(400));
        assert_eq!(operator.got().len(), 1);
    }
    let report = node.settle(Some(world.fee_key())).await.unwrap();
    assert_eq!(report.settled[0].cumulative, units(400));
    assert_eq!(node.hand_off().await.unwrap().handed, []);
    assert!(operator.got().is_empty());
    node.shutdown().await.unwrap();
}

// r[verify settlement.handoff.several]
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_down_does_not_keep_vouchers_from_the_others() {
    let world = World::new().await;
    let operator = Scripted::start(&world);
    let down = Scripted::down(&world);
    let operators = vec![down.clone(), operator.endpoint.clone()];
    let node = world.start(NodeConfig { operators, ..world.config() }).await;
    let funded = world.fund(1_000_000).await;
    Agent::bound(&world, &node, &funded).await.pay(&funded, 400).await.unwrap();
    let report = node.hand_off().await.unwrap();
    assert_eq!((report.handed.len(), report.handed[0].operator), (1, operator.endpoint.id));
    assert_eq!((report.failed.len(), &report.failed[0].0), (1, &down));
    assert_eq!(operator.got()[0].cumulative, units(400));

    // It comes back later: only what it does not have goes out.
    let status = node.status().await;
    assert!(status.operators[0].trouble.is_some() && status.operators[1].trouble.is_none());
    assert!(status.warnings.iter().any(|warning| warning.contains(&down.address)), "{:?}", status.warnings);
    node.shutdown().await.unwrap();
}

// r[verify settlement.handoff.several]
#[tokio::test(flavor = "multi_thread")]
async fn only_the_operator_that_the_chain_names_is_asked_to_close() {
    let world = World::new().await;
    let (named, second) = (Scripted::start(&world), Scripted::start_as(&world, 12, [5; 32]));
    let operators = vec![second.endpoint.clone(), named.endpoint.clone()];
    let node = world.start(NodeConfig { operators, ..world.config() }).await;
    let funded = world.fund(1_000_000).await;
    Agent::bound(&world, &node, &funded).await.pay(&funded, 400).await.unwrap();
    let report = node.hand_off_to_close().await.unwrap();
    assert_eq!(report.handed.len(), 2);
    let (to_named, to_second) = (named.got(), second.got());
    assert!(to_named[0].close && to_named[0].cumulative == units(400));
    assert!(!to_second[0].close && to_second[0].cumulative == units(400));
    let status = node.status().await;
    let may_close: Vec<_> = status.operators.iter().map(|operator| operator.may_close).collect();
    assert_eq!(may_close, [false, true]);
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_given_up_is_handed_to_be_closed_and_serves_no_more() {
    let world = World::new().await;
    let operator = Scripted::start(&world);
    let config = NodeConfig { operators: vec![operator.endpoint.clone()], ..world.config() };
    let node = world.start(config.clone()).await;
    let funded = world.fund(1_000_000).await;
    let content = bytes(300_000);
    let id = store(&node, world.dir.path(), &content);
    let mut agent = Agent::bound(&world, &node, &funded).await;
    assert_eq!(agent.fetch(id, &funded, 0).await, content);

    let report = node.hand_off_to_close().await.unwrap();
    assert!(report.handed[0].close);
    let voucher = operator.got()[0];
    assert!(voucher.close && voucher.cumulative == units(287));
    assert_eq!(agent.refusal_of(&whole(id), &funded.signer).await.code(), RefusalCode::ChannelUnusable);
    node.shutdown().await.unwrap();

    // A restart does not forget it: the operator may close with what it has.
    let node = world.start(config).await;
    let agent = Agent::bound(&world, &node, &funded).await;
    assert_eq!(agent.refusal_of(&whole(id), &funded.signer).await.code(), RefusalCode::ChannelUnusable);
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_with_another_key_gets_nothing() {
    let world = World::new().await;
    let operator = Scripted::start(&world);
    let wrong = OperatorEndpoint { id: world.key.node_id(), ..operator.endpoint.clone() };
    let node = world.start(NodeConfig { operators: vec![wrong], ..world.config() }).await;
    let funded = world.fund(1_000_000).await;
    Agent::bound(&world, &node, &funded).await.pay(&funded, 10).await.unwrap();
    assert!(matches!(node.hand_off().await, Err(HandoffError::Unreachable { .. })));
    assert!(operator.got().is_empty());
    assert!(soon(node.shutdown()).await.is_err());
}
