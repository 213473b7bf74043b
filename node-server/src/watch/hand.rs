//! Settling everything now, by hand: for a node whose operators are gone.

use std::sync::Arc;
use std::time::Duration;

use aro_proto::channel::SignedVoucher;
use aro_proto::{Amount, ChannelId};
use settlement_chain::interface::voucher::is_expired;
use settlement_chain::reads::{self, ReadError};
use settlement_chain::submit::SubmitError;
use settlement_chain::{Address, ChainClient, ChainError, Program, Signature};
use thiserror::Error;
use tokio::task::JoinSet;

use super::settler::{End, Hurry, Settler};
use crate::config::{FeeKey, NodeConfig};
use crate::ledger::{LedgerError, RedbLedger};

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

/// Settles what a node that does not serve has in its ledger.
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
    let vouchers = RedbLedger::open(&config.dir)?.vouchers()?;
    let program = Program::new(config.program);
    let (node, _) = program.node(&Address::from(id.to_bytes()));
    let resend = Duration::from_millis(config.resend_interval_ms);
    let max_priority_lamports = config.max_priority_lamports;
    let settler = Settler { chain, program, node, payer, resend, max_priority_lamports };
    settle_all(&settler, vouchers.into_iter().map(|entry| entry.signed).collect()).await
}

/// Settles every voucher that the chain can still take something from.
///
/// # Errors
/// The chain does not answer, or the key cannot pay; what has landed before stays so, and is not told.
pub(crate) async fn settle_all(settler: &Settler, vouchers: Vec<SignedVoucher>) -> Result<SettleReport, SettleError> {
    let mut report = SettleReport::default();
    let vouchers = settleable(settler, vouchers, &mut report).await?;
    let node = reads::node_at(&*settler.chain, &settler.program, &settler.node).await?;
    let operator = node.map(|node| Address::from(node.operator)).unwrap_or_default();
    let mut waiting = settler.divide(&operator, &vouchers);
    for failed_before in 0..ROUNDS {
        let mut again = Vec::new();
        let hurry = Hurry { window: WINDOW, patience: PATIENCE, failed_before };
        for wave in waiting.chunks(AT_ONCE) {
            let mut batches = JoinSet::new();
            for vouchers in wave.iter().cloned() {
                let settler = settler.clone();
                batches.spawn(async move {
                    let end = settler.settle(&vouchers, hurry).await;
                    (vouchers, end)
                });
            }
            for (vouchers, end) in batches.join_all().await {
                again.extend(conclude(settler, vouchers, end, &mut report).await?);
            }
        }
        waiting = again;
        if waiting.is_empty() {
            return Ok(report);
        }
    }
    let unsent = waiting.iter().flatten();
    report.skipped.extend(unsent.map(|signed| (signed.voucher.channel, "it did not land in time; try again".into())));
    Ok(report)
}

/// Takes out what the chain would skip, and says why.
async fn settleable(
    settler: &Settler,
    vouchers: Vec<SignedVoucher>,
    report: &mut SettleReport,
) -> Result<Vec<SignedVoucher>, SettleError> {
    let ids: Vec<_> = vouchers.iter().map(|signed| signed.voucher.channel).collect();
    let accounts = settler.read(&ids).await?;
    let now = settler.chain.clock().await?;
    let mut left = Vec::with_capacity(vouchers.len());
    for signed in vouchers {
        let voucher = signed.voucher;
        let reason = match accounts.get(&voucher.channel) {
            None => Some("the channel is no more on chain"),
            Some(account) if voucher.cumulative.get() <= account.settled => None,
            Some(account) if !account.is_settleable(now) => Some("the channel is closed"),
            Some(_) if is_expired(voucher.expires_at, now) => Some("the voucher has expired"),
            Some(_) => {
                left.push(signed);
                None
            }
        };
        report.skipped.extend(reason.map(|reason| (voucher.channel, reason.to_owned())));
    }
    Ok(left)
}

/// Notes how a batch ended. Returns what is to be tried again.
async fn conclude(
    settler: &Settler,
    vouchers: Vec<SignedVoucher>,
    end: End,
    report: &mut SettleReport,
) -> Result<Vec<Vec<SignedVoucher>>, SettleError> {
    match end {
        End::Landed(signature) => {
            let ids: Vec<_> = vouchers.iter().map(|signed| signed.voucher.channel).collect();
            let accounts = settler.read(&ids).await?;
            for signed in vouchers {
                let channel = signed.voucher.channel;
                let watermark = accounts.get(&channel).map(|account| Amount::new(account.settled));
                match watermark.filter(|watermark| *watermark >= signed.voucher.cumulative) {
                    Some(cumulative) => report.settled.push(SettledVoucher { channel, cumulative, signature }),
                    None => report.skipped.push((channel, "the chain skipped it".into())),
                }
            }
        }
        End::Refused(_) if vouchers.len() > 1 => return Ok(vouchers.into_iter().map(|signed| vec![signed]).collect()),
        End::Refused(error) => {
            report.skipped.extend(vouchers.iter().map(|signed| (signed.voucher.channel, error.to_string())));
        }
        End::Expired | End::Uncertain(_) => return Ok(vec![vouchers]),
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
