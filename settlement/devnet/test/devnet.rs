//! The devnet as others use it: started as a process, found by its JSON line, paid with over JSON-RPC, stopped by
//! a signal. What could break: noise before the line, a program that is not really deployed, promises of the chain
//! client that hold in process but not over the wire, a process that does not stop.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its fixture")]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::Value;
use settlement_chain::{Address, Keypair, Program, RpcChain, Signer, contract, keyfile, reads, setup::Setup};

#[tokio::test(flavor = "multi_thread")]
async fn serves_the_whole_money_cycle_and_stops_on_sigterm() {
    let state = tempfile::tempdir().unwrap();
    let devnet = Devnet::start(state.path());
    let line = &devnet.line;
    let address = |name: &str| -> Address { line[name].as_str().unwrap().parse().unwrap() };
    let setup = Setup {
        mint: address("mint"),
        config: address("config"),
        vault: address("vault"),
        treasury: address("treasury"),
        created: true,
    };
    let program = Program::new(address("program_id"));
    assert_eq!((setup.config, setup.vault), (program.config().0, program.vault().0));
    let chain = RpcChain::new(line["rpc_url"].as_str().unwrap());
    let faucet = keyfile::read(Path::new(line["faucet_keypair"].as_str().unwrap())).unwrap();
    let admin = keyfile::read(Path::new(line["admin_keypair"].as_str().unwrap())).unwrap();
    let config = reads::config(&chain, &program).await.unwrap();
    assert_eq!(Address::from(config.admin), admin.pubkey());

    contract::answers_as_promised(&chain, &program, &faucet, &setup).await.unwrap();
    contract::money_cycle(&chain, &program, &faucet, &setup).await.unwrap();

    let wallet = Keypair::new().pubkey();
    let given = faucet_command(line, &wallet, &["--aro", "12.5", "--sol", "0.25"]);
    assert_eq!(given["aro_base_units"], 12_500_000);
    let token_account = reads::associated_token_address(&wallet, &setup.mint);
    assert_eq!(reads::token_balance(&chain, &token_account).await.unwrap(), 12_500_000);
    assert_eq!(reads::lamports(&chain, &wallet).await.unwrap(), 250_000_000);

    let (status, rest) = devnet.terminate();
    assert_eq!(status.code(), Some(0));
    assert_eq!(rest, "", "nothing but the one line is printed");
}

#[test]
fn restart_with_the_same_state_keeps_keys_and_addresses() {
    let state = tempfile::tempdir().unwrap();
    let lines = [(); 2].map(|()| {
        let devnet = Devnet::start(state.path());
        let line = devnet.line.clone();
        assert_eq!(devnet.terminate().0.code(), Some(0));
        line
    });
    for name in ["mint", "treasury", "config", "vault", "program_id", "faucet_keypair", "admin_keypair"] {
        assert_eq!(lines[0][name], lines[1][name], "{name}");
    }
}

#[test]
fn taken_port_is_named_and_the_exit_code_says_so() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_aro-devnet")).args(["--rpc-port", &port]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains(&port) && told.contains("in use"), "{told}");
}

fn faucet_command(line: &Value, to: &Address, amounts: &[&str]) -> Value {
    let text = |name: &str| line[name].as_str().unwrap().to_owned();
    let output = Command::new(env!("CARGO_BIN_EXE_aro-devnet"))
        .args(["faucet", "--rpc-url", &text("rpc_url"), "--mint", &text("mint")])
        .args(["--keypair", &text("faucet_keypair"), "--to", &to.to_string()])
        .args(amounts)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The running process; killed if the test fails before it is stopped.
struct Devnet {
    child: Option<Child>,
    line: Value,
    /// Everything on stdout after the first line, once it closes.
    rest: mpsc::Receiver<String>,
}

impl Devnet {
    fn start(state: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_aro-devnet"))
            .args(["--rpc-port", "0", "--slot-time-ms", "50", "--state-dir"])
            .arg(state)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (first_out, first) = mpsc::channel();
        let (rest_out, rest) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            let _ = first_out.send(line);
            let _ = rest_out.send(std::io::read_to_string(stdout).unwrap_or_default());
        });
        let mut devnet = Self { child: Some(child), line: Value::Null, rest };
        let line = first.recv_timeout(START_DEADLINE).expect("a line within the deadline");
        devnet.line = serde_json::from_str(&line).expect("the first line is JSON");
        devnet
    }

    /// Sends SIGTERM and waits for the end; returns what else was printed.
    fn terminate(mut self) -> (ExitStatus, String) {
        let mut child = self.child.take().unwrap();
        let pid = child.id();
        assert!(Command::new("kill").args(["-TERM", &pid.to_string()]).status().unwrap().success());
        let rest = self.rest.recv_timeout(STOP_DEADLINE);
        if rest.is_err() {
            let _ = child.kill();
        }
        (child.wait().unwrap(), rest.expect("stdout closes within the deadline"))
    }
}

impl Drop for Devnet {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

const START_DEADLINE: Duration = Duration::from_secs(120);
const STOP_DEADLINE: Duration = Duration::from_secs(30);
