//! What nobody has been asked for: ranges, sorted, not touching.

use core::ops::Range;

/// Bytes that are free to be given to a source.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool {
    ranges: Vec<Range<u64>>,
}

impl Pool {
    pub(super) fn new(bytes: u64) -> Self {
        let mut pool = Self::default();
        pool.put(0..bytes);
        pool
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    /// Where the lowest range begins.
    pub(super) fn first(&self) -> Option<u64> {
        self.ranges.first().map(|range| range.start)
    }

    /// Puts back what was taken before, and joins it with its neighbours.
    pub(super) fn put(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let at = self.ranges.partition_point(|other| other.start < range.start);
        self.ranges.insert(at, range);
        self.ranges.dedup_by(|next, before| {
            let touches = next.start == before.end;
            if touches {
                before.end = next.end;
            }
            touches
        });
    }

    /// Takes at most `len` bytes from the lowest range, none of them at or behind `limit`.
    pub(super) fn take(&mut self, len: u64, limit: u64) -> Option<Range<u64>> {
        let first = self.ranges.first_mut().filter(|range| range.start < limit)?;
        let end = first.end.min(first.start.saturating_add(len)).min(limit);
        let taken = first.start..end;
        first.start = end;
        self.ranges.retain(|range| !range.is_empty());
        (!taken.is_empty()).then_some(taken)
    }

    /// Takes exactly this range, if all of it is here.
    pub(super) fn take_exact(&mut self, wanted: Range<u64>) -> Option<Range<u64>> {
        let holds = |range: &Range<u64>| range.start <= wanted.start && wanted.end <= range.end;
        let at = self.ranges.iter().position(|range| !wanted.is_empty() && holds(range))?;
        let around = self.ranges.remove(at);
        self.put(around.start..wanted.start);
        self.put(wanted.end..around.end);
        Some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_back_joins_its_neighbours() {
        let mut pool = Pool::new(100);
        assert_eq!(pool.take(30, u64::MAX), Some(0..30));
        assert_eq!(pool.take(30, 40), Some(30..40));
        assert_eq!(pool.take(30, 40), None);
        pool.put(0..30);
        assert_eq!((pool.ranges.clone(), pool.bytes(), pool.first()), (vec![0..30, 40..100], 90, Some(0)));
        pool.put(30..40);
        pool.put(50..50);
        assert_eq!((pool.ranges.len(), pool.bytes(), pool.first()), (1, 100, Some(0)));
        assert_eq!(pool.take_exact(90..100), Some(90..100));
        assert_eq!(pool.take_exact(10..20), Some(10..20));
        assert_eq!(pool.take_exact(5..15), None);
        assert_eq!(pool.ranges, [0..10, 20..90]);
        assert_eq!((pool.take(50, u64::MAX), pool.take(500, u64::MAX)), (Some(0..10), Some(20..90)));
        assert!(pool.is_empty() && pool.take(1, u64::MAX).is_none());
    }
}
