//! What an error says to a program: the same answers from every error of this library, in one value.

use aro_proto::{Amount, ChannelId, ContentId, NodeId, WhoActs};
use serde::{Serialize, Serializer};

use crate::agent::BuildError;
use crate::error::FetchError;
use crate::names::NameError;
use crate::tree::TreeError;
use crate::wallet::{MoneyError, WalletError};

/// An error, as a program reads it. Every error of this library makes one: `FetchError`, `MoneyError`, `WalletError`,
/// `BuildError`,
/// `TreeError`, `NameError`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorReport {
    /// What happened, as one stable word.
    pub code: &'static str,
    /// Who can change it.
    #[serde(serialize_with = "as_name")]
    pub who_acts: WhoActs,
    /// What happened, for people.
    pub message: String,
    /// What to do next, for people.
    pub next_step: String,
    /// The amount that it speaks of, in base units: what is missing, or the price.
    pub amount: Option<Amount>,
    /// Whether the same call may work without anybody paying, signing or changing anything.
    pub retryable: bool,
    /// Milliseconds after which to try the same again here, where that helps.
    pub retry_after_ms: Option<u64>,
    /// What it is about.
    #[serde(flatten)]
    pub subject: Subject,
    /// What a command ends with: 1 internal, or a file of ours; 2 usage; 3 refused, give up or ask elsewhere; 4 money is
    /// needed or not allowed; 5 keys; 6 node or chain unreachable, try again; 7 the node sent something that is not the
    /// content.
    #[serde(skip)]
    pub exit_code: u8,
}

/// What an error is about, where it is about something that has a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// The node.
    #[serde(serialize_with = "as_text", skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// The channel.
    #[serde(serialize_with = "as_text", skip_serializing_if = "Option::is_none")]
    pub channel: Option<ChannelId>,
    /// The content.
    #[serde(serialize_with = "as_text", skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentId>,
    /// Host and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

impl Subject {
    pub(crate) fn node(node: NodeId) -> Self {
        Self { node: Some(node), ..Self::default() }
    }

    pub(crate) fn channel(channel: ChannelId) -> Self {
        Self { channel: Some(channel), ..Self::default() }
    }

    pub(crate) fn at(place: &str, node: Option<NodeId>) -> Self {
        Self { place: Some(place.to_owned()), node, ..Self::default() }
    }
}

macro_rules! reports {
    ($($error:ty),*) => { $(
        impl $error {
            /// All answers in one value.
            pub fn report(&self) -> ErrorReport {
                ErrorReport {
                    code: self.code(),
                    who_acts: self.who_acts(),
                    message: self.to_string(),
                    next_step: self.next_step(),
                    amount: self.amount(),
                    retryable: self.is_retryable(),
                    retry_after_ms: self.retry_after_ms(),
                    subject: self.subject(),
                    exit_code: self.exit_code(),
                }
            }
        }
    )* };
}
reports!(FetchError, MoneyError, WalletError, BuildError, TreeError, NameError);

/// What a command ends with, unless the error is of a special kind.
pub(crate) fn exit_code_of(who_acts: WhoActs) -> u8 {
    match who_acts {
        WhoActs::RetryHere => exit::RETRY,
        WhoActs::RetryElsewhere | WhoActs::GiveUp => exit::REFUSED,
        WhoActs::Pay => exit::MONEY,
        WhoActs::Authorise => exit::KEYS,
    }
}

/// When to try the same again, if nothing says better.
pub(crate) fn retry_after_ms_of(who_acts: WhoActs) -> Option<u64> {
    (who_acts == WhoActs::RetryHere).then_some(SOON_MS)
}

/// What a command ends with.
pub(crate) mod exit {
    pub(crate) const INTERNAL: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const REFUSED: u8 = 3;
    pub(crate) const MONEY: u8 = 4;
    pub(crate) const KEYS: u8 = 5;
    pub(crate) const RETRY: u8 = 6;
    pub(crate) const PROOF: u8 = 7;
}

/// Soon enough for a person, late enough for a peer in trouble.
pub(crate) const SOON_MS: u64 = 1_000;

fn as_name<S: Serializer>(who_acts: &WhoActs, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(who_acts.name())
}

fn as_text<T: std::fmt::Display, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => to.collect_str(value),
        None => to.serialize_none(),
    }
}
