//! The shapes of a server's answers, as far as they are read here, and what they mean.

use std::str::FromStr;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;
use serde_json::Value;
use solana_address::Address;
use solana_hash::Hash;
use solana_instruction::error::InstructionError;
use solana_transaction_error::TransactionError;

use crate::client::{Account, Blockhash, ChainError, Commitment, MAX_RETURN_DATA, Simulation, Status};

/// A value and the slot that it is of.
#[derive(Deserialize)]
pub(super) struct AtSlot<T> {
    pub(super) context: Context,
    pub(super) value: T,
}

#[derive(Deserialize)]
pub(super) struct Context {
    pub(super) slot: u64,
}

#[derive(Deserialize)]
pub(super) struct RawAccount {
    lamports: u64,
    owner: String,
    /// The bytes and the name of their encoding.
    data: (String, String),
}

#[derive(Deserialize)]
pub(super) struct KeyedAccount {
    pub(super) pubkey: String,
    pub(super) account: RawAccount,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawBlockhash {
    blockhash: String,
    last_valid_block_height: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EpochInfo {
    pub(super) absolute_slot: u64,
    pub(super) block_height: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawStatus {
    slot: u64,
    confirmations: Option<u64>,
    confirmation_status: Option<String>,
    err: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawSimulation {
    err: Option<Value>,
    units_consumed: Option<u64>,
    loaded_accounts_data_size: Option<u32>,
    return_data: Option<ReturnData>,
}

#[derive(Deserialize)]
struct ReturnData {
    data: (String, String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BlockFee {
    pub(super) prioritization_fee: u64,
}

impl RawAccount {
    pub(super) fn decode(&self) -> Result<Account, ChainError> {
        Ok(Account { owner: address(&self.owner)?, lamports: self.lamports, data: bytes(&self.data)? })
    }
}

impl RawBlockhash {
    pub(super) fn decode(&self) -> Result<Blockhash, ChainError> {
        let hash = hash(&self.blockhash)?;
        Ok(Blockhash { hash, last_valid_block_height: self.last_valid_block_height })
    }
}

impl RawStatus {
    pub(super) fn decode(&self) -> Result<Status, ChainError> {
        let commitment = match self.confirmation_status.as_deref() {
            Some("finalized") => Commitment::Finalized,
            Some("confirmed") => Commitment::Confirmed,
            Some(_) => Commitment::Processed,
            // Old servers name no commitment; no count of confirmations means rooted.
            None if self.confirmations.is_none() => Commitment::Finalized,
            None => Commitment::Processed,
        };
        let err = self.err.as_ref().map(transaction_error).transpose()?;
        Ok(Status { slot: self.slot, commitment, err })
    }
}

impl RawSimulation {
    pub(super) fn decode(&self) -> Result<Simulation, ChainError> {
        let err = self.err.as_ref().map(transaction_error).transpose()?;
        let units = match (self.units_consumed, &err) {
            (Some(units), _) => units,
            (None, Some(_)) => 0,
            (None, None) => return Err(ChainError::Malformed("a simulation without its compute units".into())),
        };
        let return_data = self.return_data.as_ref().map(|returned| bytes(&returned.data)).transpose()?;
        let return_data = return_data.unwrap_or_default();
        if return_data.len() > MAX_RETURN_DATA {
            return Err(ChainError::Malformed(format!("{} bytes of return data", return_data.len())));
        }
        Ok(Simulation { units, loaded_data_bytes: self.loaded_accounts_data_size, err, return_data })
    }
}

/// The chain's reason. An instruction's error that is not known here is still the instruction's.
pub(super) fn transaction_error(value: &Value) -> Result<TransactionError, ChainError> {
    if let Ok(error) = TransactionError::deserialize(value) {
        return Ok(error);
    }
    value
        .get("InstructionError")
        .and_then(|parts| u8::try_from(parts.get(0)?.as_u64()?).ok())
        .map(|index| TransactionError::InstructionError(index, InstructionError::GenericError))
        .ok_or_else(|| ChainError::Malformed(format!("an unknown transaction error: {value}")))
}

pub(super) fn address(text: &str) -> Result<Address, ChainError> {
    Address::from_str(text).map_err(|_| ChainError::Malformed(format!("{text:?} is not an address")))
}

pub(super) fn hash(text: &str) -> Result<Hash, ChainError> {
    Hash::from_str(text).map_err(|_| ChainError::Malformed(format!("{text:?} is not a hash")))
}

fn bytes((text, encoding): &(String, String)) -> Result<Vec<u8>, ChainError> {
    if encoding != "base64" {
        return Err(ChainError::Malformed(format!("data is in {encoding:?}, not in base64")));
    }
    BASE64.decode(text).map_err(|error| ChainError::Malformed(format!("data is not base64: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn transaction_errors_are_read_and_unknown_ones_never_pass_for_success() {
        let read = |value| transaction_error(&value);
        assert_eq!(read(json!("BlockhashNotFound")).unwrap(), TransactionError::BlockhashNotFound);
        let custom = TransactionError::InstructionError(1, InstructionError::Custom(7));
        assert_eq!(read(json!({ "InstructionError": [1, { "Custom": 7 }] })).unwrap(), custom);
        let generic = TransactionError::InstructionError(2, InstructionError::GenericError);
        assert_eq!(read(json!({ "InstructionError": [2, "OfTomorrow"] })).unwrap(), generic);
        for unknown in [json!("OfTomorrow"), json!(7), json!({ "InstructionError": [900, "Custom"] }), json!([])] {
            assert!(matches!(read(unknown), Err(ChainError::Malformed(_))));
        }
    }

    #[test]
    fn statuses_without_a_name_follow_from_their_confirmations() {
        let read = |value| serde_json::from_value::<RawStatus>(value).unwrap().decode().unwrap().commitment;
        let named = |name| json!({ "slot": 5, "confirmations": 3, "err": null, "confirmationStatus": name });
        assert_eq!(read(named("processed")), Commitment::Processed);
        assert_eq!(read(named("confirmed")), Commitment::Confirmed);
        assert_eq!(read(named("finalized")), Commitment::Finalized);
        assert_eq!(read(named("of tomorrow")), Commitment::Processed);
        assert_eq!(read(json!({ "slot": 5, "confirmations": null, "err": null })), Commitment::Finalized);
        assert_eq!(read(json!({ "slot": 5, "confirmations": 1, "err": null })), Commitment::Processed);
    }
}
