//! Accounts of the settlement program and of the token program, decoded and checked.
//!
//! What is not there is `None`; what is there but is not what its address promises is an error, never a guess.

use settlement_interface::{
    ARO_DECIMALS, Key,
    accounts::{Agent, Channel, Config, LayoutError, Node, Operator, discriminator},
};
use solana_address::Address;

pub use crate::tokens::associated_token_address;
use crate::{
    Account, AccountFilter, ChainClient, ChainError, Program,
    tokens::{Mint, TOKEN_PROGRAM, TokenAccount},
};

/// Why an account could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The chain gave no answer.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The program is not set up on this chain.
    #[error("no config account at {0}: the settlement program is not set up on this chain; run `aro-settle setup`")]
    NotSetUp(Address),
    /// The account belongs to another program than it must.
    #[error("the account {address} is owned by {owner}, not by {expected}; check the program id")]
    WrongOwner {
        /// The account.
        address: Address,
        /// Who owns it.
        owner: Address,
        /// Who must own it.
        expected: Address,
    },
    /// The account's bytes are not what they must be.
    #[error("the account {address} is not a valid {what}: wrong {why}")]
    WrongLayout {
        /// The account.
        address: Address,
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The mint cannot be $ARO.
    #[error("the mint {address} cannot be used: {why}")]
    BadMint {
        /// The mint.
        address: Address,
        /// Which rule it breaks.
        why: &'static str,
    },
}

impl ReadError {
    /// True if the same read may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Chain(error) if error.is_retryable())
    }
}

/// The program's configuration. It must be there: [`ReadError::NotSetUp`] if not.
pub async fn config(chain: &dyn ChainClient, program: &Program) -> Result<Config, ReadError> {
    let (address, _) = program.config();
    optional(chain, program, address, Config::decode, "config").await?.ok_or(ReadError::NotSetUp(address))
}

/// The agent account of an owner (wallet address).
pub async fn agent(chain: &dyn ChainClient, program: &Program, owner: &Address) -> Result<Option<Agent>, ReadError> {
    optional(chain, program, program.agent(owner).0, Agent::decode, "agent").await
}

/// The node account of a node id (transport key).
pub async fn node(chain: &dyn ChainClient, program: &Program, id: &Address) -> Result<Option<Node>, ReadError> {
    optional(chain, program, program.node(id).0, Node::decode, "node").await
}

/// The operator account of an authority (hot key).
pub async fn operator(
    chain: &dyn ChainClient,
    program: &Program,
    authority: &Address,
) -> Result<Option<Operator>, ReadError> {
    optional(chain, program, program.operator(authority).0, Operator::decode, "operator").await
}

/// The node account at an account address, as channels name it.
pub async fn node_at(chain: &dyn ChainClient, program: &Program, account: &Address) -> Result<Option<Node>, ReadError> {
    optional(chain, program, *account, Node::decode, "node").await
}

/// The agent account at an account address, as channels name it.
pub async fn agent_at(
    chain: &dyn ChainClient,
    program: &Program,
    account: &Address,
) -> Result<Option<Agent>, ReadError> {
    optional(chain, program, *account, Agent::decode, "agent").await
}

/// The operator account at an account address, as nodes name it.
pub async fn operator_at(
    chain: &dyn ChainClient,
    program: &Program,
    account: &Address,
) -> Result<Option<Operator>, ReadError> {
    optional(chain, program, *account, Operator::decode, "operator").await
}

/// A channel by its address (its id); `None` if it never was, or has been reclaimed.
pub async fn channel(
    chain: &dyn ChainClient,
    program: &Program,
    address: &Address,
) -> Result<Option<Channel>, ReadError> {
    Ok(channels(chain, program, std::slice::from_ref(address)).await?.pop().flatten())
}

/// Many channels by address, in this order.
pub async fn channels(
    chain: &dyn ChainClient,
    program: &Program,
    addresses: &[Address],
) -> Result<Vec<Option<Channel>>, ReadError> {
    let accounts = chain.accounts(addresses).await?;
    addresses
        .iter()
        .zip(accounts)
        .map(|(address, account)| decode(program, address, account, Channel::decode, "channel"))
        .collect()
}

/// All channels to a node account, with their addresses.
pub async fn channels_of_node(
    chain: &dyn ChainClient,
    program: &Program,
    node_account: &Address,
) -> Result<Vec<(Address, Channel)>, ReadError> {
    channels_with(chain, program, NODE_IN_CHANNEL, node_account).await
}

/// All channels of an agent account, with their addresses.
pub async fn channels_of_agent(
    chain: &dyn ChainClient,
    program: &Program,
    agent_account: &Address,
) -> Result<Vec<(Address, Channel)>, ReadError> {
    channels_with(chain, program, AGENT_IN_CHANNEL, agent_account).await
}

/// All nodes that an operator account settles for, with their addresses.
pub async fn nodes_of_operator(
    chain: &dyn ChainClient,
    program: &Program,
    operator_account: &Address,
) -> Result<Vec<(Address, Node)>, ReadError> {
    let filter = AccountFilter {
        discriminator: discriminator::NODE,
        data_len: Node::LEN,
        key: Some((OPERATOR_IN_NODE, *operator_account)),
    };
    let found = chain.program_accounts(&program.id, &filter).await?;
    found
        .into_iter()
        .map(|(address, account)| {
            let node = Node::decode(&account.data).map_err(|e| wrong_layout(address, "node", e))?;
            Ok((address, node))
        })
        .collect()
}

/// A token account of the classic token program; `None` if there is none at this address.
pub async fn token_account(chain: &dyn ChainClient, address: &Address) -> Result<Option<TokenAccount>, ReadError> {
    let Some(account) = one(chain, address).await? else { return Ok(None) };
    owned_by(address, &account, &TOKEN_PROGRAM)?;
    TokenAccount::decode(&account.data).map(Some).ok_or(ReadError::WrongLayout {
        address: *address,
        what: "token account",
        why: "length or state",
    })
}

/// Base units in a token account; 0 if there is none at this address.
pub async fn token_balance(chain: &dyn ChainClient, address: &Address) -> Result<u64, ReadError> {
    Ok(token_account(chain, address).await?.map_or(0, |account| account.amount))
}

/// Lamports at an address; 0 if there is no account.
pub async fn lamports(chain: &dyn ChainClient, address: &Address) -> Result<u64, ReadError> {
    Ok(one(chain, address).await?.map_or(0, |account| account.lamports))
}

/// Lamports that an account of `data_len` bytes must hold to live: asked of the chain, for rent is falling.
#[expect(
    clippy::float_arithmetic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the Rent sysvar holds a float, and the runtime multiplies like this"
)]
pub async fn rent_exempt_lamports(chain: &dyn ChainClient, data_len: usize) -> Result<u64, ReadError> {
    let account = one(chain, &RENT).await?;
    account
        .and_then(|rent| {
            let per_byte = u64::from_le_bytes(*rent.data.first_chunk()?);
            let threshold = f64::from_le_bytes(*rent.data.get(8..)?.first_chunk()?);
            let bytes = ACCOUNT_OVERHEAD.checked_add(data_len as u64)?;
            Some((bytes.checked_mul(per_byte)? as f64 * threshold) as u64)
        })
        .ok_or_else(|| ChainError::Malformed("the Rent sysvar is missing or too short".into()).into())
}

/// The mint at an address, if it can be $ARO: classic token program, 6 decimals, no freeze authority.
// r[impl settlement.mint.plain]
pub async fn aro_mint(chain: &dyn ChainClient, address: &Address) -> Result<Mint, ReadError> {
    let bad = |why| ReadError::BadMint { address: *address, why };
    let account = one(chain, address).await?.ok_or_else(|| bad("there is no such account"))?;
    if account.owner != TOKEN_PROGRAM {
        return Err(bad("it does not belong to the classic SPL token program"));
    }
    let mint = Mint::decode(&account.data).ok_or_else(|| bad("it is not an initialized mint"))?;
    if mint.decimals != ARO_DECIMALS {
        return Err(bad("it does not have 6 decimals"));
    }
    if mint.freeze_authority.is_some() {
        return Err(bad("it has a freeze authority, which could lock the vault"));
    }
    Ok(mint)
}

async fn channels_with(
    chain: &dyn ChainClient,
    program: &Program,
    offset: usize,
    key: &Address,
) -> Result<Vec<(Address, Channel)>, ReadError> {
    let filter =
        AccountFilter { discriminator: discriminator::CHANNEL, data_len: Channel::LEN, key: Some((offset, *key)) };
    let found = chain.program_accounts(&program.id, &filter).await?;
    found
        .into_iter()
        .map(|(address, account)| {
            let channel = Channel::decode(&account.data).map_err(|e| wrong_layout(address, "channel", e))?;
            Ok((address, channel))
        })
        .collect()
}

async fn one(chain: &dyn ChainClient, address: &Address) -> Result<Option<Account>, ReadError> {
    Ok(chain.accounts(std::slice::from_ref(address)).await?.pop().flatten())
}

async fn optional<T>(
    chain: &dyn ChainClient,
    program: &Program,
    address: Address,
    layout: fn(&[u8]) -> Result<T, LayoutError>,
    what: &'static str,
) -> Result<Option<T>, ReadError> {
    let account = one(chain, &address).await?;
    decode(program, &address, account, layout, what)
}

fn decode<T>(
    program: &Program,
    address: &Address,
    account: Option<Account>,
    layout: fn(&[u8]) -> Result<T, LayoutError>,
    what: &'static str,
) -> Result<Option<T>, ReadError> {
    match account {
        None => Ok(None),
        // Reclaimed, or only sent lamports to: as good as nothing.
        Some(account) if account.data.is_empty() && account.owner == crate::instructions::SYSTEM_PROGRAM => Ok(None),
        Some(account) => {
            owned_by(address, &account, &program.id)?;
            layout(&account.data).map(Some).map_err(|e| wrong_layout(*address, what, e))
        }
    }
}

fn owned_by(address: &Address, account: &Account, expected: &Address) -> Result<(), ReadError> {
    if account.owner == *expected {
        return Ok(());
    }
    Err(ReadError::WrongOwner { address: *address, owner: account.owner, expected: *expected })
}

fn wrong_layout(address: Address, what: &'static str, error: LayoutError) -> ReadError {
    let why = match error {
        LayoutError::Length => "length",
        LayoutError::Discriminator => "discriminator",
        LayoutError::Version => "version",
    };
    ReadError::WrongLayout { address, what, why }
}

/// The Rent sysvar: lamports per byte (u64), years until exempt (f64), burn percent.
const RENT: Address = Address::from_str_const("SysvarRent111111111111111111111111111111111");
/// Bytes that an account is charged for beside its data.
const ACCOUNT_OVERHEAD: u64 = 128;

/// Offset of `agent` in a channel account.
const AGENT_IN_CHANNEL: usize = 8;
/// Offset of `node` in a channel account.
pub(crate) const NODE_IN_CHANNEL: usize = 40;
/// Offset of `operator` in a node account.
const OPERATOR_IN_NODE: usize = 72;

const _: () = assert!(size_of::<Key>() == 32);
