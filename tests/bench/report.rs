//! How benchmarks speak: a table for people, one JSON object for machines.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "speaking is what this module is for")]

use std::process::ExitCode;

use serde_json::{Map, Value};

/// What a benchmark found.
#[derive(Debug)]
pub(crate) struct Report {
    /// What was measured, in a line.
    pub(crate) title: String,
    /// The figures, in order.
    pub(crate) figures: Vec<Figure>,
    /// What a reader must know to judge them, a line each; not part of the JSON.
    pub(crate) notes: Vec<String>,
}

/// One measured number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    /// Its name, which tells its unit; the key in the JSON.
    pub(crate) name: &'static str,
    /// The number.
    pub(crate) value: u64,
    /// What is to be reached, if anything was set.
    pub(crate) goal: Option<Goal>,
    /// Number and goal count thousandths, and are shown as such.
    pub(crate) is_milli: bool,
}

/// What is to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// This or more.
    AtLeast(u64),
    /// This or less.
    AtMost(u64),
}

impl Figure {
    /// A number without a goal.
    pub(crate) const fn new(name: &'static str, value: u64) -> Self {
        Self { name, value, goal: None, is_milli: false }
    }

    /// A number that should be this or more.
    pub(crate) const fn at_least(name: &'static str, value: u64, goal: u64) -> Self {
        Self { name, value, goal: Some(Goal::AtLeast(goal)), is_milli: false }
    }

    /// A number that should be this or less.
    pub(crate) const fn at_most(name: &'static str, value: u64, goal: u64) -> Self {
        Self { name, value, goal: Some(Goal::AtMost(goal)), is_milli: false }
    }

    /// The same number and goal, counted in thousandths: a share or a ratio.
    pub(crate) const fn in_thousandths(self) -> Self {
        Self { is_milli: true, ..self }
    }

    fn shown(&self, value: u64) -> String {
        if self.is_milli { format!("{}.{:03}", value / 1_000, value % 1_000) } else { value.to_string() }
    }

    fn json(&self) -> Value {
        // What was just written as a decimal number reads as one.
        serde_json::from_str(&self.shown(self.value)).unwrap_or(Value::Null)
    }

    fn verdict(&self) -> (String, &'static str) {
        match self.goal {
            None => (String::new(), ""),
            Some(Goal::AtLeast(goal)) => {
                (format!(">= {}", self.shown(goal)), if self.value >= goal { "yes" } else { "NO" })
            }
            Some(Goal::AtMost(goal)) => {
                (format!("<= {}", self.shown(goal)), if self.value <= goal { "yes" } else { "NO" })
            }
        }
    }
}

/// Says what was found, or why nothing was.
pub(crate) fn conclude(measured: anyhow::Result<Report>, json: bool) -> ExitCode {
    match measured {
        Ok(report) if json => println!("{}", to_json(&report)),
        Ok(report) => println!("{}", to_table(&report)),
        Err(error) => {
            eprintln!("aro-bench: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn to_json(report: &Report) -> Value {
    let figures = report.figures.iter().map(|figure| (figure.name.to_owned(), figure.json()));
    Value::Object(figures.collect::<Map<_, _>>())
}

fn to_table(report: &Report) -> String {
    let line = format!("+-{:-<32}-+-{:->12}-+-{:->12}-+-{:->7}-+", "", "", "", "");
    let mut text = format!("{}\n{line}\n", report.title);
    text += &format!("| {:<32} | {:>12} | {:>12} | {:>7} |\n{line}\n", "figure", "measured", "to reach", "reached");
    for figure in &report.figures {
        let (goal, reached) = figure.verdict();
        text += &format!("| {:<32} | {:>12} | {goal:>12} | {reached:>7} |\n", figure.name, figure.shown(figure.value));
    }
    text += &line;
    for note in &report.notes {
        text += "\n";
        text += note;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_in_order_and_know_their_goals() {
        let figures = vec![Figure::at_least("b", 5, 6), Figure::at_most("a", 5, 6), Figure::new("c", 7)];
        let report = Report { title: "t".into(), figures, notes: vec!["n".into()] };
        let json: Value = serde_json::from_str(&to_json(&report).to_string()).unwrap();
        assert_eq!(json, serde_json::json!({"b": 5, "a": 5, "c": 7}));
        let table = to_table(&report);
        let reached: Vec<bool> = table.lines().map(|line| line.contains("NO")).filter(|no| *no).collect();
        assert_eq!(reached.len(), 1, "{table}");
        assert!(table.ends_with("\nn"));
    }

    #[test]
    fn thousandths_are_shown_as_decimals() {
        let figures = vec![Figure::at_least("share", 1_050, 950).in_thousandths()];
        let report = Report { title: "t".into(), figures, notes: Vec::new() };
        assert_eq!(to_json(&report).to_string(), r#"{"share":1.05}"#);
        let table = to_table(&report);
        assert!(table.contains("1.050") && table.contains(">= 0.950") && table.contains("yes"), "{table}");
    }
}
