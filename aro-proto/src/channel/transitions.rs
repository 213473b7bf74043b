//! The channel's life at the payee, as a table: what each event does in each state.
//!
//! The drawing in `protocol-spec/diagrams/channel.md` is made from this table, and a test keeps the two equal.

use super::terms::ChannelState;

/// Where a channel is, as the node knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Unknown,
    Open,
    Closing,
    Closed,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The chain was read: open.
    SeenOpen,
    /// The chain was read: closing.
    SeenClosing,
    /// The chain was read: closed, or the account is gone.
    SeenClosed,
    /// A request wants to begin.
    Begin,
    /// An admitted request wants to send a batch.
    Send,
    /// A voucher arrived.
    Offer,
    /// A verified voucher became durable.
    Durable,
}

/// What the payee does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Track,
    Raise,
    Reserve,
    Bill,
    Verify,
    VerifyBeforeDeadline,
    Credit,
    Ignore,
    Refuse,
}

/// The table. A channel only moves forward, whatever order the chain's news arrives in.
pub(super) const fn step(state: State, event: Event) -> (State, Action) {
    use {Action as A, Event as E, State as S};
    match (state, event) {
        (S::Unknown, E::SeenOpen) => (S::Open, A::Track),
        (S::Unknown, E::SeenClosing) => (S::Closing, A::Track),
        (S::Unknown, E::SeenClosed) => (S::Closed, A::Track),
        (S::Unknown, E::Begin | E::Send | E::Offer) => (S::Unknown, A::Refuse),
        (S::Unknown, E::Durable) => (S::Unknown, A::Ignore),

        (S::Open, E::SeenOpen) => (S::Open, A::Raise),
        (S::Open, E::SeenClosing) => (S::Closing, A::Raise),
        (S::Open, E::SeenClosed) => (S::Closed, A::Raise),
        (S::Open, E::Begin) => (S::Open, A::Reserve),
        (S::Open, E::Send) => (S::Open, A::Bill),
        (S::Open, E::Offer) => (S::Open, A::Verify),
        (S::Open, E::Durable) => (S::Open, A::Credit),

        (S::Closing, E::SeenOpen | E::SeenClosing) => (S::Closing, A::Raise),
        (S::Closing, E::SeenClosed) => (S::Closed, A::Raise),
        (S::Closing, E::Begin) => (S::Closing, A::Refuse),
        (S::Closing, E::Send) => (S::Closing, A::Bill),
        (S::Closing, E::Offer) => (S::Closing, A::VerifyBeforeDeadline),
        (S::Closing, E::Durable) => (S::Closing, A::Credit),

        (S::Closed, E::SeenOpen | E::SeenClosing | E::SeenClosed) => (S::Closed, A::Raise),
        (S::Closed, E::Begin | E::Send | E::Offer) => (S::Closed, A::Refuse),
        (S::Closed, E::Durable) => (S::Closed, A::Credit),
    }
}

impl State {
    /// `None` for a channel that the node has not seen on chain.
    pub(super) const fn of(seen: Option<&ChannelState>) -> Self {
        match seen {
            None => Self::Unknown,
            Some(ChannelState::Open) => Self::Open,
            Some(ChannelState::Closing { .. }) => Self::Closing,
            Some(ChannelState::Closed) => Self::Closed,
        }
    }
}

impl Event {
    pub(super) const fn seen(state: &ChannelState) -> Self {
        match state {
            ChannelState::Open => Self::SeenOpen,
            ChannelState::Closing { .. } => Self::SeenClosing,
            ChannelState::Closed => Self::SeenClosed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    const STATES: [State; 4] = [State::Unknown, State::Open, State::Closing, State::Closed];
    const EVENTS: [Event; 7] = [
        Event::SeenOpen,
        Event::SeenClosing,
        Event::SeenClosed,
        Event::Begin,
        Event::Send,
        Event::Offer,
        Event::Durable,
    ];

    #[test]
    fn the_drawing_in_the_spec_is_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol-spec/diagrams/channel.md");
        if std::env::var_os("ARO_UPDATE").is_some() {
            std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
            std::fs::write(path, table()).unwrap();
        }
        let drawn = std::fs::read_to_string(path).unwrap_or_default();
        assert!(drawn == table(), "channel.md is not the table; run this test with ARO_UPDATE=1 and read the diff");
    }

    #[test]
    fn no_event_moves_a_channel_back() {
        for state in STATES {
            for event in EVENTS {
                assert!(step(state, event).0 as u8 >= state as u8, "{state:?} {event:?}");
            }
        }
    }

    fn table() -> String {
        let mut text = String::from(HEAD);
        text.push_str("| event |");
        for state in STATES {
            write!(text, " {} |", name(state)).unwrap();
        }
        text.push_str("\n|---|---|---|---|---|\n");
        for event in EVENTS {
            write!(text, "| {} |", cause(event)).unwrap();
            for state in STATES {
                let (next, action) = step(state, event);
                write!(text, " {}", effect(action)).unwrap();
                if next != state {
                    write!(text, ", to **{}**", name(next)).unwrap();
                }
                text.push_str(" |");
            }
            text.push('\n');
        }
        text.push_str("\n```dot\ndigraph channel {\n");
        for state in STATES {
            for event in EVENTS {
                let (next, _) = step(state, event);
                if next != state {
                    writeln!(text, "  {} -> {} [label=\"{}\"]", name(state), name(next), cause(event)).unwrap();
                }
            }
        }
        text.push_str("}\n```\n");
        text + OUTCOMES
    }

    fn name(state: State) -> &'static str {
        match state {
            State::Unknown => "unknown",
            State::Open => "open",
            State::Closing => "closing",
            State::Closed => "closed",
        }
    }

    fn cause(event: Event) -> &'static str {
        match event {
            Event::SeenOpen => "chain says open",
            Event::SeenClosing => "chain says closing",
            Event::SeenClosed => "chain says closed",
            Event::Begin => "request begins",
            Event::Send => "batch wants out",
            Event::Offer => "voucher arrives",
            Event::Durable => "voucher is durable",
        }
    }

    fn effect(action: Action) -> &'static str {
        match action {
            Action::Track => "track",
            Action::Raise => "raise deposit and settled",
            Action::Reserve => "reserve its charge",
            Action::Bill => "bill if within the window, else wait",
            Action::Verify => "check and verify",
            Action::VerifyBeforeDeadline => "check and verify before the deadline",
            Action::Credit => "credit",
            Action::Ignore => "ignore",
            Action::Refuse => "refuse",
        }
    }

    const HEAD: &str = "# The channel at the payee

Drawn from `aro-proto/src/channel/transitions.rs`; the test `the_drawing_in_the_spec_is_this_table` keeps the two
equal (`ARO_UPDATE=1` redraws). States are what the chain says, as far as the node has seen.

";

    const OUTCOMES: &str = "
A voucher that arrives is checked in this order, the cheapest first; the first failure is the answer:
channel, state, equal to a known one, rising, deposit, expiry, signature.
";
}
