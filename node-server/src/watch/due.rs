//! When a node settles a voucher itself: pure, by the chain's clock.

use aro_proto::channel::ChannelState;
use aro_proto::limits::{CLOSING_MARGIN_S, SETTLE_MARGIN_S};

use crate::channels::Unsettled;

/// Why the node does not leave a voucher to its operators any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// The channel is closing, and an eighth of its grace is over.
    Closing {
        /// Unix second at which vouchers settle no more.
        deadline: i64,
        /// Seconds until a quarter of the grace is over; 1 if it is.
        until_quarter_s: u32,
    },
    /// The voucher expires soon.
    Expiring {
        /// Unix second at which it settles no more.
        expires_at: i64,
    },
}

impl Due {
    /// The unix second after which it is too late.
    pub(crate) fn latest(&self) -> i64 {
        match *self {
            Self::Closing { deadline, .. } => deadline,
            Self::Expiring { expires_at } => expires_at,
        }
    }
}

/// Whether the node settles this voucher now. `last`: when it last settled one of this channel, in unix seconds.
///
/// The operators have the first eighth of the grace, so that two do not pay for the same thing; what is signed after
/// that is gathered for another eighth, but for the last time nothing is gathered.
// r[impl settlement.watch.node]
pub(crate) fn due(unsettled: &Unsettled, last: Option<i64>, now: i64) -> Option<Due> {
    let expires_at = unsettled.voucher.voucher.expires_at;
    if expires_at != 0 && now >= expires_at {
        return None;
    }
    if let ChannelState::Closing { deadline } = unsettled.state {
        let grace = i64::from(unsettled.grace_s);
        let begun = deadline.saturating_sub(grace);
        let eighth = grace / OPERATORS_PART;
        let turn = last.unwrap_or(begun).saturating_add(eighth);
        // Nothing more is taken on this channel from then on.
        let is_last_call = now >= deadline.saturating_sub(CLOSING_MARGIN_S) && grace > CLOSING_MARGIN_S;
        if now < deadline && (now >= turn || (is_last_call && last.is_some())) {
            let until_quarter_s = begun.saturating_add(grace / QUARTER).saturating_sub(now).max(1);
            return Some(Due::Closing {
                deadline,
                until_quarter_s: u32::try_from(until_quarter_s).unwrap_or(u32::MAX),
            });
        }
    }
    let is_expiring = expires_at != 0 && now >= expires_at.saturating_sub(EXPIRY_MARGIN_S);
    let is_open = match unsettled.state {
        ChannelState::Open => true,
        ChannelState::Closing { deadline } => now < deadline,
        ChannelState::Closed => false,
    };
    let gathered = last.is_none_or(|last| now >= last.saturating_add(EXPIRY_MARGIN_S / OPERATORS_PART));
    (is_expiring && is_open && gathered).then_some(Due::Expiring { expires_at })
}

/// An eighth of the grace belongs to the operators alone.
const OPERATORS_PART: i64 = 8;
/// In a quarter of the grace the voucher is to be on chain.
const QUARTER: i64 = 4;
/// Seconds before a voucher's expiry at which the node settles it: a quarter of what the node accepted it with.
const EXPIRY_MARGIN_S: i64 = SETTLE_MARGIN_S / 4;

#[cfg(test)]
mod tests {
    use aro_proto::channel::Voucher;
    use aro_proto::{Amount, ChannelId, SecretKey};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn unsettled(state: ChannelState, expires_at: i64) -> Unsettled {
        let channel = ChannelId::from_bytes([3; 32]);
        let voucher = Voucher { channel, cumulative: Amount::new(500), expires_at };
        let voucher = voucher.sign(&SecretKey::from_bytes(&[7; 32]));
        Unsettled { voucher, amount: Amount::new(500), state, grace_s: 800 }
    }

    // r[verify settlement.watch.node]
    #[test]
    fn the_operators_have_the_first_eighth_of_the_grace_and_the_node_the_rest() {
        let closing = unsettled(ChannelState::Closing { deadline: NOW + 800 }, 0);
        let at = |second| due(&closing, None, NOW + second);
        assert_eq!(at(99), None);
        assert_eq!(at(100), Some(Due::Closing { deadline: NOW + 800, until_quarter_s: 100 }));
        assert_eq!(at(799), Some(Due::Closing { deadline: NOW + 800, until_quarter_s: 1 }));
        assert_eq!(at(800), None, "at the deadline nothing settles");
        assert_eq!(due(&unsettled(ChannelState::Open, 0), None, NOW), None);
        assert_eq!(due(&unsettled(ChannelState::Closed, 0), None, NOW), None);
    }

    #[test]
    fn what_is_signed_after_a_settlement_is_gathered_but_never_beyond_the_last_call() {
        let closing = unsettled(ChannelState::Closing { deadline: NOW + 800 }, 0);
        let at = |last, second| due(&closing, Some(NOW + last), NOW + second).is_some();
        assert!(!at(100, 199) && at(100, 200));
        let last_call = 800 - CLOSING_MARGIN_S;
        assert!(!at(last_call - 10, last_call - 1) && at(last_call - 10, last_call));
    }

    #[test]
    fn a_voucher_that_expires_soon_is_settled_in_time_whatever_the_channel_does() {
        let expires_at = NOW + EXPIRY_MARGIN_S;
        let open = unsettled(ChannelState::Open, expires_at);
        assert_eq!(due(&open, None, NOW - 1), None);
        assert_eq!(due(&open, None, NOW), Some(Due::Expiring { expires_at }));
        assert_eq!(due(&open, None, expires_at), None, "it is dead");
        assert_eq!(due(&open, Some(NOW), NOW + 1), None, "what follows is gathered");
        let closing = unsettled(ChannelState::Closing { deadline: NOW + 799 }, NOW);
        assert_eq!(due(&closing, None, NOW), None);
    }
}
