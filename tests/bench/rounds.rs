//! Rounds and their medians: one number out of several tries on a machine that does other things too.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

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

/// One number in thousandths of another; 0 of nothing.
pub(crate) fn thousandths(part: u64, of: u64) -> u64 {
    u64::try_from(u128::from(part) * 1_000 / u128::from(of.max(1))).unwrap_or(u64::MAX)
}

/// CPU time of this process so far, its own and the system's for it: what it did, whatever else the machine does.
pub(crate) fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok();
    let micros = usage.map_or(0, |usage| {
        let of = |time: TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
        of(usage.user_time()) + of(usage.system_time())
    });
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
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
    fn shares_are_thousandths_and_work_takes_cpu_time() {
        assert_eq!([thousandths(1, 2), thousandths(3, 2), thousandths(1, 0)], [500, 1_500, 1_000]);
        let before = cpu_time();
        while cpu_time() == before {
            std::hint::black_box(aro_proto::ContentId::of(&[7; 4096]));
        }
    }

    #[test]
    fn rates_are_whole_and_round_down() {
        assert_eq!(per_second(3, Duration::from_secs(2)), 1);
        assert_eq!(per_second(1, Duration::from_micros(1)), 1_000_000);
    }
}
