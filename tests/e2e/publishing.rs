//! A content that one agent's command publishes and another one's fetches, from processes alone.

use aro_tests::processes::{number, text};

use crate::market::{Cluster, sample};

#[tokio::test(flavor = "multi_thread")]
async fn a_published_file_is_fetched_and_paid_both_ways() {
    let cluster = Cluster::start();
    let operator = cluster.operator();
    let node = cluster.node_with(&operator, &["--publish-for-pay", "--publish-price", "0.0002"]);
    let agent = cluster.agent("1");
    agent.open(&node, "1");
    let (file, out) = (cluster.path("content"), cluster.path("received"));
    std::fs::write(&file, sample(4 << 20)).expect("written");

    let place = format!("{}@{}", node.id, node.server.ready_text("listen"));
    let put = agent.aro(&["put", &file, &place]);
    assert_eq!((number(&put, "paid"), number(&put, "taken_bytes")), (4 * 200, 4 << 20), "{put}");
    let again = agent.aro(&["put", &file, &place]);
    assert_eq!((number(&again, "paid"), text(&again, "address")), (0, text(&put, "address")));

    let got = agent.aro(&["get", &text(&put, "address"), "-o", &out]);
    assert_eq!(number(&got, "paid"), 4 * 100, "{got}");
    assert_eq!(std::fs::read(&out).expect("fetched"), sample(4 << 20));
    let channels = agent.aro(&["channel", "list"]);
    assert_eq!(number(&channels["channels"][0], "signed"), 4 * 300, "{channels}");
    node.server.stop();
    operator.server.stop();
}
