//! Asking on the terminal before a large amount is let go.

use std::io::{BufRead, IsTerminal, Write, stderr, stdin};

use agent_client::{Approval, Approver, Spending};
use async_trait::async_trait;

/// Somebody at the terminal, or `--yes`.
pub(crate) struct Person {
    pub(crate) says_yes: bool,
}

#[async_trait]
impl Approver for Person {
    async fn approve(&self, approval: &Approval) -> bool {
        if self.says_yes {
            return true;
        }
        if !stdin().is_terminal() || !stderr().is_terminal() {
            return false;
        }
        let Approval { amount, threshold, node, content, spending } = *approval;
        let what = match (spending, content) {
            (Spending::Deposits, _) => format!("lock {amount} $ARO in a channel to node {node}"),
            (Spending::Vouchers, Some(content)) => format!("spend up to {amount} $ARO at node {node} on {content}"),
            (Spending::Vouchers, None) => format!("spend up to {amount} $ARO at node {node}"),
        };
        let question = format!("{what}? It is above {threshold} $ARO. [y/N] ");
        // A thread of its own: whoever is asked takes as long as they like.
        tokio::task::spawn_blocking(move || ask(&question)).await.unwrap_or(false)
    }
}

fn ask(question: &str) -> bool {
    let mut answer = String::new();
    let asked = stderr().write_all(question.as_bytes()).and_then(|()| stderr().flush());
    asked.is_ok() && stdin().lock().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
