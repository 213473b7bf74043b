//! Which channels a transaction in flight names, and in which lane it is, so that lanes do not do each other's work.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use aro_proto::ChannelId;

use crate::metrics::Lane;

/// The channels in flight. Clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    held: Arc<Mutex<HashMap<(Lane, ChannelId), u32>>>,
}

/// Channels in flight, given back when dropped.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Claims,
    lane: Lane,
    channels: Vec<ChannelId>,
}

impl Claims {
    /// Says that a transaction of `lane` names these channels.
    pub(super) fn take(&self, lane: Lane, channels: Vec<ChannelId>) -> Claim {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for channel in &channels {
            let count = held.entry((lane, *channel)).or_default();
            *count = count.saturating_add(1);
        }
        Claim { claims: self.clone(), lane, channels }
    }

    /// What is in flight in these lanes.
    pub(super) fn of(&self, lanes: &[Lane]) -> HashSet<ChannelId> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.keys().filter(|(lane, _)| lanes.contains(lane)).map(|(_, channel)| *channel).collect()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut held = self.claims.held.lock().unwrap_or_else(PoisonError::into_inner);
        for channel in &self.channels {
            if let Some(count) = held.get_mut(&(self.lane, *channel)) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    held.remove(&(self.lane, *channel));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_claimed_for_each_lane_until_the_last_claim_is_dropped() {
        let claims = Claims::default();
        let [one, other] = [1, 2].map(|byte| ChannelId::from_bytes([byte; 32]));
        let first = claims.take(Lane::Settle, vec![one, other]);
        let second = claims.take(Lane::Settle, vec![one]);
        let _urgent = claims.take(Lane::Urgent, vec![other]);
        drop(first);
        assert_eq!(claims.of(&[Lane::Settle]), HashSet::from([one]));
        assert_eq!(claims.of(&[Lane::Settle, Lane::Urgent]), HashSet::from([one, other]));
        drop(second);
        assert!(claims.of(&[Lane::Settle, Lane::Sweep]).is_empty());
    }
}
