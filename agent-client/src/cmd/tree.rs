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
    let mut fetch = fetch.progress(move |progress| shown.show(&progress));
    if let Some(max_price) = terms.max_price {
        fetch = fetch.max_price(max_price);
    }
    let fetched: Result<FetchTreeReport, Failure> = tokio::select! {
        fetched = fetch.to_folder(folder) => fetched.map_err(Failure::from),
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
    };
    view.end();
    agent.close().await;
    let report = fetched?;
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
    let publish = agent.publish_tree(node, folder).skip_special(skip_special);
    let mut publish = publish.progress(move |progress| shown.show(&progress));
    if let Some(max_price) = terms.max_price {
        publish = publish.max_price(max_price);
    }
    if let Some(class) = &terms.class {
        publish = publish.class(class);
    }
    let published = async {
        let report = publish.run().await?;
        let named = publish_name(agent, node, name, report.manifest, TargetKind::Manifest).await?;
        Ok((report, named))
    };
    let published: Result<(PublishTreeReport, Option<Named>), Failure> = tokio::select! {
        published = published => published,
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
    };
    view.end();
    agent.close().await;
    let (report, named) = published?;
    output.result(&WithName { report: &report, named: named.as_ref() }, || {
        let PublishTreeReport { address, files, bytes, taken_bytes, paid, skipped, elapsed, .. } = &report;
        let name = named.as_ref().map_or_else(String::new, Named::line);
        let left_out = if skipped.is_empty() { String::new() } else { format!(", {} left out", skipped.len()) };
        let ms = elapsed.as_millis();
        format!("{name}{address}\n{files} files{left_out}, {bytes} bytes, {taken_bytes} of them sent, {paid} $ARO paid, {ms} ms")
    })
}

/// A report, and what name it has now.
#[derive(Serialize)]
pub(crate) struct WithName<'a, R> {
    #[serde(flatten)]
    pub(crate) report: &'a R,
    #[serde(flatten)]
    pub(crate) named: Option<&'a Named>,
}

/// A name that has just been published.
#[derive(Serialize)]
pub(crate) struct Named {
    name: String,
    sequence: u64,
}

impl Named {
    pub(crate) fn line(&self) -> String {
        format!("{} (number {})\n", self.name, self.sequence)
    }
}

/// Gives a content its name, if there is one to give.
pub(crate) async fn publish_name(
    agent: &Agent,
    node: &NodeAddress,
    name: Option<&Name>,
    target: ContentId,
    kind: TargetKind,
) -> Result<Option<Named>, Failure> {
    let Some(name) = name else { return Ok(None) };
    let record = agent.publish_name(node, name.clone(), target, kind).run().await?;
    Ok(Some(Named { name: record.address().to_string(), sequence: record.sequence }))
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
