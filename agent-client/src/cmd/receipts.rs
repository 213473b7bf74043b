//! `aro receipts`: what was fetched and published, from whom, for how much, and whose word there is for it.

use std::collections::BTreeMap;

use agent_client::{By, Check, Entry, LedgerError, Totals, Wallet};
use aro_proto::Amount;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use crate::Global;
use crate::output::{Failure, Output};

#[derive(Subcommand)]
pub(crate) enum ReceiptsCommand {
    /// List all requests, the oldest first
    List(Since),
    /// Check the signatures of nodes; those that signed nothing are counted, for what they sent was proven
    Verify(Since),
    /// Write all entries as CSV, or with --json as one JSON object, to the standard output
    Export {
        #[command(flatten)]
        since: Since,
        /// As CSV, which is the default
        #[arg(long, conflicts_with = "json")]
        csv: bool,
    },
    /// Daily sums, in UTC
    Totals {
        #[command(flatten)]
        since: Since,
        /// Of each node or each content
        #[arg(long, value_name = "WHAT", default_value = "node")]
        by: Of,
    },
}

#[derive(Args)]
pub(crate) struct Since {
    /// Leave out what ended before this unix second
    #[arg(long, value_name = "UNIX_SECOND", default_value_t = 0)]
    since: i64,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Of {
    Node,
    Content,
}

impl ReceiptsCommand {
    pub(crate) fn run(&self, global: &Global, output: &Output) -> Result<(), Failure> {
        let wallet = Wallet::open(&global.home()?)?;
        match self {
            Self::List(since) => {
                let entries = all(&wallet, since)?;
                output.result(&json!({ "entries": entries }), || lines(&entries))
            }
            Self::Verify(since) => verify(&wallet, since, output),
            Self::Export { since, csv: _ } => {
                let entries = all(&wallet, since)?;
                let table = table(&entries).map_err(|error| Failure::internal(&*error))?;
                output.result(&json!({ "entries": entries }), || table.trim_end().to_owned())
            }
            Self::Totals { since, by } => {
                let by = match by {
                    Of::Node => By::Node,
                    Of::Content => By::Content,
                };
                let totals = wallet.totals(since.since, by)?;
                let shown: Vec<Value> = totals.iter().map(day_by_day).collect();
                output.result(&json!({ "totals": shown }), || sums(&totals))
            }
        }
    }
}

fn all(wallet: &Wallet, since: &Since) -> Result<Vec<Entry>, Failure> {
    let mut entries = Vec::new();
    wallet.entries(since.since, |entry| {
        entries.push(entry);
        Ok::<(), LedgerError>(())
    })?;
    Ok(entries)
}

fn verify(wallet: &Wallet, since: &Since, output: &Output) -> Result<(), Failure> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::from([("valid", 0), ("unsigned", 0), ("wrong", 0)]);
    let mut wrong = Vec::new();
    wallet.entries(since.since, |entry| {
        let found = match entry.check() {
            Check::Valid => "valid",
            Check::Unsigned => "unsigned",
            Check::Wrong => {
                wrong.push(entry.entry);
                "wrong"
            }
        };
        *counts.entry(found).or_default() += 1;
        Ok::<(), LedgerError>(())
    })?;
    output.result(&json!({ "counts": counts, "wrong": wrong }), || {
        let [unsigned, valid, bad] =
            ["unsigned", "valid", "wrong"].map(|found| counts.get(found).copied().unwrap_or(0));
        format!("{valid} signed by their nodes, {unsigned} not signed, {bad} wrong{}", named(&wrong))
    })
}

fn named(wrong: &[u64]) -> String {
    let numbers: Vec<String> = wrong.iter().map(u64::to_string).collect();
    if numbers.is_empty() { String::new() } else { format!(": entries {}", numbers.join(", ")) }
}

/// The columns are stable: new ones come last. Amounts are in base units.
fn table(entries: &[Entry]) -> Result<String, Box<dyn std::error::Error>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(COLUMNS)?;
    for entry in entries {
        let kind = serde_json::to_value(entry.kind)?;
        writer.write_record([
            entry.entry.to_string(),
            entry.at.to_string(),
            kind.as_str().unwrap_or_default().to_owned(),
            entry.node.to_string(),
            entry.channel.map(|channel| channel.to_string()).unwrap_or_default(),
            entry.content.to_string(),
            entry.contents.to_string(),
            entry.spans().unwrap_or_default(),
            entry.bytes.to_string(),
            entry.amount.get().to_string(),
            entry.class.clone(),
            entry.receipt.is_some().to_string(),
        ])?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

fn lines(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "no entries".into();
    }
    let lines = entries.iter().map(|entry| {
        let Entry { entry: number, at, node, content, bytes, amount, .. } = entry;
        let (day, second) = (at.div_euclid(DAY_S), at.rem_euclid(DAY_S));
        let time = format!("{} {:02}:{:02}:{:02}", date(day), second / 3_600, second / 60 % 60, second % 60);
        let word = if entry.receipt.is_some() { "signed" } else { "not signed" };
        format!("{number}: {time}, {bytes} bytes of {content} at {node}, {amount} $ARO, {word}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn day_by_day(totals: &Totals) -> Value {
    let Totals { day, of, requests, bytes, amount } = totals;
    json!({"day": date(*day), "of": of, "requests": requests, "bytes": bytes, "amount": amount})
}

fn sums(totals: &[Totals]) -> String {
    if totals.is_empty() {
        return "no entries".into();
    }
    let lines = totals.iter().map(|Totals { day, of, requests, bytes, amount }| {
        format!("{} {of}: {requests} requests, {bytes} bytes, {amount} $ARO", date(*day))
    });
    let all = totals.iter().fold(Amount::ZERO, |sum, totals| sum.saturating_add(totals.amount));
    lines.chain([format!("in all: {all} $ARO")]).collect::<Vec<_>>().join("\n")
}

/// A day since 1970-01-01 in the Gregorian calendar: years begin in March here, so that a leap day comes last.
fn date(day: i64) -> String {
    let shifted = day.saturating_add(719_468);
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{of_month:02}", year + era * 400 + next)
}

const COLUMNS: [&str; 12] =
    ["entry", "at", "kind", "node", "channel", "content", "contents", "ranges", "bytes", "amount", "class", "signed"];
/// Seconds.
const DAY_S: i64 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates_over_leap_years_and_ages() {
        let days = [(0, "1970-01-01"), (-1, "1969-12-31"), (11_016, "2000-02-29"), (11_017, "2000-03-01")];
        for (day, shown) in
            days.into_iter().chain([(47_540, "2100-02-28"), (47_541, "2100-03-01"), (20_783, "2026-11-26")])
        {
            assert_eq!(date(day), shown);
        }
    }
}
