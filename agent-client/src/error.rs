//! Why a fetch or an upload fails, sorted by blame: the node said no, the node lied, the way there is broken, or it is us.
//!
//! Every error answers the same questions: what happened, who must act, what to do next, and which amount it speaks
//! of. Errors clone, for one broken connection fails every fetch on it.

use std::fmt;
use std::io;
use std::sync::Arc;

use aro_proto::channel::{PayerError, ReconcileError};
use aro_proto::merkle::{GroupIndex, VerifyError};
use aro_proto::wire::{DecodeError, EncodeError};
use aro_proto::{Amount, ByteCount, ChannelId, ContentId, NodeId, Refusal, RefusalCode, WhoActs};
use settlement_chain::ChainError;
use settlement_chain::reads::ReadError;
use thiserror::Error;

use crate::budget::{BudgetError, BudgetExceeded, NotApproved};
use crate::report::{Subject, exit, exit_code_of, retry_after_ms_of};
use crate::wallet::{MoneyError, WalletError};

/// Why a fetch, a quote or an upload failed. Nothing unproven was delivered, and nothing was paid but for proven bytes.
#[derive(Clone, Debug, Error)]
pub enum FetchError {
    // The node said no.
    /// The node does not hold the content.
    #[error("the node does not hold {content}")]
    NotFound {
        /// What was asked for.
        content: ContentId,
    },
    /// The node asks more than the request allows.
    #[error("the node asks {price} $ARO, allowed are {allowed} $ARO")]
    PriceTooHigh {
        /// What the node asks, in base units.
        price: Amount,
        /// What the request allowed, in base units.
        allowed: Amount,
    },
    /// The content costs money and there is no open channel to the node.
    #[error("there is no open payment channel to node {node}")]
    NoChannel {
        /// The node.
        node: NodeId,
    },
    /// The channel's deposit does not cover the request.
    #[error("the channel's deposit lacks {missing} $ARO for this request")]
    DepositExhausted {
        /// The channel, if one is bound.
        channel: Option<ChannelId>,
        /// What is missing, in base units.
        missing: Amount,
    },
    /// The channel takes no new requests.
    #[error("channel {channel} is closing or closed")]
    ChannelUnusable {
        /// The channel.
        channel: ChannelId,
    },
    /// Another refusal, in the node's words.
    #[error("the node refused: {0}")]
    Refused(Refusal),

    // The node lied.
    /// What the node sent is not the content.
    #[error("what the node sent is not the content: {source}; {} bytes before it are proven", .proven.get())]
    Proof {
        /// The first chunk group that is wrong or missing; none if no single group is.
        group: Option<GroupIndex>,
        /// The first content byte that could not be proven.
        offset: u64,
        /// Content bytes proven before it: all that was paid for.
        proven: ByteCount,
        /// The node.
        node: NodeId,
        /// What is wrong with it.
        source: VerifyError,
    },
    /// The node broke the protocol.
    #[error("node {node} broke the protocol: {what}")]
    Misbehaved {
        /// The node.
        node: NodeId,
        /// How.
        what: Misbehaviour,
    },
    /// The node settles on another chain, program or mint. Found before any money moved.
    #[error("the node settles on another chain: its {what} is {theirs}, ours is {ours}")]
    WrongChain {
        /// Genesis hash, program or mint.
        what: &'static str,
        /// The node's, in base58.
        theirs: String,
        /// Ours, in base58.
        ours: String,
    },

    // The way there.
    /// Whoever answers at the address is not the node.
    #[error("whoever answers at {place} does not hold the key of node {node}")]
    WrongNodeKey {
        /// The node that was dialled.
        node: NodeId,
        /// Host and port.
        place: String,
    },
    /// The node cannot be reached, or the connection broke.
    #[error("{place} cannot be reached: {why}")]
    Unreachable {
        /// Host and port, or the node's id.
        place: String,
        /// What the network said.
        why: String,
    },
    /// The node was silent for too long.
    #[error("the node was silent for {waited_ms} ms while {doing}")]
    Timeout {
        /// What was awaited.
        doing: &'static str,
        /// Milliseconds.
        waited_ms: u64,
    },

    /// No source is left that could bring what is missing.
    #[error("no source is left that could bring what is missing{}", Causes(.causes))]
    NoSource {
        /// What each of them failed with last, or for good.
        causes: Arc<[SourceError]>,
    },

    // Ours.
    /// The budget does not allow it.
    #[error(transparent)]
    BudgetExceeded(#[from] BudgetExceeded),
    /// It costs more than may be spent unasked, and nobody has approved it.
    #[error(transparent)]
    NotApproved(#[from] NotApproved),
    /// The content is larger than the caller takes.
    #[error("the answer would have {size} bytes, the caller takes at most {limit}")]
    TooLarge {
        /// Bytes that would be delivered, as the node claims.
        size: u64,
        /// The caller's limit in bytes.
        limit: u64,
    },
    /// The request does not fit a frame.
    #[error(transparent)]
    Request(#[from] EncodeError),
    /// What is to be published could not be read.
    #[error("the source cannot be read: {0}")]
    Source(Arc<io::Error>),
    /// The bytes could not be written.
    #[error("writing failed: {0}")]
    Sink(Arc<io::Error>),
    /// The wallet cannot be used, or will not sign.
    #[error(transparent)]
    Wallet(Arc<WalletError>),
    /// The chain could not be asked which channel to use.
    #[error(transparent)]
    Chain(Arc<ReadError>),
    /// A channel that was needed could not be opened or topped up.
    #[error("what the request needs to be paid could not be provided: {0}")]
    Money(Arc<MoneyError>),
}

/// Why one source of several could not bring a content.
#[derive(Clone, Debug)]
pub struct SourceError {
    /// The node.
    pub node: NodeId,
    /// What it failed with.
    pub error: FetchError,
}

/// Writes a list of causes out.
struct Causes<'a>(&'a [SourceError]);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|SourceError { node, error }| write!(f, "; {node}: {error}"))
    }
}

/// How a node broke the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Misbehaviour {
    /// A frame that cannot be read.
    #[error(transparent)]
    Frame(#[from] DecodeError),
    /// The stream ended where something was due.
    #[error("its stream ended where {0} was due")]
    Ended(&'static str),
    /// A stream was reset, against the protocol.
    #[error("it reset a stream with code {0}")]
    Reset(u64),
    /// The price of an answer is not what its own tariff says.
    #[error("it bills {claimed} $ARO where its tariff says {computed}")]
    Price {
        /// The node's price, in base units.
        claimed: Amount,
        /// What tariff and ranges come to, in base units.
        computed: Amount,
    },
    /// The billed bytes are not those of the asked ranges.
    #[error("it bills {} bytes where the asked ranges come to {}", .claimed.get(), .computed.get())]
    ContentBytes {
        /// The node's count.
        claimed: ByteCount,
        /// What size and ranges come to.
        computed: ByteCount,
    },
    /// A price above what the request allows came with an answer instead of a refusal.
    #[error("it answered at {price} $ARO where {allowed} were allowed")]
    AboveMaxPrice {
        /// The node's price, in base units.
        price: Amount,
        /// What the request allowed, in base units.
        allowed: Amount,
    },
    /// A size that no content has.
    #[error("it claims a content of {0} bytes")]
    Size(u64),
    /// It bound another channel than the one that was named.
    #[error("it bound another channel than the one asked for")]
    OtherChannel,
    /// Its account of the channel does not hold.
    #[error(transparent)]
    Accounts(ReconcileError),
    /// It acknowledged what was never signed.
    #[error(transparent)]
    Credit(PayerError),
    /// It acknowledged more of an upload than was sent, or less than before.
    #[error("it acknowledges {claimed} bytes of an upload of which {sent} were sent")]
    Taken {
        /// Bytes acknowledged.
        claimed: u64,
        /// Bytes sent.
        sent: u64,
    },
    /// Its receipt is for something else, or not signed by it; of receipts for fetches, too many are.
    #[error("its receipts are not signed by it, or for something else")]
    Receipt,
    /// Its record of a name is another name's, or not signed by the name's publisher, or not what it should be.
    #[error("its record of a name is not one that the name's publisher signed for it")]
    Name,
    /// Its quote is for something else, or not signed by it.
    #[error("its quote is not signed by it, or for another request")]
    Quote,
}

impl FetchError {
    /// The variant's name, for logs and JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "NotFound",
            Self::PriceTooHigh { .. } => "PriceTooHigh",
            Self::NoChannel { .. } => "NoChannel",
            Self::DepositExhausted { .. } => "DepositExhausted",
            Self::ChannelUnusable { .. } => "ChannelUnusable",
            Self::Refused(refusal) => refusal.code().name(),
            Self::Proof { .. } => "Proof",
            Self::Misbehaved { .. } => "Misbehaved",
            Self::WrongChain { .. } => "WrongChain",
            Self::WrongNodeKey { .. } => "WrongNodeKey",
            Self::Unreachable { .. } => "Unreachable",
            Self::Timeout { .. } => "Timeout",
            Self::NoSource { .. } => "NoSource",
            Self::BudgetExceeded(_) => "BudgetExceeded",
            Self::NotApproved(_) => "NotApproved",
            Self::TooLarge { .. } => "TooLarge",
            Self::Request(_) => "Request",
            Self::Source(_) => "Source",
            Self::Sink(_) => "Sink",
            Self::Wallet(error) => error.code(),
            Self::Chain(_) => "Chain",
            Self::Money(error) => error.code(),
        }
    }

    /// Who can change this error into an answer.
    pub fn who_acts(&self) -> WhoActs {
        match self {
            Self::Refused(refusal) => refusal.code().who_acts(),
            Self::NotFound { .. } | Self::Proof { .. } | Self::Misbehaved { .. } | Self::WrongNodeKey { .. } => {
                WhoActs::RetryElsewhere
            }
            Self::NoChannel { .. } | Self::DepositExhausted { .. } | Self::ChannelUnusable { .. } => WhoActs::Pay,
            Self::PriceTooHigh { .. } | Self::BudgetExceeded(_) | Self::NotApproved(_) => WhoActs::Authorise,
            Self::Wallet(error) => error.who_acts(),
            Self::Money(error) => error.who_acts(),
            // Whatever helps with one of them helps.
            Self::NoSource { causes } => {
                let retryable = causes.iter().find(|cause| cause.error.who_acts() == WhoActs::RetryHere);
                retryable.or(causes.first()).map_or(WhoActs::RetryElsewhere, |cause| cause.error.who_acts())
            }
            Self::Unreachable { .. } | Self::Timeout { .. } => WhoActs::RetryHere,
            Self::Chain(error) if error.is_retryable() => WhoActs::RetryHere,
            Self::WrongChain { .. }
            | Self::TooLarge { .. }
            | Self::Request(_)
            | Self::Source(_)
            | Self::Sink(_)
            | Self::Chain(_) => WhoActs::GiveUp,
        }
    }

    /// True if the same fetch, here or at another node, may work without anybody paying, signing or changing
    /// anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self.who_acts(), WhoActs::RetryHere | WhoActs::RetryElsewhere)
    }

    /// What to do next, for people.
    pub fn next_step(&self) -> String {
        match self {
            Self::NotFound { .. } => "check the content id, or ask another node".into(),
            Self::PriceTooHigh { price, .. } => format!("allow it with --max-price {price}, or ask a cheaper node"),
            Self::NoChannel { node } => format!("open one: aro channel open {node} --deposit ARO"),
            Self::DepositExhausted { channel, missing } => {
                let channel = channel.map_or_else(|| "CHANNEL".to_owned(), |channel| channel.to_string());
                format!("add what is missing, at least: aro channel top-up {channel} {missing}")
            }
            Self::ChannelUnusable { channel } => {
                format!("take back what it holds (aro channel close {channel}), then open a new one")
            }
            Self::Refused(refusal) => refusal.code().next_step().into(),
            Self::Proof { .. } => "ask another node: nothing unproven was written, nothing is paid for it".into(),
            Self::Misbehaved { .. } => "ask another node".into(),
            Self::WrongChain { .. } => {
                "use a node of your chain, or point --rpc and --program-id at the node's chain".into()
            }
            Self::WrongNodeKey { .. } => "check the address: the node may have moved, or another runs there".into(),
            Self::Unreachable { .. } => "check that the node runs and that UDP reaches it, then try again".into(),
            Self::Timeout { .. } => "try again, or ask another node".into(),
            Self::NoSource { .. } => {
                "name other nodes with --from, or do for one of these what its error asks for".into()
            }
            Self::BudgetExceeded(error) => error.next_step(),
            Self::NotApproved(_) => NotApproved::NEXT_STEP.into(),
            Self::TooLarge { .. } => "ask for a range, or allow more".into(),
            Self::Request(_) => "ask for fewer ranges at once".into(),
            Self::Source(_) => "check the file and its permissions, and that nobody writes to it".into(),
            Self::Sink(error) => sink_step(error).into(),
            Self::Wallet(error) => error.next_step(),
            Self::Chain(_) => "check --rpc and that the chain runs, then try again".into(),
            Self::Money(error) => error.next_step(),
        }
    }

    /// The amount that the error speaks of, in base units.
    pub fn amount(&self) -> Option<Amount> {
        match self {
            Self::PriceTooHigh { price, .. } => Some(*price),
            Self::DepositExhausted { missing, .. } => Some(*missing),
            Self::BudgetExceeded(error) => Some(error.needed),
            Self::NotApproved(error) => Some(error.amount),
            Self::Refused(refusal) => refusal.amount,
            Self::Misbehaved { what, .. } => what.amount(),
            Self::NoSource { causes } => causes.iter().find_map(|cause| cause.error.amount()),
            Self::Wallet(error) => error.amount(),
            Self::Money(error) => error.amount(),
            Self::NotFound { .. }
            | Self::NoChannel { .. }
            | Self::ChannelUnusable { .. }
            | Self::Proof { .. }
            | Self::WrongChain { .. }
            | Self::WrongNodeKey { .. }
            | Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::TooLarge { .. }
            | Self::Request(_)
            | Self::Source(_)
            | Self::Sink(_)
            | Self::Chain(_) => None,
        }
    }

    /// Milliseconds after which to try the same again here, where that helps.
    pub fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Wallet(error) => error.retry_after_ms(),
            Self::Money(error) => error.retry_after_ms(),
            other => retry_after_ms_of(other.who_acts()),
        }
    }

    /// What it is about.
    pub fn subject(&self) -> Subject {
        match self {
            Self::NotFound { content } => Subject { content: Some(*content), ..Subject::default() },
            Self::NoChannel { node } | Self::Proof { node, .. } | Self::Misbehaved { node, .. } => Subject::node(*node),
            Self::DepositExhausted { channel, .. } => Subject { channel: *channel, ..Subject::default() },
            Self::ChannelUnusable { channel } => Subject::channel(*channel),
            Self::WrongNodeKey { node, place } => Subject::at(place, Some(*node)),
            Self::Unreachable { place, .. } => Subject::at(place, None),
            Self::Wallet(error) => error.subject(),
            Self::Money(error) => error.subject(),
            // Each cause of a fetch from many names its own.
            Self::NoSource { .. }
            | Self::PriceTooHigh { .. }
            | Self::Refused(_)
            | Self::WrongChain { .. }
            | Self::Timeout { .. }
            | Self::BudgetExceeded(_)
            | Self::NotApproved(_)
            | Self::TooLarge { .. }
            | Self::Request(_)
            | Self::Source(_)
            | Self::Sink(_)
            | Self::Chain(_) => Subject::default(),
        }
    }

    /// What a command ends with: see [`ErrorReport`](crate::ErrorReport::exit_code).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Proof { .. } => exit::PROOF,
            Self::Sink(_) | Self::Source(_) => exit::INTERNAL,
            Self::Request(_) => exit::USAGE,
            Self::PriceTooHigh { .. } | Self::BudgetExceeded(_) | Self::NotApproved(_) => exit::MONEY,
            Self::Wallet(error) => error.exit_code(),
            Self::Money(error) => error.exit_code(),
            other => exit_code_of(other.who_acts()),
        }
    }

    pub(crate) fn misbehaved(node: NodeId, what: impl Into<Misbehaviour>) -> Self {
        Self::Misbehaved { node, what: what.into() }
    }

    /// A node's refusal of a request, in the agent's own words where it has them.
    pub(crate) fn from_refusal(refusal: Refusal, request: &RequestFacts) -> Self {
        match refusal.code() {
            RefusalCode::NotFound => Self::NotFound { content: request.content },
            RefusalCode::PriceTooHigh => match refusal.amount {
                Some(price) => Self::PriceTooHigh { price, allowed: request.allowed },
                None => Self::Refused(refusal),
            },
            RefusalCode::NoChannel => match request.channel {
                Some(channel) => Self::ChannelUnusable { channel },
                None => Self::NoChannel { node: request.node },
            },
            RefusalCode::ChannelUnusable => match request.channel {
                Some(channel) => Self::ChannelUnusable { channel },
                None => Self::Refused(refusal),
            },
            RefusalCode::DepositExhausted => match refusal.amount {
                Some(missing) => Self::DepositExhausted { channel: request.channel, missing },
                None => Self::Refused(refusal),
            },
            _ => Self::Refused(refusal),
        }
    }
}

/// What to do about a target that takes no more. What a file had taken stays beside it.
fn sink_step(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "make room, then run the same again: what is written stays in the .aro-part file, and is not paid again"
        }
        io::ErrorKind::ResourceBusy => "wait for the other fetch, or give another file",
        _ => "check the folder, its permissions and the space left; the same again goes on where this broke off",
    }
}

/// What a refusal is read in the light of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestFacts {
    pub(crate) content: ContentId,
    pub(crate) node: NodeId,
    pub(crate) allowed: Amount,
    pub(crate) channel: Option<ChannelId>,
}

impl Misbehaviour {
    /// The amount that the node claims, where its claim is one, in base units.
    fn amount(&self) -> Option<Amount> {
        match self {
            Self::Price { claimed, .. } => Some(*claimed),
            Self::AboveMaxPrice { price, .. } => Some(*price),
            _ => None,
        }
    }
}

impl From<MoneyError> for FetchError {
    fn from(error: MoneyError) -> Self {
        match error {
            MoneyError::Read(error) => error.into(),
            MoneyError::Wallet(error) => error.into(),
            MoneyError::Budget(error) => error.into(),
            MoneyError::NotApproved(error) => error.into(),
            other => Self::Money(Arc::new(other)),
        }
    }
}

impl From<WalletError> for FetchError {
    fn from(error: WalletError) -> Self {
        Self::Wallet(Arc::new(error))
    }
}

impl From<BudgetError> for FetchError {
    fn from(error: BudgetError) -> Self {
        match error {
            BudgetError::Exceeded(exceeded) => exceeded.into(),
            BudgetError::Ledger(error) => Self::Wallet(Arc::new(WalletError::Shared(error))),
        }
    }
}

impl From<ReadError> for FetchError {
    fn from(error: ReadError) -> Self {
        Self::Chain(Arc::new(error))
    }
}

impl From<ChainError> for FetchError {
    fn from(error: ChainError) -> Self {
        ReadError::Chain(error).into()
    }
}

impl From<io::Error> for FetchError {
    fn from(error: io::Error) -> Self {
        Self::Sink(Arc::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(channel: Option<ChannelId>) -> RequestFacts {
        RequestFacts {
            content: ContentId::of(b"x"),
            node: NodeId::from_bytes([1; 32]),
            allowed: Amount::new(5),
            channel,
        }
    }

    #[test]
    fn the_four_refusals_of_an_unpayable_request_are_distinct_and_say_what_to_do() {
        let channel = ChannelId::from_bytes([2; 32]);
        let errors = [
            (RefusalCode::NotFound, None, "NotFound"),
            (RefusalCode::PriceTooHigh, Some(Amount::new(9)), "PriceTooHigh"),
            (RefusalCode::NoChannel, None, "NoChannel"),
            (RefusalCode::DepositExhausted, Some(Amount::new(4)), "DepositExhausted"),
        ]
        .map(|(code, amount, name)| {
            let mut refusal = Refusal::new(code, "no");
            refusal.amount = amount;
            let error = FetchError::from_refusal(refusal, &facts((name == "DepositExhausted").then_some(channel)));
            assert_eq!(error.code(), name);
            assert_eq!(error.amount(), amount);
            error
        });
        let steps: std::collections::HashSet<_> = errors.iter().map(FetchError::next_step).collect();
        assert_eq!(steps.len(), 4);
        assert!(errors[2].next_step().contains("aro channel open"));
        assert!(errors[0].is_retryable() && !errors[1].is_retryable() && !errors[2].is_retryable());
    }

    #[test]
    fn a_node_that_knows_no_channel_where_we_have_one_means_that_it_is_gone() {
        let channel = ChannelId::from_bytes([2; 32]);
        let error = FetchError::from_refusal(Refusal::new(RefusalCode::NoChannel, ""), &facts(Some(channel)));
        assert!(matches!(error, FetchError::ChannelUnusable { channel: named } if named == channel));
    }
}
