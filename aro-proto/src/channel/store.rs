//! From verified to durable: the only way a voucher can become credit.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use thiserror::Error;

use super::voucher::{SignedVoucher, VerifiedVoucher};
use crate::amount::Amount;
use crate::ids::{AgentId, ChannelId};

/// Where a node keeps the best voucher of each channel.
///
/// `persist` returns when the whole batch survives a crash: one sync for all channels. Of several vouchers of one
/// channel the highest stays; a lower one never replaces a higher one.
pub trait VoucherStore {
    /// Why the store could not write or read.
    type Error;

    /// Makes the batch durable, whole or not at all.
    fn persist(&self, batch: &[VerifiedVoucher]) -> Result<(), Self::Error>;

    /// The best durable voucher of a channel.
    fn load(&self, channel: ChannelId) -> Result<Option<SignedVoucher>, Self::Error>;
}

/// A verified voucher that survives a crash. Only [`persist_all`] and [`restore`] make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurableVoucher(VerifiedVoucher);

/// Why a stored voucher could not be taken up again.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum RestoreError<E> {
    /// The store could not read.
    #[error("the voucher store could not be read: {0}")]
    Store(E),
    /// The stored bytes do not verify: the store is damaged, or of another channel.
    #[error("the stored voucher of channel {channel} does not verify")]
    Damaged {
        /// The channel that was asked for.
        channel: ChannelId,
    },
}

/// Persists a batch; what comes back may be credited. On an error nothing may be credited: tell each payee by
/// [`Payee::persist_failed`](super::Payee::persist_failed).
// r[impl channel.persist_before_credit]
pub fn persist_all<S: VoucherStore>(store: &S, batch: Vec<VerifiedVoucher>) -> Result<Vec<DurableVoucher>, S::Error> {
    if !batch.is_empty() {
        store.persist(&batch)?;
    }
    Ok(batch.into_iter().map(DurableVoucher).collect())
}

/// Takes up a channel's best voucher after a restart; the signature is checked again.
pub fn restore<S: VoucherStore>(
    store: &S,
    channel: ChannelId,
    signer: &AgentId,
) -> Result<Option<DurableVoucher>, RestoreError<S::Error>> {
    let Some(stored) = store.load(channel).map_err(RestoreError::Store)? else { return Ok(None) };
    if stored.voucher.channel != channel {
        return Err(RestoreError::Damaged { channel });
    }
    let verified = stored.verify(signer).map_err(|_| RestoreError::Damaged { channel })?;
    Ok(Some(DurableVoucher(verified)))
}

impl DurableVoucher {
    /// The voucher as it was verified.
    pub fn verified(&self) -> &VerifiedVoucher {
        &self.0
    }

    /// The voucher with its signature, as sent to an operator.
    pub fn signed(&self) -> &SignedVoucher {
        self.0.signed()
    }

    /// Everything paid so far, in base units.
    pub fn cumulative(&self) -> Amount {
        self.0.cumulative()
    }
}

/// The reference store: in memory, for tests and for what other stores are compared with. Durable as long as
/// the process.
#[derive(Debug, Default)]
pub struct MemoryVouchers {
    best: Mutex<HashMap<ChannelId, SignedVoucher>>,
}

impl VoucherStore for MemoryVouchers {
    type Error = Infallible;

    fn persist(&self, batch: &[VerifiedVoucher]) -> Result<(), Infallible> {
        let mut best = self.best.lock().unwrap_or_else(PoisonError::into_inner);
        for voucher in batch {
            let kept = best.entry(voucher.channel()).or_insert(*voucher.signed());
            if kept.voucher.cumulative < voucher.cumulative() {
                *kept = *voucher.signed();
            }
        }
        Ok(())
    }

    fn load(&self, channel: ChannelId) -> Result<Option<SignedVoucher>, Infallible> {
        Ok(self.best.lock().unwrap_or_else(PoisonError::into_inner).get(&channel).copied())
    }
}
