//! What could break: a trail that does not add up to what the chain shows, one that a running operator does not give,
//! a table that a spreadsheet cannot read.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod fixture;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use fixture::{FUNDS, World};
use serde_json::{Value, json};
use settlement_chain::{Signature, reads};
use settlement_operator::batch::Rules;
use settlement_operator::control::ControlSocket;
use settlement_operator::{Operator, OperatorConfig};

/// Runs the command on this folder off the async threads; its output must be a success.
async fn report(dir: &Path, arguments: &[&str]) -> String {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let dir = dir.to_owned();
    let output = tokio::task::spawn_blocking(move || {
        Command::new(env!("CARGO_BIN_EXE_aro-settle")).arg("report").arg("--dir").arg(dir).args(arguments).output()
    });
    let output = output.await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn config_file(world: &World, dir: &Path) {
    let config = json!({
        "rpc_url": "http://127.0.0.1:1",
        "program_id": world.program.id.to_string(),
        "listen": "127.0.0.1:0",
        "min_settle": "0.001",
        "close_when_asked": true,
        "settle_interval_ms": 0,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

// r[verify settlement.audit]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trail_adds_up_to_what_the_chain_shows() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    config_file(&world, dir.path());
    let rules = Rules { min_settle: aro_proto::Amount::new(1), ..Rules::default() };
    let config = OperatorConfig { rules, ..world.config(dir.path()) };
    let (key, authority) = (world.operator_key.clone(), world.authority.insecure_clone());
    let operator = Operator::start(config, key, authority, Arc::new(world.chain.clone())).await.unwrap();
    let operator = Arc::new(operator);
    let control = ControlSocket::open(dir.path().join("control.sock"), Arc::clone(&operator)).unwrap();
    let client = world.client(&operator).await;
    let lamports = async || reads::lamports(&world.chain, &world.operator_authority()).await.unwrap();
    let before = lamports().await;
    let channels = world.open(5, 1_000_000).await;
    // Odd amounts, in steps: each rise is divided and rounded for itself.
    let mut handed = Vec::new();
    for step in 1..=3_u64 {
        for (number, channel) in (0_u64..).zip(&channels) {
            let amount = step * 1_003 + number * 7;
            let voucher = if step == 3 { world.closing(*channel, amount) } else { world.voucher(*channel, amount) };
            client.hand(&[voucher]).await.ack();
            handed.push(Signature::from(voucher.signature).to_string());
        }
        assert!(operator.settle_once().await.unwrap().trouble.is_empty());
    }

    let running: Value = serde_json::from_str(&report(dir.path(), &["--json"]).await).unwrap();
    let csv = report(dir.path(), &["--csv"]).await;
    control.close().await;
    Arc::into_inner(operator).unwrap().shutdown().await;
    let stopped: Value = serde_json::from_str(&report(dir.path(), &["--json"]).await).unwrap();
    assert_eq!(running, stopped, "asked or read, the trail is the same");
    assert_eq!(report(dir.path(), &["--csv"]).await, csv);

    let (totals, node) = (&running["totals"], world.node().await);
    let paid: u64 = (0..5).map(|number| 3 * 1_003 + number * 7).sum();
    assert_eq!(totals["credited"], json!(paid));
    assert_eq!(totals["node_share"], json!(node.earned));
    assert_eq!(totals["operator_share"], json!(world.operator_fees().await));
    assert_eq!(totals["protocol_share"], json!(node.protocol_fees));
    assert_eq!(totals["refunded"], json!(5_000_000 - paid));
    assert_eq!(world.available().await, FUNDS - paid);
    assert_eq!(totals["fee_lamports"], json!(before - lamports().await));

    let rows = running["rows"].as_array().unwrap();
    let credited: Vec<&str> = rows.iter().filter_map(|row| row["voucher_signature"].as_str()).collect();
    assert_eq!((credited.len(), rows.len()), (15, 20), "each voucher, and five refunds");
    assert!(handed.iter().all(|signature| credited.contains(&signature.as_str())), "from voucher to transaction");

    assert!(csv.ends_with("\r\n"));
    let lines: Vec<Vec<&str>> = csv.split_terminator("\r\n").map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.len(), 21);
    let column = |name: &str| lines[0].iter().position(|column| *column == name).unwrap();
    let sum = |name: &str| -> u64 { lines[1..].iter().map(|line| line[column(name)].parse::<u64>().unwrap()).sum() };
    assert_eq!((sum("node_share"), sum("operator_share")), (node.earned, world.operator_fees().await));
    assert!(lines.iter().all(|line| line.len() == lines[0].len()));

    let at = fixture::NOW;
    for (arguments, count) in [
        (vec!["--from".to_owned(), at.to_string(), "--to".to_owned(), i64::MAX.to_string()], 20),
        (vec!["--to".to_owned(), at.to_string()], 0),
        (vec!["--node".to_owned(), world.node_account().to_string()], 20),
        (vec!["--node".to_owned(), world.agent_account().to_string()], 0),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["--json"]).collect();
        let part: Value = serde_json::from_str(&report(dir.path(), &arguments).await).unwrap();
        assert_eq!(part["totals"]["rows"], json!(count), "{arguments:?}");
    }
}
