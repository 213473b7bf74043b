//! Vouchers: the agent's signature over a channel's cumulative amount, and what is wrong with a bad one.

use settlement_interface::voucher::{VOUCHER_LEN, voucher_bytes};
use thiserror::Error;

use crate::amount::Amount;
use crate::error::{Refusal, RefusalCode};
use crate::identity::{SecretKey, Signature, SignatureError, Unverified, Verifier, VerifyingKey};
use crate::ids::{AgentId, ChannelId};

/// What a voucher says: `cumulative` base units of this channel belong to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voucher {
    /// The channel's address on chain.
    pub channel: ChannelId,
    /// Everything paid so far, this voucher included, in base units.
    pub cumulative: Amount,
    /// Unix second at which the voucher is dead, or 0 for never.
    pub expires_at: i64,
}

/// A voucher with a signature that nobody has looked at yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedVoucher {
    /// What is signed.
    pub voucher: Voucher,
    /// Raw ed25519 over the 50 bytes.
    pub signature: Signature,
}

/// A voucher whose signature holds strictly. Only [`SignedVoucher::verify`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifiedVoucher {
    signed: SignedVoucher,
    signer: AgentId,
}

/// Why a voucher does not count. Whatever the chain would refuse is refused here too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum VoucherError {
    /// It pays on another channel.
    #[error("the voucher is for channel {got}, not {expected}")]
    WrongChannel {
        /// The channel that it was offered on.
        expected: ChannelId,
        /// The channel that it names.
        got: ChannelId,
    },
    /// It pays no more than what is already known.
    #[error("the voucher pays {offered} in total, the watermark is already {watermark}")]
    NotRising {
        /// The highest amount known to the node or the chain.
        watermark: Amount,
        /// The voucher's amount.
        offered: Amount,
    },
    /// It pays exactly the watermark, but in other bytes than the known voucher.
    #[error("another voucher for the same total of {cumulative} is already known")]
    EqualDiffers {
        /// The amount that both pay.
        cumulative: Amount,
    },
    /// It pays more than the channel holds.
    #[error("the voucher pays {offered} in total, the deposit is {deposit}")]
    AboveDeposit {
        /// What the channel holds.
        deposit: Amount,
        /// The voucher's amount.
        offered: Amount,
    },
    /// It is dead already.
    #[error("the voucher expired at {expires_at}, now is {now} (unix seconds)")]
    Expired {
        /// Unix second of its death.
        expires_at: i64,
        /// Unix second of the check.
        now: i64,
    },
    /// It might die before it is settled.
    #[error("the voucher expires at {expires_at}, before {earliest} (unix seconds), so it may not settle in time")]
    ExpiresTooSoon {
        /// Unix second of its death.
        expires_at: i64,
        /// The earliest expiry that would be taken now.
        earliest: i64,
    },
    /// The signature does not hold, or the key is weak.
    #[error("the voucher's signature is not the channel signer's")]
    BadSignature,
    /// Nothing settles on this channel any more.
    #[error("the channel is closed, or past the deadline of its closing")]
    ChannelClosed,
}

impl VoucherError {
    /// The code on the wire.
    pub fn refusal_code(&self) -> RefusalCode {
        match self {
            Self::WrongChannel { .. } => RefusalCode::VoucherWrongChannel,
            Self::NotRising { .. } => RefusalCode::VoucherNotRising,
            Self::EqualDiffers { .. } => RefusalCode::VoucherEqualDiffers,
            Self::AboveDeposit { .. } => RefusalCode::VoucherAboveDeposit,
            Self::Expired { .. } | Self::ExpiresTooSoon { .. } => RefusalCode::VoucherExpired,
            Self::BadSignature => RefusalCode::VoucherBadSignature,
            Self::ChannelClosed => RefusalCode::ChannelUnusable,
        }
    }

    /// The refusal to send, with the amount that it speaks of.
    pub fn refusal(&self) -> Refusal {
        let refusal = Refusal::new(self.refusal_code(), self.to_string());
        match *self {
            Self::NotRising { watermark: amount, .. }
            | Self::EqualDiffers { cumulative: amount }
            | Self::AboveDeposit { deposit: amount, .. } => refusal.with_amount(amount),
            _ => refusal,
        }
    }
}

impl Voucher {
    /// The 50 bytes that are signed.
    // r[impl voucher.bytes]
    pub fn to_bytes(&self) -> [u8; VOUCHER_LEN] {
        voucher_bytes(self.channel.as_bytes(), self.cumulative.get(), self.expires_at)
    }

    /// Signs: from here on the amount is spent. The same voucher always gets the same signature.
    pub fn sign(self, key: &SecretKey) -> SignedVoucher {
        SignedVoucher { voucher: self, signature: key.sign(&self.to_bytes()) }
    }
}

impl SignedVoucher {
    /// Checks the signature against the channel's signer, strictly.
    ///
    /// # Errors
    /// [`VoucherError::BadSignature`] for a signature of another key, over other bytes, or in a lax encoding.
    // r[impl voucher.signature.strict]
    pub fn verify(&self, signer: &AgentId) -> Result<VerifiedVoucher, VoucherError> {
        let key = VerifyingKey::from_bytes(signer.as_bytes()).map_err(|_| VoucherError::BadSignature)?;
        self.verify_with(&key)
    }

    /// The same with a signer's key that is decoded already.
    ///
    /// # Errors
    /// As [`Self::verify`].
    // r[impl voucher.signature.strict]
    pub fn verify_with(&self, signer: &VerifyingKey) -> Result<VerifiedVoucher, VoucherError> {
        self.verified(signer, signer.verify_strict(&self.voucher.to_bytes(), &self.signature))
    }

    /// The same by a verifier that knows the signers that sign often.
    ///
    /// # Errors
    /// As [`Self::verify`].
    // r[impl voucher.signature.strict]
    pub fn verify_by(&self, verifier: &Verifier, signer: &VerifyingKey) -> Result<VerifiedVoucher, VoucherError> {
        self.verified(signer, verifier.verify_strict(signer, &self.voucher.to_bytes(), &self.signature))
    }

    /// The same for many at once, each with its channel's signer, in their order: faster than one by one.
    // r[impl voucher.signature.strict]
    pub fn verify_all(
        verifier: &Verifier,
        vouchers: &[(Self, &VerifyingKey)],
    ) -> Vec<Result<VerifiedVoucher, VoucherError>> {
        let messages: Vec<[u8; VOUCHER_LEN]> = vouchers.iter().map(|(signed, _)| signed.voucher.to_bytes()).collect();
        let unverified = vouchers.iter().zip(&messages).map(|((signed, key), message)| Unverified {
            key,
            message,
            signature: &signed.signature,
        });
        let verified = verifier.verify_all(&unverified.collect::<Vec<_>>());
        vouchers.iter().zip(verified).map(|((signed, key), is_signed)| signed.verified(key, is_signed)).collect()
    }

    fn verified(
        &self,
        signer: &VerifyingKey,
        is_signed: Result<(), SignatureError>,
    ) -> Result<VerifiedVoucher, VoucherError> {
        is_signed.map_err(|_| VoucherError::BadSignature)?;
        Ok(VerifiedVoucher { signed: *self, signer: AgentId::from_bytes(*signer.as_bytes()) })
    }
}

impl VerifiedVoucher {
    /// The voucher with its signature, as stored and sent.
    pub fn signed(&self) -> &SignedVoucher {
        &self.signed
    }

    /// The channel that it pays on.
    pub fn channel(&self) -> ChannelId {
        self.signed.voucher.channel
    }

    /// Everything paid so far, in base units.
    pub fn cumulative(&self) -> Amount {
        self.signed.voucher.cumulative
    }

    /// The key that signed.
    pub fn signer(&self) -> AgentId {
        self.signer
    }
}
