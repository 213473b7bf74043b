//! Who signs transactions: a key in this process, a remote signer, a key management service.

use std::sync::Arc;

use async_trait::async_trait;
use solana_address::Address;
use solana_keypair::Keypair;
use solana_signature::Signature;
use solana_signer::Signer;

/// Holds one key and signs with it. The message is a whole serialized transaction message, so that a remote signer
/// can read what it signs and refuse what it does not like.
///
/// Whoever asks checks the signature before it uses it: a signer is trusted with its key, not with being right.
#[async_trait]
pub trait TransactionSigner: Send + Sync {
    /// The key's address.
    fn address(&self) -> Address;

    /// Signs a transaction message. Signing the same message again may give another valid signature.
    async fn sign(&self, message: &[u8]) -> Result<Signature, SigningError>;
}

/// Why there is no signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    /// The signer cannot be reached, or is busy.
    #[error("the signer of {address} cannot be reached: {reason}; retry, or look after it")]
    Unavailable {
        /// Whose signature is missing.
        address: Address,
        /// What happened.
        reason: String,
    },
    /// The signer will not sign this.
    #[error("the signer of {address} refuses: {reason}")]
    Refused {
        /// Whose signature is missing.
        address: Address,
        /// Its words.
        reason: String,
    },
    /// The signer gave a signature that its key did not make over this message.
    #[error("the signer of {0} gave a signature that does not verify; check which key it holds")]
    Invalid(Address),
}

impl SigningError {
    /// True if the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

#[async_trait]
impl TransactionSigner for Keypair {
    fn address(&self) -> Address {
        self.pubkey()
    }

    async fn sign(&self, message: &[u8]) -> Result<Signature, SigningError> {
        Ok(self.sign_message(message))
    }
}

#[async_trait]
impl<T: TransactionSigner + ?Sized> TransactionSigner for Arc<T> {
    fn address(&self) -> Address {
        (**self).address()
    }

    async fn sign(&self, message: &[u8]) -> Result<Signature, SigningError> {
        (**self).sign(message).await
    }
}
