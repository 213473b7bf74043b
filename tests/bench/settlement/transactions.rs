//! Closes and refunds as the operator packs them, and opens as full as a transaction gets: executed, then weighed.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aro_tests::line::{Line, Reply};
use aro_tests::stage::{FUNDS, Stage};
use settlement_chain::instructions::{self, OpenChannel};
use settlement_chain::submit::{Terms, TransactionFormat, prepare_with, wire_size};
use settlement_chain::{Address, Signer, reads, submit};
use settlement_interface::instructions::{MAX_BATCH, tag};

use super::meter::{Meter, Weight};

/// The fullest transaction of each kind.
pub(super) struct Weights {
    pub(super) open: Weight,
    pub(super) close: Weight,
    pub(super) reclaim: Weight,
}

/// Opens channels, hands their vouchers to an operator that is asked to close them, lets it settle, and checks that
/// every unit arrived.
pub(super) async fn measure() -> Result<Weights> {
    let mut stage = Stage::new().await?;
    let keys = stage.operator().await?;
    let node = stage.node(keys.account).await?;
    let meter = Meter::new(stage.chain().clone());
    let mut channels = Vec::new();
    while channels.len() < CHANNELS {
        channels.extend(open_many(&stage, &meter, node.account).await?);
    }

    let dir = tempfile::tempdir()?;
    let operator = stage.start(&keys, &stage.config(dir.path()), Arc::new(meter.clone())).await?;
    let line = Line::to(&operator, &node.id, stage.chain_ids()).await?;
    let ids = channels.iter().map(|address| aro_proto::ChannelId::from_bytes(address.to_bytes()));
    let vouchers: Vec<_> = ids.map(|channel| stage.closing(channel, PAID)).collect();
    for part in vouchers.chunks(aro_proto::limits::MAX_HANDOFF) {
        match line.hand(part).await? {
            Reply::Ack(ack) => ensure!(ack.verdicts.iter().all(|verdict| verdict.refusal.is_none()), "{ack:?}"),
            Reply::Refused(refusal) => anyhow::bail!("the operator took nothing: {refusal}"),
        }
    }
    let report = operator.settle_once().await?;
    ensure!(report.closed.len() == channels.len() && report.reclaimed.len() == channels.len(), "{report:?}");
    operator.shutdown().await;

    let books = stage.books().await?;
    let paid = PAID * u64::try_from(channels.len())?;
    ensure!(books.vault == books.owed() && books.unsettled == 0 && books.available == FUNDS - paid, "{books:?}");
    ensure!(books.earned + books.operator_fees + books.protocol_fees == paid, "{books:?}");
    let fullest = |tag| meter.fullest(tag).context("no such transaction landed");
    Ok(Weights {
        open: fullest(tag::OPEN_BATCH)?,
        close: fullest(tag::CLOSE_BATCH)?,
        reclaim: fullest(tag::RECLAIM_BATCH)?,
    })
}

/// Opens as many channels as one transaction holds. Returns their addresses.
async fn open_many(stage: &Stage, meter: &Meter, node: Address) -> Result<Vec<Address>> {
    let program = stage.program();
    let owner = stage.agent().pubkey();
    let nonce = reads::agent(stage.chain(), program, &owner).await?.context("the agent has no account")?.next_nonce;
    let signer = Address::new_from_array(stage.signer().public());
    let opens = |count: usize| -> Vec<OpenChannel> {
        let nonces = (nonce..).take(count);
        nonces.map(|nonce| OpenChannel { node, nonce, deposit: 2 * PAID, grace_s: 900, signer }).collect()
    };
    let step = |count: usize| instructions::open_batch(program, &owner, &owner, &opens(count));
    let fits = |count: usize| wire_size(FORMAT, &owner, &[step(count)]).is_ok_and(|bytes| bytes <= FORMAT.max_bytes());
    let count = (1..=MAX_BATCH).take_while(|count| fits(*count)).last().context("not one opening fits")?;
    let steps = [step(count)];
    let prepared = prepare_with(meter, stage.agent(), &[], &steps, &Terms::estimate(FORMAT, &steps)).await?;
    submit::confirm(meter, &prepared).await?;
    let agent = stage.agent_account();
    Ok((nonce..).take(count).map(|nonce| program.channel(&agent, &node, nonce).0).collect())
}

/// How an agent opens many channels at once.
const FORMAT: TransactionFormat = TransactionFormat::V1;
/// Enough for more than one full transaction of each kind.
const CHANNELS: usize = 140;
/// Base units paid on each channel.
const PAID: u64 = 12_345;
