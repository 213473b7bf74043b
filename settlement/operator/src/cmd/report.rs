//! `aro-settle report`: the audit trail, as a table for machines or as totals.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use settlement_chain::Address;
use settlement_operator::control::{Command, ask, history_page};
use settlement_operator::vouchers::{self, Book, Cursor, HistoryQuery, LeaseTerms, StoreError};

use super::home::Home;
use super::once::asked;
use crate::failure::Failure;
use crate::output::Output;

/// Arguments of `report`.
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Folder of the operator.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Only what became final at or after this unix second.
    #[arg(long, value_name = "UNIX_S", default_value_t = i64::MIN, allow_negative_numbers = true)]
    from: i64,
    /// Only what became final before this unix second.
    #[arg(long, value_name = "UNIX_S", default_value_t = i64::MAX, allow_negative_numbers = true)]
    to: i64,
    /// Only this node's channels: its account on chain.
    #[arg(long, value_name = "ADDRESS")]
    node: Option<Address>,
    /// One line of comma-separated values for each channel of each transaction (RFC 4180). Amounts are base units,
    /// fees lamports, times unix seconds.
    #[arg(long)]
    csv: bool,
}

impl Report {
    pub(super) async fn run(self, output: &Output) -> Result<(), Failure> {
        let home = Home::new(self.dir.clone());
        let config = home.operator_config(&home.read_config()?)?;
        // A running operator has the file; a server lets both in.
        let book = match vouchers::open(&config.store, &config.database(), &home.owner(&config)).await {
            Ok(store) => Some(Book::new(store, LeaseTerms::new("report"))),
            Err(StoreError::InUse) => None,
            Err(error) => return Err(error.into()),
        };
        let mut csv = self.csv.then(|| Csv::begin(BufWriter::new(io::stdout().lock()))).transpose()?;
        let mut rows = Vec::new();
        let mut totals = Totals::default();
        let mut query = HistoryQuery { from: self.from, to: self.to, node: self.node, ..HistoryQuery::default() };
        loop {
            let mut page = match &book {
                Some(book) => history_page(&book.history(&query).await?),
                None => asked(ask(&config.control_socket(), Command::History(query)).await)?,
            };
            query.after = cursor(&page["next"]);
            let Value::Array(new) = page["rows"].take() else {
                return Err(Failure::internal("the running operator answered without rows"));
            };
            for row in new {
                totals.add(&row).ok_or_else(|| Failure::internal("the history holds a row that does not add up"))?;
                match &mut csv {
                    Some(csv) => csv.row(&row)?,
                    None => rows.push(row),
                }
            }
            if query.after.is_none() {
                break;
            }
        }
        match csv {
            Some(csv) => csv.end()?,
            None => output.result(&json!({ "rows": rows, "totals": totals.to_json() }), &totals.text()),
        }
        Ok(())
    }
}

fn cursor(next: &Value) -> Option<Cursor> {
    Some(Cursor { at: next[0].as_i64()?, number: next[1].as_u64()? })
}

/// Sums of a report: base units and lamports.
#[derive(Debug, Default)]
struct Totals {
    rows: u64,
    credited: u64,
    node: u64,
    operator: u64,
    protocol: u64,
    refunded: u64,
    fees: u64,
    /// Of the fees: of transactions that failed in their block.
    failed_fees: u64,
}

impl Totals {
    /// `None` if the row is none, or a sum would not fit.
    fn add(&mut self, row: &Value) -> Option<()> {
        let number = |column: &str| row[column].as_u64();
        let fee = number("fee_share_lamports")?;
        let credited = number("to")?.checked_sub(number("from")?)?;
        for (sum, part) in [
            (&mut self.rows, 1),
            (&mut self.credited, credited),
            (&mut self.node, number("node_share")?),
            (&mut self.operator, number("operator_share")?),
            (&mut self.protocol, number("protocol_share")?),
            (&mut self.refunded, number("refunded")?),
            (&mut self.fees, fee),
            (&mut self.failed_fees, if row["error"].is_null() { 0 } else { fee }),
        ] {
            *sum = sum.checked_add(part)?;
        }
        Some(())
    }

    fn to_json(&self) -> Value {
        json!({
            "rows": self.rows,
            "credited": self.credited,
            "node_share": self.node,
            "operator_share": self.operator,
            "protocol_share": self.protocol,
            "refunded": self.refunded,
            "fee_lamports": self.fees,
            "failed_fee_lamports": self.failed_fees,
        })
    }

    fn text(&self) -> String {
        format!(
            "rows              {}\ncredited          {} base units\n  to nodes        {}\n  to the operator {}\n  to \
             the protocol {}\nrefunded          {} base units\nchain fees        {} lamports\n  for failures    {}\n--csv prints every row",
            self.rows,
            self.credited,
            self.node,
            self.operator,
            self.protocol,
            self.refunded,
            self.fees,
            self.failed_fees,
        )
    }
}

/// RFC 4180: a header, CRLF, quotes where a field needs them.
struct Csv<W> {
    to: W,
}

impl<W: Write> Csv<W> {
    fn begin(to: W) -> io::Result<Self> {
        let mut csv = Self { to };
        csv.line(COLUMNS.iter().map(|column| (*column).to_owned()))?;
        Ok(csv)
    }

    fn row(&mut self, row: &Value) -> io::Result<()> {
        self.line(COLUMNS.iter().map(|column| match &row[*column] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        }))
    }

    fn line(&mut self, fields: impl Iterator<Item = String>) -> io::Result<()> {
        for (index, field) in fields.enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if field.contains(['"', ',', '\r', '\n']) {
                write!(self.to, "{comma}\"{}\"", field.replace('"', "\"\""))?;
            } else {
                write!(self.to, "{comma}{field}")?;
            }
        }
        self.to.write_all(b"\r\n")
    }

    fn end(mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Columns, named as in JSON.
const COLUMNS: [&str; 16] = [
    "at",
    "kind",
    "node",
    "channel",
    "from",
    "to",
    "node_share",
    "operator_share",
    "protocol_share",
    "refunded",
    "signature",
    "slot",
    "transaction_fee_lamports",
    "fee_share_lamports",
    "voucher_signature",
    "error",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        let mut bytes = Vec::new();
        let mut csv = Csv { to: &mut bytes };
        csv.line(["plain", "a,b", "say \"x\"", ""].into_iter().map(str::to_owned)).unwrap();
        csv.end().unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), "plain,\"a,b\",\"say \"\"x\"\"\",\r\n");
    }

    #[test]
    fn sums_that_do_not_fit_are_errors() {
        let row = |to: u64| {
            json!({ "from": 0, "to": to, "node_share": to, "operator_share": 0, "protocol_share": 0, "refunded": 0,
                    "fee_share_lamports": 0 })
        };
        let mut failed = row(0);
        failed["error"] = json!("custom program error: 0x1");
        failed["fee_share_lamports"] = json!(7);
        let mut totals = Totals::default();
        assert!(totals.add(&failed).is_some());
        assert_eq!((totals.fees, totals.failed_fees), (7, 7));
        assert!(totals.add(&row(u64::MAX)).is_some());
        assert!(totals.add(&row(1)).is_none());
        assert!(Totals::default().add(&json!({})).is_none());
    }
}
