//! What an account must be before its bytes are believed: its owner, its layout, its address, its signature.
//!
//! Only this program can write an account that it owns, and it writes a discriminator only after it has derived
//! the address from the seeds. So owner and discriminator together prove the address; where the address itself
//! is what gives power (the config), it is derived again.

use pinocchio::{
    AccountView, Address, ProgramResult,
    account::RefMut,
    error::ProgramError,
    sysvars::{Sysvar, clock::Clock},
};
use settlement_interface::{
    Key,
    accounts::{Channel, Config, Node, Operator, check_header, discriminator},
    errors::SettlementError,
    seeds,
};

use crate::refuse::{refusal, require};

/// Address of the system program; as a stored operator it reads "none".
pub const SYSTEM_PROGRAM: Address = Address::new_from_array([0; 32]);

/// True if both are the same 32 bytes.
#[inline(always)]
pub fn same(key: &Key, address: &Address) -> bool {
    pinocchio::address::address_eq(&Address::new_from_array(*key), address)
}

/// Instruction data of exactly the layout's length.
///
/// # Errors
/// [`SettlementError::MalformedData`].
#[inline(always)]
pub fn instruction<const N: usize>(data: &[u8]) -> Result<&[u8; N], ProgramError> {
    data.try_into().map_err(|_| refusal(SettlementError::MalformedData))
}

/// The account must have signed the transaction.
#[inline(always)]
pub fn signed(account: &AccountView) -> ProgramResult {
    require(account.is_signer(), SettlementError::MissingSignature)
}

/// The account must be the system program.
#[inline(always)]
pub fn is_system_program(account: &AccountView) -> ProgramResult {
    require(*account.address() == SYSTEM_PROGRAM, SettlementError::WrongProgram)
}

/// True if nothing lives at this address: it was never created, or was reclaimed. It may hold lamports.
#[inline(always)]
pub fn is_vacant(account: &AccountView) -> bool {
    account.is_data_empty() && account.owned_by(&SYSTEM_PROGRAM)
}

/// The bytes of an account of ours.
///
/// # Errors
/// [`SettlementError::WrongOwner`], [`SettlementError::WrongLayout`].
#[inline(always)]
// r[impl settlement.accounts.checked]
pub fn load<'a, const N: usize>(
    account: &'a mut AccountView,
    program: &Address,
    discriminator: u8,
) -> Result<RefMut<'a, [u8; N]>, ProgramError> {
    require(account.owned_by(program), SettlementError::WrongOwner)?;
    let data = account.try_borrow_mut()?;
    require(check_header(&data, discriminator).is_ok(), SettlementError::WrongLayout)?;
    RefMut::filter_map(data, |bytes| bytes.try_into().ok()).map_err(|_| refusal(SettlementError::WrongLayout))
}

/// The bytes of a channel account.
#[inline(always)]
pub fn channel<'a>(
    account: &'a mut AccountView,
    program: &Address,
) -> Result<RefMut<'a, [u8; Channel::LEN]>, ProgramError> {
    load(account, program, discriminator::CHANNEL)
}

/// A node account, read whole.
#[inline(always)]
pub fn node(account: &mut AccountView, program: &Address) -> Result<Node, ProgramError> {
    Ok(Node::from_bytes(&*load(account, program, discriminator::NODE)?))
}

/// The config, read whole.
///
/// # Errors
/// As [`load`], and [`SettlementError::WrongAddress`].
#[inline(always)]
pub fn config(account: &mut AccountView, program: &Address) -> Result<Config, ProgramError> {
    let config = Config::from_bytes(&*load(account, program, discriminator::CONFIG)?);
    let address = Address::derive_address(&[seeds::CONFIG], Some(config.bump), program);
    require(address == *account.address(), SettlementError::WrongAddress)?;
    Ok(config)
}

/// The operator in an instruction's slot: `None` where the slot holds the system program.
#[inline(always)]
pub fn operator_slot(account: &mut AccountView, program: &Address) -> Result<Option<Operator>, ProgramError> {
    if *account.address() == SYSTEM_PROGRAM {
        return Ok(None);
    }
    Ok(Some(Operator::from_bytes(&*load(account, program, discriminator::OPERATOR)?)))
}

/// As [`operator_slot`], for the operator that the node has chosen and no other.
///
/// # Errors
/// As [`load`], and [`SettlementError::WrongParty`].
#[inline(always)]
pub fn operator_of(
    node: &Node,
    account: &mut AccountView,
    program: &Address,
) -> Result<Option<Operator>, ProgramError> {
    require(same(&node.operator, account.address()), SettlementError::WrongParty)?;
    operator_slot(account, program)
}

/// The signer must be the node's owner or its operator's authority.
///
/// # Errors
/// [`SettlementError::MissingSignature`], [`SettlementError::Unauthorised`].
#[inline(always)]
pub fn acts_for_node(authority: &AccountView, node: &Node, operator: Option<&Operator>) -> ProgramResult {
    signed(authority)?;
    let is_owner = same(&node.owner, authority.address());
    let is_operator = operator.is_some_and(|operator| same(&operator.authority, authority.address()));
    require(is_owner || is_operator, SettlementError::Unauthorised)
}

/// The cluster's time, in unix seconds.
#[inline(always)]
pub fn now() -> Result<i64, ProgramError> {
    Ok(Clock::get()?.unix_timestamp)
}
