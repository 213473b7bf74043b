//! An operator that dies while an agent closes its channel: the node sees to its own money.

use std::time::{Duration, Instant};

use aro_tests::processes::{number, run_ok, text};
use settlement_chain::submit::submit;
use settlement_chain::{ChainClient, Keypair, Signer, keyfile, reads, tokens};

use crate::market::{Cluster, address, sample};

/// Seconds: short enough to wait for a quarter of it, long enough for a node to accept.
const GRACE_S: i64 = 200;

#[tokio::test(flavor = "multi_thread")]
async fn node_whose_operator_is_killed_settles_a_closing_channel_within_a_quarter_of_its_grace() {
    let cluster = Cluster::start();
    let (chain, payer) = (cluster.chain(), keyfile::read(&cluster.payer).unwrap());
    let (fee_key, fee_path) = (Keypair::new(), cluster.path("fee.json"));
    keyfile::write(fee_path.as_ref(), &fee_key).unwrap();
    let fund = tokens::transfer_lamports(&payer.pubkey(), &fee_key.pubkey(), 10_000_000);
    submit(&chain, &payer, &[], &[fund]).await.unwrap();

    let operator = cluster.operator();
    let grace = GRACE_S.to_string();
    let node = cluster.node_with(&operator, &["--min-grace", &grace, "--fee-keypair", &fee_path]);
    let agent = cluster.agent("1");
    let file = cluster.home.path().join("content");
    std::fs::write(&file, sample(4 << 20)).unwrap();
    let content = node.add(&file);
    let channel = agent.open(&node, "1");
    let paid = number(&agent.aro(&["get", &content, "-o", &cluster.path("received")]), "paid");
    assert_eq!(paid, 400);

    operator.server.kill();
    agent.aro(&["channel", "close", &channel]);
    let channel = address(&channel);
    let account = || async { reads::channel(&chain, &cluster.program, &channel).await.unwrap().unwrap() };
    let closing = account().await;
    let deadline = Instant::now() + Duration::from_secs(GRACE_S.unsigned_abs());
    while account().await.settled < paid {
        assert!(Instant::now() < deadline, "nobody settles");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let now = chain.clock().await.unwrap();
    assert!(now <= closing.deadline - GRACE_S * 3 / 4, "it took {} s", now - (closing.deadline - GRACE_S));

    // The money is the node's, and its fee key has paid a fee and nothing else.
    let earned = reads::node_at(&chain, &cluster.program, &node.account).await.unwrap().unwrap().earned;
    let payer_path = cluster.payer.to_string_lossy();
    run_ok("aro-node", &["withdraw", "--json", "--dir", &node.dir, "--payer", &payer_path]);
    assert_eq!(cluster.tokens(&node.payout).await, earned);
    assert!(earned > 0);
    let left = reads::lamports(&chain, &fee_key.pubkey()).await.unwrap();
    assert!((9_900_000..10_000_000).contains(&left), "{left} lamports are left");
    node.server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn node_changes_on_chain_by_command_while_it_serves_and_settles_by_hand() {
    let cluster = Cluster::start();
    let operator = cluster.operator();
    let node = cluster.node(&operator);
    let agent = cluster.agent("1");
    let file = cluster.home.path().join("content");
    std::fs::write(&file, sample(1 << 20)).unwrap();
    let content = node.add(&file);
    agent.open(&node, "1");
    let paid = number(&agent.aro(&["get", &content, "-o", &cluster.path("received")]), "paid");
    let payer = cluster.payer.to_string_lossy();

    let update = |options: &[&str]| {
        let common = ["update", "--json", "--dir", &node.dir, "--payer", &payer];
        run_ok("aro-node", &[&common, options].concat())
    };
    let shown = update(&[]);
    assert_eq!(text(&shown, "operator"), operator.account.to_string());
    assert!(shown["signature"].is_null(), "{shown}");
    let changed = update(&["--no-operator", "--min-grace", "1800"]);
    assert!(changed["operator"].is_null(), "{changed}");
    assert_eq!(number(&changed, "min_grace_s"), 1800);

    let settled = run_ok("aro-node", &["settle", "--json", "--dir", &node.dir, "--fee-keypair", &payer]);
    assert_eq!(number(&settled["settled"][0], "cumulative"), paid, "{settled}");
    let status = run_ok("aro-node", &["status", "--json", "--dir", &node.dir]);
    assert_eq!(number(&status, "unsettled"), 0, "{status}");
    assert!(status["named_operator"].is_null(), "{status}");
    node.server.stop();
    operator.server.stop();
}
