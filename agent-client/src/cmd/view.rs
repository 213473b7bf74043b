//! What is seen of a transfer while it runs: a bar for people, lines of JSON for programs, or nothing. It goes to the error
//! output, because the output carries results, or the content itself.

use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_client::{Progress, TreeProgress};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::json;

use crate::output::{Failure, warn};

/// How a transfer shows where it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// A bar on a terminal, else nothing
    #[default]
    Auto,
    /// One JSON object a line, at most ten a second, and one at the end
    Json,
    /// Nothing
    None,
}

/// One view of one command, whatever number of transfers it runs.
pub(crate) enum View {
    Bar(ProgressBar),
    Lines(Mutex<Option<Instant>>),
    Nothing,
}

/// Where a transfer stands, of a content or of a tree.
pub(crate) trait Step: Serialize {
    /// Bytes so far.
    fn bytes(&self) -> u64;
    /// Bytes in all.
    fn total_bytes(&self) -> u64;
    /// What else people want to know.
    fn note(&self) -> String;
}

impl View {
    /// `done` says what has happened to the bytes that are shown.
    pub(crate) fn new(mode: ProgressMode, done: &str) -> Result<Self, Failure> {
        match mode {
            ProgressMode::Auto if stderr().is_terminal() => {
                let template = format!("{{bar:30}} {{bytes}}/{{total_bytes}} {done}, {{bytes_per_sec}}, {{msg}}");
                let style = ProgressStyle::with_template(&template).map_err(|error| Failure::internal(&error))?;
                Ok(Self::Bar(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style)))
            }
            ProgressMode::Json => Ok(Self::Lines(Mutex::default())),
            ProgressMode::Auto | ProgressMode::None => Ok(Self::Nothing),
        }
    }

    /// Shows a step.
    pub(crate) fn show(&self, step: &impl Step) {
        match self {
            Self::Bar(bar) => {
                bar.set_length(step.total_bytes());
                bar.set_position(step.bytes());
                bar.set_message(step.note());
            }
            Self::Lines(last) => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                let is_end = step.bytes() == step.total_bytes();
                if is_end || last.is_none_or(|last| last.elapsed() >= PACE) {
                    *last = Some(Instant::now());
                    warn(&line(step));
                }
            }
            Self::Nothing => {}
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

impl Step for Progress {
    fn bytes(&self) -> u64 {
        self.proven_bytes
    }

    fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    fn note(&self) -> String {
        format!("{} $ARO", self.spent)
    }
}

impl Step for TreeProgress {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    fn note(&self) -> String {
        format!("{} of {} files, {} $ARO", self.files, self.total_files, self.spent)
    }
}

/// One step for programs; `spent` in base units.
fn line(step: &impl Step) -> String {
    let mut object = json!(step);
    object["event"] = "progress".into();
    object.to_string()
}

/// Least time between two lines.
const PACE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use aro_proto::Amount;

    #[test]
    fn a_line_is_one_object_with_stable_names() {
        let read = |line: String| serde_json::from_str::<serde_json::Value>(&line).unwrap();
        let of_content = Progress { proven_bytes: 1, total_bytes: 2, wire_bytes: 3, spent: Amount::new(4) };
        let expected = json!({
            "event": "progress", "proven_bytes": 1, "total_bytes": 2, "wire_bytes": 3, "spent": 4
        });
        assert_eq!(read(line(&of_content)), expected);
        let of_tree = TreeProgress { files: 1, total_files: 2, bytes: 3, total_bytes: 4, spent: Amount::new(5) };
        let expected = json!({
            "event": "progress", "files": 1, "total_files": 2, "bytes": 3, "total_bytes": 4, "spent": 5
        });
        assert_eq!(read(line(&of_tree)), expected);
    }
}
