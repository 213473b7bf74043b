//! Which transactions an operator's process writes, as they go over the wire to a real JSON-RPC server.

use aro_tests::processes::{run_ok, text};

use crate::market::{Cluster, sample};
use crate::tap::Tap;

#[tokio::test(flavor = "multi_thread")]
async fn operator_closes_with_a_version_1_transaction_where_doctor_says_that_the_cluster_takes_it() {
    let cluster = Cluster::start();
    let tap = Tap::before(&cluster.rpc_url).expect("the cluster speaks plain HTTP");
    let operator = cluster.operator_at(&tap.url);
    let examined = run_ok("aro-settle", &["--json", "doctor", "--dir", &operator.dir]);
    let format = examined["findings"].as_array().into_iter().flatten().find(|finding| finding["check"] == "format 0");
    let takes_v1 = format.is_some_and(|finding| finding["level"] == "ok");
    assert!(takes_v1, "{examined}");

    let node = cluster.node(&operator);
    let agent = cluster.agent("1");
    let file = cluster.home.path().join("content");
    std::fs::write(&file, sample(1 << 20)).expect("written");
    let address = node.add(&file);
    let channel = agent.open(&node, "1");
    agent.aro(&["get", &address, "-o", &cluster.path("received"), "--max-price", "1"]);
    run_ok("aro-node", &["handoff", "--json", "--dir", &node.dir, "--close"]);
    let before = tap.sent().len();
    let settled = run_ok("aro-settle", &["--json", "once", "--dir", &operator.dir]);
    assert_eq!(text(&settled["closed"][0], "channel"), channel, "{settled}");

    let sent = tap.sent().split_off(before);
    assert!(!sent.is_empty(), "the close went through the tap");
    for transaction in sent {
        // A version 1 transaction begins with 0x81, a legacy one with its count of signatures.
        assert!(transaction.starts_with("gQ"), "not of version 1: {transaction}");
    }
    node.server.stop_with("INT");
    operator.server.stop();
}
