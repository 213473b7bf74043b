//! Creates the config and the vault, once.

use pinocchio::{AccountView, Address, ProgramResult, cpi::Seed};
use settlement_interface::{
    accounts::{Config, NO_KEY, VERSION, discriminator},
    errors::SettlementError,
    instructions::InitConfig,
    seeds,
};

use crate::{
    account,
    create::{NewAccount, derive},
    entrypoint::Call,
    parameters,
    refuse::{refusal, require},
    token,
};

/// See [`InitConfig`].
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [payer, admin, config_account, vault, mint, treasury, program_data, token_program, system] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    let instruction = InitConfig::from_bytes(account::instruction(data)?);
    account::signed(payer)?;
    account::signed(admin)?;
    token::is_token_program(token_program)?;
    account::is_system_program(system)?;
    check_deployer(program, program_data, admin.address())?;
    parameters::check(instruction.protocol_fee_bps, instruction.max_operator_fee_bps, instruction.payout_delay_s)?;
    token::check_mint(mint)?;
    token::check_token_account(treasury, mint.address().as_array())?;

    let bump = [derive(&[seeds::CONFIG], config_account, program)?];
    let config_seeds = [Seed::from(seeds::CONFIG), Seed::from(&bump)];
    let space = Config::LEN as u64;
    NewAccount { payer, account: config_account, owner: program, space, seeds: &config_seeds }.create()?;

    let vault_bump = [derive(&[seeds::VAULT], vault, program)?];
    let vault_seeds = [Seed::from(seeds::VAULT), Seed::from(&vault_bump)];
    let (owner, space) = (&token::TOKEN_PROGRAM, token::TOKEN_ACCOUNT_LEN as u64);
    NewAccount { payer, account: vault, owner, space, seeds: &vault_seeds }.create()?;
    token::initialize_account(vault, mint, config_account.address())?;

    let config = Config {
        discriminator: discriminator::CONFIG,
        version: VERSION,
        bump: bump[0],
        paused: 0,
        vault_bump: vault_bump[0],
        reserved_head: [0; 3],
        admin: *admin.address().as_array(),
        mint: *mint.address().as_array(),
        vault: *vault.address().as_array(),
        treasury: *treasury.address().as_array(),
        max_grace_s: instruction.max_grace_s,
        protocol_fee_bps: instruction.protocol_fee_bps,
        max_operator_fee_bps: instruction.max_operator_fee_bps,
        pending_admin: NO_KEY,
        payout_delay_s: instruction.payout_delay_s,
        reserved: [0; 12],
    };
    config_account.try_borrow_mut()?.copy_from_slice(&config.to_bytes());
    Ok(())
}

/// Where the loader names an upgrade authority for this program, only that key may configure it.
///
/// The loader's account: u32 kind (3), u64 slot, u8 "has authority", 32 bytes of authority.
// r[impl settlement.config.deployer]
fn check_deployer(program: &Address, program_data: &AccountView, admin: &Address) -> ProgramResult {
    derive(&[program.as_array()], program_data, &UPGRADEABLE_LOADER)?;
    if !program_data.owned_by(&UPGRADEABLE_LOADER) {
        return Ok(());
    }
    let data = program_data.try_borrow()?;
    require(data.len() >= 45 && data[..4] == [3, 0, 0, 0], SettlementError::WrongLayout)?;
    require(data[12] == 0 || data[13..45] == *admin.as_array(), SettlementError::Unauthorised)
}

/// `BPFLoaderUpgradeab1e11111111111111111111111`.
const UPGRADEABLE_LOADER: Address = Address::new_from_array([
    2, 168, 246, 145, 78, 136, 161, 176, 226, 16, 21, 62, 247, 99, 174, 43, 0, 194, 185, 61, 22, 193, 36, 210, 192, 83,
    122, 16, 4, 128, 0, 0,
]);
