//! What the chain says about a channel: the ground that both machines stand on.

use settlement_interface::accounts::{Channel, status};
use thiserror::Error;

use super::transitions::{Event, State, step};
use crate::amount::Amount;
use crate::ids::{AgentId, ChannelId};

/// A channel as the chain has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelTerms {
    /// The channel's address.
    pub channel: ChannelId,
    /// The key whose vouchers count.
    pub signer: AgentId,
    /// Base units that the channel holds, settled ones included. Only rises.
    pub deposit: Amount,
    /// The chain's watermark: base units credited to the node so far. Only rises.
    pub settled: Amount,
    /// Whether vouchers still settle.
    pub state: ChannelState,
}

/// Where a channel is in its life. It never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelState {
    /// Vouchers settle, the deposit can be topped up.
    Open,
    /// The agent asked to close: vouchers settle until the deadline.
    Closing {
        /// Vouchers settle before this unix second, not at it.
        deadline: i64,
    },
    /// Nothing settles any more.
    Closed,
}

/// Why an account is not the terms of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TermsError {
    /// A status byte that this version does not know.
    #[error("the channel's account has status {0}, which is unknown here")]
    UnknownStatus(u8),
}

impl ChannelTerms {
    /// The terms that a channel account states.
    ///
    /// # Errors
    /// [`TermsError::UnknownStatus`] if the account was written by a later program.
    pub fn from_account(channel: ChannelId, account: &Channel) -> Result<Self, TermsError> {
        let state = match account.status {
            status::OPEN => ChannelState::Open,
            status::CLOSING => ChannelState::Closing { deadline: account.deadline },
            status::CLOSED => ChannelState::Closed,
            unknown => return Err(TermsError::UnknownStatus(unknown)),
        };
        Ok(Self {
            channel,
            signer: AgentId::from_bytes(account.signer),
            deposit: Amount::new(account.deposit),
            settled: Amount::new(account.settled),
            state,
        })
    }

    /// Takes in newer terms: deposit and settled only rise, the state only moves forward.
    pub(super) fn advance(&mut self, news: &Self) {
        if news.channel != self.channel {
            return;
        }
        self.deposit = self.deposit.max(news.deposit);
        self.settled = self.settled.max(news.settled);
        let (next, _) = step(State::of(Some(&self.state)), Event::seen(&news.state));
        if next == State::of(Some(&news.state)) {
            self.state = news.state;
        }
    }
}
