//! Nodes and operators that are killed without warning, and lose no voucher.

use aro_tests::processes::{number, run_ok, text};

use crate::market::{Cluster, sample, start_node, start_operator};

#[tokio::test(flavor = "multi_thread")]
async fn killed_node_and_operator_still_settle_the_last_voucher() {
    let cluster = Cluster::start();
    let operator = cluster.operator();
    let node = cluster.node(&operator);
    let agent = cluster.agent("1");
    let file = cluster.home.path().join("content");
    std::fs::write(&file, sample(4 << 20)).expect("written");
    let address = node.add(&file);
    let channel = agent.open(&node, "1");
    let out = cluster.path("received");
    let paid = number(&agent.aro(&["get", &address, "-o", &out]), "paid");
    assert_eq!(paid, 400);

    // The node dies before it has handed anything over.
    node.server.kill();
    let node_again = start_node(&node.dir);
    let handed = run_ok("aro-node", &["handoff", "--json", "--dir", &node.dir, "--close"]);
    assert_eq!(number(&handed["handed"][0], "cumulative"), paid, "{handed}");

    // The operator dies after it has acknowledged, before it has settled.
    operator.server.kill();
    let operator_again = start_operator(&operator.dir);
    let settled = run_ok("aro-settle", &["--json", "once", "--dir", &operator.dir]);
    let closed = settled["closed"].as_array().expect("a list");
    assert!(closed.is_empty(), "its database might be an old backup: the node must say its wish anew: {settled}");
    // Which nodes do once an hour, and after every start. It is told where the operator listens now.
    node_again.stop();
    let ready = |name| operator_again.ready_text(name);
    let endpoint = format!("{}@{}", ready("operator_id"), ready("listen"));
    let account = operator.account.to_string();
    let (dir, payer) = (&*node.dir, &*cluster.payer_path());
    let update = ["update", "--json", "--dir", dir, "--payer", payer, "--operator", &account];
    run_ok("aro-node", &[&update[..], &["--operator-endpoint", &endpoint]].concat());
    let node_again = start_node(&node.dir);
    run_ok("aro-node", &["handoff", "--json", "--dir", &node.dir, "--close"]);
    let settled = run_ok("aro-settle", &["--json", "once", "--dir", &operator.dir]);
    assert_eq!(text(&settled["closed"][0], "channel"), channel, "{settled}");
    assert_eq!(number(&settled["closed"][0], "cumulative"), paid);

    node_again.stop();
    operator_again.stop();
}
