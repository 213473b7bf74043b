//! The quick start of the README, with every balance checked over JSON-RPC.

use aro_tests::books::Books;
use aro_tests::processes::{number, run_ok, text};
use settlement_chain::reads;

use crate::market::{Cluster, sample};

#[tokio::test(flavor = "multi_thread")]
async fn content_goes_one_way_and_money_the_other_to_the_last_unit() {
    trade(Cluster::start()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_has_only_the_program_is_prepared_by_command() {
    trade(Cluster::start_bare()).await;
}

async fn trade(cluster: Cluster) {
    let treasury_before = cluster.tokens(&cluster.treasury).await;
    let operator = cluster.operator();
    let node = cluster.node(&operator);
    let agent = cluster.agent("5");

    let content = sample(5 << 20 | 4321);
    let file = cluster.home.path().join("content");
    std::fs::write(&file, &content).expect("written");
    let address = node.add(&file);

    let channel = agent.open(&node, "2");
    let price = number(&agent.aro(&["quote", &address]), "price");
    let out = cluster.path("received");
    let report = agent.aro(&["get", &address, "-o", &out, "--max-price", "1"]);
    assert_eq!(std::fs::read(&out).expect("received"), content);
    assert_eq!(number(&report, "verified_bytes"), content.len() as u64);
    assert_eq!(number(&report, "paid"), price);

    // A range costs its own chunk groups only.
    let part = cluster.path("part");
    let ranged = agent.aro(&["get", &address, "-o", &part, "--range", "1000000-1000099"]);
    assert_eq!(std::fs::read(&part).expect("received").len(), 100);
    let paid = price + number(&ranged, "paid");
    assert!(number(&ranged, "paid") < price / 10);

    let handed = run_ok("aro-node", &["handoff", "--json", "--dir", &node.dir, "--close"]);
    assert_eq!(text(&handed["handed"][0], "channel"), channel);
    let settled = run_ok("aro-settle", &["--json", "once", "--dir", &operator.dir]);
    assert_eq!(text(&settled["closed"][0], "channel"), channel, "{settled}");
    assert_eq!(number(&settled["closed"][0], "cumulative"), paid);
    let refunded = number(&settled["reclaimed"][0], "refunded");
    assert_eq!(refunded, 2_000_000 - paid);

    // The chain's ledger says the same.
    let (chain, program) = (cluster.chain(), &cluster.program);
    let on_chain = reads::node_at(&chain, program, &node.account).await.expect("answers").expect("is there");
    let fees = reads::operator_at(&chain, program, &operator.account).await.expect("answers").expect("is there").fees;
    assert_eq!(on_chain.earned + on_chain.protocol_fees + fees, paid);
    assert_eq!(fees, paid / 100, "1 % for the operator");
    assert_eq!(on_chain.protocol_fees, paid / 200, "half a percent for the protocol");
    let account = reads::agent(&chain, program, &agent.owner).await.expect("answers").expect("is there");
    assert_eq!(account.available, refunded);

    // Everyone withdraws, and has it.
    let payer = cluster.payer.to_string_lossy();
    run_ok("aro-node", &["withdraw", "--json", "--dir", &node.dir, "--payer", &payer]);
    run_ok("aro-settle", &["--json", "withdraw", "--dir", &operator.dir]);
    run_ok("aro-settle", &["--json", "withdraw", "--dir", &operator.dir, "--protocol-fees-of", &node.id]);
    let back = aro_proto::Amount::new(refunded).to_string();
    agent.aro(&["wallet", "withdraw", &back]);
    assert_eq!(cluster.tokens(&node.payout).await, on_chain.earned);
    assert_eq!(cluster.tokens(&operator.payout).await, fees);
    assert_eq!(cluster.tokens(&cluster.treasury).await - treasury_before, on_chain.protocol_fees);
    let wallet = reads::associated_token_address(&agent.owner, &cluster.mint);
    assert_eq!(cluster.tokens(&wallet).await, 5_000_000 - paid);
    Books::read(&chain, program).await.expect("answers").assert_balanced();

    node.server.stop_with("INT");
    operator.server.stop();
}
