//! The watchtower: looks at every channel with a stored voucher often enough that a close cannot slip by, and hands
//! what it finds to the urgent lane.

mod schedule;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aro_proto::ChannelId;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::metrics::{Lane, Metrics};
use crate::settle::{Settler, joined};
use crate::stop::Stop;
use schedule::Schedule;

/// Channels that intake has just had a voucher for.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    news: Mutex<HashMap<ChannelId, News>>,
    closing: Notify,
}

/// What intake knows of such a channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct News {
    pub(crate) grace_s: u32,
    pub(crate) closing: bool,
}

impl Alarms {
    /// A voucher for this channel is durable.
    pub(crate) fn raise(&self, channel: ChannelId, news: News) {
        let mut all = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        // What finds no room is found at the next full look.
        if all.len() < MAX_NEWS || all.contains_key(&channel) {
            all.insert(channel, news);
        }
        drop(all);
        if news.closing {
            self.closing.notify_one();
        }
    }

    fn take(&self) -> HashMap<ChannelId, News> {
        std::mem::take(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Watches until it is told to stop.
pub(crate) struct Watch {
    pub(crate) settler: Arc<Settler>,
    pub(crate) alarms: Arc<Alarms>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stop: Stop,
}

impl Watch {
    /// Runs until it is told to stop. What is being sent then may still finish, within bounds.
    pub(crate) async fn run(mut self) {
        let mut schedule = Schedule::default();
        let mut sending = JoinSet::new();
        let mut reload = Instant::now();
        loop {
            let now = Instant::now();
            if reload <= now {
                match self.settler.channels().await {
                    Ok(ids) => schedule.keep(ids, now),
                    Err(error) => tracing::warn!(%error, "the watchtower cannot read the stored vouchers"),
                }
                reload = later(now, schedule.shortest());
            }
            for (channel, news) in self.alarms.take() {
                schedule.heard(channel, news.grace_s, news.closing, now);
            }
            let due = schedule.due(now, MAX_AT_ONCE);
            if !due.is_empty() {
                match self.settler.look(&due, &mut sending).await {
                    Ok(seen) => schedule.seen(&due, &seen, Instant::now()),
                    Err(error) => {
                        tracing::warn!(%error, "the watchtower cannot look at its channels");
                        self.metrics.round(Lane::Urgent, false, now.elapsed());
                        schedule.put_off(&due, later(Instant::now(), RETRY));
                    }
                }
            }
            let wake = schedule.next().map_or(reload, |next| next.min(reload)).max(later(now, PAUSE));
            tokio::select! {
                () = sleep_until(wake) => {}
                () = self.alarms.closing.notified() => sleep_until(later(now, PAUSE)).await,
                Some(ended) = sending.join_next() => self.log(now, joined(ended)),
                () = self.stop.told() => break,
            }
        }
        let rest = async {
            while let Some(ended) = sending.join_next().await {
                self.log(Instant::now(), joined(ended));
            }
        };
        if timeout(PATIENCE, rest).await.is_err() {
            tracing::warn!("stopped while urgent transactions were not confirmed; the next start resumes them");
        }
    }

    fn log(&self, since: Instant, ended: Result<crate::settle::SettleReport, crate::settle::SettleError>) {
        self.metrics.round(Lane::Urgent, ended.is_ok(), since.elapsed());
        match ended {
            Ok(report) => tracing::info!(lane = Lane::Urgent.name(), report = %report.to_json(), "settled"),
            Err(error) => tracing::warn!(%error, "an urgent settle failed; the next look tries again"),
        }
    }
}

fn later(now: Instant, by: Duration) -> Instant {
    now.checked_add(by).unwrap_or(now)
}

/// Channels that are read at once: fifty questions to the server.
const MAX_AT_ONCE: usize = 5_000;
/// Channels of which news is kept.
const MAX_NEWS: usize = 100_000;
/// The least time between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// After a look that failed.
const RETRY: Duration = Duration::from_secs(2);
/// What a stop waits for urgent transactions.
const PATIENCE: Duration = Duration::from_secs(5);
