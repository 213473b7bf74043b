//! The program's parameters: making them, changing them, handing them over.

use settlement_interface::{
    accounts::{Config, NO_KEY},
    instructions::{self as encoding, tag},
};
use solana_address::Address;
use solana_instruction::Instruction;

use super::{SYSTEM_PROGRAM, instruction, payer, readonly, signer, writable};
use crate::{Program, tokens::TOKEN_PROGRAM};

/// What [`init_config`] needs.
#[derive(Clone, Debug)]
pub struct InitConfig {
    /// Pays the rent of config and vault; signs.
    pub payer: Address,
    /// May change the parameters later; must be the program's upgrade authority if there is one; signs.
    pub admin: Address,
    /// The $ARO mint.
    pub mint: Address,
    /// Token account that protocol fees go to.
    pub treasury: Address,
    /// Longest grace a channel may have, in seconds.
    pub max_grace_s: u32,
    /// The protocol's part of what settles, in basis points.
    pub protocol_fee_bps: u16,
    /// The largest part an operator may ask, in basis points.
    pub max_operator_fee_bps: u16,
    /// Seconds that a node's new payout waits before it counts.
    pub payout_delay_s: u32,
}

/// Creates the config and the vault.
pub fn init_config(program: &Program, init: &InitConfig) -> Instruction {
    let data = encoding::InitConfig {
        tag: tag::INIT_CONFIG,
        max_grace_s: init.max_grace_s,
        protocol_fee_bps: init.protocol_fee_bps,
        max_operator_fee_bps: init.max_operator_fee_bps,
        payout_delay_s: init.payout_delay_s,
    };
    let accounts = vec![
        payer(init.payer),
        signer(init.admin),
        writable(program.config().0),
        writable(program.vault().0),
        readonly(init.mint),
        readonly(init.treasury),
        readonly(program.program_data()),
        readonly(TOKEN_PROGRAM),
        readonly(SYSTEM_PROGRAM),
    ];
    instruction(program, accounts, &data.to_bytes())
}

/// What [`set_config`] writes: every parameter, changed or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetConfig {
    /// The config's admin; signs.
    pub admin: Address,
    /// Token account that protocol fees go to.
    pub treasury: Address,
    /// Stops deposits and opens.
    pub paused: bool,
    /// Longest grace a channel may have, in seconds.
    pub max_grace_s: u32,
    /// The protocol's part of what settles, in basis points; for channels that open from now on.
    pub protocol_fee_bps: u16,
    /// The largest part an operator may ask, in basis points; for operators and choices from now on.
    pub max_operator_fee_bps: u16,
    /// Seconds that a node's new payout waits before it counts.
    pub payout_delay_s: u32,
    /// The key that becomes admin when it accepts.
    pub pending_admin: Option<Address>,
}

impl SetConfig {
    /// All parameters as they are, for a caller to change what it wants changed.
    pub fn keeping(config: &Config) -> Self {
        Self {
            admin: config.admin.into(),
            treasury: config.treasury.into(),
            paused: config.paused != 0,
            max_grace_s: config.max_grace_s,
            protocol_fee_bps: config.protocol_fee_bps,
            max_operator_fee_bps: config.max_operator_fee_bps,
            payout_delay_s: config.payout_delay_s,
            pending_admin: (config.pending_admin != NO_KEY).then(|| config.pending_admin.into()),
        }
    }
}

/// Writes the parameters anew.
pub fn set_config(program: &Program, set: &SetConfig) -> Instruction {
    let data = encoding::SetConfig {
        tag: tag::SET_CONFIG,
        paused: u8::from(set.paused),
        max_grace_s: set.max_grace_s,
        protocol_fee_bps: set.protocol_fee_bps,
        max_operator_fee_bps: set.max_operator_fee_bps,
        payout_delay_s: set.payout_delay_s,
        pending_admin: set.pending_admin.map_or(NO_KEY, |key| key.to_bytes()),
    };
    let accounts = vec![signer(set.admin), writable(program.config().0), readonly(set.treasury)];
    instruction(program, accounts, &data.to_bytes())
}

/// The proposed admin (signs) takes the office.
pub fn accept_admin(program: &Program, pending_admin: &Address) -> Instruction {
    let accounts = vec![signer(*pending_admin), writable(program.config().0)];
    instruction(program, accounts, &encoding::AcceptAdmin { tag: tag::ACCEPT_ADMIN }.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeping_repeats_what_the_config_says() {
        let mut bytes = [0; Config::LEN];
        let mut config = Config::from_bytes(&bytes);
        (config.admin, config.treasury, config.paused, config.max_grace_s) = ([1; 32], [2; 32], 1, 900);
        (config.protocol_fee_bps, config.max_operator_fee_bps, config.payout_delay_s) = (50, 500, 3_600);
        bytes = config.to_bytes();
        let kept = SetConfig::keeping(&Config::from_bytes(&bytes));
        assert_eq!(kept.pending_admin, None);
        let instruction = set_config(&Program::local(), &kept);
        let data: [u8; encoding::SetConfig::LEN] = instruction.data.try_into().unwrap();
        let data = encoding::SetConfig::from_bytes(&data);
        assert_eq!((data.paused, data.max_grace_s, data.pending_admin), (1, 900, NO_KEY));
        assert_eq!((data.protocol_fee_bps, data.max_operator_fee_bps, data.payout_delay_s), (50, 500, 3_600));
        assert_eq!(instruction.accounts[2].pubkey, Address::new_from_array([2; 32]));

        config.pending_admin = [3; 32];
        assert_eq!(SetConfig::keeping(&config).pending_admin, Some(Address::new_from_array([3; 32])));
    }
}
