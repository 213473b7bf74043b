//! Who gets what of a settled amount. Integers only; the parts always sum to the whole.
//!
//! A channel keeps the protocol's rate of its opening and a node its operator's rate of the choosing, whatever
//! becomes of the config. Both were below their ceiling when they were copied, and the ceilings are constants, so no
//! pair of copies can sum to the whole: settling never fails for fees, and the node always gets a part.

/// Denominator of every fee: 10,000 basis points are the whole.
pub const BPS_WHOLE: u16 = 10_000;

/// The highest protocol fee that any config may name, in basis points.
pub const MAX_PROTOCOL_FEE_BPS: u16 = 2_000;

/// The highest operator fee that any config may allow, in basis points.
pub const MAX_OPERATOR_FEE_BPS: u16 = 5_000;

// r[impl settlement.fees.ceilings]
const _: () = assert!(MAX_PROTOCOL_FEE_BPS + MAX_OPERATOR_FEE_BPS < BPS_WHOLE);

/// A settled amount, divided: `node + operator + protocol` is the amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Base units credited to the node: what the fees leave, dust included.
    pub node: u64,
    /// Base units credited to the operator, rounded down.
    pub operator: u64,
    /// Base units credited to the protocol, rounded down.
    pub protocol: u64,
}

/// Divides `amount`. `None` if the two fees together exceed the whole, which no rates within the ceilings do.
#[inline(always)]
pub const fn split(amount: u64, operator_bps: u16, protocol_bps: u16) -> Option<Split> {
    // u32: two u16 sum without overflow.
    if operator_bps as u32 + protocol_bps as u32 > BPS_WHOLE as u32 {
        return None;
    }
    let operator = portion(amount, operator_bps);
    let protocol = portion(amount, protocol_bps);
    // Cannot underflow: both floors together are at most the whole.
    Some(Split { node: amount - operator - protocol, operator, protocol })
}

/// floor(amount * bps / 10,000) in 64 bits (SBF has no 128-bit arithmetic): split at the denominator, each
/// product stays below 2^64 because bps <= 10,000.
#[inline(always)]
const fn portion(amount: u64, bps: u16) -> u64 {
    let whole = BPS_WHOLE as u64;
    let bps = bps as u64;
    (amount / whole) * bps + (amount % whole) * bps / whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_sum_to_the_whole_and_match_wide_arithmetic() {
        for amount in [0, 1, 99, 9_999, 10_000, 10_001, u64::MAX / 2, u64::MAX] {
            for (operator_bps, protocol_bps) in [(0, 0), (1, 1), (150, 50), (5_000, 5_000), (10_000, 0)] {
                let parts = split(amount, operator_bps, protocol_bps).unwrap();
                let wide = |bps: u16| (u128::from(amount) * u128::from(bps) / 10_000) as u64;
                assert_eq!(parts.operator, wide(operator_bps));
                assert_eq!(parts.protocol, wide(protocol_bps));
                assert_eq!(parts.node + parts.operator + parts.protocol, amount);
            }
        }
        assert_eq!(split(1, 9_000, 1_001), None);
    }
}
