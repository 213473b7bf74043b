//! How benchmarks speak: a table for people, one JSON object for machines.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "speaking is what this module is for")]

use std::process::ExitCode;

use serde_json::{Map, Number, Value};

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
    /// The number, in units of its last decimal.
    pub(crate) value: u64,
    /// How many decimals it has.
    pub(crate) decimals: usize,
    /// What is to be reached, if anything was set.
    pub(crate) goal: Option<Goal>,
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
        Self { name, value, decimals: 0, goal: None }
    }

    /// A number that should be this or more.
    pub(crate) const fn at_least(name: &'static str, value: u64, goal: u64) -> Self {
        Self { name, value, decimals: 0, goal: Some(Goal::AtLeast(goal)) }
    }

    /// A number that should be this or less.
    pub(crate) const fn at_most(name: &'static str, value: u64, goal: u64) -> Self {
        Self { name, value, decimals: 0, goal: Some(Goal::AtMost(goal)) }
    }

    /// The number and its goal are thousandths: 1,234 is shown as 1.234.
    pub(crate) const fn thousandths(mut self) -> Self {
        self.decimals = 3;
        self
    }

    fn shown(&self, value: u64) -> String {
        let digits = format!("{value:0>width$}", width = self.decimals + 1);
        let (whole, decimals) = digits.split_at(digits.len() - self.decimals);
        if decimals.is_empty() { whole.to_owned() } else { format!("{whole}.{decimals}") }
    }

    fn verdict(&self) -> (String, &'static str) {
        let (sign, goal, is_reached) = match self.goal {
            None => return (String::new(), ""),
            Some(Goal::AtLeast(goal)) => (">=", goal, self.value >= goal),
            Some(Goal::AtMost(goal)) => ("<=", goal, self.value <= goal),
        };
        (format!("{sign} {}", self.shown(goal)), if is_reached { "yes" } else { "NO" })
    }

    fn to_json(self) -> Value {
        let number = self.shown(self.value).parse::<Number>();
        number.map_or(Value::Null, Value::Number)
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
    let figures = report.figures.iter().map(|figure| (figure.name.to_owned(), figure.to_json()));
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
    fn thousandths_are_shown_as_decimals() {
        let shown = |value| Figure::at_least("a", value, 950).thousandths();
        assert_eq!([0, 7, 950, 1_234].map(|value| shown(value).shown(value)), ["0.000", "0.007", "0.950", "1.234"]);
        assert_eq!(shown(1_234).to_json(), serde_json::json!(1.234));
        assert_eq!(shown(949).verdict(), (">= 0.950".into(), "NO"));
    }

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
}
