//! Decimal amounts on the command line, turned into base units without a float in between.

/// Reads "12", "0.5" or "12.000001" as whole units of `decimals` digits. Refuses more digits than there are,
/// signs, exponents and what does not fit 64 bits.
pub fn parse(text: &str, decimals: u32) -> Result<u64, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || text.ends_with('.') {
        return Err(format!("{text:?} is not an amount like 12 or 0.5"));
    }
    let given = u32::try_from(fraction.len()).unwrap_or(u32::MAX);
    let missing = decimals.checked_sub(given).ok_or_else(|| format!("{text:?} has more than {decimals} decimals"))?;
    let too_large = || format!("{text:?} is too large");
    let unit = 10_u64.pow(decimals);
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| too_large())? };
    whole
        .checked_mul(unit)
        .and_then(|units| units.checked_add(fraction.checked_mul(10_u64.pow(missing))?))
        .ok_or_else(too_large)
}

/// $ARO: 6 decimals.
pub fn aro(text: &str) -> Result<u64, String> {
    parse(text, 6)
}

/// SOL: 9 decimals.
pub fn sol(text: &str) -> Result<u64, String> {
    parse(text, 9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_become_exact_base_units() {
        for (text, units) in
            [("0", 0), ("1", 1_000_000), ("0.5", 500_000), ("12.000001", 12_000_001), ("01.10", 1_100_000)]
        {
            assert_eq!(aro(text), Ok(units), "{text}");
        }
        assert_eq!(aro("18446744073709.551615"), Ok(u64::MAX));
        assert_eq!(sol("0.000000001"), Ok(1));
    }

    #[test]
    fn what_is_no_exact_amount_is_refused() {
        for text in ["", ".", ".5", "5.", "-1", "+1", "1e3", "1,5", "1.0000001", "18446744073709.551616", "1.2.3", " 1"]
        {
            assert!(aro(text).is_err(), "{text}");
        }
    }
}
