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
    /// [`MAX_REPLACED`], never its own. An optional field, and what had been proven on them another.
    pub replaces: Vec<Replaced>,
}

/// A binding whose process has died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Its id.
    pub id: BindId,
    /// What its agent had proven on it, in all its fetches and in 2^-20 base units, if that is known.
    pub proven: Option<u128>,
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

    /// As a binding whose process has died, nobody knows with what proven.
    pub const fn replaced(self) -> Replaced {
        Replaced { id: self, proven: None }
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
            let value: Vec<u8> = self.replaces.iter().flat_map(|replaced| replaced.id.0).collect();
            write_extension(&mut body, Extension { tag: REPLACES_TAG, value: &value });
        }
        let proven: Vec<_> = self.replaces.iter().map(|replaced| replaced.proven).collect();
        if proven.iter().any(Option::is_some) {
            write_extension(&mut body, Extension { tag: PROVEN_TAG, value: &to_postcard(&proven) });
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
        let replaced = ids(REPLACES_TAG)?.unwrap_or_default();
        let proven = match fields.iter().find(|field| field.tag == PROVEN_TAG) {
            Some(field) => read_proven(field.value, replaced.len())?,
            None => vec![None; replaced.len()],
        };
        let replaces = replaced.into_iter().zip(proven).map(|(id, proven)| Replaced { id, proven }).collect();
        Ok((Self { channel, id, replaces }, rest))
    }

    // r[impl bind.replace.bounded]
    fn check(&self) -> Result<(), DecodeError> {
        let names_itself = self.replaces.iter().any(|replaced| Some(replaced.id) == self.id);
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

/// For each of so many bindings what had been proven on it, or that nobody knows.
fn read_proven(bytes: &[u8], bindings: usize) -> Result<Vec<Option<u128>>, DecodeError> {
    let (proven, rest): (Vec<Option<u128>>, _) = from_postcard(bytes, Bind::NAME)?;
    let is_whole = rest.is_empty() && proven.len() == bindings && proven.iter().any(Option::is_some);
    if is_whole { Ok(proven) } else { Err(DecodeError::Malformed(Bind::NAME)) }
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
/// The optional field of [`Replaced::proven`].
const PROVEN_TAG: u64 = 3;

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
        let many: Vec<_> = (0..MAX_REPLACED as u8).map(|byte| id(byte).replaced()).collect();
        let told: Vec<_> = many.iter().map(|replaced| Replaced { proven: Some(u128::MAX), ..*replaced }).collect();
        let mut one = many.clone();
        one[3].proven = Some(0);
        for replaces in [vec![], many, told, one] {
            for own in [None, Some(id(99))] {
                let bind = Bind { channel, id: own, replaces: replaces.clone() };
                assert_eq!(decode_body(Bind::KIND, &encode_body(&bind).unwrap()), Ok(bind));
            }
        }
        let refused = |bind: Bind| {
            let found = decode_body::<Bind>(Bind::KIND, &encode_body(&bind).unwrap());
            assert_eq!(found, Err(DecodeError::Malformed(Bind::NAME)), "{bind:?}");
        };
        refused(Bind {
            channel,
            id: None,
            replaces: (0..=MAX_REPLACED as u8).map(|byte| id(byte).replaced()).collect(),
        });
        refused(Bind { channel, id: Some(id(1)), replaces: vec![id(2).replaced(), id(1).replaced()] });
        for (tag, value) in [(ID_TAG, &[1; 15][..]), (ID_TAG, &[1; 32]), (REPLACES_TAG, &[1; 17]), (REPLACES_TAG, &[])]
        {
            let mut body = to_postcard(&channel);
            write_extension(&mut body, Extension { tag, value });
            assert_eq!(decode_body::<Bind>(Bind::KIND, &body), Err(DecodeError::Malformed(Bind::NAME)), "{tag}");
        }
    }

    // r[verify bind.replace.bounded]
    #[test]
    fn what_was_proven_is_said_of_each_binding_that_is_named_or_of_none() {
        let some = |proven: &[Option<u128>]| to_postcard(&proven.to_vec());
        let too_large = [&[1, 1][..], &[0xff; 18], &[0x7f]].concat();
        let trailing = [some(&[Some(7), None]), vec![0]].concat();
        let cut = [2, 1].to_vec();
        for (value, is_taken) in [
            (some(&[Some(7), None]), true),
            (some(&[None, None]), false),
            (some(&[Some(7)]), false),
            (some(&[Some(7); 3]), false),
            (vec![], false),
            (vec![0xff; 9], false),
            (too_large, false),
            (trailing, false),
            (cut, false),
        ] {
            let mut body = to_postcard(&ChannelId::from_bytes([9; 32]));
            write_extension(&mut body, Extension { tag: REPLACES_TAG, value: &[[1; 16], [2; 16]].concat() });
            write_extension(&mut body, Extension { tag: PROVEN_TAG, value: &value });
            let read = decode_body::<Bind>(Bind::KIND, &body);
            assert_eq!(read.is_ok(), is_taken, "{value:?} {read:?}");
        }
        let mut of_nobody = to_postcard(&ChannelId::from_bytes([9; 32]));
        write_extension(&mut of_nobody, Extension { tag: PROVEN_TAG, value: &some(&[Some(7)]) });
        assert_eq!(decode_body::<Bind>(Bind::KIND, &of_nobody), Err(DecodeError::Malformed(Bind::NAME)));
    }
}
