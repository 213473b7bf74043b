//! `aro-bench import`: how fast a file enters the store, hashed and durable, against BLAKE3 alone over the same bytes.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use aro_proto::ContentId;
use clap::Args;
use node_server::ContentStore;

use crate::report::{Figure, Report};
use crate::rounds::{paired, thousandths};
use crate::scene::pattern;

/// How to measure.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Mebibytes of the file.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    mib: u32,
    /// Rounds; their median counts.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: u16,
    /// Folder for the store, on the disk that is to be measured; the system's temporary folder if not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn measure(arguments: &Arguments) -> Result<Report> {
    let home = match &arguments.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let home = home.context("no folder for the store")?;
    let bytes = pattern(1, 0, (arguments.mib as usize) << 20);
    let id = ContentId::of(&bytes);
    let path = home.path().join("file");
    std::fs::write(&path, &bytes)?;
    let mut synced = Vec::new();
    let import = |round: usize| -> Result<u64> {
        // A store of its own, so that the content is new to it.
        let folder = home.path().join(format!("store-{round}"));
        let store = ContentStore::open(&folder)?;
        let started = Instant::now();
        let stored = store.add_file(&path)?;
        let took = started.elapsed();
        ensure!(stored.id == id && stored.size == bytes.len() as u64, "the content is another");
        std::fs::remove_dir_all(&folder)?;
        // The disk alone: the same bytes written and synced.
        let copy = home.path().join("copy");
        let started = Instant::now();
        std::fs::write(&copy, &bytes)?;
        std::fs::File::open(&copy)?.sync_all()?;
        synced.push(mb_s(bytes.len(), started));
        std::fs::remove_file(&copy)?;
        Ok(u64::try_from(bytes.len() as u128 / took.as_micros().max(1)).unwrap_or(u64::MAX))
    };
    let hash = |_| -> Result<u64> {
        let started = Instant::now();
        let hashed = ContentId::of(&bytes);
        let speed = mb_s(bytes.len(), started);
        ensure!(hashed == id, "the hash is another");
        Ok(speed)
    };
    let (import_mb_s, blake3_mb_s) = paired(arguments.rounds.into(), import, hash)?;
    let disk_mb_s = crate::rounds::median(synced);
    let figures = vec![
        Figure::new("import_mb_s", import_mb_s),
        Figure::new("blake3_mb_s", blake3_mb_s),
        Figure::new("write_and_sync_mb_s", disk_mb_s),
        Figure::new("import_over_blake3", thousandths(import_mb_s, blake3_mb_s)).in_thousandths(),
        Figure::new("import_over_write_and_sync", thousandths(import_mb_s, disk_mb_s)).in_thousandths(),
    ];
    let title = format!("{} MiB from the page cache into the store, one thread, synced", arguments.mib);
    let notes = vec![
        format!("Medians of {} rounds by turns.", arguments.rounds),
        "blake3: over the bytes in memory, one thread. write_and_sync: the same bytes to a file and to the disk."
            .into(),
    ];
    Ok(Report { title, figures, notes })
}

fn mb_s(bytes: usize, started: Instant) -> u64 {
    u64::try_from(bytes as u128 / started.elapsed().as_micros().max(1)).unwrap_or(u64::MAX)
}
