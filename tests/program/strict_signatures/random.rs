//! Ten thousand signatures drawn at random, half of them broken in one of many ways.

use ed25519_dalek::{Signer, SigningKey};
use settlement_interface::voucher::voucher_bytes;

use super::{
    bench::{Bench, Case},
    raise_s,
};
use crate::seed::{Chance, setting};

const SIGNATURES: u64 = 10_000;
/// Good ones are asked about together: a batch succeeds only if every one of them is accepted.
const TOGETHER: u64 = 36;

#[test]
// r[verify voucher.signature.strict]
fn program_and_verify_strict_agree_on_ten_thousand_random_signatures() {
    let seed = setting("ARO_SEED").unwrap_or(1);
    println!("ARO_SEED={seed}");
    let mut chance = Chance::new(seed);
    let mut bench = Bench::with_channels(TOGETHER);
    let channels = bench.channels.clone();
    let mut good = 0;
    while good < SIGNATURES / 2 {
        let count = TOGETHER.min(SIGNATURES / 2 - good);
        let cases: Vec<Case> =
            channels[..count as usize].iter().map(|channel| honest(&mut chance, &channel.to_bytes())).collect();
        assert!(bench.all_accepted(&cases));
        good += count;
    }
    let mut refused = 0;
    for _ in 0..SIGNATURES / 2 {
        let case = honest(&mut chance, &channels[0].to_bytes());
        refused += u64::from(!bench.accepts(&broken(&mut chance, case)));
    }
    assert_eq!(refused, SIGNATURES / 2, "a broken signature was accepted by both");
}

fn honest(chance: &mut Chance, channel: &[u8; 32]) -> Case {
    let key = SigningKey::from_bytes(&chance.bytes());
    let amount = chance.between(1, 1_000_000);
    let signature = key.sign(&voucher_bytes(channel, amount, 0)).to_bytes();
    Case { key: key.verifying_key().to_bytes(), amount, signature }
}

fn broken(chance: &mut Chance, case: Case) -> Case {
    let Case { mut key, mut amount, mut signature } = case;
    match chance.below(9) {
        0 => signature[chance.index(32)] ^= 1 << chance.below(8),
        1 => signature[32 + chance.index(32)] ^= 1 << chance.below(8),
        2 => key[chance.index(32)] ^= 1 << chance.below(8),
        3 => amount += 1,
        4 => signature = raise_s(signature, chance.between(1, 14) as u32),
        5 => signature = chance.bytes(),
        6 => key = chance.bytes(),
        7 => signature[..32].copy_from_slice(&key),
        _ => signature[32..].fill(0),
    }
    Case { key, amount, signature }
}
