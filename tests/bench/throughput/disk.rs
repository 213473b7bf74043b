//! What the disk takes by itself: one file, written in order and synced.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::meter::{Meter, Sample};

/// Writes and syncs a file of so many bytes, and removes it.
pub(super) fn write(dir: &Path, size: u64) -> Result<Sample> {
    let path = dir.join("plain");
    let buffer = super::ours::noise(BUFFER, 1);
    let meter = Meter::start();
    let mut file = File::create(&path).context("the disk's own file")?;
    let mut left = size;
    while left > 0 {
        let now = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
        file.write_all(&buffer[..now])?;
        left -= now as u64;
    }
    file.sync_all()?;
    let sample = meter.stop(size);
    fs::remove_file(&path)?;
    Ok(sample)
}

/// Bytes of one write: 1 MiB.
const BUFFER: usize = 1 << 20;
