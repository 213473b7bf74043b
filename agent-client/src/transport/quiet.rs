//! A moment in which nothing comes although something is not signed for. Then the node may be waiting for just that, at a
//! bound that others help to fill: all channels of one owner share one, and each agent knows only its own part.

use std::future::pending;
use std::time::Duration;

use aro_proto::{Amount, Charge};
use tokio::time::{Instant, sleep_until};

use crate::wallet::Lane;

/// Watches what a channel owes.
#[derive(Debug)]
pub(super) struct Quiet {
    /// When it is looked at next.
    next: Instant,
    owes: Charge,
    /// For how many looks it has been that much.
    looks: u32,
}

impl Default for Quiet {
    fn default() -> Self {
        Self { next: Instant::now(), owes: Charge::ZERO, looks: 0 }
    }
}

impl Quiet {
    /// Waits for a quiet moment: while a channel is in use, its debt stays as it is and a part of it is not signed for.
    /// Safe to cancel.
    pub(super) async fn comes(&mut self, lane: Option<&Lane>) {
        let Some(lane) = lane.filter(|lane| lane.is_busy()) else { return pending().await };
        loop {
            sleep_until(self.next).await;
            self.next = Instant::now() + LOOK_EVERY;
            let (owes, unsigned) = lane.unsigned();
            if self.is_come(owes, unsigned, lane.least_quantum()) {
                return;
            }
        }
    }

    fn is_come(&mut self, owes: Charge, unsigned: Amount, quantum: Amount) -> bool {
        if owes != self.owes {
            (self.owes, self.looks) = (owes, 0);
            return false;
        }
        self.looks = self.looks.saturating_add(1);
        !unsigned.is_zero() && (unsigned >= quantum || self.looks >= LOOKS_FOR_LITTLE)
    }
}

/// So long is a moment, for a quantum or more.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Moments for less than a quantum, which a slow node may just not have brought yet.
const LOOKS_FOR_LITTLE: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_quiet_when_nothing_has_come_since_the_last_look_and_something_is_unsigned() {
        let (mut quiet, quantum) = (Quiet::default(), Amount::new(100));
        let mut look =
            |owes, unsigned| quiet.is_come(Charge::from_amount(Amount::new(owes)), Amount::new(unsigned), quantum);
        assert_eq!([look(500, 300), look(500, 300)], [false, true]);
        assert_eq!([look(600, 400), look(700, 500), look(800, 600)], [false; 3]);
        assert_eq!([look(800, 0), look(800, 0)], [false; 2]);
        let little = [look(850, 50), look(850, 50), look(850, 50), look(850, 50), look(850, 50), look(850, 0)];
        assert_eq!(little, [false, false, false, false, true, false]);
    }
}
