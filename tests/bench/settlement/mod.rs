//! `aro-bench settlement`: what settling costs on chain, and how many vouchers an operator takes.

mod cost;
mod intake;
mod meter;
mod transactions;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::report::{Figure, Report};

/// How to measure.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Rounds of the intake; their median counts.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: u16,
    /// Folder for the operator's database, on the disk that is to be measured; the system's temporary folder if not
    /// given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn measure(arguments: &Arguments) -> Result<Report> {
    let runtime = tokio::runtime::Runtime::new().context("no async runtime")?;
    let chain = runtime.block_on(transactions::measure())?;
    let intake = intake::measure(usize::from(arguments.rounds), arguments.dir.as_deref())?;
    let close_fee = chain.close.fee_per_entry();
    let figures = vec![
        Figure::at_least("closes_per_tx", chain.close.entries, 36),
        Figure::at_most("tx_bytes", chain.close.bytes, 4_096),
        Figure::at_most("cu_per_close", chain.close.units_per_entry(), 19_500),
        Figure::at_most("base_fee_lamports_per_close", close_fee, 140),
        Figure::new("opens_per_tx", chain.open.entries),
        Figure::new("open_cu", chain.open.units_per_entry()),
        Figure::at_least("reclaims_per_tx", chain.reclaim.entries, 58),
        Figure::new("reclaim_cu", chain.reclaim.units_per_entry()),
        Figure::at_least("vouchers_accepted_per_s", intake.accepted_per_s, 25_000),
        Figure::new("verify_strict_per_s", intake.verified_per_s),
    ];
    let mut notes = cost::of_a_gibibyte(&chain);
    notes.extend(intake.notes());
    Ok(Report { title: "settlement, on the committed program in LiteSVM".into(), figures, notes })
}
