//! Vouchers: strict verification of the agent's signature, and the keys that may sign.

use pinocchio::{Address, ProgramResult};
use settlement_interface::{Key, errors::SettlementError, voucher::voucher_bytes};

use crate::refuse::{refusal, require};

/// A voucher as a batch entry states it: `cumulative` in base units, `expires_at` in unix seconds or 0.
pub struct Voucher<'a> {
    /// Address of the channel account.
    pub channel: &'a Address,
    /// The channel's signer key.
    pub signer: &'a Key,
    /// The signature over the voucher bytes.
    pub signature: &'a [u8; 64],
    /// Base units.
    pub cumulative: u64,
    /// Unix seconds, 0 for never.
    pub expires_at: i64,
}

/// Verifies as `verify_strict` of ed25519-dalek does: canonical S, canonical points, none of small order.
///
/// # Errors
/// [`SettlementError::BadSignature`].
#[inline(never)]
// r[impl voucher.signature.strict]
// r[impl voucher.bytes]
// r[impl voucher.channel.bound]
pub fn verify(voucher: &Voucher<'_>) -> ProgramResult {
    let message = voucher_bytes(voucher.channel.as_array(), voucher.cumulative, voucher.expires_at);
    brine_ed25519::verify_strict(&Address::new_from_array(*voucher.signer), voucher.signature, &[&message])
        .map_err(|_| refusal(SettlementError::BadSignature))
}

/// A key that may sign vouchers: a canonical encoding of a point whose order is not small. A key of small order
/// has signatures that fit any message.
///
/// # Errors
/// [`SettlementError::WeakKey`].
#[inline(never)]
// r[impl voucher.signer.strong]
pub fn check_signer(key: &Key) -> ProgramResult {
    let mut y = *key;
    y[31] &= 0x7f;
    let is_canonical = y[31] != 0x7f || y[1..31].iter().any(|&byte| byte != 0xff) || y[0] < 0xed;
    let is_strong = is_canonical && !SMALL_ORDER_Y.contains(&y) && Address::new_from_array(*key).is_on_curve();
    require(is_strong, SettlementError::WeakKey)
}

/// The y coordinates of the eight points of small order (pairs of points share one).
const SMALL_ORDER_Y: [[u8; 32]; 5] = [
    *b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    *b"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    *b"\xec\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    *b"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
    *b"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
];
