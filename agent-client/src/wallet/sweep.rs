//! Closing what nobody uses any more, and taking back what is left.
//!
//! Times are the chain's: a machine whose clock jumps closes nothing early and keeps nothing open. A channel is in use
//! when vouchers were signed since the sweep before, or are about to be; what was never seen before counts as used now.

use std::time::Duration;

use aro_proto::{Amount, ChannelId};

use super::channels::{ChannelInfo, ChannelPhase, Reclaimed};
use super::money::MoneyError;
use super::provider::ChannelEvent;
use super::{LastUse, WalletError};
use crate::agent::{Agent, WeakAgent};

/// What a sweep did.
#[must_use]
#[derive(Debug, Default)]
pub struct SweepReport {
    /// Channels whose close was asked for: after their grace another sweep takes back what they hold.
    pub closing: Vec<ChannelId>,
    /// Channels that were taken back.
    pub reclaimed: Vec<Reclaimed>,
    /// Channels that stay: in use, not idle for long enough, or in their grace.
    pub kept: usize,
    /// Channels for which something failed; the others were swept all the same.
    pub failed: Vec<Unswept>,
}

/// A channel that could not be swept.
#[derive(Debug)]
pub struct Unswept {
    /// The channel.
    pub channel: ChannelId,
    /// Why.
    pub error: MoneyError,
}

enum Swept {
    Kept,
    Closing,
    Reclaimed(Reclaimed),
}

impl SweepReport {
    /// Base units that are available again.
    pub fn refunded(&self) -> Amount {
        self.reclaimed.iter().map(|done| done.refunded).fold(Amount::ZERO, Amount::saturating_add)
    }
}

impl Agent {
    /// Asks to close what has been idle for `idle_s` seconds of the chain's time (0: all that is not in use now), and
    /// takes back what closed channels hold. A channel's idle time counts from the first sweep that sees it idle.
    ///
    /// # Errors
    /// The chain cannot be read. What fails for one channel is in the report.
    pub async fn sweep(&self, idle_s: u32) -> Result<SweepReport, MoneyError> {
        self.keys().owner_key()?;
        let now = self.chain().clock().await?;
        let mut report = SweepReport::default();
        for info in self.channels().await? {
            match self.sweep_one(&info, now, idle_s).await {
                Ok(Swept::Kept) => report.kept += 1,
                Ok(Swept::Closing) => {
                    self.tell(&ChannelEvent::Closing { channel: info.channel, node: info.node });
                    report.closing.push(info.channel);
                }
                Ok(Swept::Reclaimed(done)) => {
                    self.tell(&ChannelEvent::Reclaimed { channel: done.channel, refunded: done.refunded });
                    report.reclaimed.push(done);
                }
                Err(error) => report.failed.push(Unswept { channel: info.channel, error }),
            }
        }
        Ok(report)
    }

    async fn sweep_one(&self, info: &ChannelInfo, now: i64, idle_s: u32) -> Result<Swept, MoneyError> {
        match info.phase {
            ChannelPhase::Closed => self.take_back(info.channel).await,
            ChannelPhase::Closing if info.deadline.is_some_and(|deadline| deadline <= now) => {
                self.take_back(info.channel).await
            }
            ChannelPhase::Closing => Ok(Swept::Kept),
            ChannelPhase::Open if self.is_idle(info, now, idle_s).await? => {
                let _ = self.request_close(info.channel).await?;
                Ok(Swept::Closing)
            }
            ChannelPhase::Open => Ok(Swept::Kept),
        }
    }

    async fn take_back(&self, channel: ChannelId) -> Result<Swept, MoneyError> {
        let done = self.reclaim(channel).await?;
        let wallet = self.keys().clone();
        self.blocking(move || wallet.keep_last_use(channel, None)).await?;
        Ok(Swept::Reclaimed(done))
    }

    /// Whether nothing was signed on a channel for so long.
    async fn is_idle(&self, info: &ChannelInfo, now: i64, idle_s: u32) -> Result<bool, MoneyError> {
        if info.signer != self.keys().signer() {
            // A session key's channel is its owner's to close once nothing may be signed on it any more.
            return Ok(self.delegation_to(info.signer).await?.is_some_and(|delegation| delegation.expires_at <= now));
        }
        let live = self.live_session(info.node).await;
        let pays_here = live.is_some_and(|session| session.channel() == Some(info.channel) && session.is_paying());
        let is_paying = pays_here || matches!(self.keys().hold(info.channel), Err(WalletError::ChannelInUse(_)));
        let last = self.keys().last_use(info.channel)?;
        let used_at = match last {
            Some(last) if !is_paying && last.signed == info.signed => last.at,
            _ => {
                let (wallet, channel) = (self.keys().clone(), info.channel);
                let used = LastUse { at: now, signed: info.signed };
                self.blocking(move || wallet.keep_last_use(channel, Some(used))).await?;
                now
            }
        };
        Ok(!is_paying && now.saturating_sub(used_at) >= i64::from(idle_s))
    }

    /// Sweeps now and then for as long as the agent lives, if its policy says so.
    pub(crate) fn sweep_in_background(&self) {
        let Some(idle_s) = self.policy().idle_close_s.filter(|_| self.keys().is_owner()) else { return };
        let interval = Duration::from_secs(u64::from(idle_s / SWEEPS_PER_IDLE).clamp(MIN_INTERVAL_S, MAX_INTERVAL_S));
        tokio::spawn(sweeper(self.downgrade(), interval, idle_s));
    }
}

async fn sweeper(agent: WeakAgent, interval: Duration, idle_s: u32) {
    loop {
        tokio::time::sleep(interval).await;
        let Some(agent) = agent.upgrade() else { return };
        match agent.sweep(idle_s).await {
            Ok(report) => {
                for Unswept { channel, error } in report.failed {
                    tracing::warn!(%channel, %error, "an unused channel could not be seen to");
                }
            }
            Err(error) => tracing::warn!(%error, "unused channels could not be looked for"),
        }
    }
}

/// Sweeps in the time after which a channel counts as idle.
const SWEEPS_PER_IDLE: u32 = 8;
const MIN_INTERVAL_S: u64 = 1;
/// An hour: a sweep asks the chain for all channels of the owner.
const MAX_INTERVAL_S: u64 = 3_600;
