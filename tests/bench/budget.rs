//! `aro-bench budget`: whether many fetches at once, over several processes' guards, keep to a cap that does not suffice.
//!
//! Every agent has its own handle on one wallet, as a process of its own has, and its own node, since a channel is used by
//! one process at a time. All fetch at once; what is left must be less than one more fetch costs.

use std::time::Instant;

use agent_client::{Agent, AgentConfig, FetchError, Policy, Spending, Wallet};
use anyhow::{Context, Result, bail, ensure};
use aro_proto::{Address, Amount, ByteCount};
use aro_tests::world::World;
use clap::Args;
use node_server::{Node, NodeConfig, Registration, RunningNode};
use settlement_chain::Keypair;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::report::{Figure, Report};
use crate::scene::{TARIFF, pattern, random_key};

/// How to measure.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Fetches at once.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(2..=1_000))]
    tasks: u16,
    /// Handles on the wallet, each with a node of its own.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    handles: u8,
    /// Bytes of the content, each of which costs a base unit.
    #[arg(long, value_name = "BYTES", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..))]
    size: u32,
    /// Of a hundred fetches, for how many the budget suffices.
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    enough_for: u8,
}

pub(crate) fn measure(arguments: &Arguments) -> Result<Report> {
    tokio::runtime::Runtime::new().context("no async runtime")?.block_on(run(arguments))
}

async fn run(arguments: &Arguments) -> Result<Report> {
    let scene = Scene::new(arguments).await?;
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..usize::from(arguments.tasks) {
        let (agent, address) = &scene.parties[number % scene.parties.len()];
        let (agent, address, size) = (agent.clone(), address.clone(), u64::from(arguments.size));
        tasks.spawn(async move { agent.fetch(&address).to_bytes(size).await });
    }
    let (mut done, mut refused, mut reported) = (0, 0, Amount::ZERO);
    while let Some(ended) = tasks.join_next().await {
        match ended? {
            Ok((report, _)) => {
                done += 1;
                reported = reported.saturating_add(report.paid);
            }
            Err(FetchError::BudgetExceeded(_)) => refused += 1,
            Err(other) => return Err(other.into()),
        }
    }
    let elapsed = started.elapsed();
    scene.close().await;
    let (guard, _) = scene.parties.first().context("no agent")?;
    let standing = guard.budget().standing(Spending::Vouchers)?;
    let signed = scene.signed()?;

    // Conserved: what fetches report is what is spent is what vouchers say, and nothing is held by anybody.
    ensure!(reported == standing.spent, "reports say {reported}, the ledger {}", standing.spent);
    ensure!(signed == standing.spent, "vouchers are signed for {signed}, the ledger says {}", standing.spent);
    ensure!(standing.reserved.is_zero(), "{} are still set aside", standing.reserved);
    let left = scene.cap.saturating_sub(standing.spent);
    ensure!(refused == 0 || left < scene.price, "{left} left, but fetches of {} were refused", scene.price);
    if done + refused != u64::from(arguments.tasks) {
        bail!("{done} fetched and {refused} refused of {}", arguments.tasks);
    }
    let figures = vec![
        Figure::at_most("overspend", standing.spent.saturating_sub(scene.cap).get(), 0),
        Figure::new("cap", scene.cap.get()),
        Figure::new("spent", standing.spent.get()),
        Figure::new("fetched", done),
        Figure::new("refused", refused),
        Figure::new("elapsed_ms", u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)),
    ];
    let Arguments { tasks, handles, size, .. } = arguments;
    let title = format!("{tasks} fetches of {size} bytes at once, {handles} handles on one wallet, one budget");
    let notes = vec!["Amounts in base units; each handle is a budget guard of its own, as another process has.".into()];
    Ok(Report { title, figures, notes })
}

/// One wallet, several agents on it, each with a node.
struct Scene {
    _home: TempDir,
    _nodes: Vec<RunningNode>,
    parties: Vec<(Agent, Address)>,
    cap: Amount,
    price: Amount,
}

impl Scene {
    async fn new(arguments: &Arguments) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let world = World::new().await?;
        let size = u64::from(arguments.size);
        let price = TARIFF.price(ByteCount::new(size)).context("a content without a price")?;
        let affordable = u64::from(arguments.tasks) * u64::from(arguments.enough_for) / 100;
        // Not a whole number of fetches, so that the last one does not fit by little.
        let cap = Amount::new(price.get() * affordable + price.get() / 2);
        let dir = home.path().join("agent");
        let wallet = Wallet::create(&dir)?;
        let deposit = Amount::new(price.get() * (u64::from(arguments.tasks) + 1));
        let all = Amount::new(deposit.get() * u64::from(arguments.handles));
        world.fund(&wallet.owner(), all.get()).await?;
        Policy { total: Some(cap), deposits: Some(all), ..Policy::default() }.save(&dir)?;
        drop(wallet);
        let (mut nodes, mut parties) = (Vec::new(), Vec::new());
        let content = home.path().join("content");
        std::fs::write(&content, pattern(1, 0, arguments.size as usize))?;
        for number in 0..arguments.handles {
            let (owner, key) = (Keypair::new(), random_key()?);
            let registration = Registration {
                payer: &world.payer,
                owner: &owner,
                key: &key,
                operator: None,
                payout: None,
                min_grace_s: 900,
                max_operator_fee_bps: 0,
            };
            node_server::register(&*world.chain, &world.program, &registration).await?;
            let folder = home.path().join(format!("node-{number}"));
            let config = NodeConfig { tariff: TARIFF, program: world.program.id, ..NodeConfig::new(folder) };
            let node = Node::start(config, key, world.chain.clone()).await.context("a node does not start")?;
            let id = node.store().add_file(&content)?.id;
            let builder = Agent::builder().chain(world.chain.clone()).program(world.program.id);
            let agent = builder.wallet(Wallet::open(&dir)?).config(AgentConfig::default()).build().await?;
            if number == 0 {
                agent.wallet().deposit(all).await?;
            }
            let _ = agent.open_channel(node.node_id(), deposit, None).await?;
            node.follow_now().await?;
            parties.push((agent, node.address_of(id)?));
            nodes.push(node);
        }
        Ok(Self { _home: home, _nodes: nodes, parties, cap, price })
    }

    async fn close(&self) {
        for (agent, _) in &self.parties {
            agent.close().await;
        }
    }

    /// What all vouchers come to.
    fn signed(&self) -> Result<Amount> {
        let (agent, _) = self.parties.first().context("no agent")?;
        Ok(agent.signed_in_all()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_its_size_a_fetch_comes_whole_or_the_budget_refuses_it() {
        for (tasks, size) in [(50, 64 << 10), (20, 1_000_000), (6, 16 << 20)] {
            let report = measure(&Arguments { tasks, handles: 3, size, enough_for: 50 }).unwrap();
            let value = |name| report.figures.iter().find(|figure| figure.name == name).unwrap().value;
            assert_eq!((value("overspend"), value("fetched")), (0, u64::from(tasks) / 2), "{size} bytes each");
        }
    }
}
