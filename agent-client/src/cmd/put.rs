//! `aro put`: publish a file, a folder, or what comes through a pipe; and give it a name.

use std::io::stdin;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use agent_client::{PublishReport, PublishSource};
use aro_proto::naming::TargetKind;
use aro_proto::{Name, NodeAddress};
use clap::Args;
use tokio::fs::File;

use super::tree::{self, WithName};
use super::view::View;
use super::{Opening, Terms};
use crate::Global;
use crate::output::{Failure, Output};

#[derive(Args)]
pub(crate) struct Put {
    /// File or folder to publish; - reads from a pipe
    #[arg(value_name = "FILE|DIR|-")]
    source: PathBuf,
    /// <node id>@<host>:<port>
    #[arg(value_name = "NODE_ADDRESS")]
    node: NodeAddress,
    /// Let this name of your key mean it from now on: 1 to 64 of a-z and 0-9, with -, _ and . between them
    #[arg(long)]
    name: Option<Name>,
    /// Leave links, pipes, sockets and devices of a folder out instead of refusing it
    #[arg(long)]
    skip_special: bool,
    #[command(flatten)]
    terms: Terms,
    #[command(flatten)]
    opening: Opening,
    /// Send a pipe's bytes as they come and keep none: needs no room for them here, but begins anew if it breaks off
    #[arg(long)]
    unspooled: bool,
    /// The most that a pipe may bring, in bytes [default: 1 GiB]
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
}

impl Put {
    pub(crate) async fn run(&self, global: &Global, output: &Output) -> Result<(), Failure> {
        let agent = global.paying_agent(self.terms.budget, &self.opening, output).await?;
        if self.source.is_dir() {
            let Self { source, node, skip_special, terms, name, .. } = self;
            return tree::put(&agent, source, node, *skip_special, terms, name.as_ref(), output).await;
        }
        let view = Arc::new(View::new(self.terms.progress, "taken")?);
        let shown = Arc::clone(&view);
        let source = if self.source.as_os_str() == "-" {
            let pipe = pipe()?;
            if self.unspooled { PublishSource::stream(pipe) } else { PublishSource::spool(pipe) }
        } else {
            PublishSource::from(&self.source)
        };
        let publish = agent.publish(&self.node, source).progress(move |progress| shown.show(&progress));
        let Self { terms, node, name, .. } = self;
        let mut publish = publish.max_price(terms.max_price()).budget(terms.budget()).class(terms.class());
        if let Some(max_bytes) = self.max_bytes {
            publish = publish.max_bytes(max_bytes);
        }
        let published = async {
            let report = publish.run().await?;
            let content = report.content;
            WithName::new(report, &agent, node, name.as_ref(), content, TargetKind::Content).await
        };
        super::transfer(&agent, &view, published).await?.say(output, describe)
    }
}

/// The standard input as a file, read ahead by the runtime.
fn pipe() -> Result<File, Failure> {
    let input = stdin().as_fd().try_clone_to_owned().map_err(|error| Failure::internal(&error))?;
    Ok(File::from_std(input.into()))
}

fn describe(report: &PublishReport) -> String {
    let PublishReport { address, size, taken_bytes, paid, vouchers, elapsed, .. } = report;
    format!(
        "{address}\n{size} bytes, {taken_bytes} of them sent, {paid} $ARO paid with {vouchers} vouchers, {} ms",
        elapsed.as_millis()
    )
}
