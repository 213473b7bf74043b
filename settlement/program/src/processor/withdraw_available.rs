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
    vault::Exit,
};

/// See [`WithdrawAvailable`].
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [owner, agent_account, destination, vault, config, token_program] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    let amount = WithdrawAvailable::from_bytes(account::instruction(data)?).amount;
    account::signed(owner)?;
    let exit = Exit::open(program, vault, config, token_program)?;
    let amount = {
        let mut bytes = load(agent_account, program, discriminator::AGENT)?;
        let mut agent = AgentView::new(&mut bytes);
        require(same(&agent.owner(), owner.address()), SettlementError::Unauthorised)?;
        let amount = asked(agent.available(), amount);
        agent.set_available(take(agent.available(), amount)?);
        amount
    };
    exit.pay(destination, amount)
}
