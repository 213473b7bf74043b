//! The decoder proves exactly what the slow recursion proves, of right responses and of wrong ones.

use super::*;

/// What happens to a response on its way.
#[derive(Clone, Debug)]
enum Damage {
    None,
    FlipBit { at: usize, bit: u32 },
    Cut { at: usize },
    Insert { at: usize, byte: u8 },
    Remove { at: usize },
    Zero { at: usize, len: usize },
    Append { byte: u8 },
    SwapItems { one: usize, other: usize },
    OtherContent,
    OtherSize { by: i64 },
    OtherGroup(GroupSize),
}

fn any_damage() -> impl Strategy<Value = Damage> {
    let at = || any::<usize>();
    prop_oneof![
        1 => Just(Damage::None),
        4 => (at(), 0..8u32).prop_map(|(at, bit)| Damage::FlipBit { at, bit }),
        2 => at().prop_map(|at| Damage::Cut { at }),
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert { at, byte }),
        2 => at().prop_map(|at| Damage::Remove { at }),
        1 => (at(), 1..2_000usize).prop_map(|(at, len)| Damage::Zero { at, len }),
        1 => any::<u8>().prop_map(|byte| Damage::Append { byte }),
        2 => (at(), at()).prop_map(|(one, other)| Damage::SwapItems { one, other }),
        1 => Just(Damage::OtherContent),
        2 => prop_oneof![Just(-1i64), Just(1), -70_000..70_000i64].prop_map(|by| Damage::OtherSize { by }),
        1 => prop::sample::select(&GROUPS).prop_map(Damage::OtherGroup),
    ]
}

/// The response as it arrives, and the size that the node claims.
fn arrived(content: &[u8], ranges: &ByteRanges, group: GroupSize, damage: &Damage) -> (Vec<u8>, u64) {
    let mut items = reference::items(content, ranges, group);
    let mut size = content.len() as u64;
    match *damage {
        Damage::SwapItems { one, other } => {
            let count = items.len();
            items.swap(one % count, other % count);
        }
        Damage::OtherContent => {
            let other: Vec<u8> = content.iter().map(|byte| !byte).collect();
            items = reference::items(&other, ranges, group);
        }
        Damage::OtherGroup(group) => items = reference::items(content, ranges, group),
        Damage::OtherSize { by } => size = size.saturating_add_signed(by),
        _ => {}
    }
    let mut bytes = items.concat();
    let len = bytes.len();
    match *damage {
        Damage::FlipBit { at, bit } if len > 0 => bytes[at % len] ^= 1 << bit,
        Damage::Cut { at } if len > 0 => bytes.truncate(at % len),
        Damage::Insert { at, byte } => bytes.insert(at % (len + 1), byte),
        Damage::Remove { at } if len > 0 => drop(bytes.remove(at % len)),
        Damage::Zero { at, len: zeros } if len > 0 => bytes[at % len..].iter_mut().take(zeros).for_each(|b| *b = 0),
        Damage::Append { byte } => bytes.push(byte),
        _ => {}
    }
    (bytes, size)
}

fn check(size: usize, ranges: &ByteRanges, group: GroupSize, damage: &Damage) {
    let content = content(size);
    let root = hash_all(&content);
    let (response, claimed) = arrived(&content, ranges, group, damage);
    let place = format!("{size} {ranges:?} {group:?} {damage:?}");

    let mut decoder = Decoder::new(root, ranges.answered(claimed, group)).unwrap();
    let (proven, outcome) = receive_stream(&mut decoder, &response);
    let (slowly_proven, is_right) = reference::decode(root, claimed, ranges, group, &response);
    assert!(proven == slowly_proven, "{place}: {} leaves proven, {} slowly", proven.len(), slowly_proven.len());
    assert_eq!(outcome.is_ok(), is_right, "{place}: {outcome:?}");
    // What a stream proved before a byte too many stays proven; nothing that is not the content's ever is.
    assert_all_true(&proven, &content);
    assert_eq!(decoder.proven_bytes(), proven.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>(), "{place}");
    if matches!(damage, Damage::None) {
        assert!(is_right, "{place}");
    }
    if decoder.size_is_proven() {
        assert_eq!(claimed, size as u64, "{place}");
    }
}

#[test]
fn decoders_agree_cases() {
    for size in [0, 1, 1_024, 16_385, 65_537, 200_000] {
        for group in GROUPS {
            for ranges in nasty_ranges(size) {
                for damage in [
                    Damage::None,
                    Damage::FlipBit { at: 70, bit: 0 },
                    Damage::Cut { at: 64 },
                    Damage::Remove { at: 0 },
                    Damage::Append { byte: 0 },
                    Damage::OtherSize { by: 1 },
                ] {
                    check(size, &ranges, group, &damage);
                }
            }
        }
    }
}

// r[verify content.verify.first_error]
// r[verify content.verify.unproven]
proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn decoders_agree_proptest((size, ranges, group) in any_request(), damage in any_damage()) {
        check(size, &ranges, group, &damage);
    }
}
