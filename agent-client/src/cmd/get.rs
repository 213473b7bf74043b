//! `aro get`: fetch a content into a file.

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;

use agent_client::{FetchError, FetchReport, Progress};
use aro_proto::{Address, Amount};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Opening, Span};
use crate::Global;
use crate::output::{Failure, Output};

#[derive(Args)]
pub(crate) struct Get {
    /// aro://<content id>@<node id>@<host>:<port>
    address: Address,
    /// File to write; it appears only when all its bytes are proven
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Refuse if the node asks more $ARO than this for the whole fetch
    #[arg(long, value_name = "ARO")]
    max_price: Option<Amount>,
    /// Spend no more $ARO than this
    #[arg(long, value_name = "ARO")]
    budget: Option<Amount>,
    #[command(flatten)]
    opening: Opening,
    /// Only these bytes, first and last, counted from 0; may be given again
    #[arg(long = "range", value_name = "START-END")]
    spans: Vec<Span>,
}

impl Get {
    pub(crate) async fn run(&self, global: &Global, output: &Output) -> Result<(), Failure> {
        let ranges = super::ranges(&self.spans)?;
        let agent = global.paying_agent(self.budget, &self.opening, output).await?;
        let bar = bar()?;
        let shown = bar.clone();
        let mut fetch = agent.fetch(&self.address).ranges(ranges).progress(move |progress| show(&shown, &progress));
        if let Some(max_price) = self.max_price {
            fetch = fetch.max_price(max_price);
        }
        if let Some(budget) = self.budget {
            fetch = fetch.budget(budget);
        }
        let fetched: Result<FetchReport, Failure> = tokio::select! {
            fetched = fetch.to_file(&self.output) => fetched.map_err(|error: FetchError| error.into()),
            _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
        };
        bar.finish_and_clear();
        agent.close().await;
        let report = fetched?;
        output.result(&report, || describe(&report, &self.output))
    }
}

fn bar() -> Result<ProgressBar, Failure> {
    let target = if stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} proven, {bytes_per_sec}, {msg} $ARO")
        .map_err(|error| Failure::internal(&error))?;
    Ok(ProgressBar::with_draw_target(None, target).with_style(style))
}

fn show(bar: &ProgressBar, progress: &Progress) {
    bar.set_length(progress.total_bytes);
    bar.set_position(progress.proven_bytes);
    bar.set_message(progress.spent.to_string());
}

fn describe(report: &FetchReport, path: &std::path::Path) -> String {
    let size = if report.size_proven { "" } else { " (of a size that only the node claims)" };
    format!(
        "{} bytes in {}: {} proven{size}, {} $ARO paid with {} vouchers, {} ms",
        report.delivered_bytes,
        path.display(),
        report.verified_bytes,
        report.paid,
        report.vouchers,
        report.elapsed.as_millis()
    )
}
