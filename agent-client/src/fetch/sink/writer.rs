//! Puts proven bytes at their places in the part file.

use std::fs::File;
use std::io::{self, IoSlice, Seek, SeekFrom, Write};

use bytes::Bytes;

use super::part::Part;
use super::uncached::Uncached;

/// The one writer of a part: as many bytes as may go by way of the page cache, those after them past it.
pub(super) struct Writer<'a> {
    part: &'a Part,
    /// Bytes that may still stay in the page cache.
    cached_left: u64,
    /// The way past it, once it is needed.
    uncached: Option<Uncached>,
}

impl<'a> Writer<'a> {
    /// At most about `cached_bytes` of what is written may stay in the page cache.
    pub(super) fn new(part: &'a Part, cached_bytes: u64) -> Self {
        Self { part, cached_left: cached_bytes, uncached: None }
    }

    /// Writes leaves, those that lie side by side at once.
    pub(super) fn write<'b>(&mut self, leaves: impl Iterator<Item = (u64, &'b Bytes)>) -> io::Result<()> {
        let mut leaves: Vec<(u64, &Bytes)> = leaves.filter(|(_, bytes)| !bytes.is_empty()).collect();
        leaves.sort_by_key(|(offset, _)| *offset);
        let end_of = |(offset, bytes): &(u64, &Bytes)| offset + bytes.len() as u64;
        for run in leaves.chunk_by(|left, right| end_of(left) == right.0) {
            let Some((offset, _)) = run.first() else { continue };
            let run: Vec<&Bytes> = run.iter().map(|(_, bytes)| *bytes).collect();
            self.write_run(*offset, &run)?;
        }
        Ok(())
    }

    fn write_run(&mut self, offset: u64, run: &[&Bytes]) -> io::Result<()> {
        let len = run.iter().map(|bytes| bytes.len() as u64).sum();
        let written = if self.cached_left < len {
            self.uncached.get_or_insert_with(|| Uncached::new(self.part.uncached())).write(offset, run)?
        } else {
            0
        };
        self.cached_left = self.cached_left.saturating_sub(len - written);
        let mut slices: Vec<IoSlice<'_>> = run.iter().map(|bytes| IoSlice::new(bytes)).collect();
        let mut rest = slices.as_mut_slice();
        IoSlice::advance_slices(&mut rest, usize::try_from(written).unwrap_or(usize::MAX));
        let mut data = self.part.data();
        data.seek(SeekFrom::Start(offset + written))?;
        write_all_slices(data, rest)
    }
}

fn write_all_slices(mut file: &File, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    let mut rest = slices;
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use aro_proto::ContentId;
    use aro_proto::merkle::ByteRanges;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn whichever_way_bytes_go_they_are_at_their_places_proptest(
            lens in prop::collection::vec(prop_oneof![1_usize..200, Just(4_096), Just(16_384), 1_usize..1_500_000], 1..8),
            holes in prop::collection::vec(prop_oneof![Just(0_u64), Just(16_384), 1_u64..50_000], 8),
            cached_bytes in prop_oneof![Just(0), Just(u64::MAX), 0_u64..1_000_000],
            batch in 1_usize..6,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("out");
            let (part, _) = Part::open(&path, ContentId::of(b""), &ByteRanges::all(), false).unwrap();
            let (mut expected, mut leaves) = (Vec::new(), Vec::new());
            for (len, hole) in lens.iter().zip(holes) {
                expected.resize(expected.len() + usize::try_from(hole).unwrap(), 0);
                let bytes: Bytes = (0..*len).map(|at| (at % 251) as u8 + 1).collect();
                leaves.push((expected.len() as u64, bytes.clone()));
                expected.extend(bytes);
            }
            let mut writer = Writer::new(&part, cached_bytes);
            for leaves in leaves.chunks(batch).rev() {
                writer.write(leaves.iter().map(|(offset, bytes)| (*offset, bytes))).unwrap();
            }
            prop_assert!(std::fs::read(dir.path().join("out.aro-part")).unwrap() == expected);
        }
    }
}
