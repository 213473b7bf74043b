//! On which terms a batch goes out: limits as a simulation finds them, a price as others pay it.

use std::time::Instant;

use solana_address::Address;
use solana_instruction::Instruction;

use super::{FeeBudget, Refusal, SubmitError, Terms, price_within, simulate};
use crate::{ChainClient, Simulation};

/// The terms of one transaction, and what they have set aside of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What it may take, and offers.
    pub terms: Terms,
    /// For which kind of work.
    pub is_urgent: bool,
    /// Lamports, to be given back if the transaction never lands.
    pub priority_fee: u64,
}

/// Finds the terms of the next transaction of a batch. `generation` counts those before it that died.
///
/// # Errors
/// [`SubmitError::Refused`] if the chain would refuse it: nothing was signed, no fee is lost.
pub async fn offer(
    chain: &dyn ChainClient,
    budget: &FeeBudget,
    payer: &Address,
    batch: &Instruction,
    base: Terms,
    is_urgent: bool,
    generation: u32,
) -> Result<Offer, SubmitError> {
    let instructions = std::slice::from_ref(batch);
    let limited = match simulate(chain, payer, instructions, base.format).await {
        Ok((draft, Simulation { err: Some(error), .. })) => {
            return Err(SubmitError::Refused(Refusal::new(&draft.message, error)));
        }
        Ok((_, simulation)) if skips(&simulation) => {
            Terms { compute_units: base.compute_units, ..base.with_limits_of(&simulation) }
        }
        Ok((_, simulation)) => base.with_limits_of(&simulation),
        // A server that does not simulate may well send.
        Err(error) => {
            tracing::debug!(%error, "not simulated; the limits are estimates");
            base
        }
    };
    let recent = match chain.recent_fees(&writable(payer, batch)).await {
        Ok(recent) => recent,
        Err(error) => {
            tracing::debug!(%error, "recent fees are not known; the minimum is offered");
            Vec::new()
        }
    };
    Ok(priced(budget, limited, is_urgent, &recent, generation))
}

/// The price that the policy asks for, as far as the budget allows it; `recent` is what others paid.
pub fn priced(budget: &FeeBudget, limited: Terms, is_urgent: bool, recent: &[u64], generation: u32) -> Offer {
    let price = budget.policy().lane(is_urgent).price(recent, generation);
    let wanted = limited.at_price(price).priority_fee();
    // r[impl settlement.priority.bounded]
    let granted = budget.take(is_urgent, wanted, Instant::now());
    let price = if granted == wanted { price } else { price_within(granted, limited.compute_units) };
    Offer { terms: limited.at_price(price), is_urgent, priority_fee: granted }
}

/// True if the simulated batch skipped entries: they took no compute, and may take it when the transaction lands.
fn skips(simulation: &Simulation) -> bool {
    simulation.return_data.iter().any(|byte| *byte != 0)
}

/// The accounts whose locks others may want, the payer's first.
fn writable(payer: &Address, instruction: &Instruction) -> Vec<Address> {
    let others = instruction.accounts.iter().filter(|account| account.is_writable && account.pubkey != *payer);
    std::iter::once(*payer).chain(others.map(|account| account.pubkey)).collect()
}
