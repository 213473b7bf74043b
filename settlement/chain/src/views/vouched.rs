//! What of a channel may be lent on, where several servers show it: what two of them do.
//!
//! A channel that one server makes up, or a deposit that one makes larger, would pay with vouchers that nobody settles. On
//! chain both amounts only rise, so the second highest that is shown of each is one that the chain has reached, however
//! one of them lies.

use settlement_interface::accounts::Channel;

/// A channel by what at least two show of it, where `heard` servers have answered: as the `newest` read shows it if another
/// shows the same parties, with as much deposited and settled as two show. One server that answers alone is believed.
pub(super) fn vouched(heard: usize, newest: Option<&Channel>, shown: &[Channel]) -> Option<Channel> {
    if heard < 2 {
        return shown.first().cloned();
    }
    newest.into_iter().chain(shown).find_map(|one| {
        let same = || shown.iter().filter(|other| is_same(one, other));
        let deposit = second(same().map(|channel| channel.deposit))?;
        let settled = second(same().map(|channel| channel.settled))?.min(deposit);
        Some(Channel { deposit, settled, ..one.clone() })
    })
}

/// True if these can be one channel at two times.
fn is_same(one: &Channel, other: &Channel) -> bool {
    let fixed = |channel: &Channel| (channel.agent, channel.node, channel.signer, channel.nonce, channel.grace_s);
    fixed(one) == fixed(other)
}

/// The second highest.
fn second(amounts: impl Iterator<Item = u64>) -> Option<u64> {
    let mut sorted: Vec<u64> = amounts.collect();
    sorted.sort_unstable();
    sorted.iter().rev().nth(1).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use settlement_interface::accounts::status;

    use super::*;

    fn channel(deposit: u64, settled: u64) -> Channel {
        Channel { deposit, settled, signer: [7; 32], grace_s: 900, ..Channel::from_bytes(&[0; Channel::LEN]) }
    }

    // r[verify settlement.servers.vouched]
    #[test]
    fn a_channel_takes_two_of_those_that_answer_and_one_that_answers_alone_is_believed() {
        let one = || channel(10, 3);
        let later = || channel(20, 9);
        let other = || Channel { signer: [8; 32], ..one() };
        let closing = || Channel { status: status::CLOSING, deadline: 5, ..one() };
        for (heard, newest, shown, expected) in [
            (1, None, vec![one()], Some(one())),
            (1, None, vec![], None),
            // Others deny it.
            (2, Some(one()), vec![one()], None),
            (3, Some(one()), vec![one()], None),
            (2, None, vec![one(), one()], Some(one())),
            // One is behind by a top-up and a settlement.
            (2, Some(later()), vec![later(), one()], Some(one())),
            // Another signer makes another channel.
            (2, Some(other()), vec![other(), one()], None),
            (3, Some(other()), vec![other(), one(), one()], Some(one())),
            // What has become of it is the newest read's word.
            (2, Some(closing()), vec![one(), closing()], Some(closing())),
        ] {
            assert_eq!(vouched(heard, newest.as_ref(), &shown), expected, "{heard} heard, {shown:?}");
        }
    }

    proptest! {
        // r[verify settlement.servers.vouched]
        #[test]
        fn nothing_is_lent_on_that_the_chain_has_not_reached_however_one_of_them_lies(
            honest in prop::collection::vec((0_u64..100, 0_u64..100), 1..4),
            lie in (any::<u64>(), any::<u64>(), any::<bool>()),
            place in 0_usize..4,
        ) {
            let mut shown: Vec<Channel> = honest.iter().map(|(deposit, settled)| channel(*deposit, *settled)).collect();
            let most = |of: fn(&Channel) -> u64| shown.iter().map(of).max().unwrap_or_default();
            let (deposit, settled) = (most(|channel| channel.deposit), most(|channel| channel.settled));
            let signer = if lie.2 { [7; 32] } else { [9; 32] };
            let false_one = Channel { signer, ..channel(lie.0, lie.1) };
            shown.insert(place.min(shown.len()), false_one.clone());
            let heard = shown.len();
            if let Some(vouched) = vouched(heard, Some(&false_one), &shown) {
                prop_assert!(vouched.deposit <= deposit && vouched.settled <= settled.min(vouched.deposit));
                prop_assert_eq!(vouched.signer, [7; 32]);
            }
            // A false channel beside those that deny it.
            prop_assert_eq!(vouched(heard, Some(&false_one), std::slice::from_ref(&false_one)), None);
        }
    }
}
