//! What follows from several answers to one question. Pure.

use std::collections::BTreeMap;

use solana_address::Address;

use crate::{Account, Blockhash, ChainError, Commitment, Simulation, Status, Statuses};

/// Answers of `configured` servers about the same signatures, and how many of these are contradicted. `unheard` names
/// who must still be heard before the signature of this index may be unknown to all.
///
/// # Errors
/// Somebody is to be heard, and no other knows one of the signatures: the silent one may.
pub(super) fn statuses(
    configured: usize,
    answers: &[Statuses],
    unheard: impl Fn(usize) -> Option<String>,
) -> Result<(Statuses, usize), ChainError> {
    let count = answers.first().map_or(0, |answer| answer.statuses.len());
    let mut statuses = Vec::with_capacity(count);
    let mut contested = 0_usize;
    for index in 0..count {
        let views: Vec<(u64, Option<&Status>)> = answers
            .iter()
            .map(|answer| (answer.block_height, answer.statuses.get(index).and_then(Option::as_ref)))
            .collect();
        let status = status(configured, &views);
        if status.is_none()
            && let Some(unheard) = unheard(index)
        {
            return Err(silent(&unheard));
        }
        let sure = views.iter().any(|(_, view)| view.is_some_and(|view| view.commitment >= Commitment::Confirmed));
        let is_contested = sure && status.as_ref().is_some_and(|status| status.commitment == Commitment::Processed);
        contested = contested.saturating_add(usize::from(is_contested && answers.len() > 1));
        statuses.push(status);
    }
    Ok((Statuses { block_height: passed(answers), statuses }, contested))
}

/// The height that all who answered have passed: what died below it is dead for each of them.
pub(super) fn passed(answers: &[Statuses]) -> u64 {
    answers.iter().map(|answer| answer.block_height).min().unwrap_or_default()
}

/// What is said while somebody is to be heard.
pub(super) fn silent(names: &str) -> ChainError {
    ChainError::Unreachable(format!("{names} gave no answer, and may know a transaction that the others do not"))
}

/// One transaction as several servers see it, each at its height.
// r[impl settlement.servers.failed]
fn status(configured: usize, views: &[(u64, Option<&Status>)]) -> Option<Status> {
    let mut known: Vec<(u64, &Status)> =
        views.iter().filter_map(|(height, status)| Some((*height, (*status)?))).collect();
    known.sort_by_key(|(_, status)| std::cmp::Reverse(status.commitment));
    let (height, first) = *known.first()?;
    if configured == 1 {
        return Some(first.clone());
    }
    if known.iter().any(|(_, status)| status.err != first.err) {
        return Some(Status { slot: first.slot, commitment: Commitment::Processed, err: None });
    }
    let commitment = match known.get(1) {
        // As sure as two of them are.
        Some((_, second)) => second.commitment,
        // A failure sets money free to be sent again, as death does: not on one word.
        None if first.err.is_some() => Commitment::Processed,
        // One is alone with it. Another that is as far on and knows nothing contradicts; one that lags, or is
        // silent, does not. But for good takes two.
        None if views.iter().any(|(other, status)| status.is_none() && *other >= height) => Commitment::Processed,
        None => first.commitment.min(Commitment::Confirmed),
    };
    let slot = known.get(1).map_or(first.slot, |(_, second)| second.slot);
    Some(Status { slot, commitment, err: first.err.clone() })
}

/// The newest of several reads, account by account: the newest that two show alike, so that of three one that names a
/// high slot moves nothing; where no two do, the newest. Each has as many accounts as there are addresses.
///
/// # Errors
/// [`ChainError::Disagreement`] if no two show the same, and two that are of the newest slot differ.
pub(super) fn accounts(
    addresses: &[Address],
    mut answers: Vec<(u64, Vec<Option<Account>>)>,
) -> Result<(u64, Vec<Option<Account>>), ChainError> {
    answers.sort_by_key(|(slot, _)| std::cmp::Reverse(*slot));
    let newest = answers.first().map(|(slot, _)| *slot).unwrap_or_default();
    let mut believed = Vec::with_capacity(addresses.len());
    for (index, address) in addresses.iter().enumerate() {
        let shown: Vec<(u64, Option<&Account>)> =
            answers.iter().map(|(slot, accounts)| (*slot, accounts.get(index).and_then(Option::as_ref))).collect();
        let is_shared = |one: &&(u64, Option<&Account>)| shown.iter().filter(|other| other.1 == one.1).count() > 1;
        let account = match shown.iter().find(is_shared) {
            Some((_, account)) => *account,
            // Slot 0 means that they do not know how old they are.
            None if newest > 0 && shown.iter().filter(|(slot, _)| *slot == newest).count() > 1 => {
                let reason = format!("two accounts at {address} in the same slot {newest}");
                return Err(ChainError::Disagreement(reason));
            }
            None => shown.first().and_then(|(_, account)| *account),
        };
        believed.push(account.cloned());
    }
    Ok((newest, believed))
}

/// The chain's time: of an odd number of clocks the middle one, else the earlier of the two in the middle. So one that is
/// wrong never makes it later than another says, and of three it changes nothing.
///
/// # Errors
/// Nobody tells the time.
pub(super) fn clock(clocks: &[i64]) -> Result<i64, ChainError> {
    let mut sorted = clocks.to_vec();
    sorted.sort_unstable();
    let middle = sorted.len().saturating_sub(1) / 2;
    sorted.get(middle).copied().ok_or_else(|| ChainError::Malformed("no clock".into()))
}

/// Accounts that all servers name alike, and the addresses of those that they do not.
pub(crate) fn program_accounts(mut answers: Vec<Vec<(Address, Account)>>) -> (Vec<(Address, Account)>, Vec<Address>) {
    let Some(first) = answers.pop() else { return (Vec::new(), Vec::new()) };
    let mut agreed: BTreeMap<Address, Account> = first.into_iter().collect();
    let mut doubtful = Vec::new();
    for answer in answers {
        let other: BTreeMap<Address, Account> = answer.into_iter().collect();
        doubtful
            .extend(other.iter().filter(|(address, account)| agreed.get(*address) != Some(*account)).map(|(a, _)| *a));
        doubtful.extend(agreed.keys().filter(|address| !other.contains_key(*address)));
    }
    doubtful.sort_unstable();
    doubtful.dedup();
    for address in &doubtful {
        agreed.remove(address);
    }
    (agreed.into_iter().collect(), doubtful)
}

/// The blockhash that is good for longest. A server that lags, or names too low a height, never shortens a life.
///
/// # Errors
/// [`ChainError::Disagreement`] if they are too far apart to be of one chain's present.
pub(super) fn blockhash(answers: &[Blockhash]) -> Result<Blockhash, ChainError> {
    let heights = || answers.iter().map(|answer| answer.last_valid_block_height);
    let (lowest, highest) = (heights().min().unwrap_or_default(), heights().max().unwrap_or_default());
    if highest.saturating_sub(lowest) > MAX_APART {
        return Err(ChainError::Disagreement(format!("blockhashes that end at block {lowest} and at block {highest}")));
    }
    answers
        .iter()
        .max_by_key(|answer| answer.last_valid_block_height)
        .copied()
        .ok_or_else(|| ChainError::Malformed("no blockhash".into()))
}

/// The widest of several simulations. One that succeeds counts for more than one that fails: a server that lags does
/// not know what the transaction builds on, and a failure that is real will be seen again when it is sent.
pub(super) fn simulation(answers: Vec<Simulation>) -> Result<Simulation, ChainError> {
    let some_succeed = answers.iter().any(|answer| answer.err.is_none());
    answers
        .into_iter()
        .filter(|answer| answer.err.is_none() == some_succeed)
        .reduce(|one, other| Simulation {
            units: one.units.max(other.units),
            // Unknown to one is unknown: the limit must hold for both.
            loaded_data_bytes: one.loaded_data_bytes.zip(other.loaded_data_bytes).map(|(one, other)| one.max(other)),
            ..one
        })
        .ok_or_else(|| ChainError::Malformed("no simulation".into()))
}

/// The lowest of several views of what others pay: who exaggerates is not believed, and who bids too little for a
/// block bids more the next time.
pub(super) fn fees(answers: Vec<Vec<u64>>) -> Vec<u64> {
    let median = |fees: &Vec<u64>| {
        let mut sorted = fees.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    };
    answers.into_iter().filter(|fees| !fees.is_empty()).min_by_key(median).unwrap_or_default()
}

/// Blocks that the servers' newest blockhashes may be apart: an hour or so. A server that lags more is of no use,
/// and one that claims to be so far ahead would keep a transaction from ever being called dead.
const MAX_APART: u64 = 10_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use solana_transaction_error::TransactionError;

    use super::*;

    fn known(commitment: Commitment) -> Option<Status> {
        Some(Status { slot: 5, commitment, err: None })
    }

    fn at(block_height: u64, status: Option<Status>) -> Statuses {
        Statuses { block_height, statuses: vec![status] }
    }

    fn judged(answers: &[Statuses], silent: bool) -> Result<(u64, Option<Commitment>), ChainError> {
        let configured = answers.len() + usize::from(silent);
        let (judged, _) = statuses(configured, answers, |_| silent.then(|| "the other".to_owned()))?;
        Ok((judged.block_height, judged.statuses[0].as_ref().map(|status| status.commitment)))
    }

    use Commitment::{Confirmed, Finalized, Processed};

    // r[verify settlement.servers.landed]
    #[test]
    fn landed_is_what_nobody_contradicts_and_for_good_takes_two() {
        let cases = [
            (at(9, known(Finalized)), at(9, known(Finalized)), Finalized),
            (at(9, known(Finalized)), at(9, known(Confirmed)), Confirmed),
            (at(9, known(Finalized)), at(9, known(Processed)), Processed),
            // Alone with it, and the other is as far on: a lie, or a fork.
            (at(9, known(Finalized)), at(9, None), Processed),
            (at(9, known(Finalized)), at(10, None), Processed),
            // Alone with it, and the other lags.
            (at(9, known(Finalized)), at(8, None), Confirmed),
            (at(9, known(Processed)), at(8, None), Processed),
        ];
        for (one, other, expected) in cases {
            for pair in [[one.clone(), other.clone()], [other.clone(), one.clone()]] {
                assert_eq!(judged(&pair, false).unwrap().1, Some(expected), "{pair:?}");
            }
        }
        assert_eq!(judged(&[at(9, known(Finalized))], true).unwrap().1, Some(Confirmed), "the other is silent");
        let third = [at(9, known(Finalized)), at(9, None), at(9, known(Finalized))];
        assert_eq!(judged(&third, false).unwrap().1, Some(Finalized));
        assert_eq!(judged(&[at(9, known(Finalized))], false).unwrap().1, Some(Finalized), "there is only one");

        let failed = Some(Status { slot: 5, commitment: Finalized, err: Some(TransactionError::AccountInUse) });
        let (answer, contested) = statuses(2, &[at(9, failed), at(9, known(Finalized))], |_| None).unwrap();
        let status = answer.statuses[0].clone().unwrap();
        assert_eq!((status.commitment, status.err, contested), (Processed, None, 1), "neither is believed");
    }

    // r[verify settlement.servers.failed]
    #[test]
    fn failure_is_not_believed_on_one_word() {
        let failed = || Some(Status { slot: 5, commitment: Finalized, err: Some(TransactionError::AccountInUse) });
        let fate = |answers: &[Statuses], configured| {
            statuses(configured, answers, |_| None).unwrap().0.statuses[0].as_ref().map(|status| status.commitment)
        };
        assert_eq!(fate(&[at(9, failed()), at(8, None)], 2), Some(Processed), "the other lags");
        assert_eq!(fate(&[at(9, failed())], 2), Some(Processed), "the other is silent");
        assert_eq!(fate(&[at(9, failed()), at(8, failed())], 2), Some(Finalized));
        assert_eq!(fate(&[at(9, failed())], 1), Some(Finalized), "there is only one");
    }

    // r[verify settlement.servers.dead]
    #[test]
    fn dead_is_what_every_server_has_passed_and_none_of_them_knows() {
        assert_eq!(judged(&[at(100, None), at(7, None)], false).unwrap(), (7, None));
        assert!(judged(&[at(100, None)], true).unwrap_err().is_retryable());
    }

    proptest! {
        // Whatever liars say, and whoever is silent, one honest server is enough: what may still land is not dead, and
        // what it does not know is not settled for good.
        #[test]
        fn one_honest_server_is_enough_against_any_liars(
            honest in (0_u64..200, prop::option::of(0_u8..3)),
            liars in prop::collection::vec((any::<u64>(), prop::option::of(0_u8..3), any::<bool>()), 0..4),
            silent: bool,
            last_valid in 100_u64..200,
        ) {
            let commitment = |level| match level { 0 => Processed, 1 => Confirmed, _ => Finalized };
            let (height, level) = honest;
            let mut answers = vec![at(height, level.and_then(|level| known(commitment(level))))];
            for (height, level, fails) in &liars {
                let mut status = level.and_then(|level| known(commitment(level)));
                if let Some(status) = status.as_mut().filter(|_| *fails) {
                    status.err = Some(TransactionError::AccountInUse);
                }
                answers.push(at(*height, status));
            }
            let configured = answers.len() + usize::from(silent);
            if let Ok((judged, _)) = statuses(configured, &answers, |_| silent.then(|| "somebody".to_owned())) {
                let is_dead = judged.statuses[0].is_none() && judged.block_height > last_valid;
                prop_assert!(!is_dead || (level.is_none() && height > last_valid && !silent));
                let is_final = judged.statuses[0].as_ref().is_some_and(|status| status.commitment == Finalized);
                let vouching = answers.iter().filter(|answer| {
                    answer.statuses[0].as_ref().is_some_and(|status| status.commitment == Finalized)
                });
                prop_assert!(!is_final || configured == 1 || vouching.count() >= 2);
            }
        }
    }

    fn account(lamports: u64) -> Account {
        Account { owner: Address::default(), lamports, data: vec![] }
    }

    // r[verify settlement.servers.newest]
    #[test]
    fn newest_read_counts_and_two_of_one_slot_must_be_the_same() {
        let addresses = [Address::new_from_array([1; 32])];
        let read = |slot, lamports: u64| (slot, vec![(lamports > 0).then(|| account(lamports))]);
        let newest = |answers| accounts(&addresses, answers);
        assert_eq!(newest(vec![read(7, 1), read(8, 2)]).unwrap(), read(8, 2));
        assert_eq!(newest(vec![read(8, 0), read(7, 1)]).unwrap(), read(8, 0));
        assert_eq!(newest(vec![read(8, 2), read(8, 2), read(3, 1)]).unwrap(), read(8, 2));
        let error = newest(vec![read(8, 2), read(8, 0)]).unwrap_err();
        assert!(matches!(&error, ChainError::Disagreement(_)) && error.is_retryable(), "{error}");
        assert_eq!(newest(vec![read(0, 1), read(0, 2)]).unwrap(), read(0, 1), "they do not know their slots");
        // Of three, one that lies does not decide, whatever slot it names.
        for slot in [0, 7, 8, 1_000] {
            for lie in [0, 9] {
                for three in
                    [vec![read(slot, lie), read(8, 2), read(7, 2)], vec![read(7, 2), read(slot, lie), read(8, 2)]]
                {
                    assert_eq!(newest(three).unwrap().1, read(8, 2).1);
                }
            }
        }
        let all_differ = vec![read(9, 3), read(8, 2), read(7, 1)];
        assert_eq!(newest(all_differ).unwrap(), read(9, 3), "no two show the same");
    }

    // r[verify settlement.servers.clock]
    #[test]
    fn no_clock_that_is_wrong_makes_it_later_than_it_is_and_of_three_none_makes_it_earlier() {
        assert_eq!(clock(&[7]).unwrap(), 7);
        for wrong in [i64::MIN, 6, 7, 8, i64::MAX] {
            assert_eq!(clock(&[7, wrong]).unwrap(), wrong.min(7));
            for three in [[wrong, 7, 7], [7, wrong, 7], [7, 7, wrong]] {
                assert_eq!(clock(&three).unwrap(), 7);
            }
        }
        assert_eq!(clock(&[9, 6, 8, 7]).unwrap(), 7);
        assert!(clock(&[]).is_err());
    }

    #[test]
    fn accounts_that_one_server_leaves_out_or_changes_are_looked_at_again() {
        let [a, b, c] = [1, 2, 3].map(|byte| Address::new_from_array([byte; 32]));
        let all = vec![(a, account(1)), (b, account(2)), (c, account(3))];
        assert_eq!(program_accounts(vec![all.clone(), all.clone()]), (all.clone(), vec![]));
        let other = vec![(a, account(1)), (b, account(9))];
        for answers in [vec![all.clone(), other.clone()], vec![other, all.clone()]] {
            assert_eq!(program_accounts(answers), (vec![(a, account(1))], vec![b, c]));
        }
        assert_eq!(program_accounts(vec![all.clone()]), (all, vec![]));
    }

    #[test]
    fn blockhash_that_lives_longest_is_taken_unless_it_is_out_of_this_world() {
        let hash = |byte, last_valid_block_height| Blockhash { hash: [byte; 32].into(), last_valid_block_height };
        assert_eq!(blockhash(&[hash(1, 500), hash(2, 510)]).unwrap(), hash(2, 510));
        assert_eq!(blockhash(&[hash(1, 510), hash(2, 3)]).unwrap(), hash(1, 510));
        assert!(matches!(blockhash(&[hash(1, 510), hash(2, u64::MAX)]), Err(ChainError::Disagreement(_))));
    }

    #[test]
    fn simulation_is_as_wide_as_the_widest_and_fails_only_if_all_do() {
        let simulated = |units, loaded_data_bytes, fails: bool| Simulation {
            units,
            loaded_data_bytes,
            err: fails.then_some(TransactionError::AccountInUse),
            return_data: vec![],
        };
        let judged = simulation(vec![simulated(5, Some(9), false), simulated(7, Some(4), false)]).unwrap();
        assert_eq!(judged, simulated(7, Some(9), false));
        let judged = simulation(vec![simulated(5, Some(9), false), simulated(7, None, true)]).unwrap();
        assert_eq!(judged, simulated(5, Some(9), false));
        let judged = simulation(vec![simulated(5, Some(9), true), simulated(7, None, true)]).unwrap();
        assert_eq!(judged, simulated(7, None, true));
    }

    #[test]
    fn who_exaggerates_fees_is_not_believed() {
        assert_eq!(fees(vec![vec![1, 2, 3], vec![900, 900, 900], vec![]]), vec![1, 2, 3]);
        assert_eq!(fees(vec![vec![], vec![]]), Vec::<u64>::new());
    }
}
