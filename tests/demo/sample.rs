//! A file to show when none is given: bytes that do not repeat, made from their position.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// Writes `mib` MiB. The same length gives the same bytes, so two runs show the same content id.
pub(crate) fn write(path: &Path, mib: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    // SplitMix64: each word is a mix of its index.
    for index in 0..mib << 17 {
        let mut word = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        writer.write_all(&(word ^ (word >> 31)).to_le_bytes()).context("cannot write the sample file")?;
    }
    writer.flush().context("cannot write the sample file")
}
