//! `aro get`: fetch a content into a file.

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;

use agent_client::{DryRun, FetchError, FetchReport, Progress};
use aro_proto::{Address, Amount};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Span;
use crate::Global;
use crate::output::{Failure, Output};

#[derive(Args)]
pub(crate) struct Get {
    /// aro://<content id>@<node id>@<host>:<port>
    address: Address,
    /// File to write; it appears only when all its bytes are proven
    #[arg(short, long, value_name = "FILE", required_unless_present = "dry_run")]
    output: Option<PathBuf>,
    /// Refuse if the node asks more $ARO than this for the whole fetch
    #[arg(long, value_name = "ARO")]
    max_price: Option<Amount>,
    /// Spend no more $ARO than this
    #[arg(long, value_name = "ARO")]
    budget: Option<Amount>,
    /// Which class of content it is, for a budget that caps classes
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// Say what it would cost and whether the budget allows it; fetch and pay nothing
    #[arg(long)]
    dry_run: bool,
    /// Only these bytes, first and last, counted from 0; may be given again
    #[arg(long = "range", value_name = "START-END")]
    spans: Vec<Span>,
}

impl Get {
    pub(crate) async fn run(&self, global: &Global, output: &Output) -> Result<(), Failure> {
        let ranges = super::ranges(&self.spans)?;
        let agent = global.agent(self.budget).await?;
        let bar = bar()?;
        let shown = bar.clone();
        let mut fetch = agent.fetch(&self.address).ranges(ranges).progress(move |progress| show(&shown, &progress));
        if let Some(max_price) = self.max_price {
            fetch = fetch.max_price(max_price);
        }
        if let Some(budget) = self.budget {
            fetch = fetch.budget(budget);
        }
        if let Some(class) = &self.class {
            fetch = fetch.class(class);
        }
        let Some(path) = self.output.as_ref().filter(|_| !self.dry_run) else {
            let tried = fetch.dry_run().await;
            agent.close().await;
            let tried = tried?;
            return output.result(&tried, || describe_dry(&tried));
        };
        let fetched: Result<FetchReport, Failure> = tokio::select! {
            fetched = fetch.to_file(path) => fetched.map_err(|error: FetchError| error.into()),
            _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
        };
        bar.finish_and_clear();
        agent.close().await;
        let report = fetched?;
        output.result(&report, || describe(&report, path))
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

fn describe_dry(tried: &DryRun) -> String {
    let mut lines = vec![format!("{} $ARO for {} bytes of {}", tried.price, tried.content_bytes, tried.size)];
    lines.extend(tried.caps.iter().map(|verdict| {
        let word = if verdict.allows { "allows it" } else { "does not allow it" };
        format!("cap ({}): {} of {} $ARO left, {word}", verdict.cap, verdict.left, verdict.limit)
    }));
    lines.push(match tried.deposit_left {
        Some(left) => format!("the channel holds {left} $ARO"),
        None => "there is no open channel to the node".to_owned(),
    });
    if tried.needs_approval {
        lines.push("you would be asked first".to_owned());
    }
    lines.push(if tried.allowed { "it would go ahead".into() } else { "it would not go ahead".into() });
    lines.join("\n")
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
