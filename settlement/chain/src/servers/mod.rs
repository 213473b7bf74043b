//! Several servers of one chain, asked together, so that none of them alone is believed where money hangs on it.
//!
//! What is sent goes to all. A transaction is dead only if every server says so that has not been silent for minutes;
//! it has failed, and is final, only if two say so. Of reads the newest counts that two show alike, else the newest, and
//! where two cannot both be true that is an error, not a choice; what one of them must not decide is asked of each by itself, and the chain's time is
//! never the latest that one of them tells. A server that is dead or slow costs a moment once, and no more until it
//! answers in time again.

mod ask;
mod judge;
#[cfg(test)]
mod scripted;
mod seen;

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use async_trait::async_trait;
use solana_address::Address;
use solana_signature::Signature;
use solana_transaction::versioned::VersionedTransaction;

use self::ask::{Answers, Members, Until};
pub use self::ask::{Patience, ServerHealth};
pub(crate) use self::judge::program_accounts as agreed;
use crate::{
    Account, AccountFilter, Blockhash, ChainClient, ChainError, RpcChain, Simulation, Statuses,
    client::{CLOCK, MAX_FEE_ACCOUNTS, check_size, clock_of},
};

/// A chain behind the servers of a comma-separated list of addresses: `http://127.0.0.1:8899`, or
/// `https://one.example,https://other.example`. Nothing is asked before the first call.
///
/// # Errors
/// [`ConnectError`] names the address that cannot be used.
pub fn connect(urls: &str) -> Result<Arc<dyn ChainClient>, ConnectError> {
    let mut servers: Vec<RpcChain> = Vec::new();
    for url in urls.split(',').map(str::trim).filter(|url| !url.is_empty()) {
        let server = RpcChain::new(url);
        if !server.is_valid() {
            return Err(ConnectError::BadAddress(url.chars().take(80).collect()));
        }
        if servers.iter().any(|other| other.url() == server.url()) {
            return Err(ConnectError::Twice(server.place()));
        }
        servers.push(server);
    }
    if servers.len() > MAX_SERVERS {
        return Err(ConnectError::TooMany(servers.len()));
    }
    match servers.as_slice() {
        [] => Err(ConnectError::None),
        [only] => Ok(Arc::new(only.clone())),
        _ => {
            let named = |server: RpcChain| (server.place(), Arc::new(server) as Arc<dyn ChainClient>);
            Ok(Arc::new(Servers::new(servers.into_iter().map(named).collect())))
        }
    }
}

/// Why a list of addresses cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The list is empty.
    #[error("no RPC server is named; give its address, for example http://127.0.0.1:8899")]
    None,
    /// Not an address of a server.
    #[error("{0:?} is not the address of an RPC server; give one like http://HOST:PORT or https://HOST/PATH")]
    BadAddress(String),
    /// A server cannot confirm itself.
    #[error("the RPC server {0} is named twice; name different servers, or one only")]
    Twice(String),
    /// More than [`MAX_SERVERS`].
    #[error("{0} RPC servers are named; at most {MAX_SERVERS} can be asked together")]
    TooMany(usize),
}

/// Several servers as one chain. Clones share what is known of them.
#[derive(Clone)]
pub struct Servers {
    members: Arc<Members>,
    /// The latest time that the chain has reached by the word of two.
    reached: Arc<AtomicI64>,
}

impl Servers {
    /// Named chains that should be one and the same; the names are for people. At least one.
    pub fn new(members: Vec<(String, Arc<dyn ChainClient>)>) -> Self {
        Self::with_patience(members, Patience::default())
    }

    /// The same with other waits.
    pub fn with_patience(members: Vec<(String, Arc<dyn ChainClient>)>, patience: Patience) -> Self {
        Self { members: Arc::new(Members::new(members, patience)), reached: Arc::new(AtomicI64::new(i64::MIN)) }
    }
}

#[async_trait]
impl ChainClient for Servers {
    // r[impl settlement.servers.genesis]
    async fn genesis_hash(&self) -> Result<[u8; 32], ChainError> {
        let answers = self.members.ask(Until::All, |chain| async move { chain.genesis_hash().await }).await;
        // A stranger among them is found by the asking itself, and is no reason to go on with the rest.
        if let Some(stranger) = answers.stranger() {
            return Err(stranger);
        }
        answers.any()
    }

    async fn accounts(&self, addresses: &[Address]) -> Result<Vec<Option<Account>>, ChainError> {
        Ok(self.accounts_at(addresses).await?.1)
    }

    async fn program_accounts(
        &self,
        program: &Address,
        filter: &AccountFilter,
    ) -> Result<Vec<(Address, Account)>, ChainError> {
        let (agreed, doubtful) = judge::program_accounts(self.program_accounts_by_server(program, filter).await?);
        // What one names and another does not is looked at by its address, where answers tell their age.
        let mut found = agreed;
        for (address, account) in doubtful.iter().zip(self.accounts(&doubtful).await?) {
            found.extend(account.filter(|a| a.owner == *program && filter.matches(&a.data)).map(|a| (*address, a)));
        }
        Ok(found)
    }

    async fn program_accounts_by_server(
        &self,
        program: &Address,
        filter: &AccountFilter,
    ) -> Result<Vec<Vec<(Address, Account)>>, ChainError> {
        let (program, filter) = (*program, filter.clone());
        let question = move |chain: Arc<dyn ChainClient>| {
            let filter = filter.clone();
            async move { chain.program_accounts(&program, &filter).await }
        };
        self.members.ask(Until::All, question).await.good()
    }

    async fn latest_blockhash(&self) -> Result<Blockhash, ChainError> {
        let answers = self.members.ask(Until::All, |chain| async move { chain.latest_blockhash().await }).await;
        self.counted(judge::blockhash(&answers.good()?))
    }

    async fn send(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError> {
        check_size(transaction)?;
        self.members.saw(transaction.signatures.get(..1).unwrap_or_default());
        let transaction = Arc::new(transaction.clone());
        let answers = self
            .members
            .ask(Until::FirstGood, move |chain| {
                let transaction = Arc::clone(&transaction);
                async move { chain.send(&transaction).await }
            })
            .await;
        answers.sent()
    }

    // r[impl settlement.servers.dead]
    // r[impl settlement.servers.landed]
    async fn statuses(&self, signatures: &[Signature]) -> Result<Statuses, ChainError> {
        self.members.saw(signatures);
        let answers = self.asked_of_all(signatures).await;
        let unheard = self.members.unheard(&answers);
        let must_be_heard = |index: usize| {
            let unheard = unheard.as_ref()?;
            let is_old = unheard.is_for_good && signatures.get(index).is_some_and(|it| self.members.is_old(it));
            (!is_old).then(|| unheard.names.clone())
        };
        let (judged, contested) = judge::statuses(self.members.count(), &answers.good()?, must_be_heard)?;
        if contested > 0 {
            self.members.contradicted();
        }
        Ok(judged)
    }

    async fn is_past(&self, signature: &Signature, block_height: u64) -> Result<bool, ChainError> {
        self.members.saw(std::slice::from_ref(signature));
        let answers = self.asked_of_all(&[]).await;
        match self.members.unheard(&answers) {
            Some(unheard) if !(unheard.is_for_good && self.members.is_old(signature)) => {
                Err(judge::silent(&unheard.names))
            }
            _ => Ok(judge::passed(&answers.good()?) > block_height),
        }
    }

    async fn simulate(&self, transaction: &VersionedTransaction) -> Result<Simulation, ChainError> {
        let transaction = Arc::new(transaction.clone());
        let answers = self
            .members
            .ask(Until::All, move |chain| {
                let transaction = Arc::clone(&transaction);
                async move { chain.simulate(&transaction).await }
            })
            .await;
        judge::simulation(answers.good()?)
    }

    async fn recent_fees(&self, writable: &[Address]) -> Result<Vec<u64>, ChainError> {
        let writable: Arc<[Address]> = writable.get(..MAX_FEE_ACCOUNTS).unwrap_or(writable).into();
        let answers = self
            .members
            .ask(Until::All, move |chain| {
                let writable = Arc::clone(&writable);
                async move { chain.recent_fees(&writable).await }
            })
            .await;
        Ok(judge::fees(answers.good()?))
    }

    // r[impl settlement.servers.newest]
    async fn accounts_at(&self, addresses: &[Address]) -> Result<(u64, Vec<Option<Account>>), ChainError> {
        if addresses.is_empty() {
            return Ok((0, Vec::new()));
        }
        let views = self.views(addresses).await?;
        self.counted(judge::accounts(addresses, views))
    }

    // r[impl settlement.servers.forgetting]
    async fn accounts_by_server(
        &self,
        addresses: &[Address],
        least: usize,
    ) -> Result<Vec<Vec<Option<Account>>>, ChainError> {
        let mut views = self.views(addresses).await?;
        let (heard, least) = (views.len(), least.min(self.members.count()));
        if heard < least {
            return Err(ChainError::Unreachable(format!("{heard} of the servers answer, and this takes {least}")));
        }
        views.sort_by_key(|(slot, _)| std::cmp::Reverse(*slot));
        Ok(views.into_iter().map(|(_, accounts)| accounts).collect())
    }

    // r[impl settlement.servers.clock]
    async fn clock(&self) -> Result<i64, ChainError> {
        let views = self.views(&[CLOCK]).await?;
        // One that shows no clock has no say.
        let told = |(_, accounts): &View| clock_of(accounts.first().and_then(Option::as_ref)).ok();
        let clocks: Vec<i64> = views.iter().filter_map(told).collect();
        let now = judge::clock(&clocks)?;
        let reached = match clocks.len() {
            // One that answers alone must not hold those up that come back.
            1 => self.reached.load(Ordering::Relaxed),
            _ => self.reached.fetch_max(now, Ordering::Relaxed),
        };
        Ok(now.max(reached))
    }

    fn health(&self) -> Vec<ServerHealth> {
        self.members.health()
    }
}

/// Accounts as one server shows them, with the slot that they are of.
type View = (u64, Vec<Option<Account>>);

impl Servers {
    /// What each shows of these accounts.
    async fn views(&self, addresses: &[Address]) -> Result<Vec<View>, ChainError> {
        let asked: Arc<[Address]> = addresses.into();
        let question = move |chain: Arc<dyn ChainClient>| {
            let asked = Arc::clone(&asked);
            async move {
                let (slot, accounts) = chain.accounts_at(&asked).await?;
                let found = accounts.len();
                if found == asked.len() {
                    Ok((slot, accounts))
                } else {
                    Err(ChainError::Malformed(format!("{found} accounts for {} addresses", asked.len())))
                }
            }
        };
        let answers = self.members.ask(Until::All, question).await;
        self.members.read_at(&answers);
        answers.good()
    }

    /// What each says of these transactions.
    async fn asked_of_all(&self, signatures: &[Signature]) -> Answers<Statuses> {
        let asked: Arc<[Signature]> = signatures.into();
        let question = move |chain: Arc<dyn ChainClient>| {
            let asked = Arc::clone(&asked);
            async move {
                let answer = chain.statuses(&asked).await?;
                let found = answer.statuses.len();
                if found == asked.len() {
                    Ok(answer)
                } else {
                    Err(ChainError::Malformed(format!("{found} statuses for {} signatures", asked.len())))
                }
            }
        };
        self.members.ask(Until::All, question).await
    }

    fn counted<T>(&self, judged: Result<T, ChainError>) -> Result<T, ChainError> {
        if matches!(judged, Err(ChainError::Disagreement(_))) {
            self.members.contradicted();
        }
        judged
    }
}

/// Most servers of one list: each answers every question.
pub const MAX_SERVERS: usize = 8;
