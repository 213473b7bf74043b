//! In which portions the files of a manifest are asked for. No IO: entries in, portions out.

use std::collections::HashMap;

use aro_proto::ContentId;
use aro_proto::manifest::Entry;

/// A content and every place that it goes to; never without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) content: ContentId,
    pub(super) places: Vec<Entry>,
}

/// What is asked for at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Portion {
    /// Small contents under one signature.
    Together(Vec<Wanted>),
    /// A large content by itself.
    Alone(Wanted),
}

impl Wanted {
    /// What its first place claims.
    pub(super) fn claimed(&self) -> u64 {
        self.places.first().map_or(0, |entry| entry.size)
    }
}

impl Portion {
    /// What all of its contents claim.
    pub(super) fn claimed(&self) -> u64 {
        match self {
            Self::Alone(one) => one.claimed(),
            Self::Together(many) => many.iter().map(Wanted::claimed).sum(),
        }
    }
}

/// Divides entries into portions for so many nodes: several of small contents for each of them, where there are enough. The
/// largest come first, for they take longest.
pub(super) fn portions(entries: Vec<Entry>, nodes: usize) -> Vec<Portion> {
    let mut at: HashMap<ContentId, usize> = HashMap::new();
    let mut wanted: Vec<Wanted> = Vec::new();
    for entry in entries {
        match at.get(&entry.content) {
            Some(place) => wanted[*place].places.push(entry),
            None => {
                at.insert(entry.content, wanted.len());
                wanted.push(Wanted { content: entry.content, places: vec![entry] });
            }
        }
    }
    let (small, mut large): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|one| one.claimed() <= SMALL_BYTES);
    large.sort_by_key(|one| std::cmp::Reverse(one.claimed()));
    let mut portions: Vec<Portion> = large.into_iter().map(Portion::Alone).collect();
    let (most, most_bytes) = if nodes > 1 {
        let parts = nodes.saturating_mul(PARTS_OF_EACH);
        let bytes: u64 = small.iter().map(Wanted::claimed).sum();
        let part_bytes = bytes.div_ceil(parts as u64).clamp(LEAST_TOGETHER_BYTES, TOGETHER_BYTES);
        (small.len().div_ceil(parts).clamp(LEAST_TOGETHER, TOGETHER), part_bytes)
    } else {
        (TOGETHER, TOGETHER_BYTES)
    };
    let (mut together, mut bytes) = (Vec::new(), 0);
    for one in small {
        if !together.is_empty() && (together.len() == most || bytes + one.claimed() > most_bytes) {
            portions.push(Portion::Together(std::mem::take(&mut together)));
            bytes = 0;
        }
        bytes += one.claimed();
        together.push(one);
    }
    if !together.is_empty() {
        portions.push(Portion::Together(together));
    }
    portions
}

/// Bytes up to which a content is asked for together with others.
const SMALL_BYTES: u64 = 256 << 10;
/// Portions of small contents for each of several nodes: the slowest then sets the end by a part of its share.
const PARTS_OF_EACH: usize = 4;
/// Contents of one portion, and their bytes, where there are fewer: a request is not worth less.
const LEAST_TOGETHER: usize = 4;
const LEAST_TOGETHER_BYTES: u64 = 64 << 10;
/// Contents of one portion at most.
const TOGETHER: usize = 128;
/// Bytes of one portion at most: it is in memory until it is written.
const TOGETHER_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: usize, content: usize, size: u64) -> Entry {
        Entry {
            name: format!("{name}").parse().unwrap(),
            content: ContentId::of(&content.to_le_bytes()),
            size,
            media_type: None,
            executable: false,
        }
    }

    #[test]
    fn every_place_is_in_one_portion_and_portions_are_bounded() {
        let sizes = |i: usize| [0, 1, 70_000, SMALL_BYTES, SMALL_BYTES + 1, 5 << 20][i % 6];
        let entries: Vec<Entry> = (0..1_000).map(|i| entry(i, i / 2, sizes(i / 2))).collect();
        let portions = portions(entries, 1);
        let mut places = 0;
        for portion in &portions {
            let wanted = match portion {
                Portion::Alone(one) => std::slice::from_ref(one),
                Portion::Together(many) => {
                    assert!(many.len() <= TOGETHER && many.iter().all(|one| one.claimed() <= SMALL_BYTES));
                    assert!(many.iter().map(Wanted::claimed).sum::<u64>() <= TOGETHER_BYTES);
                    &many[..]
                }
            };
            places += wanted.iter().map(|one| one.places.len()).sum::<usize>();
        }
        assert_eq!(places, 1_000);
        assert!(matches!(&portions[0], Portion::Alone(one) if one.claimed() == 5 << 20));
        assert!(super::portions(Vec::new(), 3).is_empty());

        // For several nodes there is something for each of them.
        let few: Vec<Entry> = (0..48).map(|i| entry(i, i, 1_000)).collect();
        let count = |nodes| super::portions(few.clone(), nodes).len();
        assert_eq!((count(1), count(3)), (1, 12));
    }
}
