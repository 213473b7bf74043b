//! What a response holds: the asked ranges in whole chunk groups, for one size and one group size.

use core::ops::Range;

use super::geometry::{GroupIndex, GroupSize, PAIR_LEN, Subtree, byte_range};

/// The groups that answer a request, made by [`ByteRanges::answered`](super::ByteRanges::answered).
///
/// Never empty. Holds at most 256 ranges, whatever the size that it was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnsweredRanges {
    size: u64,
    group: GroupSize,
    /// Group numbers: rising, not touching, the last within the content.
    ranges: Vec<Range<u64>>,
}

impl AnsweredRanges {
    pub(super) fn new(size: u64, group: GroupSize, ranges: Vec<Range<u64>>) -> Self {
        Self { size, group, ranges }
    }

    /// Bytes of the content, proven or claimed: whatever the ranges were rounded for.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The size of a leaf.
    pub fn group(&self) -> GroupSize {
        self.group
    }

    /// Content bytes in the response: what is billed.
    pub fn content_bytes(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    /// Bytes on the wire: content and hashes. Takes time by the count of ranges, not by the size.
    pub fn encoded_len(&self) -> u64 {
        let parents = self.parents_below(Subtree::whole(self.size, self.group));
        self.content_bytes().saturating_add(parents.saturating_mul(PAIR_LEN as u64))
    }

    /// The byte ranges, rising; only an empty content gives an empty one.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|range| byte_range(range.clone(), self.size, self.group))
    }

    /// How many ranges there are.
    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// Whether the last group is among them, so that the response proves the content's size.
    pub fn proves_size(&self) -> bool {
        self.ranges.last().is_some_and(|range| range.end == self.group.count(self.size))
    }

    pub(super) fn touches(&self, subtree: Subtree) -> bool {
        self.first_from(subtree.start).is_some_and(|range| range.start < subtree.end())
    }

    /// The first answered group at or after `start`.
    pub(super) fn next_group(&self, start: u64) -> Option<GroupIndex> {
        self.first_from(start).map(|range| GroupIndex(range.start.max(start)))
    }

    /// The range that holds the group `start`, or else the first after it.
    fn first_from(&self, start: u64) -> Option<&Range<u64>> {
        self.ranges.get(self.ranges.partition_point(|range| range.end <= start))
    }

    fn parents_below(&self, subtree: Subtree) -> u64 {
        let Some(range) = self.first_from(subtree.start).filter(|range| range.start < subtree.end()) else { return 0 };
        if range.start <= subtree.start && subtree.end() <= range.end {
            return subtree.groups - 1;
        }
        subtree.split().map_or(0, |(left, right)| 1 + self.parents_below(left) + self.parents_below(right))
    }
}

#[cfg(test)]
mod tests {
    use super::super::ByteRanges;
    use super::*;

    #[test]
    fn a_claim_of_any_size_costs_neither_time_nor_memory() {
        let answered = ByteRanges::all().answered(u64::MAX, GroupSize::KIB16);
        assert_eq!(answered.content_bytes(), u64::MAX);
        assert_eq!(answered.encoded_len(), u64::MAX);
        assert!(answered.proves_size());
        let few = ByteRanges::new((0..256).map(|i| i << 50..(i << 50) + 1)).unwrap();
        let answered = few.answered(u64::MAX, GroupSize::KIB16);
        assert_eq!(answered.content_bytes(), 256 * 16384);
        assert!(answered.encoded_len() < 256 * (16384 + 51 * 64));
        assert!(!answered.proves_size());
    }
}
