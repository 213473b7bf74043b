//! Batches of vouchers, of mixed fates.

use super::Chooser;
use crate::{
    model::State,
    random::{
        cast::OPERATORS,
        op::{ChannelName, Entry, Op, Signed},
    },
};

impl Chooser<'_> {
    pub(super) fn settle(&mut self) -> Op {
        let (node, operator, entries) = self.vouchers();
        Op::Settle { node, operator, entries }
    }

    pub(super) fn close(&mut self) -> Op {
        let (node, operator, entries) = self.vouchers();
        Op::Close { by: self.acting(node, operator), node, operator, entries }
    }

    /// A node, its operator as the chain has it (mostly), and entries for its channels (mostly).
    fn vouchers(&mut self) -> (usize, Option<usize>, Vec<Entry>) {
        let node = self.registered_node();
        let account = self.cast.nodes[node].account;
        let chosen = self.model.nodes.get(&account).and_then(|node| node.operator);
        let mut operator = chosen.and_then(|chosen| self.operator_index(&chosen));
        if self.chance.one_in(40) {
            operator = (!self.chance.one_in(2)).then(|| self.chance.index(OPERATORS));
        }
        let count = if self.chance.one_in(50) { 0 } else { self.chance.between(1, 6) };
        let mut entries: Vec<Entry> = Vec::new();
        for _ in 0..count {
            if !entries.is_empty() && self.chance.one_in(8) {
                // The same channel once more: as it was, or higher.
                let mut again = entries[self.chance.index(entries.len())].clone();
                again.cumulative = again.cumulative.saturating_add(self.chance.below(2));
                entries.push(again);
                continue;
            }
            let channel = if self.chance.one_in(60) {
                self.channel(|_| true)
            } else {
                match self.live(|channel| channel.node == account && channel.state != State::Closed) {
                    Some((name, _)) => name,
                    // Whoever is closed or gone is skipped, whichever node it was of.
                    None if !self.gone.is_empty() => self.chance.pick(self.gone),
                    None => self.channel(|channel| channel.node == account),
                }
            };
            let entry = self.entry(channel);
            entries.push(entry);
        }
        (node, operator, entries)
    }

    fn entry(&mut self, channel: ChannelName) -> Entry {
        let (settled, deposit) = self
            .model
            .channels
            .get(&self.cast.channel(channel))
            .map_or((10, 100), |channel| (channel.settled, channel.deposit));
        let cumulative = match self.chance.below(40) {
            0..=2 => settled,
            3 => settled.saturating_sub(1),
            4 | 5 => deposit,
            6 => deposit + 1,
            7 => 0,
            8 if self.wrong() => u64::MAX,
            _ if deposit > settled => settled + self.chance.between(1, ((deposit - settled) / 3).max(1)),
            _ => settled,
        };
        let now = self.model.now;
        let expires_at = match self.chance.below(20) {
            0 => now,
            1 => now - 1,
            2 => now + 1,
            3 => now + 1_000_000,
            4 => self.chance.pick(&[i64::MIN, -1, 1, i64::MAX]),
            _ => 0,
        };
        let signed = match self.chance.below(50) {
            0 => Signed::ByOwner,
            1 => Signed::ForAnotherAmount,
            2 => Signed::ForAnotherExpiry,
            3 => Signed::ForAnotherChannel(ChannelName { nonce: channel.nonce + 1, ..channel }),
            4 => Signed::WithBitFlipped(self.chance.index(512)),
            5 => Signed::NotAtAll,
            _ => Signed::Honestly,
        };
        Entry { channel, cumulative, expires_at, signed }
    }
}
