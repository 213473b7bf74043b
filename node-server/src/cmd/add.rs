//! `aro-node add`: files into the store.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use aro_proto::{Address, ContentId};
use clap::Args;
use node_server::{ContentStore, NodeStatus};
use serde_json::json;

use crate::folder::Folder;
use crate::local::{self, Ask};
use crate::output::{self, Failure};

/// Copy files or folders into the store; works while the node serves.
#[derive(Args)]
pub(crate) struct Add {
    /// Folder of the node.
    #[arg(long)]
    dir: PathBuf,
    /// Files, or folders that are searched for files.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

impl Add {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        let folder = Folder::open(&self.dir)?;
        let (node, listen) = (folder.key()?.node_id(), listening(&folder).await);
        let host = folder.settings.public_host.clone().unwrap_or_else(|| listen.ip().to_string());
        let address = |content: ContentId| Address::new(content, node, &host, listen.port()).ok();

        let store = ContentStore::open(&self.dir)?;
        let mut files = Vec::new();
        for path in &self.paths {
            collect(path, &mut files)?;
        }
        let mut objects = Vec::with_capacity(files.len());
        for file in files {
            let stored = store.add_file(&file)?;
            let address = address(stored.id).map(|address| address.to_string());
            if !json {
                // At once: a large folder takes its time.
                let address = address.as_deref().unwrap_or("(the port is chosen when the node serves)");
                output::line(&format!("{} {} {}", stored.id, stored.size, address));
            }
            objects.push(json!({
                "id": stored.id.to_string(), "size": stored.size, "path": file, "address": address,
            }));
        }
        if json {
            output::result(json, &json!({ "contents": objects }), []);
        }
        Ok(())
    }
}

/// Where agents find the node: as it serves now, or as it will.
async fn listening(folder: &Folder) -> SocketAddr {
    let status = local::ask(&folder.dir, Ask::Status).await.ok().flatten();
    let status: Option<NodeStatus> = status.and_then(|status| serde_json::from_value(status).ok());
    status.and_then(|status| status.listen).unwrap_or(folder.settings.listen)
}

/// All files at or below a path, in order.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::usage(format!("{}: {error}", path.display()), "give files and folders that can be read")
    };
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let mut below = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        // Links inside a folder could lead out of it, or in circles.
        let kind = entry.file_type().map_err(unreadable)?;
        if kind.is_dir() || kind.is_file() {
            below.push(entry.path());
        }
    }
    below.sort();
    below.iter().try_for_each(|path| collect(path, files))
}
