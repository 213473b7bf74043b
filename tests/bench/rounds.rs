//! Rounds and their medians: one number out of several tries on a machine that does other things too.

use std::time::Duration;

/// Runs two measurements by turns, so that whatever else the machine does befalls both alike; which goes first
/// changes with every round. Returns the median of each.
///
/// # Errors
/// The first error of a measurement.
pub(crate) fn paired<E>(
    rounds: usize,
    mut one: impl FnMut(usize) -> Result<u64, E>,
    mut other: impl FnMut(usize) -> Result<u64, E>,
) -> Result<(u64, u64), E> {
    let (mut ones, mut others) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        if round % 2 == 0 {
            ones.push(one(round)?);
            others.push(other(round)?);
        } else {
            others.push(other(round)?);
            ones.push(one(round)?);
        }
    }
    Ok((median(ones), median(others)))
}

/// The middle one; of an even number the lower of the two; 0 of none.
pub(crate) fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// How many per second, rounded down.
pub(crate) fn per_second(count: usize, took: Duration) -> u64 {
    let nanos = took.as_nanos().max(1);
    u64::try_from(u128::try_from(count).unwrap_or(u128::MAX).saturating_mul(1_000_000_000) / nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_lower_middle() {
        assert_eq!([median(vec![]), median(vec![9]), median(vec![9, 1]), median(vec![5, 9, 1])], [0, 9, 1, 5]);
    }

    #[test]
    fn pairs_take_turns() {
        let order = std::cell::RefCell::new(Vec::new());
        let note = |who| order.borrow_mut().push(who);
        let medians = paired(
            3,
            |round| {
                note('a');
                Ok::<_, ()>(round as u64)
            },
            |round| {
                note('b');
                Ok(10 + round as u64)
            },
        );
        assert_eq!(medians, Ok((1, 11)));
        assert_eq!(order.into_inner(), ['a', 'b', 'b', 'a', 'a', 'b']);
    }

    #[test]
    fn rates_are_whole_and_round_down() {
        assert_eq!(per_second(3, Duration::from_secs(2)), 1);
        assert_eq!(per_second(1, Duration::from_micros(1)), 1_000_000);
    }
}
