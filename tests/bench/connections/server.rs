//! The process that is measured: this program again, as a node or as a bare QUIC server, and nothing else.

#![allow(clippy::print_stdout, reason = "how the process says where it serves")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aro_proto::message::ChainIds;
use aro_proto::transport::TransportSettings;
use aro_proto::{ChannelId, NodeId};
use bytes::Bytes;
use clap::ValueEnum;
use serde_json::{Value, json};
use settlement_chain::submit::submit;
use settlement_chain::{ChainClient, Keypair, Signer, instructions};

use super::{FIRST, LOOKS};
use crate::raw::Raw;
use crate::scene::Scene;

/// What serves.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Kind {
    /// A node with its chain.
    Node,
    /// QUIC alone.
    Raw,
}

/// Where a server is, and what pays it.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) node: NodeId,
    pub(super) listen: SocketAddr,
    /// None for bare QUIC.
    pub(super) channel: Option<Channel>,
}

/// An open channel, and the throw-away key that signs for it.
#[derive(Clone)]
pub(super) struct Channel {
    pub(super) id: ChannelId,
    pub(super) chain: ChainIds,
    pub(super) signer: [u8; 32],
}

/// A server in its own process; killed when dropped.
pub(super) struct ServerProcess {
    child: Child,
    pub(super) place: Place,
}

impl ServerProcess {
    pub(super) fn start(kind: Kind, count: usize, dir: Option<&Path>) -> Result<Self> {
        let name = kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["connections", "--serve", &name, "--count", &count.to_string()]);
        if let Some(dir) = dir {
            command.arg("--dir").arg(dir);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("the server has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let place = read_place(&line).context("the server did not say where it is");
        let place = place.inspect_err(|_| {
            let _ = child.kill();
        })?;
        Ok(Self { child, place })
    }

    /// Resident bytes, once they stand still.
    pub(super) async fn settled_rss(&self) -> Result<u64> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut before = self.rss()?;
        loop {
            tokio::time::sleep(LOOKS).await;
            let now = self.rss()?;
            if now.abs_diff(before) < 64 << 10 || Instant::now() > deadline {
                return Ok(now);
            }
            before = now;
        }
    }

    fn rss(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).context("this system does not tell a process's memory")?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        Ok(kib.context("no VmRSS")?.trim().parse::<u64>()? * 1_024)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until the process that started it is gone.
pub(super) async fn serve(kind: Kind, count: usize, dir: Option<&Path>) -> Result<()> {
    let end = tokio::task::spawn_blocking(|| std::io::stdin().lines().for_each(drop));
    match kind {
        Kind::Node => {
            let scene = Scene::new(dir, |config| {
                // All come from one address, and none is to prove it first: places are not what is measured.
                config.max_connections = 4 * (count + FIRST);
                config.max_connections_per_ip = config.max_connections;
            })
            .await?;
            let channel = open_channel(&scene).await?;
            println!("{}", node_line(&scene, &channel));
            end.await?;
        }
        Kind::Raw => {
            let raw = Raw::serve(Bytes::new(), TransportSettings::default())?;
            println!("{}", json!({ "node": raw.node().to_string(), "listen": raw.address()? }));
            end.await?;
        }
    }
    std::process::exit(0)
}

async fn open_channel(scene: &Scene) -> Result<Channel> {
    let world = &scene.world;
    let (owner, signer) = (Keypair::new(), Keypair::new());
    let source = world.fund(&owner.pubkey(), DEPOSIT).await?;
    let node = world.program.node(&scene.node.node_id().to_bytes().into()).0;
    let open = instructions::OpenChannel { node, nonce: 0, deposit: DEPOSIT, grace_s: 900, signer: signer.pubkey() };
    let steps = [
        instructions::deposit(&world.program, &owner.pubkey(), &owner.pubkey(), &source, DEPOSIT),
        instructions::open_batch(&world.program, &owner.pubkey(), &owner.pubkey(), &[open]),
    ];
    submit(&*world.chain, &owner, &[], &steps).await?;
    scene.node.follow_now().await?;
    let id = world.program.channel(&world.program.agent(&owner.pubkey()).0, &node, 0).0;
    let chain = ChainIds {
        genesis_hash: world.chain.genesis_hash().await?,
        program: world.program.id.to_bytes(),
        mint: world.setup.mint.to_bytes(),
    };
    Ok(Channel { id: ChannelId::from_bytes(id.to_bytes()), chain, signer: *signer.secret_bytes() })
}

fn node_line(scene: &Scene, channel: &Channel) -> Value {
    json!({
        "node": scene.node.node_id().to_string(),
        "listen": scene.node.local_addr(),
        "channel": channel.id.to_bytes(),
        "genesis": channel.chain.genesis_hash,
        "program": channel.chain.program,
        "mint": channel.chain.mint,
        "signer": channel.signer,
    })
}

fn read_place(line: &str) -> Result<Place> {
    let said: Value = serde_json::from_str(line)?;
    let bytes = |key: &str| -> Result<[u8; 32]> { Ok(serde_json::from_value(said[key].clone())?) };
    let text = |key: &str| said[key].as_str().with_context(|| format!("no {key}"));
    let channel = if said["channel"].is_null() {
        None
    } else {
        let chain = ChainIds { genesis_hash: bytes("genesis")?, program: bytes("program")?, mint: bytes("mint")? };
        Some(Channel { id: ChannelId::from_bytes(bytes("channel")?), chain, signer: bytes("signer")? })
    };
    let listen: SocketAddr = text("listen")?.parse()?;
    ensure!(listen.port() > 0, "no port");
    Ok(Place { node: text("node")?.parse()?, listen, channel })
}

/// Base units in the channel; nothing is spent.
const DEPOSIT: u64 = 1_000_000;
