//! Four refusals that people will meet first: distinct, each with the next step, and nothing paid or written.

use std::path::Path;

use aro_proto::ContentId;
use aro_tests::processes::{number, run, text};

use crate::market::{AgentHome, Cluster, sample};

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_own_code_and_next_step() {
    let cluster = Cluster::start();
    let operator = cluster.operator();
    let node = cluster.node(&operator);
    let agent = cluster.agent("1");
    let file = cluster.home.path().join("content");
    std::fs::write(&file, sample(3 << 20)).expect("written");
    let address = node.add(&file);
    let out = cluster.path("received");

    let no_channel = refused(&agent, &["get", &address, "-o", &out, "--no-open"]);
    assert_eq!((text(&no_channel, "code").as_str(), number(&no_channel, "exit_code")), ("NoChannel", 4));
    assert!(text(&no_channel, "next_step").contains("channel open"), "{no_channel}");

    // 0.0002 $ARO pay for two of the three MiB.
    let channel = agent.open(&node, "0.0002");
    let exhausted = refused(&agent, &["get", &address, "-o", &out, "--no-open"]);
    assert_eq!((text(&exhausted, "code").as_str(), number(&exhausted, "exit_code")), ("DepositExhausted", 4));
    assert_eq!(number(&exhausted, "amount"), 100, "what is missing");
    assert!(text(&exhausted, "next_step").ends_with(&format!("aro channel top-up {channel} 0.0001")), "{exhausted}");

    let dear = refused(&agent, &["get", &address, "-o", &out, "--max-price", "0.0001"]);
    assert_eq!((text(&dear, "code").as_str(), number(&dear, "exit_code")), ("PriceTooHigh", 4));
    assert_eq!(number(&dear, "amount"), 300, "the node's price");

    let (_, place) = address.split_once('@').expect("an address");
    let unknown = format!("aro://{}@{place}", ContentId::of(b"nobody has this"));
    let missing = refused(&agent, &["get", &unknown, "-o", &out]);
    assert_eq!((text(&missing, "code").as_str(), number(&missing, "exit_code")), ("NotFound", 3));

    let (content, _) = address.split_once('@').expect("an address");
    let (_, host) = address.rsplit_once('@').expect("an address");
    let stranger = format!("{content}@{}@{host}", aro_proto::SecretKey::from_bytes(&[9; 32]).node_id());
    let wrong_key = refused(&agent, &["get", &stranger, "-o", &out]);
    assert!(number(&wrong_key, "exit_code") >= 3, "{wrong_key}");

    assert!(!Path::new(&out).exists(), "nothing was written");
    let channels = agent.aro(&["channel", "list"]);
    assert_eq!(text(&channels["channels"][0], "channel"), channel);
    assert_eq!(number(&channels["channels"][0], "signed"), 0, "nothing was paid");

    // Doing what the refusal said helps.
    agent.aro(&["wallet", "deposit", "0.0001"]);
    agent.aro(&["channel", "top-up", &channel, "0.0001"]);
    assert_eq!(number(&agent.aro(&["get", &address, "-o", &out]), "paid"), 300);
}

/// Runs an `aro` command that must fail, and returns its error with the exit code in it.
fn refused(agent: &AgentHome, command: &[&str]) -> serde_json::Value {
    let ended = run("aro", &agent.arguments(command));
    assert_ne!(ended.code, 0, "{command:?} should have been refused: {}", ended.json);
    let mut error = ended.json["error"].clone();
    assert!(error.is_object(), "no error in {} ({})", ended.json, ended.stderr);
    error["exit_code"] = ended.code.into();
    error
}
