//! Several servers, some of them dead, slow, lagging, lying or of another chain.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use solana_address::Address;
use solana_signature::Signature;
use solana_transaction::versioned::VersionedTransaction;
use solana_transaction_error::TransactionError;

use super::{ConnectError, Patience, Servers, connect};
use crate::{
    Account, AccountFilter, Blockhash, ChainClient, ChainError, Commitment, Simulation, Status, Statuses,
    submit::{Outcome, outcome},
};

/// A server in one mood. What it holds is the same in every call.
#[derive(Clone)]
struct Fake {
    mood: Mood,
    genesis: u8,
    slot: u64,
    lamports: u64,
    block_height: u64,
    status: Option<Status>,
    sent: Arc<Mutex<u32>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    /// Says at once that it cannot be reached.
    Gone,
    /// Takes questions and never answers.
    Silent,
    /// Refuses every transaction for good.
    Refuses,
}

const WELL: fn() -> Fake = || Fake {
    mood: Mood::Well,
    genesis: 1,
    slot: 10,
    lamports: 5,
    block_height: 9,
    status: None,
    sent: Arc::default(),
};

impl Fake {
    fn moody(mood: Mood) -> Self {
        Self { mood, ..WELL() }
    }

    async fn answer<T>(&self, answer: T) -> Result<T, ChainError> {
        match self.mood {
            Mood::Well | Mood::Refuses => Ok(answer),
            Mood::Gone => Err(ChainError::Unreachable("scripted".into())),
            Mood::Silent => std::future::pending().await,
        }
    }

    fn account(&self) -> Account {
        Account { owner: Address::default(), lamports: self.lamports, data: vec![7] }
    }
}

#[async_trait]
impl ChainClient for Fake {
    async fn genesis_hash(&self) -> Result<[u8; 32], ChainError> {
        self.answer([self.genesis; 32]).await
    }
    async fn accounts(&self, addresses: &[Address]) -> Result<Vec<Option<Account>>, ChainError> {
        Ok(self.accounts_at(addresses).await?.1)
    }
    async fn accounts_at(&self, addresses: &[Address]) -> Result<(u64, Vec<Option<Account>>), ChainError> {
        let account = (self.lamports > 0).then(|| self.account());
        self.answer((self.slot, vec![account; addresses.len()])).await
    }
    async fn program_accounts(&self, _: &Address, _: &AccountFilter) -> Result<Vec<(Address, Account)>, ChainError> {
        let found = (self.lamports > 0).then(|| (Address::new_from_array([4; 32]), self.account()));
        self.answer(found.into_iter().collect()).await
    }
    async fn latest_blockhash(&self) -> Result<Blockhash, ChainError> {
        let last_valid_block_height = self.block_height + 150;
        self.answer(Blockhash { hash: [self.genesis; 32].into(), last_valid_block_height }).await
    }
    async fn send(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError> {
        *self.sent.lock().unwrap() += 1;
        if self.mood == Mood::Refuses {
            return Err(ChainError::Refused(TransactionError::SignatureFailure));
        }
        self.answer(transaction.signatures.first().copied().unwrap_or_default()).await
    }
    async fn statuses(&self, signatures: &[Signature]) -> Result<Statuses, ChainError> {
        let statuses = vec![self.status.clone(); signatures.len()];
        self.answer(Statuses { block_height: self.block_height, statuses }).await
    }
    async fn simulate(&self, _: &VersionedTransaction) -> Result<Simulation, ChainError> {
        self.answer(Simulation { units: self.slot, ..Simulation::default() }).await
    }
    async fn recent_fees(&self, _: &[Address]) -> Result<Vec<u64>, ChainError> {
        self.answer(vec![self.slot]).await
    }
}

const PATIENCE: Duration = Duration::from_millis(600);

fn patience() -> Patience {
    Patience { slower: PATIENCE, ..Patience::default() }
}

fn servers(members: &[Fake]) -> Servers {
    let named = |(index, member): (usize, &Fake)| (format!("server {index}"), Arc::new(member.clone()) as _);
    Servers::with_patience(members.iter().enumerate().map(named).collect(), patience())
}

fn landed(commitment: Commitment) -> Option<Status> {
    Some(Status { slot: 3, commitment, err: None })
}

#[tokio::test]
async fn one_dead_server_stops_nothing() {
    for mood in [Mood::Gone, Mood::Silent] {
        for members in [[Fake::moody(mood), WELL()], [WELL(), Fake::moody(mood)]] {
            let servers = servers(&members);
            assert_eq!(servers.genesis_hash().await.unwrap(), [1; 32]);
            assert_eq!(servers.accounts_at(&[Address::default()]).await.unwrap().0, 10);
            assert_eq!(servers.latest_blockhash().await.unwrap().last_valid_block_height, 159);
            assert_eq!(servers.send(&VersionedTransaction::default()).await.unwrap(), Signature::default());
            assert_eq!(servers.simulate(&VersionedTransaction::default()).await.unwrap().units, 10);
            assert_eq!(servers.recent_fees(&[]).await.unwrap(), vec![10]);
        }
    }
    let error = servers(&[Fake::moody(Mood::Gone), Fake::moody(Mood::Gone)]).genesis_hash().await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn silent_server_is_waited_for_once_and_then_hardly() {
    let servers = servers(&[Fake::moody(Mood::Silent), WELL()]);
    servers.latest_blockhash().await.unwrap();
    assert!(servers.health()[0].is_late && !servers.health()[1].is_late);
    let started = Instant::now();
    servers.latest_blockhash().await.unwrap();
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    assert_eq!(servers.health()[1].answered, 2);
}

// r[verify settlement.servers.dead]
#[tokio::test]
async fn transaction_is_not_dead_while_one_server_lags_or_is_silent() {
    let past = Fake { block_height: 500, ..WELL() };
    let fate = async |other: Fake| outcome(&servers(&[past.clone(), other]), &Signature::default(), 400).await;
    assert_eq!(fate(past.clone()).await.unwrap(), Outcome::Dead);
    assert_eq!(fate(Fake { block_height: 400, ..WELL() }).await.unwrap(), Outcome::Live);
    for mood in [Mood::Gone, Mood::Silent] {
        assert!(fate(Fake { block_height: 500, ..Fake::moody(mood) }).await.unwrap_err().is_retryable());
    }
    let knows = Fake { block_height: 500, status: landed(Commitment::Finalized), ..WELL() };
    assert_eq!(fate(knows).await.unwrap(), Outcome::Landed { slot: 3, commitment: Commitment::Processed });
}

#[tokio::test]
async fn landed_is_believed_of_one_server_while_the_other_is_gone_but_not_as_final() {
    let knows = Fake { status: landed(Commitment::Finalized), ..WELL() };
    let fate = outcome(&servers(&[knows, Fake::moody(Mood::Gone)]), &Signature::default(), 400).await;
    assert_eq!(fate.unwrap(), Outcome::Landed { slot: 3, commitment: Commitment::Confirmed });
}

/// A server that has been gone for long enough beside one that knows nothing of the transaction, and what becomes of
/// a transaction that was first seen `age` ago.
async fn fate_without_the_other(past: &Fake, absent: Duration, alone: Duration) -> Result<Outcome, ChainError> {
    let others = [past.clone(), Fake::moody(Mood::Gone)].map(|fake| Arc::new(fake) as Arc<dyn ChainClient>);
    let named = others.into_iter().map(|chain| ("a server".to_owned(), chain)).collect();
    let servers = Servers::with_patience(named, Patience { slower: PATIENCE, absent, alone });
    // The first question finds it silent, and sees the transaction.
    let _ = outcome(&servers, &Signature::default(), 400).await;
    outcome(&servers, &Signature::default(), 400).await
}

// r[verify settlement.servers.absent]
#[tokio::test]
async fn server_that_is_gone_for_long_has_no_say_but_leaves_the_other_believed_only_of_what_is_old() {
    const LONG: Duration = Duration::from_secs(3_600);
    let past = Fake { block_height: 500, ..WELL() };
    assert_eq!(fate_without_the_other(&past, Duration::ZERO, Duration::ZERO).await.unwrap(), Outcome::Dead);
    for (absent, alone) in [(LONG, Duration::ZERO), (Duration::ZERO, LONG), (LONG, LONG)] {
        let error = fate_without_the_other(&past, absent, alone).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
    }
    let alive = Fake { block_height: 400, ..WELL() };
    assert_eq!(fate_without_the_other(&alive, Duration::ZERO, Duration::ZERO).await.unwrap(), Outcome::Live);
    // Nobody is left.
    let gone = Fake { block_height: 500, ..Fake::moody(Mood::Gone) };
    assert!(fate_without_the_other(&gone, Duration::ZERO, Duration::ZERO).await.is_err());
}

#[tokio::test]
async fn health_tells_who_is_up_and_how_far_behind() {
    let members = [WELL(), Fake { slot: 3, ..WELL() }, Fake::moody(Mood::Gone)];
    let servers = servers(&members);
    servers.accounts_at(&[Address::default()]).await.unwrap();
    let health = servers.health();
    let shown: Vec<(bool, u64)> = health.iter().map(|it| (it.is_up, it.lag_slots)).collect();
    assert_eq!(shown, [(true, 0), (true, 7), (false, 10)]);
}

// r[verify settlement.servers.genesis]
#[tokio::test]
async fn server_of_another_chain_is_found_and_never_answers_for_this_one() {
    let stranger = Fake { genesis: 2, slot: 99, lamports: 1_000_000, ..WELL() };
    let servers = servers(&[WELL(), stranger]);
    let error = servers.genesis_hash().await.unwrap_err();
    assert!(matches!(&error, ChainError::Disagreement(why) if why.contains("another chain")), "{error}");
    // Whoever spoke first, the two are never mixed.
    let (slot, accounts) = servers.accounts_at(&[Address::default()]).await.unwrap();
    let lamports = accounts[0].as_ref().unwrap().lamports;
    assert!([(10, 5), (99, 1_000_000)].contains(&(slot, lamports)));
}

#[tokio::test]
async fn send_reaches_all_and_is_refused_only_by_all() {
    let refuses = || Fake::moody(Mood::Refuses);
    let members = [WELL(), refuses(), WELL()];
    servers(&members).send(&VersionedTransaction::default()).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while members.iter().any(|member| *member.sent.lock().unwrap() == 0) {
        assert!(Instant::now() < deadline, "the other servers never got it");
        tokio::task::yield_now().await;
    }
    let error = servers(&[refuses(), refuses()]).send(&VersionedTransaction::default()).await.unwrap_err();
    assert!(matches!(error, ChainError::Refused(_)), "{error}");
    let error =
        servers(&[refuses(), Fake::moody(Mood::Gone)]).send(&VersionedTransaction::default()).await.unwrap_err();
    assert!(matches!(error, ChainError::Unreachable(_)), "it may have passed it on: {error}");
}

#[tokio::test]
async fn contradictions_are_counted_and_missing_accounts_looked_up() {
    let ahead = Fake { slot: 11, lamports: 0, ..WELL() };
    let filter = AccountFilter { discriminator: 7, data_len: 1, key: None };
    let owner = Address::default();
    assert_eq!(servers(&[WELL(), ahead.clone()]).program_accounts(&owner, &filter).await.unwrap(), vec![]);
    let behind = Fake { slot: 9, lamports: 0, ..WELL() };
    assert_eq!(servers(&[WELL(), behind]).program_accounts(&owner, &filter).await.unwrap().len(), 1);

    let servers = servers(&[WELL(), Fake { slot: 10, ..ahead }]);
    assert!(matches!(servers.accounts(&[owner]).await, Err(ChainError::Disagreement(_))));
    assert_eq!(servers.health()[0].contradictions, 1);
}

#[test]
fn list_of_addresses_is_checked() {
    for (list, place) in [("http://a", 0), (" http://a , ", 0), ("http://a,https://b/key", 2)] {
        let chain = connect(list).map_err(|error| error.to_string()).unwrap();
        assert_eq!(chain.health().len(), place, "{list}");
    }
    let refused = |list: &str| connect(list).err().unwrap();
    assert_eq!(refused(" , "), ConnectError::None);
    assert_eq!(refused("http://a,localhost"), ConnectError::BadAddress("localhost".into()));
    assert_eq!(refused("http://a/key,http://a/key"), ConnectError::Twice("http://a".into()));
    let many: Vec<String> = (0..9).map(|n| format!("http://a{n}")).collect();
    assert_eq!(refused(&many.join(",")), ConnectError::TooMany(9));
}
