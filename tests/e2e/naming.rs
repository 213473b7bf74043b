//! A folder that one agent's command publishes under a name, and another wallet's command fetches by it.

use aro_tests::processes::{number, text};

use crate::market::{Cluster, sample};

// r[verify name.never_back]
#[tokio::test(flavor = "multi_thread")]
async fn a_named_folder_is_fetched_by_its_name_and_follows_it() {
    let cluster = Cluster::start();
    let operator = cluster.operator();
    let node = cluster.node_with(&operator, &["--publish-for-pay", "--publish-price", "0.0002"]);
    let place = format!("{}@{}", node.id, node.server.ready_text("listen"));
    let publisher = cluster.agent("1");
    publisher.open(&node, "1");
    let (folder, out) = (cluster.path("site"), cluster.path("copy"));
    std::fs::create_dir_all(format!("{folder}/films")).expect("made");
    std::fs::write(format!("{folder}/index.html"), sample(5_000)).expect("written");
    std::fs::write(format!("{folder}/films/a"), sample(1 << 20)).expect("written");

    let put = publisher.aro(&["put", &folder, &place, "--name", "site"]);
    assert_eq!((number(&put, "files"), number(&put, "sequence")), (2, 1), "{put}");
    let name = text(&put, "name");
    let reader = cluster.agent_at("reader", "1");
    reader.open(&node, "1");
    let got = reader.aro(&["get", &name, "--from", &place, "-o", &out]);
    assert_eq!(number(&got, "files"), 2, "{got}");
    assert_eq!(std::fs::read(format!("{out}/films/a")).expect("fetched"), sample(1 << 20));

    std::fs::write(format!("{folder}/index.html"), sample(6_000)).expect("written");
    let put = publisher.aro(&["put", &folder, &place, "--name", "site"]);
    assert_eq!(number(&put, "sequence"), 2, "{put}");
    let got = reader.aro(&["get", &name, "--from", &place, "-o", &out]);
    assert_eq!(number(&got, "kept_files"), 1, "{got}");
    assert_eq!(std::fs::read(format!("{out}/index.html")).expect("fetched"), sample(6_000));
    node.server.stop();
    operator.server.stop();
}
