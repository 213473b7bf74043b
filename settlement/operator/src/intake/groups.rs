//! Judges a handoff's vouchers in groups: signatures that are verified together cost less each.
//!
//! Groups grow with what has been good: of a handoff's forgeries no more are looked at than eight beyond as many as its
//! good ones.

use aro_proto::channel::{SignedVoucher, VoucherError};
use aro_proto::identity::VerifyingKey;
use aro_proto::limits::MAX_BAD_SIGNATURES;
use aro_proto::message::HandoffVoucher;
use aro_proto::{Refusal, RefusalCode};
use settlement_chain::Address;

use super::channel_cache::ChannelFacts;
use super::judge::{Fault, Judgement, judge};
use crate::vouchers::{Claim, Offer, StoredVoucher};

/// What was wrong in one handoff.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Faults {
    /// Signatures that did not verify.
    pub(super) forged: u32,
    /// Channels that are not there, or not of this node.
    pub(super) guessed: u32,
}

/// What is to be offered to the store of the vouchers that the node with account `node` hands over; `known` is the best
/// stored of each one's channel.
// r[impl settlement.handoff.fair]
pub(super) fn judge_all(
    vouchers: &[HandoffVoucher],
    node: &Address,
    facts: &ChannelFacts,
    known: &[Option<StoredVoucher>],
) -> (Vec<Offer>, Faults) {
    let mut count = Count::default();
    let mut offers = Vec::with_capacity(vouchers.len());
    let mut rest = vouchers.iter().zip(known);
    while let Some(size) = count.next_group()
        && rest.len() > 0
    {
        let (mut judged, mut to_verify) = (Vec::with_capacity(size), Vec::with_capacity(size));
        while to_verify.len() < size
            && let Some((voucher, known)) = rest.next()
        {
            let judgement = judge(voucher, node, facts, known.as_ref());
            to_verify.extend(unverified(&judgement));
            judged.push((voucher.channel, judgement));
        }
        let mut verified = SignedVoucher::verify_all(facts.verifier(), &to_verify).into_iter();
        for (channel, judgement) in judged {
            let claim = judgement.and_then(|judgement| match judgement {
                Judgement::Known(cumulative) => Ok(Claim::Known(cumulative)),
                Judgement::IfSigned(voucher) => {
                    let verified = verified.next().expect("a verdict for each signature");
                    count.good += usize::from(verified.is_ok());
                    voucher.claim(verified)
                }
            });
            offers.push((channel, claim.map_err(|fault| count.refusal(&fault))));
        }
    }
    offers.extend(rest.map(|(voucher, _)| (voucher.channel, Err(unseen()))));
    (offers, count.faults)
}

/// What has been seen of a handoff.
#[derive(Debug, Default)]
struct Count {
    faults: Faults,
    /// Signatures that did verify.
    good: usize,
}

impl Count {
    /// How many signatures may be looked at together; none if enough were wrong.
    fn next_group(&self) -> Option<usize> {
        let left = MAX_BAD_SIGNATURES.checked_sub(self.faults.forged).filter(|left| *left > 0)?;
        Some(usize::try_from(left).unwrap_or(LARGEST_GROUP).saturating_add(self.good).min(LARGEST_GROUP))
    }

    fn refusal(&mut self, fault: &Fault) -> Refusal {
        match fault {
            Fault::Voucher(VoucherError::BadSignature) => self.faults.forged = self.faults.forged.saturating_add(1),
            Fault::UnknownChannel | Fault::OtherNode => self.faults.guessed = self.faults.guessed.saturating_add(1),
            _ => {}
        }
        fault.refusal()
    }
}

fn unverified<'a>(judged: &Result<Judgement<'a>, Fault>) -> Option<(SignedVoucher, &'a VerifyingKey)> {
    match judged {
        Ok(Judgement::IfSigned(voucher)) => Some(voucher.to_verify()),
        _ => None,
    }
}

fn unseen() -> Refusal {
    Refusal::new(RefusalCode::OverCapacity, "not looked at: too many signatures before it were wrong")
}

/// From here on a larger group saves next to nothing: what its signatures share is less than a hundredth of each.
const LARGEST_GROUP: usize = 64;

#[cfg(test)]
mod tests {
    use aro_proto::channel::Voucher;
    use aro_proto::{Amount, ChannelId, SecretKey};
    use settlement_interface::accounts::Channel;

    use super::*;

    const NODE: [u8; 32] = [1; 32];

    fn agent() -> SecretKey {
        SecretKey::from_bytes(&[7; 32])
    }

    fn id() -> ChannelId {
        ChannelId::from_bytes([3; 32])
    }

    fn facts() -> ChannelFacts {
        let mut channel = Channel::from_bytes(&[0; Channel::LEN]);
        channel.node = NODE;
        channel.signer = agent().public();
        channel.deposit = 1_000;
        ChannelFacts::of(1_800_000_000, [(id(), Some(channel))])
    }

    fn handed(cumulative: u64, is_good: bool) -> HandoffVoucher {
        let voucher = Voucher { channel: id(), cumulative: Amount::new(cumulative), expires_at: 0 };
        let mut signature = voucher.sign(&agent()).signature;
        signature[9] ^= u8::from(!is_good);
        HandoffVoucher { channel: id(), cumulative: voucher.cumulative, expires_at: 0, signature, close: false }
    }

    fn judged(vouchers: &[HandoffVoucher]) -> (Vec<Offer>, Faults) {
        let known = vec![None; vouchers.len()];
        judge_all(vouchers, &Address::new_from_array(NODE), &facts(), &known)
    }

    // r[verify settlement.handoff.fair]
    #[test]
    fn forgeries_are_looked_at_up_to_their_bound_and_as_many_as_were_good() {
        let bound = usize::try_from(MAX_BAD_SIGNATURES).unwrap();
        let (offers, faults) = judged(&vec![handed(5, false); 256]);
        assert_eq!((offers.len(), faults.forged), (256, MAX_BAD_SIGNATURES));
        assert!(
            offers[bound..].iter().all(|(_, offer)| offer.as_ref().unwrap_err().code() == RefusalCode::OverCapacity)
        );

        let mixed = [vec![handed(5, true); bound], vec![handed(6, false); 248]].concat();
        let (offers, faults) = judged(&mixed);
        assert!(offers[..bound].iter().all(|(_, offer)| offer.is_ok()));
        assert_eq!(faults.forged, 2 * MAX_BAD_SIGNATURES);
        let code = |(_, offer): &Offer| offer.as_ref().unwrap_err().code();
        assert!(offers[bound..3 * bound].iter().all(|offer| code(offer) == RefusalCode::VoucherBadSignature));
        assert!(offers[3 * bound..].iter().all(|offer| code(offer) == RefusalCode::OverCapacity));

        // Seven wrong ones at the end of a group, and another group of them.
        let most = [vec![handed(5, true); 113], vec![handed(6, false); 143]].concat();
        assert_eq!(judged(&most).1.forged, 64 + 7);
    }

    #[test]
    fn each_voucher_is_judged_for_itself_and_in_its_place() {
        let mut vouchers: Vec<_> = (1..=200).map(|cumulative| handed(cumulative, cumulative % 60 != 0)).collect();
        vouchers[100].channel = ChannelId::from_bytes([4; 32]);
        vouchers[110].cumulative = Amount::new(1_001);
        let (offers, faults) = judged(&vouchers);
        assert_eq!(faults, Faults { forged: 3, guessed: 1 });
        for (place, ((channel, offer), voucher)) in offers.iter().zip(&vouchers).enumerate() {
            assert_eq!(*channel, voucher.channel);
            match place {
                59 | 119 | 179 => assert_eq!(offer.as_ref().unwrap_err().code(), RefusalCode::VoucherBadSignature),
                100 => assert_eq!(offer.as_ref().unwrap_err().code(), RefusalCode::ChannelUnusable),
                110 => assert_eq!(offer.as_ref().unwrap_err().code(), RefusalCode::VoucherAboveDeposit),
                _ => assert!(
                    matches!(offer, Ok(Claim::Rise(accepted)) if accepted.voucher.signed().signature == voucher.signature)
                ),
            }
        }
        assert_eq!(judged(&[]).0.len(), 0);
    }
}
