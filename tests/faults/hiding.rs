//! One server of several that hides what is closing, pretends that something is, or tells a wrong time.
//!
//! The watchtower is tested in virtual time: it works by itself, and nothing is handed over a socket.

use std::sync::Arc;
use std::time::Duration;

use aro_proto::channel::Voucher;
use aro_proto::message::HandoffVoucher;
use aro_proto::{Amount, ChannelId};
use aro_tests::faulty::{AHEAD, Server};
use aro_tests::stage::{GRACE_S, NOW};
use settlement_chain::{Account, Address, CLOCK, ChainClient, Patience, Servers};
use settlement_interface::accounts::{Channel, Node, status};
use settlement_operator::batch::Rules;
use settlement_operator::vouchers::{Accepted, Claim, MemoryStore, VoucherStore};
use settlement_operator::{OperatorConfig, RunningOperator};
use tokio::time::{Instant, sleep};

use crate::scene::{BASE_FEE, DEPOSIT, PRIORITY, Scene};

// r[verify settlement.servers.each]
#[tokio::test(start_paused = true)]
async fn closing_channel_that_one_server_hides_lands_within_a_quarter_of_its_grace() {
    let scene = Scene::new(&[1]).await;
    let of = |scene: &Scene| (Address::new_from_array(scene.channels[0][0].to_bytes()), scene.nodes[0].account);
    for honest in [1, 2] {
        for lie in HIDING {
            let scene = scene.branch().await;
            let (chain, liar) = among(&scene, honest);
            let operator = watching(&scene, chain).await;
            sleep(Duration::from_secs(70)).await;
            assert_eq!(scene.ground.watermark(scene.channels[0][0]).await, 0, "not worth it while it is open");
            let (channel, node) = of(&scene);
            let (ahead, tell) = lie;
            liar.misrepresent(ahead, move |address, account| {
                if *address == channel || *address == node {
                    tell(account);
                }
            });
            scene.stage.request_close(scene.channels[0][0]).await.unwrap();
            let asked = Instant::now();
            while scene.ground.watermark(scene.channels[0][0]).await < PAID {
                sleep(Duration::from_secs(1)).await;
                assert!(asked.elapsed() <= Duration::from_secs(u64::from(GRACE_S / 4)), "{honest} beside a liar");
            }
            // It goes on hiding that, too.
            sleep(Duration::from_secs(u64::from(GRACE_S))).await;
            assert!(scene.burnt().await <= 7 * (BASE_FEE + PRIORITY), "{} lamports", scene.burnt().await);
            drop(operator);
        }
    }
}

// r[verify settlement.servers.each]
#[tokio::test(start_paused = true)]
async fn one_server_that_shows_an_open_channel_closing_costs_a_few_fees_and_then_one_an_hour() {
    let scene = Scene::new(&[1]).await;
    for honest in [1, 2] {
        let scene = scene.branch().await;
        let (chain, liar) = among(&scene, honest);
        let channel = Address::new_from_array(scene.channels[0][0].to_bytes());
        liar.misrepresent(0, move |address, account| {
            if *address == channel {
                as_channel(account, |channel| {
                    (channel.status, channel.deadline, channel.settled) = (status::CLOSING, NOW + 1_000_000, 0);
                });
            }
        });
        let operator = watching(&scene, chain).await;
        const HOURS: u64 = 6;
        sleep(Duration::from_secs(HOURS * 60 * 60)).await;
        assert_eq!(scene.ground.watermark(scene.channels[0][0]).await, PAID, "settled early is settled");
        let landed = u64::try_from(scene.ground.landings().await.len()).unwrap();
        assert!((2..=10 + HOURS).contains(&landed), "{landed} transactions");
        drop(operator);
    }
}

// r[verify settlement.servers.clock]
#[tokio::test]
async fn clock_of_one_server_that_runs_ahead_closes_no_channel_without_its_voucher() {
    let scene = Scene::new(&[2]).await;
    for honest in [1, 2] {
        let mut scene = scene.branch().await;
        let (chain, liar) = among(&scene, honest);
        liar.misrepresent(AHEAD, |address, account| set_clock(address, account, NOW + 30 * DAY));
        let operator = scene.start_on(chain).await;
        let [plain, after_another] = scene.channels[0][..] else { panic!("two channels") };
        let first = scene.stage.voucher(after_another, 500);
        scene.hand_all(&operator, 0, &[first]).await;
        let expiring = [closing(&scene, plain, PAID), closing(&scene, after_another, PAID)];
        scene.hand_all(&operator, 0, &expiring).await;
        for _ in 0..3 {
            drop(operator.settle_once().await.unwrap());
        }
        assert!(scene.is_closed(plain).await);
        liar.recover();
        scene.calm(&operator).await;
        assert!(scene.is_closed(after_another).await);
        // What both clocks do not agree on is settled first and closed when they do.
        scene.audit(6 * (BASE_FEE + PRIORITY)).await;
        for channel in [plain, after_another] {
            assert_eq!(scene.ground.watermark(channel).await, PAID);
        }
    }
}

// r[verify settlement.servers.clock]
#[tokio::test]
async fn clock_of_one_server_that_is_late_closes_no_channel_with_a_voucher_that_has_died() {
    let scene = Scene::new(&[1]).await;
    for honest in [1, 2] {
        let mut scene = scene.branch().await;
        let (chain, liar) = among(&scene, honest);
        let operator = scene.start_on(chain).await;
        let channel = scene.channels[0][0];
        let lasting = scene.stage.voucher(channel, 500);
        scene.hand_all(&operator, 0, &[lasting]).await;
        let dying = closing(&scene, channel, PAID);
        scene.hand_all(&operator, 0, &[dying]).await;
        liar.misrepresent(AHEAD, |address, account| set_clock(address, account, NOW + DAY));
        scene.stage.chain().warp_clock(NOW + 3 * DAY);
        for _ in 0..3 {
            drop(operator.settle_once().await.unwrap());
        }
        liar.recover();
        scene.calm(&operator).await;
        assert!(scene.is_closed(channel).await);
        assert_eq!(scene.ground.watermark(channel).await, 500, "what never dies is not lost with what did");
    }
}

/// So many honest servers and a liar, as one chain; the liar is asked first.
pub fn among(scene: &Scene, honest: usize) -> (Arc<dyn ChainClient>, Server) {
    let liar = Server::new(Arc::clone(&scene.ground));
    let mut members: Vec<(String, Arc<dyn ChainClient>)> = vec![("liar".into(), Arc::new(liar.clone()))];
    for number in 0..honest {
        members.push((format!("honest {number}"), Arc::new(Server::new(Arc::clone(&scene.ground)))));
    }
    (Arc::new(Servers::with_patience(members, Patience::default())), liar)
}

/// An operator that holds a voucher of [`PAID`] for the first channel, and looks after it by itself.
async fn watching(scene: &Scene, chain: Arc<dyn ChainClient>) -> RunningOperator {
    let channel = scene.channels[0][0];
    let signer = scene.stage.signer();
    let voucher = Voucher { channel, cumulative: Amount::new(PAID), expires_at: 0 };
    let voucher = voucher.sign(signer).verify(&signer.agent_id()).unwrap();
    let store = Arc::new(MemoryStore::default());
    let claim = Claim::Rise(Accepted { voucher, node: scene.nodes[0].account, close: false });
    store.commit(vec![(channel, Ok(claim))], NOW).await.unwrap();
    // Rounds come so seldom, and are worth it so late, that only the watchtower settles anything.
    let config = OperatorConfig {
        settle_interval_ms: MONTH_MS,
        sweep_interval_ms: MONTH_MS,
        rules: Rules::default(),
        ..scene.stage.config(scene.dir.path())
    };
    scene.stage.start_with_store(&scene.keys, &config, chain, store).await.unwrap()
}

/// A voucher that dies in two days, with the wish to close.
fn closing(scene: &Scene, channel: ChannelId, cumulative: u64) -> HandoffVoucher {
    let voucher = Voucher { channel, cumulative: Amount::new(cumulative), expires_at: NOW + 2 * DAY };
    let signature = voucher.sign(scene.stage.signer()).signature;
    let Voucher { channel, cumulative, expires_at } = voucher;
    HandoffVoucher { channel, cumulative, expires_at, signature, close: true }
}

pub fn as_channel(account: &mut Option<Account>, change: impl Fn(&mut Channel)) {
    let Some(account) = account else { return };
    if let Ok(mut channel) = Channel::decode(&account.data) {
        change(&mut channel);
        account.data = channel.to_bytes().to_vec();
    }
}

pub fn set_clock(address: &Address, account: &mut Option<Account>, now: i64) {
    if let Some(account) = account.as_mut().filter(|_| *address == CLOCK) {
        account.data[32..40].copy_from_slice(&now.to_le_bytes());
    }
}

/// By how many slots the liar is ahead, and what it makes of the channel and of the node.
pub type Hiding = (u64, fn(&mut Option<Account>));

/// Open, settled in full, closed, gone, gone as of the very slot of the others; and a node that is another operator's.
pub const HIDING: [Hiding; 6] = [
    (AHEAD, |account| as_channel(account, |channel| (channel.status, channel.deadline) = (status::OPEN, 0))),
    (AHEAD, |account| as_channel(account, |channel| channel.settled = DEPOSIT)),
    (AHEAD, |account| as_channel(account, |channel| channel.status = status::CLOSED)),
    (AHEAD, |account| *account = None),
    (0, |account| *account = None),
    (AHEAD, |account| {
        let Some(account) = account else { return };
        if let Ok(mut node) = Node::decode(&account.data) {
            node.operator = [9; 32];
            account.data = node.to_bytes().to_vec();
        }
    }),
];

/// What the agent has signed.
pub const PAID: u64 = 900;
pub const DAY: i64 = 24 * 60 * 60;
const MONTH_MS: u64 = 30 * 24 * 60 * 60 * 1_000;
