//! The token program: which mints and token accounts are accepted.

use pinocchio::{AccountView, Address, ProgramResult};
use settlement_interface::{ARO_DECIMALS, Key, accounts::Config, errors::SettlementError};

use crate::{
    account::same,
    invoke::{Use, invoke_signed},
    refuse::require,
};

/// Address of the classic SPL token program: `TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA`.
pub const TOKEN_PROGRAM: Address = Address::new_from_array([
    6, 221, 246, 225, 215, 101, 161, 147, 217, 203, 225, 70, 206, 235, 121, 172, 28, 180, 133, 237, 95, 91, 55, 145,
    58, 140, 245, 133, 126, 255, 0, 169,
]);

/// Length of a token account, in bytes.
pub const TOKEN_ACCOUNT_LEN: usize = 165;

/// The account must be the classic token program.
#[inline(always)]
pub fn is_token_program(account: &AccountView) -> ProgramResult {
    require(*account.address() == TOKEN_PROGRAM, SettlementError::WrongProgram)
}

/// A mint that nobody can freeze and that carries no extensions, with the decimals of $ARO.
///
/// # Errors
/// [`SettlementError::BadMint`].
// r[impl settlement.mint.plain]
pub fn check_mint(mint: &AccountView) -> ProgramResult {
    let data = mint.try_borrow()?;
    let is_plain = mint.owned_by(&TOKEN_PROGRAM)
        && data.len() == 82
        && data[44] == ARO_DECIMALS
        && data[45] == 1 // initialised
        && data[46..50] == [0; 4]; // no freeze authority
    require(is_plain, SettlementError::BadMint)
}

/// A token account of this mint that can receive.
///
/// # Errors
/// [`SettlementError::BadTokenAccount`].
pub fn check_token_account(account: &AccountView, mint: &Key) -> ProgramResult {
    let data = account.try_borrow()?;
    let is_usable =
        account.owned_by(&TOKEN_PROGRAM) && data.len() == TOKEN_ACCOUNT_LEN && data[..32] == *mint && data[108] == 1; // initialised and not frozen
    require(is_usable, SettlementError::BadTokenAccount)
}

/// A token account that payouts may go to. The vault may not: its tokens would leave the ledger and stay.
///
/// # Errors
/// [`SettlementError::BadTokenAccount`].
pub fn check_payout(account: &AccountView, config: &Config) -> ProgramResult {
    require(!same(&config.vault, account.address()), SettlementError::BadTokenAccount)?;
    check_token_account(account, &config.mint)
}

/// Makes a zeroed account of the token program a token account of `mint`.
pub fn initialize_account(account: &AccountView, mint: &AccountView, authority: &Address) -> ProgramResult {
    let mut data = [0; 33];
    data[0] = 18; // InitializeAccount3
    data[1..].copy_from_slice(authority.as_array());
    invoke_signed(&TOKEN_PROGRAM, &data, [(account, Use::Write), (mint, Use::Read)], &[])
}
