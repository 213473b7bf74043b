//! Money outside channels: what the owner holds, what lies in the program, and the ways between the two.

use aro_proto::identity::DelegationError;
use aro_proto::{AgentId, Amount, ChannelId, NodeId, WhoActs};
use serde::{Serialize, Serializer};
use settlement_chain::reads::{self, ReadError, associated_token_address};
use settlement_chain::submit::{Remedy, SubmitError, submit};
use settlement_chain::{Address, ChainError, Signature, instructions, tokens};
use thiserror::Error;

use super::WalletError;
use super::channels::ChannelInfo;
use super::policy::ChannelCap;
use crate::agent::Agent;
use crate::budget::{BudgetError, BudgetExceeded, NotApproved};
use crate::report::{Subject, exit, exit_code_of, retry_after_ms_of};

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
    /// The owner's key is not here: this wallet only signs away what channels hold.
    #[error("only the owner {owner} can do this, and its key is not in this wallet")]
    OwnerNeeded {
        /// Whose key is needed.
        owner: Address,
    },
    /// A cap of the channel policy does not allow the deposit.
    #[error("the channel policy leaves {left} $ARO in channels to {cap}, {needed} are needed")]
    Cap {
        /// Which cap.
        cap: ChannelCap,
        /// Base units needed.
        needed: Amount,
        /// Base units that the cap leaves.
        left: Amount,
    },
    /// No such session key was delegated to by this wallet.
    #[error("this wallet has delegated to no session key {0}")]
    UnknownSession(AgentId),
    /// A delegation that makes no sense.
    #[error(transparent)]
    Delegation(#[from] DelegationError),
    /// The program is ending.
    #[error("the program is ending; what was sent is brought to its end at the next start")]
    Ending,
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
    /// One stable word for what happened, for logs and JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read(_) => "Chain",
            Self::Submit(_) => "Transaction",
            Self::Wallet(error) => error.code(),
            Self::OwnerNeeded { .. } => "OwnerNeeded",
            Self::Cap { .. } => "ChannelCap",
            Self::UnknownSession(_) => "UnknownSession",
            Self::Delegation(_) => "Delegation",
            Self::Ending => "Ending",
            Self::Budget(_) => "BudgetExceeded",
            Self::NotApproved(_) => "NotApproved",
            Self::ZeroAmount => "ZeroAmount",
            Self::NotEnough { .. } => "NotEnough",
            Self::UnknownNode(_) => "UnknownNode",
            Self::Grace { .. } => "Grace",
            Self::AlreadyOpen(_) => "AlreadyOpen",
            Self::UnknownChannel(_) | Self::NotOurs(_) => "UnknownChannel",
            Self::NotOpen(_) => "NotOpen",
            Self::StillOpen(_) => "StillOpen",
            Self::InGrace { .. } => "InGrace",
        }
    }

    /// Who can change it.
    pub fn who_acts(&self) -> WhoActs {
        match self {
            Self::Read(error) if error.is_retryable() => WhoActs::RetryHere,
            Self::Submit(error) => match error.remedy() {
                Remedy::Retry | Remedy::CheckStatus | Remedy::Refresh => WhoActs::RetryHere,
                Remedy::FundFees | Remedy::FundTokens => WhoActs::Pay,
                Remedy::Authorise => WhoActs::Authorise,
                Remedy::AskAdmin | Remedy::GiveUp => WhoActs::GiveUp,
            },
            Self::Wallet(error) => error.who_acts(),
            Self::Budget(_) | Self::NotEnough { .. } => WhoActs::Pay,
            Self::OwnerNeeded { .. } | Self::Cap { .. } | Self::NotApproved(_) => WhoActs::Authorise,
            Self::InGrace { .. } | Self::Ending => WhoActs::RetryHere,
            Self::Read(_)
            | Self::UnknownSession(_)
            | Self::Delegation(_)
            | Self::ZeroAmount
            | Self::UnknownNode(_)
            | Self::Grace { .. }
            | Self::AlreadyOpen(_)
            | Self::UnknownChannel(_)
            | Self::NotOurs(_)
            | Self::NotOpen(_)
            | Self::StillOpen(_) => WhoActs::GiveUp,
        }
    }

    /// True if the same call may succeed later without anybody doing anything. A transaction of which nobody knows what
    /// became is not repeated blindly, but brought to its end by the next call: so that may be tried again as well.
    pub fn is_retryable(&self) -> bool {
        self.who_acts() == WhoActs::RetryHere
    }

    /// What to do next, for people.
    pub fn next_step(&self) -> String {
        match self {
            Self::Read(_) => "check --rpc and --program-id, and that the chain runs".into(),
            Self::Submit(error) => match error.remedy() {
                Remedy::Retry => "run the same command again",
                Remedy::CheckStatus => "look at `aro wallet status` before you run it again",
                Remedy::FundFees => "send SOL to the owner's address (aro keys show): fees and rent need it",
                Remedy::FundTokens => "send $ARO to the owner's address, or ask for less",
                Remedy::Authorise => "use the wallet that owns the account (--home)",
                Remedy::AskAdmin => "the program is paused for deposits and opens: wait for its admin",
                Remedy::Refresh => "the accounts have changed: run the same command again",
                Remedy::GiveUp => "check --rpc and --program-id",
            }
            .into(),
            Self::Wallet(error) => error.next_step(),
            Self::OwnerNeeded { owner } => {
                format!("let {owner} do it, in the wallet that has the owner's key (--home)")
            }
            Self::Cap { .. } => {
                "open or top up a channel by hand, close one that is idle, or raise the policy's cap".into()
            }
            Self::UnknownSession(_) => "look at `aro keys sessions`".into(),
            Self::Delegation(_) => "name 1 to 16 nodes, each once, and a time to come".into(),
            Self::Ending => "start it again".into(),
            Self::Budget(error) => error.next_step(),
            Self::NotApproved(_) => NotApproved::NEXT_STEP.into(),
            Self::ZeroAmount => "give an amount above zero".into(),
            Self::NotEnough { place: Place::TokenAccount, .. } => {
                "send $ARO to the owner's address (aro keys show), or ask for less".into()
            }
            Self::NotEnough { place: Place::Available, .. } => {
                "look at `aro wallet status`; `aro wallet deposit` makes $ARO available".into()
            }
            Self::UnknownNode(_) => "check the node id, --rpc and --program-id".into(),
            Self::Grace { min_s, max_s: u32::MAX, .. } => {
                format!("open the channel by hand if you accept that: aro channel open --grace {min_s}")
            }
            Self::Grace { min_s, max_s, .. } => format!("give --grace between {min_s} and {max_s}"),
            Self::AlreadyOpen(_) => "fetch with it, or close it first: aro channel close".into(),
            Self::UnknownChannel(_) | Self::NotOurs(_) => "look at `aro channel list`".into(),
            Self::NotOpen(channel) => format!("take back what it holds: aro channel close {channel}"),
            Self::StillOpen(channel) => format!("close it first: aro channel close {channel}"),
            Self::InGrace { left_s, .. } => format!("run the same command again in {left_s} s"),
        }
    }

    /// The amount that it speaks of, in base units.
    pub fn amount(&self) -> Option<Amount> {
        match self {
            Self::Budget(error) => Some(error.needed),
            Self::NotApproved(error) => Some(error.amount),
            Self::NotEnough { needed, .. } | Self::Cap { needed, .. } => Some(*needed),
            Self::Wallet(error) => error.amount(),
            _ => None,
        }
    }

    /// Milliseconds after which to try the same again, where that helps.
    pub fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::InGrace { left_s, .. } => Some(left_s.max(&0).unsigned_abs().saturating_mul(1_000)),
            Self::Submit(error) if error.remedy() == Remedy::CheckStatus => Some(UNCERTAIN_MS),
            Self::Wallet(error) => error.retry_after_ms(),
            other => retry_after_ms_of(other.who_acts()),
        }
    }

    /// What it is about.
    pub fn subject(&self) -> Subject {
        match self {
            Self::UnknownNode(node) => Subject::node(*node),
            Self::AlreadyOpen(channel)
            | Self::UnknownChannel(channel)
            | Self::NotOurs(channel)
            | Self::NotOpen(channel)
            | Self::StillOpen(channel)
            | Self::InGrace { channel, .. } => Subject::channel(*channel),
            Self::Wallet(error) => error.subject(),
            _ => Subject::default(),
        }
    }

    /// What a command ends with: see [`ErrorReport`](crate::ErrorReport::exit_code).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::ZeroAmount | Self::Grace { .. } | Self::Delegation(_) => exit::USAGE,
            Self::Cap { .. } | Self::NotApproved(_) => exit::MONEY,
            Self::Wallet(error) => error.exit_code(),
            other => exit_code_of(other.who_acts()),
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
        let key = self.agent.keys().owner_key()?;
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
        let key = self.agent.keys().owner_key()?;
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

/// As long as a transaction can stay on its way: about the life of a blockhash.
const UNCERTAIN_MS: u64 = 60_000;

fn as_text<T: std::fmt::Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}
