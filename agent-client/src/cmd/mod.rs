//! One file for each command.

pub(crate) mod channel;
pub(crate) mod get;
pub(crate) mod keys;
pub(crate) mod put;
pub(crate) mod quote;
pub(crate) mod tree;
pub(crate) mod wallet;

use aro_proto::merkle::ByteRanges;

use crate::output::Failure;

/// `START-END` as in HTTP: first and last byte, counted from 0; without END to the content's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    start: u64,
    end: u64,
}

impl std::str::FromStr for Span {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "a range reads START-END, first and last byte counted from 0, or START- to the end";
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse::<u64>().ok()).flatten().ok_or(SHAPE)
        };
        let (start, last) = text.split_once('-').ok_or(SHAPE)?;
        let start = number(start)?;
        let end = if last.is_empty() { u64::MAX } else { number(last)?.checked_add(1).ok_or(SHAPE)? };
        if start < end { Ok(Self { start, end }) } else { Err("a range ends before it begins") }
    }
}

/// The ranges of all spans; everything if there are none.
fn ranges(spans: &[Span]) -> Result<ByteRanges, Failure> {
    if spans.is_empty() {
        return Ok(ByteRanges::all());
    }
    ByteRanges::new(spans.iter().map(|span| span.start..span.end))
        .map_err(|error| Failure::usage(&error.to_string(), "give other --range values"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_names_first_and_last_byte() {
        assert_eq!("0-0".parse(), Ok(Span { start: 0, end: 1 }));
        assert_eq!("5-".parse(), Ok(Span { start: 5, end: u64::MAX }));
        for bad in
            ["", "-", "-5", "5", "5-4", "a-b", "1-2-3", "+1-2", "0-18446744073709551615", "99999999999999999999-"]
        {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
