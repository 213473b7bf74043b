//! The steps, in order. Each does the real thing and says what came of it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use agent_client::{Agent, FetchReport, Wallet};
use anyhow::{Context, Result, ensure};
use aro_proto::merkle::ByteRanges;
use aro_proto::{Address, Amount, ChannelId, Tariff};
use aro_tests::books::Books;
use aro_tests::world::{NodeHere, OperatorHere, World};
use settlement_chain::submit::submit;
use settlement_chain::{Signer, instructions, reads};
use settlement_operator::FeeSource;

use crate::Arguments;
use crate::result::DemoResult;
use crate::teller::Teller;

/// Tells the whole story; an error if anything is not as told.
pub(crate) async fn tell(arguments: &Arguments, teller: &Teller) -> Result<DemoResult> {
    let started = Instant::now();
    let home = tempfile::tempdir().context("cannot make a temporary folder")?;
    let file = match &arguments.file {
        Some(file) => file.clone(),
        None => sample_file(home.path(), arguments.mib)?,
    };

    teller.step("A Solana chain in this process, with the ARO program and a test $ARO mint");
    let world = World::new().await?;
    teller.fact("program", world.program.id);
    teller.fact("mint", world.setup.mint);

    teller.step("An operator and a node register; the node holds a file");
    let operator = world.operator(&home.path().join("operator"), OPERATOR_FEE_BPS).await?;
    let tariff = Tariff { per_mib: arguments.price.get() };
    let node = world.node(&home.path().join("node"), tariff, &operator).await?;
    let stored = node.running.store().add_file(&file).with_context(|| format!("cannot add {}", file.display()))?;
    let address = node.running.address_of(stored.id)?;
    teller.fact("operator", operator.account);
    teller.fact("node", node.running.node_id());
    teller.fact("address", &address);

    teller.step("An agent asks the price, deposits $ARO and opens a channel to the node");
    let agent = agent(&world, home.path()).await?;
    let quote = agent.quote(&address, ByteRanges::all()).await?;
    teller.fact("size", quote.size.get());
    teller.fact("price", format!("{} $ARO, signed by the node", quote.price));
    let opened = open(&world, &agent, &node, quote.price, teller).await?;

    teller.step("The agent fetches: each MiB is proven, then paid");
    let received = home.path().join("received");
    let report = fetch(&agent, &address, &received, teller).await?;
    ensure!(same_bytes(&file, &received)?, "the received file differs from the served one");
    teller.fact("received", "byte for byte the file that was served");
    agent.close().await;

    teller.step("The node hands its best voucher over; the operator closes the channel and refunds the rest");
    let settled = settle(&world, &operator, &node, opened.channel, report.paid).await?;
    Books::read(&*world.chain, &world.program).await?.assert_balanced();
    teller.fact("close", &settled.close_signature);
    teller.fact("settled", format!("{} $ARO", report.paid));

    teller.step("Everyone withdraws");
    let earned = withdraw(&world, &agent, &node, &operator).await?;
    node.running.shutdown().await?;
    operator.running.shutdown().await;

    let result = DemoResult {
        content: stored.id,
        size: stored.size,
        verified_bytes: report.verified_bytes,
        vouchers: report.vouchers,
        deposit: opened.deposit,
        paid: report.paid,
        node_earned: earned.node,
        operator_fee: earned.operator,
        protocol_fee: earned.protocol,
        refunded: settled.refunded,
        open_signature: opened.signature,
        close_signature: settled.close_signature,
        fetch_ms: report.elapsed.as_millis(),
        elapsed_ms: started.elapsed().as_millis(),
    };
    result.check()?;
    Ok(result)
}

struct Opened {
    channel: ChannelId,
    deposit: Amount,
    signature: String,
}

struct Settled {
    close_signature: String,
    refunded: Amount,
}

struct Earned {
    node: Amount,
    operator: Amount,
    protocol: Amount,
}

fn sample_file(home: &Path, mib: u64) -> Result<PathBuf> {
    let path = home.join("sample");
    crate::sample::write(&path, mib)?;
    Ok(path)
}

async fn agent(world: &World, home: &Path) -> Result<Agent> {
    let wallet = Wallet::create(&home.join("agent"))?;
    let agent = Agent::builder().chain(world.chain.clone()).program(world.program.id).wallet(wallet).build().await?;
    Ok(agent)
}

/// Funds the agent, and opens a channel that holds twice the price, so that there is something to refund.
async fn open(world: &World, agent: &Agent, node: &NodeHere, price: Amount, teller: &Teller) -> Result<Opened> {
    let owner = agent.wallet().status().await?.owner;
    let deposit = price.saturating_add(price).saturating_add(Amount::new(1_000_000));
    world.fund(&owner, deposit.get()).await?;
    agent.wallet().deposit(deposit).await?;
    let opened = agent.open_channel(node.running.node_id(), deposit, None).await?;
    node.running.follow_now().await?;
    teller.fact("deposit", format!("{deposit} $ARO"));
    teller.fact("channel", opened.channel);
    teller.fact("open", opened.signature);
    Ok(Opened { channel: opened.channel, deposit, signature: opened.signature.to_string() })
}

async fn fetch(agent: &Agent, address: &Address, into: &Path, teller: &Teller) -> Result<FetchReport> {
    let bar = teller.bar(0);
    let shown = bar.clone();
    let report = agent
        .fetch(address)
        .progress(move |progress| {
            shown.set_length(progress.total_bytes);
            shown.set_position(progress.proven_bytes);
            shown.set_message(progress.spent.to_string());
        })
        .to_file(into)
        .await?;
    bar.finish();
    teller.fact("proven", format!("{} bytes, {} received with proofs", report.verified_bytes, report.wire_bytes));
    teller.fact("paid", format!("{} $ARO with {} vouchers", report.paid, report.vouchers));
    Ok(report)
}

/// Closes and reclaims the channel: with its best voucher by the operator, or, if the content was free of charge and
/// no voucher exists, by the node's owner.
async fn settle(
    world: &World,
    operator: &OperatorHere,
    node: &NodeHere,
    channel: ChannelId,
    paid: Amount,
) -> Result<Settled> {
    let by_owner = if paid.is_zero() {
        let entry = (channel.to_bytes().into(), instructions::NO_VOUCHER, 0);
        let close =
            instructions::close_batch(&world.program, &node.owner.pubkey(), &node.account, &operator.account, &[entry]);
        Some(submit(&*world.chain, &world.payer, &[&node.owner], &[close]).await?)
    } else {
        let handed = node.running.hand_off_to_close().await?;
        let taken = handed.handed.iter().any(|voucher| voucher.channel == channel && voucher.close);
        ensure!(taken, "the operator did not take the voucher: {:?}", handed.refused);
        None
    };
    let report = operator.running.settle_once().await?;
    ensure!(report.trouble.is_empty() && report.skipped.is_empty(), "settling had trouble: {report:?}");
    let by_operator = report.closed.first().inspect(|closed| debug_assert_eq!(closed.cumulative, paid));
    let close = by_owner.or(by_operator.map(|closed| closed.signature)).context("the operator closed nothing")?;
    let reclaimed = report.reclaimed.first().context("the operator reclaimed nothing")?;
    Ok(Settled { close_signature: close.to_string(), refunded: reclaimed.refunded })
}

/// Pays everyone out, and reads from their token accounts what they really got.
async fn withdraw(world: &World, agent: &Agent, node: &NodeHere, operator: &OperatorHere) -> Result<Earned> {
    let (chain, program) = (&*world.chain, &world.program);
    node_server::withdraw(chain, program, &world.payer, &node.owner, node.running.node_id(), None).await?;
    for source in [FeeSource::Operator(operator.account), FeeSource::Protocol(node.account)] {
        settlement_operator::withdraw_fees(chain, program, &world.payer, source).await?;
    }
    let available = agent.wallet().status().await?.available;
    agent.wallet().withdraw(available).await?;
    let books = Books::read(chain, program).await?;
    ensure!(books == Books::default(), "something is left in the vault: {books:?}");
    Ok(Earned {
        node: Amount::new(reads::token_balance(chain, &node.payout).await?),
        operator: Amount::new(reads::token_balance(chain, &operator.payout).await?),
        protocol: Amount::new(reads::token_balance(chain, &world.setup.treasury).await?),
    })
}

fn same_bytes(one: &Path, other: &Path) -> Result<bool> {
    use std::io::Read;
    let (mut one, mut other) = (std::fs::File::open(one)?, std::fs::File::open(other)?);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let read = one.read(&mut left)?;
        if read == 0 {
            return Ok(true);
        }
        other.read_exact(&mut right[..read])?;
        if left[..read] != right[..read] {
            return Ok(false);
        }
    }
}

/// What the demo's operator takes of what it settles: 1 %.
const OPERATOR_FEE_BPS: u16 = 100;
