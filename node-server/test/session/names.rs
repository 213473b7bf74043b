//! Names: who may give them, how many, and that none goes back, whatever is sent and however often the node restarts.

use aro_proto::identity::Signed;
use aro_proto::message::{Message, NameRefused, NameTaken, PublishName, Refused, Resolve, Resolved};
use aro_proto::naming::{NameRecord, SignedNameRecord, TargetKind, VerifiedName};
use aro_proto::wire::decode_body;
use aro_proto::{ContentId, Refusal, RefusalCode, SecretKey, Tariff};
use node_server::{NodeConfig, PublishConfig, Publishers, RunningNode};

use crate::agent::{Agent, frame, soon};
use crate::world::{PRICE, World};

fn key() -> SecretKey {
    SecretKey::from_bytes(&[77; 32])
}

fn listed(world: &World) -> NodeConfig {
    let publishers = Publishers::Listed([key().agent_id()].into());
    NodeConfig { publish: PublishConfig { publishers, ..PublishConfig::default() }, ..world.config() }
}

fn record(key: &SecretKey, name: &str, sequence: u64, target: &[u8]) -> NameRecord {
    NameRecord {
        publisher: key.agent_id(),
        name: name.parse().unwrap(),
        sequence,
        target: ContentId::of(target),
        kind: TargetKind::Content,
        issued_at: 1_800_000_000,
        valid_until: None,
    }
}

fn signed(name: &str, sequence: u64, target: &[u8]) -> VerifiedName {
    record(&key(), name, sequence, target).sign(&key())
}

#[derive(Debug, PartialEq)]
enum Said {
    Taken(u64),
    /// With the record that the node knows.
    Stale(RefusalCode, SignedNameRecord),
    Refused(Refusal),
}

/// Sends a record in a request of `signer`; the answer is one frame and a clean finish.
async fn send(agent: &Agent, record: &SignedNameRecord, signer: &SecretKey) -> Said {
    let (_send, mut receive) = agent.ask(&PublishName { record: record.clone() }, signer).await;
    let (kind, body) = soon(frame(&mut receive)).await.expect("the node answers");
    assert_eq!(soon(receive.read(&mut [0; 1])).await.unwrap(), None);
    match kind {
        NameTaken::KIND => Said::Taken(decode_body::<NameTaken>(kind, &body).unwrap().sequence),
        NameRefused::KIND => {
            let NameRefused { refusal, current } = decode_body(kind, &body).unwrap();
            Said::Stale(refusal.code(), current)
        }
        Refused::KIND => Said::Refused(decode_body::<Refused>(kind, &body).unwrap().refusal),
        other => panic!("kind {other:#x}"),
    }
}

async fn resolve(agent: &Agent, name: &str) -> Result<SignedNameRecord, RefusalCode> {
    let request = Resolve { publisher: key().agent_id(), name: name.parse().unwrap() };
    // Anybody may ask.
    let (_send, mut receive) = agent.ask(&request, &SecretKey::from_bytes(&[1; 32])).await;
    let (kind, body) = soon(frame(&mut receive)).await.expect("the node answers");
    if kind == Refused::KIND {
        return Err(decode_body::<Refused>(kind, &body).unwrap().refusal.code());
    }
    Ok(decode_body::<Resolved>(kind, &body).unwrap().record)
}

fn refused(said: Said) -> RefusalCode {
    let Said::Refused(refusal) = said else { panic!("{said:?}") };
    refusal.code()
}

// r[verify name.resolve]
// r[verify name.refused.current]
// r[verify name.never_back]
#[tokio::test(flavor = "multi_thread")]
async fn a_name_goes_on_and_never_back_not_even_over_a_restart() {
    let world = World::new().await;
    let node = world.start(listed(&world)).await;
    let agent = Agent::greet(&world, &node).await;
    assert_eq!(resolve(&agent, "site").await, Err(RefusalCode::NameNotFound));
    let (first, second) = (signed("site", 1, b"one"), signed("site", 7, b"two"));
    for record in [&first, &first, &second, &second] {
        assert_eq!(send(&agent, record.signed(), &key()).await, Said::Taken(record.record().sequence));
        assert_eq!(resolve(&agent, "site").await.as_ref(), Ok(record.signed()));
    }
    let goes_back = async |agent: &Agent| {
        let stale = Said::Stale(RefusalCode::NameNotRising, second.signed().clone());
        assert_eq!(send(agent, first.signed(), &key()).await, stale);
        let twice = Said::Stale(RefusalCode::NameEqualDiffers, second.signed().clone());
        assert_eq!(send(agent, signed("site", 7, b"three").signed(), &key()).await, twice);
        assert_eq!(resolve(agent, "site").await.as_ref(), Ok(second.signed()));
    };
    goes_back(&agent).await;
    drop(agent);
    node.shutdown().await.unwrap();

    let node = world.start(listed(&world)).await;
    let agent = Agent::greet(&world, &node).await;
    goes_back(&agent).await;
    assert_eq!(send(&agent, signed("site", 8, b"three").signed(), &key()).await, Said::Taken(8));
    node.shutdown().await.unwrap();
}

// r[verify name.authorised]
#[tokio::test(flavor = "multi_thread")]
async fn only_an_allowed_publisher_gives_names_and_only_its_own() {
    let world = World::new().await;
    let node = world.start(listed(&world)).await;
    let agent = Agent::greet(&world, &node).await;
    let stranger = SecretKey::from_bytes(&[78; 32]);
    let strange = record(&stranger, "site", 1, b"x").sign(&stranger);
    assert_eq!(refused(send(&agent, strange.signed(), &stranger).await), RefusalCode::PublishDenied);
    // Another's record, and one that its publisher never signed.
    assert_eq!(refused(send(&agent, strange.signed(), &key()).await), RefusalCode::Unauthorised);
    let forged = SignedNameRecord { signature: strange.signed().signature, ..signed("site", 1, b"x").signed().clone() };
    assert_eq!(refused(send(&agent, &forged, &key()).await), RefusalCode::Unauthorised);
    let over = NameRecord { valid_until: Some(1), ..record(&key(), "site", 1, b"x") }.sign(&key());
    assert_eq!(refused(send(&agent, over.signed(), &key()).await), RefusalCode::BadRequest);
    assert_eq!(resolve(&agent, "site").await, Err(RefusalCode::NameNotFound));
    node.shutdown().await.unwrap();

    let closed = world.start(world.config()).await;
    let agent = Agent::greet(&world, &closed).await;
    let denied = refused(send(&agent, signed("site", 1, b"x").signed(), &key()).await);
    assert_eq!(denied, RefusalCode::PublishDenied);
    closed.shutdown().await.unwrap();
}

// r[verify name.authorised]
#[tokio::test(flavor = "multi_thread")]
async fn where_whoever_pays_may_publish_a_name_takes_a_channel() {
    let world = World::new().await;
    let publish = PublishConfig {
        publishers: Publishers::WhoPays,
        tariff: Tariff { per_mib: PRICE },
        ..PublishConfig::default()
    };
    let funded = world.fund(10 * PRICE).await;
    let node = world.start(NodeConfig { publish, ..world.config() }).await;
    let unbound = Agent::greet(&world, &node).await;
    let record_of = |key: &SecretKey| record(key, "site", 1, b"x").sign(key);
    assert_eq!(refused(send(&unbound, signed("site", 1, b"x").signed(), &key()).await), RefusalCode::NoChannel);
    let bound = Agent::bound(&world, &node, &funded).await;
    assert_eq!(refused(send(&bound, record_of(&key()).signed(), &key()).await), RefusalCode::Unauthorised);
    assert_eq!(send(&bound, record_of(&funded.signer).signed(), &funded.signer).await, Said::Taken(1));
    node.shutdown().await.unwrap();
}

// r[verify name.quota]
#[tokio::test(flavor = "multi_thread")]
async fn names_are_counted_and_a_full_shelf_still_takes_what_is_newer() {
    let world = World::new().await;
    let mut config = listed(&world);
    config.publish.max_names_per_publisher = 2;
    let node = world.start(config.clone()).await;
    let agent = Agent::greet(&world, &node).await;
    for name in ["a", "b"] {
        assert_eq!(send(&agent, signed(name, 1, b"x").signed(), &key()).await, Said::Taken(1));
    }
    assert_eq!(refused(send(&agent, signed("c", 1, b"x").signed(), &key()).await), RefusalCode::QuotaExceeded);
    drop(agent);
    node.shutdown().await.unwrap();
    let node = world.start(config).await;
    let agent = Agent::greet(&world, &node).await;
    assert_eq!(refused(send(&agent, signed("c", 1, b"x").signed(), &key()).await), RefusalCode::QuotaExceeded);
    assert_eq!(send(&agent, signed("b", 2, b"y").signed(), &key()).await, Said::Taken(2));
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_request_that_is_no_record_ends_its_connection_and_nothing_else() {
    let world = World::new().await;
    let node: RunningNode = world.start(listed(&world)).await;
    for kind in [PublishName::KIND, Resolve::KIND] {
        let agent = Agent::greet(&world, &node).await;
        let (mut send, _receive) = agent.connection.open_bi().await.unwrap();
        let binding = agent.binding(&send);
        let body = [&[kind][..], &[0xff; 60]].concat();
        let message = [b"aro/1 signed\0", &binding.exporter[..], &binding.stream.to_le_bytes(), &body].concat();
        let bytes = [&key().public()[..], &key().sign(&message), &body].concat();
        assert!(Signed::from_bytes(&bytes).is_ok());
        send.write_all(&Signed::from_bytes(&bytes).unwrap().to_frame()).await.unwrap();
        let closed = soon(agent.connection.closed()).await;
        let quinn::ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
        assert_eq!(close.error_code.into_inner(), u64::from(aro_proto::error::close::PROTOCOL));
    }
    let agent = Agent::greet(&world, &node).await;
    assert_eq!(resolve(&agent, "site").await, Err(RefusalCode::NameNotFound));
    node.shutdown().await.unwrap();
}
