//! `aro get`: fetch a content into a file, or to whoever reads the output; or a whole tree into a folder.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use agent_client::{DryRun, FetchReader, FetchReport, Preference, SourceReport};
use aro_proto::naming::TargetKind;
use aro_proto::{Amount, NodeAddress};
use clap::Args;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::tree::{self, Wanted};
use super::view::View;
use super::{Opening, Span, Terms};
use crate::Global;
use crate::output::{Failure, Output};

#[derive(Args)]
pub(crate) struct Get {
    /// aro://<content id>@<node id>@<host>:<port>, or aro://<publisher>/<name> with --from
    address: Wanted,
    /// File to write, or folder for a tree; it appears only when all its bytes are proven. `-` writes proven bytes to the output as they come, and
    /// everything else to the error output
    #[arg(short, long, value_name = "FILE", required_unless_present = "dry_run")]
    output: Option<PathBuf>,
    /// The address is a manifest's: fetch its whole tree. A name says by itself what it points to
    #[arg(long)]
    tree: bool,
    /// Refuse a tree that claims more bytes than this [default: 64 GiB]
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    #[command(flatten)]
    terms: Terms,
    /// Another node that may have the content, or knows what a name means, <node id>@<host>:<port>; may be given again. All
    /// are used at once
    #[arg(long = "from", value_name = "NODE_ADDRESS", value_delimiter = ',')]
    from: Vec<NodeAddress>,
    /// What counts where several nodes have it: fastest, balanced (none above twice the cheapest) or cheapest
    #[arg(long, value_name = "WHAT", default_value = "balanced")]
    prefer: Preference,
    /// Let a slow end be asked of a second node too, if that costs at most so many $ARO
    #[arg(long, value_name = "ARO")]
    hedge: Option<Amount>,
    #[command(flatten)]
    opening: Opening,
    /// Say what it would cost and whether the budget allows it; fetch and pay nothing
    #[arg(long)]
    dry_run: bool,
    /// Only these bytes, first and last, counted from 0; may be given again
    #[arg(long = "range", value_name = "START-END")]
    spans: Vec<Span>,
    /// Fetch and pay everything anew, also what an earlier try left beside the file
    #[arg(long)]
    no_resume: bool,
}

impl Get {
    /// Whether the content itself goes to the output.
    pub(crate) fn is_to_stdout(&self) -> bool {
        !self.dry_run && self.output.as_ref().is_some_and(|output| output.as_os_str() == "-")
    }

    pub(crate) async fn run(&self, global: &Global, output: &Output) -> Result<(), Failure> {
        let ranges = super::ranges(&self.spans)?;
        let agent = global.paying_agent(self.terms.budget, &self.opening, output).await?;
        let (address, is_tree) = match &self.address {
            Wanted::Content(address) => (address.clone(), self.tree),
            Wanted::Name(name) => {
                let (record, address) = tree::resolve(&agent, name, &self.from).await?;
                (address, record.kind == TargetKind::Manifest)
            }
        };
        if is_tree {
            if self.is_to_stdout() || !self.spans.is_empty() {
                let message = "a tree goes to a folder, and as a whole";
                return Err(Failure::usage(message, "give -o DIR, and no --range"));
            }
            let Some(folder) = self.output.as_ref().filter(|_| !self.dry_run) else {
                return Err(Failure::usage("only a content's price can be asked for", "leave --dry-run out"));
            };
            let mut fetch = agent.fetch_tree(&address).also_from(self.from.iter().cloned()).prefer(self.prefer);
            if let Some(max_bytes) = self.max_bytes {
                fetch = fetch.max_bytes(max_bytes);
            }
            return tree::get(&agent, fetch, folder, &self.terms, output).await;
        }
        let view = Arc::new(View::new(self.terms.progress, "proven")?);
        let shown = Arc::clone(&view);
        let fetch = agent.fetch(&address).ranges(ranges).resume(!self.no_resume);
        let fetch = fetch.sources(self.from.iter().cloned()).prefer(self.prefer);
        let fetch = fetch.progress(move |progress| shown.show(&progress));
        let terms = &self.terms;
        let mut fetch = fetch.max_price(terms.max_price()).budget(terms.budget()).class(terms.class());
        if let Some(most) = self.hedge {
            fetch = fetch.hedge(most);
        }
        let Some(path) = self.output.as_ref().filter(|_| !self.dry_run) else {
            let tried = fetch.dry_run().await;
            agent.close().await;
            let tried = tried?;
            return output.result(&tried, || describe_dry(&tried));
        };
        let fetched: Result<FetchReport, Failure> = if self.is_to_stdout() {
            copy(fetch.to_reader()).await
        } else {
            tokio::select! {
                fetched = fetch.to_file(path) => fetched.map_err(Failure::from),
                _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
            }
        };
        view.end();
        agent.close().await;
        let report = fetched?;
        let place = if self.is_to_stdout() { "the output".to_owned() } else { path.display().to_string() };
        output.result(&report, || describe(&report, &place))
    }
}

/// Writes proven bytes to the output as they come. Whatever ends it, what was proven is settled before.
async fn copy(mut reader: FetchReader) -> Result<FetchReport, Failure> {
    let poured = tokio::select! {
        poured = pour(&mut reader) => poured,
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
    };
    match poured {
        Ok(()) => Ok(reader.report().await?),
        Err(failure) => {
            reader.cancel().await;
            Err(failure)
        }
    }
}

/// Until the end, or until the fetch fails, which it tells by itself.
async fn pour(reader: &mut FetchReader) -> Result<(), Failure> {
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().map_err(|error| Failure::output(&error))?;
    // Written on a thread that may wait.
    let (mut stdout, mut buffer) = (File::from_std(stdout.into()), vec![0; COPY_BYTES]);
    while let Ok(len) = reader.read(&mut buffer).await {
        let written = if len > 0 { stdout.write_all(&buffer[..len]).await } else { stdout.flush().await };
        written.map_err(|error| Failure::output(&error))?;
        if len == 0 {
            break;
        }
    }
    Ok(())
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

fn describe(report: &FetchReport, place: &str) -> String {
    let size = if report.size_proven { "" } else { " (of a size that only the node claims)" };
    let resumed = match report.resumed_bytes {
        0 => String::new(),
        bytes => format!(" beside {bytes} that were there"),
    };
    let sources = match &report.sources[..] {
        [] | [_] => String::new(),
        several => several.iter().map(describe_source).collect(),
    };
    format!(
        "{} bytes in {place}: {} proven{resumed}{size}, {} $ARO paid with {} vouchers, {} ms{sources}",
        report.delivered_bytes,
        report.verified_bytes,
        report.paid,
        report.vouchers,
        report.elapsed.as_millis()
    )
}

fn describe_source(source: &SourceReport) -> String {
    let SourceReport { node, verified_bytes, paid, bytes_per_second, .. } = source;
    let left_out =
        source.left_out.as_ref().map_or(String::new(), |left_out| format!("; left out: {}", left_out.message));
    format!("\n  {node}: {verified_bytes} proven, {paid} $ARO paid, {bytes_per_second} bytes/s{left_out}")
}

/// Bytes written to the output at once.
const COPY_BYTES: usize = 256 << 10;
