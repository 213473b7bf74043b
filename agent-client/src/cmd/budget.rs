//! `aro budget`: the caps of the wallet, and where spending stands.

use std::collections::BTreeMap;
use std::str::FromStr;

use agent_client::{LineSpent, Policy, Spending, Spent, Wallet, WindowCap};
use aro_proto::Amount;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::Global;
use crate::output::{Failure, Output};

#[derive(Subcommand)]
pub(crate) enum BudgetCommand {
    /// Show the caps, and what is spent and set aside by all processes of the wallet
    Show,
    /// Set caps; those that are not given stay as they are
    Set(Set),
}

/// Amounts in $ARO, such as 1.5; `none` takes a cap away.
#[derive(Args)]
pub(crate) struct Set {
    /// The most that is signed away in all
    #[arg(long, value_name = "ARO")]
    total: Option<Setting>,
    /// The most that is locked in channels at a time [default: as --total]
    #[arg(long, value_name = "ARO")]
    deposits: Option<Setting>,
    /// The most that one fetch or upload may cost
    #[arg(long, value_name = "ARO")]
    per_request: Option<Setting>,
    /// The most that any one node gets
    #[arg(long, value_name = "ARO")]
    per_node: Option<Setting>,
    /// The most that this node gets; may be given again
    #[arg(long = "node", value_name = "NODE=ARO")]
    nodes: Vec<Named>,
    /// The most that content of this class may cost; may be given again
    #[arg(long = "class", value_name = "NAME=ARO")]
    classes: Vec<Named>,
    /// The most that is signed away in any span of so many seconds, at least 60; may be given again
    #[arg(long = "window", value_name = "SECONDS=ARO")]
    windows: Vec<Named>,
    /// Ask before a request, a whole tree or a deposit above this
    #[arg(long, value_name = "ARO")]
    ask_above: Option<Setting>,
}

/// An amount, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Setting(Option<Amount>);

/// A name and its amount, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named(String, Setting);

#[derive(Serialize)]
struct Shown<'a> {
    policy: &'a Policy,
    vouchers: Spent,
    deposits: Spent,
    lines: &'a [LineSpent],
}

impl FromStr for Setting {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        text.parse().map(|amount| Self(Some(amount))).map_err(|error: aro_proto::amount::AmountError| error.to_string())
    }
}

impl FromStr for Named {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, setting) = text.rsplit_once('=').ok_or("write NAME=ARO")?;
        Ok(Self(name.to_owned(), setting.parse()?))
    }
}

impl BudgetCommand {
    pub(crate) fn run(&self, global: &Global, output: &Output) -> Result<(), Failure> {
        let wallet = Wallet::open(&global.home()?)?;
        let mut policy = Policy::load(wallet.dir())?.unwrap_or_default();
        if let Self::Set(set) = self {
            set.apply(&mut policy)?;
            policy.save(wallet.dir())?;
        }
        let guard = wallet.budget(policy.clone())?;
        let (vouchers, deposits) = (guard.standing(Spending::Vouchers)?, guard.standing(Spending::Deposits)?);
        let lines = guard.lines()?;
        let shown = Shown { policy: &policy, vouchers, deposits, lines: &lines };
        output.result(&shown, || describe(&shown))
    }
}

impl Set {
    fn apply(&self, policy: &mut Policy) -> Result<(), Failure> {
        let caps = [
            (&self.total, &mut policy.total),
            (&self.deposits, &mut policy.deposits),
            (&self.per_request, &mut policy.per_request),
            (&self.per_node, &mut policy.per_node),
            (&self.ask_above, &mut policy.ask_above),
        ];
        for (setting, cap) in caps {
            if let Some(Setting(amount)) = setting {
                *cap = *amount;
            }
        }
        set_named(&self.nodes, &mut policy.nodes);
        set_named(&self.classes, &mut policy.classes);
        for Named(name, Setting(amount)) in &self.windows {
            let seconds: u32 = name
                .parse()
                .map_err(|_| Failure::usage(&format!("`{name}` is no number of seconds"), "write --window 3600=1.5"))?;
            policy.windows.retain(|window| window.seconds != seconds);
            policy.windows.extend(amount.map(|amount| WindowCap { seconds, amount }));
        }
        Ok(())
    }
}

fn set_named(settings: &[Named], caps: &mut BTreeMap<String, Amount>) {
    for Named(name, Setting(amount)) in settings {
        match amount {
            Some(amount) => caps.insert(name.clone(), *amount),
            None => caps.remove(name),
        };
    }
}

fn describe(shown: &Shown<'_>) -> String {
    let cap = |amount: Option<Amount>| amount.map_or("no cap".to_owned(), |amount| format!("cap {amount}"));
    let Policy { total, deposits, per_request, per_node, nodes, classes, windows, ask_above } = shown.policy;
    let mut lines = vec![
        format!(
            "vouchers: {} $ARO spent, {} set aside, {}",
            shown.vouchers.spent,
            shown.vouchers.reserved,
            cap(*total)
        ),
        format!(
            "deposits: {} $ARO locked, {} set aside, {}",
            shown.deposits.spent,
            shown.deposits.reserved,
            cap(deposits.or(*total))
        ),
        format!("request:  {}", cap(*per_request)),
        format!("node:     {}", cap(*per_node)),
    ];
    lines.extend(nodes.iter().map(|(node, amount)| format!("node {node}: cap {amount}")));
    lines.extend(classes.iter().map(|(class, amount)| format!("class {class}: cap {amount}")));
    lines.extend(windows.iter().map(|window| format!("any {} s: cap {}", window.seconds, window.amount)));
    lines.extend(ask_above.map(|amount| format!("asks above {amount} $ARO")));
    lines.extend(shown.lines.iter().map(|line| {
        let class = if line.class.is_empty() { String::new() } else { format!(", class {}", line.class) };
        format!("{} $ARO {} at {}{class}", line.spent, line.what, line.node)
    }));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_an_amount_or_none() {
        assert_eq!("1.5".parse(), Ok(Setting(Some(Amount::new(1_500_000)))));
        assert_eq!("none".parse(), Ok(Setting(None)));
        assert_eq!("a=b=2".parse(), Ok(Named("a=b".into(), Setting(Some(Amount::new(2_000_000))))));
        for bad in ["", "-1", "1e3", "all"] {
            assert!(bad.parse::<Setting>().is_err(), "{bad}");
        }
        assert!("films".parse::<Named>().is_err());
    }
}
