//! The caps: a plain struct, and the file `budget.json` in the wallet's folder.

use std::collections::BTreeMap;
use std::io;
use std::io::Write;
use std::path::{Path, PathBuf};

use aro_proto::{Amount, NodeId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What may be spent. Amounts are in base units; what is not given is not capped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// The most that is signed away in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<Amount>,
    /// The most that is locked in channels at a time; as `total` if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deposits: Option<Amount>,
    /// The most that one fetch or upload may cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_request: Option<Amount>,
    /// The most that any one node gets, and the most that is locked in channels to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_node: Option<Amount>,
    /// The same for single nodes, in place of `per_node`, by their ids.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<String, Amount>,
    /// The most that content of each class may cost.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<String, Amount>,
    /// The most that is signed away in spans of time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<WindowCap>,
    /// Requests, whole trees and deposits above this are asked about first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ask_above: Option<Amount>,
}

/// The most that is signed away in any span of time of one length: the window rolls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowCap {
    /// Its length: 60 s to 366 days. Spending is counted by the minute, and a minute that a span touches counts whole.
    pub seconds: u32,
    /// Base units.
    pub amount: Amount,
}

/// Why a policy cannot be used.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no policy.
    #[error("{path} is no budget: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and what is wrong.
        source: serde_json::Error,
    },
    /// A window of a length that cannot be held.
    #[error("a window has 60 s to 366 days, not {0} s")]
    Window(u32),
    /// More windows than are held.
    #[error("{0} windows are more than {MAX_WINDOWS}")]
    Windows(usize),
    /// A key that is no node's id.
    #[error("`{0}` is no node's id")]
    Node(String),
    /// A class without a name, or with too long a one.
    #[error("`{0}` is no name of a class: 1 to {MAX_CLASS} bytes")]
    Class(String),
}

impl PolicyError {
    /// What to do next, for people.
    pub const NEXT_STEP: &str = "correct budget.json in the wallet's folder, or set it anew: aro budget set --help";
}

impl Policy {
    /// The policy of a wallet's folder; none if there is no file.
    ///
    /// # Errors
    /// The file cannot be read, or is no policy: then nothing is allowed rather than everything.
    pub fn load(dir: &Path) -> Result<Option<Self>, PolicyError> {
        let path = dir.join(FILE);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(PolicyError::File { path, source }),
            Ok(text) => text,
        };
        // As an object only: a list would be read as fields in their order, and an empty one as no caps at all.
        let object = serde_json::from_slice::<serde_json::Map<_, _>>(&text);
        let policy = object.and_then(|object| serde_json::from_value(object.into()));
        let policy: Self = policy.map_err(|source| PolicyError::Json { path, source })?;
        policy.check()?;
        Ok(Some(policy))
    }

    /// Writes the file of a wallet's folder, whole or not at all. Agents that run keep what they were built with.
    ///
    /// # Errors
    /// The policy does not hold together, or the file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), PolicyError> {
        self.check()?;
        let path = dir.join(FILE);
        let write = || {
            let mut draft = tempfile::Builder::new().prefix(".budget-").tempfile_in(dir)?;
            let mut text = serde_json::to_vec_pretty(self)?;
            text.push(b'\n');
            draft.write_all(&text)?;
            draft.as_file().sync_all()?;
            draft.persist(&path).map_err(|error| error.error)?;
            std::fs::File::open(dir)?.sync_all()
        };
        write().map_err(|source| PolicyError::File { path: path.clone(), source })
    }

    /// Whether it can be held.
    ///
    /// # Errors
    /// A window, a node or a class that cannot be.
    pub fn check(&self) -> Result<(), PolicyError> {
        if self.windows.len() > MAX_WINDOWS {
            return Err(PolicyError::Windows(self.windows.len()));
        }
        if let Some(bad) = self.windows.iter().find(|window| !WINDOW_S.contains(&window.seconds)) {
            return Err(PolicyError::Window(bad.seconds));
        }
        if let Some(bad) = self.nodes.keys().find(|node| node.parse::<NodeId>().is_err()) {
            return Err(PolicyError::Node(bad.clone()));
        }
        match self.classes.keys().find(|class| !is_class(class)) {
            Some(bad) => Err(PolicyError::Class(bad.clone())),
            None => Ok(()),
        }
    }

    /// What one node may get.
    pub(super) fn node(&self, node: NodeId) -> Option<Amount> {
        if self.nodes.is_empty() {
            return self.per_node;
        }
        self.nodes.get(&node.to_string()).copied().or(self.per_node)
    }

    /// Whether nothing but requests by themselves is capped.
    pub(super) fn is_open(&self) -> bool {
        let Self { total, deposits, per_node, nodes, classes, windows, per_request: _, ask_above: _ } = self;
        total.is_none()
            && deposits.is_none()
            && per_node.is_none()
            && nodes.is_empty()
            && classes.is_empty()
            && windows.is_empty()
    }
}

/// Whether a text names a class.
pub(crate) fn is_class(name: &str) -> bool {
    (1..=MAX_CLASS).contains(&name.len())
}

/// In the wallet's folder.
const FILE: &str = "budget.json";
/// Lengths of windows.
const WINDOW_S: std::ops::RangeInclusive<u32> = 60..=366 * 24 * 60 * 60;
/// Windows of a policy: each is a sum for each look at the ledger.
const MAX_WINDOWS: usize = 8;
/// Bytes of a class's name.
const MAX_CLASS: usize = 64;
