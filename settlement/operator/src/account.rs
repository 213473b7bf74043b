//! The operator's account on chain: creating it, and paying fees out to where they always go.

use settlement_chain::reads::{self, associated_token_address};
use settlement_chain::{
    Address, ChainClient, Keypair, Program, Signature, Signer, TransactionSigner, instructions, submit, tokens,
};
use settlement_interface::instructions::EVERYTHING;

use crate::error::AccountError;

/// An operator account, there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The operator account: what nodes name.
    pub account: Address,
    /// The token account that fees go to.
    pub payout: Address,
    /// The transaction; none if the account was there before.
    pub signature: Option<Signature>,
}

/// Creates the operator account of `authority`, and the token account of `payout_owner` that its fees go to.
/// `payer` pays. If the account is there already with the same fee, nothing is sent.
///
/// # Errors
/// [`AccountError::OtherFee`] if it is there with another fee.
pub async fn register(
    chain: &dyn ChainClient,
    program: &Program,
    payer: &Keypair,
    authority: &Keypair,
    fee_bps: u16,
    payout_owner: &Address,
) -> Result<Registered, AccountError> {
    let (account, _) = program.operator(&authority.pubkey());
    if let Some(there) = reads::operator(chain, program, &authority.pubkey()).await? {
        if there.fee_bps != fee_bps {
            return Err(AccountError::OtherFee { account, found: there.fee_bps, wanted: fee_bps });
        }
        return Ok(Registered { account, payout: there.payout.into(), signature: None });
    }
    let mint = Address::from(reads::config(chain, program).await?.mint);
    let payout = associated_token_address(payout_owner, &mint);
    let steps = [
        tokens::create_associated_idempotent(&payer.pubkey(), payout_owner, &mint),
        instructions::register_operator(program, &payer.pubkey(), &authority.pubkey(), &payout, fee_bps),
    ];
    let signature = submit::submit(chain, payer, &[authority], &steps).await?;
    Ok(Registered { account, payout, signature: Some(signature) })
}

/// Whose fees to pay out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeeSource {
    /// An operator account's fees, to its stored payout.
    Operator(Address),
    /// The protocol's fees that lie in a node account, to the treasury.
    Protocol(Address),
}

/// Fees that were paid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdrawn {
    /// Base units.
    pub amount: u64,
    /// The token account that they went to.
    pub destination: Address,
    /// The transaction; none if there was nothing to pay out.
    pub signature: Option<Signature>,
}

/// Pays all fees of a source out. Anyone may; `payer` pays for the transaction.
///
/// # Errors
/// [`AccountError::NoAccount`] if there is no such source.
// r[impl settlement.fee.payout]
pub async fn withdraw_fees(
    chain: &dyn ChainClient,
    program: &Program,
    payer: &dyn TransactionSigner,
    source: FeeSource,
) -> Result<Withdrawn, AccountError> {
    let (address, amount, destination) = match source {
        FeeSource::Operator(address) => {
            let operator = reads::operator_at(chain, program, &address).await?;
            let operator = operator.ok_or(AccountError::NoAccount(address))?;
            (address, operator.fees, operator.payout)
        }
        FeeSource::Protocol(address) => {
            let node = reads::node_at(chain, program, &address).await?.ok_or(AccountError::NoAccount(address))?;
            (address, node.protocol_fees, reads::config(chain, program).await?.treasury)
        }
    };
    let destination = Address::from(destination);
    if amount == 0 {
        return Ok(Withdrawn { amount, destination, signature: None });
    }
    let withdraw = instructions::withdraw_fees(program, &address, &destination, EVERYTHING);
    let signature = submit::submit(chain, payer, &[], &[withdraw]).await?;
    Ok(Withdrawn { amount, destination, signature: Some(signature) })
}
