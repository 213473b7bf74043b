//! One batch of vouchers onto the chain, paid by the fee key.
//!
//! Of a transaction only what it offers on top of its base fee is recorded before the first send. A crash forgets which is
//! under way, and that costs at most a second fee: the chain's watermark only rises, so whatever is sent again either
//! credits what was missing or is skipped. The vouchers themselves are in the ledger.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aro_proto::ChannelId;
use aro_proto::channel::SignedVoucher;
use settlement_chain::instructions::{self, BatchVoucher};
use settlement_chain::interface::accounts::Channel;
use settlement_chain::interface::instructions::VoucherEntry;
use settlement_chain::reads::{self, ReadError};
use settlement_chain::submit::{
    self, FormatChoice, Offer, Outcome, Prepared, Remedy, SubmitError, Terms, TransactionFormat,
};
use settlement_chain::views::{self, Views};
use settlement_chain::{Address, ChainClient, ChainError, Commitment, Instruction, Program, Signature};
use tokio::time::{Instant, sleep, timeout};

use super::fees::Fees;
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
    /// What may be spent on top of base fees.
    pub(crate) fees: Fees,
}

/// Vouchers that fit one transaction.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    /// How it is written.
    pub(crate) format: TransactionFormat,
    /// Whose fee it is: the operator that the node's account names, as somebody shows it.
    pub(crate) operator: Address,
    pub(crate) vouchers: Vec<SignedVoucher>,
}

/// How much a batch hurries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hurry {
    /// The time in which it should land: sends are at most a 64th of it apart.
    pub(crate) window: Duration,
    /// How long it is followed.
    pub(crate) patience: Duration,
    /// How many before it have not landed: each raises what is offered.
    pub(crate) failed_before: u32,
    /// True if one of its channels is closing.
    pub(crate) is_urgent: bool,
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

impl Batch {
    /// The channels that it names.
    pub(crate) fn channels(&self) -> impl Iterator<Item = ChannelId> {
        self.vouchers.iter().map(|signed| signed.voucher.channel)
    }

    /// The same vouchers, each alone.
    pub(crate) fn singles(self) -> Vec<Self> {
        let Self { format, operator, vouchers } = self;
        vouchers.into_iter().map(|signed| Self { format, operator, vouchers: vec![signed] }).collect()
    }
}

impl Settler {
    /// The format that the chain takes.
    // r[impl settlement.transaction.format]
    pub(crate) async fn format(&self) -> TransactionFormat {
        let payer = self.payer.address();
        timeout(FEES_PATIENCE, FormatChoice::Auto.decide(&*self.chain, &payer)).await.unwrap_or_default()
    }

    /// Divides vouchers into batches that fit a transaction, in their order.
    pub(crate) fn divide(
        &self,
        format: TransactionFormat,
        operator: Address,
        vouchers: &[SignedVoucher],
    ) -> Vec<Batch> {
        let mut batches: Vec<Batch> = Vec::new();
        for voucher in vouchers {
            if let Some(batch) = batches.last_mut() {
                batch.vouchers.push(*voucher);
                let size = submit::wire_size(format, &self.payer.address(), &[self.instruction(batch)]);
                if size.is_ok_and(|bytes| bytes <= format.max_bytes()) {
                    continue;
                }
                batch.vouchers.pop();
            }
            batches.push(Batch { format, operator, vouchers: vec![*voucher] });
        }
        batches
    }

    /// Signs, sends the same bytes again and again, and waits for the end. Sends often enough that many dropped ones do
    /// not make it late.
    // r[impl settlement.submit.same_bytes]
    pub(crate) async fn settle(&self, batch: &Batch, hurry: Hurry) -> End {
        let pace = (hurry.window / 64).clamp(SHORTEST_RESEND, self.resend.max(SHORTEST_RESEND)).min(self.resend);
        let instruction = self.instruction(batch);
        let offer = match self.offer(&instruction, batch.format, hurry).await {
            Ok(offer) => offer,
            Err(refused) if refused.remedy() == Remedy::FundFees => return End::NotSent(refused),
            Err(refused) => return End::Refused(refused),
        };
        let (prepared, offer) = match self.prepare(&instruction, offer).await {
            Ok(prepared) => prepared,
            Err(error) => return End::NotSent(error),
        };
        let end = self.land(&prepared, pace, hurry.patience).await;
        let is_spent = match &end {
            End::Landed(_) | End::Uncertain(_) | End::Refused(SubmitError::Failed { .. }) => true,
            End::Refused(_) | End::Expired | End::NotSent(_) => false,
        };
        if !is_spent {
            self.fees.never_landed(&offer, prepared.signature).await;
        }
        end
    }

    /// Signs, and records what is offered. What cannot be recorded is not offered, and goes out for its base fee.
    // r[impl settlement.priority.bounded]
    async fn prepare(&self, instruction: &Instruction, offer: Offer) -> Result<(Prepared, Offer), SubmitError> {
        let prepared = match self.sign(instruction, &offer.terms).await {
            Ok(prepared) => prepared,
            Err(error) => {
                self.fees.never_signed(&offer);
                return Err(error);
            }
        };
        if self.fees.note(&offer, prepared.signature).await {
            return Ok((prepared, offer));
        }
        let offer = Offer { terms: offer.terms.at_price(0), priority_fee: 0, ..offer };
        Ok((self.sign(instruction, &offer.terms).await?, offer))
    }

    async fn sign(&self, instruction: &Instruction, terms: &Terms) -> Result<Prepared, SubmitError> {
        let instructions = std::slice::from_ref(instruction);
        submit::prepare_with(&*self.chain, self.payer.signer(), &[], instructions, terms).await
    }

    /// Limits and price. Without an answer estimates and the least price must do.
    async fn offer(
        &self,
        instruction: &Instruction,
        format: TransactionFormat,
        hurry: Hurry,
    ) -> Result<Offer, SubmitError> {
        let base = Terms::estimate(format, std::slice::from_ref(instruction));
        let (payer, is_urgent, generation) = (self.payer.address(), hurry.is_urgent, hurry.failed_before);
        let offer = submit::offer(&*self.chain, self.fees.budget(), &payer, instruction, base, is_urgent, generation);
        match timeout(FEES_PATIENCE, offer).await {
            Ok(offer) => offer,
            Err(_) => Ok(submit::priced(self.fees.budget(), base, is_urgent, &[], generation)),
        }
    }

    /// The node's account and these channels, as each server shows them now.
    pub(crate) async fn views(&self, ids: impl Iterator<Item = ChannelId>) -> Result<Views, ChainError> {
        let channels = ids.map(|id| Address::from(id.to_bytes())).collect();
        views::read(&*self.chain, &self.program, &[self.node].into(), &channels).await
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

    fn instruction(&self, batch: &Batch) -> Instruction {
        let entry = |signed: &SignedVoucher| -> BatchVoucher {
            let voucher = signed.voucher;
            let entry = VoucherEntry { signature: signed.signature, cumulative: voucher.cumulative.get() };
            (Address::from(voucher.channel.to_bytes()), entry, voucher.expires_at)
        };
        let entries: Vec<BatchVoucher> = batch.vouchers.iter().map(entry).collect();
        instructions::settle_batch(&self.program, &self.node, &batch.operator, &entries)
    }
}

fn silent() -> ChainError {
    ChainError::Unreachable("the server does not answer".into())
}

/// How long a server may take to say what it takes, what a transaction takes and what others paid.
const FEES_PATIENCE: Duration = Duration::from_secs(2);
/// How long a server may take to take a transaction before it is sent again.
const SEND_PATIENCE: Duration = Duration::from_secs(2);
/// How long a server may take to say what became of one.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);
/// The shortest wait between two sends of the same bytes: less than a slot would tell a leader nothing new.
const SHORTEST_RESEND: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};

    use redb::StorageBackend;
    use redb::backends::InMemoryBackend;
    use settlement_chain::submit::{offered_priority_fee, priced};
    use settlement_chain::{EmbeddedChain, Keypair, Signer};

    use super::*;
    use crate::ledger::RedbLedger;

    /// A disk that can be full.
    #[derive(Debug, Default)]
    struct Disk {
        inner: InMemoryBackend,
        is_full: Arc<AtomicBool>,
    }

    impl StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.inner.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.inner.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.inner.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.inner.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            if self.is_full.load(Ordering::SeqCst) {
                Err(io::ErrorKind::StorageFull.into())
            } else {
                self.inner.write(offset, data)
            }
        }
    }

    // r[verify settlement.priority.bounded]
    #[tokio::test]
    async fn what_cannot_be_recorded_is_not_offered_and_the_work_goes_out_all_the_same() {
        let (chain, payer, disk) = (EmbeddedChain::new().unwrap(), Keypair::new(), Disk::default());
        let (is_full, address) = (Arc::clone(&disk.is_full), payer.pubkey());
        let instruction = |lamports| settlement_chain::tokens::transfer_lamports(&address, &address, lamports);
        let fees = Fees::recall(1_000, Arc::new(RedbLedger::on_backend(disk).unwrap()), 0).unwrap();
        let settler = Settler {
            chain: Arc::new(chain),
            program: Program::local(),
            node: Address::default(),
            payer: FeeKey::new(payer),
            resend: Duration::from_millis(5),
            fees,
        };
        let prepare = async |instruction: Instruction| {
            let base = Terms::estimate(TransactionFormat::V1, std::slice::from_ref(&instruction));
            let offer = priced(settler.fees.budget(), base, true, &[u64::MAX], 0);
            let (prepared, noted) = settler.prepare(&instruction, offer).await.unwrap();
            (offered_priority_fee(&prepared.transaction), noted.priority_fee)
        };
        let (offered, noted) = prepare(instruction(5)).await;
        assert!(offered > 0 && noted == 1_000, "{offered} {noted}");
        is_full.store(true, Ordering::SeqCst);
        assert_eq!(prepare(instruction(6)).await, (0, 0));
        let spent = settler.fees.budget().spent_within_hour(true, std::time::Instant::now());
        assert_eq!(spent, 1_000, "what was not offered is not spent");
    }
}
