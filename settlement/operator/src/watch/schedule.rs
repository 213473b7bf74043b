//! When each channel with a stored voucher is looked at next. Pure: it gets the time as an argument.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use aro_proto::ChannelId;
use tokio::time::Instant;

use crate::settle::{LONGEST_LOOK, SHORTEST_LOOK, Seen, look_interval};

/// The channels under watch. Each is looked at once in a sixteenth of its grace.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    watched: HashMap<ChannelId, Watched>,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    next: Instant,
    interval: Duration,
    /// Set when something urgent was sent: until then another voucher is no news.
    quiet_until: Option<Instant>,
}

impl Schedule {
    /// Watches exactly these channels: new ones are due at once.
    pub(super) fn keep(&mut self, ids: impl IntoIterator<Item = ChannelId>, now: Instant) {
        let ids: HashSet<ChannelId> = ids.into_iter().collect();
        self.watched.retain(|id, _| ids.contains(id));
        for id in ids {
            self.watched.entry(id).or_insert(Watched { next: now, interval: UNKNOWN, quiet_until: None });
        }
    }

    /// A voucher came in for a channel of this grace. A closing channel is due at once, but for one that was settled
    /// a moment ago: a node that counts up by units must not have a transaction for each.
    pub(super) fn heard(&mut self, id: ChannelId, grace_s: u32, closing: bool, now: Instant) {
        let interval = look_interval(grace_s);
        let after = now.checked_add(interval).unwrap_or(now);
        let watched = self.watched.entry(id).or_insert(Watched { next: after, interval, quiet_until: None });
        watched.interval = interval;
        if closing && watched.quiet_until.is_none_or(|until| until <= now) {
            watched.next = now;
        }
    }

    /// Up to `max` channels that are due, the longest due first.
    pub(super) fn due(&self, now: Instant, max: usize) -> Vec<ChannelId> {
        let mut due: Vec<(Instant, ChannelId)> =
            self.watched.iter().filter(|(_, it)| it.next <= now).map(|(id, it)| (it.next, *id)).collect();
        due.sort_unstable();
        due.truncate(max);
        due.into_iter().map(|(_, id)| id).collect()
    }

    /// These were looked at; those of them that were not seen have no voucher any more.
    pub(super) fn seen(&mut self, looked_at: &[ChannelId], seen: &[Seen], now: Instant) {
        let seen: HashMap<ChannelId, &Seen> = seen.iter().map(|seen| (seen.channel, seen)).collect();
        for id in looked_at {
            let Some(seen) = seen.get(id) else {
                self.watched.remove(id);
                continue;
            };
            let interval = seen.grace_s.map_or(LONGEST_LOOK, look_interval);
            let next = now.checked_add(interval).unwrap_or(now);
            let quiet_until = seen.urgent.then_some(next);
            self.watched.insert(*id, Watched { next, interval, quiet_until });
        }
    }

    /// These could not be looked at.
    pub(super) fn put_off(&mut self, ids: &[ChannelId], until: Instant) {
        for id in ids {
            if let Some(watched) = self.watched.get_mut(id) {
                watched.next = until;
            }
        }
    }

    /// When the next channel is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.watched.values().map(|it| it.next).min()
    }

    /// The shortest interval of all: how often new vouchers must be looked for.
    pub(super) fn shortest(&self) -> Duration {
        self.watched.values().map(|it| it.interval).min().unwrap_or(UNKNOWN).max(SHORTEST_LOOK)
    }
}

/// Of a channel that was never looked at.
const UNKNOWN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> ChannelId {
        ChannelId::from_bytes([number; 32])
    }

    fn seen(number: u8, grace_s: u32, urgent: bool) -> Seen {
        Seen { channel: id(number), grace_s: Some(grace_s), urgent }
    }

    #[tokio::test]
    async fn every_channel_comes_up_once_in_a_sixteenth_of_its_grace() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut schedule = Schedule::default();
        schedule.keep([id(1), id(2)], start);
        assert_eq!(schedule.due(start, 9).len(), 2, "new ones at once");
        schedule.seen(&[id(1), id(2)], &[seen(1, 160, false), seen(2, 1_000_000, false)], start);
        assert_eq!((schedule.due(at(9), 9), schedule.next()), (vec![], Some(at(10))));
        assert_eq!(schedule.due(at(10), 9), [id(1)]);
        assert_eq!(schedule.due(at(60), 9), [id(1), id(2)], "no interval is longer than a minute");
        assert_eq!(schedule.due(at(60), 1), [id(1)], "the longest due first");
        assert_eq!(schedule.shortest(), Duration::from_secs(10));
        schedule.put_off(&[id(1)], at(70));
        assert_eq!(schedule.due(at(69), 9), [id(2)]);
        schedule.seen(&[id(1), id(2)], &[seen(2, 160, false)], at(70));
        assert_eq!(schedule.due(at(500), 9), [id(2)], "without a voucher there is nothing to watch");
        schedule.keep([], at(500));
        assert_eq!(schedule.next(), None);
    }

    #[tokio::test]
    async fn voucher_on_a_closing_channel_is_news_but_not_again_and_again() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut schedule = Schedule::default();
        schedule.heard(id(1), 160, false, start);
        assert_eq!(schedule.due(at(9), 9), []);
        schedule.heard(id(1), 160, true, at(3));
        assert_eq!(schedule.due(at(3), 9), [id(1)]);
        schedule.seen(&[id(1)], &[seen(1, 160, true)], at(3));
        for second in 4..13 {
            schedule.heard(id(1), 160, true, at(second));
            assert_eq!(schedule.due(at(second), 9), []);
        }
        assert_eq!(schedule.due(at(13), 9), [id(1)]);
    }
}
