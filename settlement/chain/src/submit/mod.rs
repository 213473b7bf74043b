//! From instructions to a confirmed transaction.
//!
//! [`submit`] does it all. Who must survive a crash in between (the settlement operator) takes the three steps
//! apart: [`prepare`] signs, the caller makes [`Prepared::to_bytes`] durable, [`confirm`] sends the same bytes
//! again and again until the chain has confirmed them or never will; [`outcome`] asks what became of them later.
//!
//! Who sends batches, or must not be late, also asks which format the chain takes ([`FormatChoice`]) and on which terms a
//! batch goes out ([`offer`]): limits from a simulation, a price by a [`FeePolicy`] within a [`FeeBudget`].

mod compute;
mod confirm;
mod effects;
mod error;
mod fees;
mod format;
mod message;
mod offer;
#[cfg(test)]
mod scripted;

use solana_address::Address;
use solana_hash::Hash;
use solana_instruction::Instruction;
use solana_message::VersionedMessage;
use solana_signature::Signature;
use solana_transaction::versioned::VersionedTransaction;

pub use compute::compute_units;
pub use confirm::{Outcome, confirm, outcome};
pub use error::{Refusal, Remedy, Shortage, SubmitError};
pub use fees::{BadFeePolicy, FeeBudget, FeePolicy, LanePolicy, Spent};
pub use format::{FormatChoice, UnknownFormat, probe_v1};
pub use message::{
    MAX_COMPUTE_UNITS, MAX_LOADED_DATA, Terms, TransactionFormat, offered_priority_fee, price_within, wire_size,
};
pub use offer::{Offer, offer, priced};

use crate::{
    ChainClient, ChainError, Simulation,
    client::{check_size, wire_bytes},
    signer::{SigningError, TransactionSigner},
};

/// Signs, sends and confirms `instructions` in one transaction, paid by `payer`. `signers` are the other keys that
/// the instructions name as signers; a key that is not needed is ignored.
///
/// # Errors
/// Each error of [`SubmitError`] says whether anything can have happened on chain and who must act.
pub async fn submit(
    chain: &dyn ChainClient,
    payer: &dyn TransactionSigner,
    signers: &[&dyn TransactionSigner],
    instructions: &[Instruction],
) -> Result<Signature, SubmitError> {
    let prepared = prepare(chain, payer, signers, instructions).await?;
    confirm(chain, &prepared).await
}

/// A signed transaction that has not been sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Sent as it is, as often as needed: the chain takes it at most once.
    pub transaction: VersionedTransaction,
    /// The transaction's id.
    pub signature: Signature,
    /// Above this block height it can no longer land.
    pub last_valid_block_height: u64,
}

impl Prepared {
    /// For durable storage before the first send: last valid block height (u64 LE), then the wire bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ChainError> {
        let mut bytes = self.last_valid_block_height.to_le_bytes().to_vec();
        bytes.extend(wire_bytes(&self.transaction)?);
        Ok(bytes)
    }

    /// Reads what [`Self::to_bytes`] wrote; `None` if the bytes are anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (height, wire) = bytes.split_first_chunk::<8>()?;
        let transaction: VersionedTransaction = wincode::deserialize_exact(wire).ok()?;
        let signature = *transaction.signatures.first()?;
        Some(Self { transaction, signature, last_valid_block_height: u64::from_le_bytes(*height) })
    }
}

/// Signs `instructions` over a fresh blockhash, in the legacy format, with limits that surely fit them.
pub async fn prepare(
    chain: &dyn ChainClient,
    payer: &dyn TransactionSigner,
    signers: &[&dyn TransactionSigner],
    instructions: &[Instruction],
) -> Result<Prepared, SubmitError> {
    let terms = Terms::estimate(TransactionFormat::Legacy, instructions);
    prepare_with(chain, payer, signers, instructions, &terms).await
}

/// The same with terms of the caller's choice.
pub async fn prepare_with(
    chain: &dyn ChainClient,
    payer: &dyn TransactionSigner,
    signers: &[&dyn TransactionSigner],
    instructions: &[Instruction],
    terms: &Terms,
) -> Result<Prepared, SubmitError> {
    let blockhash = chain.latest_blockhash().await.map_err(SubmitError::NotSent)?;
    let message =
        message::message(terms, &payer.address(), instructions, blockhash.hash).map_err(SubmitError::NotSent)?;
    // Before anybody is asked to sign it.
    let mut transaction = message::unsigned(message);
    check_size(&transaction).map_err(SubmitError::NotSent)?;
    transaction.signatures = signatures(&transaction.message, payer, signers).await?;
    let signature = transaction.signatures.first().copied().unwrap_or_default();
    Ok(Prepared { transaction, signature, last_valid_block_height: blockhash.last_valid_block_height })
}

/// What the transaction of `instructions` would do and take, without signing it.
///
/// # Errors
/// [`SubmitError::NotSent`] if the chain does not say; a failure is an answer.
pub async fn simulate(
    chain: &dyn ChainClient,
    payer: &Address,
    instructions: &[Instruction],
    format: TransactionFormat,
) -> Result<(VersionedTransaction, Simulation), SubmitError> {
    let message = message::message(&Terms::widest(format), payer, instructions, Hash::default());
    let draft = message::unsigned(message.map_err(SubmitError::NotSent)?);
    let simulation = chain.simulate(&draft).await.map_err(SubmitError::NotSent)?;
    Ok((draft, simulation))
}

/// One signature for each key that the message needs, in its order, each of them verified.
async fn signatures(
    message: &VersionedMessage,
    payer: &dyn TransactionSigner,
    signers: &[&dyn TransactionSigner],
) -> Result<Vec<Signature>, SubmitError> {
    let bytes = message.serialize();
    let count = usize::from(message.header().num_required_signatures);
    let mut signatures = Vec::with_capacity(count);
    for address in message.static_account_keys().iter().take(count) {
        let signer = std::iter::once(&payer)
            .chain(signers)
            .find(|signer| signer.address() == *address)
            .ok_or(SubmitError::MissingSigner(*address))?;
        let signature = signer.sign(&bytes).await?;
        if !signature.verify(address.as_ref(), &bytes) {
            return Err(SigningError::Invalid(*address).into());
        }
        signatures.push(signature);
    }
    Ok(signatures)
}

#[cfg(test)]
mod tests {
    use solana_keypair::Keypair;
    use solana_message::Message;
    use solana_signer::Signer;

    use super::*;
    use crate::tokens;

    pub(super) fn prepared() -> Prepared {
        let payer = Keypair::new();
        let to = Address::new_from_array([1; 32]);
        let instruction = tokens::transfer_lamports(&payer.pubkey(), &to, 5);
        let message = Message::new(&[instruction], Some(&payer.pubkey()));
        let transaction = VersionedTransaction::try_new(VersionedMessage::Legacy(message), &[&payer]).unwrap();
        Prepared { signature: transaction.signatures[0], transaction, last_valid_block_height: 77 }
    }

    #[test]
    fn prepared_survives_storage_and_refuses_truncation() {
        let prepared = prepared();
        let bytes = prepared.to_bytes().unwrap();
        assert_eq!(Prepared::from_bytes(&bytes), Some(prepared));
        for len in [0, 7, 8, bytes.len() - 1] {
            assert_eq!(Prepared::from_bytes(&bytes[..len]), None, "{len} bytes");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(Prepared::from_bytes(&longer), None);
    }

    /// Signs with a key of its own, whatever address it claims.
    struct Liar(Keypair, Address);

    #[async_trait::async_trait]
    impl TransactionSigner for Liar {
        fn address(&self) -> Address {
            self.1
        }
        async fn sign(&self, message: &[u8]) -> Result<Signature, SigningError> {
            self.0.sign(message).await
        }
    }

    fn from_to(from: &Keypair, payer: &Keypair) -> VersionedMessage {
        let transfer = [tokens::transfer_lamports(&from.pubkey(), &Address::new_from_array([1; 32]), 5)];
        let terms = Terms::estimate(TransactionFormat::V1, &transfer);
        message::message(&terms, &payer.pubkey(), &transfer, Hash::default()).unwrap()
    }

    #[tokio::test]
    async fn unneeded_keys_are_ignored_and_missing_ones_named() {
        let [payer, other, unneeded] = [(); 3].map(|()| Keypair::new());
        let message = from_to(&other, &payer);
        let signed = signatures(&message, &payer, &[&unneeded, &other]).await.unwrap();
        let transaction = VersionedTransaction { signatures: signed, message: message.clone() };
        assert_eq!(transaction.verify_with_results(), [true, true]);
        let missing = signatures(&message, &payer, &[&unneeded]).await.unwrap_err();
        assert!(matches!(missing, SubmitError::MissingSigner(address) if address == other.pubkey()));
    }

    #[tokio::test]
    async fn signature_of_another_key_is_not_used() {
        let [payer, other] = [(); 2].map(|()| Keypair::new());
        let liar = Liar(Keypair::new(), other.pubkey());
        let error = signatures(&from_to(&other, &payer), &payer, &[&liar]).await.unwrap_err();
        assert!(matches!(error, SubmitError::Sign(SigningError::Invalid(address)) if address == other.pubkey()));
        assert_eq!(error.remedy(), Remedy::Authorise);
    }
}
