//! Session keys: what an owner delegates works without the owner's key, and nothing beyond it does, whatever the clock says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use agent_client::{
    Agent, BuildError, ChannelPhase, ChannelPolicy, DelegateRequest, FetchError, MoneyError, Wallet, WalletError,
};
use aro_proto::identity::Beyond;
use aro_proto::{AgentId, Amount, NodeId, SecretKey};
use settlement_chain::ChainClient;
use support::scripted::{ScriptedNode, content};
use support::world::World;

const PER_MIB: u64 = 100_000;
const MIB: usize = 1 << 20;
const FUNDS: u64 = 5_000_000;
const HOUR_S: u32 = 3_600;

fn key(byte: u8) -> SecretKey {
    SecretKey::from_bytes(&[byte; 32])
}

struct Scene {
    world: World,
    owner: Agent,
    nodes: Vec<ScriptedNode>,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new().await;
        let mut nodes = Vec::new();
        for byte in [61, 62, 63] {
            world.register_node(&key(byte), 900).await;
            nodes.push(ScriptedNode::start(&world, &key(byte), content(MIB), PER_MIB).await);
        }
        let owner = world.agent(FUNDS).await;
        Self { world, owner, nodes }
    }

    fn dir(&self) -> PathBuf {
        self.world.path("session")
    }

    fn request(&self, cap: u64) -> DelegateRequest {
        let nodes = vec![key(62).node_id(), key(61).node_id()];
        DelegateRequest { dir: self.dir(), nodes, cap: Amount::new(cap), lifetime_s: HOUR_S, grace_s: None }
    }

    /// An agent on the session's folder, its own policy as eager as can be.
    async fn session(&self, wallet: Wallet) -> Agent {
        self.world.builder(wallet).channels(ChannelPolicy::default()).build().await.unwrap()
    }

    async fn open(&self) -> Agent {
        self.session(Wallet::open(&self.dir()).unwrap()).await
    }
}

async fn fetch(agent: &Agent, node: &ScriptedNode) -> Result<Amount, FetchError> {
    agent.fetch(&node.address()).to_bytes(u64::MAX).await.map(|(report, _)| report.paid)
}

fn refused(error: &FetchError) -> &WalletError {
    let FetchError::Wallet(error) = error else { panic!("{error}") };
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_pays_its_nodes_up_to_its_cap_and_moves_no_money() {
    let scene = Scene::new().await;
    // Two for each of two nodes.
    let (session, opened) = scene.owner.delegate(scene.request(4 * PER_MIB)).await.unwrap();
    assert_eq!(opened.iter().map(|opened| opened.deposit.get()).collect::<Vec<_>>(), [2 * PER_MIB; 2]);
    let names: Vec<String> =
        scene.dir().read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.contains(&"owner.json".to_owned()), "{names:?}");

    let agent = scene.open().await;
    for node in &scene.nodes[..2] {
        for _ in 0..2 {
            assert_eq!(fetch(&agent, node).await.unwrap().get(), PER_MIB);
        }
        let exhausted = fetch(&agent, node).await.unwrap_err();
        assert!(matches!(exhausted, FetchError::DepositExhausted { .. }), "{exhausted}");
        assert_eq!(node.seen().vouchers.last().map(|signed| signed.verify(&session).is_ok()), Some(true));
    }
    let elsewhere = fetch(&agent, &scene.nodes[2]).await.unwrap_err();
    assert!(matches!(refused(&elsewhere), WalletError::Beyond(Beyond::Scope { .. })), "{elsewhere}");
    assert_eq!(elsewhere.subject().node, Some(key(63).node_id()));

    let one = Amount::new(1);
    for error in [
        agent.wallet().deposit(one).await.unwrap_err(),
        agent.wallet().withdraw(one).await.unwrap_err(),
        agent.open_channel(key(63).node_id(), one, None).await.unwrap_err(),
        agent.top_up(opened[0].channel, one).await.unwrap_err(),
        agent.request_close(opened[0].channel).await.unwrap_err(),
        agent.sweep(0).await.unwrap_err(),
        agent.sessions().await.unwrap_err(),
        agent.delegate(scene.request(1)).await.unwrap_err(),
    ] {
        let owner = match &error {
            MoneyError::OwnerNeeded { owner } => *owner,
            // Nothing is there to move, which is found first.
            MoneyError::NotEnough { .. } => continue,
            other => panic!("{other}"),
        };
        assert_eq!(owner, Wallet::addresses(&scene.world.path("agent")).unwrap().0);
        assert!(error.next_step().contains(&owner.to_string()) && error.exit_code() == 5);
    }
    let status = scene.owner.wallet().status().await.unwrap();
    assert_eq!(status.available.get(), FUNDS - 4 * PER_MIB, "nothing moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_pays_from_channels_of_its_own_beside_its_sessions() {
    let scene = Scene::new().await;
    scene.owner.delegate(scene.request(2 * PER_MIB)).await.unwrap();
    let nothing = fetch(&scene.owner, &scene.nodes[0]).await.unwrap_err();
    assert!(matches!(nothing, FetchError::NoChannel { .. }), "a session's channel is not the owner's: {nothing}");
    let own = scene.owner.open_channel(key(61).node_id(), Amount::new(PER_MIB), None).await.unwrap();
    fetch(&scene.owner, &scene.nodes[0]).await.unwrap();
    let sessions = scene.owner.sessions().await.unwrap();
    assert_eq!((sessions.len(), sessions[0].channels.len(), sessions[0].cap), (1, 2, Some(Amount::new(2 * PER_MIB))));
    assert!(sessions[0].channels.iter().all(|channel| channel.channel != own.channel));
}

// r[verify identity.delegation.bounds]
#[tokio::test(flavor = "multi_thread")]
async fn the_cap_holds_over_all_channels_even_where_deposits_allow_more() {
    let scene = Scene::new().await;
    let (_, opened) = scene.owner.delegate(scene.request(2 * PER_MIB)).await.unwrap();
    // The owner raises one deposit by hand; what it signed stands all the same.
    scene.owner.top_up(opened[0].channel, Amount::new(3 * PER_MIB)).await.unwrap();
    let agent = scene.open().await;
    fetch(&agent, &scene.nodes[0]).await.unwrap();
    fetch(&agent, &scene.nodes[0]).await.unwrap();
    let beyond = fetch(&agent, &scene.nodes[0]).await;
    let signed: u64 = agent.channels().await.unwrap().iter().map(|channel| channel.signed.get()).sum();
    assert_eq!(signed, 2 * PER_MIB, "{beyond:?}");
    assert_eq!(scene.nodes[0].seen().paid() + scene.nodes[1].seen().paid(), 2 * PER_MIB);
}

// r[verify identity.delegation.bounds]
#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_by_either_clock_and_no_jump_back_revives_it() {
    let scene = Scene::new().await;
    scene.owner.delegate(scene.request(4 * PER_MIB)).await.unwrap();
    let start = scene.world.chain.clock().await.unwrap();
    let clock = Arc::new(AtomicI64::new(start));
    let open = || {
        let clock = Arc::clone(&clock);
        Wallet::open_at(&scene.dir(), move || clock.load(Ordering::SeqCst)).unwrap()
    };
    let agent = scene.session(open()).await;
    // A clock that goes back changes nothing while time is left.
    for offset in [0, -1_000_000, 100] {
        clock.store(start + offset, Ordering::SeqCst);
        fetch(&agent, &scene.nodes[0])
            .await
            .map(drop)
            .or_else(|error| match error {
                FetchError::DepositExhausted { .. } => Ok(()),
                other => Err(other),
            })
            .unwrap();
    }
    // A minute before the end nothing is begun any more, for it could not be paid.
    let end = start + i64::from(HOUR_S);
    clock.store(end - 59, Ordering::SeqCst);
    let late = fetch(&agent, &scene.nodes[1]).await.unwrap_err();
    assert!(matches!(refused(&late), WalletError::Beyond(Beyond::Expired { .. })), "{late}");
    assert_eq!((late.code(), late.exit_code(), late.is_retryable()), ("DelegationExpired", 5, false));
    clock.store(end + 5, Ordering::SeqCst);
    assert!(fetch(&agent, &scene.nodes[1]).await.is_err());
    for jump in [start, 0, -5] {
        clock.store(jump, Ordering::SeqCst);
        assert!(fetch(&agent, &scene.nodes[1]).await.is_err(), "at {jump}");
    }
    drop(agent);
    // Nor does a restart, while the clock is still wrong.
    let agent = scene.session(open()).await;
    assert!(fetch(&agent, &scene.nodes[1]).await.is_err());
    assert_eq!(scene.nodes[1].seen().vouchers, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chains_clock_ends_a_session_whose_own_clock_is_behind() {
    let scene = Scene::new().await;
    scene.owner.delegate(scene.request(2 * PER_MIB)).await.unwrap();
    let start = scene.world.chain.clock().await.unwrap();
    scene.world.chain.warp_clock(start + i64::from(HOUR_S) + 1);
    let agent = scene.session(Wallet::open_at(&scene.dir(), || 0).unwrap()).await;
    let late = fetch(&agent, &scene.nodes[0]).await.unwrap_err();
    assert!(matches!(refused(&late), WalletError::Beyond(Beyond::Expired { .. })), "{late}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_session_pays_no_more_and_all_but_what_it_signed_comes_back() {
    let scene = Scene::new().await;
    let (session, _) = scene.owner.delegate(scene.request(4 * PER_MIB)).await.unwrap();
    let agent = scene.open().await;
    fetch(&agent, &scene.nodes[0]).await.unwrap();
    agent.close().await;
    let stranger = AgentId::from_bytes([5; 32]);
    assert!(matches!(scene.owner.revoke(stranger).await, Err(MoneyError::UnknownSession(_))));
    let closing = scene.owner.revoke(session).await.unwrap();
    assert!(closing.len() == 2 && closing.iter().all(|channel| channel.phase == ChannelPhase::Closing));
    let dead = fetch(&agent, &scene.nodes[0]).await.unwrap_err();
    assert!(matches!(dead, FetchError::ChannelUnusable { .. }), "{dead}");

    let deadline = closing.iter().filter_map(|channel| channel.deadline).max().unwrap();
    scene.world.chain.warp_clock(deadline);
    let report = scene.owner.sweep(HOUR_S).await.unwrap();
    assert_eq!((report.reclaimed.len(), report.failed.len()), (2, 0));
    assert_eq!(scene.owner.wallet().status().await.unwrap().available.get(), FUNDS);
    assert_eq!(scene.owner.sessions().await.unwrap()[0].channels, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_of_the_owner_closes_what_expired_sessions_have() {
    let scene = Scene::new().await;
    scene.owner.delegate(scene.request(2 * PER_MIB)).await.unwrap();
    let start = scene.world.chain.clock().await.unwrap();
    scene.world.chain.warp_clock(start + i64::from(HOUR_S) - 10);
    assert_eq!(scene.owner.sweep(0).await.unwrap().kept, 2, "they may still pay");
    scene.world.chain.warp_clock(start + i64::from(HOUR_S) + 10);
    assert_eq!(scene.owner.sweep(u32::MAX).await.unwrap().closing.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_not_delegated_and_leaves_no_key_behind() {
    let scene = Scene::new().await;
    let node = key(61).node_id();
    let with = |nodes: Vec<NodeId>, cap| DelegateRequest { nodes, ..scene.request(cap) };
    for (request, code) in [
        (with(vec![], 10), "Delegation"),
        (with(vec![node, node], 10), "Delegation"),
        (with((0..17).map(|byte| NodeId::from_bytes([byte; 32])).collect(), 100), "Delegation"),
        (with(vec![node, key(62).node_id()], 1), "ZeroAmount"),
    ] {
        let error = scene.owner.delegate(request).await.unwrap_err();
        assert_eq!((error.code(), error.exit_code()), (code, 2), "{error}");
        assert!(!scene.dir().exists());
    }
    scene.owner.delegate(scene.request(4)).await.unwrap();
    let again = scene.owner.delegate(scene.request(4)).await.unwrap_err();
    assert_eq!(again.code(), "WalletExists", "keys are never overwritten");
}

// r[verify identity.delegation.signed]
#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_that_was_tampered_with_or_is_for_another_chain_opens_nothing() {
    let scene = Scene::new().await;
    scene.owner.delegate(scene.request(2 * PER_MIB)).await.unwrap();
    let other = World::new().await;
    let elsewhere = other.builder(Wallet::open(&scene.dir()).unwrap()).build().await.unwrap_err();
    assert!(matches!(elsewhere, BuildError::Wallet(WalletError::OtherChain)), "{elsewhere}");

    let file = scene.dir().join("delegation");
    let whole = std::fs::read(&file).unwrap();
    for place in [0, 100, 130, whole.len() - 70, whole.len() - 1] {
        let mut altered = whole.clone();
        altered[place] ^= 1;
        std::fs::write(&file, &altered).unwrap();
        let error = Wallet::open(&scene.dir()).unwrap_err();
        assert!(matches!(error, WalletError::Delegation { .. }), "byte {place}: {error}");
    }
    std::fs::write(&file, &whole[..10]).unwrap();
    assert!(matches!(Wallet::open(&scene.dir()), Err(WalletError::Delegation { .. })));
    std::fs::write(&file, vec![0; 1 << 20]).unwrap();
    assert!(matches!(Wallet::open(&scene.dir()), Err(WalletError::Delegation { .. })));
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(Wallet::open(&scene.dir()), Err(WalletError::Missing(_))));

    // The owner's word for one key is of no use to another.
    std::fs::write(&file, &whole).unwrap();
    std::fs::copy(scene.world.path("agent").join("signer.json"), scene.dir().join("signer.json")).unwrap();
    assert!(matches!(Wallet::open(&scene.dir()), Err(WalletError::OtherSession(_))));
}
