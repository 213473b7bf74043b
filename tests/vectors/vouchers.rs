//! Vouchers: the 50 bytes and their strict signature.

use aro_proto::channel::{SignedVoucher, Voucher};
use aro_proto::{AgentId, Amount, ChannelId};

use crate::file::Vector;

// r[verify voucher.bytes]
// r[verify voucher.signature.strict]
#[test]
fn vouchers_verify_as_the_vectors_say() {
    crate::run("voucher", 7, check);
}

fn check(vector: &Vector) -> Result<(), String> {
    let voucher = Voucher {
        channel: ChannelId::from_bytes(vector.array("channel")),
        cumulative: Amount::new(vector.number("cumulative")),
        expires_at: vector.number("expires_at"),
    };
    // The hex is the signed message followed by the signature.
    let (message, signature) = vector.bytes.split_at(50);
    assert_eq!(voucher.to_bytes(), message, "{}: other voucher bytes", vector.name);
    let signed = SignedVoucher { voucher, signature: signature.try_into().expect("64 bytes") };
    let signer = AgentId::from_bytes(vector.array("signer"));
    signed.verify(&signer).map(drop).map_err(|_| "signature".to_owned())
}
