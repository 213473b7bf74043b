//! Whole folders: publishing every file and a manifest of them, and fetching them back, proven, inside one folder.
//!
//! A manifest is untrusted but signed: what it says wrong, its publisher has said. Names cannot leave the folder (their
//! type sees to it), sizes are claims that money and disk are bounded by before they are proven.

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

use aro_proto::{Amount, Charge};
use serde::Serialize;

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

/// What all files of a tree together may cost. Charges add up exactly, as the channel's bill does, and are rounded once.
#[derive(Debug)]
struct Allowance {
    most: Amount,
    accepted: Mutex<Charge>,
}

impl Allowance {
    fn new(most: Amount) -> Self {
        Self { most, accepted: Mutex::new(Charge::ZERO) }
    }

    /// Sets a charge aside. An error says what all would come to.
    fn reserve(&self, charge: Charge) -> Result<(), Amount> {
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = accepted.checked_add(charge).ok_or(Amount::new(u64::MAX))?;
        let due = sum.to_amount().ok_or(Amount::new(u64::MAX))?;
        if due > self.most {
            return Err(due);
        }
        *accepted = sum;
        Ok(())
    }

    /// Gives back what is known not to be owed.
    fn release(&self, charge: Charge) {
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        *accepted = accepted.checked_sub(charge).unwrap_or(Charge::ZERO);
    }
}

/// Runs what waits for the disk on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TreeError> + Send + 'static,
) -> Result<T, TreeError> {
    let ended = |ended| Err(TreeError::target(PathBuf::new(), std::io::Error::other(ended)));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(ended)
}

const UNBOUNDED: Amount = Amount::new(u64::MAX);

#[cfg(test)]
mod tests {
    use aro_proto::{ByteCount, Tariff};

    use super::*;

    #[test]
    fn an_allowance_is_held_to_the_part_of_a_unit() {
        let allowance = Allowance::new(Amount::new(3));
        let half = Tariff { per_mib: 1 }.charge(ByteCount::new(1 << 19));
        for _ in 0..6 {
            assert_eq!(allowance.reserve(half), Ok(()));
        }
        assert_eq!(allowance.reserve(half), Err(Amount::new(4)));
        allowance.release(half);
        assert_eq!(allowance.reserve(half), Ok(()));
    }
}
