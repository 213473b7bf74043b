//! A channel's life on chain, as a table: what each instruction does in each state.
//!
//! The program does not run this table; a test walks every cell of it against the program's ELF, and the drawing in
//! the spec is made from it. It speaks of calls that are right in everything but what the [`Event`] says: the right
//! signers, accounts and amounts.

use crate::errors::SettlementError;

/// Where a channel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// The address was never used.
    None,
    /// Vouchers settle, the deposit can be topped up.
    Open,
    /// The agent asked to close, and the deadline has not come: vouchers settle.
    Closing,
    /// Closing on chain, but the deadline has come.
    Overdue,
    /// Nothing settles any more; the rest awaits reclaim.
    Closed,
    /// The account is gone. On chain this looks as [`State::None`] does, but the agent's `next_nonce` has passed.
    Reclaimed,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// open_batch with the nonce of this address.
    Open,
    /// top_up.
    TopUp,
    /// An entry of settle_batch.
    Settle(Claim),
    /// An entry of close_batch.
    Close(Claim),
    /// request_close.
    RequestClose,
    /// The chain's clock reaches the deadline, if there is one.
    Deadline,
    /// An entry of finalize_batch.
    Finalize,
    /// An entry of reclaim_batch.
    Reclaim,
}

/// What the voucher of a batch entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// Above the watermark, within the deposit, not expired, signed.
    Higher,
    /// Not above the watermark. Nothing else of it is looked at.
    NotHigher,
    /// Above the watermark, but past its expiry.
    Expired,
    /// Above the deposit.
    AboveDeposit,
    /// Above the watermark, with a signature that does not verify.
    Forged,
}

/// What becomes of the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It does its work.
    Done,
    /// The entry is marked in the bitmap, nothing changes, and the other entries go on.
    Skipped,
    /// The whole instruction fails, and with it the transaction.
    Refused(SettlementError),
}

impl State {
    /// All states, in the order in which a channel passes them.
    pub const ALL: [Self; 6] = [Self::None, Self::Open, Self::Closing, Self::Overdue, Self::Closed, Self::Reclaimed];

    /// Its name in the spec.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Open => "open",
            Self::Closing => "closing",
            Self::Overdue => "overdue",
            Self::Closed => "closed",
            Self::Reclaimed => "reclaimed",
        }
    }
}

impl Event {
    /// All events.
    pub const ALL: [Self; 16] = [
        Self::Open,
        Self::TopUp,
        Self::Settle(Claim::Higher),
        Self::Settle(Claim::NotHigher),
        Self::Settle(Claim::Expired),
        Self::Settle(Claim::AboveDeposit),
        Self::Settle(Claim::Forged),
        Self::Close(Claim::Higher),
        Self::Close(Claim::NotHigher),
        Self::Close(Claim::Expired),
        Self::Close(Claim::AboveDeposit),
        Self::Close(Claim::Forged),
        Self::RequestClose,
        Self::Deadline,
        Self::Finalize,
        Self::Reclaim,
    ];

    /// Its name in the spec.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::TopUp => "top_up",
            Self::Settle(Claim::Higher) => "settle, higher",
            Self::Settle(Claim::NotHigher) => "settle, not higher",
            Self::Settle(Claim::Expired) => "settle, expired",
            Self::Settle(Claim::AboveDeposit) => "settle, above the deposit",
            Self::Settle(Claim::Forged) => "settle, forged",
            Self::Close(Claim::Higher) => "close, higher",
            Self::Close(Claim::NotHigher) => "close, not higher",
            Self::Close(Claim::Expired) => "close, expired",
            Self::Close(Claim::AboveDeposit) => "close, above the deposit",
            Self::Close(Claim::Forged) => "close, forged",
            Self::RequestClose => "request_close",
            Self::Deadline => "the deadline comes",
            Self::Finalize => "finalize",
            Self::Reclaim => "reclaim",
        }
    }
}

/// The table. A channel only moves forward.
pub const fn step(state: State, event: Event) -> (State, Outcome) {
    use {Event as E, Outcome as O, SettlementError as Error, State as S};
    match (state, event) {
        (S::None, E::Open) => (S::Open, O::Done),
        (_, E::Open) => (state, O::Refused(Error::NonceUsed)),

        (S::Open, E::TopUp) => (S::Open, O::Done),
        (S::Open, E::RequestClose) => (S::Closing, O::Done),
        (S::None | S::Reclaimed, E::TopUp | E::RequestClose) => (state, O::Refused(Error::WrongOwner)),
        (_, E::TopUp | E::RequestClose) => (state, O::Refused(Error::WrongStatus)),

        (S::Open | S::Closing, E::Settle(claim)) => (state, judge(claim)),
        (S::Open | S::Closing, E::Close(Claim::NotHigher)) => (S::Closed, O::Done),
        (S::Open | S::Closing, E::Close(claim)) => match judge(claim) {
            O::Done => (S::Closed, O::Done),
            other => (state, other),
        },
        (_, E::Settle(_) | E::Close(_)) => (state, O::Skipped),

        (S::Closing, E::Deadline) => (S::Overdue, O::Done),
        (_, E::Deadline) => (state, O::Done),
        (S::Overdue, E::Finalize) => (S::Closed, O::Done),
        (_, E::Finalize) => (state, O::Skipped),
        (S::Closed, E::Reclaim) => (S::Reclaimed, O::Done),
        (_, E::Reclaim) => (state, O::Skipped),
    }
}

/// What a voucher comes to where vouchers settle.
const fn judge(claim: Claim) -> Outcome {
    match claim {
        Claim::Higher => Outcome::Done,
        Claim::NotHigher | Claim::Expired => Outcome::Skipped,
        Claim::AboveDeposit => Outcome::Refused(SettlementError::AboveDeposit),
        Claim::Forged => Outcome::Refused(SettlementError::BadSignature),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_event_moves_a_channel_back_and_only_done_moves_it() {
        for state in State::ALL {
            for event in Event::ALL {
                let (next, outcome) = step(state, event);
                assert!(next >= state, "{state:?} {event:?}");
                assert!(outcome == Outcome::Done || next == state, "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn every_state_but_the_last_has_a_way_on() {
        for state in &State::ALL[..5] {
            assert!(Event::ALL.iter().any(|event| step(*state, *event).0 > *state), "{state:?}");
        }
        assert!(Event::ALL.iter().all(|event| step(State::Reclaimed, *event).0 == State::Reclaimed));
    }
}
