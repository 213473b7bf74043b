//! How many bytes a transaction will have once it is signed.

use settlement_chain::submit::{TransactionFormat, wire_size};
use settlement_chain::{Address, Instruction};

/// Wire bytes of a transaction that carries `instruction` and its limits, paid by `payer`: exact.
/// `usize::MAX` if it names more accounts than the format can write.
pub fn transaction_bytes(format: TransactionFormat, payer: &Address, instruction: &Instruction) -> usize {
    wire_size(format, payer, std::slice::from_ref(instruction)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use settlement_chain::instructions::{NO_VOUCHER, close_batch};
    use settlement_chain::submit::{Terms, prepare_with};
    use settlement_chain::{EmbeddedChain, Keypair, Program, Signer, check_size};

    use super::*;

    #[tokio::test]
    async fn size_is_that_of_the_signed_transaction() {
        let (chain, authority) = (EmbeddedChain::new().unwrap(), Keypair::new());
        let address = |byte| Address::new_from_array([byte; 32]);
        for (format, most) in [(TransactionFormat::Legacy, 8), (TransactionFormat::V1, 36)] {
            for count in 1..=most {
                let vouchers: Vec<_> = (0..count).map(|n| (address(100 + n), NO_VOUCHER, 0)).collect();
                let close = close_batch(&Program::local(), &authority.pubkey(), &address(1), &address(2), &vouchers);
                let bytes = transaction_bytes(format, &authority.pubkey(), &close);
                let terms = Terms::estimate(format, std::slice::from_ref(&close)).at_price(u64::from(count));
                let prepared = prepare_with(&chain, &authority, &[], &[close], &terms).await.unwrap();
                assert_eq!(check_size(&prepared.transaction).unwrap(), bytes);
            }
        }
    }
}
