//! The chain as it truly is: what landed, what was forked away, and how far every channel has been settled.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use aro_proto::ChannelId;
use settlement_chain::{
    Address, ChainClient, ChainError, Commitment, EmbeddedChain, Program, Signature, Statuses, VersionedTransaction,
};
use settlement_interface::accounts::Channel;
use tokio::sync::Mutex;

/// One chain, behind any number of [`Server`](super::Server)s.
pub struct Ground {
    chain: EmbeddedChain,
    program: Address,
    /// Blocks that pass with every question for statuses.
    pace: AtomicU64,
    record: Mutex<Record>,
}

/// A transaction on the branch that holds.
#[derive(Clone, Debug)]
pub struct Landing {
    /// The transaction.
    pub transaction: VersionedTransaction,
    /// Its id.
    pub signature: Signature,
    /// Who paid its fee.
    pub payer: Address,
}

/// A moment that the chain can be thrown back to.
pub struct Checkpoint {
    chain: EmbeddedChain,
    landings: usize,
    watermarks: BTreeMap<ChannelId, u64>,
}

#[derive(Default)]
struct Record {
    landings: Vec<Landing>,
    /// Of every channel that a landed transaction named: what was settled, still known after the account is gone.
    watermarks: BTreeMap<ChannelId, u64>,
    fallen: Vec<ChannelId>,
    forked_away: Vec<Landing>,
    in_flight: Vec<InFlight>,
    ambush: Option<Ambush>,
}

/// A transaction that lands at a height.
struct InFlight {
    due: u64,
    transaction: VersionedTransaction,
    /// Whether it lands only where it succeeds.
    is_simulated: bool,
}

/// A fork that waits for its moment.
struct Ambush {
    /// Landings still to come before the one that is forked away.
    spared: usize,
    sprung: Option<(Checkpoint, Signature)>,
    told: bool,
}

impl Ground {
    /// The truth about `chain`, from now on.
    #[must_use]
    pub fn new(chain: EmbeddedChain, program: &Program) -> Self {
        Self { chain, program: program.id, pace: AtomicU64::new(1), record: Mutex::default() }
    }

    /// The chain itself, for what a test does beside the operator.
    #[must_use]
    pub const fn chain(&self) -> &EmbeddedChain {
        &self.chain
    }

    /// How many blocks pass with every question for statuses. One at first.
    pub fn set_pace(&self, blocks: u64) {
        self.pace.store(blocks, Ordering::SeqCst);
    }

    /// Lets blocks pass; what was in flight lands when it is due.
    pub async fn pass(&self, blocks: u64) {
        self.chain.skip_blocks(blocks);
        let height = self.height().await;
        let mut record = self.record.lock().await;
        let (due, later): (Vec<InFlight>, Vec<InFlight>) =
            std::mem::take(&mut record.in_flight).into_iter().partition(|it| it.due <= height);
        record.in_flight = later;
        for InFlight { transaction, is_simulated, .. } in due {
            // Refused by then: it never lands, and nobody is told.
            let _ = self.land_in(&mut record, &transaction, is_simulated).await;
        }
    }

    /// Makes `count` branches' worth of trouble: the landing after the next `spared` ones is forked away right after
    /// a server has called it confirmed.
    pub async fn ambush(&self, spared: usize) {
        self.record.lock().await.ambush = Some(Ambush { spared, sprung: None, told: false });
    }

    /// The present moment.
    pub async fn checkpoint(&self) -> Checkpoint {
        let record = self.record.lock().await;
        self.checkpoint_of(&record)
    }

    /// Another branch wins, which shares nothing with this one after the checkpoint. It is one block longer. Returns
    /// what was forked away.
    pub async fn fork_away(&self, since: Checkpoint) -> Vec<Landing> {
        let mut record = self.record.lock().await;
        self.fork_in(&mut record, since).await
    }

    /// Every transaction on the branch that holds, in order.
    pub async fn landings(&self) -> Vec<Landing> {
        self.record.lock().await.landings.clone()
    }

    /// Every transaction that was forked away, in order; some may have landed again.
    pub async fn forked_away(&self) -> Vec<Landing> {
        self.record.lock().await.forked_away.clone()
    }

    /// What has been settled on a channel, even where its account is gone; 0 if no transaction has named it.
    pub async fn watermark(&self, channel: ChannelId) -> u64 {
        self.record.lock().await.watermarks.get(&channel).copied().unwrap_or_default()
    }

    /// Channels whose watermark fell from one block to the next of the same branch: there must be none.
    pub async fn fallen(&self) -> Vec<ChannelId> {
        self.record.lock().await.fallen.clone()
    }

    /// Puts a transaction on the chain, if it is still good.
    ///
    /// # Errors
    /// As [`ChainClient::send`].
    pub async fn land(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError> {
        let mut record = self.record.lock().await;
        self.land_in(&mut record, transaction, true).await
    }

    /// Puts a transaction on the chain when `blocks` more have passed, if it is still good then; where it is not
    /// simulated by then it may fail in its block.
    pub async fn land_later(&self, transaction: &VersionedTransaction, blocks: u64, is_simulated: bool) {
        let due = self.height().await.saturating_add(blocks);
        let transaction = transaction.clone();
        self.record.lock().await.in_flight.push(InFlight { due, transaction, is_simulated });
    }

    /// What has truly become of transactions. One block more passes than was set for each question.
    pub(super) async fn statuses(&self, signatures: &[Signature]) -> Result<Statuses, ChainError> {
        self.pass(self.pace.load(Ordering::SeqCst)).await;
        let answer = graded(self.chain.statuses(signatures).await?);
        let mut record = self.record.lock().await;
        if let Some(Ambush { sprung: Some((_, victim)), told, .. }) = &mut record.ambush {
            *told |= signatures.contains(victim);
        }
        Ok(answer)
    }

    /// What waits for its moment happens, if this is it. Called before every answer.
    pub(super) async fn turn(&self) {
        let mut record = self.record.lock().await;
        if let Some(Ambush { sprung: Some((since, _)), .. }) = record.ambush.take_if(|ambush| ambush.told) {
            self.fork_in(&mut record, since).await;
        }
    }

    async fn land_in(
        &self,
        record: &mut Record,
        transaction: &VersionedTransaction,
        is_simulated: bool,
    ) -> Result<Signature, ChainError> {
        let before = match &record.ambush {
            Some(Ambush { spared: 0, sprung: None, .. }) => Some(self.checkpoint_of(record)),
            _ => None,
        };
        let known = self.knows(transaction).await;
        let signature = if is_simulated {
            self.chain.send(transaction).await?
        } else {
            self.chain.send_unsimulated(transaction)?
        };
        if known {
            return Ok(signature);
        }
        let accounts = transaction.message.static_account_keys();
        let payer = accounts.first().copied().unwrap_or_default();
        for (address, account) in accounts.iter().zip(self.chain.accounts(accounts).await?) {
            let channel = account.filter(|account| account.owner == self.program);
            let Some(Ok(channel)) = channel.map(|account| Channel::decode(&account.data)) else { continue };
            let id = ChannelId::from_bytes(address.to_bytes());
            let before = record.watermarks.insert(id, channel.settled).unwrap_or_default();
            if before > channel.settled {
                record.fallen.push(id);
            }
        }
        record.landings.push(Landing { transaction: transaction.clone(), signature, payer });
        match &mut record.ambush {
            Some(ambush) if ambush.spared > 0 => ambush.spared -= 1,
            Some(ambush) if ambush.sprung.is_none() => ambush.sprung = before.map(|before| (before, signature)),
            _ => {}
        }
        Ok(signature)
    }

    async fn fork_in(&self, record: &mut Record, since: Checkpoint) -> Vec<Landing> {
        let height = self.height().await;
        self.chain.switch_to(&since.chain);
        let behind = height.saturating_sub(self.height().await);
        self.chain.skip_blocks(behind.saturating_add(1));
        record.watermarks = since.watermarks;
        let lost = record.landings.split_off(since.landings);
        record.forked_away.extend(lost.iter().cloned());
        lost
    }

    fn checkpoint_of(&self, record: &Record) -> Checkpoint {
        Checkpoint {
            chain: self.chain.branch(),
            landings: record.landings.len(),
            watermarks: record.watermarks.clone(),
        }
    }

    async fn knows(&self, transaction: &VersionedTransaction) -> bool {
        let answer = self.chain.statuses(&transaction.signatures[..1]).await;
        answer.is_ok_and(|answer| answer.statuses.iter().any(Option::is_some))
    }

    async fn height(&self) -> u64 {
        self.chain.statuses(&[]).await.map_or(0, |answer| answer.block_height)
    }
}

/// The embedded chain calls everything final at once; here that takes [`FINALITY`] blocks.
pub(super) fn graded(mut answer: Statuses) -> Statuses {
    for status in answer.statuses.iter_mut().flatten() {
        let depth = answer.block_height.saturating_sub(status.slot);
        status.commitment = if depth >= FINALITY { Commitment::Finalized } else { Commitment::Confirmed };
    }
    answer
}

/// Blocks upon a transaction after which no fork takes it away.
pub const FINALITY: u64 = 32;
