//! A node of which one server makes up a channel, or what is on it: what it lends on takes two that show it.

use std::sync::Arc;

use aro_proto::{ChannelId, WhoActs};
use aro_tests::faulty::{AHEAD, Server};
use node_server::RunningNode;
use settlement_chain::{Account, ChainClient, Patience, Servers};
use settlement_interface::accounts::Channel;

use crate::hiding::{among, as_channel};
use crate::scene::{DEPOSIT, Scene};
use crate::towers::{address, bind, start};

// r[verify settlement.servers.vouched]
#[tokio::test]
async fn node_serves_no_channel_that_one_server_makes_up() {
    let scene = Scene::new(&[1]).await;
    let false_one = ChannelId::from_bytes([9; 32]);
    let real = address(scene.channels[0][0]);
    let account = scene.ground.chain().accounts(&[real]).await.unwrap().remove(0);
    for honest in [0, 1, 2] {
        let scene = scene.branch().await;
        let (chain, liar) = among(&scene, honest);
        let account = account.clone();
        liar.misrepresent(AHEAD, move |address, shown| {
            if address.to_bytes() == false_one.to_bytes() {
                shown.clone_from(&account);
                as_channel(shown, |channel| (channel.nonce, channel.deposit) = (99, u64::MAX / 2));
            }
        });
        let node = start(&scene, chain).await;
        match bind(&scene, &node, false_one).await {
            Ok(_) => assert_eq!(honest, 0, "the node's only server is believed"),
            Err(refusal) => assert_eq!((honest > 0, refusal.code().who_acts()), (true, WhoActs::RetryHere)),
        }
        node.follow_now().await.unwrap();
        assert!(bind(&scene, &node, scene.channels[0][0]).await.is_ok(), "the real one is served");
    }
}

// r[verify settlement.servers.vouched]
#[tokio::test]
async fn node_lends_on_no_deposit_and_no_watermark_that_one_server_makes_larger() {
    let scene = Scene::new(&[1]).await;
    let channel = address(scene.channels[0][0]);
    for honest in [1, 2] {
        for ahead in [0, AHEAD] {
            let scene = scene.branch().await;
            let (chain, liar) = among(&scene, honest);
            let node = start(&scene, chain).await;
            liar.misrepresent(ahead, move |address, shown| {
                if *address == channel {
                    enlarge(shown);
                }
            });
            assert!(bind(&scene, &node, scene.channels[0][0]).await.is_ok());
            node.follow_now().await.unwrap();
            assert_eq!(terms(&scene, &node).await, (DEPOSIT, 0), "{honest} honest, {ahead} slots ahead");
        }
    }
}

// r[verify settlement.servers.vouched]
#[tokio::test]
async fn new_channel_waits_for_a_server_that_lags_and_not_for_one_that_is_down() {
    let scene = Scene::new(&[1]).await;
    let servers = [(), ()].map(|()| Server::new(Arc::clone(&scene.ground)));
    let named = servers.iter().map(|server| ("one".to_owned(), Arc::new(server.clone()) as Arc<dyn ChainClient>));
    let chain = Arc::new(Servers::with_patience(named.collect(), Patience::default()));
    let node = start(&scene, Arc::<Servers>::clone(&chain)).await;
    let open = async || scene.stage.open(&scene.nodes[0], 1, DEPOSIT).await.unwrap()[0];

    servers[1].fall_behind();
    let channel = open().await;
    let asked = || chain.health()[1].answered;
    let before = asked();
    let catching_up = async {
        // The node follows the chain meanwhile: one look more is not about the channel.
        while asked() < before + LOOKS {
            tokio::task::yield_now().await;
        }
        assert!(node.status().await.channel(channel).is_none(), "one of two does not show it");
        servers[1].catch_up();
    };
    let (bound, ()) = tokio::join!(bind(&scene, &node, channel), catching_up);
    assert!(bound.is_ok(), "the node has waited for the other");

    servers[1].set_down(true);
    let channel = open().await;
    assert!(bind(&scene, &node, channel).await.is_ok(), "the one that answers is believed");
}

// r[verify settlement.servers.vouched]
#[tokio::test]
async fn known_channel_that_only_a_liar_still_shows_is_taken_for_no_more_than_it_was() {
    let scene = Scene::new(&[1]).await;
    let channel = address(scene.channels[0][0]);
    let [liar, other] = [(), ()].map(|()| Server::new(Arc::clone(&scene.ground)));
    let named = [&liar, &other].map(|server| ("one".to_owned(), Arc::new(server.clone()) as Arc<dyn ChainClient>));
    let chain = Arc::new(Servers::with_patience(named.into(), Patience::default()));
    let node = start(&scene, chain).await;
    assert_eq!(terms(&scene, &node).await, (DEPOSIT, 0));
    other.deny([channel]);
    liar.misrepresent(AHEAD, move |address, shown| {
        if *address == channel {
            enlarge(shown);
        }
    });
    for _ in 0..2 {
        node.follow_now().await.unwrap();
    }
    assert_eq!(terms(&scene, &node).await, (DEPOSIT, 0));
}

/// So many answers of a server are several looks of a node that follows the chain closely.
const LOOKS: u64 = 10;

/// Deposit and watermark, as the node takes them.
async fn terms(scene: &Scene, node: &RunningNode) -> (u64, u64) {
    let status = node.status().await;
    let channel = status.channel(scene.channels[0][0]).unwrap();
    (channel.deposit.get(), channel.settled.get())
}

fn enlarge(account: &mut Option<Account>) {
    as_channel(account, |channel: &mut Channel| (channel.deposit, channel.settled) = (u64::MAX / 2, u64::MAX / 4));
}
