//! The `aro` command as its users see it: what it prints, where, and its exit codes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::path::Path;
use std::process::{Command, Output};

use aro_proto::{Address, ContentId, SecretKey};

const ADDRESS_FORM: &str = "aro://";

fn aro(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aro"));
    for name in ["ARO_HOME", "ARO_RPC_URL", "ARO_PROGRAM_ID", "RUST_LOG"] {
        command.env_remove(name);
    }
    // A port that refuses at once: no test may depend on a chain that happens to run here.
    command.args(["--rpc", "http://127.0.0.1:1", "--home"]).arg(home).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn last_json(output: &Output) -> serde_json::Value {
    serde_json::from_str(stdout(output).lines().last().unwrap()).unwrap()
}

fn address() -> String {
    let node = SecretKey::from_bytes(&[7; 32]).node_id();
    Address::new(ContentId::of(b"x"), node, "127.0.0.1", 4433).unwrap().to_string()
}

#[test]
fn keys_are_made_once_and_shown_ever_after() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let missing = aro(&home, &["keys", "show"]);
    assert_eq!(missing.status.code(), Some(5));
    assert!(stderr(&missing).contains("aro keys new"), "{}", stderr(&missing));

    let made = aro(&home, &["keys", "new"]);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let text = stdout(&made);
    assert!(text.starts_with("owner:  ") && text.contains("\nsigner: "), "{text}");
    assert_eq!(stdout(&aro(&home, &["keys", "show"])), text);

    let json = last_json(&aro(&home, &["keys", "show", "--json"]));
    assert!(text.contains(json["owner"].as_str().unwrap()) && text.contains(json["signer"].as_str().unwrap()));

    let again = aro(&home, &["--json", "keys", "new"]);
    assert_eq!(again.status.code(), Some(5));
    let error = &last_json(&again)["error"];
    assert_eq!(error["code"], "WalletExists");
    assert_eq!(error["who_acts"], "authorise");
    assert!(error["amount"].is_null());
    assert_eq!(stdout(&aro(&home, &["keys", "show"])), text, "keys are never overwritten");
}

#[cfg(unix)]
#[test]
fn keys_are_readable_by_their_user_only_and_others_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    assert_eq!(aro(&home, &["keys", "new"]).status.code(), Some(0));
    for name in ["owner.json", "signer.json"] {
        let mode = std::fs::metadata(home.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    std::fs::set_permissions(home.join("signer.json"), PermissionsExt::from_mode(0o644)).unwrap();
    let refused = aro(&home, &["keys", "show"]);
    assert_eq!(refused.status.code(), Some(5));
    assert!(stderr(&refused).contains("chmod 600"), "{}", stderr(&refused));
}

#[test]
fn arguments_that_make_no_sense_are_usage_errors() {
    let dir = tempfile::tempdir().unwrap();
    let address = address();
    let node = SecretKey::from_bytes(&[7; 32]).node_id().to_string();
    for arguments in [
        &["nonsense"][..],
        &[],
        &["get", &address],
        &["get", "http://example.org", "-o", "x"],
        &["get", &address[..address.len() - 5], "-o", "x"],
        &["get", &address, "-o", "x", "--max-price", "1.0000001"],
        &["get", &address, "-o", "x", "--budget", "-1"],
        &["get", &address, "-o", "x", "--range", "5-4"],
        &["get", &address, "-o", "x", "--range", "0-4", "--range", "2-6x"],
        &["channel", "open", "not-a-node", "--deposit", "1"],
        &["channel", "open", &node],
        &["wallet", "deposit", "1,5"],
        &["--program-id", "xyz", "keys", "show"],
        &["get", &address, "-o", "x", "--no-open", "--deposit", "1"],
        &["keys", "delegate", "--out", "x", "--node", &node, "--cap", "1", "--expires", "7"],
        &["keys", "delegate", "--out", "x", "--node", "nobody", "--cap", "1", "--expires", "1h"],
        &["keys", "delegate", "--out", "x", "--cap", "1", "--expires", "1h"],
        &["keys", "revoke", "nobody"],
        &["channel", "sweep", "--idle-days", "never"],
    ] {
        let output = aro(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(!stderr(&output).is_empty() && stdout(&output).is_empty(), "{arguments:?}");
    }
    let json = aro(dir.path(), &["get", "nonsense", "-o", "x", "--json"]);
    assert_eq!(json.status.code(), Some(2));
    let error = &last_json(&json)["error"];
    assert_eq!(error["code"], "Usage");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("'nonsense'") && message.contains("<ADDRESS>"), "{message}");
    assert!(!message.starts_with("error"), "{message}");
}

#[test]
fn help_names_every_command_and_the_form_of_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let help = aro(dir.path(), &["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for command in ["keys", "wallet", "channel", "budget", "receipts", "quote", "get"] {
        assert!(stdout(&help).contains(&format!("\n  {command} ")), "{command}");
    }
    assert!(stdout(&aro(dir.path(), &["get", "--help"])).contains(ADDRESS_FORM));
}

#[test]
fn without_a_wallet_or_a_chain_each_command_says_which_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let target = dir.path().join("out");
    let address = address();
    let get = ["get", &address, "-o", target.to_str().unwrap(), "--json"];
    let no_wallet = aro(&home, &get);
    assert_eq!(no_wallet.status.code(), Some(5));
    assert!(last_json(&no_wallet)["error"]["next_step"].as_str().unwrap().contains("aro keys new"));

    assert_eq!(aro(&home, &["keys", "new"]).status.code(), Some(0));
    for arguments in [
        &get[..],
        &["quote", &address, "--json"],
        &["wallet", "status", "--json"],
        &["channel", "list", "--json"],
        &["channel", "sweep", "--json"],
        &["keys", "sessions", "--json"],
    ] {
        let no_chain = aro(&home, arguments);
        assert_eq!(no_chain.status.code(), Some(6), "{arguments:?}: {}", stdout(&no_chain));
        let error = &last_json(&no_chain)["error"];
        assert_eq!((&error["code"], &error["who_acts"]), (&"Chain".into(), &"retry_here".into()));
        assert_eq!(error["retryable"], true);
        assert!(error["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{error}");
    }
    assert!(!target.exists());
}

#[test]
fn what_cannot_be_a_source_or_a_preference_is_a_usage_error() {
    let dir = tempfile::tempdir().unwrap();
    let address = address();
    let get = |more: [&str; 2]| aro(dir.path(), &[&["get", &address, "-o", "x"][..], &more].concat());
    for (more, says) in [
        (["--from", "nobody"], "<node id>@<host>:<port>"),
        (["--from", &address], "--from"),
        (["--prefer", "best"], "fastest, balanced or cheapest"),
        (["--hedge", "much"], "--hedge"),
    ] {
        let refused = get(more);
        assert_eq!(refused.status.code(), Some(2), "{more:?}");
        assert!(stderr(&refused).contains(says), "{more:?}: {}", stderr(&refused));
    }
}

#[test]
fn a_budget_is_set_shown_and_refused_where_it_makes_no_sense() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    assert_eq!(aro(&home, &["keys", "new"]).status.code(), Some(0));
    let set =
        ["budget", "set", "--total", "5", "--class", "films=1.5", "--window", "3600=0.5", "--ask-above", "1", "--json"];
    let shown = last_json(&aro(&home, &set));
    assert_eq!(shown["policy"]["total"], 5_000_000);
    assert_eq!(shown["policy"]["classes"]["films"], 1_500_000);
    assert_eq!(shown["policy"]["windows"][0], serde_json::json!({"seconds": 3_600, "amount": 500_000}));
    let shown = last_json(&aro(&home, &["budget", "set", "--total", "none", "--json"]));
    assert_eq!(
        (&shown["policy"]["total"], &shown["policy"]["ask_above"]),
        (&serde_json::Value::Null, &1_000_000.into())
    );
    assert_eq!(last_json(&aro(&home, &["budget", "show", "--json"])), shown);
    assert!(stdout(&aro(&home, &["budget", "show"])).contains("class films: cap 1.5"));
    for bad in [["--window", "59=1"], ["--window", "x=1"], ["--node", "me=1"], ["--total", "-1"]] {
        let refused = aro(&home, &[&["budget", "set"], &bad[..]].concat());
        assert_eq!(refused.status.code(), Some(2), "{bad:?}: {}", stderr(&refused));
    }
    assert_eq!(last_json(&aro(&home, &["budget", "show", "--json"])), shown, "what was refused is not kept");
}

#[test]
fn an_account_without_entries_has_its_columns_and_a_damaged_ledger_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    assert_eq!(aro(&home, &["keys", "new"]).status.code(), Some(0));
    let columns = "entry,at,kind,node,channel,content,contents,ranges,bytes,amount,class,signed\n";
    assert_eq!(stdout(&aro(&home, &["receipts", "export", "--csv"])), columns);
    assert_eq!(last_json(&aro(&home, &["receipts", "export", "--json"])), serde_json::json!({"entries": []}));
    assert_eq!(stdout(&aro(&home, &["receipts", "totals", "--by", "content"])), "no entries\n");
    let verified = last_json(&aro(&home, &["receipts", "verify", "--json"]));
    assert_eq!(verified["counts"], serde_json::json!({"valid": 0, "unsigned": 0, "wrong": 0}));

    std::fs::write(home.join("wallet.db"), b"no ledger").unwrap();
    let refused = aro(&home, &["receipts", "list", "--json"]);
    assert_eq!(refused.status.code(), Some(5));
    let error = &last_json(&refused)["error"];
    assert!(error["message"].as_str().unwrap().contains("wallet.db is damaged"), "{error}");
    assert!(error["next_step"].as_str().unwrap().contains("backup"), "{error}");
    assert_eq!(std::fs::read(home.join("wallet.db")).unwrap(), b"no ledger", "it stays as it is");
}
