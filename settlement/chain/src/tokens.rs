//! The few instructions of the SPL token program and the system program that ARO sends, and the two token accounts
//! that it reads. Written out here: the encodings are frozen on chain and shorter than the crates that carry them.

use solana_address::Address;
use solana_instruction::{AccountMeta, Instruction};

use crate::instructions::SYSTEM_PROGRAM;

/// The classic SPL token program.
pub const TOKEN_PROGRAM: Address = Address::from_str_const("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA");

/// The program that gives every wallet one token account per mint.
pub const ASSOCIATED_TOKEN_PROGRAM: Address = Address::from_str_const("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL");

/// The token account that a wallet has for a mint.
pub fn associated_token_address(owner: &Address, mint: &Address) -> Address {
    let seeds = [owner.as_ref(), TOKEN_PROGRAM.as_ref(), mint.as_ref()];
    Address::find_program_address(&seeds, &ASSOCIATED_TOKEN_PROGRAM).0
}

/// Creates the associated token account of `owner` at the cost of `payer` (signs); does nothing if it is there.
pub fn create_associated_idempotent(payer: &Address, owner: &Address, mint: &Address) -> Instruction {
    Instruction {
        program_id: ASSOCIATED_TOKEN_PROGRAM,
        accounts: vec![
            AccountMeta::new(*payer, true),
            AccountMeta::new(associated_token_address(owner, mint), false),
            AccountMeta::new_readonly(*owner, false),
            AccountMeta::new_readonly(*mint, false),
            AccountMeta::new_readonly(SYSTEM_PROGRAM, false),
            AccountMeta::new_readonly(TOKEN_PROGRAM, false),
        ],
        data: vec![1],
    }
}

/// Allocates a new account of `space` bytes for `owner` (a program). Both `payer` and `new` sign.
pub fn create_account(payer: &Address, new: &Address, lamports: u64, space: u64, owner: &Address) -> Instruction {
    let mut data = 0_u32.to_le_bytes().to_vec();
    data.extend_from_slice(&lamports.to_le_bytes());
    data.extend_from_slice(&space.to_le_bytes());
    data.extend_from_slice(owner.as_ref());
    Instruction {
        program_id: SYSTEM_PROGRAM,
        accounts: vec![AccountMeta::new(*payer, true), AccountMeta::new(*new, true)],
        data,
    }
}

/// Moves lamports from `from` (signs) to `to`.
pub fn transfer_lamports(from: &Address, to: &Address, lamports: u64) -> Instruction {
    let mut data = 2_u32.to_le_bytes().to_vec();
    data.extend_from_slice(&lamports.to_le_bytes());
    Instruction {
        program_id: SYSTEM_PROGRAM,
        accounts: vec![AccountMeta::new(*from, true), AccountMeta::new(*to, false)],
        data,
    }
}

/// Makes an allocated account a mint without freeze authority (InitializeMint2).
pub fn initialize_mint(mint: &Address, mint_authority: &Address, decimals: u8) -> Instruction {
    let mut data = vec![20, decimals];
    data.extend_from_slice(mint_authority.as_ref());
    data.push(0);
    Instruction { program_id: TOKEN_PROGRAM, accounts: vec![AccountMeta::new(*mint, false)], data }
}

/// Mints `amount` base units to a token account; the mint authority signs.
pub fn mint_to(mint: &Address, destination: &Address, authority: &Address, amount: u64) -> Instruction {
    Instruction {
        program_id: TOKEN_PROGRAM,
        accounts: vec![
            AccountMeta::new(*mint, false),
            AccountMeta::new(*destination, false),
            AccountMeta::new_readonly(*authority, true),
        ],
        data: with_amount(7, amount),
    }
}

/// Moves `amount` base units between token accounts; the owner of the source signs.
pub fn transfer(source: &Address, destination: &Address, owner: &Address, amount: u64) -> Instruction {
    Instruction {
        program_id: TOKEN_PROGRAM,
        accounts: vec![
            AccountMeta::new(*source, false),
            AccountMeta::new(*destination, false),
            AccountMeta::new_readonly(*owner, true),
        ],
        data: with_amount(3, amount),
    }
}

/// A mint account of the classic token program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mint {
    /// May mint more.
    pub mint_authority: Option<Address>,
    /// Base units in existence.
    pub supply: u64,
    /// Decimal digits of a whole.
    pub decimals: u8,
    /// May freeze token accounts.
    pub freeze_authority: Option<Address>,
}

impl Mint {
    /// Length of a mint account in bytes.
    pub const LEN: usize = 82;

    /// Reads an account's data; `None` if it is not an initialized mint.
    pub fn decode(data: &[u8]) -> Option<Self> {
        let data: &[u8; Self::LEN] = data.try_into().ok()?;
        if data[45] != 1 {
            return None;
        }
        Some(Self {
            mint_authority: optional_key(&data[..36])?,
            supply: u64_at(data, 36)?,
            decimals: data[44],
            freeze_authority: optional_key(&data[46..])?,
        })
    }
}

/// A token account of the classic token program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenAccount {
    /// What it holds.
    pub mint: Address,
    /// Who may spend it.
    pub owner: Address,
    /// Base units.
    pub amount: u64,
    /// True while the mint's freeze authority has stopped it.
    pub frozen: bool,
}

impl TokenAccount {
    /// Length of a token account in bytes.
    pub const LEN: usize = 165;

    /// Reads an account's data; `None` if it is not an initialized token account.
    pub fn decode(data: &[u8]) -> Option<Self> {
        let data: &[u8; Self::LEN] = data.try_into().ok()?;
        if !matches!(data[108], 1 | 2) {
            return None;
        }
        Some(Self {
            mint: key_at(data, 0)?,
            owner: key_at(data, 32)?,
            amount: u64_at(data, 64)?,
            frozen: data[108] == 2,
        })
    }
}

fn with_amount(tag: u8, amount: u64) -> Vec<u8> {
    let mut data = vec![tag];
    data.extend_from_slice(&amount.to_le_bytes());
    data
}

fn key_at(data: &[u8], offset: usize) -> Option<Address> {
    data.get(offset..)?.first_chunk::<32>().map(|key| Address::new_from_array(*key))
}

fn u64_at(data: &[u8], offset: usize) -> Option<u64> {
    data.get(offset..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// A `COption<Pubkey>`: four bytes that say whether, then the key. `None` outside for any other tag.
fn optional_key(data: &[u8]) -> Option<Option<Address>> {
    match data.first_chunk::<4>()? {
        [0, 0, 0, 0] => Some(None),
        [1, 0, 0, 0] => Some(Some(key_at(data, 4)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mint_decodes_authorities_and_refuses_uninitialized() {
        let mut data = vec![0; Mint::LEN];
        data[0] = 1;
        data[4..36].copy_from_slice(&[9; 32]);
        data[36..44].copy_from_slice(&77_u64.to_le_bytes());
        data[44] = 6;
        assert_eq!(Mint::decode(&data), None);
        data[45] = 1;
        let mint = Mint::decode(&data).unwrap();
        assert_eq!(mint.mint_authority, Some(Address::new_from_array([9; 32])));
        assert_eq!((mint.supply, mint.decimals, mint.freeze_authority), (77, 6, None));
        data[46] = 2;
        assert_eq!(Mint::decode(&data), None);
        assert_eq!(Mint::decode(&data[..81]), None);
    }
}
