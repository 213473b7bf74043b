//! Which transaction format a cluster takes.

use std::{fmt, str::FromStr};

use solana_address::Address;
use solana_transaction_error::TransactionError;

use super::{SubmitError, TransactionFormat, simulate, wire_size};
use crate::{ChainClient, MAX_V1_TRANSACTION, tokens};

/// What a sender is told to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FormatChoice {
    /// Version 1 where the cluster takes it, else legacy.
    #[default]
    Auto,
    /// This one, whatever the cluster says.
    Always(TransactionFormat),
}

impl FromStr for FormatChoice {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "legacy" => Ok(Self::Always(TransactionFormat::Legacy)),
            "v1" => Ok(Self::Always(TransactionFormat::V1)),
            other => Err(UnknownFormat(other.chars().take(40).collect())),
        }
    }
}

impl fmt::Display for FormatChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Always(format) => format.name(),
        })
    }
}

/// Not the name of a format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no transaction format; give auto, legacy or v1")]
pub struct UnknownFormat(String);

impl FormatChoice {
    /// The format to write. `Auto` asks the chain what it would do with a small version 1 transaction, which is never
    /// sent; a chain that cannot say gets what every chain takes.
    // r[impl settlement.transaction.format]
    pub async fn decide(self, chain: &dyn ChainClient, payer: &Address) -> TransactionFormat {
        let Self::Always(format) = self else {
            // From the payer to itself: it moves nothing, and needs no account but the payer's.
            let transfer = tokens::transfer_lamports(payer, payer, 0);
            let format = match simulate(chain, payer, &[transfer], TransactionFormat::V1).await {
                Ok((_, simulation)) if simulation.err.as_ref().is_none_or(is_of_the_payer) => TransactionFormat::V1,
                Ok((_, simulation)) => {
                    tracing::info!(error = ?simulation.err, "the chain takes no version 1 transactions");
                    TransactionFormat::Legacy
                }
                Err(error) => {
                    tracing::info!(%error, "the chain does not say whether it takes version 1 transactions");
                    TransactionFormat::Legacy
                }
            };
            tracing::info!(format = format.name(), "transactions are written in this format");
            return format;
        };
        format
    }
}

/// Why the chain does not take a version 1 transaction of [`MAX_V1_TRANSACTION`] bytes, by simulation; `None` if it
/// does. Nothing is sent.
///
/// # Errors
/// The chain does not say.
pub async fn probe_v1(chain: &dyn ChainClient, payer: &Address) -> Result<Option<TransactionError>, SubmitError> {
    let mut transfer = tokens::transfer_lamports(payer, payer, 0);
    let format = TransactionFormat::V1;
    let bytes = wire_size(format, payer, std::slice::from_ref(&transfer)).map_err(SubmitError::NotSent)?;
    // What follows a transfer's amount is not looked at.
    transfer.data.resize(transfer.data.len().saturating_add(MAX_V1_TRANSACTION.saturating_sub(bytes)), 0);
    let (_, simulation) = simulate(chain, payer, &[transfer], format).await?;
    Ok(simulation.err.filter(|error| !is_of_the_payer(error)))
}

/// True for errors of a payer that has no SOL yet: the format itself was understood.
fn is_of_the_payer(error: &TransactionError) -> bool {
    matches!(
        error,
        TransactionError::AccountNotFound
            | TransactionError::InsufficientFundsForFee
            | TransactionError::InsufficientFundsForRent { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for name in ["auto", "legacy", "v1"] {
            assert_eq!(name.parse::<FormatChoice>().unwrap().to_string(), name);
        }
        assert!("V0".parse::<FormatChoice>().unwrap_err().to_string().contains("auto, legacy or v1"));
    }
}
