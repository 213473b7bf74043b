//! Settling everything now, by hand: for a node whose operators are gone.

use std::sync::Arc;
use std::time::Duration;

use aro_proto::channel::SignedVoucher;
use aro_proto::{Amount, ChannelId};
use settlement_chain::interface::voucher::is_expired;
use settlement_chain::reads::ReadError;
use settlement_chain::submit::SubmitError;
use settlement_chain::views::{View, Views};
use settlement_chain::{Address, ChainClient, ChainError, Program, Signature};
use thiserror::Error;
use tokio::task::JoinSet;

use super::fees::Fees;
use super::settler::{Batch, End, Hurry, Settler};
use crate::config::{FeeKey, NodeConfig};
use crate::ledger::{LedgerError, RedbLedger};
use crate::shared::unix_now;

/// What was settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettleReport {
    /// Vouchers that the chain has credited.
    pub settled: Vec<SettledVoucher>,
    /// Vouchers that it has not, and why.
    pub skipped: Vec<(ChannelId, String)>,
}

/// A voucher that the chain has credited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettledVoucher {
    /// Its channel.
    pub channel: ChannelId,
    /// The chain's watermark now, in base units.
    pub cumulative: Amount,
    /// The transaction.
    pub signature: Signature,
}

/// Why nothing could be settled.
#[derive(Debug, Error)]
pub enum SettleError {
    /// Nobody can pay the fees.
    #[error("this node has no fee key")]
    NoFeeKey,
    /// Accounts could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The chain did not answer.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The vouchers could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The key cannot pay, or no transaction can be made.
    #[error(transparent)]
    Submit(SubmitError),
}

impl SettleError {
    /// True if the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Read(error) => error.is_retryable(),
            Self::Chain(error) => error.is_retryable(),
            Self::Submit(error) => error.is_retryable(),
            Self::NoFeeKey | Self::Ledger(_) => false,
        }
    }
}

/// Settles what a node that does not serve has in its ledger, which stays locked meanwhile: what is spent counts for the node
/// that is started next.
///
/// # Errors
/// The ledger is in use or unreadable, the chain does not answer, or the key cannot pay.
pub async fn of_ledger(
    config: &NodeConfig,
    id: aro_proto::NodeId,
    chain: Arc<dyn ChainClient>,
    payer: FeeKey,
) -> Result<SettleReport, SettleError> {
    if !RedbLedger::exists(&config.dir) {
        return Ok(SettleReport::default());
    }
    let ledger = Arc::new(RedbLedger::open(&config.dir)?);
    let vouchers = ledger.vouchers()?;
    let program = Program::new(config.program);
    let (node, _) = program.node(&Address::from(id.to_bytes()));
    let resend = Duration::from_millis(config.resend_interval_ms);
    let fees = Fees::recall(config.max_priority_lamports, ledger, unix_now())?;
    let settler = Settler { chain, program, node, payer, resend, fees };
    settle_all(&settler, vouchers.into_iter().map(|entry| entry.signed).collect()).await
}

/// Settles every voucher that the chain can still take something from, by what any of its servers shows.
///
/// # Errors
/// The chain does not answer, or the key cannot pay; what has landed before stays so, and is not told.
pub(crate) async fn settle_all(settler: &Settler, vouchers: Vec<SignedVoucher>) -> Result<SettleReport, SettleError> {
    let mut report = SettleReport::default();
    let views = settler.views(vouchers.iter().map(|signed| signed.voucher.channel)).await?;
    let vouchers = settleable(&views, vouchers, &mut report);
    let format = settler.format().await;
    let mut left = vouchers;
    for operator in operators(&views, &settler.node) {
        let skipped = std::mem::take(&mut report.skipped);
        send(settler, settler.divide(format, operator, &left), &mut report).await?;
        let is_settled = |signed: &SignedVoucher| {
            let voucher = signed.voucher;
            report.settled.iter().any(|it| it.channel == voucher.channel && it.cumulative >= voucher.cumulative)
        };
        left.retain(|signed| !is_settled(signed));
        // Of those that another operator's name may still settle, the last reason is told.
        let is_left = |channel: &ChannelId| left.iter().any(|signed| signed.voucher.channel == *channel);
        report.skipped.splice(0..0, skipped.into_iter().filter(|(channel, _)| !is_left(channel)));
        if left.is_empty() {
            break;
        }
    }
    Ok(report)
}

/// Whom the node's account names, as the servers show it, the newest first; nobody where none shows it.
fn operators(views: &Views, node: &Address) -> Vec<Address> {
    let mut operators: Vec<Address> = Vec::new();
    for account in views.each.iter().filter_map(|view| view.nodes.get(node)) {
        let operator = Address::from(account.operator);
        if !operators.contains(&operator) {
            operators.push(operator);
        }
    }
    if operators.is_empty() { vec![Address::default()] } else { operators }
}

/// Carries batches out, several at a time.
async fn send(settler: &Settler, batches: Vec<Batch>, report: &mut SettleReport) -> Result<(), SettleError> {
    let mut waiting = batches;
    for failed_before in 0..ROUNDS {
        let mut again = Vec::new();
        let hurry = Hurry { window: WINDOW, patience: PATIENCE, failed_before, is_urgent: true };
        for wave in waiting.chunks(AT_ONCE) {
            let mut under_way = JoinSet::new();
            for batch in wave.iter().cloned() {
                let settler = settler.clone();
                under_way.spawn(async move {
                    let end = settler.settle(&batch, hurry).await;
                    (batch, end)
                });
            }
            for (batch, end) in under_way.join_all().await {
                again.extend(conclude(settler, batch, end, report).await?);
            }
        }
        waiting = again;
        if waiting.is_empty() {
            return Ok(());
        }
    }
    let unsent = waiting.iter().flat_map(Batch::channels);
    report.skipped.extend(unsent.map(|channel| (channel, "it did not land in time; try again".into())));
    Ok(())
}

/// Takes out what the chain would skip by every view, and says why.
fn settleable(views: &Views, vouchers: Vec<SignedVoucher>, report: &mut SettleReport) -> Vec<SignedVoucher> {
    let mut left = Vec::with_capacity(vouchers.len());
    for signed in vouchers {
        let reasons: Vec<Skip> = views.each.iter().map(|view| skip(view, &signed)).collect();
        // What the newest says, unless another would take it.
        match reasons.iter().find(|skip| **skip == Skip::Not).or(reasons.first()) {
            Some(Skip::Not) | None => left.push(signed),
            Some(Skip::Settled) => {}
            Some(Skip::Because(reason)) => report.skipped.push((signed.voucher.channel, (*reason).to_owned())),
        }
    }
    left
}

/// Whether the chain would skip a voucher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skip {
    /// It would take it.
    Not,
    /// It has it.
    Settled,
    /// It would not.
    Because(&'static str),
}

fn skip(view: &View, signed: &SignedVoucher) -> Skip {
    let voucher = signed.voucher;
    match view.channels.get(&Address::from(voucher.channel.to_bytes())) {
        None => Skip::Because("the channel is no more on chain"),
        Some(account) if voucher.cumulative.get() <= account.settled => Skip::Settled,
        Some(account) if !account.is_settleable(view.clock) => Skip::Because("the channel is closed"),
        Some(_) if is_expired(voucher.expires_at, view.clock) => Skip::Because("the voucher has expired"),
        Some(_) => Skip::Not,
    }
}

/// Notes how a batch ended. Returns what is to be tried again.
async fn conclude(
    settler: &Settler,
    batch: Batch,
    end: End,
    report: &mut SettleReport,
) -> Result<Vec<Batch>, SettleError> {
    match end {
        End::Landed(signature) => {
            let ids: Vec<_> = batch.channels().collect();
            let accounts = settler.read(&ids).await?;
            for signed in batch.vouchers {
                let channel = signed.voucher.channel;
                let watermark = accounts.get(&channel).map(|account| Amount::new(account.settled));
                match watermark.filter(|watermark| *watermark >= signed.voucher.cumulative) {
                    Some(cumulative) => report.settled.push(SettledVoucher { channel, cumulative, signature }),
                    None => report.skipped.push((channel, "the chain skipped it".into())),
                }
            }
        }
        End::Refused(_) if batch.vouchers.len() > 1 => return Ok(batch.singles()),
        End::Refused(error) => {
            report.skipped.extend(batch.channels().map(|channel| (channel, error.to_string())));
        }
        End::Expired | End::Uncertain(_) => return Ok(vec![batch]),
        End::NotSent(error) => return Err(SettleError::Submit(error)),
    }
    Ok(Vec::new())
}

/// Times that what did not land is made anew.
const ROUNDS: u32 = 3;
/// Transactions on their way at once.
const AT_ONCE: usize = 8;
/// The hurry of each: sends as fast as configured.
const WINDOW: Duration = Duration::from_secs(60);
/// How long each is followed.
const PATIENCE: Duration = Duration::from_secs(120);
