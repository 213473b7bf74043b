//! Money outside channels: what the owner holds, what lies in the program, and the ways between the two.

use aro_proto::{AgentId, Amount, ChannelId, NodeId};
use serde::{Serialize, Serializer};
use settlement_chain::reads::{self, ReadError, associated_token_address};
use settlement_chain::submit::{SubmitError, submit};
use settlement_chain::{Address, ChainError, Signature, instructions, tokens};
use thiserror::Error;

use super::WalletError;
use super::channels::ChannelInfo;
use crate::agent::Agent;
use crate::budget::{BudgetError, BudgetExceeded, NotApproved};

/// An agent's money outside channels.
#[derive(Clone, Debug)]
pub struct Money {
    agent: Agent,
}

/// What an agent has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WalletStatus {
    /// Whose money it is.
    #[serde(serialize_with = "as_text")]
    pub owner: Address,
    /// The session key that pays from channels.
    #[serde(serialize_with = "as_text")]
    pub signer: AgentId,
    /// For fees and rent.
    pub sol_lamports: u64,
    /// Base units in the owner's token account.
    pub aro: Amount,
    /// Base units deposited and free to open channels with.
    pub available: Amount,
    /// All channels that are not reclaimed.
    pub channels: Vec<ChannelInfo>,
}

/// Why money did not move. Nothing was signed away to a node by any of these.
#[derive(Debug, Error)]
pub enum MoneyError {
    /// The chain could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The transaction did not do its work.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The wallet cannot be used.
    #[error(transparent)]
    Wallet(#[from] WalletError),
    /// The budget does not allow the deposit.
    #[error(transparent)]
    Budget(#[from] BudgetExceeded),
    /// It is more than may be locked up unasked, and nobody has approved it.
    #[error(transparent)]
    NotApproved(#[from] NotApproved),
    /// Nothing can be moved by a zero amount.
    #[error("the amount is zero")]
    ZeroAmount,
    /// There is less than that.
    #[error("{needed} $ARO are needed, there are {there} $ARO {place}")]
    NotEnough {
        /// Base units needed.
        needed: Amount,
        /// Base units there.
        there: Amount,
        /// Where they were looked for.
        place: Place,
    },
    /// The node is not registered on this chain.
    #[error("node {0} is not registered on this chain")]
    UnknownNode(NodeId),
    /// The grace lies outside what node and program allow.
    #[error("a grace of {asked_s} s is outside {min_s} to {max_s} s")]
    Grace {
        /// Seconds asked for.
        asked_s: u32,
        /// The node's least, in seconds.
        min_s: u32,
        /// The program's most, in seconds.
        max_s: u32,
    },
    /// There is an open channel to the node: one is enough, and two would split the deposit.
    #[error("there is an open channel to this node already: {0}")]
    AlreadyOpen(ChannelId),
    /// No such channel of this agent is on chain.
    #[error("channel {0} is not on chain: it never was, or has been reclaimed")]
    UnknownChannel(ChannelId),
    /// The channel belongs to another agent.
    #[error("channel {0} belongs to another agent")]
    NotOurs(ChannelId),
    /// The channel must be open for this.
    #[error("channel {0} is closing or closed")]
    NotOpen(ChannelId),
    /// The channel must be closed first.
    #[error("channel {0} is open")]
    StillOpen(ChannelId),
    /// The grace has not passed yet.
    #[error("channel {channel} is in its grace for {left_s} s more")]
    InGrace {
        /// The channel.
        channel: ChannelId,
        /// Seconds left.
        left_s: i64,
    },
}

/// Where money was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The owner's token account.
    TokenAccount,
    /// The agent's account in the program.
    Available,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TokenAccount => "in the owner's token account",
            Self::Available => "available in the settlement program",
        })
    }
}

impl From<ChainError> for MoneyError {
    fn from(error: ChainError) -> Self {
        Self::Read(error.into())
    }
}

impl From<BudgetError> for MoneyError {
    fn from(error: BudgetError) -> Self {
        match error {
            BudgetError::Exceeded(exceeded) => exceeded.into(),
            BudgetError::Ledger(error) => WalletError::Shared(error).into(),
        }
    }
}

impl MoneyError {
    /// True if the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Read(error) => error.is_retryable(),
            Self::Submit(error) => error.is_retryable(),
            Self::Wallet(error) => error.is_retryable(),
            Self::InGrace { .. } => true,
            _ => false,
        }
    }
}

impl Money {
    pub(crate) fn new(agent: Agent) -> Self {
        Self { agent }
    }

    /// Everything that the agent has, read from the chain and the wallet's record.
    ///
    /// # Errors
    /// Chain or record cannot be read.
    pub async fn status(&self) -> Result<WalletStatus, MoneyError> {
        let (chain, wallet) = (self.agent.chain(), self.agent.keys());
        let owner = wallet.owner();
        let source = associated_token_address(&owner, &self.agent.mint());
        let account = reads::agent(chain, self.agent.program(), &owner).await?;
        Ok(WalletStatus {
            owner,
            signer: wallet.signer(),
            sol_lamports: reads::lamports(chain, &owner).await?,
            aro: Amount::new(reads::token_balance(chain, &source).await?),
            available: Amount::new(account.map_or(0, |account| account.available)),
            channels: self.agent.channels().await?,
        })
    }

    /// Moves `amount` base units from the owner's token account into the program, where channels are opened from.
    ///
    /// # Errors
    /// There is less than that, or the transaction fails.
    pub async fn deposit(&self, amount: Amount) -> Result<Signature, MoneyError> {
        let (chain, program) = (self.agent.chain(), self.agent.program());
        let key = self.agent.keys().owner_key();
        let owner = self.agent.keys().owner();
        let source = associated_token_address(&owner, &self.agent.mint());
        let there = Amount::new(reads::token_balance(chain, &source).await?);
        enough(amount, there, Place::TokenAccount)?;
        let deposit = instructions::deposit(program, &owner, &owner, &source, amount.get());
        Ok(submit(chain, key, &[], &[deposit]).await?)
    }

    /// Moves `amount` base units of what is available back to the owner's token account, created if need be.
    ///
    /// # Errors
    /// There is less than that, or the transaction fails.
    pub async fn withdraw(&self, amount: Amount) -> Result<Signature, MoneyError> {
        let (chain, program) = (self.agent.chain(), self.agent.program());
        let key = self.agent.keys().owner_key();
        let owner = self.agent.keys().owner();
        let account = reads::agent(chain, program, &owner).await?;
        enough(amount, Amount::new(account.map_or(0, |account| account.available)), Place::Available)?;
        let destination = associated_token_address(&owner, &self.agent.mint());
        let steps = [
            tokens::create_associated_idempotent(&owner, &owner, &self.agent.mint()),
            instructions::withdraw_available(program, &owner, &destination, amount.get()),
        ];
        Ok(submit(chain, key, &[], &steps).await?)
    }
}

/// Fails early, and in words, where the chain would fail with a number.
pub(super) fn enough(needed: Amount, there: Amount, place: Place) -> Result<(), MoneyError> {
    if needed.is_zero() {
        return Err(MoneyError::ZeroAmount);
    }
    if needed > there { Err(MoneyError::NotEnough { needed, there, place }) } else { Ok(()) }
}

fn as_text<T: std::fmt::Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}
