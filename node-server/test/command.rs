//! `aro-node` as people and scripts call it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use settlement_chain::{Keypair, Program, keyfile};

/// No server listens here: port 1 is never given out by a system.
const NOWHERE: &str = "http://127.0.0.1:1";

fn aro_node(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_aro-node")).args(args).env_remove("ARO_RPC_URL").output().unwrap()
}

fn last_json(output: &Output) -> Value {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|_| panic!("no JSON in: {text}"))
}

/// A node's folder as `init` leaves it.
fn folder(dir: &Path) {
    let settings = json!({
        "rpc_url": NOWHERE, "program_id": Program::local().id.to_string(), "listen": "127.0.0.1:4433",
        "price_per_mib": 100,
    });
    std::fs::write(dir.join("config.json"), settings.to_string()).unwrap();
    keyfile::write(&dir.join("node.key"), &Keypair::new()).unwrap();
}

#[test]
fn add_prints_ids_sizes_and_addresses_of_files_and_folders() {
    let dir = tempfile::tempdir().unwrap();
    let node = dir.path().join("node");
    let files = dir.path().join("files");
    std::fs::create_dir_all(files.join("deeper")).unwrap();
    std::fs::create_dir(&node).unwrap();
    folder(&node);
    std::fs::write(files.join("a"), b"hello").unwrap();
    std::fs::write(files.join("deeper/b"), b"").unwrap();
    let (node, files) = (node.to_str().unwrap(), files.to_str().unwrap());

    let output = aro_node(&["add", "--dir", node, files]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0][..2], [aro_proto::ContentId::of(b"hello").to_string().as_str(), "5"]);
    let address: aro_proto::Address = lines[0][2].parse().unwrap();
    assert_eq!((address.content(), address.port()), (aro_proto::ContentId::of(b"hello"), 4433));

    let output = aro_node(&["add", "--json", "--dir", node, files]);
    let contents = last_json(&output)["contents"].clone();
    assert_eq!(contents.as_array().unwrap().len(), 2);
    assert_eq!(contents[1]["size"], 0);
}

#[test]
fn a_chain_that_does_not_answer_is_exit_code_6_and_retryable() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path());
    let output = aro_node(&["--json", "serve", "--dir", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let error = &last_json(&output)["error"];
    assert_eq!((&error["code"], &error["who_acts"]), (&json!("Unreachable"), &json!("retry")));
    assert!(!error["next_step"].as_str().unwrap().is_empty());
}

#[test]
fn status_works_from_disk_when_nothing_serves_and_the_chain_is_silent() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path());
    let output = aro_node(&["status", "--json", "--dir", dir.path().to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let status = last_json(&output);
    assert_eq!((&status["contents"], &status["listen"], &status["earned"]), (&json!(0), &Value::Null, &Value::Null));
    let output = aro_node(&["handoff", "--dir", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("aro-node serve"));
}

#[test]
fn an_address_that_is_none_among_several_servers_is_a_usage_error() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path());
    let path = dir.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for (servers, code) in [("http://127.0.0.1:1,http://127.0.0.1:2", 6), ("http://127.0.0.1:1,nonsense", 2)] {
        std::fs::write(&path, text.replace(NOWHERE, servers)).unwrap();
        let output = aro_node(&["--json", "serve", "--dir", dir.path().to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(code), "{servers}: {output:?}");
    }
}

#[test]
fn settings_of_one_operator_and_of_several_are_read() {
    let (id, other) = (aro_proto::NodeId::from_bytes([7; 32]), aro_proto::NodeId::from_bytes([8; 32]));
    let (first, second) = (format!("{id}@127.0.0.1:4434"), format!("{other}@127.0.0.1:4435"));
    for (key, value, expected) in [
        ("operator", json!(first), vec![&first]),
        ("operators", json!([first, second]), vec![&first, &second]),
        ("operator", Value::Null, vec![]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        folder(dir.path());
        let path = dir.path().join("config.json");
        let mut settings: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        settings[key] = value;
        std::fs::write(&path, settings.to_string()).unwrap();
        let status = last_json(&aro_node(&["status", "--json", "--dir", dir.path().to_str().unwrap()]));
        let operators: Vec<_> = status["operators"].as_array().unwrap().iter().map(|o| o["operator"].clone()).collect();
        assert_eq!(operators, expected.into_iter().map(|text| json!(text)).collect::<Vec<_>>(), "{key}");
        let warnings = status["warnings"].to_string();
        assert!(warnings.contains("--fee-keypair"), "{warnings}");
    }
}

#[test]
fn settling_and_updating_by_hand_need_a_key_and_a_chain_and_say_which_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path());
    let path = dir.path().to_str().unwrap();
    let output = aro_node(&["settle", "--json", "--dir", path]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert!(last_json(&output)["error"]["next_step"].as_str().unwrap().contains("--fee-keypair"));
    let key = dir.path().join("fee.json");
    keyfile::write(&key, &Keypair::new()).unwrap();
    let key = key.to_str().unwrap();
    // Nothing was ever paid: nothing to settle.
    let output = aro_node(&["settle", "--json", "--dir", path, "--fee-keypair", key]);
    assert_eq!((output.status.code(), &last_json(&output)["settled"]), (Some(0), &json!([])));

    assert_eq!(aro_node(&["update", "--json", "--dir", path]).status.code(), Some(5), "there is no owner key");
    let update = ["update", "--json", "--dir", path, "--owner-keypair", key, "--min-grace", "1800"];
    assert_eq!(aro_node(&update).status.code(), Some(6));
    let short = ["update", "--json", "--dir", path, "--owner-keypair", key, "--min-grace", "60"];
    assert_eq!(aro_node(&short).status.code(), Some(2));
    let both = ["update", "--dir", path, "--no-operator", "--operator", "11111111111111111111111111111111"];
    assert_eq!(aro_node(&both).status.code(), Some(2));
}

#[test]
fn usage_and_key_errors_have_their_own_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    assert_eq!(aro_node(&["status", "--dir", path]).status.code(), Some(2));
    assert_eq!(aro_node(&["nonsense"]).status.code(), Some(2));
    assert_eq!(aro_node(&["--help"]).status.code(), Some(0));
    let init = ["init", "--dir", path, "--rpc", NOWHERE, "--price", "0.0001", "--payer", "/nonexistent/key"];
    assert_eq!(aro_node(&init).status.code(), Some(5));

    let payer = dir.path().join("payer.json");
    keyfile::write(&payer, &Keypair::new()).unwrap();
    let init = ["init", "--dir", path, "--rpc", NOWHERE, "--price", "0.0001", "--payer", payer.to_str().unwrap()];
    assert_eq!(aro_node(&init).status.code(), Some(6));
    // The key that was made stays for the next try; the settings are written only by an init that has succeeded.
    assert!(dir.path().join("node.key").exists() && !dir.path().join("config.json").exists());
    folder_settings_refuse_a_second_init(path, payer.to_str().unwrap());
}

fn folder_settings_refuse_a_second_init(path: &str, payer: &str) {
    std::fs::write(Path::new(path).join("config.json"), "{}").unwrap();
    let init = ["init", "--dir", path, "--rpc", NOWHERE, "--price", "1", "--payer", payer];
    let output = aro_node(&init);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("holds a node already"));
}
