//! The node's account on chain: making it, changing it, and paying out of it.

mod update;

use aro_proto::{Amount, NodeId, SecretKey};
use settlement_chain::instructions::{self, RegisterNode, WithdrawEarned};
use settlement_chain::interface::instructions::EVERYTHING;
use settlement_chain::reads::{self, ReadError};
use settlement_chain::submit::{SubmitError, submit};
use settlement_chain::{Address, ChainClient, ChainError, Keypair, Program, Signature, Signer, tokens};
use thiserror::Error;

pub use update::{NodeChange, NodeTerms, update};

/// What is to be registered.
#[derive(Debug)]
pub struct Registration<'a> {
    /// Pays the rent.
    pub payer: &'a Keypair,
    /// The cold key: may close, withdraw and change the account.
    pub owner: &'a Keypair,
    /// The node's transport key.
    pub key: &'a SecretKey,
    /// The operator account that settles for the node.
    pub operator: Option<Address>,
    /// Token account that earnings go to; the owner's own, created if needed, if not given.
    pub payout: Option<Address>,
    /// Shortest grace of channels to this node, in seconds.
    pub min_grace_s: u32,
    /// Refuse if the operator asks more than this, in basis points.
    pub max_operator_fee_bps: u16,
}

/// A node that is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its account on chain.
    pub account: Address,
    /// Where its earnings go.
    pub payout: Address,
    /// The transaction; none if the node was registered before.
    pub signature: Option<Signature>,
}

/// Earnings that were paid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Withdrawn {
    /// Base units paid.
    pub amount: Amount,
    /// The token account that they went to.
    pub payout: Address,
    /// The transaction; none if there was nothing to pay.
    pub signature: Option<Signature>,
}

/// Why the node's account could not be made or paid out of.
#[derive(Debug, Error)]
pub enum AccountError {
    /// The chain could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The chain did not answer.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The transaction did not do its work.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The node is registered to someone else.
    #[error("the node {id} is already registered to the owner {owner}")]
    OtherOwner {
        /// The node.
        id: NodeId,
        /// Who owns it.
        owner: Address,
    },
    /// There is no such node.
    #[error("the node {0} is not registered; run `aro-node init` first")]
    NotRegistered(NodeId),
    /// More is asked for than there is.
    #[error("{asked} $ARO are asked for, {earned} are earned")]
    TooMuch {
        /// Base units asked for.
        asked: Amount,
        /// Base units there.
        earned: Amount,
    },
}

impl AccountError {
    /// True if the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Read(error) => error.is_retryable(),
            Self::Chain(error) => error.is_retryable(),
            Self::Submit(error) => error.is_retryable(),
            Self::OtherOwner { .. } | Self::NotRegistered(_) | Self::TooMuch { .. } => false,
        }
    }
}

/// Registers a node. Doing it again for the same owner changes nothing.
///
/// # Errors
/// The program is not set up, someone else owns the node, or the transaction fails.
pub async fn register(
    chain: &dyn ChainClient,
    program: &Program,
    registration: &Registration<'_>,
) -> Result<Registered, AccountError> {
    let Registration { payer, owner, key, operator, payout, min_grace_s, max_operator_fee_bps } = *registration;
    let config = reads::config(chain, program).await?;
    let id = Address::from(key.public());
    let (account, _) = program.node(&id);
    if let Some(node) = reads::node(chain, program, &id).await? {
        let found = Address::from(node.owner);
        if found != owner.pubkey() {
            return Err(AccountError::OtherOwner { id: key.node_id(), owner: found });
        }
        return Ok(Registered { account, payout: Address::from(node.payout), signature: None });
    }
    let mint = Address::from(config.mint);
    let mut steps = Vec::new();
    let payout = payout.unwrap_or_else(|| {
        steps.push(tokens::create_associated_idempotent(&payer.pubkey(), &owner.pubkey(), &mint));
        reads::associated_token_address(&owner.pubkey(), &mint)
    });
    let node = RegisterNode {
        payer: payer.pubkey(),
        owner: owner.pubkey(),
        id,
        payout,
        operator,
        min_grace_s,
        max_operator_fee_bps,
    };
    steps.push(instructions::register_node(program, &node));
    let transport_key = Keypair::new_from_array(*key.to_bytes());
    let signature = submit(chain, payer, &[owner, &transport_key], &steps).await?;
    Ok(Registered { account, payout, signature: Some(signature) })
}

/// Pays earnings to the payout that the node's account names, all of them if no amount is given. `authority` is the
/// node's owner or its operator's authority; `payer` pays the fee and may be the same.
///
/// # Errors
/// The node is not registered, has earned less, or the transaction fails.
pub async fn withdraw(
    chain: &dyn ChainClient,
    program: &Program,
    payer: &Keypair,
    authority: &Keypair,
    id: NodeId,
    amount: Option<Amount>,
) -> Result<Withdrawn, AccountError> {
    let address = Address::from(id.to_bytes());
    let node = reads::node(chain, program, &address).await?.ok_or(AccountError::NotRegistered(id))?;
    let earned = Amount::new(node.earned);
    // One that was named later counts when its delay is over.
    let payout = Address::from(*node.payout_at(chain.clock().await?));
    if let Some(asked) = amount.filter(|asked| *asked > earned) {
        return Err(AccountError::TooMuch { asked, earned });
    }
    let paid = amount.unwrap_or(earned);
    if paid.is_zero() {
        return Ok(Withdrawn { amount: paid, payout, signature: None });
    }
    let withdrawal = WithdrawEarned {
        authority: authority.pubkey(),
        node: program.node(&address).0,
        operator: Address::from(node.operator),
        payout,
        amount: amount.map_or(EVERYTHING, Amount::get),
    };
    let signature = submit(chain, payer, &[authority], &[instructions::withdraw_earned(program, &withdrawal)]).await?;
    // Settling may go on between the look and the transaction: then "all" was a little more.
    Ok(Withdrawn { amount: paid, payout, signature: Some(signature) })
}
