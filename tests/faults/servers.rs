//! Two servers of one chain, of which one is dead, lags or lies.

use std::sync::Arc;
use std::time::Duration;

use aro_tests::faulty::{Fate, Server, Word};
use settlement_chain::{Address, ChainClient, Patience, Servers};

use crate::scene::{BASE_FEE, Scene};
use crate::story;

// r[verify settlement.servers.contested]
#[tokio::test]
async fn one_server_of_two_that_lies_about_transactions_fools_nobody_and_holds_nothing_up() {
    let scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    for word in LIES {
        told_beside(&scene, undisturbed, word, |_, _| {}).await;
    }
}

// r[verify settlement.servers.contested]
#[tokio::test]
async fn one_server_of_two_that_lies_about_what_both_have_dropped_costs_time_and_no_fee() {
    let scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    for word in LIES {
        let scene = told_beside(&scene, undisturbed, word, |scene, liar| {
            liar.otherwise(Fate::Dropped);
            scene.server.script(vec![Fate::Dropped; 3]);
        })
        .await;
        assert!(scene.server.struck() >= 3);
    }
}

// r[verify settlement.servers.forgetting]
#[tokio::test]
async fn one_server_that_denies_channels_makes_no_voucher_forgotten() {
    let mut scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    scene.ground.set_pace(PACE);
    let (chain, liar) = two(&scene);
    let operator = scene.start_on(chain).await;
    let channel = scene.channels[0][0];
    let voucher = scene.stage.voucher(channel, 900);
    scene.hand(&operator, 0, &[voucher]).await;
    liar.deny(scene.channels.concat().iter().map(|id| Address::new_from_array(id.to_bytes())));
    // Far more blocks than what is confirmed needs to be final.
    let began = scene.server.statuses(&[]).await.unwrap().block_height;
    while scene.server.statuses(&[]).await.unwrap().block_height < began + 10 * PACE {
        drop(operator.settle_once().await.unwrap());
    }
    let kept: Vec<_> = operator.vouchers().await.unwrap().iter().map(|stored| stored.cumulative().get()).collect();
    assert_eq!(kept, [900]);

    liar.recover();
    story::tell(&mut scene, &operator).await;
    scene.calm(&operator).await;
    scene.audit(undisturbed + 2 * BASE_FEE).await;
}

// r[verify settlement.servers.landed]
#[tokio::test]
async fn one_server_that_swears_to_what_both_have_dropped_makes_nothing_forgotten() {
    let mut scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    scene.ground.set_pace(PACE);
    let (chain, liar) = two(&scene);
    liar.say(Word::Finalized);
    liar.otherwise(Fate::Dropped);
    scene.server.script(vec![Fate::Dropped; 4]);
    let operator = scene.start_on(chain).await;
    story::tell(&mut scene, &operator).await;
    assert!(scene.server.struck() >= 3);
    liar.recover();
    scene.calm(&operator).await;
    scene.audit(undisturbed + BASE_FEE).await;
}

#[tokio::test]
async fn server_that_lags_or_is_dead_costs_no_voucher_and_no_second_transaction() {
    let scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    for is_dead in [false, true] {
        let mut scene = scene.branch().await;
        let (chain, other) = two(&scene);
        other.set_down(is_dead);
        if !is_dead {
            other.fall_behind();
        }
        let operator = scene.start_on(chain).await;
        story::tell(&mut scene, &operator).await;
        other.recover();
        scene.calm(&operator).await;
        scene.audit(undisturbed + BASE_FEE).await;
    }
}

// r[verify settlement.servers.absent]
#[tokio::test]
async fn work_goes_on_beside_a_server_that_is_gone_for_good() {
    let mut scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    scene.ground.set_pace(PACE);
    let (chain, other) = two(&scene);
    other.set_down(true);
    scene.server.script(vec![Fate::Dropped; 3]);
    let operator = scene.start_on(chain).await;
    let told = tokio::time::timeout(SOON, story::tell(&mut scene, &operator)).await;
    assert!(told.is_ok() && scene.server.struck() >= 3);
    for channel in scene.channels.concat() {
        assert!(scene.is_safe(channel).await && scene.is_closed(channel).await, "{channel} waits for the other server");
    }
    // What is final takes two: only then is anything forgotten.
    assert!(!operator.vouchers().await.unwrap().is_empty());
    other.recover();
    scene.calm(&operator).await;
    scene.audit(undisturbed + 2 * BASE_FEE).await;
}

/// The story, told on a branch of the scene beside a server that says this of every transaction, and audited when that has
/// stopped. `prepare` is for what else is to go wrong.
async fn told_beside(scene: &Scene, undisturbed: u64, word: Word, prepare: impl Fn(&Scene, &Server)) -> Scene {
    let mut scene = scene.branch().await;
    scene.ground.set_pace(PACE);
    let (chain, liar) = two(&scene);
    liar.say(word);
    prepare(&scene, &liar);
    let operator = scene.start_on(chain).await;
    let told = tokio::time::timeout(SOON, story::tell(&mut scene, &operator)).await;
    assert!(told.is_ok(), "{word:?} holds the operator up");
    liar.recover();
    scene.calm(&operator).await;
    // Finalizing and refunding may take two parts each.
    scene.audit(undisturbed + 2 * BASE_FEE).await;
    scene
}

/// The scene's own server and another, as one chain; and the other.
fn two(scene: &Scene) -> (Arc<dyn ChainClient>, Server) {
    let other = Server::new(Arc::clone(&scene.ground));
    let members: Vec<(String, Arc<dyn ChainClient>)> =
        vec![("honest".into(), Arc::new(scene.server.clone())), ("other".into(), Arc::new(other.clone()))];
    (Arc::new(Servers::with_patience(members, PATIENCE)), other)
}

/// A server that is gone for two seconds is absent.
const PATIENCE: Patience =
    Patience { slower: Duration::from_millis(200), absent: Duration::from_secs(2), alone: Duration::from_secs(2) };

/// What the other server may say of every transaction.
const LIES: [Word; 6] =
    [Word::NotFound, Word::NotFoundFromTheFuture, Word::Finalized, Word::Failed, Word::Contradicting, Word::Silence];

/// Blocks between two looks: a blockhash dies soon.
const PACE: u64 = 20;

/// How long the story may take beside a liar: a transaction that is given up uncertain takes three minutes.
const SOON: Duration = Duration::from_secs(60);
