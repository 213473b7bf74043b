//! Time and CPU of one transfer.

use std::time::{Duration, Instant};

/// What moving so many bytes took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    bytes: u64,
    wall: Duration,
    cpu: Duration,
}

/// Runs from its making to [`stop`](Self::stop).
#[derive(Debug)]
pub(super) struct Meter {
    started: Instant,
    cpu_before: Duration,
}

impl Meter {
    pub(super) fn start() -> Self {
        Self { cpu_before: cpu_of_process(), started: Instant::now() }
    }

    pub(super) fn stop(self, bytes: u64) -> Sample {
        let wall = self.started.elapsed();
        Sample { bytes, wall, cpu: cpu_of_process().saturating_sub(self.cpu_before) }
    }
}

impl Sample {
    /// Million bytes per second.
    pub(super) fn mb_per_s(self) -> u64 {
        quotient(u128::from(self.bytes) * 1_000, self.wall.as_nanos())
    }

    /// CPU of all threads for each byte, in picoseconds.
    pub(super) fn cpu_thousandths_of_ns_per_byte(self) -> u64 {
        quotient(self.cpu.as_nanos() * 1_000, u128::from(self.bytes))
    }

    /// How fast this is, in thousandths of the other's speed.
    pub(super) fn thousandths_of(self, other: Self) -> u64 {
        let (ours, theirs) =
            (u128::from(self.bytes) * other.wall.as_nanos(), u128::from(other.bytes) * self.wall.as_nanos());
        quotient(ours.saturating_mul(1_000), theirs)
    }
}

fn quotient(over: u128, under: u128) -> u64 {
    u64::try_from(over.checked_div(under).unwrap_or_default()).unwrap_or(u64::MAX)
}

/// User and system time of this process so far; zero where the system does not tell.
#[cfg(target_os = "linux")]
fn cpu_of_process() -> Duration {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    getrusage(UsageWho::RUSAGE_SELF).map_or(Duration::ZERO, |usage| {
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        Duration::from_micros(u64::try_from(micros).unwrap_or_default())
    })
}

#[cfg(not(target_os = "linux"))]
fn cpu_of_process() -> Duration {
    Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_ratios_come_from_bytes_and_time() {
        let sample = |bytes, wall_ms, cpu_ms| Sample {
            bytes,
            wall: Duration::from_millis(wall_ms),
            cpu: Duration::from_millis(cpu_ms),
        };
        let (fast, slow) = (sample(2_000_000_000, 1_000, 3_000), sample(1_000_000_000, 1_000, 1_000));
        assert_eq!([fast.mb_per_s(), slow.mb_per_s()], [2_000, 1_000]);
        assert_eq!(fast.cpu_thousandths_of_ns_per_byte(), 1_500);
        assert_eq!([fast.thousandths_of(slow), slow.thousandths_of(fast)], [2_000, 500]);
        assert_eq!(Sample::default().thousandths_of(Sample::default()), 0);
    }
}
