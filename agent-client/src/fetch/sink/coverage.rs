//! Which bytes of a content are there.

use std::collections::BTreeMap;
use std::ops::Range;

use aro_proto::limits::MAX_RANGES;
use aro_proto::merkle::{ByteRanges, GroupSize};

/// The bytes that a target has taken, and the content's size once it is a fact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Coverage {
    /// Starts and ends: none empty, none touching the next.
    ranges: BTreeMap<u64, u64>,
    size: Option<u64>,
    /// What a node claimed last.
    claimed: u64,
}

impl Coverage {
    /// All of a content of `size` bytes.
    pub(super) fn whole(size: u64) -> Self {
        let mut coverage = Self::default();
        coverage.add(0..size);
        coverage.prove_size(size);
        coverage
    }

    /// Adds the bytes of a proven leaf. False if all of them were there before.
    pub(super) fn add(&mut self, range: Range<u64>) -> bool {
        let before = self.ranges.range(..=range.start).next_back().filter(|(_, end)| **end >= range.start);
        let (mut start, mut end) = (range.start, range.end);
        if let Some((first, last)) = before {
            if *last >= range.end {
                return false;
            }
            start = *first;
        }
        while let Some((first, last)) = self.ranges.range(start..=end).next() {
            let (first, last) = (*first, *last);
            end = end.max(last);
            self.ranges.remove(&first);
        }
        if start < end {
            self.ranges.insert(start, end);
        }
        start < end
    }

    /// A node claims this size. False if another is proven.
    pub(super) fn claim(&mut self, size: u64) -> bool {
        let agrees = self.size.is_none_or(|proven| proven == size);
        if agrees {
            self.claimed = size;
        }
        agrees
    }

    /// The last chunk group is proven, and with it the size.
    pub(super) fn prove_size(&mut self, size: u64) {
        (self.size, self.claimed) = (Some(size), size);
    }

    /// The content's size: what is proven, or else what was claimed last.
    pub(super) fn claimed(&self) -> u64 {
        self.claimed
    }

    /// The content's size, once it is a fact.
    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Nothing is there, and nothing known.
    pub(super) fn is_untouched(&self) -> bool {
        self.ranges.is_empty() && self.size.is_none()
    }

    /// Bytes that are there.
    pub(super) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    /// The asked bytes that the content has, as far as its size is known.
    pub(super) fn wanted(&self, asked: &ByteRanges) -> impl Iterator<Item = Range<u64>> {
        let end = self.size.unwrap_or(u64::MAX);
        asked.iter().map(move |range| range.start..range.end.min(end)).filter(|range| !range.is_empty())
    }

    /// How many bytes are asked for, by what nodes claim where the size is not proven.
    pub(super) fn expected(&self, asked: &ByteRanges) -> u64 {
        let end = self.size.unwrap_or_else(|| self.claimed());
        asked.iter().map(|range| range.end.min(end).saturating_sub(range.start)).sum()
    }

    /// What is there, rising.
    #[cfg(test)]
    pub(super) fn held_ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(start, end)| *start..*end)
    }

    /// How many of the asked bytes are there.
    pub(super) fn held(&self, asked: &ByteRanges) -> u64 {
        asked.iter().flat_map(|range| self.overlaps(range)).map(|overlap| overlap.end - overlap.start).sum()
    }

    /// What is still missing of the asked bytes: the first 256 ranges of it, as many as one request may name. None if
    /// nothing is.
    pub(super) fn missing(&self, asked: &ByteRanges) -> Option<ByteRanges> {
        let mut gaps = Vec::new();
        for range in asked.iter() {
            // Beyond its end a content has nothing; that it ends there was then proven already.
            let range = range.start..range.end.min(self.size.unwrap_or(u64::MAX));
            let mut from = range.start;
            for overlap in self.overlaps(range.clone()) {
                gaps.push(from..overlap.start);
                from = overlap.end;
            }
            gaps.push(from..range.end);
        }
        ByteRanges::new(gaps.into_iter().filter(|gap| gap.start < gap.end).take(MAX_RANGES)).ok()
    }

    /// Whether groups of this size never fetch again what is there.
    pub(super) fn is_aligned(&self, group: GroupSize) -> bool {
        let at_edge = |at: u64| at.is_multiple_of(group.bytes()) || Some(at) == self.size;
        self.ranges.iter().all(|(start, end)| at_edge(*start) && at_edge(*end))
    }

    /// What is there of `range`, rising.
    fn overlaps(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.ranges.range(..range.start).next_back();
        let rest = self.ranges.range(range.start..range.end.max(range.start));
        first.into_iter().chain(rest).filter_map(move |(start, end)| {
            let overlap = (*start).max(range.start)..(*end).min(range.end);
            (!overlap.is_empty()).then_some(overlap)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ranges(of: Option<ByteRanges>) -> Vec<Range<u64>> {
        of.map(|ranges| ranges.iter().collect()).unwrap_or_default()
    }

    #[test]
    fn what_is_there_is_not_missing() {
        let mut there = Coverage::default();
        let all = ByteRanges::all();
        assert_eq!(ranges(there.missing(&all)), [0..u64::MAX]);
        assert!(there.add(10..20) && there.add(30..40));
        assert!(!there.add(10..20) && !there.add(12..13) && !there.add(35..40), "there already");
        assert_eq!(ranges(there.missing(&all)), [0..10, 20..30, 40..u64::MAX]);
        assert!(there.add(15..35), "partly new");
        assert_eq!(ranges(there.missing(&all)), [0..10, 40..u64::MAX]);
        assert_eq!((there.bytes(), there.held(&all)), (30, 30));
        there.prove_size(40);
        let some = ByteRanges::new([5..12, 39..100]).unwrap();
        assert_eq!(ranges(there.missing(&some)), [5..10]);
        assert_eq!((there.held(&some), there.wanted(&some).collect::<Vec<_>>()), (3, vec![5..12, 39..40]));
        assert!(there.add(0..10));
        assert_eq!(there.missing(&all), None);
    }

    #[test]
    fn an_empty_content_is_whole_once_its_size_is_proven() {
        let mut there = Coverage::default();
        assert!(!there.add(0..0));
        assert!(there.missing(&ByteRanges::all()).is_some());
        there.prove_size(0);
        assert_eq!(there.missing(&ByteRanges::all()), None);
        assert_eq!(there.bytes(), 0);
    }

    #[test]
    fn more_gaps_than_a_request_names_are_asked_for_in_turn() {
        let mut there = Coverage::default();
        (0..600).for_each(|piece| assert!(there.add(piece * 10..piece * 10 + 5)));
        let first = there.missing(&ByteRanges::all()).unwrap();
        assert_eq!((first.iter().len(), first.iter().next()), (256, Some(5..10)));
        first.iter().for_each(|gap| assert!(there.add(gap)));
        let second = there.missing(&ByteRanges::all()).unwrap();
        assert_eq!(second.iter().next(), Some(2565..2570));
    }

    #[test]
    fn large_groups_fit_where_every_edge_does() {
        let mut there = Coverage::default();
        assert!(there.is_aligned(GroupSize::KIB64));
        there.add(65_536..131_072);
        assert!(there.is_aligned(GroupSize::KIB64));
        there.add(131_072..147_456);
        assert!(!there.is_aligned(GroupSize::KIB64) && there.is_aligned(GroupSize::KIB16));
        there.prove_size(147_456);
        assert!(there.is_aligned(GroupSize::KIB64), "the last group is cut by the content's end");
    }

    proptest! {
        #[test]
        fn it_is_the_set_of_bytes_that_were_added_proptest(
            pieces in prop::collection::vec((0_u64..200, 0_u64..40), 0..30),
            asked in prop::collection::vec((0_u64..250, 1_u64..60), 1..6),
        ) {
            let (mut there, mut bytes) = (Coverage::default(), BTreeSet::new());
            for (start, len) in pieces {
                let before = bytes.len();
                bytes.extend(start..start + len);
                prop_assert_eq!(there.add(start..start + len), bytes.len() > before);
            }
            prop_assert_eq!(there.bytes(), bytes.len() as u64);
            let asked = ByteRanges::new(asked.into_iter().map(|(start, len)| start..start + len)).unwrap();
            let wanted: BTreeSet<u64> = asked.iter().flatten().collect();
            let missing: BTreeSet<u64> = ranges(there.missing(&asked)).into_iter().flatten().collect();
            prop_assert_eq!(&missing, &wanted.difference(&bytes).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(there.held(&asked), (wanted.len() - missing.len()) as u64);
        }
    }
}
