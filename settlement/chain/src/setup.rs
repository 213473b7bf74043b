//! What a fresh deployment needs before agents and nodes can use it: a mint, a treasury, config and vault.
//!
//! Running it again finds what is there and changes nothing, so it may be repeated after any failure.

use settlement_interface::{ARO_DECIMALS, accounts::Config};
use solana_address::Address;
use solana_keypair::Keypair;
use solana_signer::Signer;

use crate::{
    ChainClient, Program,
    instructions::{self, InitConfig},
    reads::{self, ReadError},
    submit::{self, SubmitError},
    tokens,
};

/// How a deployment is to be set up. `Default` fits local chains and tests.
#[derive(Clone, Debug)]
pub struct SetupOptions {
    /// An existing $ARO mint; a new one is created if not given, whose mint authority is the payer.
    pub mint: Option<Address>,
    /// Wallet whose token account gets the protocol's fees; the admin if not given.
    pub treasury_owner: Option<Address>,
    /// Longest grace a channel may have, in seconds. Default one week.
    pub max_grace_s: u32,
    /// The protocol's part of what settles, in basis points. Default 50.
    pub protocol_fee_bps: u16,
    /// The largest part an operator may ask, in basis points. Default 500.
    pub max_operator_fee_bps: u16,
    /// Seconds that a node's new payout waits before it counts. Default two days: time to see a theft and withdraw.
    pub payout_delay_s: u32,
}

impl Default for SetupOptions {
    fn default() -> Self {
        Self {
            mint: None,
            treasury_owner: None,
            max_grace_s: 7 * 24 * 3600,
            protocol_fee_bps: 50,
            max_operator_fee_bps: 500,
            payout_delay_s: 2 * 24 * 3600,
        }
    }
}

/// What is there afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The $ARO mint.
    pub mint: Address,
    /// The config account.
    pub config: Address,
    /// The token account that holds every deposit.
    pub vault: Address,
    /// The token account that protocol fees go to.
    pub treasury: Address,
    /// False if the program had been set up before, and nothing was changed.
    pub created: bool,
}

/// Why a deployment could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// An account could not be read or is not what it should be.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A transaction did not do its work.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The program is not on this chain.
    #[error("there is no program at {0}; deploy it first (solana program deploy) or check the program id")]
    NotDeployed(Address),
    /// The program was set up with another mint than the given one.
    #[error("the program at {program} is already set up with mint {found}, not {wanted}")]
    OtherMint {
        /// The program.
        program: Address,
        /// Its mint.
        found: Address,
        /// The given mint.
        wanted: Address,
    },
}

impl SetupError {
    /// True if the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Read(error) => error.is_retryable(),
            Self::Submit(error) => error.is_retryable(),
            Self::NotDeployed(_) | Self::OtherMint { .. } => false,
        }
    }
}

/// Sets up the program. `payer` pays for everything; `admin` becomes the config's admin and must be the
/// program's upgrade authority if it has one. They may be the same key.
pub async fn setup(
    chain: &dyn ChainClient,
    program: &Program,
    payer: &Keypair,
    admin: &Keypair,
    options: &SetupOptions,
) -> Result<Setup, SetupError> {
    match reads::config(chain, program).await {
        Ok(config) => return existing(program, &config, options),
        Err(ReadError::NotSetUp(_)) => {}
        Err(error) => return Err(error.into()),
    }
    if reads::lamports(chain, &program.id).await? == 0 {
        return Err(SetupError::NotDeployed(program.id));
    }
    let mint = match options.mint {
        Some(mint) => mint,
        None => create_mint(chain, payer, &payer.pubkey()).await?,
    };
    reads::aro_mint(chain, &mint).await?;

    let treasury_owner = options.treasury_owner.unwrap_or_else(|| admin.pubkey());
    let treasury = tokens::associated_token_address(&treasury_owner, &mint);
    let init = InitConfig {
        payer: payer.pubkey(),
        admin: admin.pubkey(),
        mint,
        treasury,
        max_grace_s: options.max_grace_s,
        protocol_fee_bps: options.protocol_fee_bps,
        max_operator_fee_bps: options.max_operator_fee_bps,
        payout_delay_s: options.payout_delay_s,
    };
    let steps = [
        tokens::create_associated_idempotent(&payer.pubkey(), &treasury_owner, &mint),
        instructions::init_config(program, &init),
    ];
    submit::submit(chain, payer, &[admin], &steps).await?;
    Ok(Setup { mint, config: program.config().0, vault: program.vault().0, treasury, created: true })
}

/// Creates a mint that can be $ARO: 6 decimals, no freeze authority. Its address is random.
pub async fn create_mint(
    chain: &dyn ChainClient,
    payer: &Keypair,
    mint_authority: &Address,
) -> Result<Address, SetupError> {
    create_mint_at(chain, payer, &Keypair::new(), mint_authority).await
}

/// Creates a mint as [`create_mint`] does, at the address of the key `mint`, which must be unused.
pub async fn create_mint_at(
    chain: &dyn ChainClient,
    payer: &Keypair,
    mint: &Keypair,
    mint_authority: &Address,
) -> Result<Address, SetupError> {
    let address = mint.pubkey();
    let rent = reads::rent_exempt_lamports(chain, tokens::Mint::LEN).await?;
    let steps = [
        tokens::create_account(&payer.pubkey(), &address, rent, tokens::Mint::LEN as u64, &tokens::TOKEN_PROGRAM),
        tokens::initialize_mint(&address, mint_authority, ARO_DECIMALS),
    ];
    submit::submit(chain, payer, &[mint], &steps).await?;
    Ok(address)
}

/// Mints `amount` base units of $ARO to the associated token account of `owner`, created if needed. The mint's
/// `authority` signs and pays. Returns the token account.
pub async fn mint_to(
    chain: &dyn ChainClient,
    mint: &Address,
    authority: &Keypair,
    owner: &Address,
    amount: u64,
) -> Result<Address, SubmitError> {
    let destination = tokens::associated_token_address(owner, mint);
    let steps = [
        tokens::create_associated_idempotent(&authority.pubkey(), owner, mint),
        tokens::mint_to(mint, &destination, &authority.pubkey(), amount),
    ];
    submit::submit(chain, authority, &[], &steps).await?;
    Ok(destination)
}

fn existing(program: &Program, config: &Config, options: &SetupOptions) -> Result<Setup, SetupError> {
    let mint = Address::from(config.mint);
    match options.mint {
        Some(wanted) if wanted != mint => Err(SetupError::OtherMint { program: program.id, found: mint, wanted }),
        _ => Ok(Setup {
            mint,
            config: program.config().0,
            vault: Address::from(config.vault),
            treasury: Address::from(config.treasury),
            created: false,
        }),
    }
}
