//! `aro-settle config` as an admin's script runs it, against a chain behind JSON-RPC.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod fixture;

use std::path::{Path, PathBuf};
use std::process::Command;

use fixture::World;
use fixture::rpc::RpcServer;
use serde_json::{Value, json};
use settlement_chain::interface::errors::SettlementError;
use settlement_chain::{Keypair, Signer, instructions, keyfile, reads, submit};
use settlement_operator::register;

struct Scene {
    world: World,
    server: RpcServer,
    dir: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new().await;
        let server = RpcServer::start(world.chain.clone()).await;
        let dir = tempfile::tempdir().unwrap();
        let scene = Self { world, server, dir };
        keyfile::write(&scene.admin(), &scene.world.admin).unwrap();
        scene
    }

    fn admin(&self) -> PathBuf {
        self.dir.path().join("admin.json")
    }

    /// A key file of a new wallet with SOL.
    fn wallet(&self, name: &str) -> (PathBuf, Keypair) {
        let (path, key) = (self.dir.path().join(name), Keypair::new());
        keyfile::write(&path, &key).unwrap();
        self.world.chain.airdrop(&key.pubkey(), 1_000_000_000).unwrap();
        (path, key)
    }

    /// Exit code and last line of `aro-settle config ACT... [--admin KEYFILE] --json`.
    async fn run(&self, act: &[&str], admin: Option<&Path>) -> (i32, Value) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aro-settle"));
        command.arg("config").args(act).args(["--rpc", &self.server.url, "--json"]);
        if let Some(admin) = admin {
            command.arg("--admin").arg(admin);
        }
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = serde_json::from_str(text.lines().last().unwrap_or("null")).unwrap();
        (output.status.code().unwrap(), line)
    }

    async fn ok(&self, act: &[&str], admin: Option<&Path>) -> Value {
        let (exit, line) = self.run(act, admin).await;
        assert_eq!(exit, 0, "{act:?}: {line}");
        line
    }

    async fn config(&self) -> settlement_chain::interface::accounts::Config {
        reads::config(&self.world.chain, &self.world.program).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn show_tells_the_parameters_and_needs_no_key() {
    let scene = Scene::new().await;
    let shown = scene.ok(&["show"], None).await;
    assert_eq!(shown["admin"], json!(scene.world.admin.pubkey().to_string()));
    assert_eq!(
        (&shown["pending_admin"], &shown["paused"], &shown["signature"]),
        (&Value::Null, &json!(false), &Value::Null)
    );
    assert_eq!((&shown["protocol_fee_bps"], &shown["max_operator_fee_bps"]), (&json!(50), &json!(500)));
    assert_eq!((&shown["max_grace_s"], &shown["payout_delay_s"]), (&json!(604_800), &json!(172_800)));
    assert_eq!(shown["treasury"], json!(scene.world.setup.treasury.to_string()));
    assert_eq!(shown["program_id"], json!(scene.world.program.id.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn set_changes_what_is_given_and_a_repetition_sends_nothing() {
    let scene = Scene::new().await;
    let admin = scene.admin();
    let (_, owner) = scene.wallet("treasury.json");
    let (payer, _) = scene.wallet("payer.json");
    let owner = owner.pubkey().to_string();
    let act = ["set", "--protocol-fee-bps", "75", "--payout-delay", "60", "--treasury-owner", &owner];
    let act = [&act[..], &["--payer", payer.to_str().unwrap()]].concat();
    let told = scene.ok(&act, Some(&admin)).await;
    assert!(told["signature"].is_string());
    let config = scene.config().await;
    assert_eq!((config.protocol_fee_bps, config.payout_delay_s), (75, 60));
    assert_eq!((config.max_operator_fee_bps, config.max_grace_s, config.paused), (500, 604_800, 0));
    let treasury = reads::associated_token_address(&owner.parse().unwrap(), &scene.world.setup.mint);
    assert_eq!((config.treasury, &told["treasury"]), (treasury.to_bytes(), &json!(treasury.to_string())));
    assert_eq!(reads::token_balance(&scene.world.chain, &treasury).await.unwrap(), 0);

    let again = scene.ok(&act, Some(&admin)).await;
    assert_eq!(again["signature"], Value::Null);
    // What was told is what the chain now says.
    assert_eq!(scene.ok(&["show"], None).await, again);
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_stops_and_resume_lets_go_on() {
    let scene = Scene::new().await;
    let admin = scene.admin();
    assert_eq!(scene.ok(&["pause"], Some(&admin)).await["paused"], json!(true));
    assert_eq!(scene.config().await.paused, 1);
    assert_eq!(scene.ok(&["pause"], Some(&admin)).await["signature"], Value::Null);
    let World { chain, program, setup, admin: payer, agent, .. } = &scene.world;
    let source = reads::associated_token_address(&agent.pubkey(), &setup.mint);
    chain.mint_to(&setup.mint, payer, &agent.pubkey(), 10).await.unwrap();
    let deposit = [instructions::deposit(program, &agent.pubkey(), &agent.pubkey(), &source, 10)];
    let refused = submit::submit(chain, agent, &[], &deposit).await.unwrap_err();
    assert_eq!(refused.program_error(), Some(SettlementError::Paused));
    // Registrations go on.
    let authority = Keypair::new();
    register(chain, program, payer, &authority, 10, &payer.pubkey()).await.unwrap();
    assert_eq!(scene.ok(&["resume"], Some(&admin)).await["paused"], json!(false));
    assert_eq!(scene.config().await.paused, 0);
    submit::submit(chain, agent, &[], &deposit).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_office_passes_when_the_proposed_key_accepts() {
    let scene = Scene::new().await;
    let admin = scene.admin();
    let ((next_path, next), (other_path, other)) = (scene.wallet("next.json"), scene.wallet("other.json"));
    let next_key = next.pubkey().to_string();
    let told = scene.ok(&["propose-admin", &other.pubkey().to_string()], Some(&admin)).await;
    assert_eq!(told["pending_admin"], json!(other.pubkey().to_string()));
    assert_eq!(scene.ok(&["propose-admin", "--none"], Some(&admin)).await["pending_admin"], Value::Null);
    scene.ok(&["propose-admin", &next_key], Some(&admin)).await;

    let (exit, line) = scene.run(&["accept-admin"], Some(&other_path)).await;
    assert_eq!((exit, &line["error"]["code"]), (5, &json!("Keys")));
    assert!(line["error"]["message"].as_str().unwrap().contains(&next_key), "{line}");

    let told = scene.ok(&["accept-admin"], Some(&next_path)).await;
    assert_eq!((&told["admin"], &told["pending_admin"]), (&json!(next_key), &Value::Null));
    assert_eq!(scene.config().await.admin, next.pubkey().to_bytes());
    assert_eq!(scene.ok(&["accept-admin"], Some(&next_path)).await["signature"], Value::Null);

    // The former admin has no right any more, and hears who has.
    let (exit, line) = scene.run(&["pause"], Some(&admin)).await;
    assert_eq!(exit, 5);
    assert!(line["error"]["message"].as_str().unwrap().contains(&next_key), "{line}");
    assert!(!line["error"]["next_step"].as_str().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_program_refuses_is_told_as_refused() {
    let scene = Scene::new().await;
    let admin = scene.admin();
    for (act, word) in [
        (["set", "--protocol-fee-bps", "2001"], "fee"),
        (["set", "--max-operator-fee-bps", "5001"], "fee"),
        (["set", "--payout-delay", "2592001"], "delay"),
    ] {
        let (exit, line) = scene.run(&act, Some(&admin)).await;
        assert_eq!((exit, &line["error"]["code"]), (3, &json!("Refused")), "{line}");
        assert!(line["error"]["message"].as_str().unwrap().contains(word), "{line}");
    }
    for act in [&["set"][..], &["propose-admin"], &["propose-admin", "--none", "not an address"]] {
        assert_eq!(scene.run(act, Some(&admin)).await.0, 2, "{act:?}");
    }
}
