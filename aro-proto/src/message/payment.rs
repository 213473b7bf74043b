//! The control stream's money talk: binding a channel, vouchers, credit.

use serde::{Deserialize, Serialize};

use super::{Message, from_postcard, message, signature_field, to_postcard};
use crate::amount::Amount;
use crate::error::Refusal;
use crate::ids::ChannelId;
use crate::limits::{BIND_ID_LEN, MAX_REPLACED};
use crate::wire::{DecodeError, Extension, read_extensions, write_extension};

/// Ties the connection to one channel for its whole life. Signed by the channel's signer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// The channel that pays for every request on this connection.
    pub channel: ChannelId,
    /// By what a later binding may name this one. An optional field.
    pub id: Option<BindId>,
    /// Bindings of the same channel whose processes have died: the node ends their connections before it answers. At most
    /// [`MAX_REPLACED`], never its own. An optional field.
    pub replaces: Vec<BindId>,
}

/// A binding's name: random bytes that its agent chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BindId([u8; BIND_ID_LEN]);

impl BindId {
    /// From random bytes.
    pub const fn from_bytes(bytes: [u8; BIND_ID_LEN]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn to_bytes(self) -> [u8; BIND_ID_LEN] {
        self.0
    }
}

impl Message for Bind {
    const KIND: u8 = 0x08;
    const NAME: &'static str = "Bind";

    fn to_body(&self) -> Vec<u8> {
        let mut body = to_postcard(&self.channel);
        if let Some(id) = &self.id {
            write_extension(&mut body, Extension { tag: ID_TAG, value: &id.0 });
        }
        if !self.replaces.is_empty() {
            let value: Vec<u8> = self.replaces.iter().flat_map(|id| id.0).collect();
            write_extension(&mut body, Extension { tag: REPLACES_TAG, value: &value });
        }
        body
    }

    fn from_body(body: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let (channel, rest) = from_postcard(body, Self::NAME)?;
        let fields = read_extensions(rest)?;
        let ids = |tag| fields.iter().find(|field| field.tag == tag).map(|field| read_ids(field.value)).transpose();
        let id = match ids(ID_TAG)?.as_deref() {
            None => None,
            Some([id]) => Some(*id),
            Some(_) => return Err(DecodeError::Malformed(Self::NAME)),
        };
        let replaces = ids(REPLACES_TAG)?.unwrap_or_default();
        Ok((Self { channel, id, replaces }, rest))
    }

    // r[impl bind.replace.bounded]
    fn check(&self) -> Result<(), DecodeError> {
        let names_itself = self.id.is_some_and(|id| self.replaces.contains(&id));
        let is_within = self.replaces.len() <= MAX_REPLACED && !names_itself;
        if is_within { Ok(()) } else { Err(DecodeError::Malformed(Self::NAME)) }
    }
}

/// One or more ids, end to end.
fn read_ids(bytes: &[u8]) -> Result<Vec<BindId>, DecodeError> {
    let (ids, rest) = bytes.as_chunks::<BIND_ID_LEN>();
    let is_whole = rest.is_empty() && !ids.is_empty() && ids.len() <= MAX_REPLACED;
    if is_whole { Ok(ids.iter().copied().map(BindId).collect()) } else { Err(DecodeError::Malformed(Bind::NAME)) }
}

/// A voucher without its channel, which the connection is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoucherOnWire {
    /// Total paid on the channel so far, this voucher included.
    pub cumulative: Amount,
    /// Unix seconds, or 0 for never.
    pub expires_at: i64,
    /// The agent's signature over the 50 voucher bytes.
    #[serde(with = "signature_field")]
    pub signature: [u8; 64],
}

/// The channel is bound: where the node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The channel.
    pub channel: ChannelId,
    /// The node's best voucher, so that an agent that lost its state finds its own signature here.
    pub watermark: Option<VoucherOnWire>,
    /// What the node has billed on this channel in all, in 2^-20 base units.
    pub billed: u128,
    /// Deposit on chain, as far as the node has seen.
    pub deposit: Amount,
    /// Settled on chain, as far as the node has seen.
    pub settled: Amount,
    /// Credit window now.
    pub window: Amount,
}
message!(Bound = 0x09);

/// The agent pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pay {
    /// The voucher.
    pub voucher: VoucherOnWire,
}
message!(Pay = 0x0a);

/// A voucher is durable at the node, and the window with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// The node's watermark.
    pub cumulative: Amount,
    /// Credit window now.
    pub window: Amount,
}
message!(Credit = 0x0b);

/// A voucher does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayRefused {
    /// The refused voucher's amount.
    pub cumulative: Amount,
    /// Why.
    pub refusal: Refusal,
    /// The node's best voucher, if any.
    pub watermark: Option<VoucherOnWire>,
}
message!(PayRefused = 0x0c, check: |m| m.refusal.is_within_bounds());

/// The agent stopped a request before its end: what it proved until then is what it owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEnd {
    /// QUIC id of the request's stream.
    pub stream: u64,
    /// Content bytes of it that the agent proved.
    pub proven_bytes: u64,
}
message!(StreamEnd = 0x0d);

/// The agent added to the deposit on chain: the node reads the channel anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToppedUp {
    /// The new deposit, for the node to expect.
    pub deposit: Amount,
}
message!(ToppedUp = 0x0e);

/// The optional field of [`Bind::id`].
const ID_TAG: u64 = 1;
/// The optional field of [`Bind::replaces`].
const REPLACES_TAG: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{decode_body, encode_body};

    fn id(byte: u8) -> BindId {
        BindId::from_bytes([byte; BIND_ID_LEN])
    }

    // r[verify bind.replace.bounded]
    #[test]
    fn a_bind_names_itself_and_whom_it_replaces_within_bounds() {
        let channel = ChannelId::from_bytes([9; 32]);
        let many: Vec<_> = (0..MAX_REPLACED as u8).map(id).collect();
        for (own, replaces) in [(None, vec![]), (Some(id(99)), vec![]), (Some(id(99)), many.clone()), (None, many)] {
            let bind = Bind { channel, id: own, replaces };
            assert_eq!(decode_body(Bind::KIND, &encode_body(&bind).unwrap()), Ok(bind));
        }
        let refused = |bind: Bind| {
            let found = decode_body::<Bind>(Bind::KIND, &encode_body(&bind).unwrap());
            assert_eq!(found, Err(DecodeError::Malformed(Bind::NAME)), "{bind:?}");
        };
        refused(Bind { channel, id: None, replaces: (0..=MAX_REPLACED as u8).map(id).collect() });
        refused(Bind { channel, id: Some(id(1)), replaces: vec![id(2), id(1)] });
        for (tag, value) in [(ID_TAG, &[1; 15][..]), (ID_TAG, &[1; 32]), (REPLACES_TAG, &[1; 17]), (REPLACES_TAG, &[])]
        {
            let mut body = to_postcard(&channel);
            write_extension(&mut body, Extension { tag, value });
            assert_eq!(decode_body::<Bind>(Bind::KIND, &body), Err(DecodeError::Malformed(Bind::NAME)), "{tag}");
        }
    }
}
