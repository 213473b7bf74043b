//! The audit trail: one row for each channel of each transaction that landed for good, from the voucher's signature
//! to the transaction's; with its reason where the transaction failed, for that costs its fee too.

use std::fmt;
use std::str::FromStr;

use aro_proto::{Amount, ChannelId};
use settlement_chain::{Address, Signature};
use settlement_interface::fees;

use super::stored::cut;
use crate::batch::Kind;
use crate::submit::JournalEntry;

/// What a final transaction did to one channel. Amounts are base units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    /// Unix second of the chain at which the operator found the transaction final. Rows are appended in this order,
    /// but for the clock's own wavering.
    pub at: i64,
    /// What the transaction did.
    pub kind: Kind,
    /// The node's account.
    pub node: Address,
    /// The channel.
    pub channel: ChannelId,
    /// The chain's watermark when the transaction was planned.
    pub from: Amount,
    /// The chain's watermark by this transaction; as `from` where it credited nothing.
    pub to: Amount,
    /// Of the rise: to the node.
    pub node_share: Amount,
    /// Of the rise: to the operator.
    pub operator_share: Amount,
    /// Of the rise: to the protocol.
    pub protocol_share: Amount,
    /// Back to the agent; only a reclaim refunds.
    pub refunded: Amount,
    /// The transaction.
    pub signature: Signature,
    /// The slot that it landed in.
    pub slot: u64,
    /// Lamports that the whole transaction cost.
    pub transaction_fee: u64,
    /// This channel's share of them; the shares of a transaction sum to the whole.
    pub fee_share: u64,
    /// The agent's signature on the voucher that was credited.
    pub voucher_signature: Option<[u8; 64]>,
    /// Why the transaction failed in its block, if it did: then it did nothing but cost its fee. At most
    /// [`MAX_REASON`] bytes are kept.
    pub error: Option<String>,
}

/// What the chain shows of one channel after a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The chain's watermark; `None` if the channel is gone.
    pub watermark: Option<Amount>,
}

/// Where and when a transaction became final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finality {
    /// The slot that it landed in.
    pub slot: u64,
    /// Unix second of the chain at which it was found final.
    pub at: i64,
}

impl HistoryRow {
    /// The rows of a transaction that is final; `effect` tells what the chain shows of a channel now. A batch skips
    /// entries that lost a race: those credit nothing here either.
    pub fn of(entry: &JournalEntry, end: Finality, effect: impl Fn(ChannelId) -> Effect) -> Vec<Self> {
        let count = u64::try_from(entry.items.len()).unwrap_or(u64::MAX).max(1);
        let (share, mut rest) = (entry.fee_lamports / count, entry.fee_lamports % count);
        let rows = entry.items.iter().map(|item| {
            let extra = u64::from(rest > 0);
            rest = rest.saturating_sub(extra);
            let trace = &item.trace;
            let shown = effect(item.channel).watermark;
            let gone = shown.is_none();
            let reached = |voucher: Amount| shown.is_none_or(|watermark| voucher <= watermark);
            let credits = matches!(entry.kind, Kind::Settle | Kind::Close) && trace.voucher_signature.is_some();
            let voucher = item.voucher.filter(|voucher| credits && reached(*voucher));
            let to = voucher.map_or(trace.from, |voucher| voucher.max(trace.from));
            let rise = to.saturating_sub(trace.from);
            let whole = fees::Split { node: rise.get(), operator: 0, protocol: 0 };
            let split = fees::split(rise.get(), trace.operator_bps, trace.protocol_bps).unwrap_or(whole);
            Self {
                at: end.at,
                kind: entry.kind,
                node: trace.node,
                channel: item.channel,
                from: trace.from,
                to,
                node_share: Amount::new(split.node),
                operator_share: Amount::new(split.operator),
                protocol_share: Amount::new(split.protocol),
                refunded: if gone && entry.kind == Kind::Reclaim { trace.refund } else { Amount::default() },
                signature: entry.prepared.signature,
                slot: end.slot,
                transaction_fee: entry.fee_lamports,
                fee_share: share.saturating_add(extra),
                voucher_signature: trace.voucher_signature,
                error: None,
            }
        });
        rows.collect()
    }

    /// The rows of a transaction that failed in its block, once that is final.
    pub fn of_failed(entry: &JournalEntry, end: Finality, error: &str) -> Vec<Self> {
        let mut rows = Self::of(entry, end, |_| Effect { watermark: Some(Amount::ZERO) });
        for row in &mut rows {
            // The text store of a server takes every character but this one.
            let error = cut(error).replace('\0', " ");
            *row = Self { voucher_signature: None, error: Some(error), ..row.clone() };
        }
        rows
    }
}

impl HistoryRow {
    /// The row as one JSON object: amounts in base units, fees in lamports, the time in unix seconds.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "at": self.at,
            "kind": self.kind.name(),
            "node": self.node.to_string(),
            "channel": self.channel.to_string(),
            "from": self.from.get(),
            "to": self.to.get(),
            "node_share": self.node_share.get(),
            "operator_share": self.operator_share.get(),
            "protocol_share": self.protocol_share.get(),
            "refunded": self.refunded.get(),
            "signature": self.signature.to_string(),
            "slot": self.slot,
            "transaction_fee_lamports": self.transaction_fee,
            "fee_share_lamports": self.fee_share,
            "voucher_signature": self.voucher_signature.map(|signature| Signature::from(signature).to_string()),
            "error": self.error.as_deref(),
        })
    }
}

/// Which rows are wanted, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// From this unix second on.
    pub from: i64,
    /// Before this unix second.
    pub to: i64,
    /// Only of this node.
    pub node: Option<Address>,
    /// Only after this row.
    pub after: Option<Cursor>,
    /// At most so many rows; never more than [`MAX_PAGE`].
    pub limit: usize,
}

impl HistoryQuery {
    /// True if a row is to be shown.
    pub(super) fn wants(&self, cursor: &Cursor, row: &HistoryRow) -> bool {
        (self.from..self.to).contains(&cursor.at)
            && self.after.is_none_or(|after| *cursor > after)
            && self.node.is_none_or(|node| node == row.node)
    }
}

impl Default for HistoryQuery {
    fn default() -> Self {
        Self { from: i64::MIN, to: i64::MAX, node: None, after: None, limit: MAX_PAGE }
    }
}

/// As one line of words: from, to, node or `-`, cursor or `-`, limit.
impl fmt::Display for HistoryQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.node.map_or_else(|| NONE.to_owned(), |node| node.to_string());
        let after = self.after.map_or_else(|| NONE.to_owned(), |after| format!("{}:{}", after.at, after.number));
        write!(f, "{} {} {node} {after} {}", self.from, self.to, self.limit)
    }
}

impl FromStr for HistoryQuery {
    type Err = NotAQuery;

    fn from_str(text: &str) -> Result<Self, NotAQuery> {
        let words: Vec<&str> = text.split(' ').collect();
        let [from, to, node, after, limit] = words[..] else { return Err(NotAQuery) };
        let after = match after.split_once(':') {
            None if after == NONE => None,
            None => return Err(NotAQuery),
            Some((at, number)) => Some(Cursor { at: parse(at)?, number: parse(number)? }),
        };
        let node = if node == NONE { None } else { Some(parse(node)?) };
        Ok(Self { from: parse(from)?, to: parse(to)?, node, after, limit: parse(limit)? })
    }
}

/// What is not the line of a [`HistoryQuery`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a query reads: FROM TO NODE AFTER LIMIT")]
pub struct NotAQuery;

fn parse<T: FromStr>(word: &str) -> Result<T, NotAQuery> {
    word.parse().map_err(|_| NotAQuery)
}

/// A row's place in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Its unix second.
    pub at: i64,
    /// Its number.
    pub number: u64,
}

/// A word for nothing.
const NONE: &str = "-";

/// Rows, or vouchers, of one read.
pub const MAX_PAGE: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_read_back_from_their_line() {
        let all = HistoryQuery::default();
        let some = HistoryQuery {
            from: -5,
            to: 9,
            node: Some(Address::new_from_array([7; 32])),
            after: Some(Cursor { at: -1, number: 3 }),
            limit: 2,
        };
        for query in [all, some] {
            assert_eq!(query.to_string().parse(), Ok(query));
        }
        for wrong in ["", "1 2 - -", "1 2 - 3 4", "1 2 x - 4", "1 2 - - 4 5"] {
            assert_eq!(wrong.parse::<HistoryQuery>(), Err(NotAQuery), "{wrong}");
        }
    }
}
