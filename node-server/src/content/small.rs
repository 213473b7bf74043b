//! Small contents in memory: what is asked for by the thousand is read from disk once, not opened each time.
//!
//! Bounded in bytes. What was not asked for since its last turn goes first (second chance), so a long list that is
//! read once does not push out what is asked for again and again.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use aro_proto::ContentId;
use aro_proto::merkle::{AnsweredRanges, Encoder, Step, parent_offset};
use bytes::Bytes;

/// A small content with its hashes, in memory.
#[derive(Debug)]
pub(crate) struct SmallContent {
    data: Bytes,
    outboard: Bytes,
}

impl SmallContent {
    /// Bytes of the largest content that counts as small: one chunk group of bulk.
    pub(crate) const LARGEST: u64 = 64 << 10;

    pub(crate) fn new(data: Vec<u8>, outboard: Vec<u8>) -> Self {
        Self { data: data.into(), outboard: outboard.into() }
    }

    /// Its bytes.
    pub(crate) fn size(&self) -> u64 {
        self.data.len() as u64
    }

    /// Appends the response that holds `answered`, which must be made for the content's size. What makes up most of the
    /// content is not copied; a small part is, lest the whole be kept for it until it is acknowledged.
    ///
    /// # Errors
    /// The ranges are of another content.
    pub(crate) fn encode(&self, answered: &AnsweredRanges, wire: &mut Vec<Bytes>) -> io::Result<()> {
        for step in Encoder::new(answered.clone()) {
            let (block, offset, len) = match step {
                Step::Parent(node) => {
                    let offset = parent_offset(self.size(), node).ok_or(io::ErrorKind::InvalidInput)?;
                    (&self.outboard, offset, aro_proto::merkle::PAIR_LEN)
                }
                Step::Leaf { offset, len } => (&self.data, offset, len as usize),
            };
            let start = usize::try_from(offset).ok().filter(|start| start.saturating_add(len) <= block.len());
            let start = start.ok_or(io::ErrorKind::UnexpectedEof)?;
            let part = start..start + len;
            let is_most = len >= block.len() / 2;
            wire.push(if is_most { block.slice(part) } else { Bytes::copy_from_slice(&block[part]) });
        }
        Ok(())
    }

    fn cost(&self) -> usize {
        self.data.len() + self.outboard.len() + ENTRY
    }
}

/// The small contents that were asked for lately. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct SmallContents {
    most_bytes: usize,
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    contents: HashMap<ContentId, Place>,
    /// Who is looked at next when room is needed.
    turns: VecDeque<ContentId>,
    bytes: usize,
}

#[derive(Debug)]
struct Place {
    content: Arc<SmallContent>,
    /// Asked for since its last turn.
    was_used: bool,
}

impl SmallContents {
    /// Holds so many bytes at most; none at all with 0.
    pub(crate) fn new(most_bytes: usize) -> Self {
        Self { most_bytes, held: Arc::default() }
    }

    /// Whether a content of this size is held here once it was read.
    pub(crate) fn holds(&self, size: u64) -> bool {
        size <= SmallContent::LARGEST && self.most_bytes >= LEAST
    }

    /// A content, if it is held.
    pub(crate) fn get(&self, id: ContentId) -> Option<Arc<SmallContent>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let place = held.contents.get_mut(&id)?;
        place.was_used = true;
        Some(Arc::clone(&place.content))
    }

    /// Holds a content, and lets others go if there is no room.
    pub(crate) fn keep(&self, id: ContentId, content: Arc<SmallContent>) {
        let cost = content.cost();
        if cost > self.most_bytes {
            return;
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.contents.contains_key(&id) {
            return;
        }
        while held.bytes + cost > self.most_bytes && held.let_one_go() {}
        held.bytes += cost;
        held.turns.push_back(id);
        held.contents.insert(id, Place { content, was_used: false });
    }
}

impl Held {
    /// False if nothing is held.
    fn let_one_go(&mut self) -> bool {
        while let Some(id) = self.turns.pop_front() {
            match self.contents.get_mut(&id) {
                Some(place) if place.was_used => {
                    place.was_used = false;
                    self.turns.push_back(id);
                }
                _ => {
                    let gone = self.contents.remove(&id);
                    self.bytes -= gone.map_or(0, |place| place.content.cost());
                    return true;
                }
            }
        }
        false
    }
}

/// Bytes below which nothing is held: room for a few of the largest.
const LEAST: usize = 1 << 20;
/// Bytes that an entry takes beside its content, about.
const ENTRY: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn small(len: usize) -> Arc<SmallContent> {
        Arc::new(SmallContent::new(vec![1; len], Vec::new()))
    }

    fn id(number: u8) -> ContentId {
        ContentId::from_bytes([number; 32])
    }

    #[test]
    fn what_is_held_is_bounded_and_what_is_used_stays() {
        let contents = SmallContents::new(10 * (1_000 + ENTRY));
        for number in 0..10 {
            contents.keep(id(number), small(1_000));
        }
        assert!((0..10).all(|number| contents.held.lock().unwrap().contents.contains_key(&id(number))));
        assert!(contents.get(id(0)).is_some());
        for number in 10..15 {
            contents.keep(id(number), small(1_000));
        }
        let held = contents.held.lock().unwrap();
        assert_eq!((held.contents.len(), held.bytes), (10, 10 * (1_000 + ENTRY)));
        assert!(held.contents.contains_key(&id(0)));
        assert!((1..6).all(|number| !held.contents.contains_key(&id(number))));
    }

    #[test]
    fn the_same_content_is_held_once_and_what_never_fits_not_at_all() {
        let contents = SmallContents::new(2_000);
        contents.keep(id(1), small(100));
        contents.keep(id(1), small(100));
        contents.keep(id(2), small(2_000));
        let held = contents.held.lock().unwrap();
        assert_eq!((held.contents.len(), held.turns.len(), held.bytes), (1, 1, 100 + ENTRY));
    }

    #[test]
    fn all_that_is_held_may_be_in_use_and_still_goes() {
        let contents = SmallContents::new(2 * (100 + ENTRY));
        for number in 0..20 {
            contents.keep(id(number), small(100));
            assert!(contents.get(id(number)).is_some());
        }
        assert_eq!(contents.held.lock().unwrap().contents.len(), 2);
    }
}
