//! What may be stored and what may be sent, given what is stored. Pure: every store asks here, inside its own
//! transaction, so that the rules hold between processes which share a database as they do within one.
//!
//! A close that is signed but not resolved fixes a channel's fate at its voucher. A higher voucher taken after that
//! would be acknowledged and then lost. So none is taken while such a close is open, and no close is recorded whose
//! voucher has been overtaken.

use std::collections::HashMap;

use aro_proto::channel::VoucherError;
use aro_proto::{Amount, ChannelId, Refusal, RefusalCode};

use super::{Accepted, Claim, Offer, Ruling, StoredVoucher};
use crate::batch::{Item, Kind};

/// What is stored of one channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) voucher: Option<StoredVoucher>,
    /// Recorded closes that name it.
    pub(super) closes: u32,
}

/// What is to be answered, and to be written before that.
#[derive(Debug)]
pub(super) struct Judged {
    /// One for each offer, in order.
    pub(super) rulings: Vec<Ruling>,
    /// What the channels hold afterwards, where that has changed.
    pub(super) changed: Vec<StoredVoucher>,
}

/// True if judging the offers may have something to store; else it needs neither locks nor recorded closes.
pub(super) fn may_store(offers: &[Offer]) -> bool {
    offers.iter().any(|(_, claim)| matches!(claim, Ok(Claim::Rise(_))))
}

/// Judges offers in order against what is stored; `now` is the chain's time in unix seconds.
// r[impl settlement.handoff.rising]
pub(super) fn judge_all(holdings: &mut HashMap<ChannelId, Holding>, offers: &[Offer], now: i64) -> Judged {
    let mut rulings = Vec::with_capacity(offers.len());
    let mut changed: Vec<ChannelId> = Vec::new();
    for (channel, claim) in offers {
        let holding = holdings.entry(*channel).or_default();
        let judged = match claim {
            Err(refusal) => Err(refusal.clone()),
            Ok(Claim::Settled) => Ok(None),
            Ok(Claim::Known(cumulative)) => still_known(holding.voucher.as_ref(), *cumulative, now),
            Ok(Claim::Rise(accepted)) => judge(holding, accepted, now),
        };
        let refusal = match judged {
            Ok(None) => None,
            Ok(Some(accepted)) => {
                let merged = |kept: StoredVoucher| kept.merged(&accepted, now);
                holding.voucher = Some(holding.voucher.map_or_else(|| StoredVoucher::new(&accepted, now), merged));
                changed.push(*channel);
                None
            }
            Err(refusal) => Some(refusal),
        };
        let live = holding.voucher.as_ref().and_then(|kept| kept.live(now));
        rulings.push(Ruling { watermark: live.map(|live| live.voucher.cumulative), refusal });
    }
    changed.sort_unstable();
    changed.dedup();
    let changed = changed.iter().filter_map(|channel| holdings.get(channel)?.voucher).collect();
    Judged { rulings, changed }
}

/// True if a transaction signed at the chain's unix second `at` may be sent as far as this channel is concerned: a
/// close must carry the best voucher that the chain can still take.
// r[impl settlement.close.best_voucher]
pub(super) fn may_begin(kind: Kind, item: &Item, stored: Option<&StoredVoucher>, at: i64) -> bool {
    kind != Kind::Close || stored.map(|stored| stored.due(at).voucher.cumulative) == item.voucher
}

/// What is to be stored of a verified voucher, if anything.
fn judge(holding: &Holding, accepted: &Accepted, now: i64) -> Result<Option<Accepted>, Refusal> {
    let offered = accepted.voucher.cumulative();
    // What has expired pays nobody any more and stands in no other's way.
    if let Some((known, live)) = holding.voucher.as_ref().and_then(|known| Some((known, known.live(now)?))) {
        let watermark = live.voucher.cumulative;
        if live == accepted.voucher.signed() {
            return Ok((accepted.close && !known.is_to_close(false)).then_some(*accepted));
        }
        if offered < watermark {
            return Err(VoucherError::NotRising { watermark, offered }.refusal());
        }
        if offered == watermark {
            return Err(VoucherError::EqualDiffers { cumulative: watermark }.refusal());
        }
    }
    if holding.closes > 0 {
        let reason = "the channel is being closed at a lower amount; hand the voucher over again in a moment";
        return Err(Refusal::new(RefusalCode::OverCapacity, reason));
    }
    Ok(Some(*accepted))
}

/// What was stored a moment ago can only have risen, or been settled and forgotten.
fn still_known(known: Option<&StoredVoucher>, cumulative: Amount, now: i64) -> Result<Option<Accepted>, Refusal> {
    if known.and_then(|known| known.live(now)).is_some_and(|live| live.voucher.cumulative >= cumulative) {
        return Ok(None);
    }
    Err(Refusal::new(RefusalCode::OverCapacity, "the voucher is being settled; hand it over again in a moment"))
}
