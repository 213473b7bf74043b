//! Whole folders: publishing every file and a manifest of them, and fetching them back, proven, inside one folder.
//!
//! A manifest is untrusted but signed: what it says wrong, its publisher has said. Names cannot leave the folder (their
//! type sees to it), sizes are claims that money and disk are bounded by before they are proven.

mod allowance;
mod bring;
mod error;
mod fetch;
mod folder;
mod nodes;
mod plan;
mod publish;
mod spread;
mod walk;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use aro_proto::Amount;
use serde::Serialize;
use tokio::task::JoinError;

pub use error::TreeError;
pub use fetch::{FetchTreeBuilder, FetchTreeReport};
pub use publish::{PublishTreeBuilder, PublishTreeReport};

/// Where a whole tree stands: one view of all its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TreeProgress {
    /// Files that are whole and in their place, those that were there before included.
    pub files: u64,
    /// Files in all.
    pub total_files: u64,
    /// Content bytes of them so far: proven, taken by the node, or there before.
    pub bytes: u64,
    /// Content bytes in all, as claimed.
    pub total_bytes: u64,
    /// What has been spent, in base units.
    pub spent: Amount,
}

/// The progress of a tree and who hears of it. Clones share both.
#[derive(Clone, Default)]
struct Meter {
    now: Arc<Mutex<TreeProgress>>,
    report: Option<Arc<dyn Fn(TreeProgress) + Send + Sync>>,
}

impl Meter {
    fn change(&self, change: impl FnOnce(&mut TreeProgress)) {
        let now = {
            let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut now);
            *now
        };
        if let Some(report) = &self.report {
            report(now);
        }
    }
}

/// What a task has come to; a panic in it goes on here, and one that was cut off is an error.
fn joined<T>(ended: Result<T, JoinError>) -> std::io::Result<T> {
    ended.map_err(|ended| match ended.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(ended) => std::io::Error::other(ended),
    })
}

/// Runs what waits for the disk on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TreeError> + Send + 'static,
) -> Result<T, TreeError> {
    let ended = |ended| Err(TreeError::target(PathBuf::new(), std::io::Error::other(ended)));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(ended)
}

const UNBOUNDED: Amount = Amount::new(u64::MAX);
