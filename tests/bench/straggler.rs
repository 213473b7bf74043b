//! `aro-bench straggler`: one of several nodes becomes slow at half time; how much later than at best does the fetch
//! end?

use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::fleet::{self, Fleet};
use crate::report::{Figure, Report};
use crate::rounds::{median, thousandths};

/// How to measure.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    fleet: fleet::Arguments,
    /// Kilobits a second of the slow node from half time on.
    #[arg(long, value_name = "KBIT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    slow_kbit: u32,
}

pub(crate) fn measure(arguments: &Arguments) -> Result<Report> {
    let runtime = tokio::runtime::Runtime::new().context("no async runtime")?;
    let fleet::Arguments { nodes, rate_mbit, rtt_ms, mib, rounds, .. } = arguments.fleet;
    let bits = (u64::from(mib) << 20) * 8;
    let (nodes, rate, slow) =
        (u64::from(nodes), u64::from(rate_mbit) * 1_000_000, u64::from(arguments.slow_kbit) * 1_000);
    // Half of it at full rates, half without the slow one's.
    let half = micros(bits / 2, nodes * rate);
    let ideal = half + micros(bits / 2, (nodes - 1) * rate + slow);
    let (mut over, mut slow_bytes) = (Vec::new(), Vec::new());
    runtime.block_on(async {
        let fleet = Fleet::new(&arguments.fleet).await?;
        for round in 0..rounds {
            let paths = fleet.paths(round)?;
            let slows = async {
                tokio::time::sleep(Duration::from_micros(half)).await;
                paths.relay(1)?.set_down_rate(slow);
                anyhow::Ok(())
            };
            let (slowed, fetched) = tokio::join!(slows, fleet.fetch(&paths));
            slowed?;
            let (took, report) = fetched?;
            over.push(thousandths(u64::try_from(took.as_micros())?, ideal));
            slow_bytes.push(report.sources.get(1).map_or(0, |source| source.verified_bytes));
        }
        anyhow::Ok(())
    })?;
    let figures = vec![
        Figure::at_most("finish_over_ideal", median(over), 1_300).in_thousandths(),
        Figure::new("ideal_ms", ideal / 1_000),
        Figure::new("slow_node_mib", median(slow_bytes) >> 20),
    ];
    let title = format!(
        "{mib} MiB from {nodes} nodes at {rate_mbit} Mbit/s, {rtt_ms} ms both ways, one at {} kbit/s from half time",
        arguments.slow_kbit
    );
    let notes = vec![
        format!("Medians of {rounds} rounds, each on new connections, from the call to the end."),
        "Ideal: links that carry nothing but content, and a fetch that knows beforehand what they will do.".into(),
    ];
    Ok(Report { title, figures, notes })
}

/// How long so many bits take at so many a second.
fn micros(bits: u64, rate: u64) -> u64 {
    u64::try_from(u128::from(bits) * 1_000_000 / u128::from(rate.max(1))).unwrap_or(u64::MAX)
}
