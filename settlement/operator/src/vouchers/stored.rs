//! A voucher on its way into the store, and as it lies there.

use aro_proto::channel::{SignedVoucher, VerifiedVoucher};
use aro_proto::{Amount, ChannelId, Refusal};
use settlement_chain::Address;
use settlement_interface::voucher::{NEVER, is_expired};

use super::HistoryRow;

/// A voucher that may be stored: its signature has been verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The voucher.
    pub voucher: VerifiedVoucher,
    /// The earning node's account.
    pub node: Address,
    /// True if the node wants the channel closed.
    pub close: bool,
}

/// A voucher that passed every check that needs no store.
#[derive(Clone, Copy, Debug)]
pub enum Claim {
    /// Rises above the chain's watermark: to be stored.
    Rise(Accepted),
    /// The very voucher that was stored when it was looked at, and no new wish to close: nothing to store.
    Known(Amount),
    /// Already settled in full: nothing to store.
    Settled,
}

/// What was handed over for a channel: a claim, or why it was refused before any store was asked.
pub type Offer = (ChannelId, Result<Claim, Refusal>);

/// What became of one offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// The durable watermark.
    pub watermark: Option<Amount>,
    /// Why the voucher was refused, if it was.
    pub refusal: Option<Refusal>,
}

/// A voucher as it lies in the store; it was verified when it entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredVoucher {
    /// The voucher with its signature.
    pub signed: SignedVoucher,
    /// Where `signed` expires: the best voucher that never does, so that a better one which dies of age loses no
    /// older money.
    pub lasting: Option<SignedVoucher>,
    /// The earning node's account.
    pub node: Address,
    /// True if the node wants the channel closed.
    pub close: bool,
    /// True if that wish was there when an operator started, and its node has not said it since: the database may be
    /// an old backup, and the node may hold a better voucher that it has forgotten.
    pub doubted: bool,
    /// Unix second at which the channel's amount first rose above what had been settled.
    pub since: i64,
    /// Unix second of the last voucher that told something new.
    pub heard: i64,
    /// True if the chain refuses it, whatever it is batched with: it waits for a higher one.
    pub quarantined: bool,
}

impl StoredVoucher {
    /// The first voucher of a channel, taken at the unix second `now`.
    pub fn new(accepted: &Accepted, now: i64) -> Self {
        Self {
            signed: *accepted.voucher.signed(),
            lasting: None,
            node: accepted.node,
            close: accepted.close,
            doubted: false,
            since: now,
            heard: now,
            quarantined: false,
        }
    }

    /// The channel that it pays on.
    pub fn channel(&self) -> ChannelId {
        self.signed.voucher.channel
    }

    /// Everything paid on the channel, in base units.
    pub fn cumulative(&self) -> Amount {
        self.signed.voucher.cumulative
    }

    /// What to settle with at the chain's unix second `now`: the best voucher, or the lasting one where that has
    /// expired. Without a lasting one it is the expired one, which credits nothing.
    pub fn due(&self, now: i64) -> &SignedVoucher {
        self.live(now).unwrap_or(&self.signed)
    }

    /// The best voucher that has not expired at the chain's unix second `now`.
    // r[impl settlement.handoff.lasting]
    pub fn live(&self, now: i64) -> Option<&SignedVoucher> {
        if is_expired(self.signed.voucher.expires_at, now) { self.lasting.as_ref() } else { Some(&self.signed) }
    }

    /// True if its channel is to be closed; wishes in doubt count where `old_ones` do.
    // r[impl settlement.close.said_anew]
    pub fn is_to_close(&self, old_ones: bool) -> bool {
        self.close && (old_ones || !self.doubted)
    }

    /// The voucher as one JSON object; amounts are base units, times unix seconds.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "channel": self.channel().to_string(),
            "node": self.node.to_string(),
            "cumulative": self.cumulative().get(),
            "expires_at": self.signed.voucher.expires_at,
            "lasting": self.lasting.map(|lasting| lasting.voucher.cumulative.get()),
            "close": self.close,
            "doubted": self.doubted,
            "since": self.since,
            "heard": self.heard,
            "quarantined": self.quarantined,
        })
    }

    /// What is stored after `accepted` arrives on top of this: a rise, the replacement of one that has expired, or
    /// the same again with a wish to close, which stays once it is there. Said anew it is in doubt no more.
    pub(super) fn merged(self, accepted: &Accepted, now: i64) -> Self {
        let (node, close) = (accepted.node, self.close || accepted.close);
        let doubted = self.doubted && !accepted.close;
        let new = *accepted.voucher.signed();
        if new == self.signed {
            return Self { node, close, doubted, heard: now, ..self };
        }
        let lasting = match (new.voucher.expires_at, self.signed.voucher.expires_at) {
            (NEVER, _) => None,
            (_, NEVER) => Some(self.signed),
            _ => self.lasting,
        };
        Self { signed: new, lasting, node, close, doubted, heard: now, quarantined: false, ..self }
    }

    /// The same at the start of an operator: whatever wish it holds is an old one.
    pub(super) fn with_doubt(self) -> Self {
        Self { doubted: self.close, ..self }
    }

    /// The same once the row's transaction, signed at the unix second `at`, is final: what is still unsettled came in
    /// later.
    pub(super) fn settled_by(self, row: &HistoryRow, at: i64) -> Self {
        if row.error.is_none() && self.cumulative() > row.to {
            Self { since: self.since.max(at), ..self }
        } else {
            self
        }
    }
}

/// A voucher that the chain refuses alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Its channel.
    pub channel: ChannelId,
    /// Its amount; a higher voucher ends the quarantine.
    pub cumulative: Amount,
    /// What the chain said; at most [`MAX_REASON`] bytes are kept.
    pub reason: String,
    /// Unix second at which it was found out.
    pub at: i64,
}

impl Quarantined {
    /// The entry as one JSON object; the amount is in base units.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "channel": self.channel.to_string(),
            "cumulative": self.cumulative.get(),
            "reason": self.reason.as_str(),
            "at": self.at,
        })
    }

    /// The same with its reason cut to what is kept.
    pub(super) fn bounded(&self) -> Self {
        Self { reason: cut(&self.reason).to_owned(), ..self.clone() }
    }
}

/// As much of a reason as is kept.
pub(super) fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    &reason[..end]
}

/// Bytes of a reason, of a quarantine or a failure.
pub const MAX_REASON: usize = 512;
