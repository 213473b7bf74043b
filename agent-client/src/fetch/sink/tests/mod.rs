//! What could break: a byte in the file that was never proven, a claim to hold what the disk does not, a byte asked for
//! twice, a reader out of order, a source that waits for itself.

mod file;
mod ordered;

use std::time::Duration;

use aro_proto::merkle::{Decoder, Encoder, Outboard, PreOrderOutboard, Step};

use super::*;

/// A proven answer to a request, taken apart.
struct Proven {
    size: u64,
    leaves: Vec<Leaf>,
}

/// A leaf with the pairs that came before it.
#[derive(Clone, Debug, PartialEq)]
struct Leaf {
    pairs: Vec<Pair>,
    offset: u64,
    bytes: Bytes,
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i / 3 % 251) as u8 + 1).collect()
}

/// The answer to `asked`, through the decoder.
fn answer(bytes: &[u8], asked: &ByteRanges, group: GroupSize) -> Proven {
    let outboard = PreOrderOutboard::build(bytes);
    let answered = asked.answered(bytes.len() as u64, group);
    let mut decoder = Decoder::new(outboard.root(), answered.clone()).unwrap();
    let mut proven = Proven { size: bytes.len() as u64, leaves: Vec::new() };
    let mut pairs = Vec::new();
    for step in Encoder::new(answered) {
        let item = match step {
            Step::Parent(node) => Bytes::copy_from_slice(&outboard.parent(node).unwrap()),
            Step::Leaf { offset, len } => Bytes::copy_from_slice(&bytes[offset as usize..][..len as usize]),
        };
        let node = decoder.next_parent();
        match decoder.accept(item.clone()).unwrap() {
            Some(leaf) => {
                let (offset, pairs) = (leaf.offset(), mem::take(&mut pairs));
                proven.leaves.push(Leaf { pairs, offset, bytes: leaf.into_bytes() });
            }
            None => pairs.push((node.unwrap(), *item.first_chunk().unwrap())),
        }
    }
    proven
}

impl Leaf {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Through a node that claims a content of this size.
    async fn push(&self, file: &FileTarget, size: u64) -> Result<(), FetchError> {
        file.push(self.offset, self.bytes.clone(), self.pairs.clone(), size, None).await
    }
}

impl Proven {
    fn ends_at_size(&self, leaf: &Leaf) -> Option<u64> {
        (leaf.offset + leaf.len() == self.size).then_some(self.size)
    }

    async fn push_all(&self, file: &FileTarget) {
        assert!(file.claim(self.size));
        for leaf in &self.leaves {
            leaf.push(file, self.size).await.unwrap();
        }
    }
}

fn delivered(bytes: &[u8], asked: &ByteRanges) -> Vec<u8> {
    let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
    asked.iter().flat_map(|range| bytes[cut(range.start)..cut(range.end)].to_vec()).collect()
}

/// Longer than anything takes that does not wait.
const PATIENCE: Duration = Duration::from_secs(20);
/// After this much nothing more happens, for everything that is there has been taken.
const SHORT: Duration = Duration::from_millis(50);
