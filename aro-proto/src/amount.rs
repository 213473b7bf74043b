//! Quantities: money in base units of $ARO, lengths in bytes. Arithmetic is checked, and nothing is a float.

#![deny(clippy::arithmetic_side_effects, clippy::cast_possible_truncation, reason = "money")]

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};
use settlement_interface::ARO_DECIMALS;
use thiserror::Error;

/// Base units of $ARO: one $ARO is 10^6 of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Amount(u64);

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ByteCount(u64);

macro_rules! quantity {
    ($name:ident, $unit:literal) => {
        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0);
            #[doc = concat!("From a count of ", $unit, ".")]
            pub const fn new(value: u64) -> Self {
                Self(value)
            }
            #[doc = concat!("The count of ", $unit, ".")]
            pub const fn get(self) -> u64 {
                self.0
            }
            /// True for nothing.
            pub const fn is_zero(self) -> bool {
                self.0 == 0
            }
            /// The sum, or `None` if it does not fit.
            pub const fn checked_add(self, other: Self) -> Option<Self> {
                match self.0.checked_add(other.0) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }
            /// The difference, or `None` if `other` is larger.
            pub const fn checked_sub(self, other: Self) -> Option<Self> {
                match self.0.checked_sub(other.0) {
                    Some(rest) => Some(Self(rest)),
                    None => None,
                }
            }
            /// The difference, or nothing if `other` is larger.
            pub const fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
            /// The sum, or the largest count if it does not fit.
            pub const fn saturating_add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }
    };
}
quantity!(Amount, "base units");
quantity!(ByteCount, "bytes");

const UNITS_PER_ARO: u64 = 10u64.pow(ARO_DECIMALS as u32);

/// Shows $ARO with up to six decimals and no trailing zeros: `1.5`, `0.000001`, `0`.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / UNITS_PER_ARO, self.0 % UNITS_PER_ARO);
        if part == 0 {
            return write!(f, "{whole}");
        }
        let decimals = format!("{part:06}");
        write!(f, "{whole}.{}", decimals.trim_end_matches('0'))
    }
}

/// Why a text is not an amount of $ARO.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is not an amount of $ARO: write digits with at most 6 decimals, such as 1.5")]
pub struct AmountError(String);

/// Reads $ARO with at most six decimals, exactly.
impl FromStr for Amount {
    type Err = AmountError;
    fn from_str(text: &str) -> Result<Self, AmountError> {
        parse_aro(text).map(Self).ok_or_else(|| AmountError(text.chars().take(64).collect()))
    }
}

fn parse_aro(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) {
        return None;
    }
    let missing = u32::from(ARO_DECIMALS).checked_sub(u32::try_from(part.len()).ok()?)?;
    let scale = 10u64.checked_pow(missing)?;
    let part = part.parse::<u64>().ok()?.checked_mul(scale)?;
    whole.parse::<u64>().ok()?.checked_mul(UNITS_PER_ARO)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aro_reads_back_as_it_is_shown() {
        for (units, text) in [(0, "0"), (1, "0.000001"), (1_500_000, "1.5"), (u64::MAX, "18446744073709.551615")] {
            assert_eq!(Amount::new(units).to_string(), text);
            assert_eq!(text.parse(), Ok(Amount::new(units)));
        }
    }

    #[test]
    fn inexact_or_foreign_texts_are_refused() {
        for text in ["", ".", "1.", ".5", "1.0000001", "-1", "+1", "1e3", "1,5", "18446744073709.551616", "٣"] {
            assert!(text.parse::<Amount>().is_err(), "{text}");
        }
    }
}
