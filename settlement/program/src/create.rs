//! New accounts at derived addresses, created even where someone has sent lamports ahead to block them.

use pinocchio::{
    AccountView, Address, ProgramResult,
    cpi::{Seed, Signer},
    error::ProgramError,
    sysvars::{get_sysvar, rent::RENT_ID},
};
use settlement_interface::{Key, errors::SettlementError};

use crate::{
    account::{SYSTEM_PROGRAM, is_vacant},
    invoke::{Use, invoke_signed},
    refuse::{refusal, require},
};

/// An account to be made.
pub struct NewAccount<'a> {
    /// Pays the rent that is missing.
    pub payer: &'a AccountView,
    /// Where the account will be.
    pub account: &'a AccountView,
    /// The program that will own it.
    pub owner: &'a Address,
    /// Bytes of data, all zero at first.
    pub space: u64,
    /// What the address derives from, bump last.
    pub seeds: &'a [Seed<'a>],
}

impl NewAccount<'_> {
    /// Funds, allocates and assigns the account. The seeds must derive its address, or the runtime refuses.
    ///
    /// # Errors
    /// [`SettlementError::AlreadyExists`] if something lives there.
    #[inline(never)]
    // r[impl settlement.accounts.prefunded]
    pub fn create(&self) -> ProgramResult {
        require(is_vacant(self.account), SettlementError::AlreadyExists)?;
        let rent = minimum_balance(self.space)?;
        let signer = [Signer::from(self.seeds)];
        let held = self.account.lamports();
        if held == 0 {
            return self.create_unfunded(rent, &signer);
        }
        if let Some(missing) = rent.checked_sub(held).filter(|&missing| missing > 0) {
            let mut data = [0; 12];
            data[0] = 2; // Transfer
            data[4..].copy_from_slice(&missing.to_le_bytes());
            let accounts = [(self.payer, Use::WriteSign), (self.account, Use::Write)];
            invoke_signed(&SYSTEM_PROGRAM, &data, accounts, &[])?;
        }
        let mut data = [0; 12];
        data[0] = 8; // Allocate
        data[4..].copy_from_slice(&self.space.to_le_bytes());
        invoke_signed(&SYSTEM_PROGRAM, &data, [(self.account, Use::WriteSign)], &signer)?;
        let mut data = [0; 36];
        data[0] = 1; // Assign
        data[4..].copy_from_slice(self.owner.as_array());
        invoke_signed(&SYSTEM_PROGRAM, &data, [(self.account, Use::WriteSign)], &signer)
    }

    /// The usual case in one call; the system program refuses it for an account that holds lamports.
    #[inline(always)]
    fn create_unfunded(&self, rent: u64, signer: &[Signer<'_, '_>]) -> ProgramResult {
        let mut data = [0; 52]; // CreateAccount
        data[4..12].copy_from_slice(&rent.to_le_bytes());
        data[12..20].copy_from_slice(&self.space.to_le_bytes());
        data[20..].copy_from_slice(self.owner.as_array());
        let accounts = [(self.payer, Use::WriteSign), (self.account, Use::WriteSign)];
        invoke_signed(&SYSTEM_PROGRAM, &data, accounts, signer)
    }
}

/// An account of this program that one key names: an agent, a node or an operator.
pub struct NewParty<'a> {
    /// This program, the owner.
    pub program: &'a Address,
    /// Pays the rent that is missing.
    pub payer: &'a AccountView,
    /// Where the account will be.
    pub account: &'a AccountView,
    /// What kind of party.
    pub seed: &'static [u8],
    /// Which one.
    pub key: &'a Key,
    /// Bytes of data, all zero at first.
    pub space: u64,
}

impl NewParty<'_> {
    /// Creates the account at its address and tells the bump.
    ///
    /// # Errors
    /// [`SettlementError::WrongAddress`], and those of [`NewAccount::create`].
    pub fn create(&self) -> Result<u8, ProgramError> {
        let bump = [derive(&[self.seed, self.key], self.account, self.program)?];
        let seeds = [Seed::from(self.seed), Seed::from(self.key), Seed::from(&bump)];
        let (payer, account, owner, space) = (self.payer, self.account, self.program, self.space);
        NewAccount { payer, account, owner, space, seeds: &seeds }.create()?;
        Ok(bump[0])
    }
}

/// The canonical address and bump of some seeds, which must be the account's.
///
/// # Errors
/// [`SettlementError::WrongAddress`].
#[inline(never)]
pub fn derive(seeds: &[&[u8]], account: &AccountView, program: &Address) -> Result<u8, ProgramError> {
    #[cfg(any(target_os = "solana", target_arch = "bpf"))]
    let found = Address::try_find_program_address(seeds, program);
    #[cfg(not(any(target_os = "solana", target_arch = "bpf")))]
    let found: Option<(Address, u8)> = core::hint::black_box((seeds, program, None)).2;
    match found {
        Some((address, bump)) if address == *account.address() => Ok(bump),
        _ => Err(refusal(SettlementError::WrongAddress)),
    }
}

/// Lamports that keep an account of `space` bytes alive, by the cluster's present rent.
///
/// Read as bytes: clusters state the rate either for one year with a threshold of two, or whole with a
/// threshold of one, and the threshold is a float, which SBF has no arithmetic for.
fn minimum_balance(space: u64) -> Result<u64, ProgramError> {
    let mut rent = [0; 16];
    get_sysvar(&mut rent, &RENT_ID, 0)?;
    let [rate, threshold] = [0, 8].map(|at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&rent[at..at.wrapping_add(8)]);
        u64::from_le_bytes(word)
    });
    let years = match threshold {
        ONE_YEAR => 1,
        TWO_YEARS => 2,
        _ => return Err(ProgramError::UnsupportedSysvar),
    };
    // The bounds keep the product below 2^64.
    require(rate < 1 << 40 && space < 1 << 16, SettlementError::Overflow)?;
    Ok(space.wrapping_add(STORAGE_OVERHEAD).wrapping_mul(rate).wrapping_mul(years))
}

/// Bytes that every account is charged beyond its data.
const STORAGE_OVERHEAD: u64 = 128;
const ONE_YEAR: u64 = 1f64.to_bits();
const TWO_YEARS: u64 = 2f64.to_bits();
