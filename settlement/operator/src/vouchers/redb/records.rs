//! Records of the file. Integers are little-endian.
//!
//! ```text
//! voucher      node 32 | close 1 + quarantined 2 + lasting 4 + doubted 8 | since i64 | heard i64
//!              | cumulative u64 | expires_at i64 | signature 64 [| cumulative u64 | signature 64, the lasting one]
//! quarantined  cumulative u64 | at i64 | reason
//! row          kind | node 32 | channel 32 | from | to | node | operator | protocol share | refunded
//!              | slot | transaction fee | fee share (9 x u64) | signature 64 [| voucher signature 64]
//!              kind + 128 of a failed transaction: the last is its error instead
//! ```

use aro_proto::channel::{SignedVoucher, Voucher};
use aro_proto::{Amount, ChannelId};
use settlement_chain::{Address, Signature};
use settlement_interface::voucher::NEVER;

use super::super::{HistoryRow, Quarantined, StoreError, StoredVoucher};
use crate::batch::Kind;

pub(super) fn encode_voucher(stored: &StoredVoucher) -> Vec<u8> {
    let voucher = &stored.signed.voucher;
    let mut bytes = Vec::with_capacity(VOUCHER + LASTING);
    bytes.extend(stored.node.as_ref());
    let flags = [
        (stored.close, CLOSE),
        (stored.quarantined, QUARANTINED),
        (stored.lasting.is_some(), HAS_LASTING),
        (stored.doubted, DOUBTED),
    ];
    bytes.push(flags.iter().filter(|(is, _)| *is).map(|(_, flag)| flag).sum());
    bytes.extend(stored.since.to_le_bytes());
    bytes.extend(stored.heard.to_le_bytes());
    bytes.extend(voucher.cumulative.get().to_le_bytes());
    bytes.extend(voucher.expires_at.to_le_bytes());
    bytes.extend(stored.signed.signature);
    if let Some(lasting) = &stored.lasting {
        bytes.extend(lasting.voucher.cumulative.get().to_le_bytes());
        bytes.extend(lasting.signature);
    }
    bytes
}

pub(super) fn decode_voucher(channel: ChannelId, bytes: &[u8]) -> Result<StoredVoucher, StoreError> {
    let mut reader = Reader { rest: bytes, what: "voucher" };
    let node = Address::new_from_array(reader.array()?);
    let [flags] = reader.array()?;
    let (since, heard) = (reader.i64()?, reader.i64()?);
    let signed = |reader: &mut Reader<'_>, cumulative, expires_at| -> Result<SignedVoucher, StoreError> {
        let voucher = Voucher { channel, cumulative: Amount::new(cumulative), expires_at };
        Ok(SignedVoucher { voucher, signature: reader.array()? })
    };
    let (cumulative, expires_at) = (reader.u64()?, reader.i64()?);
    let best = signed(&mut reader, cumulative, expires_at)?;
    let lasting = if flags & HAS_LASTING == 0 {
        None
    } else {
        let cumulative = reader.u64()?;
        Some(signed(&mut reader, cumulative, NEVER)?)
    };
    if flags & !(CLOSE | QUARANTINED | HAS_LASTING | DOUBTED) != 0 || !reader.rest.is_empty() {
        return Err(StoreError::Damaged("voucher"));
    }
    let is = |flag: u8| flags & flag != 0;
    let (close, doubted, quarantined) = (is(CLOSE), is(DOUBTED), is(QUARANTINED));
    Ok(StoredVoucher { signed: best, lasting, node, close, doubted, since, heard, quarantined })
}

pub(super) fn encode_quarantined(entry: &Quarantined) -> Vec<u8> {
    let mut bytes = entry.cumulative.get().to_le_bytes().to_vec();
    bytes.extend(entry.at.to_le_bytes());
    bytes.extend(entry.reason.as_bytes());
    bytes
}

pub(super) fn decode_quarantined(channel: ChannelId, bytes: &[u8]) -> Result<Quarantined, StoreError> {
    let mut reader = Reader { rest: bytes, what: "quarantine" };
    let (cumulative, at) = (Amount::new(reader.u64()?), reader.i64()?);
    let reason = str::from_utf8(reader.rest).map_err(|_| StoreError::Damaged("quarantine"))?.to_owned();
    Ok(Quarantined { channel, cumulative, reason, at })
}

pub(super) fn encode_row(row: &HistoryRow) -> Vec<u8> {
    let failed = if row.error.is_some() { FAILED } else { 0 };
    let mut bytes = vec![row.kind as u8 | failed];
    bytes.extend(row.node.as_ref());
    bytes.extend(row.channel.as_bytes());
    let amounts = [row.from, row.to, row.node_share, row.operator_share, row.protocol_share, row.refunded];
    bytes.extend(amounts.iter().flat_map(|amount| amount.get().to_le_bytes()));
    bytes.extend([row.slot, row.transaction_fee, row.fee_share].iter().flat_map(|number| number.to_le_bytes()));
    bytes.extend(row.signature.as_ref());
    match &row.error {
        Some(error) => bytes.extend(error.as_bytes()),
        None => bytes.extend(row.voucher_signature.iter().flatten()),
    }
    bytes
}

pub(super) fn decode_row(at: i64, bytes: &[u8]) -> Result<HistoryRow, StoreError> {
    let mut reader = Reader { rest: bytes, what: "history row" };
    let [kind] = reader.array()?;
    let node = Address::new_from_array(reader.array()?);
    let channel = ChannelId::from_bytes(reader.array()?);
    let mut amounts = [Amount::default(); 6];
    for amount in &mut amounts {
        *amount = Amount::new(reader.u64()?);
    }
    let [from, to, node_share, operator_share, protocol_share, refunded] = amounts;
    let (slot, transaction_fee, fee_share) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let signature = Signature::from(reader.array::<64>()?);
    let damaged = StoreError::Damaged("history row");
    let error = match kind & FAILED {
        0 => None,
        _ => Some(str::from_utf8(std::mem::take(&mut reader.rest)).map_err(|_| damaged.clone())?.to_owned()),
    };
    let voucher_signature = if reader.rest.is_empty() { None } else { Some(reader.array()?) };
    let kind = Kind::from_number(kind & !FAILED).filter(|_| reader.rest.is_empty()).ok_or(damaged)?;
    Ok(HistoryRow {
        at,
        kind,
        node,
        channel,
        from,
        to,
        node_share,
        operator_share,
        protocol_share,
        refunded,
        signature,
        slot,
        transaction_fee,
        fee_share,
        voucher_signature,
        error,
    })
}

struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(StoreError::Damaged(self.what))?;
        self.rest = rest;
        Ok(*array)
    }

    fn u64(&mut self) -> Result<u64, StoreError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, StoreError> {
        Ok(i64::from_le_bytes(self.array()?))
    }
}

/// Bytes of a voucher record, and of what a lasting voucher adds.
const VOUCHER: usize = 129;
const LASTING: usize = 72;
const CLOSE: u8 = 1;
const QUARANTINED: u8 = 2;
const HAS_LASTING: u8 = 4;
const DOUBTED: u8 = 8;
/// Added to the kind of a row whose transaction failed.
const FAILED: u8 = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vouchers::tests::accepted;

    #[test]
    fn vouchers_read_back_and_damaged_ones_are_errors() {
        let plain = StoredVoucher::new(&accepted(4, u64::MAX, true), -5);
        let rich = StoredVoucher { lasting: Some(plain.signed), quarantined: true, doubted: true, heard: 9, ..plain };
        for stored in [plain, rich] {
            let bytes = encode_voucher(&stored);
            assert_eq!(decode_voucher(stored.channel(), &bytes).unwrap(), stored);
            let damaged = |bytes: &[u8]| {
                assert_eq!(decode_voucher(stored.channel(), bytes), Err(StoreError::Damaged("voucher")));
            };
            damaged(&bytes[..bytes.len() - 1]);
            damaged(&[&bytes[..], &[0]].concat());
            let mut flags = bytes.clone();
            flags[32] |= 16;
            damaged(&flags);
        }
    }

    #[test]
    fn rows_read_back_and_damaged_ones_are_errors() {
        let mut row = HistoryRow {
            at: -1,
            kind: Kind::Reclaim,
            node: Address::new_from_array([1; 32]),
            channel: ChannelId::from_bytes([2; 32]),
            from: Amount::new(1),
            to: Amount::new(2),
            node_share: Amount::new(3),
            operator_share: Amount::new(4),
            protocol_share: Amount::new(5),
            refunded: Amount::new(u64::MAX),
            signature: Signature::from([6; 64]),
            slot: 7,
            transaction_fee: 8,
            fee_share: 9,
            voucher_signature: None,
            error: None,
        };
        for voucher_signature in [None, Some([10; 64])] {
            row.voucher_signature = voucher_signature;
            let bytes = encode_row(&row);
            assert_eq!(decode_row(-1, &bytes).unwrap(), row);
            assert_eq!(decode_row(-1, &bytes[..bytes.len() - 1]), Err(StoreError::Damaged("history row")));
        }
        let failed = HistoryRow { voucher_signature: None, error: Some("refusé".to_owned()), ..row };
        let bytes = encode_row(&failed);
        assert_eq!(decode_row(-1, &bytes).unwrap(), failed);
        assert_eq!(decode_row(-1, &bytes[..bytes.len() - 1]), Err(StoreError::Damaged("history row")));
    }
}
