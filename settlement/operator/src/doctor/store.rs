//! What the store can tell, beside the chain.

use aro_proto::Amount;
use aro_proto::limits::SETTLE_MARGIN_S;
use settlement_chain::{ChainClient, Program};
use settlement_interface::voucher::NEVER;

use super::Finding;
use crate::settle::{snapshot, standing};
use crate::vouchers::{Book, HistoryQuery, StoreError};

/// Examines what is stored; and tells the lamports that were spent in a day, by the history of the last week. `now` is
/// this machine's time in unix seconds.
pub async fn examine_store(
    book: &Book,
    chain: &dyn ChainClient,
    program: &Program,
    now: i64,
) -> (Vec<Finding>, Option<u64>) {
    match examine(book, chain, program, now).await {
        Ok(found) => found,
        Err(error) => {
            let next = "look at the database; nothing is acknowledged while it does not work";
            (vec![Finding::fail("database", error.to_string(), next)], None)
        }
    }
}

async fn examine(
    book: &Book,
    chain: &dyn ChainClient,
    program: &Program,
    now: i64,
) -> Result<(Vec<Finding>, Option<u64>), StoreError> {
    let vouchers = book.vouchers().await?;
    let mut findings = vec![Finding::ok("database", format!("it opens; {} vouchers are stored", vouchers.len()))];
    let pending = book.pending().await?.len();
    findings.push(Finding::ok("journal", format!("{pending} transactions are not final yet")));

    match snapshot::stored(chain, program, &vouchers).await {
        Ok(facts) => {
            let standing = standing(&facts, &vouchers);
            let unsettled = Amount::new(standing.unsettled);
            let text = format!("{unsettled} $ARO wait, the oldest for {} s", standing.oldest_age_s);
            findings.push(Finding::ok("unsettled", text));
            findings.push(if standing.closing_at_risk == 0 {
                Finding::ok("closing", format!("{} channels are closing, nothing is at risk", standing.closing))
            } else {
                let left = standing.nearest_deadline.saturating_sub(facts.now);
                let at_risk = Amount::new(standing.closing_at_risk);
                let text = format!("{at_risk} $ARO are lost unless they settle; the first in {left} s");
                let next = "run `aro-settle once` now, and see that the operator runs";
                Finding::fail("closing", text, next)
            });
        }
        Err(error) => findings.push(Finding::warn("unsettled", error.to_string(), "try again")),
    }
    let expiring = vouchers.iter().filter(|stored| {
        let expires_at = stored.signed.voucher.expires_at;
        expires_at != NEVER && expires_at > now && expires_at.saturating_sub(now) <= SETTLE_MARGIN_S / 2
    });
    findings.push(match expiring.count() {
        0 => Finding::ok("expiring", "no voucher expires within half a day"),
        count => {
            let text = format!("{count} vouchers expire within half a day and should have been settled");
            Finding::warn("expiring", text, "run `aro-settle once` and look at what is skipped")
        }
    });
    let aside = book.quarantined().await?;
    findings.push(match aside.first() {
        None => Finding::ok("quarantine", "no entry is set aside"),
        Some(first) => {
            let text = format!("{} entries are set aside; {}: {}", aside.len(), first.channel, first.reason);
            Finding::warn("quarantine", text, "ask the node for a higher voucher, or look why the chain refuses it")
        }
    });
    Ok((findings, spent_per_day(book, now).await?))
}

/// Lamports a day, over the last week.
async fn spent_per_day(book: &Book, now: i64) -> Result<Option<u64>, StoreError> {
    let mut query = HistoryQuery { from: now.saturating_sub(WEEK_S), ..HistoryQuery::default() };
    let mut spent: u64 = 0;
    for _ in 0..MAX_PAGES {
        let rows = book.history(&query).await?;
        let Some((cursor, _)) = rows.last() else { break };
        query.after = Some(*cursor);
        spent = rows.iter().fold(spent, |sum, (_, row)| sum.saturating_add(row.fee_share));
    }
    Ok(Some(spent / 7))
}

const WEEK_S: i64 = 7 * 24 * 60 * 60;
/// Pages of history that are read at most.
const MAX_PAGES: usize = 200;
