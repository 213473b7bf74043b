//! The wallet: keys and the durable record of what was signed with them.
//!
//! It knows nothing of fetching. It signs a voucher only against a [`SpendPermit`](crate::SpendPermit), and only
//! after the amount is on disk: whatever happens afterwards, the record is never below what a node may hold.

mod channels;
mod keystore;
mod lane;
mod marker;
mod money;
mod state;

use std::path::Path;
use std::sync::Arc;

use aro_proto::channel::{SignedVoucher, Voucher};
use aro_proto::{AgentId, Amount, ChannelId, NodeId, SecretKey};
use settlement_chain::keyfile::KeyfileError;
use settlement_chain::{Keypair, Signer};
use settlement_interface::voucher::NEVER;
use thiserror::Error;

pub use channels::{ChannelInfo, ChannelPhase, OpenedChannel, Reclaimed};
pub(crate) use lane::Lane;
pub use money::{Money, MoneyError, Place, WalletStatus};
pub(crate) use state::ChannelRecord;

use crate::budget::SpendPermit;
use crate::names::memory::NameMemory;
use keystore::Keys;
use marker::InUse;
use state::State;

/// An agent's keys and its record of what they signed. Clones share both.
#[derive(Clone)]
pub struct Wallet {
    inner: Arc<Inner>,
}

struct Inner {
    dir: std::path::PathBuf,
    keys: Keys,
    state: State,
}

/// Why the wallet on disk cannot be used, or will not sign.
#[derive(Debug, Error)]
pub enum WalletError {
    /// There is no wallet in this folder.
    #[error("there is no wallet in {0}")]
    Missing(std::path::PathBuf),
    /// There is one already, and keys are never overwritten.
    #[error("there is a wallet in {0} already")]
    Exists(std::path::PathBuf),
    /// A key file cannot be read or written.
    #[error(transparent)]
    Key(#[from] KeyfileError),
    /// The folder cannot be made.
    #[error("folder {path}: {source}")]
    Folder {
        /// The folder.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process has the wallet open: two could sign the same money away.
    #[error("another process is using the wallet in {0}")]
    InUse(std::path::PathBuf),
    /// The record of vouchers cannot be read or written.
    #[error("the wallet's record: {0}")]
    Store(#[from] redb::Error),
    /// A record that this version cannot read.
    #[error("the wallet's record of channel {0} cannot be read")]
    Damaged(ChannelId),
    /// The channel is not in the record.
    #[error("the wallet has no record of channel {0}")]
    UnknownChannel(ChannelId),
    /// A voucher at or below what was signed before.
    #[error("{asked} $ARO is not above the {signed} $ARO signed before on channel {channel}")]
    NotRising {
        /// The channel.
        channel: ChannelId,
        /// Asked to sign, in base units.
        asked: Amount,
        /// Signed before, in base units.
        signed: Amount,
    },
    /// A voucher above the deposit.
    #[error("{asked} $ARO is above the {deposit} $ARO that channel {channel} holds")]
    AboveDeposit {
        /// The channel.
        channel: ChannelId,
        /// Asked to sign, in base units.
        asked: Amount,
        /// The deposit, in base units.
        deposit: Amount,
    },
    /// The permit does not cover the voucher's rise.
    #[error("the permit covers {permitted} $ARO, the voucher pays {rise} more")]
    NotPermitted {
        /// What the permit covers, in base units.
        permitted: Amount,
        /// What the voucher pays beyond the one before, in base units.
        rise: Amount,
    },
}

impl WalletError {
    /// True if the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::InUse(_)) || matches!(self, Self::Key(error) if error.is_retryable())
    }

    /// What to do next, for people.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Missing(_) => "make one with `aro keys new`, or point --home at it",
            Self::Exists(_) => "use it, or give another --home",
            Self::InUse(_) => "wait for the other command to end",
            Self::Key(_) | Self::Folder { .. } => "check the folder, the key files and their permissions",
            Self::Store(_) | Self::Damaged(_) => {
                "check the disk; with a new record file the wallet learns its channels from the chain and the nodes"
            }
            Self::UnknownChannel(_) => "look at `aro channel list`",
            Self::NotRising { .. } | Self::AboveDeposit { .. } | Self::NotPermitted { .. } => {
                "nothing was signed; report this, for it should not happen"
            }
        }
    }
}

impl Wallet {
    /// Makes a new wallet: an owner key, a signer key and an empty record, readable by this user only.
    ///
    /// # Errors
    /// There is one already, or the folder cannot be written.
    pub fn create(dir: &Path) -> Result<Self, WalletError> {
        let keys = Keys::create(dir)?;
        Ok(Self { inner: Arc::new(Inner { dir: dir.to_owned(), keys, state: State::open(dir)? }) })
    }

    /// Opens a wallet. One process at a time may have it open.
    ///
    /// # Errors
    /// There is none, others may read its keys, or another process has it open.
    pub fn open(dir: &Path) -> Result<Self, WalletError> {
        let keys = Keys::open(dir)?;
        Ok(Self { inner: Arc::new(Inner { dir: dir.to_owned(), keys, state: State::open(dir)? }) })
    }

    /// The addresses of a wallet's keys, without opening its record.
    ///
    /// # Errors
    /// As [`open`](Self::open), but for another process.
    pub fn addresses(dir: &Path) -> Result<(settlement_chain::Address, AgentId), WalletError> {
        let keys = Keys::open(dir)?;
        Ok((keys.owner.pubkey(), keys.signer.agent_id()))
    }

    /// The cold key's address: owns the money, opens and closes channels.
    pub fn owner(&self) -> settlement_chain::Address {
        self.inner.keys.owner.pubkey()
    }

    /// The session key's id: signs requests and vouchers, and can lose no more than what channels hold.
    pub fn signer(&self) -> AgentId {
        self.inner.keys.signer.agent_id()
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
        permit: SpendPermit,
        channel: ChannelId,
        cumulative: Amount,
    ) -> Result<SignedVoucher, (SpendPermit, WalletError)> {
        match self.inner.state.raise(channel, cumulative, permit.amount()) {
            Ok(rise) => {
                permit.commit(rise);
                Ok(self.signature_at(channel, cumulative))
            }
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
        NameMemory::of_wallet(&self.inner.dir)
    }

    pub(crate) fn owner_key(&self) -> &Keypair {
        &self.inner.keys.owner
    }

    pub(crate) fn signer_key(&self) -> &SecretKey {
        &self.inner.keys.signer
    }

    pub(crate) fn record(&self, channel: ChannelId) -> Result<Option<ChannelRecord>, WalletError> {
        self.inner.state.get(channel)
    }

    /// The open channel to a node, as far as the record knows.
    pub(crate) fn open_channel_to(&self, node: NodeId) -> Result<Option<ChannelRecord>, WalletError> {
        let open = |record: &ChannelRecord| record.node == node && record.is_open();
        Ok(self.inner.state.all()?.into_iter().filter(open).max_by_key(|record| record.nonce))
    }

    /// Takes in what the chain says of a channel; what was signed stays.
    pub(crate) fn remember(&self, record: ChannelRecord) -> Result<(), WalletError> {
        self.inner.state.remember(record)
    }

    /// Marks a channel as in use. Also says whether a process has died since with the channel in use.
    fn mark_in_use(&self, channel: ChannelId) -> Result<(InUse, bool), WalletError> {
        InUse::mark(&self.inner.dir, channel)
            .map_err(|source| WalletError::Folder { path: self.inner.dir.clone(), source })
    }

    /// Raises the record to a voucher of ours that a node has shown, and to what was conceded to it.
    pub(crate) fn adopt(&self, channel: ChannelId, signed: Amount, conceded: u128) -> Result<(), WalletError> {
        self.inner.state.adopt(channel, signed, conceded)
    }

    fn signature_at(&self, channel: ChannelId, cumulative: Amount) -> SignedVoucher {
        Voucher { channel, cumulative, expires_at: NEVER }.sign(&self.inner.keys.signer)
    }
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wallet").field("owner", &self.owner()).field("signer", &self.signer()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{BudgetGuard, Spending};

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
        let guard = BudgetGuard::new(Amount::new(100));
        let permit = |amount| guard.reserve(Spending::Vouchers, Amount::new(amount)).unwrap();
        let (wallet, channel) = wallet_with_channel(dir.path(), 50);
        let first = wallet.sign_voucher(permit(10), channel, Amount::new(10)).unwrap();
        assert!(first.verify(&wallet.signer()).is_ok());
        drop(wallet);

        let wallet = Wallet::open(dir.path()).unwrap();
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
        let guard = BudgetGuard::unlimited();
        let (wallet, channel) = wallet_with_channel(dir.path(), 50);
        let permit = guard.reserve(Spending::Vouchers, Amount::new(50)).unwrap();
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
    fn a_wallet_is_made_once_and_opened_by_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("wallet");
        assert!(matches!(Wallet::open(&home), Err(WalletError::Missing(_))));
        let wallet = Wallet::create(&home).unwrap();
        assert!(matches!(Wallet::create(&home), Err(WalletError::Exists(_))));
        assert!(matches!(Wallet::open(&home), Err(WalletError::InUse(_))));
        assert_eq!(Wallet::addresses(&home).unwrap(), (wallet.owner(), wallet.signer()));
        assert_ne!(wallet.owner().to_bytes(), wallet.signer().to_bytes());
    }
}
