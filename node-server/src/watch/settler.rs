//! One batch of vouchers onto the chain, paid by the fee key.
//!
//! Nothing is recorded before the first send. A crash forgets which transaction is under way, and that costs at most
//! a second fee: the chain's watermark only rises, so whatever is sent again either credits what was missing or is
//! skipped. The vouchers themselves are in the ledger.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aro_proto::ChannelId;
use aro_proto::channel::SignedVoucher;
use settlement_chain::instructions::{self, BatchVoucher};
use settlement_chain::interface::accounts::Channel;
use settlement_chain::interface::instructions::VoucherEntry;
use settlement_chain::reads::{self, ReadError};
use settlement_chain::submit::{self, Outcome, Prepared, Remedy, SubmitError, Terms, TransactionFormat};
use settlement_chain::{Address, ChainClient, ChainError, Commitment, Instruction, Program, Signature};
use tokio::time::{Instant, sleep, timeout};

use crate::config::FeeKey;

/// Sends settlements for one node.
#[derive(Clone)]
pub(crate) struct Settler {
    pub(crate) chain: Arc<dyn ChainClient>,
    pub(crate) program: Program,
    /// The node's account.
    pub(crate) node: Address,
    pub(crate) payer: FeeKey,
    /// The longest wait between two sends of the same bytes.
    pub(crate) resend: Duration,
    /// The most that one transaction pays on top of its base fee.
    pub(crate) max_priority_lamports: u64,
}

/// How much a batch hurries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hurry {
    /// The time in which it should land: sends are at most a 64th of it apart.
    pub(crate) window: Duration,
    /// How long it is followed.
    pub(crate) patience: Duration,
    /// How many before it have not landed: each doubles what is offered.
    pub(crate) failed_before: u32,
}

/// How a batch ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It is confirmed. What it credited, the channels' accounts say.
    Landed(Signature),
    /// The chain refuses it as it is. Nobody knows which entry is to blame, if there are several.
    Refused(SubmitError),
    /// It has no effect and never will: read the chain and begin anew.
    Expired,
    /// There was no transaction to send: the chain did not answer, or the key cannot pay.
    NotSent(SubmitError),
    /// The patience is over, and nobody can say yet.
    Uncertain(Signature),
}

impl Settler {
    /// Divides vouchers into batches that fit a transaction, in their order. `operator` is what the node's account
    /// says.
    pub(crate) fn divide(&self, operator: &Address, vouchers: &[SignedVoucher]) -> Vec<Vec<SignedVoucher>> {
        let mut batches: Vec<Vec<SignedVoucher>> = Vec::new();
        for voucher in vouchers {
            if let Some(batch) = batches.last_mut() {
                batch.push(*voucher);
                let size = submit::wire_size(FORMAT, &self.payer.address(), &[self.instruction(operator, batch)]);
                if size.is_ok_and(|bytes| bytes <= FORMAT.max_bytes()) {
                    continue;
                }
                batch.pop();
            }
            batches.push(vec![*voucher]);
        }
        batches
    }

    /// Reads the node's operator, signs, sends the same bytes again and again, and waits for the end. Sends often
    /// enough that many dropped ones do not make it late.
    // r[impl settlement.submit.same_bytes]
    pub(crate) async fn settle(&self, vouchers: &[SignedVoucher], hurry: Hurry) -> End {
        let pace = (hurry.window / 64).clamp(SHORTEST_RESEND, self.resend.max(SHORTEST_RESEND)).min(self.resend);
        let operator = match reads::node_at(&*self.chain, &self.program, &self.node).await {
            Ok(Some(node)) => Address::from(node.operator),
            Ok(None) => return End::NotSent(not_there(self.node)),
            Err(ReadError::Chain(error)) => return End::NotSent(SubmitError::NotSent(error)),
            Err(other) => return End::NotSent(SubmitError::NotSent(ChainError::Malformed(other.to_string()))),
        };
        let instructions = [self.instruction(&operator, vouchers)];
        let terms = self.terms(&instructions, hurry.failed_before).await;
        match submit::prepare_with(&*self.chain, self.payer.signer(), &[], &instructions, &terms).await {
            Ok(prepared) => self.land(&prepared, pace, hurry.patience).await,
            Err(error) => End::NotSent(error),
        }
    }

    /// What others have paid lately to write to these accounts, doubled for each failure, up to the most.
    async fn terms(&self, instructions: &[Instruction], failed_before: u32) -> Terms {
        let terms = Terms::estimate(FORMAT, instructions);
        let accounts = instructions.iter().flat_map(|instruction| &instruction.accounts);
        let writable: Vec<_> = accounts.filter(|meta| meta.is_writable).map(|meta| meta.pubkey).collect();
        // Without an answer the base fee must do.
        let answer = timeout(FEES_PATIENCE, self.chain.recent_fees(&writable)).await;
        let mut recent = answer.ok().and_then(Result::ok).unwrap_or_default();
        recent.sort_unstable();
        let usual = recent.get(recent.len() * 3 / 4).copied().unwrap_or_default();
        let offered = match failed_before {
            0 => usual,
            _ => usual.max(LEAST_PRICE).saturating_mul(1 << failed_before.min(MAX_DOUBLINGS)),
        };
        terms.at_price(offered.min(submit::price_within(self.max_priority_lamports, terms.compute_units)))
    }

    /// The channels as they are now.
    pub(crate) async fn read(&self, ids: &[ChannelId]) -> Result<HashMap<ChannelId, Channel>, ReadError> {
        let addresses: Vec<_> = ids.iter().map(|id| Address::from(id.to_bytes())).collect();
        let accounts = reads::channels(&*self.chain, &self.program, &addresses).await?;
        Ok(ids.iter().copied().zip(accounts).filter_map(|(id, account)| Some((id, account?))).collect())
    }

    async fn land(&self, prepared: &Prepared, pace: Duration, patience: Duration) -> End {
        let begun = Instant::now();
        loop {
            // A server that takes a send and never answers must not stop the next one.
            let sent = timeout(SEND_PATIENCE, self.chain.send(&prepared.transaction)).await;
            let asked = submit::outcome(&*self.chain, &prepared.signature, prepared.last_valid_block_height);
            let outcome = timeout(STATUS_PATIENCE, asked).await.unwrap_or_else(|_| Err(silent()));
            match outcome {
                Ok(Outcome::Landed { commitment, .. }) if commitment >= Commitment::Confirmed => {
                    return End::Landed(prepared.signature);
                }
                Ok(Outcome::Failed { error, commitment }) if commitment >= Commitment::Confirmed => {
                    let refusal = submit::Refusal::new(&prepared.transaction.message, error);
                    return End::Refused(SubmitError::Failed { signature: prepared.signature, refusal });
                }
                Ok(Outcome::Dead) => return End::Expired,
                Ok(Outcome::Live) => {
                    // A refusal of what was sent before may be the effect of its own landing: then it is not `Live`.
                    if let Ok(Err(ChainError::Refused(error))) = &sent
                        && !ChainError::Refused(error.clone()).is_retryable()
                    {
                        let refusal = submit::Refusal::new(&prepared.transaction.message, error.clone());
                        let refused = SubmitError::Refused(refusal);
                        let cannot_pay = refused.remedy() == Remedy::FundFees;
                        return if cannot_pay { End::NotSent(refused) } else { End::Refused(refused) };
                    }
                }
                Ok(_) | Err(_) => {}
            }
            if begun.elapsed() >= patience {
                return End::Uncertain(prepared.signature);
            }
            sleep(pace).await;
        }
    }

    fn instruction(&self, operator: &Address, vouchers: &[SignedVoucher]) -> Instruction {
        let entries: Vec<BatchVoucher> = vouchers
            .iter()
            .map(|signed| {
                let voucher = signed.voucher;
                let entry = VoucherEntry { signature: signed.signature, cumulative: voucher.cumulative.get() };
                (Address::from(voucher.channel.to_bytes()), entry, voucher.expires_at)
            })
            .collect();
        instructions::settle_batch(&self.program, &self.node, operator, &entries)
    }
}

fn not_there(node: Address) -> SubmitError {
    SubmitError::NotSent(ChainError::Malformed(format!("the chain does not show the node's account {node}")))
}

fn silent() -> ChainError {
    ChainError::Unreachable("the server does not answer".into())
}

/// Every cluster takes it; a node has few channels that close at once.
const FORMAT: TransactionFormat = TransactionFormat::Legacy;
/// Micro-lamports per compute unit that are offered, before doubling, where others paid nothing.
const LEAST_PRICE: u64 = 1_000;
/// A thousandfold, if the cap allows it.
const MAX_DOUBLINGS: u32 = 10;
/// How long a server may take to say what others paid.
const FEES_PATIENCE: Duration = Duration::from_secs(2);
/// How long a server may take to take a transaction before it is sent again.
const SEND_PATIENCE: Duration = Duration::from_secs(2);
/// How long a server may take to say what became of one.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);
/// The shortest wait between two sends of the same bytes: less than a slot would tell a leader nothing new.
const SHORTEST_RESEND: Duration = Duration::from_millis(250);
