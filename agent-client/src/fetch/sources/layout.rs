//! The work of a fetch as one line of bytes: whatever ranges of a content it stands for.

use std::ops::Range;

use aro_proto::merkle::{AnsweredRanges, ByteRanges, RangesError};

/// The missing ranges of a content, laid end to end.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Where each range begins on the line, rising, and which one it is.
    pieces: Vec<(u64, Range<u64>)>,
    total: u64,
    size: u64,
    proves_size: bool,
}

impl Layout {
    /// What has to come for these ranges, in whole groups.
    pub(super) fn new(answered: &AnsweredRanges) -> Self {
        let mut total = 0;
        let mut pieces = Vec::with_capacity(answered.count());
        for range in answered.iter() {
            let len = range.end - range.start;
            pieces.push((total, range));
            total += len;
        }
        Self { pieces, total, size: answered.size(), proves_size: answered.proves_size() }
    }

    /// Bytes of the line.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The size of the content that it was made for.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether the end of the line is the content's last group.
    pub(super) fn proves_size(&self) -> bool {
        self.proves_size
    }

    /// The ranges of the content that a stretch of the line stands for.
    pub(super) fn ranges(&self, stretch: &Range<u64>) -> Result<ByteRanges, RangesError> {
        let first = self.pieces.partition_point(|(at, range)| at + (range.end - range.start) <= stretch.start);
        let touched = self.pieces.get(first..).unwrap_or_default().iter().take_while(|(at, _)| *at < stretch.end);
        ByteRanges::new(touched.map(|(at, range)| {
            let start = range.start + stretch.start.saturating_sub(*at);
            start..range.end.min(range.start + (stretch.end - at))
        }))
    }
}

#[cfg(test)]
mod tests {
    use aro_proto::merkle::GroupSize;

    use super::*;

    #[test]
    fn a_stretch_is_the_ranges_that_it_stands_for() {
        const G: u64 = 16_384;
        let missing = ByteRanges::new([0..G, 3 * G..5 * G, 9 * G..u64::MAX]).unwrap();
        let layout = Layout::new(&missing.answered(10 * G + 7, GroupSize::KIB16));
        assert_eq!((layout.total(), layout.proves_size(), layout.size()), (4 * G + 7, true, 10 * G + 7));
        let ranges = |stretch| {
            let ranges = layout.ranges(&stretch).unwrap();
            ranges.iter().map(|range| (range.start, range.end)).collect::<Vec<_>>()
        };
        assert_eq!(ranges(0..4 * G + 7), [(0, G), (3 * G, 5 * G), (9 * G, 10 * G + 7)]);
        assert_eq!(ranges(0..G), [(0, G)]);
        assert_eq!(ranges(G..2 * G), [(3 * G, 4 * G)]);
        assert_eq!(ranges(2 * G..4 * G), [(4 * G, 5 * G), (9 * G, 10 * G)]);
        assert_eq!(ranges(4 * G..4 * G + 7), [(10 * G, 10 * G + 7)]);
        assert!(layout.ranges(&(G..G)).is_err());
    }
}
