//! A node's own watchtower, where one of its servers hides what is closing or tells a wrong time. No operator runs.

use std::time::{Duration, Instant};

use aro_proto::channel::Voucher;
use aro_proto::identity::{Binding, Signed};
use aro_proto::limits::{EXPORTER_LABEL, EXPORTER_LEN, MINOR_VERSION};
use aro_proto::message::{Bind, Bound, Credit, Hello, Message, NodeHello, Pay, Refused, VoucherOnWire};
use aro_proto::wire::{FRAME_HEAD, FrameHead, decode_body, encode_frame};
use aro_proto::{Amount, ChannelId, Refusal, Tariff};
use aro_tests::faulty::AHEAD;
use aro_tests::stage::{GRACE_S, NOW};
use node_server::{FeeKey, Node, NodeConfig, RunningNode};
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use settlement_chain::submit::{Terms, TransactionFormat, offered_priority_fee};
use settlement_chain::{Account, Address, Keypair, Signer, VersionedMessage};
use settlement_interface::accounts::status;

use crate::hiding::{DAY, HIDING, Hiding, PAID, among, as_channel, set_clock};
use crate::scene::{PRIORITY, Scene};

// r[verify settlement.servers.each]
// r[verify settlement.transaction.format]
// r[verify settlement.watch.node]
#[tokio::test]
async fn node_settles_a_closing_channel_within_a_quarter_of_its_grace_though_one_server_hides_it() {
    let scene = Scene::new(&[1]).await;
    for honest in [1, 2] {
        for (ahead, tell) in HIDING.into_iter().chain(WRONG_CLOCKS) {
            let scene = scene.branch().await;
            let (chain, liar) = among(&scene, honest);
            let node = start(&scene, chain).await;
            pay(&scene, &node, PAID).await;
            let lied_about = lied_about(&scene);
            liar.misrepresent(ahead, move |address, account| {
                if lied_about.contains(address) {
                    tell(account);
                }
            });
            scene.stage.request_close(scene.channels[0][0]).await.unwrap();
            scene.stage.chain().warp_clock(NOW + i64::from(GRACE_S / 8));
            until_settled(&scene, PAID).await;
            let first = scene.ground.landings().await[0].transaction.clone();
            let VersionedMessage::V1(message) = &first.message else { panic!("the chain takes version 1") };
            let limits = (message.config.compute_unit_limit, message.config.loaded_accounts_data_size_limit);
            let widest = Terms::estimate(TransactionFormat::V1, &[]).loaded_data_bytes;
            assert!(limits.0.is_some_and(|units| units < ESTIMATED_UNITS), "{limits:?} are from a simulation");
            assert!(limits.1.is_some_and(|bytes| bytes < widest), "{limits:?} are from a simulation");
            assert!((1..=PRIORITY).contains(&offered_priority_fee(&first)), "the least for what is closing");
            // It goes on hiding that, too.
            for _ in 0..LOOKS {
                node.follow_now().await.unwrap();
            }
            let landed = scene.ground.landings().await.len();
            assert!((1..=2).contains(&landed), "{honest} beside a liar: {landed} transactions");
        }
    }
}

// r[verify settlement.servers.each]
#[tokio::test]
async fn node_believes_one_server_that_shows_an_open_channel_closing_once() {
    let scene = Scene::new(&[1]).await;
    for honest in [1, 2] {
        let scene = scene.branch().await;
        let (chain, liar) = among(&scene, honest);
        let node = start(&scene, chain).await;
        pay(&scene, &node, PAID).await;
        let channel = address(scene.channels[0][0]);
        let deadline = NOW + i64::from(GRACE_S / 2);
        liar.misrepresent(0, move |address, account| {
            if *address == channel {
                as_channel(account, |channel| {
                    (channel.status, channel.deadline, channel.settled) = (status::CLOSING, deadline, 0);
                });
            }
        });
        until_settled(&scene, PAID).await;
        for eighth in 1..3 {
            scene.stage.chain().warp_clock(NOW + eighth * i64::from(GRACE_S / 8));
            for _ in 0..LOOKS {
                node.follow_now().await.unwrap();
            }
        }
        assert_eq!(scene.ground.landings().await.len(), 1, "what has landed rests, whatever is shown");
    }
}

/// A node of the scene's first keys, with a key for fees, that follows the chain closely.
pub async fn start(scene: &Scene, chain: std::sync::Arc<dyn settlement_chain::ChainClient>) -> RunningNode {
    let fee_key = Keypair::new();
    scene.stage.chain().airdrop(&fee_key.pubkey(), 1_000_000_000).unwrap();
    let config = NodeConfig {
        tariff: Tariff { per_mib: 100 },
        program: scene.stage.program().id,
        fee_key: Some(FeeKey::new(fee_key)),
        follow_interval_ms: 100,
        resend_interval_ms: 100,
        ..NodeConfig::new(scene.dir.path())
    };
    Node::start(config, scene.nodes[0].id.clone(), chain).await.unwrap()
}

/// A connection that is bound to a channel.
pub struct Line {
    _connection: Connection,
    send: SendStream,
    receive: RecvStream,
}

/// The agent binds a channel, if the node takes it.
pub async fn bind(scene: &Scene, node: &RunningNode, channel: ChannelId) -> Result<Line, Refusal> {
    let signer = scene.stage.signer();
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = aro_proto::transport::client_config(node.node_id());
    let dialling = endpoint.connect_with(config, node.local_addr(), aro_proto::transport::SERVER_NAME).unwrap();
    let connection = dialling.await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    say(&mut send, &Hello { minor_version: MINOR_VERSION, chain: scene.stage.chain_ids() }).await;
    hear::<NodeHello>(&mut receive).await;
    let bind = Bind { channel, id: None, replaces: Vec::new() };
    let bind = Signed::new(&bind, signer, &binding(&connection, &send)).unwrap();
    send.write_all(&bind.to_frame()).await.unwrap();
    match next(&mut receive, &[Bound::KIND, Refused::KIND]).await {
        (Refused::KIND, body) => Err(decode_body::<Refused>(Refused::KIND, &body).unwrap().refusal),
        _ => Ok(Line { _connection: connection, send, receive }),
    }
}

/// The agent pays this total on the first channel, and hears that it counts.
async fn pay(scene: &Scene, node: &RunningNode, total: u64) {
    let channel = scene.channels[0][0];
    let mut line = bind(scene, node, channel).await.unwrap();
    let voucher = Voucher { channel, cumulative: Amount::new(total), expires_at: 0 };
    let signature = voucher.sign(scene.stage.signer()).signature;
    let voucher = VoucherOnWire { cumulative: voucher.cumulative, expires_at: 0, signature };
    say(&mut line.send, &Pay { voucher }).await;
    while hear::<Credit>(&mut line.receive).await.cumulative < voucher.cumulative {}
}

fn binding(connection: &Connection, stream: &SendStream) -> Binding {
    let mut exporter = [0; EXPORTER_LEN];
    connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").unwrap();
    Binding { exporter, stream: u64::from(VarInt::from(stream.id())) }
}

async fn say<M: Message>(send: &mut SendStream, message: &M) {
    send.write_all(&encode_frame(message).unwrap()).await.unwrap();
}

/// The next message of this kind; others that come before it are left out.
async fn hear<M: Message>(receive: &mut RecvStream) -> M {
    let (kind, body) = next(receive, &[M::KIND]).await;
    decode_body(kind, &body).unwrap()
}

async fn next(receive: &mut RecvStream, kinds: &[u8]) -> (u8, Vec<u8>) {
    loop {
        let mut head = [0; FRAME_HEAD];
        receive.read_exact(&mut head).await.unwrap();
        let head = FrameHead::parse(&head).unwrap();
        let mut body = vec![0; head.body_len];
        receive.read_exact(&mut body).await.unwrap();
        if kinds.contains(&head.kind) {
            return (head.kind, body);
        }
    }
}

async fn until_settled(scene: &Scene, amount: u64) {
    let began = Instant::now();
    while scene.ground.watermark(scene.channels[0][0]).await < amount {
        assert!(began.elapsed() < PATIENCE, "the node does not settle");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The channel, the node and the clock: each lie changes one of them, and leaves the others as they are.
fn lied_about(scene: &Scene) -> [Address; 3] {
    [address(scene.channels[0][0]), scene.nodes[0].account, settlement_chain::CLOCK]
}

pub fn address(channel: ChannelId) -> Address {
    Address::new_from_array(channel.to_bytes())
}

fn clock_at(account: &mut Option<Account>, now: i64) {
    // A clock is too short for a channel or a node.
    if account.as_ref().is_some_and(|account| account.data.len() < 64) {
        set_clock(&settlement_chain::CLOCK, account, now);
    }
}

/// A clock that has stopped a day ago, and one that is a month ahead.
const WRONG_CLOCKS: [Hiding; 2] =
    [(AHEAD, |account| clock_at(account, NOW - DAY)), (AHEAD, |account| clock_at(account, NOW + 30 * DAY))];

/// What one voucher is estimated at where nobody simulates.
const ESTIMATED_UNITS: u32 = 38_600;
/// Looks at the chain after which a node would have settled again.
const LOOKS: usize = 20;
/// How long the node may take by this machine's clock; by the chain's it takes none.
const PATIENCE: Duration = Duration::from_secs(30);
