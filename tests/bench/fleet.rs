//! Several paid nodes with one content, each behind a relay with a rate of its own, and an agent with a channel to
//! each.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use agent_client::{Agent, AgentConfig, FetchReport, Preference, Wallet};
use anyhow::{Context, Result, ensure};
use aro_proto::{Address, Amount, ContentId, NodeAddress};
use aro_tests::relay::{LinkTerms, PathTerms, Relay};
use aro_tests::world::World;
use clap::Args;
use node_server::RunningNode;
use tempfile::TempDir;

use crate::scene::{pattern, start_node};

/// What the nodes are and what lies between.
#[derive(Args, Clone)]
pub(crate) struct Arguments {
    /// Nodes that have the content.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=16))]
    pub(crate) nodes: u16,
    /// Megabits a second that each relay lets through, packet headers included.
    #[arg(long, value_name = "MBIT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate_mbit: u32,
    /// Milliseconds to each node and back.
    #[arg(long, value_name = "MS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rtt_ms: u32,
    /// Size of the content.
    #[arg(long, value_name = "MIB", default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub(crate) mib: u32,
    /// Rounds; their median counts.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) rounds: u16,
    /// Bytes of the largest packet that the relays let through, headers included.
    #[arg(long, value_name = "BYTES", default_value_t = 1_500, value_parser = clap::value_parser!(u16).range(1_280..))]
    pub(crate) mtu: u16,
    /// Folder for nodes and wallet; the system's temporary folder if not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// The deployment.
pub(crate) struct Fleet {
    _home: TempDir,
    nodes: Vec<RunningNode>,
    agent: Agent,
    content: ContentId,
    bytes: u64,
    link: LinkTerms,
    delay: LinkTerms,
}

/// One fetch on fresh paths.
pub(crate) struct Run {
    relays: Vec<Relay>,
    addresses: Vec<Address>,
}

impl Fleet {
    pub(crate) async fn new(arguments: &Arguments) -> Result<Self> {
        let home = match &arguments.dir {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        };
        let home = home.context("no folder for the nodes' files")?;
        let world = World::new().await?;
        let bytes = u64::from(arguments.mib) << 20;
        let wallet = Wallet::create(&home.path().join("agent"))?;
        let owner = wallet.owner();
        // Memory takes pieces in any order here, so that nothing but the paths is measured.
        let config = AgentConfig { read_ahead_bytes: usize::try_from(bytes)?, ..AgentConfig::default() };
        let builder = Agent::builder().chain(world.chain.clone()).program(world.program.id);
        let agent = builder.wallet(wallet).config(config).build().await?;
        let deposit = Amount::new(bytes * (u64::from(arguments.rounds) + 1));
        world.fund(&owner, deposit.get() * u64::from(arguments.nodes)).await?;
        agent.wallet().deposit(Amount::new(deposit.get() * u64::from(arguments.nodes))).await?;
        let file = home.path().join("content");
        std::fs::write(&file, pattern(1, 0, usize::try_from(bytes)?))?;
        let (mut nodes, mut content) = (Vec::new(), None);
        for number in 0..arguments.nodes {
            let dir = home.path().join(format!("node-{number}"));
            let node = start_node(&world, &dir, |_| {}).await?;
            content = Some(node.store().add_file(&file)?.id);
            let _ = agent.open_channel(node.node_id(), deposit, None).await?;
            node.follow_now().await?;
            nodes.push(node);
        }
        std::fs::remove_file(&file)?;
        let content = content.context("no node has the content")?;
        let delay = Duration::from_millis(arguments.rtt_ms.into()) / 2;
        let delay = LinkTerms { mtu: arguments.mtu.into(), ..LinkTerms::delay(delay) };
        let rate = u64::from(arguments.rate_mbit) * 1_000_000;
        // Twice what the path itself holds, as access links are built; 256 KiB at least.
        let queue_bytes = (rate / 8 * u64::from(arguments.rtt_ms) / 1_000 * 2).max(256 << 10);
        let link = LinkTerms { rate_bit_s: Some(rate), queue_bytes, ..delay };
        Ok(Self { _home: home, nodes, agent, content, bytes, link, delay })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// New relays for a round.
    pub(crate) fn paths(&self, round: u16) -> Result<Run> {
        let (mut relays, mut addresses) = (Vec::new(), Vec::new());
        for (number, node) in self.nodes.iter().enumerate() {
            let terms = PathTerms { up: self.delay, down: self.link, seed: u64::from(round) * 100 + number as u64 * 2 };
            let relay = Relay::to(node.local_addr(), &terms)?;
            addresses.push(Address::new(self.content, node.node_id(), "127.0.0.1", relay.address().port())?);
            relays.push(relay);
        }
        Ok(Run { relays, addresses })
    }

    /// Fetches on new connections: how long it took, and what the fetch says of it.
    pub(crate) async fn fetch(&self, run: &Run) -> Result<(Duration, FetchReport)> {
        let (first, others) = run.addresses.split_first().context("no node")?;
        let fetch = self.agent.fetch(first).sources(others.iter().map(NodeAddress::from)).prefer(Preference::Fastest);
        let started = Instant::now();
        let (report, bytes) = fetch.to_bytes(self.bytes).await?;
        let took = started.elapsed();
        ensure!(bytes.len() as u64 == self.bytes && report.verified_bytes == self.bytes, "not every byte came once");
        ensure!(ContentId::of(&bytes) == self.content && report.size_proven, "other bytes came");
        // A base unit for a byte: what is paid is what is proven, at each node.
        let is_paid = report.sources.iter().all(|source| source.paid.get() == source.verified_bytes);
        ensure!(is_paid && report.paid.get() == report.verified_bytes, "it was not paid: {report:?}");
        // The next round dials anew.
        self.agent.close().await;
        Ok((took, report))
    }
}

impl Run {
    pub(crate) fn relay(&self, number: usize) -> Result<&Relay> {
        self.relays.get(number).context("no such relay")
    }
}
