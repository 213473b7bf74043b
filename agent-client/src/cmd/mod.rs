//! One file for each command.

pub(crate) mod approve;
pub(crate) mod budget;
pub(crate) mod channel;
pub(crate) mod completions;
pub(crate) mod get;
pub(crate) mod keys;
pub(crate) mod name;
pub(crate) mod put;
pub(crate) mod quote;
pub(crate) mod receipts;
pub(crate) mod tree;
pub(crate) mod view;
pub(crate) mod wallet;

use agent_client::{Agent, ChannelEvent, ChannelPolicy};
use aro_proto::Amount;
use aro_proto::merkle::ByteRanges;
use clap::Args;

use crate::output::Failure;
use view::{ProgressMode, View};

/// What a transfer may cost, and how it shows where it stands.
#[derive(Args)]
pub(crate) struct Terms {
    /// Refuse if the node asks more $ARO than this for all of it
    #[arg(long, value_name = "ARO")]
    max_price: Option<Amount>,
    /// Spend no more $ARO than this
    #[arg(long, value_name = "ARO")]
    pub(crate) budget: Option<Amount>,
    /// Which class of content it is, for a budget that caps classes
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// What to show on the error output meanwhile
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub(crate) progress: ProgressMode,
}

/// Whether a command may open a channel and top it up.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Opening {
    /// What to set aside at least when a channel is opened or topped up [default: 0.1, or four times the price]
    #[arg(long, value_name = "ARO", conflicts_with = "no_open")]
    deposit: Option<Amount>,
    /// Open no channel and top none up: refuse if there is none that pays
    #[arg(long)]
    no_open: bool,
}

impl Opening {
    pub(crate) fn policy(self) -> ChannelPolicy {
        if self.no_open {
            return ChannelPolicy::manual();
        }
        let default = ChannelPolicy { idle_close_s: None, ..ChannelPolicy::default() };
        match self.deposit {
            Some(deposit) => ChannelPolicy {
                min_deposit: deposit,
                node_cap: default.node_cap.max(deposit),
                total_cap: default.total_cap.max(deposit),
                ..default
            },
            None => default,
        }
    }
}

impl Terms {
    pub(crate) fn max_price(&self) -> Amount {
        self.max_price.unwrap_or(Amount::new(u64::MAX))
    }

    pub(crate) fn budget(&self) -> Amount {
        self.budget.unwrap_or(Amount::new(u64::MAX))
    }

    pub(crate) fn class(&self) -> &str {
        self.class.as_deref().unwrap_or_default()
    }
}

/// Runs a transfer until it ends or somebody interrupts it; either way the nodes get what they are owed.
pub(crate) async fn transfer<T>(
    agent: &Agent,
    view: &View,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let done = tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
    };
    view.end();
    agent.close().await;
    done
}

/// What was done with a channel unasked, for people.
pub(crate) fn told(event: &ChannelEvent) -> String {
    match event {
        ChannelEvent::Opened { channel, node, deposit } => {
            format!("opened channel {channel} to {node} with {deposit} $ARO")
        }
        ChannelEvent::ToppedUp { channel, node, added } => {
            format!("added {added} $ARO to channel {channel} to {node}")
        }
        ChannelEvent::Closing { channel, node } => format!("asked to close channel {channel} to {node}"),
        ChannelEvent::Reclaimed { channel, refunded } => format!("took back {refunded} $ARO from channel {channel}"),
    }
}

/// A time from now: digits and `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lifetime(u32);

impl Lifetime {
    pub(crate) fn seconds(self) -> u32 {
        self.0
    }
}

impl std::str::FromStr for Lifetime {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "a time reads 90s, 45m, 24h or 7d, and is above zero";
        let unit = match text.chars().last() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3_600,
            Some('d') => 24 * 3_600,
            _ => return Err(SHAPE),
        };
        let digits = &text[..text.len() - 1];
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let count = plain.then(|| digits.parse::<u32>().ok()).flatten().ok_or(SHAPE)?;
        count.checked_mul(unit).filter(|seconds| *seconds > 0).map(Self).ok_or(SHAPE)
    }
}

/// `START-END` as in HTTP: first and last byte, counted from 0; without END to the content's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    start: u64,
    end: u64,
}

impl std::str::FromStr for Span {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "a range reads START-END, first and last byte counted from 0, or START- to the end";
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse::<u64>().ok()).flatten().ok_or(SHAPE)
        };
        let (start, last) = text.split_once('-').ok_or(SHAPE)?;
        let start = number(start)?;
        let end = if last.is_empty() { u64::MAX } else { number(last)?.checked_add(1).ok_or(SHAPE)? };
        if start < end { Ok(Self { start, end }) } else { Err("a range ends before it begins") }
    }
}

/// The ranges of all spans; everything if there are none.
fn ranges(spans: &[Span]) -> Result<ByteRanges, Failure> {
    if spans.is_empty() {
        return Ok(ByteRanges::all());
    }
    ByteRanges::new(spans.iter().map(|span| span.start..span.end))
        .map_err(|error| Failure::usage(&error.to_string(), "give other --range values"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_has_a_unit() {
        for (text, seconds) in [("90s", 90), ("45m", 2_700), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(text.parse(), Ok(Lifetime(seconds)));
        }
        for bad in ["", "s", "0s", "7", "7 d", "-1h", "1.5h", "99999999999d", "4294967295m", "7w"] {
            assert!(bad.parse::<Lifetime>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_span_names_first_and_last_byte() {
        assert_eq!("0-0".parse(), Ok(Span { start: 0, end: 1 }));
        assert_eq!("5-".parse(), Ok(Span { start: 5, end: u64::MAX }));
        for bad in
            ["", "-", "-5", "5", "5-4", "a-b", "1-2-3", "+1-2", "0-18446744073709551615", "99999999999999999999-"]
        {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
