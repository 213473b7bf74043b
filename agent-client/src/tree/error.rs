//! Why a tree cannot be fetched or published, sorted by blame: its publisher, the node, or this side.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use aro_proto::manifest::{EntryName, EntryNameError, ManifestError};
use aro_proto::{AgentId, Amount, ContentId, WhoActs};
use thiserror::Error;

use crate::error::FetchError;
use crate::report::{Subject, exit, exit_code_of, retry_after_ms_of};

/// What ends the work on a tree. Files that were in their place by then stay.
#[derive(Clone, Debug, Error)]
pub enum TreeError {
    // The publisher's.
    /// The content is proven, and no manifest.
    #[error("{content} is not a manifest that can be used: {error}")]
    Manifest {
        /// The content.
        content: ContentId,
        /// What is wrong with it.
        error: ManifestError,
    },
    /// The manifest claims another size than its content has.
    #[error("the manifest of {publisher} claims {claimed} bytes for {name}, its content has {proven}")]
    ManifestMismatch {
        /// The entry; it was not written.
        name: EntryName,
        /// What the manifest says.
        claimed: u64,
        /// What the content's own hashes prove.
        proven: u64,
        /// Who signed the manifest.
        publisher: AgentId,
    },

    // The node's, or the way there.
    /// The manifest could not be fetched, or the node not be asked.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// An entry could not be fetched from any node.
    #[error("{name}: {error}")]
    Entry {
        /// The entry.
        name: EntryName,
        /// Why.
        error: FetchError,
    },

    // Ours.
    /// The manifest claims more bytes than the caller takes.
    #[error("the tree has {claimed} bytes, the caller takes at most {limit}")]
    TooLarge {
        /// The sum of what its entries claim.
        claimed: u64,
        /// The caller's limit in bytes.
        limit: u64,
    },
    /// The rest of the tree costs more than the caller allows. What was fetched before is there and paid.
    #[error("the tree would cost {price} $ARO, {allowed} are allowed")]
    PriceTooHigh {
        /// What all files come to, in base units.
        price: Amount,
        /// What the caller allows, in base units.
        allowed: Amount,
    },
    /// Something in the target folder is in the way: a link or a folder where a file goes, no right, no space.
    #[error("{}: {error}", path.display())]
    Target {
        /// The place, as the manifest or the caller names it.
        path: PathBuf,
        /// What the system said.
        error: Arc<io::Error>,
    },
    /// A file or folder that is to be published cannot be read.
    #[error("{}: {error}", path.display())]
    Source {
        /// The place.
        path: PathBuf,
        /// What the system said.
        error: Arc<io::Error>,
    },
    /// A link, socket, pipe or device among the files that are to be published.
    #[error("{} is neither a file nor a folder, and trees hold nothing else", path.display())]
    NotAFile {
        /// The place.
        path: PathBuf,
    },
    /// A file's name cannot stand in a manifest.
    #[error("{} cannot stand in a manifest: {error}", path.display())]
    Name {
        /// The place.
        path: PathBuf,
        /// What is wrong with the name.
        error: EntryNameError,
    },
    /// The files cannot be one manifest.
    #[error("these files cannot be one tree: {0}")]
    Unpublishable(ManifestError),
}

impl TreeError {
    pub(super) fn target(path: impl Into<PathBuf>, error: io::Error) -> Self {
        Self::Target { path: path.into(), error: Arc::new(error) }
    }

    pub(super) fn source(path: impl Into<PathBuf>, error: io::Error) -> Self {
        Self::Source { path: path.into(), error: Arc::new(error) }
    }

    /// The variant's name, for logs and JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Manifest { .. } => "Manifest",
            Self::ManifestMismatch { .. } => "ManifestMismatch",
            Self::Fetch(error) | Self::Entry { error, .. } => error.code(),
            Self::TooLarge { .. } => "TooLarge",
            Self::PriceTooHigh { .. } => "PriceTooHigh",
            Self::Target { .. } => "Sink",
            Self::Source { .. } => "Source",
            Self::NotAFile { .. } => "NotAFile",
            Self::Name { .. } => "Name",
            Self::Unpublishable(_) => "Unpublishable",
        }
    }

    /// Who can change this error into an answer.
    pub fn who_acts(&self) -> WhoActs {
        match self {
            Self::Fetch(error) | Self::Entry { error, .. } => error.who_acts(),
            Self::PriceTooHigh { .. } => WhoActs::Authorise,
            Self::Manifest { .. }
            | Self::ManifestMismatch { .. }
            | Self::TooLarge { .. }
            | Self::Target { .. }
            | Self::Source { .. }
            | Self::NotAFile { .. }
            | Self::Name { .. }
            | Self::Unpublishable(_) => WhoActs::GiveUp,
        }
    }

    /// True if the same call, here or at another node, may work without anybody paying, signing or changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self.who_acts(), WhoActs::RetryHere | WhoActs::RetryElsewhere)
    }

    /// What to do next, for people.
    pub fn next_step(&self) -> String {
        match self {
            Self::Fetch(error) | Self::Entry { error, .. } => error.next_step(),
            Self::Manifest { .. } => "check the address; without --tree, aro get fetches the content as it is".into(),
            Self::ManifestMismatch { .. } => "tell the publisher: the signed manifest is the proof of its claim".into(),
            Self::TooLarge { claimed, .. } => format!("allow it with --max-bytes {claimed}"),
            Self::PriceTooHigh { price, .. } => format!("allow it with --max-price {price}; what is there stays"),
            Self::Target { .. } => "move what is in the way, or check permissions and the space left".into(),
            Self::Source { .. } => "check the file and its permissions, and that nobody writes to it".into(),
            Self::NotAFile { .. } => "remove it, or leave such things out with --skip-special".into(),
            Self::Name { .. } => "rename it".into(),
            Self::Unpublishable(_) => "rename one of the files, or publish several trees".into(),
        }
    }

    /// The amount that the error speaks of, in base units.
    pub fn amount(&self) -> Option<Amount> {
        match self {
            Self::Fetch(error) | Self::Entry { error, .. } => error.amount(),
            Self::PriceTooHigh { price, .. } => Some(*price),
            _ => None,
        }
    }

    /// Milliseconds after which to try the same again here, where that helps.
    pub fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Fetch(error) | Self::Entry { error, .. } => error.retry_after_ms(),
            _ => retry_after_ms_of(self.who_acts()),
        }
    }

    /// What it is about.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Fetch(error) | Self::Entry { error, .. } => error.subject(),
            Self::Manifest { content, .. } => Subject { content: Some(*content), ..Subject::default() },
            _ => Subject::default(),
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Fetch(error) | Self::Entry { error, .. } => error.exit_code(),
            Self::Manifest { .. } | Self::ManifestMismatch { .. } => exit::PROOF,
            Self::PriceTooHigh { .. } => exit::MONEY,
            Self::Target { .. } | Self::Source { .. } => exit::INTERNAL,
            Self::NotAFile { .. } | Self::Name { .. } | Self::Unpublishable(_) => exit::USAGE,
            Self::TooLarge { .. } => exit_code_of(self.who_acts()),
        }
    }
}
