//! `aro-bench multi`: one content from several nodes at once, each behind a relay that caps its rate.

use anyhow::{Context, Result};
use clap::Args;

use crate::fleet::{self, Fleet};
use crate::report::{Figure, Report};
use crate::rounds::median;

/// How to measure.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    fleet: fleet::Arguments,
}

pub(crate) fn measure(arguments: &Arguments) -> Result<Report> {
    let runtime = tokio::runtime::Runtime::new().context("no async runtime")?;
    let (mut rates, mut requests) = (Vec::new(), Vec::new());
    runtime.block_on(async {
        let fleet = Fleet::new(&arguments.fleet).await?;
        for round in 0..arguments.fleet.rounds {
            let paths = fleet.paths(round)?;
            let (took, report) = fleet.fetch(&paths).await?;
            let kbit = u128::from(fleet.bytes()) * 8 * 1_000 / took.as_micros().max(1);
            rates.push(u64::try_from(kbit).unwrap_or(u64::MAX));
            requests.push(report.sources.iter().map(|source| source.requests).sum());
        }
        anyhow::Ok(())
    })?;
    let fleet::Arguments { nodes, rate_mbit, rtt_ms, mib, rounds, mtu, .. } = arguments.fleet;
    // 95 % of what the links carry.
    let goal = u64::from(nodes) * u64::from(rate_mbit) * 950;
    let figures = vec![
        Figure::at_least("goodput_mbit", median(rates), goal).in_thousandths(),
        Figure::new("link_mbit", u64::from(nodes) * u64::from(rate_mbit)),
        Figure::new("requests", median(requests)),
    ];
    let title = format!("{mib} MiB from {nodes} nodes at {rate_mbit} Mbit/s each, {rtt_ms} ms there and back");
    let notes = vec![
        format!("Medians of {rounds} rounds, each on new connections, from the call to the acknowledged end."),
        format!("Paid and proven, in memory; packets of {mtu} bytes, headers included, which the links carry too."),
    ];
    Ok(Report { title, figures, notes })
}
