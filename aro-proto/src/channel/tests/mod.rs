//! What the channel's tests share: one agent, one channel, small prices.

mod claims;
mod payee;
mod payer;
mod persist;
mod simulation;
mod voucher;
mod world;

use super::*;
use crate::amount::{Amount, ByteCount};
use crate::identity::SecretKey;
use crate::ids::ChannelId;
use crate::tariff::Tariff;

const CHANNEL: ChannelId = ChannelId::from_bytes([9; 32]);
/// One quantum costs 100 base units.
const TARIFF: Tariff = Tariff { per_mib: 100 };
const NOW: i64 = 1_800_000_000;
const MIB: u64 = 1 << 20;

fn agent() -> SecretKey {
    SecretKey::from_bytes(&[7; 32])
}

fn terms(deposit: u64) -> ChannelTerms {
    ChannelTerms {
        channel: CHANNEL,
        signer: agent().agent_id(),
        deposit: Amount::new(deposit),
        settled: Amount::ZERO,
        state: ChannelState::Open,
    }
}

fn voucher(cumulative: u64) -> SignedVoucher {
    Voucher { channel: CHANNEL, cumulative: Amount::new(cumulative), expires_at: 0 }.sign(&agent())
}

/// A voucher that has gone the whole way through a store.
fn durable(cumulative: u64) -> DurableVoucher {
    let verified = voucher(cumulative).verify(&agent().agent_id()).unwrap();
    persist_all(&MemoryVouchers::default(), vec![verified]).unwrap()[0]
}

fn bytes(count: u64) -> ByteCount {
    ByteCount::new(count)
}

fn units(count: u64) -> Amount {
    Amount::new(count)
}
