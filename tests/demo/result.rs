//! What the demo ends with: who paid and who earned, and the proof that it adds up.

use anyhow::{Result, ensure};
use aro_proto::{Amount, ContentId};
use serde_json::{Value, json};

/// The figures of one run. Amounts are what the chain's token accounts show, not what anyone claims.
pub(crate) struct DemoResult {
    pub(crate) content: ContentId,
    pub(crate) size: u64,
    pub(crate) verified_bytes: u64,
    pub(crate) vouchers: u64,
    pub(crate) deposit: Amount,
    pub(crate) paid: Amount,
    pub(crate) node_earned: Amount,
    pub(crate) operator_fee: Amount,
    pub(crate) protocol_fee: Amount,
    pub(crate) refunded: Amount,
    pub(crate) open_signature: String,
    pub(crate) close_signature: String,
    pub(crate) fetch_ms: u128,
    pub(crate) elapsed_ms: u128,
}

impl DemoResult {
    /// Refuses to end well if a unit is missing or left over.
    pub(crate) fn check(&self) -> Result<()> {
        let parts = [self.node_earned, self.operator_fee, self.protocol_fee];
        let earned = parts.iter().map(|part| part.get()).sum::<u64>();
        ensure!(earned == self.paid.get(), "{earned} base units were earned, {} were paid", self.paid.get());
        ensure!(
            earned + self.refunded.get() == self.deposit.get(),
            "{earned} earned and {} refunded are not the deposit of {}",
            self.refunded.get(),
            self.deposit.get()
        );
        ensure!(self.verified_bytes == self.size, "{} of {} bytes are proven", self.verified_bytes, self.size);
        Ok(())
    }

    /// Amounts in base units.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "content_id": self.content.to_string(),
            "size": self.size,
            "verified_bytes": self.verified_bytes,
            "vouchers": self.vouchers,
            "deposit": self.deposit.get(),
            "paid": self.paid.get(),
            "node_earned": self.node_earned.get(),
            "operator_fee": self.operator_fee.get(),
            "protocol_fee": self.protocol_fee.get(),
            "refunded": self.refunded.get(),
            "open_signature": self.open_signature,
            "close_signature": self.close_signature,
            "fetch_ms": u64::try_from(self.fetch_ms).unwrap_or(u64::MAX),
            "elapsed_ms": u64::try_from(self.elapsed_ms).unwrap_or(u64::MAX),
        })
    }
}
