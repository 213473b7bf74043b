//! What a round of settling did.

use std::collections::BTreeMap;

use aro_proto::{Amount, ChannelId};
use serde_json::{Value, json};
use settlement_chain::Signature;
use settlement_chain::submit::Remedy;
use settlement_interface::accounts::status;

use crate::account::Withdrawn;
use crate::batch::{Due, Facts, Kind};
use crate::submit::JournalEntry;

/// What a round of settling did, as the chain shows it afterwards.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettleReport {
    /// Channels that a transaction of this operator closed.
    pub closed: Vec<SettledChannel>,
    /// Channels whose watermark a transaction of this operator raised.
    pub settled: Vec<SettledChannel>,
    /// Channels closed because their grace was over.
    pub finalized: Vec<ChannelId>,
    /// Closed channels whose rest went back to their agents.
    pub reclaimed: Vec<ReclaimedChannel>,
    /// Every transaction that landed.
    pub signatures: Vec<Signature>,
    /// Channels that were due, and why nothing came of it.
    pub skipped: Vec<Skipped>,
    /// Why each channel was due whose voucher was sent.
    pub dues: BTreeMap<ChannelId, Due>,
    /// The operator's own fees, if they were paid out.
    pub withdrawn: Option<Withdrawn>,
    /// Set if another operator of the same database settles, and nothing was done here: who.
    pub elsewhere: Option<String>,
    /// What went wrong that concerns no single channel; the next round tries again.
    pub trouble: Vec<Trouble>,
}

/// A channel whose voucher was credited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettledChannel {
    /// The channel.
    pub channel: ChannelId,
    /// The transaction.
    pub signature: Signature,
    /// Base units credited to the node's side in all: the chain's watermark.
    pub cumulative: Amount,
}

/// A channel that is gone from the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReclaimedChannel {
    /// The channel.
    pub channel: ChannelId,
    /// The transaction.
    pub signature: Signature,
    /// Base units that went back to the agent.
    pub refunded: Amount,
}

/// A channel that was due without effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The channel.
    pub channel: ChannelId,
    /// Why, for people.
    pub reason: String,
}

/// Something that held up more than one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What happened, for people.
    pub message: String,
    /// Who must do what; [`Remedy::Retry`] if the next round may do better by itself.
    pub remedy: Remedy,
}

impl SettleReport {
    /// Puts another report behind this one.
    pub(super) fn add(&mut self, other: Self) {
        self.closed.extend(other.closed);
        self.settled.extend(other.settled);
        self.finalized.extend(other.finalized);
        self.reclaimed.extend(other.reclaimed);
        self.signatures.extend(other.signatures);
        self.skipped.extend(other.skipped);
        self.dues.extend(other.dues);
        self.elsewhere = other.elsewhere.or(self.elsewhere.take());
        self.withdrawn = other.withdrawn.or(self.withdrawn.take());
        self.trouble.extend(other.trouble);
    }

    /// Tells what landed transactions did, by the chain's word: a batch skips entries that lost a race. Returns the
    /// base units that watermarks rose by.
    pub(super) fn tell(&mut self, landed: &[JournalEntry], before: &Facts, after: &Facts) -> u64 {
        let mut rose: u64 = 0;
        for entry in landed {
            let signature = entry.prepared.signature;
            for item in &entry.items {
                let channel = item.channel;
                let now = after.channels.get(&channel);
                let was = before.channels.get(&channel);
                let is_closed = now.is_none_or(|now| now.status == status::CLOSED);
                let watermark =
                    now.or(was).map_or_else(|| item.voucher.unwrap_or_default(), |at| Amount::new(at.settled));
                if let (Some(now), Some(was)) = (now, was) {
                    rose = rose.saturating_add(now.settled.saturating_sub(was.settled));
                }
                let settled = SettledChannel { channel, signature, cumulative: watermark };
                match entry.kind {
                    Kind::Close if is_closed => self.closed.push(settled),
                    Kind::Settle if item.voucher.is_some_and(|voucher| voucher <= watermark) => {
                        self.settled.push(settled);
                    }
                    Kind::Finalize if is_closed => self.finalized.push(channel),
                    Kind::Reclaim if now.is_none() => {
                        let refunded = was.map(settlement_chain::instructions::refundable).unwrap_or_default();
                        self.reclaimed.push(ReclaimedChannel { channel, signature, refunded: Amount::new(refunded) });
                    }
                    _ => {
                        let reason = "the chain skipped it: its state had changed before the transaction landed".into();
                        self.skipped.push(Skipped { channel, reason });
                    }
                }
            }
        }
        rose
    }

    /// The report as one JSON object; amounts are base units.
    pub fn to_json(&self) -> Value {
        let settled = |channels: &[SettledChannel]| -> Vec<Value> {
            let one = |settled: &SettledChannel| {
                json!({
                    "channel": settled.channel.to_string(),
                    "signature": settled.signature.to_string(),
                    "cumulative": settled.cumulative.get(),
                    "due": self.dues.get(&settled.channel).map(|due| due.name()),
                })
            };
            channels.iter().map(one).collect()
        };
        let reclaimed = |channel: &ReclaimedChannel| {
            json!({
                "channel": channel.channel.to_string(),
                "signature": channel.signature.to_string(),
                "refunded": channel.refunded.get(),
            })
        };
        let skipped =
            |skipped: &Skipped| json!({ "channel": skipped.channel.to_string(), "reason": skipped.reason.as_str() });
        let trouble =
            |trouble: &Trouble| json!({ "message": trouble.message, "remedy": format!("{:?}", trouble.remedy) });
        json!({
            "closed": settled(&self.closed),
            "settled": settled(&self.settled),
            "finalized": self.finalized.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "reclaimed": self.reclaimed.iter().map(reclaimed).collect::<Vec<_>>(),
            "signatures": self.signatures.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "skipped": self.skipped.iter().map(skipped).collect::<Vec<_>>(),
            "withdrawn": self.withdrawn.as_ref().map(|withdrawn| withdrawn.amount),
            "elsewhere": self.elsewhere,
            "trouble": self.trouble.iter().map(trouble).collect::<Vec<_>>(),
        })
    }

    /// True if nothing was due.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
