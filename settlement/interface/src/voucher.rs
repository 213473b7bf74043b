//! The 50 bytes that an agent signs to pay: the message of Solana's payment-channel ecosystem.
//!
//! ```text
//!  0        2                                34              42              50
//!  +--------+--------------------------------+---------------+---------------+
//!  | 56  01 | channel id (account address)   | cumulative LE | expires_at LE |
//!  +--------+--------------------------------+---------------+---------------+
//! ```

use crate::Key;

/// First two bytes of every voucher.
pub const VOUCHER_MAGIC: [u8; 2] = [0x56, 0x01];

/// Length of the signed message, in bytes.
pub const VOUCHER_LEN: usize = 50;

/// `expires_at` of a voucher that never expires.
pub const NEVER: i64 = 0;

/// The message to sign: `cumulative` in base units of $ARO, `expires_at` in unix seconds or [`NEVER`].
#[inline(always)]
pub fn voucher_bytes(channel: &Key, cumulative: u64, expires_at: i64) -> [u8; VOUCHER_LEN] {
    let mut bytes = [0; VOUCHER_LEN];
    bytes[..2].copy_from_slice(&VOUCHER_MAGIC);
    bytes[2..34].copy_from_slice(channel);
    bytes[34..42].copy_from_slice(&cumulative.to_le_bytes());
    bytes[42..].copy_from_slice(&expires_at.to_le_bytes());
    bytes
}

/// True if a voucher may no longer be settled at `now` (unix seconds): at its expiry it is already dead.
#[inline(always)]
pub const fn is_expired(expires_at: i64, now: i64) -> bool {
    expires_at != NEVER && now >= expires_at
}
