//! How many bytes a transaction will have once it is signed.

use settlement_chain::{
    Address, ChainError, Instruction, Message, Signature, VersionedMessage, VersionedTransaction, check_size,
};

/// Wire bytes of a transaction that carries `instruction` and a compute limit, paid by `payer`.
///
/// Exact: the message is built as the submitter builds it, and only its signatures and blockhash, whose lengths are
/// fixed, are blank.
pub fn transaction_bytes(payer: &Address, instruction: &Instruction) -> usize {
    let limit = Instruction { program_id: COMPUTE_BUDGET, accounts: Vec::new(), data: vec![0; LIMIT_BYTES] };
    let message = Message::new(&[limit, instruction.clone()], Some(payer));
    let signatures = vec![Signature::default(); usize::from(message.header.num_required_signatures)];
    let transaction = VersionedTransaction { signatures, message: VersionedMessage::Legacy(message) };
    match check_size(&transaction) {
        Ok(bytes) | Err(ChainError::TooLarge { bytes, .. }) => bytes,
        // More accounts or bytes than the format can even write.
        Err(_) => usize::MAX,
    }
}

const COMPUTE_BUDGET: Address = Address::from_str_const("ComputeBudget111111111111111111111111111111");

/// Tag and u32 of the instruction that sets the compute limit.
const LIMIT_BYTES: usize = 5;

#[cfg(test)]
mod tests {
    use settlement_chain::instructions::{NO_VOUCHER, close_batch};
    use settlement_chain::{EmbeddedChain, Keypair, Program, Signer, submit};

    use super::*;

    #[tokio::test]
    async fn size_is_that_of_the_signed_transaction() {
        let (chain, authority) = (EmbeddedChain::new().unwrap(), Keypair::new());
        let address = |byte| Address::new_from_array([byte; 32]);
        for count in 1..8 {
            let vouchers: Vec<_> = (0..count).map(|n| (address(100 + n), NO_VOUCHER, i64::from(n))).collect();
            let close = close_batch(&Program::local(), &authority.pubkey(), &address(1), &address(2), &vouchers);
            let bytes = transaction_bytes(&authority.pubkey(), &close);
            let prepared = submit::prepare(&chain, &authority, &[], &[close]).await.unwrap();
            assert_eq!(check_size(&prepared.transaction).unwrap(), bytes);
        }
    }
}
