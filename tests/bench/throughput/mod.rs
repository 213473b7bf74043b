//! `aro-bench throughput`: one large content, proven and paid, beside the bare transport.
//!
//! | figure              | from                                              | to                                    |
//! |---------------------|---------------------------------------------------|---------------------------------------|
//! | `raw_quinn`         | the content, in memory                            | taken off the stream, counted, dropped |
//! | `raw_quinn_same`    | the same                                          | the same                              |
//! | `raw_hashed`        | the same                                          | the same, and hashed as it comes      |
//! | `verified`, `paid`  | the node's memory (`hot_bytes` holds the content) | proven bytes handed to a callback that counts and drops them |
//! | `paid_to_disk`      | the files of another node's store, none of it hot | a file: written, synced, renamed      |
//! | `disk_write`        | one buffer of 1 MiB                               | a file: written, synced               |
//!
//! Raw is one stream between two stock quinn endpoints: ring, default settings, default sockets. `raw_quinn_same` has
//! our TLS, transport and socket settings and nothing else of ours; `raw_hashed` is that and BLAKE3 of every byte, for
//! what proof costs at least where no core is idle. Stock quinn looks for packets of 1,452 bytes at most,
//! ours for 6,500, which loopback carries: the larger part of `paid_over_raw` comes from that. `--packet-bytes 1452`
//! compares at equal packets. All ends are in this process on one runtime. Every
//! round runs each once, the order turns from round to round, and ratios are medians of the rounds' own ratios.

mod disk;
mod meter;
mod ours;
mod raw;

use std::path::PathBuf;

use anyhow::{Context, Result};
use aro_proto::transport::TransportSettings;
use clap::Args;
use meter::Sample;

use crate::report::{Figure, Report};
use crate::rounds::median;

/// How to measure.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// Size of the content, in MiB.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    mib: u64,
    /// Rounds; medians count.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: u16,
    /// Folder for the store and the received files, on the disk that is to be measured; the system's temporary folder
    /// if not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Largest packet of ours and of `raw_quinn_same`, in bytes. The default is ours, which loopback carries as a network
    /// with jumbo frames does; 1452 is stock quinn's, and shows what is left of `paid_over_raw` at equal packets.
    #[arg(long, value_name = "BYTES", default_value_t = TransportSettings::default().packet_bytes, value_parser = clap::value_parser!(u16).range(1_200..=6_500))]
    packet_bytes: u16,
    /// Measures only these, for profiles: raw, same, hashed, verified, paid, file, disk.
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    only: Vec<What>,
}

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Raw,
    Same,
    Hashed,
    Verified,
    Paid,
    File,
    Disk,
}

/// Rounds that do not count.
const WARM_UP: usize = 2;

const ALL: [What; 7] = [What::Raw, What::Same, What::Hashed, What::Verified, What::Paid, What::File, What::Disk];

pub(crate) fn measure(arguments: &Arguments) -> Result<Report> {
    let folder = match &arguments.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let folder = folder.context("no folder for the store")?;
    let runtime = tokio::runtime::Runtime::new().context("no async runtime")?;
    // In a task, as a server's or an agent's own work runs; not on the thread that started the runtime.
    let measuring = runtime.spawn(run(folder.path().to_owned(), arguments.clone()));
    Ok(runtime.block_on(measuring)??.report(arguments))
}

async fn run(dir: PathBuf, arguments: Arguments) -> Result<Tally> {
    let size = arguments.mib << 20;
    let content = ours::content(size)?;
    let settings = TransportSettings { packet_bytes: arguments.packet_bytes, ..TransportSettings::default() };
    let (stock, same) = (raw::Line::stock(content.clone())?, raw::Line::same(content.clone(), settings)?);
    let ours = ours::Scene::new(&dir, &content, (WARM_UP as u64) + u64::from(arguments.rounds), settings).await?;
    let mut tally = Tally::default();
    // The first rounds make the content hot and warm up the rest, and do not count.
    for round in 0..WARM_UP + usize::from(arguments.rounds) {
        let mut sampled = Round::default();
        for step in 0..ALL.len() {
            let what = ALL[(round + step) % ALL.len()];
            if !arguments.only.is_empty() && !arguments.only.contains(&what) {
                continue;
            }
            match what {
                What::Raw => sampled.raw = stock.transfer().await?,
                What::Same => sampled.same = same.transfer().await?,
                What::Hashed => sampled.hashed = same.hashed(ours.content()).await?,
                What::Verified => sampled.verified = ours.verified().await?.0,
                What::Paid => (sampled.paid, sampled.vouchers) = ours.paid().await?,
                What::File => sampled.file = ours.paid_to_file().await?,
                What::Disk => sampled.disk = disk::write(&dir, size)?,
            }
        }
        if round >= WARM_UP {
            tally.rounds.push(sampled);
        }
    }
    ours.end().await;
    Ok(tally)
}

/// What one round took.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    raw: Sample,
    same: Sample,
    hashed: Sample,
    verified: Sample,
    paid: Sample,
    file: Sample,
    disk: Sample,
    vouchers: u64,
}

#[derive(Debug, Default)]
struct Tally {
    rounds: Vec<Round>,
}

impl Tally {
    fn report(&self, arguments: &Arguments) -> Report {
        let speed = |of: fn(&Round) -> Sample| self.median(|round| of(round).mb_per_s());
        let cpu = |of: fn(&Round) -> Sample| self.median(|round| of(round).cpu_thousandths_of_ns_per_byte());
        let ratio = |over: fn(&Round) -> Sample| self.median(|round| round.paid.thousandths_of(over(round)));
        let (disk, file) = (speed(|round| round.disk), speed(|round| round.file));
        let figures = vec![
            Figure::new("raw_quinn_mb_s", speed(|round| round.raw)),
            Figure::new("raw_quinn_same_mb_s", speed(|round| round.same)),
            Figure::new("raw_hashed_mb_s", speed(|round| round.hashed)),
            Figure::new("verified_mb_s", speed(|round| round.verified)),
            Figure::new("paid_mb_s", speed(|round| round.paid)),
            Figure::at_least("paid_to_disk_mb_s", file, 690),
            Figure::new("disk_write_mb_s", disk),
            Figure::at_least("paid_over_raw", ratio(|round| round.raw), 1_000).in_thousandths(),
            Figure::at_least("paid_over_raw_same", ratio(|round| round.same), 950).in_thousandths(),
            Figure::new("paid_over_raw_hashed", ratio(|round| round.hashed)).in_thousandths(),
            Figure::at_least("paid_over_verified", ratio(|round| round.verified), 970).in_thousandths(),
            Figure::new("cpu_ns_per_byte_raw", cpu(|round| round.raw)).in_thousandths(),
            Figure::new("cpu_ns_per_byte_raw_same", cpu(|round| round.same)).in_thousandths(),
            Figure::new("cpu_ns_per_byte_raw_hashed", cpu(|round| round.hashed)).in_thousandths(),
            Figure::new("cpu_ns_per_byte_verified", cpu(|round| round.verified)).in_thousandths(),
            Figure::new("cpu_ns_per_byte_paid", cpu(|round| round.paid)).in_thousandths(),
            Figure::new("cpu_ns_per_byte_to_disk", cpu(|round| round.file)).in_thousandths(),
            Figure::new("vouchers", self.median(|round| round.vouchers)),
        ];
        let spread = |of: fn(&Round) -> Sample| {
            let speeds = self.rounds.iter().map(|round| of(round).mb_per_s());
            let (least, most) = speeds.fold((u64::MAX, 0), |(least, most), mb_s| (least.min(mb_s), most.max(mb_s)));
            format!("{least} to {most}")
        };
        let notes = vec![
            String::new(),
            format!(
                "{} MiB, {} rounds after two to warm up, each counted and proven to the root; MB are 10^6 bytes.",
                arguments.mib, arguments.rounds
            ),
            "Raw: one stream, the same content from memory, taken off and dropped; stock quinn on ring, or".into(),
            "(same) our TLS, transport and sockets; hashed: that, and BLAKE3 of every byte. Verified and paid: from"
                .into(),
            "the node's memory to a callback that drops the proven bytes. To disk: from the store's files, synced"
                .into(),
            "and renamed. CPU: both ends.".into(),
            format!(
                "MB/s, least to most: raw {}, same {}, hashed {}, verified {}, paid {}, to disk {}, disk alone {}.",
                spread(|round| round.raw),
                spread(|round| round.same),
                spread(|round| round.hashed),
                spread(|round| round.verified),
                spread(|round| round.paid),
                spread(|round| round.file),
                spread(|round| round.disk),
            ),
        ];
        Report { title: "throughput of one content, one connection, loopback".into(), figures, notes }
    }

    fn median(&self, of: impl Fn(&Round) -> u64) -> u64 {
        median(self.rounds.iter().map(of).collect())
    }
}
