//! A chain, an operator, a node and an agent, each its own process and folder.

use std::path::{Path, PathBuf};

use aro_tests::processes::{Server, number, run_ok, text};
use settlement_chain::{Address, Keypair, Program, RpcChain, Signer, reads};
use tempfile::TempDir;

/// A cluster that is set up, and a wallet that pays for what the tests need.
pub(crate) struct Cluster {
    pub(crate) rpc_url: String,
    pub(crate) payer: PathBuf,
    pub(crate) program: Program,
    pub(crate) mint: Address,
    pub(crate) treasury: Address,
    pub(crate) home: TempDir,
    _devnet: Option<Server>,
}

/// A running operator.
pub(crate) struct OperatorProcess {
    pub(crate) server: Server,
    pub(crate) account: Address,
    pub(crate) payout: Address,
    pub(crate) dir: String,
}

/// A running node that holds one content.
pub(crate) struct NodeProcess {
    pub(crate) server: Server,
    pub(crate) id: String,
    pub(crate) account: Address,
    pub(crate) payout: Address,
    pub(crate) dir: String,
}

/// An agent's wallet folder.
pub(crate) struct AgentHome {
    pub(crate) dir: String,
    pub(crate) owner: Address,
    rpc_url: String,
    program: String,
}

impl Cluster {
    /// The cluster of the environment, or a devnet of its own.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The cluster of the environment, or a chain that has the program and nothing else.
    pub(crate) fn start_bare() -> Self {
        Self::start_with(&["--bare"])
    }

    fn start_with(devnet_flags: &[&str]) -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let (devnet, rpc_url, payer, admin) = match std::env::var("ARO_TEST_RPC_URL") {
            Ok(rpc_url) => {
                let payer = std::env::var("ARO_TEST_PAYER").expect("ARO_TEST_PAYER names a funded key file");
                (None, rpc_url, payer.clone(), payer)
            }
            Err(_) => {
                let state = path(&home, "devnet");
                let arguments = [&["run", "--rpc-port", "0", "--state-dir", &state], devnet_flags].concat();
                let devnet = Server::start("aro-devnet", &arguments);
                let (url, faucet) = (devnet.ready_text("rpc_url"), devnet.ready_text("faucet_keypair"));
                let admin = devnet.ready_text("admin_keypair");
                (Some(devnet), url, faucet, admin)
            }
        };
        let program = match std::env::var("ARO_TEST_PROGRAM_ID") {
            Ok(id) => Program::new(id.parse().expect("ARO_TEST_PROGRAM_ID is an address")),
            Err(_) => Program::local(),
        };
        let id = program.id.to_string();
        // Prepares a cluster that only has the program; finds what the devnet has prepared.
        let setup = run_ok(
            "aro-settle",
            &["setup", "--rpc", &rpc_url, "--program-id", &id, "--payer", &payer, "--admin", &admin, "--new-mint"],
        );
        Self {
            mint: address(&text(&setup, "mint")),
            treasury: address(&text(&setup, "treasury")),
            payer: payer.into(),
            rpc_url,
            program,
            home,
            _devnet: devnet,
        }
    }

    pub(crate) fn chain(&self) -> RpcChain {
        RpcChain::new(&self.rpc_url)
    }

    /// A path below the cluster's temporary folder.
    pub(crate) fn path(&self, name: &str) -> String {
        path(&self.home, name)
    }

    /// Registers and starts an operator that settles only when asked.
    pub(crate) fn operator(&self) -> OperatorProcess {
        self.operator_at(&self.rpc_url)
    }

    /// The same on another way to the same cluster.
    pub(crate) fn operator_at(&self, rpc_url: &str) -> OperatorProcess {
        let (dir, id, payer) = (self.path("operator"), self.program.id.to_string(), self.payer_path());
        // Its own payout, so that its fees are not mixed with the payer's tokens.
        let payout_owner = Keypair::new().pubkey().to_string();
        let made = run_ok(
            "aro-settle",
            &[
                "--json",
                "init",
                "--dir",
                &dir,
                "--rpc",
                rpc_url,
                "--program-id",
                &id,
                "--payer",
                &payer,
                "--fee-bps",
                "100",
                "--listen",
                "127.0.0.1:0",
                "--payout-owner",
                &payout_owner,
                "--settle-interval-ms",
                "0",
            ],
        );
        OperatorProcess {
            server: start_operator(&dir),
            account: address(&text(&made, "operator_account")),
            payout: address(&text(&made, "payout")),
            dir,
        }
    }

    /// Registers and starts a node that the operator settles for.
    pub(crate) fn node(&self, operator: &OperatorProcess) -> NodeProcess {
        self.node_with(operator, &[])
    }

    /// The same, made with further options of `aro-node init`.
    pub(crate) fn node_with(&self, operator: &OperatorProcess, options: &[&str]) -> NodeProcess {
        let (dir, id, payer) = (self.path("node"), self.program.id.to_string(), self.payer_path());
        let account = operator.account.to_string();
        let endpoint =
            format!("{}@{}", operator.server.ready_text("operator_id"), operator.server.ready_text("listen"));
        let arguments = [
            "init",
            "--json",
            "--dir",
            &dir,
            "--rpc",
            &self.rpc_url,
            "--program-id",
            &id,
            "--payer",
            &payer,
            "--listen",
            "127.0.0.1:0",
            "--price",
            "0.0001",
            "--operator-account",
            &account,
            "--operator",
            &endpoint,
        ];
        let made = run_ok("aro-node", &[&arguments, options].concat());
        NodeProcess {
            server: start_node(&dir),
            id: text(&made, "node_id"),
            account: address(&text(&made, "account")),
            payout: address(&text(&made, "payout")),
            dir,
        }
    }

    /// An agent with this much $ARO in its token account, and SOL for fees and rents.
    pub(crate) fn agent(&self, aro: &str) -> AgentHome {
        self.agent_at("agent", aro)
    }

    /// The same, in a folder of this name.
    pub(crate) fn agent_at(&self, name: &str, aro: &str) -> AgentHome {
        let dir = self.path(name);
        let keys = run_ok("aro", &["--json", "--home", &dir, "keys", "new"]);
        let owner = text(&keys, "owner");
        let (id, payer) = (self.program.id.to_string(), self.payer_path());
        run_ok(
            "aro-settle",
            &[
                "--json",
                "mint-to",
                "--rpc",
                &self.rpc_url,
                "--program-id",
                &id,
                "--payer",
                &payer,
                "--to",
                &owner,
                "--aro",
                aro,
                "--lamports",
                "100000000",
            ],
        );
        AgentHome { dir, owner: address(&owner), rpc_url: self.rpc_url.clone(), program: id }
    }

    /// Tokens in a token account, in base units.
    pub(crate) async fn tokens(&self, account: &Address) -> u64 {
        reads::token_balance(&self.chain(), account).await.expect("the chain answers")
    }

    pub(crate) fn payer_path(&self) -> String {
        self.payer.to_string_lossy().into_owned()
    }
}

impl NodeProcess {
    /// Adds a file; its address at this node, as it listens now.
    pub(crate) fn add(&self, file: &Path) -> String {
        let file = file.to_string_lossy();
        let added = run_ok("aro-node", &["add", "--json", "--dir", &self.dir, &file]);
        text(&added["contents"][0], "address")
    }
}

impl AgentHome {
    /// The arguments of an `aro` command of this agent.
    pub(crate) fn arguments<'a>(&'a self, command: &[&'a str]) -> Vec<&'a str> {
        let global = ["--json", "--home", &self.dir, "--rpc", &self.rpc_url, "--program-id", &self.program];
        [&global, command].concat()
    }

    /// Runs an `aro` command that must end well.
    pub(crate) fn aro(&self, command: &[&str]) -> serde_json::Value {
        run_ok("aro", &self.arguments(command))
    }

    /// Deposits and opens a channel with all of it. Returns the channel's id.
    pub(crate) fn open(&self, node: &NodeProcess, aro: &str) -> String {
        self.aro(&["wallet", "deposit", aro]);
        let opened = self.aro(&["channel", "open", &node.id, "--deposit", aro]);
        assert!(number(&opened, "deposit") > 0, "{opened}");
        text(&opened, "channel")
    }
}

pub(crate) fn start_operator(dir: &str) -> Server {
    Server::start("aro-settle", &["run", "--dir", dir])
}

pub(crate) fn start_node(dir: &str) -> Server {
    Server::start("aro-node", &["serve", "--dir", dir])
}

pub(crate) fn address(text: &str) -> Address {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

/// `length` bytes that do not repeat.
pub(crate) fn sample(length: usize) -> Vec<u8> {
    (0..length as u64).map(|index| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn path(home: &TempDir, name: &str) -> String {
    home.path().join(name).to_string_lossy().into_owned()
}
