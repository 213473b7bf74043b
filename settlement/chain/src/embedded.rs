//! A chain inside this process: LiteSVM with the settlement program loaded, for the demo and for tests.
//!
//! It keeps what LiteSVM leaves out and clients rely on: the size limit of transactions, a window of recent
//! blockhashes instead of a single one, statuses, and idempotent sends. Every transaction is a block of its own
//! and final at once. Nothing is written to disk.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use litesvm::LiteSVM;
use solana_address::Address;
use solana_clock::Clock;
use solana_hash::Hash;
use solana_keypair::Keypair;
use solana_signature::Signature;
use solana_signer::Signer;
use solana_transaction::versioned::VersionedTransaction;
use solana_transaction_error::TransactionError;

use crate::{
    PROGRAM_ELF, Program,
    client::{
        Account, AccountFilter, Blockhash, ChainClient, ChainError, Commitment, Simulation, Status, Statuses,
        check_size,
    },
    setup::{self, Setup, SetupError, SetupOptions},
    submit::SubmitError,
};

/// The embedded chain's genesis hash: a constant, for LiteSVM has no genesis. No cluster has it.
pub const EMBEDDED_GENESIS_HASH: [u8; 32] = *b"ARO embedded chain, no cluster \0";

/// LiteSVM with the settlement program at [`Program::local`]. Clones share one chain.
#[derive(Clone)]
pub struct EmbeddedChain {
    state: Arc<Mutex<State>>,
}

impl EmbeddedChain {
    /// A new chain with the committed program loaded and no other accounts.
    ///
    /// # Errors
    /// The program's ELF does not load, which a test of this crate excludes for the committed one.
    pub fn new() -> Result<Self, ChainError> {
        Self::with_program(&Program::local(), PROGRAM_ELF)
    }

    /// A new chain with the given ELF loaded as `program`.
    pub fn with_program(program: &Program, elf: &[u8]) -> Result<Self, ChainError> {
        let mut svm = LiteSVM::new().with_sigverify(false).with_blockhash_check(false).with_transaction_history(0);
        svm.add_program(program.id, elf)
            .map_err(|error| ChainError::Malformed(format!("the program does not load: {error}")))?;
        let recent = VecDeque::from([svm.latest_blockhash()]);
        let state = State { svm, recent, block_height: 0, statuses: HashMap::new(), fixed_time: None };
        Ok(Self { state: Arc::new(Mutex::new(state)) })
    }

    /// Gives `lamports` to an address out of nothing.
    pub fn airdrop(&self, address: &Address, lamports: u64) -> Result<(), ChainError> {
        let mut state = self.lock();
        state.svm.airdrop(address, lamports).map_err(|failed| ChainError::Refused(failed.err))?;
        state.next_block();
        Ok(())
    }

    /// Stops the chain's clock at `unix` seconds. Until the first call it follows the host's clock.
    pub fn warp_clock(&self, unix: i64) {
        self.lock().fixed_time = Some(unix);
    }

    /// Lets `blocks` blocks pass without transactions: blockhashes age and die.
    pub fn skip_blocks(&self, blocks: u64) {
        let mut state = self.lock();
        for _ in 0..blocks {
            state.next_block();
        }
    }

    /// A copy of this chain that goes its own way from here: the other side of a fork, or what a server saw that
    /// hears nothing more.
    #[must_use]
    pub fn branch(&self) -> Self {
        let state = self.lock().clone();
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Becomes what `other` is now: blocks that only this chain had are forked away, and so are their transactions.
    /// `other` stays as it is.
    pub fn switch_to(&self, other: &Self) {
        let theirs = other.lock().clone();
        *self.lock() = theirs;
    }

    /// Takes a transaction as a leader does that a server has passed it to a while ago: it may fail in its block by now,
    /// and costs its fee.
    ///
    /// # Errors
    /// As [`ChainClient::send`], but for failures of the transaction's own.
    pub fn send_unsimulated(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError> {
        self.take(transaction, false)
    }

    fn take(&self, transaction: &VersionedTransaction, simulates: bool) -> Result<Signature, ChainError> {
        check_size(transaction)?;
        let signature = *transaction
            .signatures
            .first()
            .ok_or_else(|| ChainError::Malformed("the transaction is not signed".into()))?;
        // Here, so that LiteSVM can simulate what is not signed yet.
        if !transaction.verify_with_results().into_iter().all(|is_valid| is_valid) {
            return Err(ChainError::Refused(TransactionError::SignatureFailure));
        }
        let mut state = self.lock();
        if state.statuses.contains_key(&signature) {
            return Ok(signature);
        }
        if !state.recent.contains(transaction.message.recent_blockhash()) {
            return Err(ChainError::Refused(TransactionError::BlockhashNotFound));
        }
        state.tick();
        // A server simulates before it forwards; so a refused transaction has no effect here either, not even a fee.
        if simulates {
            state.svm.simulate_transaction(transaction.clone()).map_err(|failed| ChainError::Refused(failed.err))?;
        }
        let err = state.svm.send_transaction(transaction.clone()).err().map(|failed| failed.err);
        state.next_block();
        let slot = state.block_height;
        state.statuses.insert(signature, Status { slot, commitment: Commitment::Finalized, err });
        Ok(signature)
    }

    /// Creates an $ARO mint; `authority` pays and may mint.
    pub async fn create_mint(&self, authority: &Keypair) -> Result<Address, SetupError> {
        setup::create_mint(self, authority, &authority.pubkey()).await
    }

    /// Mints `amount` base units to the associated token account of `owner`, created if needed; `authority` pays.
    /// Returns the token account.
    pub async fn mint_to(
        &self,
        mint: &Address,
        authority: &Keypair,
        owner: &Address,
        amount: u64,
    ) -> Result<Address, SubmitError> {
        setup::mint_to(self, mint, authority, owner, amount).await
    }

    /// Sets the program up with a new mint: see [`setup::setup`]. `admin` pays, may mint, and owns the treasury.
    pub async fn set_up(&self, admin: &Keypair) -> Result<Setup, SetupError> {
        setup::setup(self, &Program::local(), admin, admin, &SetupOptions::default()).await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside LiteSVM leaves at worst a transaction half recorded; readers may go on.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[async_trait]
impl ChainClient for EmbeddedChain {
    async fn genesis_hash(&self) -> Result<[u8; 32], ChainError> {
        Ok(EMBEDDED_GENESIS_HASH)
    }

    async fn accounts(&self, addresses: &[Address]) -> Result<Vec<Option<Account>>, ChainError> {
        Ok(self.accounts_at(addresses).await?.1)
    }

    async fn program_accounts(
        &self,
        program: &Address,
        filter: &AccountFilter,
    ) -> Result<Vec<(Address, Account)>, ChainError> {
        let accounts = self.lock().svm.get_program_accounts(program);
        Ok(accounts
            .into_iter()
            .filter(|(_, account)| account.lamports > 0 && filter.matches(&account.data))
            .map(|(address, account)| (address, plain(account)))
            .collect())
    }

    async fn latest_blockhash(&self) -> Result<Blockhash, ChainError> {
        let state = self.lock();
        let last_valid_block_height = state.block_height.saturating_add(BLOCKHASH_LIFE);
        Ok(Blockhash { hash: state.svm.latest_blockhash(), last_valid_block_height })
    }

    async fn send(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError> {
        self.take(transaction, true)
    }

    async fn statuses(&self, signatures: &[Signature]) -> Result<Statuses, ChainError> {
        let state = self.lock();
        let statuses = signatures.iter().map(|signature| state.statuses.get(signature).cloned()).collect();
        Ok(Statuses { block_height: state.block_height, statuses })
    }

    async fn simulate(&self, transaction: &VersionedTransaction) -> Result<Simulation, ChainError> {
        check_size(transaction)?;
        let mut state = self.lock();
        state.tick();
        let loaded_data_bytes = Some(state.loaded_data_bytes(transaction));
        let (meta, err) = match state.svm.simulate_transaction(transaction.clone()) {
            Ok(done) => (done.meta, None),
            Err(failed) => (failed.meta, Some(failed.err)),
        };
        let return_data = meta.return_data.data;
        Ok(Simulation { units: meta.compute_units_consumed, loaded_data_bytes, err, return_data })
    }

    /// Nobody else wants room in a block here.
    async fn recent_fees(&self, _: &[Address]) -> Result<Vec<u64>, ChainError> {
        Ok(Vec::new())
    }

    async fn accounts_at(&self, addresses: &[Address]) -> Result<(u64, Vec<Option<Account>>), ChainError> {
        let mut state = self.lock();
        state.tick();
        // An account without lamports does not exist, as on a cluster.
        let read = |address| state.svm.get_account(address).filter(|account| account.lamports > 0).map(plain);
        Ok((state.block_height, addresses.iter().map(read).collect()))
    }

    async fn clock(&self) -> Result<i64, ChainError> {
        let mut state = self.lock();
        state.tick();
        Ok(state.svm.get_sysvar::<Clock>().unix_timestamp)
    }
}

#[derive(Clone)]
struct State {
    svm: LiteSVM,
    /// Blockhashes that a transaction may still name, oldest first.
    recent: VecDeque<Hash>,
    block_height: u64,
    statuses: HashMap<Signature, Status>,
    fixed_time: Option<i64>,
}

impl State {
    fn next_block(&mut self) {
        self.svm.expire_blockhash();
        self.recent.push_back(self.svm.latest_blockhash());
        if self.recent.len() as u64 > BLOCKHASH_LIFE + 1 {
            self.recent.pop_front();
        }
        self.block_height = self.block_height.saturating_add(1);
    }

    /// What a cluster counts against the loaded-data limit: each account's data and a base, and the code of the
    /// programs behind their accounts.
    fn loaded_data_bytes(&self, transaction: &VersionedTransaction) -> u32 {
        let mut bytes = 0_usize;
        for key in transaction.message.static_account_keys() {
            let Some(account) = self.svm.get_account(key) else { continue };
            bytes = bytes.saturating_add(LOADED_ACCOUNT_BASE).saturating_add(account.data.len());
            if account.owner == UPGRADEABLE_LOADER && account.executable {
                let (code, _) = Address::find_program_address(&[key.as_ref()], &UPGRADEABLE_LOADER);
                let code_len = self.svm.get_account(&code).map_or(0, |code| code.data.len());
                bytes = bytes.saturating_add(LOADED_ACCOUNT_BASE).saturating_add(code_len);
            }
        }
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// Brings the Clock sysvar to the present.
    fn tick(&mut self) {
        let now = self.fixed_time.unwrap_or_else(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        });
        let mut clock = self.svm.get_sysvar::<Clock>();
        if clock.unix_timestamp != now {
            clock.unix_timestamp = now;
            self.svm.set_sysvar(&clock);
        }
    }
}

fn plain(account: solana_account::Account) -> Account {
    Account { owner: account.owner, lamports: account.lamports, data: account.data }
}

/// Blocks for which a blockhash is good, as on a cluster.
const BLOCKHASH_LIFE: u64 = 150;

/// Bytes that each loaded account is charged for beside its data.
const LOADED_ACCOUNT_BASE: usize = 64;

/// Programs that it owns have their code in an account of its own.
const UPGRADEABLE_LOADER: Address = Address::from_str_const("BPFLoaderUpgradeab1e11111111111111111111111");

#[cfg(test)]
mod tests {
    use settlement_interface::accounts::status;

    use super::*;
    use crate::{
        contract,
        instructions::{self as ix, NO_VOUCHER, OpenChannel, RegisterNode, SYSTEM_PROGRAM},
        reads,
        submit::{Outcome, confirm, outcome, prepare, submit},
        tokens,
    };

    /// A set-up chain and its admin, who is also the faucet.
    async fn chain() -> (EmbeddedChain, Keypair, Setup) {
        let chain = EmbeddedChain::new().unwrap();
        let admin = Keypair::new();
        chain.airdrop(&admin.pubkey(), 1_000_000_000_000).unwrap();
        let setup = chain.set_up(&admin).await.unwrap();
        (chain, admin, setup)
    }

    #[tokio::test]
    async fn keeps_the_promises_of_the_trait() {
        let (chain, admin, setup) = chain().await;
        contract::answers_as_promised(&chain, &Program::local(), &admin, &setup).await.unwrap();
    }

    #[tokio::test]
    async fn money_is_conserved_through_the_whole_cycle_twice() {
        let (chain, admin, setup) = chain().await;
        contract::money_cycle(&chain, &Program::local(), &admin, &setup).await.unwrap();
        contract::money_cycle(&chain, &Program::local(), &admin, &setup).await.unwrap();
    }

    #[tokio::test]
    async fn second_set_up_changes_nothing_and_refuses_another_mint() {
        let (chain, admin, first) = chain().await;
        let again = chain.set_up(&admin).await.unwrap();
        assert_eq!(again, Setup { created: false, ..first });
        let other = chain.create_mint(&admin).await.unwrap();
        let options = SetupOptions { mint: Some(other), ..SetupOptions::default() };
        let error = setup::setup(&chain, &Program::local(), &admin, &admin, &options).await.unwrap_err();
        assert!(matches!(error, SetupError::OtherMint { found, .. } if found == first.mint), "{error}");
    }

    #[tokio::test]
    async fn set_up_without_the_program_says_so() {
        let (chain, admin, _) = chain().await;
        let elsewhere = Program::new(Keypair::new().pubkey());
        let options = SetupOptions::default();
        let error = setup::setup(&chain, &elsewhere, &admin, &admin, &options).await.unwrap_err();
        assert!(matches!(error, SetupError::NotDeployed(id) if id == elsewhere.id), "{error}");
        assert!(matches!(reads::config(&chain, &elsewhere).await, Err(reads::ReadError::NotSetUp(_))));
    }

    // r[verify settlement.mint.plain]
    #[tokio::test]
    async fn mint_that_is_not_classic_with_six_decimals_and_no_freeze_is_refused() {
        let (chain, admin, setup) = chain().await;
        let rent = reads::rent_exempt_lamports(&chain, tokens::Mint::LEN).await.unwrap();
        let mut freezable = tokens::initialize_mint(&Address::default(), &admin.pubkey(), 6).data;
        freezable.pop();
        freezable.push(1);
        freezable.extend_from_slice(admin.pubkey().as_ref());
        let nine = tokens::initialize_mint(&Address::default(), &admin.pubkey(), 9).data;
        for (data, why) in [(freezable, "freeze authority"), (nine, "6 decimals")] {
            let mint = Keypair::new();
            let size = tokens::Mint::LEN as u64;
            let create = tokens::create_account(&admin.pubkey(), &mint.pubkey(), rent, size, &tokens::TOKEN_PROGRAM);
            let mut initialize = tokens::initialize_mint(&mint.pubkey(), &admin.pubkey(), 6);
            initialize.data = data;
            submit(&chain, &admin, &[&mint], &[create, initialize]).await.unwrap();
            let error = reads::aro_mint(&chain, &mint.pubkey()).await.unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        for not_a_mint in [setup.vault, setup.config, Keypair::new().pubkey()] {
            let error = reads::aro_mint(&chain, &not_a_mint).await.unwrap_err();
            assert!(matches!(error, reads::ReadError::BadMint { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn blockhash_is_good_until_its_last_valid_height_and_dead_after() {
        let (chain, admin, _) = chain().await;
        let to = Keypair::new().pubkey();
        let transfer = [tokens::transfer_lamports(&admin.pubkey(), &to, 1_000_000_000)];
        let in_time = prepare(&chain, &admin, &[], &transfer).await.unwrap();
        let late = prepare(&chain, &admin, &[], &[transfer[0].clone(), transfer[0].clone()]).await.unwrap();
        let height = chain.statuses(&[]).await.unwrap().block_height;
        chain.skip_blocks(in_time.last_valid_block_height - height);
        confirm(&chain, &in_time).await.unwrap();

        let fate = outcome(&chain, &late.signature, late.last_valid_block_height).await.unwrap();
        assert_eq!(fate, Outcome::Dead);
        let error = confirm(&chain, &late).await.unwrap_err();
        assert!(matches!(error, SubmitError::Expired { .. }) && error.is_retryable(), "{error}");
        assert_eq!(reads::lamports(&chain, &to).await.unwrap(), 1_000_000_000);
    }

    #[tokio::test]
    async fn forked_away_transaction_is_unknown_and_lands_again_with_the_same_bytes() {
        let (chain, admin, _) = chain().await;
        let to = Keypair::new().pubkey();
        let prepared = prepare(&chain, &admin, &[], &[tokens::transfer_lamports(&admin.pubkey(), &to, 1_000_000_000)])
            .await
            .unwrap();
        let before = chain.branch();
        confirm(&chain, &prepared).await.unwrap();
        assert_eq!(reads::lamports(&before, &to).await.unwrap(), 0, "a branch goes its own way");
        chain.switch_to(&before);
        assert_eq!(reads::lamports(&chain, &to).await.unwrap(), 0);
        let fate = outcome(&chain, &prepared.signature, prepared.last_valid_block_height).await.unwrap();
        assert_eq!(fate, Outcome::Live);
        confirm(&chain, &prepared).await.unwrap();
        assert_eq!(reads::lamports(&chain, &to).await.unwrap(), 1_000_000_000);
    }

    #[tokio::test]
    async fn identical_instructions_in_two_transactions_have_two_effects() {
        let (chain, admin, _) = chain().await;
        let to = Keypair::new().pubkey();
        let transfer = [tokens::transfer_lamports(&admin.pubkey(), &to, 1_000_000_000)];
        let first = submit(&chain, &admin, &[], &transfer).await.unwrap();
        let second = submit(&chain, &admin, &[], &transfer).await.unwrap();
        assert_ne!(first, second);
        assert_eq!(reads::lamports(&chain, &to).await.unwrap(), 2_000_000_000);
    }

    #[tokio::test]
    async fn abandoned_channel_comes_back_after_the_grace_and_not_before() {
        let (chain, admin, setup) = chain().await;
        let program = Program::local();
        chain.warp_clock(1_900_000_000);
        let owner = admin.pubkey();
        let id = Keypair::new();
        let payout = chain.mint_to(&setup.mint, &admin, &owner, 5_000).await.unwrap();
        let node = RegisterNode {
            payer: owner,
            owner,
            id: id.pubkey(),
            payout,
            operator: None,
            min_grace_s: 60,
            max_operator_fee_bps: 0,
        };
        submit(&chain, &admin, &[&id], &[ix::register_node(&program, &node)]).await.unwrap();
        let (node, _) = program.node(&id.pubkey());
        let (agent, _) = program.agent(&owner);
        let (channel, _) = program.channel(&agent, &node, 0);
        let open = OpenChannel { node, nonce: 0, deposit: 5_000, grace_s: 60, signer: owner };
        let steps = [
            ix::deposit(&program, &owner, &owner, &payout, 5_000),
            ix::open_batch(&program, &owner, &owner, &[open]),
            ix::request_close(&program, &owner, &channel),
        ];
        submit(&chain, &admin, &[], &steps).await.unwrap();

        let finalize = [ix::finalize_batch(&program, &[channel])];
        chain.warp_clock(1_900_000_059);
        submit(&chain, &admin, &[], &finalize).await.unwrap();
        let closing = reads::channel(&chain, &program, &channel).await.unwrap().unwrap();
        assert_eq!((closing.status, closing.deadline), (status::CLOSING, 1_900_000_060));
        assert_eq!(chain.clock().await.unwrap(), 1_900_000_059);

        chain.warp_clock(1_900_000_060);
        submit(&chain, &admin, &[], &finalize).await.unwrap();
        let late = ix::close_batch(&program, &owner, &node, &SYSTEM_PROGRAM, &[(channel, NO_VOUCHER, 0)]);
        let reclaim = ix::reclaim_batch(&program, &agent, &owner, &[channel]);
        submit(&chain, &admin, &[], &[late, reclaim]).await.unwrap();
        assert_eq!(reads::channel(&chain, &program, &channel).await.unwrap(), None);
        assert_eq!(reads::agent(&chain, &program, &owner).await.unwrap().unwrap().available, 5_000);
    }
}
