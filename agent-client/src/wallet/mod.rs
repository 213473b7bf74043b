//! The wallet: keys and the durable record of what was signed with them.
//!
//! It knows nothing of fetching. It signs a voucher only against a [`SpendPermit`](crate::SpendPermit), and only
//! after the amount is on disk: whatever happens afterwards, the record is never below what a node may hold.

mod channels;
mod error;
mod keystore;
mod lane;
mod marker;
mod money;
mod policy;
mod provider;
mod purse;
mod sessions;
mod state;
mod sweep;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use aro_proto::channel::{SignedVoucher, Voucher};
use aro_proto::identity::{Beyond, Delegated, Delegation};
use aro_proto::limits::BIND_ID_LEN;
use aro_proto::message::{BindId, ChainIds};
use aro_proto::{AgentId, Amount, ChannelId, NodeId, SecretKey};
use settlement_chain::Keypair;
use settlement_interface::voucher::NEVER;

pub use channels::{ChannelInfo, ChannelPhase, OpenedChannel, Reclaimed};
pub use error::WalletError;
pub(crate) use lane::{Lane, Prices};
pub(crate) use marker::{InUse, Left};
pub use money::{Money, MoneyError, Place, WalletStatus};
pub use policy::{ChannelCap, ChannelPolicy};
pub use provider::ChannelEvent;
pub(crate) use provider::{Lack, Listener, Provider};
pub(crate) use purse::Purse;
pub use sessions::{DelegateRequest, SessionInfo};
pub(crate) use state::ChannelRecord;
pub use sweep::{SweepReport, Unswept};

use crate::budget::{BudgetGuard, Policy, PolicyError, SpendPermit};
use crate::ledger::{Hold, Holds, Ledger, LedgerError};
use crate::names::memory::NameMemory;
use crate::receipts::{self, By, Entry, Scribe, Totals};
use keystore::{Keys, Owner};
use state::State;

/// An agent's keys and its record of what they signed. Clones share both.
#[derive(Clone)]
pub struct Wallet {
    inner: Arc<Inner>,
}

struct Inner {
    keys: Keys,
    state: State,
    holds: Holds,
    scribe: Arc<Scribe>,
    ledger: Ledger,
    /// Up to which each channel's bill was said to have risen, in base units.
    counted: Mutex<HashMap<ChannelId, Arc<AtomicU64>>>,
}

impl Wallet {
    /// Makes a new wallet: an owner key, a signer key and an empty record, readable by this user only.
    ///
    /// # Errors
    /// There is one already, or the folder cannot be written.
    pub fn create(dir: &Path) -> Result<Self, WalletError> {
        let keys = Keys::create(dir)?;
        Ok(Self::with(keys, Ledger::open(dir)?))
    }

    /// Opens a wallet under a clock of the caller's, in unix seconds, for tests of clocks that jump.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_at(dir: &Path, clock: impl Fn() -> i64 + Send + Sync + 'static) -> Result<Self, WalletError> {
        let keys = Keys::open(dir)?;
        Ok(Self::with(keys, Ledger::open_with(dir, Arc::new(clock))?))
    }

    /// Opens a wallet. Several processes may have it open; each channel is used by one of them at a time.
    ///
    /// # Errors
    /// There is none, others may read its keys, or its ledger is damaged.
    pub fn open(dir: &Path) -> Result<Self, WalletError> {
        let keys = Keys::open(dir)?;
        Ok(Self::with(keys, Ledger::open(dir)?))
    }

    fn with(keys: Keys, ledger: Ledger) -> Self {
        let (state, holds) = (State::new(ledger.clone()), Holds::new(ledger.dir()));
        let scribe = Arc::new(Scribe::new(ledger.clone()));
        let counted = Mutex::default();
        Self { inner: Arc::new(Inner { keys, state, holds, scribe, ledger, counted }) }
    }

    /// The addresses of a wallet's keys, without opening its record.
    ///
    /// # Errors
    /// There is none, or others may read its keys.
    pub fn addresses(dir: &Path) -> Result<(settlement_chain::Address, AgentId), WalletError> {
        let keys = Keys::open(dir)?;
        Ok((keys.owner_address(), keys.signer.agent_id()))
    }

    /// The cold key's address: owns the money, opens and closes channels.
    pub fn owner(&self) -> settlement_chain::Address {
        self.inner.keys.owner_address()
    }

    /// The session key's id: signs requests and vouchers, and can lose no more than what channels hold.
    pub fn signer(&self) -> AgentId {
        self.inner.keys.signer.agent_id()
    }

    /// A guard that holds the caps of `policy` on all that this wallet signs away and locks up, together with every other
    /// guard of the wallet in whatever process. It is the only way to a [`SpendPermit`].
    ///
    /// # Errors
    /// The policy does not hold together.
    pub fn budget(&self, policy: Policy) -> Result<BudgetGuard, PolicyError> {
        self.guard(vec![policy], None)
    }

    /// The same under several policies at once, and with a cap on what this guard itself lets go.
    pub(crate) fn guard(&self, policies: Vec<Policy>, own: Option<Amount>) -> Result<BudgetGuard, PolicyError> {
        policies.iter().try_for_each(Policy::check)?;
        Ok(BudgetGuard::new(self.inner.ledger.clone(), policies, own))
    }

    /// Hands every entry of the account from unix second `since` on to `take`, the oldest first. Blocks on the disk.
    ///
    /// # Errors
    /// The ledger cannot be read, or `take` fails.
    pub fn entries<E: From<LedgerError>>(&self, since: i64, take: impl FnMut(Entry) -> Result<(), E>) -> Result<(), E> {
        self.inner.scribe.flush();
        receipts::each(&self.inner.ledger.reader()?, since, take)
    }

    /// What the entries from unix second `since` on come to, day by day. Blocks on the disk.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn totals(&self, since: i64, by: By) -> Result<Vec<Totals>, LedgerError> {
        self.inner.scribe.flush();
        receipts::totals(&self.inner.ledger.reader()?, since, by)
    }

    /// Who writes the account's entries.
    pub(crate) fn scribe(&self) -> &Arc<Scribe> {
        &self.inner.scribe
    }

    /// The wallet's folder.
    pub fn dir(&self) -> &Path {
        self.inner.ledger.dir()
    }

    /// Signs a voucher that pays `cumulative` base units in all on `channel`. The amount is durable before the
    /// signature exists; the rise above the last voucher is then spent from the permit.
    ///
    /// Blocks for one disk sync.
    ///
    /// # Errors
    /// The amount does not rise, is above the deposit, is not covered by the permit, or cannot be made durable.
    // r[impl voucher.record.before_send]
    pub fn sign_voucher(
        &self,
        permit: SpendPermit,
        channel: ChannelId,
        cumulative: Amount,
    ) -> Result<SignedVoucher, WalletError> {
        self.sign_or_return(permit, channel, cumulative).map_err(|(_, error)| error)
    }

    /// The same, but what could not be signed leaves the permit with the caller.
    pub(crate) fn sign_or_return(
        &self,
        mut permit: SpendPermit,
        channel: ChannelId,
        cumulative: Amount,
    ) -> Result<SignedVoucher, (SpendPermit, WalletError)> {
        match self.inner.state.raise(channel, cumulative, &mut permit, self.delegated()) {
            Ok(_) => Ok(self.signature_at(channel, cumulative)),
            Err(error) => Err((permit, error)),
        }
    }

    /// The last voucher of a channel again, the very same bytes; none if nothing was signed. It spends nothing.
    ///
    /// # Errors
    /// The record cannot be read.
    pub fn last_voucher(&self, channel: ChannelId) -> Result<Option<SignedVoucher>, WalletError> {
        let record = self.inner.state.get(channel)?.ok_or(WalletError::UnknownChannel(channel))?;
        Ok((!record.signed.is_zero()).then(|| self.signature_at(channel, record.signed)))
    }

    /// What names have come to mean.
    pub(crate) fn names(&self) -> NameMemory {
        NameMemory::of_wallet(self.dir())
    }

    /// Takes the right to lock money in channels from other processes; none if one of them has it.
    pub(crate) fn hold_purse(&self) -> Result<Option<Arc<Hold>>, WalletError> {
        Ok(self.inner.holds.share(PURSE)?)
    }

    /// Whether the owner's key is here: without it money can be signed away, but not moved on chain.
    pub fn is_owner(&self) -> bool {
        matches!(self.inner.keys.owner, Owner::Here(_))
    }

    /// What the owner lets this wallet do, if it is a session key's.
    pub fn delegation(&self) -> Option<&Delegation> {
        self.delegated().map(Delegated::delegation)
    }

    pub(crate) fn owner_key(&self) -> Result<&Keypair, MoneyError> {
        match &self.inner.keys.owner {
            Owner::Here(key) => Ok(key),
            Owner::Elsewhere(_) => Err(MoneyError::OwnerNeeded { owner: self.owner() }),
        }
    }

    fn delegated(&self) -> Option<&Delegated> {
        match &self.inner.keys.owner {
            Owner::Here(_) => None,
            Owner::Elsewhere(delegated) => Some(delegated),
        }
    }

    /// Whether this wallet may sign for a node now. A session key's wallet is asked before a request begins, so that
    /// nothing is taken that could not be paid; its end comes [`END_MARGIN_S`] early for that.
    pub(crate) fn may_pay(&self, node: NodeId) -> Result<(), WalletError> {
        let Some(delegated) = self.delegated() else { return Ok(()) };
        let now = self.inner.state.now()?;
        delegated.allows(node, Amount::ZERO, now.saturating_add(END_MARGIN_S)).map_err(|beyond| match beyond {
            Beyond::Expired { expires_at, .. } => Beyond::Expired { expires_at, now },
            other => other,
        })?;
        Ok(())
    }

    /// Takes in the chain's identity and time: a delegation is for one chain, and its end is seen by either clock.
    pub(crate) fn arrive(&self, chain: &ChainIds, clock: i64) -> Result<(), WalletError> {
        let Some(delegated) = self.delegated() else { return Ok(()) };
        if delegated.delegation().chain != *chain {
            return Err(WalletError::OtherChain);
        }
        self.inner.state.saw(clock)
    }

    /// The transaction that is on its way for a node, if one is.
    pub(crate) fn pending(&self, node: NodeId) -> Result<Option<Vec<u8>>, WalletError> {
        self.inner.state.fact(&pending_key(node))
    }

    /// When a channel was last seen to be used, by the chain's clock, and what was signed on it by then.
    pub(crate) fn last_use(&self, channel: ChannelId) -> Result<Option<LastUse>, WalletError> {
        Ok(self.inner.state.fact(&use_key(channel))?.as_deref().and_then(LastUse::decode))
    }

    /// Writes down when a channel was last seen to be used.
    pub(crate) fn keep_last_use(&self, channel: ChannelId, used: Option<LastUse>) -> Result<(), WalletError> {
        self.inner.state.keep(&use_key(channel), used.map(LastUse::encode).as_ref().map(|bytes| &bytes[..]))
    }

    pub(crate) fn signed_in_all(&self) -> Result<Amount, WalletError> {
        let records = self.inner.state.all()?;
        Ok(records.iter().fold(Amount::ZERO, |sum, record| sum.saturating_add(record.signed)))
    }

    pub(crate) fn signer_key(&self) -> &SecretKey {
        &self.inner.keys.signer
    }

    pub(crate) fn record(&self, channel: ChannelId) -> Result<Option<ChannelRecord>, WalletError> {
        self.inner.state.get(channel)
    }

    /// Up to which a channel's bill was said to have risen, shared by all its lanes. Where none was before, that is what
    /// is signed: earlier processes have said it.
    fn counted(&self, channel: ChannelId, signed: Amount) -> Arc<AtomicU64> {
        let mut counted = self.inner.counted.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(counted.entry(channel).or_insert_with(|| Arc::new(AtomicU64::new(signed.get()))))
    }

    /// The open channel to a node, as far as the record knows.
    pub(crate) fn open_channel_to(&self, node: NodeId) -> Result<Option<ChannelRecord>, WalletError> {
        let open = |record: &ChannelRecord| record.node == node && record.is_open();
        Ok(self.inner.state.all()?.into_iter().filter(open).max_by_key(|record| record.nonce))
    }

    /// Takes a channel for this process, as long as what comes back lives; tasks that use this handle share it.
    pub(crate) fn hold(&self, channel: ChannelId) -> Result<Arc<Hold>, WalletError> {
        let hold = self.inner.holds.share(&format!("channel-{channel}"))?;
        hold.ok_or(WalletError::ChannelInUse(channel))
    }

    /// The database behind it.
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.inner.ledger
    }

    /// Takes in what the chain says of a channel; what was signed stays.
    pub(crate) fn remember(&self, record: ChannelRecord) -> Result<(), WalletError> {
        self.inner.state.remember(record)
    }

    /// Marks a channel as in use, before it is bound. Also says which processes have died since with the channel in use.
    /// Blocks on the wallet's disk.
    pub(crate) fn mark_in_use(&self, channel: ChannelId) -> Result<(InUse, Left), WalletError> {
        let folder = |source| WalletError::Folder { path: self.dir().to_owned(), source };
        let mut id = [0; BIND_ID_LEN];
        getrandom::fill(&mut id).map_err(|_| LedgerError::Impossible("a system without random bytes"))?;
        let (in_use, mut left) = InUse::mark(self.dir(), channel, BindId::from_bytes(id)).map_err(folder)?;
        left.signed(self.record(channel)?.map_or(Amount::ZERO, |record| record.signed));
        Ok((in_use, left))
    }

    /// What died processes may have left open on a channel is made good.
    fn forget(&self, left: Left) -> Result<(), WalletError> {
        left.forget().map_err(|source| WalletError::Folder { path: self.dir().to_owned(), source })
    }

    /// Raises the record to a voucher of ours that a node has shown, and to what was conceded to it.
    pub(crate) fn adopt(&self, channel: ChannelId, signed: Amount, conceded: u128) -> Result<(), WalletError> {
        self.inner.state.adopt(channel, signed, conceded)
    }

    fn signature_at(&self, channel: ChannelId, cumulative: Amount) -> SignedVoucher {
        Voucher { channel, cumulative, expires_at: NEVER }.sign(&self.inner.keys.signer)
    }
}

/// A channel's last use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastUse {
    /// Unix second, by the chain's clock.
    pub(crate) at: i64,
    /// Base units signed by then.
    pub(crate) signed: Amount,
}

impl LastUse {
    fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.at.to_le_bytes());
        bytes[8..].copy_from_slice(&self.signed.get().to_le_bytes());
        bytes
    }

    /// What cannot be read was not written by us: the channel's use is then counted from now on.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (at, signed) = bytes.split_first_chunk::<8>()?;
        let signed = u64::from_le_bytes(signed.try_into().ok()?);
        Some(Self { at: i64::from_le_bytes(*at), signed: Amount::new(signed) })
    }
}

/// Seconds before a delegation's end in which no request is begun any more.
const END_MARGIN_S: i64 = 60;
/// The name that is held while money is locked in channels.
const PURSE: &str = "purse";

/// The name under which a node's transaction on its way is kept.
fn pending_key(node: NodeId) -> Vec<u8> {
    [b"pending/", &node.as_bytes()[..]].concat()
}

fn use_key(channel: ChannelId) -> Vec<u8> {
    [b"used/", &channel.as_bytes()[..]].concat()
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wallet").field("owner", &self.owner()).field("signer", &self.signer()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{Purpose, Spending};

    fn wallet_with_channel(dir: &Path, deposit: u64) -> (Wallet, ChannelId) {
        let wallet = Wallet::create(dir).unwrap();
        let channel = ChannelId::from_bytes([9; 32]);
        wallet.remember(ChannelRecord::open(channel, NodeId::from_bytes([1; 32]), Amount::new(deposit), 0)).unwrap();
        (wallet, channel)
    }

    // r[verify voucher.record.before_send]
    #[test]
    fn what_was_signed_is_still_known_after_a_restart_and_only_rises() {
        let dir = tempfile::tempdir().unwrap();
        let purpose = Purpose::vouchers(NodeId::from_bytes([1; 32]));
        let capped = Policy { total: Some(Amount::new(100)), ..Policy::default() };
        let (wallet, channel) = wallet_with_channel(dir.path(), 50);
        let guard = wallet.budget(capped.clone()).unwrap();
        let permit = |amount| guard.reserve(&purpose, Amount::new(amount)).unwrap();
        let first = wallet.sign_voucher(permit(10), channel, Amount::new(10)).unwrap();
        assert!(first.verify(&wallet.signer()).is_ok());
        drop((wallet, guard));

        let wallet = Wallet::open(dir.path()).unwrap();
        let guard = wallet.budget(capped).unwrap();
        let permit = |amount| guard.reserve(&purpose, Amount::new(amount)).unwrap();
        assert_eq!(wallet.last_voucher(channel).unwrap(), Some(first));
        for (amount, cumulative) in [(10, 10), (10, 9)] {
            let refused = wallet.sign_voucher(permit(amount), channel, Amount::new(cumulative));
            assert!(matches!(refused, Err(WalletError::NotRising { .. })));
        }
        let above = wallet.sign_voucher(permit(41), channel, Amount::new(51));
        assert!(matches!(above, Err(WalletError::AboveDeposit { .. })));
        let unpermitted = wallet.sign_voucher(permit(4), channel, Amount::new(15));
        assert!(matches!(unpermitted, Err(WalletError::NotPermitted { .. })));
        assert_eq!(guard.spent(Spending::Vouchers), Amount::new(10));
        assert_eq!(guard.reserved(Spending::Vouchers), Amount::ZERO);

        // A permit larger than the rise gives the rest back.
        wallet.sign_voucher(permit(90), channel, Amount::new(15)).unwrap();
        assert_eq!(guard.spent(Spending::Vouchers), Amount::new(15));
    }

    #[test]
    fn news_from_the_chain_leaves_what_was_signed_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (wallet, channel) = wallet_with_channel(dir.path(), 50);
        let guard = wallet.budget(Policy::default()).unwrap();
        let permit = guard.reserve(&Purpose::vouchers(NodeId::from_bytes([1; 32])), Amount::new(50)).unwrap();
        wallet.sign_voucher(permit, channel, Amount::new(20)).unwrap();
        wallet.remember(ChannelRecord::open(channel, NodeId::from_bytes([1; 32]), Amount::new(80), 0)).unwrap();
        let record = wallet.record(channel).unwrap().unwrap();
        assert_eq!((record.signed, record.deposit), (Amount::new(20), Amount::new(80)));
        wallet.adopt(channel, Amount::new(10), 7).unwrap();
        assert_eq!(wallet.record(channel).unwrap().unwrap().signed, Amount::new(20));
        wallet.adopt(channel, Amount::new(30), 5).unwrap();
        let record = wallet.record(channel).unwrap().unwrap();
        assert_eq!((record.signed, record.conceded), (Amount::new(30), 7));
    }

    #[test]
    fn a_wallet_is_made_once_and_each_channel_used_by_one_handle() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("wallet");
        assert!(matches!(Wallet::open(&home), Err(WalletError::Missing(_))));
        let wallet = Wallet::create(&home).unwrap();
        assert!(matches!(Wallet::create(&home), Err(WalletError::Exists(_))));
        assert_eq!(Wallet::addresses(&home).unwrap(), (wallet.owner(), wallet.signer()));
        assert_ne!(wallet.owner().to_bytes(), wallet.signer().to_bytes());

        let other = Wallet::open(&home).unwrap();
        let (mine, another) = (ChannelId::from_bytes([1; 32]), ChannelId::from_bytes([2; 32]));
        let held = wallet.hold(mine).unwrap();
        let refused = other.hold(mine).unwrap_err();
        assert!(matches!(refused, WalletError::ChannelInUse(channel) if channel == mine) && refused.is_retryable());
        assert!(other.hold(another).is_ok());
        drop(held);
        assert!(other.hold(mine).is_ok());
    }

    #[test]
    fn two_handles_on_one_wallet_never_sign_the_same_money() {
        let dir = tempfile::tempdir().unwrap();
        let (wallet, channel) = wallet_with_channel(dir.path(), 50);
        let other = Wallet::open(dir.path()).unwrap();
        let (ours, theirs) = (wallet.budget(Policy::default()).unwrap(), other.budget(Policy::default()).unwrap());
        let purpose = Purpose::vouchers(NodeId::from_bytes([1; 32]));
        let permit = |guard: &BudgetGuard| guard.reserve(&purpose, Amount::new(10)).unwrap();
        wallet.sign_voucher(permit(&ours), channel, Amount::new(10)).unwrap();
        assert!(matches!(
            other.sign_voucher(permit(&theirs), channel, Amount::new(10)),
            Err(WalletError::NotRising { signed, .. }) if signed == Amount::new(10)
        ));
        assert!(matches!(other.sign_voucher(permit(&ours), channel, Amount::new(20)), Err(WalletError::OtherPermit)));
        other.sign_voucher(permit(&theirs), channel, Amount::new(20)).unwrap();
        assert_eq!(ours.spent(Spending::Vouchers), Amount::new(20));
        assert_eq!(wallet.record(channel).unwrap().unwrap().signed, Amount::new(20));
    }
}
