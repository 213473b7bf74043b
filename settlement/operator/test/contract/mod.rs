//! What every store must do, whatever it is made of.

pub mod binding;
pub mod history;
pub mod journal;
pub mod leases;
pub mod vouchers;

use std::sync::Arc;
use std::time::Duration;

use aro_proto::channel::Voucher;
use aro_proto::{Amount, ChannelId, SecretKey};
use settlement_chain::submit::Prepared;
use settlement_chain::{Address, Keypair, Message, Signer, VersionedMessage, VersionedTransaction, tokens};
use settlement_operator::batch::{Item, Kind, Trace};
use settlement_operator::submit::{Begun, JournalEntry};
use settlement_operator::vouchers::{Accepted, Claim, Grant, Lease, OperatorStore, Ruling, StoredVoucher};

pub type Store = Arc<dyn OperatorStore>;

pub const NOW: i64 = 1_800_000_000;
pub const TTL: Duration = Duration::from_secs(60);

pub fn id(channel: u8) -> ChannelId {
    ChannelId::from_bytes([channel; 32])
}

pub fn accepted(channel: u8, cumulative: u64, close: bool) -> Accepted {
    expiring(channel, cumulative, 0, close)
}

pub fn expiring(channel: u8, cumulative: u64, expires_at: i64, close: bool) -> Accepted {
    let key = SecretKey::from_bytes(&[7; 32]);
    let voucher = Voucher { channel: id(channel), cumulative: Amount::new(cumulative), expires_at };
    let voucher = voucher.sign(&key).verify(&key.agent_id()).unwrap();
    Accepted { voucher, node: Address::new_from_array([1; 32]), close }
}

pub async fn offer_at(store: &Store, accepted: Accepted, now: i64) -> Ruling {
    let offers = vec![(accepted.voucher.channel(), Ok(Claim::Rise(accepted)))];
    store.commit(offers, now).await.unwrap().0.remove(0)
}

pub async fn offer(store: &Store, accepted: Accepted) -> Ruling {
    offer_at(store, accepted, NOW).await
}

pub async fn stored(store: &Store, channel: u8) -> Option<StoredVoucher> {
    store.get(&[id(channel)]).await.unwrap()[0]
}

pub async fn all(store: &Store) -> Vec<StoredVoucher> {
    store.page(None, 100).await.unwrap()
}

pub async fn lease(store: &Store, holder: &str) -> Grant {
    match store.acquire("aro", holder, TTL).await.unwrap() {
        Lease::Held(grant) => grant,
        Lease::Elsewhere { holder, .. } => panic!("{holder} holds it"),
    }
}

/// An entry of a fresh transaction that names channels with the vouchers it carries.
pub fn entry(kind: Kind, channels: &[(u8, Option<u64>)]) -> JournalEntry {
    let payer = Keypair::new();
    let instruction = tokens::transfer_lamports(&payer.pubkey(), &payer.pubkey(), 5);
    let message = Message::new(&[instruction], Some(&payer.pubkey()));
    let transaction = VersionedTransaction::try_new(VersionedMessage::Legacy(message), &[&payer]).unwrap();
    let signature = transaction.signatures[0];
    let items = channels.iter().map(|(channel, voucher)| {
        let trace = Trace {
            node: Address::new_from_array([1; 32]),
            from: Amount::new(1),
            operator_bps: 150,
            protocol_bps: 50,
            voucher_signature: voucher.map(|_| [9; 64]),
            ..Trace::default()
        };
        Item { channel: id(*channel), voucher: voucher.map(Amount::new), trace }
    });
    JournalEntry {
        kind,
        at: NOW,
        items: items.collect(),
        fee_lamports: 5_001,
        prepared: Prepared { transaction, signature, last_valid_block_height: 9 },
    }
}

pub async fn begin(store: &Store, entry: &JournalEntry, grant: &Grant) -> Begun {
    store.begin(entry, grant, TTL).await.unwrap()
}
