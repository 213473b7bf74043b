//! What a fetch tells while it runs.

use std::sync::Arc;

use aro_proto::Amount;

/// Where a fetch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Content bytes proven so far.
    pub proven_bytes: u64,
    /// Content bytes that will be proven in all.
    pub total_bytes: u64,
    /// Bytes received so far, proofs included.
    pub wire_bytes: u64,
    /// What the proven bytes cost, in base units.
    pub spent: Amount,
}

/// Calls back, but not for every chunk group.
#[derive(Clone, Default)]
pub(crate) struct Reporter {
    report: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl Reporter {
    pub(crate) fn new(report: Arc<dyn Fn(Progress) + Send + Sync>) -> Self {
        Self { report: Some(report) }
    }

    /// Reports if `progress` is a step beyond `last`, or the end; returns the bytes of the last report.
    pub(crate) fn step(&self, last: u64, progress: impl FnOnce() -> Progress, proven: u64, total: u64) -> u64 {
        match &self.report {
            Some(report) if proven - last >= STEP_BYTES || (proven == total && proven != last) => {
                report(progress());
                proven
            }
            _ => last,
        }
    }
}

const STEP_BYTES: u64 = 256 << 10;
