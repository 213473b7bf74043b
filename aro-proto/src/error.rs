//! Refusals: what is refused, who must act, and the numbers on the wire.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::amount::Amount;
use crate::limits::MAX_REASON;

/// Who can change a refusal into an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhoActs {
    /// The same request to the same node may work later.
    RetryHere,
    /// Another node may answer.
    RetryElsewhere,
    /// The agent must pay, open a channel or top one up.
    Pay,
    /// The agent must sign with the right key, or its owner must allow more.
    Authorise,
    /// Nobody: the request itself is wrong.
    GiveUp,
}

impl WhoActs {
    /// The name, for logs and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RetryHere => "retry_here",
            Self::RetryElsewhere => "retry_elsewhere",
            Self::Pay => "pay",
            Self::Authorise => "authorise",
            Self::GiveUp => "give_up",
        }
    }
}

macro_rules! refusal_codes {
    ($( $(#[doc = $doc:literal])* $name:ident = $code:literal, $who:ident, $next:literal; )*) => {
        /// Why a request, voucher or connection is refused. The table of the protocol: numbers never change meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum RefusalCode {
            $( $(#[doc = $doc])* $name = $code, )*
        }

        impl RefusalCode {
            /// All codes, by number.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )* ];

            /// The code of a number, if this version knows it.
            pub const fn from_wire(number: u16) -> Option<Self> {
                match number { $( $code => Some(Self::$name), )* _ => None }
            }

            /// The number on the wire.
            pub const fn to_wire(self) -> u16 { self as u16 }

            /// Who must act.
            // r[impl error.who_acts]
            pub const fn who_acts(self) -> WhoActs {
                match self { $( Self::$name => WhoActs::$who, )* }
            }

            /// The name, for logs and JSON.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => stringify!($name), )* }
            }

            /// What to try next, for people.
            pub const fn next_step(self) -> &'static str {
                match self { $( Self::$name => $next, )* }
            }
        }
    };
}

// r[impl error.codes]
refusal_codes! {
    /// The bytes are not a request of this protocol.
    BadRequest = 10, GiveUp, "update the agent: it and the node disagree about the protocol";
    /// The peer speaks no version that this one does.
    UnsupportedVersion = 11, GiveUp, "update the older side";
    /// Genesis hash, program or mint differ.
    WrongChain = 12, GiveUp, "use a node of your own chain, or point the agent at the node's chain";
    /// What was uploaded is not what was announced: its bytes do not prove, or its size is another.
    WrongContent = 13, GiveUp, "read the source anew: it has changed, or it is not the announced content";
    /// The content has more bytes than this node takes, or than were announced.
    ContentTooLarge = 14, RetryElsewhere, "publish it in parts, or at a node that takes larger contents";
    /// The name's record is below the one that the node knows, which comes with the refusal.
    NameNotRising = 15, GiveUp, "publish the name anew: its next number must be above the one that the node knows";
    /// The node knows another record of this name under the same number, which comes with the refusal.
    NameEqualDiffers = 16, GiveUp, "publish the name anew under a higher number, and from one place at a time";
    /// A signature does not hold here: wrong key, other stream, other connection, or altered.
    Unauthorised = 20, Authorise, "sign with the key that the channel names, on this very connection";
    /// The node takes no uploads from this key.
    PublishDenied = 21, Authorise, "ask the node's owner to list your key (aro keys show), or publish elsewhere";
    /// The node does not hold this content.
    NotFound = 30, RetryElsewhere, "check the content id, or ask another node";
    /// The node has too much to do.
    OverCapacity = 31, RetryHere, "try again in a moment, or ask another node";
    /// The node is going away.
    ShuttingDown = 32, RetryElsewhere, "ask another node, or this one after its restart";
    /// The publisher's quota at this node, or the node's for all publishers, is used up.
    QuotaExceeded = 33, RetryElsewhere, "publish at another node, or ask this one's owner for a larger quota";
    /// The node's disk is full.
    StorageFull = 34, RetryElsewhere, "publish at another node, or here when its owner has made room";
    /// The node knows no such name.
    NameNotFound = 35, RetryElsewhere, "check the publisher and the name, or ask another node";
    /// The node asks more than the request allows; the amount is its price.
    PriceTooHigh = 40, Authorise, "allow the price with --max-price, or ask a cheaper node";
    /// The request costs money and the connection is bound to no channel.
    NoChannel = 41, Pay, "open a channel to this node first: aro channel open";
    /// The channel's deposit does not cover the request; the amount is what is missing.
    DepositExhausted = 42, Pay, "top the channel up, or open a larger one";
    /// What was delivered is not paid; the amount is what is owed.
    Unpaid = 43, Pay, "pay what is owed, then ask again";
    /// The channel is closing, closed or unknown on chain.
    ChannelUnusable = 44, Pay, "open a new channel to this node";
    /// The voucher is for another channel.
    VoucherWrongChannel = 50, GiveUp, "bind the channel that the voucher is for";
    /// The voucher is below the watermark; the amount is the watermark.
    VoucherNotRising = 51, Pay, "sign at or above the watermark that came with this refusal";
    /// A different voucher of the same amount is known; the amount is the watermark.
    VoucherEqualDiffers = 52, Pay, "sign a higher amount";
    /// The voucher pays more than the deposit; the amount is the deposit.
    VoucherAboveDeposit = 53, Pay, "top the channel up first";
    /// The voucher expires before it could be settled.
    VoucherExpired = 54, Pay, "sign without expiry, or with a later one";
    /// The voucher's signature does not verify strictly.
    VoucherBadSignature = 55, Authorise, "sign with the channel's signer key";
    /// Something failed inside the node.
    Internal = 60, RetryHere, "try again, or ask another node; the node's log says more";
}

impl RefusalCode {
    /// True if asking again, here or elsewhere, may help without paying or signing anything.
    pub const fn is_retryable(self) -> bool {
        matches!(self.who_acts(), WhoActs::RetryHere | WhoActs::RetryElsewhere)
    }
}

/// A refusal as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// A number of the table; one that this version does not know is treated as [`RefusalCode::Internal`].
    code: u16,
    /// The amount that the code speaks of, in base units.
    pub amount: Option<Amount>,
    /// One sentence for people, at most [`MAX_REASON`] bytes.
    reason: String,
}

impl Refusal {
    /// A refusal with its reason, cut to the bound.
    pub fn new(code: RefusalCode, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        while reason.len() > MAX_REASON {
            reason.pop();
        }
        Self { code: code.to_wire(), amount: None, reason }
    }

    /// The same, with the amount that the code speaks of.
    pub fn with_amount(mut self, amount: Amount) -> Self {
        self.amount = Some(amount);
        self
    }

    /// What is refused.
    pub fn code(&self) -> RefusalCode {
        RefusalCode::from_wire(self.code).unwrap_or(RefusalCode::Internal)
    }

    /// One sentence for people; from the peer, so show it as text only.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    pub(crate) fn is_within_bounds(&self) -> bool {
        self.reason.len() <= MAX_REASON
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let printable = self.reason.chars().map(|c| if c.is_control() { ' ' } else { c });
        write!(f, "{}: {}", self.code().name(), printable.collect::<String>())?;
        if let Some(amount) = self.amount {
            write!(f, " ({amount} $ARO)")?;
        }
        write!(f, "; {}", self.code().next_step())
    }
}

impl std::error::Error for Refusal {}

/// Application codes of QUIC closes and resets.
pub mod close {
    /// Nothing is wrong.
    pub const DONE: u32 = 0;
    /// The peer broke the framing or the order of messages.
    pub const PROTOCOL: u32 = 1;
    /// The peer's chain is another.
    pub const WRONG_CHAIN: u32 = 2;
    /// Too many bad signatures.
    pub const ABUSE: u32 = 3;
    /// The stream is not wanted any more.
    pub const CANCELLED: u32 = 4;
    /// The process is stopping.
    pub const SHUTDOWN: u32 = 5;
    /// What was sent does not prove.
    pub const BAD_PROOF: u32 = 6;
    /// Payment did not come in time.
    pub const UNPAID: u32 = 7;
    /// A later binding of the same channel has taken this connection's place.
    pub const REPLACED: u32 = 8;
}

#[cfg(test)]
mod tests {
    use super::*;

    // r[verify error.codes]
    #[test]
    fn numbers_are_distinct_and_read_back() {
        for code in RefusalCode::ALL {
            assert_eq!(RefusalCode::from_wire(code.to_wire()), Some(*code));
        }
        assert_eq!(RefusalCode::from_wire(0), None);
    }

    // r[verify error.who_acts]
    #[test]
    fn only_refusals_that_cost_nothing_to_repeat_are_retryable() {
        for code in RefusalCode::ALL {
            let free = !matches!(code.who_acts(), WhoActs::Pay | WhoActs::Authorise | WhoActs::GiveUp);
            assert_eq!(code.is_retryable(), free, "{}", code.name());
            assert!(!code.next_step().is_empty());
        }
    }

    #[test]
    fn a_hostile_reason_is_cut_and_shown_without_control_characters() {
        let refusal = Refusal::new(RefusalCode::NotFound, "é".repeat(400));
        assert!(refusal.is_within_bounds());
        assert!(!Refusal::new(RefusalCode::NotFound, "a\x1b[31m").to_string().contains('\x1b'));
    }
}
