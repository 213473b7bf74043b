//! Every balance of a deployment, and the proof that they add up.

use settlement_chain::reads::{self, ReadError};
use settlement_chain::{Account, AccountFilter, Address, ChainClient, Program};
use settlement_interface::accounts::{Agent, Channel, Node, Operator, discriminator};

/// The vault and what it owes, in base units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Tokens in the vault.
    pub vault: u64,
    /// Agents' money outside channels.
    pub available: u64,
    /// Deposits not yet settled.
    pub unsettled: u64,
    /// Nodes' earnings not yet withdrawn.
    pub earned: u64,
    /// Operators' fees not yet withdrawn.
    pub operator_fees: u64,
    /// Protocol fees not yet swept.
    pub protocol_fees: u64,
}

impl Books {
    /// Reads every account of the program.
    ///
    /// # Errors
    /// The chain cannot be read, or an account is not what it should be.
    pub async fn read(chain: &dyn ChainClient, program: &Program) -> Result<Self, ReadError> {
        let mut books = Self { vault: reads::token_balance(chain, &program.vault().0).await?, ..Self::default() };
        for (_, account) in all(chain, program, discriminator::AGENT, Agent::LEN).await? {
            books.available += Agent::decode(&account.data).map_or(0, |agent| agent.available);
        }
        for (_, account) in all(chain, program, discriminator::CHANNEL, Channel::LEN).await? {
            books.unsettled += Channel::decode(&account.data).map_or(0, |channel| channel.deposit - channel.settled);
        }
        for (_, account) in all(chain, program, discriminator::NODE, Node::LEN).await? {
            let (earned, fees) = Node::decode(&account.data).map_or((0, 0), |node| (node.earned, node.protocol_fees));
            books.earned += earned;
            books.protocol_fees += fees;
        }
        for (_, account) in all(chain, program, discriminator::OPERATOR, Operator::LEN).await? {
            books.operator_fees += Operator::decode(&account.data).map_or(0, |operator| operator.fees);
        }
        Ok(books)
    }

    /// What the vault owes.
    #[must_use]
    pub fn owed(&self) -> u64 {
        self.available + self.unsettled + self.earned + self.operator_fees + self.protocol_fees
    }

    /// The vault holds exactly what it owes (nobody has donated to it).
    ///
    /// # Panics
    /// It does not.
    pub fn assert_balanced(&self) {
        assert_eq!(self.vault, self.owed(), "{self:?}");
    }
}

async fn all(
    chain: &dyn ChainClient,
    program: &Program,
    discriminator: u8,
    data_len: usize,
) -> Result<Vec<(Address, Account)>, ReadError> {
    let filter = AccountFilter { discriminator, data_len, key: None };
    Ok(chain.program_accounts(&program.id, &filter).await?)
}
