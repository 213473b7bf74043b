//! The command as a script sees it: output, exit codes, errors that say what to do next.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod fixture;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use fixture::{World, keypair};
use serde_json::{Value, json};
use settlement_chain::{Keypair, keyfile};
use settlement_operator::control::ControlSocket;

fn aro_settle(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_aro-settle")).args(arguments).env_remove("ARO_RPC_URL").output().unwrap()
}

fn last_line(output: &Output) -> Value {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What `init` leaves behind, for a chain that nobody serves over RPC.
fn home(world: &World, dir: &Path) {
    keyfile::write(&dir.join("transport.key"), &keypair(&world.operator_key)).unwrap();
    keyfile::write(&dir.join("authority.key"), &world.authority).unwrap();
    let config = json!({
        "rpc_url": NOBODY,
        "program_id": world.program.id.to_string(),
        "listen": "127.0.0.1:0",
        "min_settle": "0.001",
        "close_when_asked": true,
        "settle_interval_ms": 0,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

/// A port of the loopback that nothing listens at.
const NOBODY: &str = "http://127.0.0.1:1";

#[test]
fn help_names_every_command() {
    let output = aro_settle(&["--help"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for command in ["setup", "config", "init", "run", "once", "status", "doctor", "report", "withdraw", "mint-to"] {
        assert!(text.contains(command), "{command} is missing in {text}");
    }
}

#[test]
fn errors_have_their_exit_codes_and_next_steps() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("payer.json");
    keyfile::write(&key, &Keypair::new()).unwrap();
    let (key, home) = (path(&key), dir.path().join("operator"));
    let home = path(&home);
    for (arguments, exit, code) in [
        (vec!["once", "--dir", home], 2, "Usage"),
        (vec!["run", "--dir", home], 2, "Usage"),
        (vec!["setup", "--rpc", NOBODY, "--payer", "/nonexistent/key.json"], 5, "Keys"),
        (vec!["setup", "--rpc", NOBODY, "--payer", key, "--new-mint"], 6, "Unreachable"),
        (vec!["init", "--dir", home, "--rpc", NOBODY, "--payer", key, "--fee-bps", "100"], 6, "Unreachable"),
    ] {
        let output = aro_settle(&[&arguments[..], &["--json"]].concat());
        let error = &last_line(&output)["error"];
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {error}");
        assert_eq!(error["code"], code);
        assert!(!error["next_step"].as_str().unwrap().is_empty());
    }
    assert_eq!(aro_settle(&["init", "--dir", home]).status.code(), Some(2), "missing arguments");
    assert!(!Path::new(home).exists(), "a failed init leaves nothing behind");
}

#[test]
fn config_with_an_unknown_field_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), r#"{"rpc_url": "x", "surprise": 1}"#).unwrap();
    let output = aro_settle(&["status", "--dir", path(dir.path()), "--json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(last_line(&output)["error"]["message"].as_str().unwrap().contains("surprise"));
}

#[tokio::test(flavor = "multi_thread")]
async fn once_asks_the_running_operator_and_status_reads_the_file_when_none_runs() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    home(&world, dir.path());
    let channel = world.open(1, 1_000_000).await[0];
    let operator = Arc::new(world.start(dir.path()).await);
    let control = ControlSocket::open(dir.path().join("control.sock"), Arc::clone(&operator)).unwrap();
    let client = world.client(&operator).await;
    client.hand(&[world.voucher(channel, 10)]).await.ack();

    let folder = dir.path().to_owned();
    let run = move |command: &'static str| {
        let folder = folder.clone();
        tokio::task::spawn_blocking(move || aro_settle(&[command, "--dir", path(&folder), "--json"]))
    };
    let status = last_line(&run("status").await.unwrap());
    assert_eq!((&status["running"], &status["vouchers"][0]["cumulative"]), (&json!(true), &json!(10)));
    assert!(status["chain_error"].is_string(), "what is stored is shown without a chain");

    client.hand(&[world.closing(channel, 5_000)]).await.ack();
    let output = run("once").await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    let report = last_line(&output);
    assert_eq!(report["closed"][0]["channel"], json!(channel.to_string()));
    assert_eq!(report["closed"][0]["cumulative"], json!(5_000));
    assert_eq!(report["reclaimed"][0]["refunded"], json!(995_000));

    control.close().await;
    Arc::into_inner(operator).unwrap().shutdown().await;
    let status = last_line(&run("status").await.unwrap());
    assert_eq!((&status["running"], &status["vouchers"]), (&json!(false), &json!([])));
}

#[tokio::test]
async fn doctor_tells_what_is_missing_and_fails_for_it() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    home(&world, dir.path());
    let examined = |output: &Output| {
        let object = last_line(output);
        let findings = object["findings"].as_array().unwrap().clone();
        let level = |check: &str| {
            let found = findings.iter().find(|finding| finding["check"] == json!(check));
            found.map_or_else(|| "none".to_owned(), |found| found["level"].as_str().unwrap().to_owned())
        };
        let worst = object["worst"].as_str().unwrap().to_owned();
        (worst, ["authority key", "server 0", "database", "operator", "lease", "urgent fees"].map(level))
    };
    let run = |dir: &Path| {
        let folder = dir.to_path_buf();
        tokio::task::spawn_blocking(move || aro_settle(&["doctor", "--dir", path(&folder), "--json"]))
    };
    let output = run(dir.path()).await.unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(examined(&output), ("fail".into(), ["ok", "fail", "ok", "warn", "none", "ok"].map(String::from)));

    let operator = Arc::new(world.start(dir.path()).await);
    let control = ControlSocket::open(dir.path().join("control.sock"), Arc::clone(&operator)).unwrap();
    let output = run(dir.path()).await.unwrap();
    assert_eq!(examined(&output), ("fail".into(), ["ok", "fail", "ok", "none", "ok", "ok"].map(String::from)));
    control.close().await;

    std::fs::set_permissions(dir.path().join("authority.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = run(dir.path()).await.unwrap();
    assert_eq!(examined(&output).1[0], "fail", "others can read the key");
}
