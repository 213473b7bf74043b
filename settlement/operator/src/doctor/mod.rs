//! The examination: is everything there that an operator needs, and is anything about to go wrong?
//!
//! It only reads. What the chain can tell is examined by whoever asks; what the store can tell by whoever has it open,
//! which is the running operator while there is one.

mod chain;
mod running;
mod store;

use serde_json::{Value, json};

pub use chain::{ChainSubject, examine_chain};
pub use running::{examine_fees, examine_servers};
pub use store::examine_store;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which check: one word, or two.
    pub check: String,
    /// How it is.
    pub level: Level,
    /// What was found, for people.
    pub message: String,
    /// What to do about it; empty if nothing.
    pub next_step: String,
}

/// How a thing is, in rising order of worry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but somebody should look.
    Warn,
    /// It does not work, or money is at risk.
    Fail,
}

impl Level {
    /// Its name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Ok, Self::Warn, Self::Fail].into_iter().find(|level| level.name() == name)
    }
}

impl Finding {
    /// All is well.
    pub fn ok(check: &str, message: impl Into<String>) -> Self {
        Self { check: check.into(), level: Level::Ok, message: message.into(), next_step: String::new() }
    }

    /// Somebody should look.
    pub fn warn(check: &str, message: impl Into<String>, next_step: &str) -> Self {
        Self { check: check.into(), level: Level::Warn, message: message.into(), next_step: next_step.into() }
    }

    /// It does not work, or money is at risk.
    pub fn fail(check: &str, message: impl Into<String>, next_step: &str) -> Self {
        Self { check: check.into(), level: Level::Fail, message: message.into(), next_step: next_step.into() }
    }

    /// The finding as one JSON object.
    pub fn to_json(&self) -> Value {
        json!({
            "check": self.check.as_str(),
            "level": self.level.name(),
            "message": self.message.as_str(),
            "next_step": self.next_step.as_str(),
        })
    }

    /// Reads what [`Self::to_json`] wrote.
    pub fn from_json(value: &Value) -> Option<Self> {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        Some(Self {
            check: text("check")?,
            level: Level::from_name(value["level"].as_str()?)?,
            message: text("message")?,
            next_step: text("next_step")?,
        })
    }
}

/// The worst of some findings.
pub fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_read_back_and_the_worst_counts() {
        let findings = [Finding::ok("a", "b"), Finding::fail("c", "d", "e"), Finding::warn("f", "g", "h")];
        for finding in &findings {
            assert_eq!(Finding::from_json(&finding.to_json()).as_ref(), Some(finding));
        }
        assert_eq!((worst(&findings), worst(&[])), (Level::Fail, Level::Ok));
        assert_eq!(Finding::from_json(&json!({ "check": "a", "level": "odd" })), None);
    }
}
