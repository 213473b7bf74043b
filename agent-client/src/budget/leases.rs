//! The budget in the ledger: what is spent, and the leave that each guard has taken for what it sets aside.
//!
//! A lease counts against every cap as if it were spent, so a guard may set aside within it without asking anybody. All
//! functions run inside a transaction of the caller's, which makes them one step for every task and process.

use aro_proto::{Amount, ChannelId, NodeId};
use rusqlite::{OptionalExtension, Transaction, params};

use super::cap::{Cap, Standing};
use super::policy::Policy;
use super::purpose::{Line, Spending};
use crate::ledger::{Hold, Ledger, LedgerError, amount_from, amount_to, bytes32, count_from, count_to};

/// How every cap on a line stands, leases counted as spent. Never empty: what a ledger can count is a cap too.
pub(super) fn standings(
    tx: &Transaction<'_>,
    ledger: &Ledger,
    policies: &[Policy],
    line: &Line,
) -> Result<Vec<Standing>, LedgerError> {
    let kind = line.spending.code();
    let total = sum(tx, TOTAL, params![kind])?;
    let mut standings = vec![Standing { cap: Cap::Total, limit: MOST, used: total }];
    let (mut of_node, mut of_class) = (None, None);
    for policy in policies {
        let mut push = |cap, limit: Amount, used| {
            standings.push(Standing { cap, limit: limit.get().min(MOST), used });
        };
        let all = match line.spending {
            Spending::Vouchers => policy.total,
            Spending::Deposits => policy.deposits.or(policy.total),
        };
        if let Some(limit) = all {
            push(Cap::Total, limit, total);
        }
        if let Some(limit) = policy.node(line.node) {
            let used = match of_node {
                Some(used) => used,
                None => *of_node.insert(sum(tx, OF_NODE, params![kind, line.node.as_bytes()])?),
            };
            push(Cap::Node, limit, used);
        }
        if line.spending == Spending::Deposits {
            continue;
        }
        if let Some(limit) = policy.classes.get(&*line.class) {
            let used = match of_class {
                Some(used) => used,
                None => *of_class.insert(sum(tx, OF_CLASS, params![kind, &*line.class])?),
            };
            push(Cap::Class, *limit, used);
        }
        for window in &policy.windows {
            let begin = ledger.now(tx)?.saturating_sub(i64::from(window.seconds)).div_euclid(MINUTE_S);
            let used = sum(tx, OF_WINDOW, params![begin])?;
            push(Cap::Window { seconds: window.seconds }, window.amount, used);
        }
    }
    Ok(standings)
}

/// The tightest of them.
pub(super) fn tightest(standings: &[Standing]) -> Standing {
    let whole = Standing { cap: Cap::Total, limit: MOST, used: 0 };
    standings.iter().copied().min_by_key(Standing::left).unwrap_or(whole)
}

/// Raises a guard's lease.
pub(super) fn take(tx: &Transaction<'_>, holder: i64, line: &Line, more: u64) -> Result<(), LedgerError> {
    let Line { spending, node, class } = line;
    tx.prepare_cached(
        "INSERT INTO leases VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (holder, kind, node, class) DO UPDATE SET amount = amount + excluded.amount",
    )?
    .execute(params![holder, spending.code(), node.as_bytes(), &**class, count_to(more)?])?;
    Ok(())
}

/// Lowers a guard's lease. More than it has is refused, for then its count is wrong.
pub(super) fn give_back(tx: &Transaction<'_>, holder: i64, line: &Line, less: u64) -> Result<(), LedgerError> {
    let Line { spending, node, class } = line;
    let changed = tx
        .prepare_cached(
            "UPDATE leases SET amount = amount - ?5
             WHERE holder = ?1 AND kind = ?2 AND node = ?3 AND class = ?4 AND amount >= ?5",
        )?
        .execute(params![holder, spending.code(), node.as_bytes(), &**class, count_to(less)?])?;
    if changed == 1 || less == 0 { Ok(()) } else { Err(LedgerError::Impossible("less on lease than is in use")) }
}

/// Moves an amount from a guard's lease to what is spent for good.
pub(super) fn spend(
    tx: &Transaction<'_>,
    ledger: &Ledger,
    holder: i64,
    parts: &[(Line, u64)],
) -> Result<(), LedgerError> {
    let now = ledger.tick(tx)?;
    for (line, amount) in parts.iter().filter(|(_, amount)| *amount > 0) {
        give_back(tx, holder, line, *amount)?;
        let Line { spending, node, class } = line;
        let amount = count_to(*amount)?;
        tx.prepare_cached(
            "INSERT INTO spent VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (kind, node, class) DO UPDATE SET amount = amount + excluded.amount",
        )?
        .execute(params![spending.code(), node.as_bytes(), &**class, amount])?;
        if *spending == Spending::Vouchers {
            tx.prepare_cached(
                "INSERT INTO flow VALUES (?1, ?2)
                 ON CONFLICT (minute) DO UPDATE SET amount = amount + excluded.amount",
            )?
            .execute(params![now.div_euclid(MINUTE_S), amount])?;
        }
    }
    Ok(())
}

/// Notes in which channel locked money lies.
pub(crate) fn lock_deposit(
    tx: &Transaction<'_>,
    channel: ChannelId,
    node: NodeId,
    amount: Amount,
) -> Result<(), LedgerError> {
    tx.prepare_cached(
        "INSERT INTO deposits VALUES (?1, ?2, ?3)
         ON CONFLICT (channel) DO UPDATE SET amount = amount + excluded.amount",
    )?
    .execute(params![channel.as_bytes(), node.as_bytes(), amount_to(amount)?])?;
    Ok(())
}

/// Nothing of it came about: so much less is locked in the channel.
pub(crate) fn release_deposit(tx: &Transaction<'_>, channel: ChannelId, amount: Amount) -> Result<(), LedgerError> {
    let node: Vec<u8> = tx
        .prepare_cached("UPDATE deposits SET amount = amount - ?2 WHERE channel = ?1 RETURNING node")?
        .query_row(params![channel.as_bytes(), amount_to(amount)?], |row| row.get(0))?;
    tx.execute("DELETE FROM deposits WHERE channel = ?1 AND amount = 0", [channel.as_bytes()])?;
    tx.prepare_cached("UPDATE spent SET amount = amount - ?3 WHERE kind = ?1 AND node = ?2 AND class = ''")?
        .execute(params![Spending::Deposits.code(), bytes32(&node)?, amount_to(amount)?])?;
    Ok(())
}

/// The channel is taken back: what was counted as locked in it is no more.
pub(crate) fn unlock_deposit(tx: &Transaction<'_>, channel: ChannelId) -> Result<(), LedgerError> {
    let found: Option<(Vec<u8>, i64)> = tx
        .prepare_cached("DELETE FROM deposits WHERE channel = ?1 RETURNING node, amount")?
        .query_row([channel.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((node, amount)) = found {
        tx.prepare_cached("UPDATE spent SET amount = amount - ?3 WHERE kind = ?1 AND node = ?2 AND class = ''")?
            .execute(params![Spending::Deposits.code(), bytes32(&node)?, amount])?;
    }
    Ok(())
}

/// Enters a guard that may take leases. It must hold the file of its name by now.
pub(super) fn enter(tx: &Transaction<'_>, lock: &str) -> Result<i64, LedgerError> {
    tx.execute("INSERT INTO holders (lock) VALUES (?1)", [lock])?;
    Ok(tx.last_insert_rowid())
}

/// Ends a guard: nothing is on lease to it any more.
pub(super) fn leave(tx: &Transaction<'_>, holder: i64) -> Result<(), LedgerError> {
    tx.execute("DELETE FROM leases WHERE holder = ?1", [holder])?;
    tx.execute("DELETE FROM holders WHERE holder = ?1", [holder])?;
    Ok(())
}

/// Ends guards whose process has died, which is when nobody holds their file.
pub(super) fn reap(tx: &Transaction<'_>, ledger: &Ledger, own: Option<i64>) -> Result<(), LedgerError> {
    let mut statement = tx.prepare_cached("SELECT holder, lock FROM holders WHERE holder IS NOT ?1")?;
    let others = statement.query_map([own], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    for other in others.collect::<Result<Vec<_>, _>>()? {
        if let Some(hold) = Hold::take(ledger.dir(), &other.1)? {
            leave(tx, other.0)?;
            hold.remove();
        }
    }
    Ok(())
}

/// What is spent of a kind, and what all guards have on lease.
pub(super) fn sums(tx: &Transaction<'_>, spending: Spending) -> Result<(u64, u64), LedgerError> {
    let kind = spending.code();
    let spent = sum(tx, "SELECT IFNULL(SUM(amount), 0) FROM spent WHERE kind = ?1", params![kind])?;
    let leased = sum(tx, "SELECT IFNULL(SUM(amount), 0) FROM leases WHERE kind = ?1", params![kind])?;
    Ok((spent, leased))
}

/// Whether another guard is entered. One that has died counts until it is reaped.
pub(super) fn has_others(tx: &Transaction<'_>, own: Option<i64>) -> Result<bool, LedgerError> {
    let query = "SELECT EXISTS (SELECT 1 FROM holders WHERE holder IS NOT ?1)";
    Ok(tx.prepare_cached(query)?.query_row([own], |row| row.get(0))?)
}

/// Whether another guard has something on lease.
pub(super) fn have_others_leases(tx: &Transaction<'_>, own: Option<i64>) -> Result<bool, LedgerError> {
    let query = "SELECT EXISTS (SELECT 1 FROM leases WHERE holder IS NOT ?1 AND amount > 0)";
    Ok(tx.prepare_cached(query)?.query_row([own], |row| row.get(0))?)
}

/// All that is spent, by line.
pub(super) fn spent_by_line(tx: &Transaction<'_>) -> Result<Vec<(Line, Amount)>, LedgerError> {
    let mut statement = tx.prepare_cached("SELECT kind, node, class, amount FROM spent WHERE amount > 0")?;
    let rows = statement.query_map([], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, String>(2)?, row.get::<_, i64>(3)?))
    })?;
    let mut lines = Vec::new();
    for row in rows {
        let (kind, node, class, amount) = row?;
        let spending = if kind == Spending::Vouchers.code() { Spending::Vouchers } else { Spending::Deposits };
        let line = Line { spending, node: NodeId::from_bytes(bytes32(&node)?), class: class.into() };
        lines.push((line, amount_from(amount)?));
    }
    Ok(lines)
}

fn sum(tx: &Transaction<'_>, query: &str, values: &[&dyn rusqlite::ToSql]) -> Result<u64, LedgerError> {
    count_from(tx.prepare_cached(query)?.query_row(values, |row| row.get(0))?)
}

const TOTAL: &str = "SELECT (SELECT IFNULL(SUM(amount), 0) FROM spent WHERE kind = ?1)
    + (SELECT IFNULL(SUM(amount), 0) FROM leases WHERE kind = ?1)";
const OF_NODE: &str = "SELECT (SELECT IFNULL(SUM(amount), 0) FROM spent WHERE kind = ?1 AND node = ?2)
    + (SELECT IFNULL(SUM(amount), 0) FROM leases WHERE kind = ?1 AND node = ?2)";
const OF_CLASS: &str = "SELECT (SELECT IFNULL(SUM(amount), 0) FROM spent WHERE kind = ?1 AND class = ?2)
    + (SELECT IFNULL(SUM(amount), 0) FROM leases WHERE kind = ?1 AND class = ?2)";
const OF_WINDOW: &str = "SELECT (SELECT IFNULL(SUM(amount), 0) FROM flow WHERE minute >= ?1)
    + (SELECT IFNULL(SUM(amount), 0) FROM leases WHERE kind = 0)";
/// The most that a ledger counts of one kind.
pub(super) const MOST: u64 = i64::MAX.unsigned_abs();
/// Seconds of the unit in which time is counted.
const MINUTE_S: i64 = 60;
