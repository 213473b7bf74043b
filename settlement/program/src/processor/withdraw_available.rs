//! Pays an agent's available money out.

use pinocchio::ProgramResult;
use settlement_interface::{
    accounts::{AgentView, discriminator},
    errors::SettlementError,
    instructions::WithdrawAvailable,
};

use crate::{
    account::{self, load, same},
    entrypoint::Call,
    ledger::{asked, take},
    refuse::{refusal, require},
    token::{self, Payout},
};

/// See [`WithdrawAvailable`].
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [owner, agent_account, destination, vault, config_account, token_program] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    let amount = WithdrawAvailable::from_bytes(account::instruction(data)?).amount;
    account::signed(owner)?;
    token::is_token_program(token_program)?;
    let config = account::config(config_account, program)?;
    token::is_vault(vault, &config)?;
    token::check_payout(destination, &config)?;

    let amount = {
        let mut bytes = load(agent_account, program, discriminator::AGENT)?;
        let mut agent = AgentView::new(&mut bytes);
        require(same(&agent.owner(), owner.address()), SettlementError::Unauthorised)?;
        let amount = asked(agent.available(), amount);
        agent.set_available(take(agent.available(), amount)?);
        amount
    };
    Payout { vault, destination, config: config_account, config_bump: config.bump, amount }.pay()
}
