//! Byte ranges of a content, as asked for: one set has one form, so one request has one right answer.

use core::fmt;
use core::ops::Range;

use serde::de::{Deserializer, Error as _, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::answered::AnsweredRanges;
use super::geometry::GroupSize;
use crate::limits::MAX_RANGES;

/// A set of bytes: 1 to 256 ranges, rising, none empty, none touching the next.
///
/// A range that ends at `u64::MAX` goes to the content's end, wherever that is.
///
/// On the wire, each number an LEB128 of the fewest bytes:
/// ```text
/// count | gap, length | gap, length | ...      gap: from the previous range's end, the first from 0
///                                              length 0, last range only: to the content's end
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ByteRanges(Vec<Range<u64>>);

impl ByteRanges {
    /// The whole content, whatever its size.
    pub fn all() -> Self {
        Self(vec![0..OPEN])
    }

    /// The bytes `start..end`; an end of `u64::MAX` means to the content's end.
    ///
    /// # Errors
    /// A range without a byte.
    pub fn single(start: u64, end: u64) -> Result<Self, RangesError> {
        Self::new([start..end])
    }

    /// The union of `ranges`, in any order.
    ///
    /// # Errors
    /// No range, a range without a byte, or more than 256 left after joining.
    pub fn new(ranges: impl IntoIterator<Item = Range<u64>>) -> Result<Self, RangesError> {
        let mut sorted: Vec<_> = ranges.into_iter().collect();
        if let Some(empty) = sorted.iter().find(|range| range.is_empty()) {
            return Err(RangesError::Empty { start: empty.start, end: empty.end });
        }
        sorted.sort_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::with_capacity(sorted.len().min(MAX_RANGES));
        for range in sorted {
            push_joined(&mut joined, range);
        }
        match joined.len() {
            0 => Err(RangesError::NoRange),
            count if count > MAX_RANGES => Err(RangesError::TooMany { count: count as u64 }),
            _ => Ok(Self(joined)),
        }
    }

    /// Whether this is the whole content, whatever its size.
    pub fn is_all(&self) -> bool {
        self.0 == [0..OPEN]
    }

    /// The ranges, rising.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Range<u64>> + '_ {
        self.0.iter().cloned()
    }

    /// What a content of `size` bytes answers: whole groups, cut at its end. Any `size` is safe, proven or claimed.
    ///
    /// A range that reaches or passes the end always takes in the last group, which proves the size.
    // r[impl content.ranges.rounding]
    pub fn answered(&self, size: u64, group: GroupSize) -> AnsweredRanges {
        let groups = group.count(size);
        let mut rounded = Vec::with_capacity(self.0.len());
        for range in &self.0 {
            let start = (range.start / group.bytes()).min(groups - 1);
            let end = range.end.div_ceil(group.bytes());
            if range.end >= size {
                push_joined(&mut rounded, start..groups);
                break;
            }
            push_joined(&mut rounded, start..end);
        }
        AnsweredRanges::new(size, group, rounded)
    }

    /// The wire form, appended to `out`: at most 5,122 bytes.
    // r[impl content.ranges.canonical]
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_number(out, self.0.len() as u64);
        let mut previous = 0;
        for range in &self.0 {
            put_number(out, range.start - previous);
            put_number(out, if range.end == OPEN { 0 } else { range.end - range.start });
            previous = range.end;
        }
    }

    /// Reads the wire form, which must be the only one of its set and fill `bytes`.
    ///
    /// # Errors
    /// Anything that [`encode`](Self::encode) would not have written.
    // r[impl content.ranges.canonical]
    pub fn decode(mut bytes: &[u8]) -> Result<Self, RangesError> {
        let count = take_number(&mut bytes)?;
        if count == 0 {
            return Err(RangesError::NoRange);
        }
        let bounded = usize::try_from(count).ok().filter(|count| *count <= MAX_RANGES);
        let mut ranges = Vec::with_capacity(bounded.ok_or(RangesError::TooMany { count })?);
        let mut previous = 0;
        for index in 0..count {
            let gap = take_number(&mut bytes)?;
            let len = take_number(&mut bytes)?;
            if index > 0 && gap == 0 {
                return Err(RangesError::Touching { index });
            }
            if len == 0 && index + 1 < count {
                return Err(RangesError::OpenBeforeLast { index });
            }
            let start = u64::checked_add(previous, gap).filter(|start| *start < OPEN);
            let end = start.and_then(|start| start.checked_add(len)).filter(|end| *end < OPEN);
            let (Some(start), Some(end)) = (start, end) else {
                return Err(RangesError::PastLimit { index });
            };
            ranges.push(start..if len == 0 { OPEN } else { end });
            previous = end;
        }
        match bytes.len() {
            0 => Ok(Self(ranges)),
            len => Err(RangesError::TrailingBytes { len }),
        }
    }
}

impl fmt::Debug for ByteRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByteRanges")?;
        f.debug_list().entries(&self.0).finish()
    }
}

impl Serialize for ByteRanges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de> Deserialize<'de> for ByteRanges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WireForm;
        impl Visitor<'_> for WireForm {
            type Value = ByteRanges;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("byte ranges in their wire form")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<ByteRanges, E> {
                ByteRanges::decode(bytes).map_err(E::custom)
            }
        }
        deserializer.deserialize_bytes(WireForm).map_err(D::Error::custom)
    }
}

/// Why ranges are not a set in its one form.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RangesError {
    /// Nothing was asked for.
    #[error("no range")]
    NoRange,
    /// More ranges than one request may hold.
    #[error("{count} ranges: at most {MAX_RANGES}")]
    TooMany {
        /// How many there are, or are claimed.
        count: u64,
    },
    /// A range without a byte.
    #[error("empty range {start}..{end}")]
    Empty {
        /// Its first byte.
        start: u64,
        /// The byte after its last.
        end: u64,
    },
    /// A range that begins where the one before it ends.
    #[error("range {index} touches the one before it")]
    Touching {
        /// Which range, from 0.
        index: u64,
    },
    /// A range to the content's end with others after it.
    #[error("range {index} goes to the end but is not the last")]
    OpenBeforeLast {
        /// Which range, from 0.
        index: u64,
    },
    /// A range beyond what 64 bits can name.
    #[error("range {index} passes 2^64 - 2")]
    PastLimit {
        /// Which range, from 0.
        index: u64,
    },
    /// A number in more bytes than it needs, or of more than 64 bits.
    #[error("a number is not in its shortest form")]
    Overlong,
    /// The bytes end within the ranges.
    #[error("the ranges are cut off")]
    Truncated,
    /// More bytes than the ranges take.
    #[error("{len} bytes after the ranges")]
    TrailingBytes {
        /// How many bytes too many.
        len: usize,
    },
}

/// Appends a range that begins at or after the last one's start, joined to it where the two meet.
fn push_joined(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
        _ => ranges.push(range),
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn take_number(bytes: &mut &[u8]) -> Result<u64, RangesError> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(RangesError::Truncated)?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if (bits << shift) >> shift != bits {
            return Err(RangesError::Overlong);
        }
        number |= bits << shift;
        if byte < 0x80 {
            return if byte == 0 && shift > 0 { Err(RangesError::Overlong) } else { Ok(number) };
        }
    }
    Err(RangesError::Overlong)
}

/// The end of a range that goes to the content's end.
const OPEN: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_union_is_sorted_and_joined() {
        let ranges = ByteRanges::new([30..40, 5..10, 10..12, 35..50, 11..12]).unwrap();
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [5..12, 30..50]);
        assert!(ByteRanges::new([0..7, 7..u64::MAX]).unwrap().is_all());
        assert_eq!(ByteRanges::new([]), Err(RangesError::NoRange));
        assert_eq!(ByteRanges::single(9, 9), Err(RangesError::Empty { start: 9, end: 9 }));
        let inverted = Range { start: 9, end: 8 };
        assert_eq!(ByteRanges::new([0..1, inverted]), Err(RangesError::Empty { start: 9, end: 8 }));
        let apart = |count: u64| (0..count).map(|i| i * 2..i * 2 + 1);
        assert_eq!(ByteRanges::new(apart(256)).unwrap().iter().len(), 256);
        assert_eq!(ByteRanges::new(apart(257)), Err(RangesError::TooMany { count: 257 }));
    }

    #[test]
    fn wire_form_cases() {
        let cases: [(ByteRanges, &[u8]); 4] = [
            (ByteRanges::all(), &[1, 0, 0]),
            (ByteRanges::single(0, 1).unwrap(), &[1, 0, 1]),
            (ByteRanges::single(300, u64::MAX).unwrap(), &[1, 0xac, 0x02, 0]),
            (ByteRanges::new([5..10, 11..u64::MAX]).unwrap(), &[2, 5, 5, 1, 0]),
        ];
        for (ranges, bytes) in cases {
            let mut encoded = Vec::new();
            ranges.encode(&mut encoded);
            assert_eq!(encoded, bytes);
            assert_eq!(ByteRanges::decode(bytes), Ok(ranges));
        }
    }

    // r[verify content.ranges.canonical]
    #[test]
    fn every_other_form_is_refused() {
        let max = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        let with_max = |before: &[u8], after: &[u8]| [before, &max[..], after].concat();
        let cases: [(Vec<u8>, RangesError); 16] = [
            (vec![], RangesError::Truncated),
            (vec![0], RangesError::NoRange),
            (vec![0x81, 0x02, 0, 1], RangesError::TooMany { count: 257 }),
            (with_max(&[], &[]), RangesError::TooMany { count: u64::MAX }),
            (vec![0x81, 0x00, 0, 1], RangesError::Overlong),
            (vec![1, 0x80, 0x00, 1], RangesError::Overlong),
            (vec![1, 0, 0x80, 0x00], RangesError::Overlong),
            (vec![1; 1], RangesError::Truncated),
            (vec![1, 0], RangesError::Truncated),
            (vec![1, 0, 0x80], RangesError::Truncated),
            (vec![2, 0, 1, 0, 1], RangesError::Touching { index: 1 }),
            (vec![2, 0, 0, 1, 1], RangesError::OpenBeforeLast { index: 0 }),
            (vec![1, 0, 1, 0], RangesError::TrailingBytes { len: 1 }),
            (with_max(&[1, 0], &[]), RangesError::PastLimit { index: 0 }),
            (with_max(&[1], &[0]), RangesError::PastLimit { index: 0 }),
            (with_max(&[2, 0, 9], &[9]), RangesError::PastLimit { index: 1 }),
        ];
        for (bytes, error) in cases {
            assert_eq!(ByteRanges::decode(&bytes), Err(error), "{bytes:?}");
        }
        // Eleven bytes, and ten whose last holds more than bit 63.
        for number in [vec![0xff; 11], [&[0xff; 9][..], &[0x02]].concat()] {
            assert_eq!(ByteRanges::decode(&number), Err(RangesError::Overlong));
        }
    }

    // r[verify content.ranges.rounding]
    #[test]
    fn rounding_cases() {
        let group = GroupSize::KIB16;
        let answered = |ranges: &[Range<u64>], size| {
            ByteRanges::new(ranges.iter().cloned()).unwrap().answered(size, group).iter().collect::<Vec<_>>()
        };
        assert_eq!(answered(&[0..1], 50_000), [0..16384]);
        assert_eq!(answered(&[16383..16385], 50_000), [0..32768]);
        assert_eq!(answered(&[0..16384], 50_000), [0..16384]);
        assert_eq!(answered(&[0..1, 16384..16385], 50_000), [0..32768]);
        assert_eq!(answered(&[0..1, 32768..32769], 50_000), [0..16384, 32768..49152]);
        // At the end, past it, far past it, and open: the last group comes along.
        assert_eq!(answered(&[49_999..50_000], 50_000), [49152..50_000]);
        assert_eq!(answered(&[0..49_999], 50_000), [0..50_000]);
        assert_eq!(answered(&[50_000..50_001], 50_000), [49152..50_000]);
        assert_eq!(answered(&[0..1, 60_000..70_000, 80_000..u64::MAX], 50_000), [0..16384, 49152..50_000]);
        assert_eq!(answered(&[32_768..u64::MAX], 32_768), [16_384..32_768]);
        assert_eq!(answered(&[7..9], 0), [0..0]);
        assert_eq!(answered(&[0..u64::MAX], u64::MAX), [0..u64::MAX]);
        assert_eq!(answered(&[0..u64::MAX - 1], u64::MAX), [0..u64::MAX]);
    }

    #[test]
    fn serde_carries_the_wire_form_and_refuses_others() {
        let ranges = ByteRanges::new([5..10, 11..u64::MAX]).unwrap();
        let bytes = postcard::to_allocvec(&ranges).unwrap();
        assert_eq!(bytes, [5, 2, 5, 5, 1, 0]);
        assert_eq!(postcard::from_bytes::<ByteRanges>(&bytes), Ok(ranges));
        assert!(postcard::from_bytes::<ByteRanges>(&[5, 2, 5, 5, 0, 0]).is_err());
    }

    proptest! {
        #[test]
        fn wire_form_proptest(starts in prop::collection::vec((any::<u64>(), 1u64..1 << 40), 1..20)) {
            let ranges = ByteRanges::new(starts.iter().map(|(start, len)| {
                let start = *start.min(&(u64::MAX - 1));
                start..start.saturating_add(*len)
            })).unwrap();
            let mut bytes = Vec::new();
            ranges.encode(&mut bytes);
            prop_assert_eq!(ByteRanges::decode(&bytes), Ok(ranges));
        }

        #[test]
        fn what_decodes_is_its_own_encoding_proptest(bytes in prop::collection::vec(prop_oneof![0u8..5, any::<u8>()], 0..40)) {
            if let Ok(ranges) = ByteRanges::decode(&bytes) {
                let mut again = Vec::new();
                ranges.encode(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
