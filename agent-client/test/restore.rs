//! A wallet whose record is lost, its keys still there: channels come back from the chain, what was signed from the node's
//! watermark, which is the wallet's own signature. It never signs too low for what it takes, nor too much, whatever the
//! node shows: honest, old, forged, none, or above the deposit. And a process that died is named to the node by the next.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use agent_client::{Agent, FetchError, LedgerError, Misbehaviour, Spending, Wallet};
use aro_proto::channel::{SignedVoucher, Voucher};
use aro_proto::message::{BindId, Replaced, VoucherOnWire};
use aro_proto::{Amount, ByteCount, RefusalCode, SecretKey, Tariff};
use settlement_chain::keyfile;
use support::scripted::{Script, ScriptedNode, content};
use support::world::World;

const PER_MIB: u64 = 1_000_003;
const MIB: u64 = 1 << 20;
const DEPOSIT: u64 = 10 * PER_MIB;

fn key() -> SecretKey {
    SecretKey::from_bytes(&[71; 32])
}

fn price(bytes: u64) -> u64 {
    Tariff { per_mib: PER_MIB }.price(ByteCount::new(bytes)).unwrap().get()
}

struct Scene {
    world: World,
    node: ScriptedNode,
}

impl Scene {
    /// A node with 1 MiB, and a wallet that has paid for it `fetches` times and then lost its record.
    async fn after(fetches: u64) -> (Self, Vec<SignedVoucher>) {
        let world = World::new().await;
        let (agent, _) = world.agent_with_channel(&key(), DEPOSIT).await;
        let node = ScriptedNode::start(&world, &key(), content(MIB as usize), PER_MIB).await;
        let scene = Self { world, node };
        for _ in 0..fetches {
            fetch(&agent, &scene.node).await.unwrap();
        }
        agent.close().await;
        drop(agent);
        scene.lose_record();
        let vouchers = scene.node.seen().vouchers;
        assert_eq!(scene.node.seen().paid(), price(fetches * MIB));
        (scene, vouchers)
    }

    fn home(&self) -> std::path::PathBuf {
        self.world.path("agent")
    }

    fn lose_record(&self) {
        lose_record(&self.home());
    }

    async fn agent(&self) -> Agent {
        self.world.builder(Wallet::open(&self.home()).unwrap()).build().await.unwrap()
    }

    fn signer(&self) -> SecretKey {
        let keypair = keyfile::read(&self.home().join("signer.json")).unwrap();
        SecretKey::from_bytes(keypair.secret_bytes())
    }
}

fn lose_record(home: &Path) {
    for entry in home.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && path.extension().is_none_or(|extension| extension != "json") {
            std::fs::remove_file(path).unwrap();
        }
    }
}

async fn fetch(agent: &Agent, node: &ScriptedNode) -> Result<Amount, FetchError> {
    agent.fetch(&node.address()).to_bytes(u64::MAX).await.map(|(report, bytes)| {
        assert_eq!(bytes, node.content());
        report.paid
    })
}

async fn signed(agent: &Agent) -> u64 {
    agent.channels().await.unwrap()[0].signed.get()
}

fn shown(voucher: &SignedVoucher) -> VoucherOnWire {
    let Voucher { cumulative, expires_at, .. } = voucher.voucher;
    VoucherOnWire { cumulative, expires_at, signature: voucher.signature }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_node_gives_everything_back_and_is_paid_on_from_there() {
    let (scene, _) = Scene::after(3).await;
    let agent = scene.agent().await;
    assert_eq!(signed(&agent).await, 0, "nobody has said yet");
    fetch(&agent, &scene.node).await.unwrap();
    assert_eq!(signed(&agent).await, price(4 * MIB));
    assert_eq!(scene.node.seen().paid(), price(4 * MIB));
    assert_eq!(agent.budget().spent(Spending::Vouchers).get(), price(4 * MIB) - price(3 * MIB), "and not a unit more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_lost_in_the_middle_of_a_fetch_is_found_at_the_next() {
    let world = World::new().await;
    let (agent, _) = world.agent_with_channel(&key(), DEPOSIT).await;
    let node = ScriptedNode::start(&world, &key(), content(4 * MIB as usize), PER_MIB).await;
    // It breaks off behind a quantum or two; what was proven by then is signed.
    node.follow(Script::ResetAt(5 * MIB as usize / 2, 77));
    let _ = agent.fetch(&node.address()).to_bytes(u64::MAX).await.unwrap_err();
    agent.close().await;
    let before = node.seen().paid();
    assert!(before >= price(MIB), "{before}");
    drop(agent);
    lose_record(&world.path("agent"));
    node.follow(Script::Honest);
    let agent = world.builder(Wallet::open(&world.path("agent")).unwrap()).build().await.unwrap();
    fetch(&agent, &node).await.unwrap();
    let paid = node.seen().paid();
    assert_eq!(signed(&agent).await, paid);
    let billed = before + price(4 * MIB);
    assert!((billed - 1..=billed + 1).contains(&paid), "{paid} for {before} and the whole");
}

/// The node then holds a higher voucher than the wallet believes. It may settle that one, as it could before; what it gives
/// now is paid by signatures that are worth nothing until they pass it. So it loses what it gives below, and the wallet pays
/// for no byte twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_shows_an_old_voucher_or_none_only_robs_itself() {
    for show_old in [true, false] {
        let (scene, vouchers) = Scene::after(4).await;
        let truly = price(4 * MIB);
        let old = vouchers.iter().find(|signed| signed.voucher.cumulative.get() == price(MIB)).unwrap();
        if show_old {
            scene.node.follow(Script::Watermark(shown(old)));
        } else {
            scene.node.forget();
        }
        let believed = if show_old { price(MIB) } else { 0 };
        let agent = scene.agent().await;
        // Its bill is a claim, of which no more is taken than what a broken connection explains.
        let mut taken = 0;
        for _ in 0..3 {
            match fetch(&agent, &scene.node).await {
                Ok(_) => taken += MIB,
                Err(FetchError::Misbehaved { what: Misbehaviour::Accounts(_), .. }) => break,
                Err(other) => panic!("{other}"),
            }
        }
        let signed_now = signed(&agent).await;
        assert!(signed_now <= truly.max(believed + price(taken)), "{signed_now} for {taken}, old: {show_old}");
        // The most that the node can ever settle is its best voucher, and all of that was proven.
        let best = scene.node.seen().vouchers.iter().map(|signed| signed.voucher.cumulative.get()).max().unwrap();
        assert!(best <= price(4 * MIB + taken), "{best}");
        agent.close().await;
        drop(agent);

        if show_old {
            // What it sent into the connection that was given up is not proven, and not billed by who is honest.
            scene.node.bill(truly);
        }
        // It comes out with the true one: that is the wallet's own signature, and so believed.
        scene.node.follow(Script::Watermark(shown(vouchers.last().unwrap())));
        let agent = scene.agent().await;
        let _ = fetch(&agent, &scene.node).await;
        assert!(signed(&agent).await >= truly);
        let best = scene.node.seen().vouchers.iter().map(|signed| signed.voucher.cumulative.get()).max().unwrap();
        assert!(best <= price(4 * MIB + taken + MIB), "{best}");
    }
}

/// A node that starts anew knows only what is paid, or not even that. What it brings again for what is signed already costs
/// nothing, and no report says otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_loses_its_bill_is_paid_once_and_reports_and_account_say_so() {
    let world = World::new().await;
    let node_id = world.register_node(&key(), 900).await;
    let wallet = world.wallet("agent", 100 * PER_MIB).await;
    let agent = world.builder(wallet.clone()).build().await.unwrap();
    agent.wallet().deposit(Amount::new(100 * PER_MIB)).await.unwrap();
    let _ = agent.open_channel(node_id, Amount::new(100 * PER_MIB), None).await.unwrap();
    let node = ScriptedNode::start(&world, &key(), content(4 * MIB as usize), PER_MIB).await;
    fetch(&agent, &node).await.unwrap();
    for round in 0..3 {
        // It goes away in the middle of a fetch, with whatever was not paid by then.
        let (seen, mut proven) = tokio::sync::watch::channel(0);
        let running = agent.fetch(&node.address()).progress(move |now| {
            seen.send_replace(now.proven_bytes);
        });
        node.follow(Script::Slow(16 * MIB));
        let breaking = async {
            proven.wait_for(|proven| *proven >= 2 * MIB).await.unwrap();
            node.hang_up();
            node.forget();
        };
        let (broken, ()) = tokio::join!(running.to_bytes(u64::MAX), breaking);
        broken.unwrap_err();
        node.follow(Script::Honest);
        let paid = fetch(&agent, &node).await.unwrap();
        assert!(paid.get() < price(4 * MIB), "round {round}: {paid} although much was signed and forgotten");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !agent.budget().reserved(Spending::Vouchers).is_zero() {
            assert!(Instant::now() < deadline, "the budget is held for nobody");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // What the broken one paid is in the account, which has every report's amount.
        let signed = signed(&agent).await;
        assert_eq!((entries(&wallet), agent.budget().spent(Spending::Vouchers).get()), (signed, signed), "{round}");
    }
    node.hang_up();
    node.forget();
    let before = signed(&agent).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let paid = loop {
        match fetch(&agent, &node).await {
            // It has not heard of the end of the connection yet.
            Err(FetchError::Unreachable { .. }) if Instant::now() < deadline => {}
            outcome => break outcome.unwrap(),
        }
    };
    assert_eq!(paid, Amount::ZERO, "it was paid for more than this before");
    assert_eq!((signed(&agent).await, entries(&wallet), node.seen().paid()), (before, before, before));
}

/// What the account says was paid in all.
fn entries(wallet: &Wallet) -> u64 {
    let mut sum = 0;
    let read = wallet.entries(0, |entry| {
        sum += entry.amount.get();
        Ok::<(), LedgerError>(())
    });
    read.map(|()| sum).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_voucher_is_misbehaviour_and_raises_nothing() {
    let (scene, vouchers) = Scene::after(1).await;
    let true_one = shown(vouchers.last().unwrap());
    let higher = Amount::new(true_one.cumulative.get() + 1);
    let foreign = Voucher { channel: vouchers[0].voucher.channel, cumulative: higher, expires_at: 0 };
    for forged in [
        VoucherOnWire { cumulative: higher, ..true_one },
        VoucherOnWire { expires_at: 4_000_000_000, ..true_one },
        VoucherOnWire { signature: [7; 64], ..true_one },
        shown(&foreign.sign(&SecretKey::from_bytes(&[8; 32]))),
        shown(&Voucher { channel: aro_proto::ChannelId::from_bytes([3; 32]), ..foreign }.sign(&scene.signer())),
    ] {
        scene.node.follow(Script::Watermark(forged));
        let agent = scene.agent().await;
        let error = fetch(&agent, &scene.node).await.unwrap_err();
        let FetchError::Misbehaved { what: Misbehaviour::Accounts(_), .. } = &error else { panic!("{error}") };
        assert_eq!(signed(&agent).await, 0);
        agent.close().await;
        drop(agent);
    }
    assert_eq!(scene.node.seen().vouchers.len(), vouchers.len(), "nothing was signed");
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_voucher_above_the_deposit_is_asked_of_the_chain_and_else_refused() {
    let (scene, vouchers) = Scene::after(1).await;
    let channel = vouchers[0].voucher.channel;
    let above = |by| Voucher { channel, cumulative: Amount::new(DEPOSIT + by), expires_at: 0 }.sign(&scene.signer());
    // Only a second wallet with the same key can have signed it, or one that knew of a top-up.
    scene.node.follow(Script::Watermark(shown(&above(1))));
    let agent = scene.agent().await;
    let error = fetch(&agent, &scene.node).await.unwrap_err();
    let FetchError::Misbehaved { what: Misbehaviour::Accounts(why), .. } = &error else { panic!("{error}") };
    assert!(why.to_string().contains("deposit"), "{why}");
    assert_eq!((signed(&agent).await, scene.node.seen().vouchers.len()), (0, vouchers.len()));
    agent.close().await;

    // Another process of the owner's tops the channel up. This one's record does not know, the chain does.
    let owner = keyfile::read(&scene.home().join("owner.json")).unwrap();
    let mint = scene.world.setup.mint;
    scene.world.chain.mint_to(&mint, &scene.world.admin, &agent_owner(&scene), 3 * PER_MIB).await.unwrap();
    agent.wallet().deposit(Amount::new(3 * PER_MIB)).await.unwrap();
    let address = settlement_chain::Address::new_from_array(channel.to_bytes());
    let program = settlement_chain::Program::local();
    let top_up = settlement_chain::instructions::top_up(&program, &agent_owner(&scene), &address, 3 * PER_MIB);
    settlement_chain::submit::submit(&scene.world.chain, &owner, &[], &[top_up]).await.unwrap();
    scene.node.bill(price(10 * MIB));
    fetch(&agent, &scene.node).await.unwrap();
    assert!(signed(&agent).await > DEPOSIT);
}

// r[verify bind.replace.dead]
#[tokio::test(flavor = "multi_thread")]
async fn only_the_bindings_of_processes_that_died_are_named_until_a_node_has_answered() {
    let (scene, vouchers) = Scene::after(1).await;
    let marks = scene.home().join("in-use");
    let names = || std::fs::read_dir(&marks).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert!(names().is_empty(), "an agent that closed leaves none");
    let channel = vouchers[0].voucher.channel;
    let first = scene.node.seen().binds.pop().unwrap();
    assert!(first.id.is_some() && first.replaces.is_empty());

    // One is killed, as this is left; another lives.
    std::fs::write(marks.join(format!("{channel}.{}", "c4".repeat(16))), b"").unwrap();
    let dead = BindId::from_bytes([0xc4; 16]);
    let living = marks.join(format!("{channel}.{}", "11".repeat(16)));
    let lock = std::fs::File::create(&living).unwrap();
    lock.lock().unwrap();

    scene.node.follow(Script::BindRefused(RefusalCode::Internal));
    let agent = scene.agent().await;
    let _ = fetch(&agent, &scene.node).await.unwrap_err();
    agent.close().await;
    drop(agent);
    scene.node.follow(Script::Honest);
    let agent = scene.agent().await;
    fetch(&agent, &scene.node).await.unwrap();
    let binds = scene.node.seen().binds;
    let [.., refused, taken] = binds.as_slice() else { panic!("{binds:?}") };
    assert_eq!((&refused.replaces, &taken.replaces), (&vec![dead.replaced()], &vec![dead.replaced()]));
    assert!(refused.id != taken.id && refused.id != first.id);
    assert_eq!(names().len(), 2, "the living one's, and our own");
    agent.close().await;
    drop(agent);
    let agent = scene.agent().await;
    fetch(&agent, &scene.node).await.unwrap();
    assert_eq!(scene.node.seen().binds.last().unwrap().replaces, vec![]);
    drop(lock);
}

// r[verify bind.replace.proven.true]
#[tokio::test(flavor = "multi_thread")]
async fn of_a_process_that_died_the_next_one_says_what_it_had_proven_unless_its_mark_is_damaged() {
    let (scene, vouchers) = Scene::after(1).await;
    let marks = scene.home().join("in-use");
    let charge = |bytes| Tariff { per_mib: PER_MIB }.charge(ByteCount::new(bytes)).parts();
    let agent = scene.agent().await;
    for fetches in 1..=2 {
        fetch(&agent, &scene.node).await.unwrap();
        let living = std::fs::read_dir(&marks).unwrap().next().unwrap().unwrap();
        let bytes = std::fs::read(living.path()).unwrap();
        assert_eq!((bytes.len(), &bytes[..16]), (64, &charge(fetches * MIB).to_le_bytes()[..]), "after {fetches}");
    }
    let living = std::fs::read_dir(&marks).unwrap().next().unwrap().unwrap().path();
    let mark = std::fs::read(&living).unwrap();
    agent.close().await;
    drop(agent);
    assert!(!living.exists());

    // As a kill would have left it; and one that was cut, as a power loss may.
    std::fs::write(&living, &mark).unwrap();
    let channel = vouchers[0].voucher.channel;
    std::fs::write(marks.join(format!("{channel}.{}", "d5".repeat(16))), &mark[..20]).unwrap();
    let died = scene.node.seen().binds.last().unwrap().id.unwrap();
    let agent = scene.agent().await;
    let signed_before = signed(&agent).await;
    fetch(&agent, &scene.node).await.unwrap();
    let mut replaced = scene.node.seen().binds.last().unwrap().replaces.clone();
    replaced.sort_by_key(|replaced| replaced.proven);
    let damaged = BindId::from_bytes([0xd5; 16]).replaced();
    assert_eq!(replaced, vec![damaged, Replaced { id: died, proven: Some(charge(2 * MIB)) }]);
    assert!(signed(&agent).await > signed_before);
}

/// An old count came back with the power: the node bills less than was signed for, and is paid on from there.
// r[verify channel.reconcile]
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_too_low_neither_parts_agent_and_node_nor_lowers_a_voucher() {
    let (scene, vouchers) = Scene::after(3).await;
    let channel = vouchers[0].voucher.channel;
    let agent = scene.agent().await;
    fetch(&agent, &scene.node).await.unwrap();
    agent.close().await;
    drop(agent);
    let before = price(4 * MIB);
    std::fs::write(scene.home().join("in-use").join(format!("{channel}.{}", "e6".repeat(16))), b"").unwrap();
    // As an honest node does that believes it, within its allowance.
    scene.node.bill(price(3 * MIB));
    let agent = scene.agent().await;
    assert_eq!(signed(&agent).await, before);
    fetch(&agent, &scene.node).await.unwrap();
    assert_eq!(signed(&agent).await, before, "what was forgiven is not paid again");
    // Nor taken for proven by this binding, once it dies.
    let marks: Vec<_> = std::fs::read_dir(scene.home().join("in-use")).unwrap().collect();
    let [Ok(mark)] = marks.as_slice() else { panic!("{marks:?}") };
    let mark = std::fs::read(mark.path()).unwrap();
    let charge = |bytes| Tariff { per_mib: PER_MIB }.charge(ByteCount::new(bytes)).parts().to_le_bytes();
    assert_eq!((&mark[..16], &mark[16..32]), (&charge(MIB)[..], &charge(4 * MIB)[..]));
    fetch(&agent, &scene.node).await.unwrap();
    assert_eq!(signed(&agent).await, price(5 * MIB));
}

fn agent_owner(scene: &Scene) -> settlement_chain::Address {
    Wallet::addresses(&scene.home()).unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_opens_nothing_until_it_is_moved_away_and_then_all_comes_back() {
    let (scene, _) = Scene::after(2).await;
    drop(scene.agent().await);
    let file = scene.home().join("wallet.db");
    let whole = std::fs::read(&file).unwrap();
    for damaged in [Vec::new(), vec![0; 4096], whole[..whole.len() / 2].to_vec(), b"not a database at all".to_vec()] {
        for beside in ["wallet.db-wal", "wallet.db-shm"] {
            let _ = std::fs::remove_file(scene.home().join(beside));
        }
        std::fs::write(&file, &damaged).unwrap();
        let error = Wallet::open(&scene.home()).unwrap_err();
        let report = error.report();
        assert!(["WalletDamaged", "WalletForeign", "WalletStore"].contains(&report.code), "{report:?}");
        assert!(!report.retryable && report.exit_code == 5 && !report.next_step.is_empty(), "{report:?}");
        assert_eq!(std::fs::read(&file).unwrap(), damaged, "it is left for whoever can mend it");
    }
    scene.lose_record();
    let agent = scene.agent().await;
    fetch(&agent, &scene.node).await.unwrap();
    assert_eq!(scene.node.seen().paid(), price(3 * MIB));
}
