//! What the program's admin does: pause, change parameters, hand the office over.
//!
//! Nothing here reaches money that is in the program: see [`settlement_interface::instructions::SetConfig`].

use settlement_interface::accounts::{Config, NO_KEY};
use solana_address::Address;
use solana_keypair::Keypair;
use solana_signature::Signature;
use solana_signer::Signer;

use crate::{
    ChainClient, Program,
    instructions::{self, SetConfig},
    reads::{self, ReadError},
    submit::{self, SubmitError},
    tokens,
};

/// What is to change; what is `None` stays. `Default` changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// True stops deposits and opens, and nothing else.
    pub paused: Option<bool>,
    /// Longest grace a channel may have, in seconds.
    pub max_grace_s: Option<u32>,
    /// The protocol's part of what settles, in basis points; for channels that open from now on.
    pub protocol_fee_bps: Option<u16>,
    /// The largest part an operator may ask, in basis points; for operators and choices from now on.
    pub max_operator_fee_bps: Option<u16>,
    /// Seconds that a node's new payout waits before it counts; for wishes from now on.
    pub payout_delay_s: Option<u32>,
    /// Wallet whose token account, made if needed, gets the protocol's fees from now on.
    pub treasury_owner: Option<Address>,
    /// Who is proposed as admin; `Some(None)` takes a proposal back.
    pub pending_admin: Option<Option<Address>>,
}

/// How the config stands after an act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The config, as it was read before and written now.
    pub config: Config,
    /// The transaction; none if everything was so already.
    pub signature: Option<Signature>,
}

/// Why an act of the admin failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The config could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The transaction did not do its work.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The key has no right to change the config.
    #[error("the admin is {admin}, not {key}")]
    NotAdmin {
        /// The given key.
        key: Address,
        /// Who is in office.
        admin: Address,
    },
    /// The key was not proposed.
    #[error("{key} is not the proposed admin; {}", proposed.map_or("nobody is proposed".into(), |p| format!("{p} is")))]
    NotProposed {
        /// The given key.
        key: Address,
        /// Who is proposed.
        proposed: Option<Address>,
    },
}

impl AdminError {
    /// True if the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Read(error) => error.is_retryable(),
            Self::Submit(error) => error.is_retryable(),
            Self::NotAdmin { .. } | Self::NotProposed { .. } => false,
        }
    }
}

/// Changes parameters. `admin` signs, `payer` pays; they may be the same key. Sends nothing if all is so already.
///
/// # Errors
/// [`AdminError::NotAdmin`]; above a ceiling the program refuses.
pub async fn change(
    chain: &dyn ChainClient,
    program: &Program,
    payer: &Keypair,
    admin: &Keypair,
    changes: &Changes,
) -> Result<Changed, AdminError> {
    let config = reads::config(chain, program).await?;
    let in_office = Address::from(config.admin);
    if in_office != admin.pubkey() {
        return Err(AdminError::NotAdmin { key: admin.pubkey(), admin: in_office });
    }
    let before = SetConfig::keeping(&config);
    let after = changes.applied(&before, &config);
    if after == before {
        return Ok(Changed { config, signature: None });
    }
    let mut steps = Vec::new();
    if let Some(owner) = changes.treasury_owner.filter(|_| after.treasury != before.treasury) {
        steps.push(tokens::create_associated_idempotent(&payer.pubkey(), &owner, &config.mint.into()));
    }
    steps.push(instructions::set_config(program, &after));
    let signature = submit::submit(chain, payer, &[admin], &steps).await?;
    Ok(Changed { config: written(config, &after), signature: Some(signature) })
}

/// Takes the office. `proposed` signs, `payer` pays; they may be the same key. Sends nothing if it is in office.
///
/// # Errors
/// [`AdminError::NotProposed`].
pub async fn accept(
    chain: &dyn ChainClient,
    program: &Program,
    payer: &Keypair,
    proposed: &Keypair,
) -> Result<Changed, AdminError> {
    let mut config = reads::config(chain, program).await?;
    let key = proposed.pubkey();
    if config.admin == key.to_bytes() {
        return Ok(Changed { config, signature: None });
    }
    if config.pending_admin != key.to_bytes() {
        let proposed = SetConfig::keeping(&config).pending_admin;
        return Err(AdminError::NotProposed { key, proposed });
    }
    let step = instructions::accept_admin(program, &key);
    let signature = submit::submit(chain, payer, &[proposed], &[step]).await?;
    (config.admin, config.pending_admin) = (key.to_bytes(), NO_KEY);
    Ok(Changed { config, signature: Some(signature) })
}

impl Changes {
    fn applied(&self, before: &SetConfig, config: &Config) -> SetConfig {
        let treasury = |owner| tokens::associated_token_address(&owner, &config.mint.into());
        SetConfig {
            admin: before.admin,
            treasury: self.treasury_owner.map_or(before.treasury, treasury),
            paused: self.paused.unwrap_or(before.paused),
            max_grace_s: self.max_grace_s.unwrap_or(before.max_grace_s),
            protocol_fee_bps: self.protocol_fee_bps.unwrap_or(before.protocol_fee_bps),
            max_operator_fee_bps: self.max_operator_fee_bps.unwrap_or(before.max_operator_fee_bps),
            payout_delay_s: self.payout_delay_s.unwrap_or(before.payout_delay_s),
            pending_admin: self.pending_admin.unwrap_or(before.pending_admin),
        }
    }
}

fn written(config: Config, set: &SetConfig) -> Config {
    Config {
        treasury: set.treasury.to_bytes(),
        paused: u8::from(set.paused),
        max_grace_s: set.max_grace_s,
        protocol_fee_bps: set.protocol_fee_bps,
        max_operator_fee_bps: set.max_operator_fee_bps,
        payout_delay_s: set.payout_delay_s,
        pending_admin: set.pending_admin.map_or(NO_KEY, |key| key.to_bytes()),
        ..config
    }
}
