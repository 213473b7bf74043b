//! One RPC server's view of the chain: what it does with transactions, and what it says of them.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use settlement_chain::{
    Account, AccountFilter, Address, Blockhash, ChainClient, ChainError, Commitment, EmbeddedChain, Signature,
    Simulation, Status, Statuses, TransactionError, VersionedTransaction,
};

use super::dice::Dice;
use super::ground::{Ground, graded};

/// A server in front of [`Ground`]. Honest until told otherwise.
#[derive(Clone)]
pub struct Server {
    ground: Arc<Ground>,
    state: Arc<Mutex<State>>,
}

/// What becomes of one send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It lands in the next block.
    Lands,
    /// The server takes it, and the leaders never see it.
    Dropped,
    /// The server's answer never comes, and the leaders never see it.
    TimesOut,
    /// It lands, and the server's answer never comes.
    LandsUnheard,
    /// The server takes it twice.
    Twice,
    /// It lands after so many blocks, if it still can.
    Late(u64),
    /// It lands after so many blocks, though it may fail there by then.
    Blindly(u64),
    /// The server refuses it, wrongly.
    Refused(TransactionError),
}

/// What is said of transactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Word {
    /// What is so.
    #[default]
    Truth,
    /// "Not found", whatever is asked.
    NotFound,
    /// "Not found", and a block height far ahead: whoever believes it takes everything for dead.
    NotFoundFromTheFuture,
    /// "Finalized", whatever is asked.
    Finalized,
    /// "Failed for good", whatever is asked.
    Failed,
    /// The truth and "not found" by turns.
    Contradicting,
    /// Nothing: the question times out.
    Silence,
}

/// Changes what a server shows at an address.
type Telling = Arc<dyn Fn(&Address, &mut Option<Account>) + Send + Sync>;

/// What a server makes of accounts.
#[derive(Clone)]
struct Lie {
    ahead: u64,
    tell: Telling,
}

#[derive(Default)]
struct State {
    script: VecDeque<Fate>,
    otherwise: Option<Fate>,
    chance: Option<(Dice, u8, Fate)>,
    word: Word,
    /// What the server has seen last, if it hears nothing more.
    stale: Option<EmbeddedChain>,
    is_down: bool,
    lie: Option<Lie>,
    recent_fees: Vec<u64>,
    sent: Vec<Signature>,
    struck: usize,
    questions: u64,
}

impl Server {
    /// An honest server.
    #[must_use]
    pub fn new(ground: Arc<Ground>) -> Self {
        Self { ground, state: Arc::default() }
    }

    /// What becomes of the next sends, in this order; those after them fare as before.
    pub fn script(&self, fates: impl IntoIterator<Item = Fate>) {
        self.lock().script.extend(fates);
    }

    /// What becomes of every send without a script.
    pub fn otherwise(&self, fate: Fate) {
        self.lock().otherwise = Some(fate);
    }

    /// What becomes of `percent` of a hundred sends without a script, by seed.
    pub fn by_chance(&self, seed: u64, percent: u8, fate: Fate) {
        self.lock().chance = Some((Dice::new(seed), percent, fate));
    }

    /// What it says of transactions from now on.
    pub fn say(&self, word: Word) {
        self.lock().word = word;
    }

    /// It hears nothing more of the chain, but passes transactions on.
    pub fn fall_behind(&self) {
        let seen = self.ground.chain().branch();
        self.lock().stale = Some(seen);
    }

    /// It says that there is nothing at these addresses, as of a slot that nobody else has reached.
    pub fn deny(&self, addresses: impl IntoIterator<Item = Address>) {
        let denied: HashSet<Address> = addresses.into_iter().collect();
        self.misrepresent(AHEAD, move |address, account| {
            if denied.contains(address) {
                *account = None;
            }
        });
    }

    /// It shows accounts as this lie makes them, as of so many slots ahead of everybody else.
    pub fn misrepresent(&self, ahead: u64, lie: impl Fn(&Address, &mut Option<Account>) + Send + Sync + 'static) {
        self.lock().lie = Some(Lie { ahead, tell: Arc::new(lie) });
    }

    /// It has caught up.
    pub fn catch_up(&self) {
        self.lock().stale = None;
    }

    /// Whether it answers nothing at all.
    pub fn set_down(&self, is_down: bool) {
        self.lock().is_down = is_down;
    }

    /// What it says that others paid lately, in micro-lamports per compute unit. Nothing at first.
    pub fn set_recent_fees(&self, recent_fees: Vec<u64>) {
        self.lock().recent_fees = recent_fees;
    }

    /// Honest again, in everything.
    pub fn recover(&self) {
        let mut state = self.lock();
        *state = State { sent: std::mem::take(&mut state.sent), struck: state.struck, ..State::default() };
    }

    /// Every send, in order, resends included.
    #[must_use]
    pub fn sent(&self) -> Vec<Signature> {
        self.lock().sent.clone()
    }

    /// Sends that met another fate than to land.
    #[must_use]
    pub fn struck(&self) -> usize {
        self.lock().struck
    }

    fn next_fate(&self, signature: Signature) -> Fate {
        let mut state = self.lock();
        state.sent.push(signature);
        let by_chance = |state: &mut State| {
            let (dice, percent, fate) = state.chance.as_mut()?;
            dice.strikes(*percent).then(|| fate.clone())
        };
        let fate = state.script.pop_front().or_else(|| by_chance(&mut state)).or_else(|| state.otherwise.clone());
        let fate = fate.unwrap_or(Fate::Lands);
        if fate != Fate::Lands {
            state.struck += 1;
        }
        fate
    }

    /// Turns the world, and says where this server looks: `None` is the chain as it is.
    async fn look(&self) -> Result<Option<EmbeddedChain>, ChainError> {
        self.ground.turn().await;
        let state = self.lock();
        if state.is_down { Err(unheard()) } else { Ok(state.stale.clone()) }
    }

    async fn view(&self) -> Result<EmbeddedChain, ChainError> {
        Ok(self.look().await?.unwrap_or_else(|| self.ground.chain().clone()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked has failed already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ChainClient for Server {
    async fn genesis_hash(&self) -> Result<[u8; 32], ChainError> {
        self.view().await?.genesis_hash().await
    }

    async fn accounts(&self, addresses: &[Address]) -> Result<Vec<Option<Account>>, ChainError> {
        Ok(self.accounts_at(addresses).await?.1)
    }

    async fn program_accounts(
        &self,
        program: &Address,
        filter: &AccountFilter,
    ) -> Result<Vec<(Address, Account)>, ChainError> {
        let found = self.view().await?.program_accounts(program, filter).await?;
        let Some(Lie { tell, .. }) = self.lock().lie.clone() else { return Ok(found) };
        let told = found.into_iter().filter_map(|(address, account)| {
            let mut account = Some(account);
            tell(&address, &mut account);
            Some((address, account?))
        });
        Ok(told.collect())
    }

    async fn latest_blockhash(&self) -> Result<Blockhash, ChainError> {
        self.view().await?.latest_blockhash().await
    }

    async fn send(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError> {
        self.look().await?;
        let signature = transaction.signatures.first().copied().unwrap_or_default();
        match self.next_fate(signature) {
            Fate::Lands => self.ground.land(transaction).await,
            Fate::Dropped => Ok(signature),
            Fate::TimesOut => Err(unheard()),
            Fate::LandsUnheard => {
                self.ground.land(transaction).await?;
                Err(unheard())
            }
            Fate::Twice => {
                self.ground.land(transaction).await?;
                self.ground.land(transaction).await
            }
            Fate::Late(blocks) => {
                self.ground.land_later(transaction, blocks, true).await;
                Ok(signature)
            }
            Fate::Blindly(blocks) => {
                self.ground.land_later(transaction, blocks, false).await;
                Ok(signature)
            }
            Fate::Refused(error) => Err(ChainError::Refused(error)),
        }
    }

    async fn statuses(&self, signatures: &[Signature]) -> Result<Statuses, ChainError> {
        let stale = self.look().await?;
        let truth = self.ground.statuses(signatures).await?;
        let mut answer = match stale {
            Some(seen) => graded(seen.statuses(signatures).await?),
            None => truth,
        };
        let (word, turn) = {
            let mut state = self.lock();
            state.questions += 1;
            (state.word, state.questions)
        };
        match word {
            Word::Truth => {}
            Word::Contradicting if turn % 2 == 1 => {}
            Word::NotFound | Word::Contradicting => answer.statuses.fill(None),
            Word::NotFoundFromTheFuture => {
                answer.statuses.fill(None);
                answer.block_height = answer.block_height.saturating_add(1_000_000);
            }
            Word::Finalized | Word::Failed => {
                let err = (word == Word::Failed).then_some(TransactionError::AccountInUse);
                let known = Status { slot: answer.block_height, commitment: Commitment::Finalized, err };
                answer.statuses.fill(Some(known));
            }
            Word::Silence => return Err(unheard()),
        }
        Ok(answer)
    }

    async fn simulate(&self, transaction: &VersionedTransaction) -> Result<Simulation, ChainError> {
        self.view().await?.simulate(transaction).await
    }

    async fn recent_fees(&self, _: &[Address]) -> Result<Vec<u64>, ChainError> {
        self.look().await?;
        Ok(self.lock().recent_fees.clone())
    }

    async fn accounts_at(&self, addresses: &[Address]) -> Result<(u64, Vec<Option<Account>>), ChainError> {
        let (slot, mut accounts) = self.view().await?.accounts_at(addresses).await?;
        let Some(Lie { ahead, tell }) = self.lock().lie.clone() else { return Ok((slot, accounts)) };
        for (account, address) in accounts.iter_mut().zip(addresses) {
            tell(address, account);
        }
        Ok((slot.saturating_add(ahead), accounts))
    }

    async fn clock(&self) -> Result<i64, ChainError> {
        self.view().await?.clock().await
    }
}

/// Slots by which a liar claims to be ahead of everybody else.
pub const AHEAD: u64 = 1_000;

fn unheard() -> ChainError {
    ChainError::Unreachable("the test's server does not answer".into())
}
