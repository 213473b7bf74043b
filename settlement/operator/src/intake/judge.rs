//! What is wrong with a voucher by the chain's word alone, cheapest check first, and its signature last.
//!
//! Whatever the chain would refuse is refused here, so that a batch never fails for a voucher that was taken.

use aro_proto::channel::{ChannelState, ChannelTerms, SignedVoucher, VerifiedVoucher, Voucher, VoucherError};
use aro_proto::identity::VerifyingKey;
use aro_proto::limits::SETTLE_MARGIN_S;
use aro_proto::message::HandoffVoucher;
use aro_proto::{Amount, Refusal, RefusalCode};
use settlement_chain::Address;
use settlement_interface::voucher::{NEVER, is_expired};

use super::channel_cache::ChannelFacts;
use crate::vouchers::{Accepted, Claim, StoredVoucher};

/// Why a voucher is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// There is no channel at this address.
    #[error("there is no such channel on this chain")]
    UnknownChannel,
    /// The channel pays another node than the one that hands its voucher over.
    #[error("the channel pays another node")]
    OtherNode,
    /// The channel's account is of a later program.
    #[error("the channel's account cannot be read")]
    Unreadable,
    /// The voucher itself.
    #[error(transparent)]
    Voucher(#[from] VoucherError),
}

impl Fault {
    /// The refusal to send.
    pub(super) fn refusal(&self) -> Refusal {
        match self {
            Self::UnknownChannel | Self::Unreadable => Refusal::new(RefusalCode::ChannelUnusable, self.to_string()),
            Self::OtherNode => Refusal::new(RefusalCode::VoucherWrongChannel, self.to_string()),
            Self::Voucher(error) => error.refusal(),
        }
    }
}

/// What a voucher comes to, as far as that can be told without its signature.
pub(super) enum Judgement<'a> {
    /// Its very bytes were verified when they were stored.
    Known(Amount),
    /// It counts if its signature holds.
    IfSigned(Unproven<'a>),
}

/// A voucher with nothing wrong but, perhaps, its signature.
pub(super) struct Unproven<'a> {
    signed: SignedVoucher,
    signer: &'a VerifyingKey,
    node: Address,
    /// True if there is something to credit: at the chain's watermark there is at most a channel to close.
    rises: bool,
    close: bool,
}

impl<'a> Unproven<'a> {
    /// What is to be verified.
    pub(super) fn to_verify(&self) -> (SignedVoucher, &'a VerifyingKey) {
        (self.signed, self.signer)
    }

    /// What it comes to when its signature has been looked at.
    pub(super) fn claim(self, verified: Result<VerifiedVoucher, VoucherError>) -> Result<Claim, Fault> {
        let Self { node, rises, close, .. } = self;
        let voucher = verified?;
        Ok(if rises || close { Claim::Rise(Accepted { voucher, node, close }) } else { Claim::Settled })
    }
}

/// Judges one voucher that the node with account `node` hands over; `stored` is the best known of its channel.
// r[impl settlement.handoff.checks]
pub(super) fn judge<'a>(
    handed: &HandoffVoucher,
    node: &Address,
    facts: &'a ChannelFacts,
    stored: Option<&StoredVoucher>,
) -> Result<Judgement<'a>, Fault> {
    let known = facts.known(handed.channel).ok_or(Fault::UnknownChannel)?;
    let channel = &known.account;
    if Address::from(channel.node) != *node {
        return Err(Fault::OtherNode);
    }
    let terms = ChannelTerms::from_account(handed.channel, channel).map_err(|_| Fault::Unreadable)?;
    match terms.state {
        ChannelState::Open => {}
        ChannelState::Closing { deadline } if facts.now() < deadline => {}
        ChannelState::Closing { .. } | ChannelState::Closed => return Err(VoucherError::ChannelClosed.into()),
    }
    let offered = handed.cumulative;
    if offered > terms.deposit {
        return Err(VoucherError::AboveDeposit { deposit: terms.deposit, offered }.into());
    }
    if offered < terms.settled {
        return Err(VoucherError::NotRising { watermark: terms.settled, offered }.into());
    }
    let rises = offered > terms.settled;
    if rises {
        check_expiry(handed.expires_at, facts.now())?;
    }
    let voucher = Voucher { channel: handed.channel, cumulative: offered, expires_at: handed.expires_at };
    let signed = SignedVoucher { voucher, signature: handed.signature };
    let same = |stored: &StoredVoucher| stored.live(facts.now()) == Some(&signed) && stored.node == *node;
    if stored.is_some_and(|stored| same(stored) && (!handed.close || stored.is_to_close(false))) {
        return Ok(Judgement::Known(offered));
    }
    let signer = known.signer().ok_or(VoucherError::BadSignature)?;
    Ok(Judgement::IfSigned(Unproven { signed, signer, node: *node, rises, close: handed.close }))
}

/// True if another look at the chain might change the judgement.
pub(super) fn may_be_stale(handed: &HandoffVoucher, node: &Address, facts: &ChannelFacts) -> bool {
    let Some(channel) = facts.channel(handed.channel) else { return true };
    Address::from(channel.node) == *node && handed.cumulative.get() > channel.deposit
}

// r[impl voucher.expiry]
fn check_expiry(expires_at: i64, now: i64) -> Result<(), VoucherError> {
    if expires_at == NEVER {
        return Ok(());
    }
    if is_expired(expires_at, now) {
        return Err(VoucherError::Expired { expires_at, now });
    }
    // A node takes vouchers until this margin and may need a while to hand them over: half of it is still enough.
    let earliest = now.saturating_add(SETTLE_MARGIN_S / 2);
    if expires_at < earliest { Err(VoucherError::ExpiresTooSoon { expires_at, earliest }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use aro_proto::{ChannelId, SecretKey};
    use settlement_interface::accounts::{Channel, status};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn node() -> Address {
        Address::new_from_array([1; 32])
    }

    fn id() -> ChannelId {
        ChannelId::from_bytes([3; 32])
    }

    fn channel() -> Channel {
        let mut channel = Channel::from_bytes(&[0; Channel::LEN]);
        channel.node = node().to_bytes();
        channel.signer = SecretKey::from_bytes(&[7; 32]).public();
        channel.deposit = 1_000;
        channel.settled = 100;
        channel
    }

    fn handed(cumulative: u64, expires_at: i64) -> HandoffVoucher {
        let voucher = Voucher { channel: id(), cumulative: Amount::new(cumulative), expires_at };
        let signature = voucher.sign(&SecretKey::from_bytes(&[7; 32])).signature;
        HandoffVoucher { channel: id(), cumulative: Amount::new(cumulative), expires_at, signature, close: false }
    }

    fn judged(handed: &HandoffVoucher, channel: Channel) -> Result<Claim, Fault> {
        concluded(judge(handed, &node(), &ChannelFacts::of(NOW, [(id(), Some(channel))]), None)?)
    }

    fn concluded(judgement: Judgement<'_>) -> Result<Claim, Fault> {
        match judgement {
            Judgement::Known(cumulative) => Ok(Claim::Known(cumulative)),
            Judgement::IfSigned(voucher) => {
                let (signed, signer) = voucher.to_verify();
                voucher.claim(signed.verify_with(signer))
            }
        }
    }

    // r[verify settlement.handoff.checks]
    // r[verify voucher.expiry]
    #[test]
    fn each_fault_has_its_own_refusal() {
        assert!(matches!(judged(&handed(1_000, 0), channel()), Ok(Claim::Rise(_))));
        let refused = |handed: &HandoffVoucher, channel| match judged(handed, channel) {
            Err(Fault::Voucher(error)) => error,
            other => panic!("{other:?}"),
        };
        let deposit = Amount::new(1_000);
        assert_eq!(
            refused(&handed(1_001, 0), channel()),
            VoucherError::AboveDeposit { deposit, offered: Amount::new(1_001) }
        );
        assert!(matches!(refused(&handed(99, 0), channel()), VoucherError::NotRising { .. }));
        assert!(matches!(refused(&handed(500, NOW), channel()), VoucherError::Expired { .. }));
        assert!(matches!(refused(&handed(500, NOW + 60), channel()), VoucherError::ExpiresTooSoon { .. }));
        assert!(judged(&handed(500, NOW + SETTLE_MARGIN_S), channel()).is_ok());

        let mut forged = handed(500, 0);
        forged.signature[5] ^= 1;
        assert_eq!(refused(&forged, channel()), VoucherError::BadSignature);

        let mut other_node = channel();
        other_node.node = [9; 32];
        let fault = judged(&handed(500, 0), other_node).unwrap_err();
        assert_eq!((fault, fault.refusal().code()), (Fault::OtherNode, RefusalCode::VoucherWrongChannel));
        let mut closing = channel();
        closing.status = status::CLOSING;
        closing.deadline = NOW + 1;
        assert!(judged(&handed(500, 0), closing.clone()).is_ok());
        closing.deadline = NOW;
        assert_eq!(refused(&handed(500, 0), closing), VoucherError::ChannelClosed);
        let mut closed = channel();
        closed.status = status::CLOSED;
        assert_eq!(refused(&handed(500, 0), closed), VoucherError::ChannelClosed);
        let unknown = ChannelFacts::of(NOW, [(id(), None)]);
        let fault = judge(&handed(500, 0), &node(), &unknown, None).err().unwrap();
        assert_eq!((fault, fault.refusal().code()), (Fault::UnknownChannel, RefusalCode::ChannelUnusable));
    }

    #[test]
    fn signature_of_the_stored_bytes_is_not_verified_again_and_any_other_is() {
        // One that would not verify shows whether anybody looked.
        let mut known = handed(500, 0);
        known.signature[5] ^= 1;
        let voucher = Voucher { channel: id(), cumulative: known.cumulative, expires_at: 0 };
        let signed = SignedVoucher { voucher, signature: known.signature };
        let stored = StoredVoucher {
            signed,
            lasting: None,
            node: node(),
            close: false,
            doubted: false,
            since: NOW,
            heard: NOW,
            quarantined: false,
        };
        let facts = ChannelFacts::of(NOW, [(id(), Some(channel()))]);
        let judged =
            |handed: &HandoffVoucher, stored| concluded(judge(handed, &node(), &facts, Some(&stored)).unwrap());
        assert!(matches!(judged(&known, stored), Ok(Claim::Known(cumulative)) if cumulative == Amount::new(500)));

        let mut other = known;
        other.signature[6] ^= 1;
        let close = HandoffVoucher { close: true, ..known };
        for handed in [other, close] {
            assert!(matches!(judged(&handed, stored), Err(Fault::Voucher(VoucherError::BadSignature))));
        }
        assert!(matches!(judged(&close, StoredVoucher { close: true, ..stored }), Ok(Claim::Known(_))));
        let elsewhere = StoredVoucher { node: Address::new_from_array([9; 32]), ..stored };
        assert!(matches!(judged(&known, elsewhere), Err(Fault::Voucher(VoucherError::BadSignature))));
    }

    #[test]
    fn what_is_settled_already_needs_no_storing_but_can_still_close() {
        assert!(matches!(judged(&handed(100, 0), channel()), Ok(Claim::Settled)));
        let close = HandoffVoucher { close: true, ..handed(100, 0) };
        assert!(matches!(judged(&close, channel()), Ok(Claim::Rise(Accepted { close: true, .. }))));
        let mut forged = close;
        forged.signature[0] ^= 1;
        assert!(matches!(judged(&forged, channel()), Err(Fault::Voucher(VoucherError::BadSignature))));
    }
}
