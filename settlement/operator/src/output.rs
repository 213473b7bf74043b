//! What the command says: text for people, or one JSON object as the last line.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::failure::Failure;

/// Where results go.
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// A result: the object with `--json`, else the text.
    pub(crate) fn result(&self, object: &Value, text: &str) {
        if self.json { say(&mut io::stdout(), object) } else { say(&mut io::stdout(), &text) }
    }

    /// One object whatever the flags, for whoever started this process.
    pub(crate) fn object(&self, object: &Value) {
        say(&mut io::stdout(), object);
    }

    /// Why it did not work, and what to try next.
    pub(crate) fn failure(&self, failure: &Failure) {
        if self.json {
            let error = json!({
                "code": failure.code,
                "who_acts": failure.who_acts,
                "message": failure.message,
                "next_step": failure.next_step,
                "amount": Value::Null,
            });
            say(&mut io::stdout(), &json!({ "error": error }));
        } else {
            say(&mut io::stderr(), &format_args!("error: {}\nnext:  {}", failure.message, failure.next_step));
        }
    }
}

fn say(to: &mut dyn Write, what: &dyn std::fmt::Display) {
    // Nobody listens any more: there is no one to tell either.
    let _ = writeln!(to, "{what}").and_then(|()| to.flush());
}
