//! The parts of `aro get` and `aro put` that are about whole folders and names.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use agent_client::{Agent, FetchTreeBuilder, FetchTreeReport, PublishTreeReport};
use aro_proto::naming::{NameRecord, TargetKind};
use aro_proto::{Address, ContentId, Name, NameAddress, NodeAddress};
use serde::Serialize;

use super::Terms;
use super::view::View;
use crate::output::{Failure, Output};

/// What `aro get` is given: a content at a node, or a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Content(Address),
    Name(NameAddress),
}

impl FromStr for Wanted {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        // A content's address has an @, a name's never has.
        if text.contains('@') {
            text.parse().map(Self::Content).map_err(|error: aro_proto::AddressError| error.to_string())
        } else if text.trim_start_matches("aro://").contains('/') {
            text.parse().map(Self::Name).map_err(|error: aro_proto::naming::NameAddressError| error.to_string())
        } else {
            Err("write aro://<content id>@<node id>@<host>:<port>, or aro://<publisher>/<name>".into())
        }
    }
}

/// Asks the nodes what a name means: its record, and where to fetch it.
pub(crate) async fn resolve(
    agent: &Agent,
    name: &NameAddress,
    nodes: &[NodeAddress],
) -> Result<(NameRecord, Address), Failure> {
    let Some(first) = nodes.first() else {
        let step = "give one or more with --from <node id>@<host>:<port>";
        return Err(Failure::usage("a name says what, not where: it takes nodes to ask", step));
    };
    let record = agent.resolve(name, nodes).await?;
    let address = first.with_content(record.target);
    Ok((record, address))
}

/// Fetches a tree into a folder, and says what it brought.
pub(crate) async fn get(
    agent: &Agent,
    fetch: FetchTreeBuilder,
    folder: &Path,
    terms: &Terms,
    output: &Output,
) -> Result<(), Failure> {
    let view = Arc::new(View::new(terms.progress, "proven")?);
    let shown = Arc::clone(&view);
    let fetch = fetch.max_price(terms.max_price()).class(terms.class()).progress(move |progress| shown.show(&progress));
    let fetched = async { Ok(fetch.to_folder(folder).await?) };
    let report: FetchTreeReport = super::transfer(agent, &view, fetched).await?;
    output.result(&report, || {
        let FetchTreeReport { publisher, files, kept_files, bytes, paid, elapsed, .. } = &report;
        let (folder, ms) = (folder.display(), elapsed.as_millis());
        format!("{files} files of {publisher} in {folder}, {kept_files} were there; {bytes} bytes, {paid} $ARO paid, {ms} ms")
    })
}

/// Publishes a folder, and gives it its name if there is one.
pub(crate) async fn put(
    agent: &Agent,
    folder: &Path,
    node: &NodeAddress,
    skip_special: bool,
    terms: &Terms,
    name: Option<&Name>,
    output: &Output,
) -> Result<(), Failure> {
    let view = Arc::new(View::new(terms.progress, "taken")?);
    let shown = Arc::clone(&view);
    let publish = agent.publish_tree(node, folder).skip_special(skip_special).progress(move |now| shown.show(&now));
    let publish = publish.max_price(terms.max_price()).class(terms.class());
    let published = async {
        let report = publish.run().await?;
        let manifest = report.manifest;
        WithName::new(report, agent, node, name, manifest, TargetKind::Manifest).await
    };
    super::transfer(agent, &view, published).await?.say(output, |report| {
        let PublishTreeReport { address, files, bytes, taken_bytes, paid, skipped, elapsed, .. } = report;
        let left_out = if skipped.is_empty() { String::new() } else { format!(", {} left out", skipped.len()) };
        let ms = elapsed.as_millis();
        format!(
            "{address}\n{files} files{left_out}, {bytes} bytes, {taken_bytes} of them sent, {paid} $ARO paid, {ms} ms"
        )
    })
}

/// A report, and what name its content has now.
#[derive(Serialize)]
pub(crate) struct WithName<R> {
    #[serde(flatten)]
    report: R,
    #[serde(flatten)]
    named: Option<Named>,
}

/// A name that has just been published.
#[derive(Serialize)]
struct Named {
    name: String,
    sequence: u64,
}

impl<R: Serialize> WithName<R> {
    /// Gives what was published its name, if there is one to give.
    pub(crate) async fn new(
        report: R,
        agent: &Agent,
        node: &NodeAddress,
        name: Option<&Name>,
        target: ContentId,
        kind: TargetKind,
    ) -> Result<Self, Failure> {
        let named = match name {
            Some(name) => {
                let record = agent.publish_name(node, name.clone(), target, kind).run().await?;
                Some(Named { name: record.address().to_string(), sequence: record.sequence })
            }
            None => None,
        };
        Ok(Self { report, named })
    }

    /// Says both; `describe` is for people.
    pub(crate) fn say(&self, output: &Output, describe: impl FnOnce(&R) -> String) -> Result<(), Failure> {
        output.result(self, || {
            let line = |named: &Named| format!("{} (number {})\n", named.name, named.sequence);
            format!("{}{}", self.named.as_ref().map_or_else(String::new, line), describe(&self.report))
        })
    }
}

#[cfg(test)]
mod tests {
    use aro_proto::SecretKey;

    use super::*;

    #[test]
    fn a_name_and_a_content_are_told_apart_by_their_form() {
        let key = SecretKey::from_bytes(&[7; 32]);
        let address = Address::new(ContentId::of(b"x"), key.node_id(), "host", 1).unwrap();
        assert_eq!(address.to_string().parse(), Ok(Wanted::Content(address)));
        let name = NameAddress { publisher: key.agent_id(), name: "site".parse().unwrap() };
        assert_eq!(name.to_string().parse(), Ok(Wanted::Name(name)));
        for bad in ["", "aro://x", "http://a/b", "aro://a@b", "a/b", &format!("aro://{}/Site", key.agent_id())] {
            assert!(bad.parse::<Wanted>().is_err(), "{bad}");
        }
    }
}
