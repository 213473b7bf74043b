//! What is to be sent, by what the chain says and what is stored. Pure: everything it knows is in its arguments.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;

use aro_proto::channel::SignedVoucher;
use aro_proto::{Amount, ChannelId};
use settlement_chain::instructions;
use settlement_chain::submit::TransactionFormat;
use settlement_chain::{Address, Program};
use settlement_interface::accounts::{Channel, Node, status};
use settlement_interface::instructions::MAX_BATCH;
use settlement_interface::voucher::{NEVER, is_expired};

use super::pack::{Entry, Source, Target};
use super::{Candidate, Cost, Due, Kind, Planned, Rules, Trace};
use crate::vouchers::StoredVoucher;

/// Decides what is sent, for one operator.
#[derive(Clone, Debug)]
pub struct Planner {
    /// The settlement program.
    pub program: Program,
    /// The operator's hot key: pays and closes.
    pub authority: Address,
    /// The operator's account.
    pub operator: Address,
    /// How transactions are written.
    pub format: TransactionFormat,
    /// When settling is due.
    pub rules: Rules,
    /// Whether channels are closed when their node asks; else they are only settled.
    pub close_when_asked: bool,
}

/// What the chain says, at about one moment.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The chain's time, in unix seconds.
    pub now: i64,
    /// Between which times the servers are that were asked, in unix seconds.
    pub clocks: RangeInclusive<i64>,
    /// Node accounts by address.
    pub nodes: BTreeMap<Address, Node>,
    /// Channels by id; one that is not here is gone.
    pub channels: BTreeMap<ChannelId, Channel>,
    /// What a transaction costs.
    pub cost: Cost,
    /// Whether wishes to close that are in doubt count: their nodes had time enough to say them anew.
    pub believes_old_wishes: bool,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            now: 0,
            clocks: 0..=0,
            nodes: BTreeMap::new(),
            channels: BTreeMap::new(),
            cost: Cost::default(),
            believes_old_wishes: false,
        }
    }
}

impl Planner {
    /// Every stored voucher that is due. `busy` channels have a transaction whose fate is open; they wait. Channels
    /// that run towards a deadline come first, the earliest before all.
    pub fn plan(&self, facts: &Facts, vouchers: &[StoredVoucher], busy: &HashSet<ChannelId>) -> Vec<Planned> {
        self.plan_only(facts, vouchers, busy, |_| true)
    }

    /// Only what must not wait for anything else: vouchers of closing channels, settled and not closed.
    // r[impl settlement.urgent]
    pub fn urgent(&self, facts: &Facts, vouchers: &[StoredVoucher], busy: &HashSet<ChannelId>) -> Vec<Planned> {
        self.settling().plan_only(facts, vouchers, busy, |due| due == Due::Closing)
    }

    /// Only what would be lost if nobody looked: vouchers of closing channels, and those that expire soon, settled and
    /// not closed.
    pub fn at_risk(&self, facts: &Facts, vouchers: &[StoredVoucher], busy: &HashSet<ChannelId>) -> Vec<Planned> {
        self.settling().plan_only(facts, vouchers, busy, |due| matches!(due, Due::Closing | Due::ExpiresSoon))
    }

    fn settling(&self) -> Self {
        Self { close_when_asked: false, ..self.clone() }
    }

    fn plan_only(
        &self,
        facts: &Facts,
        vouchers: &[StoredVoucher],
        busy: &HashSet<ChannelId>,
        wanted: impl Fn(Due) -> bool,
    ) -> Vec<Planned> {
        let candidates: Vec<(&SignedVoucher, &Channel, Candidate, Trace)> = vouchers
            .iter()
            .filter(|stored| !stored.quarantined && !busy.contains(&stored.channel()))
            .filter_map(|stored| self.candidate(facts, stored))
            .collect();
        let bare: Vec<Candidate> = candidates.iter().map(|(_, _, candidate, _)| *candidate).collect();
        let dues = self.rules.choose(facts.now, &facts.cost, &bare);
        // Per node and kind; vouchers that expire apart, for one makes its whole batch longer.
        let mut groups: BTreeMap<(Kind, Address, bool), Vec<Entry>> = BTreeMap::new();
        for ((signed, channel, candidate, trace), due) in candidates.into_iter().zip(dues) {
            let Some(due) = due.filter(|due| wanted(*due)) else { continue };
            // A closing channel is settled at once but not closed unless its node says so: the node may hold a better
            // voucher that is still on its way, and a close would cut that off.
            let kind = if candidate.asked { Kind::Close } else { Kind::Settle };
            let entry = Entry::of(signed, channel, trace, due, facts.now);
            groups.entry((kind, candidate.node, entry.voucher.2 != NEVER)).or_default().push(entry);
        }
        let mut planned = Vec::new();
        for ((kind, node, _), mut entries) in groups {
            entries.sort_by_key(|entry| entry.deadline);
            // r[impl settlement.fee.operator]
            let operator = facts.nodes.get(&node).map_or(self.operator, |account| Address::from(account.operator));
            planned.extend(self.pack(Source { kind, at: facts.now, target: Target::Node { node, operator }, entries }));
        }
        planned.sort_by_key(|planned: &Planned| planned.source.deadline());
        planned
    }

    /// Ends the grace of channels that are past it.
    pub fn finalize(&self, facts: &Facts, busy: &HashSet<ChannelId>) -> Vec<Planned> {
        let over = facts.channels.iter().filter(|(id, channel)| {
            channel.status == status::CLOSING && facts.now >= channel.deadline && !busy.contains(id)
        });
        let entries: Vec<Entry> = over.map(|(id, channel)| Entry::bare(*id, Trace::of(channel, None))).collect();
        self.pack(Source { kind: Kind::Finalize, at: facts.now, target: Target::Anyone, entries })
    }

    /// Refunds of closed channels, grouped by who gets what back.
    pub fn reclaim(&self, facts: &Facts, busy: &HashSet<ChannelId>) -> Vec<Planned> {
        let mut groups: BTreeMap<([u8; 32], [u8; 32]), Vec<Entry>> = BTreeMap::new();
        for (id, channel) in &facts.channels {
            if channel.status == status::CLOSED && !busy.contains(id) {
                let refund = Amount::new(instructions::refundable(channel));
                let entry = Entry::bare(*id, Trace { refund, ..Trace::of(channel, None) });
                groups.entry((channel.agent, channel.rent_payer)).or_default().push(entry);
            }
        }
        groups
            .into_iter()
            .flat_map(|((agent, rent_payer), entries)| {
                let target = Target::Agent { agent: agent.into(), rent_payer: rent_payer.into() };
                self.pack(Source { kind: Kind::Reclaim, at: facts.now, target, entries })
            })
            .collect()
    }

    /// A settling transaction that is as full as its size allows, for nobody: to see what one costs.
    pub fn full(&self) -> Option<Planned> {
        let entry = |number: u8| {
            let id = ChannelId::from_bytes([number; 32]);
            let mut entry = Entry::bare(id, Trace::default());
            entry.voucher.1.cumulative = 1;
            entry
        };
        let entries = (0..=u8::MAX).take(MAX_BATCH).map(entry).collect();
        // Nobody's address: a batch that names fewer accounts than a real one would hold more.
        let node = Address::new_from_array([u8::MAX; 32]);
        let target = Target::Node { node, operator: self.operator };
        self.pack(Source { kind: Kind::Settle, at: 0, target, entries }).into_iter().next()
    }

    /// A stored voucher as the rules see it; `None` if the chain would not take it at all.
    fn candidate<'a>(
        &self,
        facts: &'a Facts,
        stored: &'a StoredVoucher,
    ) -> Option<(&'a SignedVoucher, &'a Channel, Candidate, Trace)> {
        let channel = facts.channels.get(&stored.channel())?;
        let node = facts.nodes.get(&stored.node)?;
        if !channel.is_settleable(facts.now) {
            return None;
        }
        let signed = stored.due(facts.now);
        let voucher = &signed.voucher;
        let lives = !is_expired(voucher.expires_at, facts.now);
        let above = voucher.cumulative.saturating_sub(Amount::new(channel.settled));
        let unsettled = if lives { above } else { Amount::ZERO };
        let foreign = Address::from(node.operator) != self.operator;
        // A close ends the channel with the voucher that it carries: the same one must be the best by every clock.
        let is_best = [facts.clocks.start(), facts.clocks.end()].iter().all(|at| stored.due(**at) == signed);
        let candidate = Candidate {
            node: stored.node,
            unsettled,
            deposit: Amount::new(channel.deposit),
            closing: channel.status == status::CLOSING,
            // Only the node's own operator may close.
            asked: stored.is_to_close(facts.believes_old_wishes) && self.close_when_asked && !foreign && is_best,
            expires_at: voucher.expires_at,
            foreign,
            since: stored.since,
            heard: stored.heard,
        };
        let signature = (!unsettled.is_zero()).then_some(signed.signature);
        let trace = Trace { voucher_signature: signature, ..Trace::of(channel, Some(node)) };
        Some((signed, channel, candidate, trace))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use aro_proto::SecretKey;
    use aro_proto::channel::Voucher;
    use aro_proto::limits::SETTLE_MARGIN_S;
    use proptest::prelude::*;
    use settlement_chain::instructions::NO_VOUCHER;
    use settlement_interface::instructions::VoucherEntry;

    use super::*;
    use crate::batch::transaction_bytes;
    use crate::vouchers::Accepted;

    const NOW: i64 = 1_800_000_000;

    pub(crate) fn planner() -> Planner {
        let authority = Address::new_from_array([200; 32]);
        let program = Program::local();
        let operator = program.operator(&authority).0;
        let rules = Rules { min_settle: Amount::new(10), ..Rules::default() };
        let format = TransactionFormat::Legacy;
        Planner { program, authority, operator, format, rules, close_when_asked: true }
    }

    fn node_address(node: u8) -> Address {
        Address::new_from_array([node; 32])
    }

    /// A channel that has settled 100 of its deposit of a million.
    pub(crate) fn add_channel(facts: &mut Facts, number: u16, node: u8) -> ChannelId {
        let mut id = [3; 32];
        id[..2].copy_from_slice(&number.to_le_bytes());
        let id = ChannelId::from_bytes(id);
        let mut channel = Channel::from_bytes(&[0; Channel::LEN]);
        channel.node = [node; 32];
        channel.agent = [u8::try_from(number % 3).unwrap(); 32];
        channel.deposit = 1_000_000;
        channel.settled = 100;
        facts.channels.insert(id, channel);
        let mut account = Node::from_bytes(&[0; Node::LEN]);
        account.operator = planner().operator.to_bytes();
        facts.nodes.insert(node_address(node), account);
        id
    }

    pub(crate) fn accepted(channel: ChannelId, node: u8, cumulative: u64, expires_at: i64, close: bool) -> Accepted {
        let voucher = Voucher { channel, cumulative: Amount::new(cumulative), expires_at };
        let key = SecretKey::from_bytes(&[7; 32]);
        let voucher = voucher.sign(&key).verify(&key.agent_id()).unwrap();
        Accepted { voucher, node: node_address(node), close }
    }

    fn voucher(channel: ChannelId, node: u8, cumulative: u64, expires_at: i64, close: bool) -> StoredVoucher {
        StoredVoucher::new(&accepted(channel, node, cumulative, expires_at, close), NOW)
    }

    fn facts() -> Facts {
        Facts { now: NOW, clocks: NOW..=NOW, ..Facts::default() }
    }

    fn kinds(planned: &[Planned]) -> Vec<(Kind, usize)> {
        planned.iter().map(|planned| (planned.kind, planned.items.len())).collect()
    }

    // r[verify settlement.batch.size]
    #[test]
    fn batches_are_full_to_the_last_entry_that_fits() {
        use TransactionFormat::{Legacy, V1};
        let later = NOW + 7 * SETTLE_MARGIN_S;
        for (format, expires_at, close, expected) in [
            (Legacy, 0, true, 8),
            (Legacy, 0, false, 8),
            (Legacy, later, true, 8),
            (V1, 0, true, 36),
            (V1, 0, false, 36),
            (V1, later, true, 33),
        ] {
            let planner = Planner { format, ..planner() };
            let mut facts = facts();
            let vouchers: Vec<_> =
                (0..100).map(|number| voucher(add_channel(&mut facts, number, 1), 1, 500, expires_at, close)).collect();
            let planned = planner.plan(&facts, &vouchers, &HashSet::new());
            let (last, full) = planned.split_last().unwrap();
            for (batch, next) in full.iter().zip(&planned[1..]) {
                let bytes = transaction_bytes(format, &planner.authority, &batch.instruction);
                assert!(bytes <= format.max_bytes(), "{bytes}");
                let mut more = batch.source.entries.clone();
                more.push(next.source.entries[0].clone());
                let over = planner.instruction(&batch.source, &more);
                assert!(transaction_bytes(format, &planner.authority, &over) > format.max_bytes());
            }
            assert!(last.items.len() <= full[0].items.len());
            assert_eq!(full[0].items.len(), expected);
        }
    }

    /// One signature, so 5,000 lamports of base fee for all of a batch.
    // r[verify settlement.batch.size]
    #[test]
    fn v1_batch_closes_36_channels_for_at_most_140_lamports_each_and_reclaims_60() {
        let planner = Planner { format: TransactionFormat::V1, ..planner() };
        let mut facts = facts();
        let vouchers: Vec<_> =
            (0..100).map(|number| voucher(add_channel(&mut facts, number, 1), 1, 500, 0, true)).collect();
        let closes = planner.plan(&facts, &vouchers, &HashSet::new());
        assert_eq!(kinds(&closes), [(Kind::Close, 36), (Kind::Close, 36), (Kind::Close, 28)]);
        let signers = closes[0].instruction.accounts.iter().filter(|account| account.is_signer).count();
        assert_eq!(signers, 1);
        assert!(5_000 / closes[0].items.len() <= 140);
        assert_eq!(transaction_bytes(planner.format, &planner.authority, &closes[0].instruction), 4_040);

        for channel in facts.channels.values_mut() {
            (channel.status, channel.agent, channel.rent_payer) = (status::CLOSED, [8; 32], [9; 32]);
        }
        assert_eq!(kinds(&planner.reclaim(&facts, &HashSet::new())), [(Kind::Reclaim, 60), (Kind::Reclaim, 40)]);
    }

    // r[verify settlement.worth]
    #[test]
    fn only_what_is_worth_it_is_settled_and_only_what_is_asked_is_closed() {
        let planner = planner();
        let mut facts = facts();
        let dust = add_channel(&mut facts, 1, 1);
        let plan = |facts: &Facts, voucher| kinds(&planner.plan(facts, &[voucher], &HashSet::new()));
        assert_eq!(plan(&facts, voucher(dust, 1, 109, 0, false)), []);
        assert_eq!(plan(&facts, voucher(dust, 1, 110, 0, false)), [(Kind::Settle, 1)]);
        assert_eq!(plan(&facts, voucher(dust, 1, 101, 0, true)), [(Kind::Close, 1)]);
        assert_eq!(plan(&facts, voucher(dust, 1, 100, 0, true)), [(Kind::Close, 1)], "closes at the watermark");
        assert_eq!(plan(&facts, voucher(dust, 1, 101, NOW + 5, false)), [(Kind::Settle, 1)], "before it expires");
        assert_eq!(plan(&facts, voucher(dust, 1, 999, NOW, false)), [], "expired");

        facts.nodes.get_mut(&node_address(1)).unwrap().operator = [9; 32];
        assert_eq!(plan(&facts, voucher(dust, 1, 999, 0, true)), [], "another operator's node, who closes it");
    }

    #[test]
    fn closing_channels_are_settled_before_the_deadline_and_finalized_at_it() {
        let planner = planner();
        let mut facts = facts();
        let id = add_channel(&mut facts, 1, 1);
        let channel = facts.channels.get_mut(&id).unwrap();
        channel.status = status::CLOSING;
        channel.deadline = NOW + 1;
        let stored = [voucher(id, 1, 101, 0, false)];
        assert_eq!(kinds(&planner.plan(&facts, &stored, &HashSet::new())), [(Kind::Settle, 1)]);
        assert_eq!(kinds(&planner.finalize(&facts, &HashSet::new())), []);
        facts.now = NOW + 1;
        assert_eq!(kinds(&planner.plan(&facts, &stored, &HashSet::new())), []);
        assert_eq!(kinds(&planner.finalize(&facts, &HashSet::new())), [(Kind::Finalize, 1)]);
        assert_eq!(kinds(&planner.finalize(&facts, &HashSet::from([id]))), [], "busy channels wait");
        facts.channels.get_mut(&id).unwrap().status = status::CLOSED;
        assert_eq!(kinds(&planner.plan(&facts, &stored, &HashSet::new())), []);
        assert_eq!(kinds(&planner.reclaim(&facts, &HashSet::new())), [(Kind::Reclaim, 1)]);
        assert_eq!(kinds(&planner.reclaim(&facts, &HashSet::from([id]))), [], "busy channels wait");
    }

    #[test]
    fn channels_that_run_towards_a_deadline_come_first() {
        let planner = planner();
        let mut facts = facts();
        let mut vouchers: Vec<_> =
            (0..30).map(|number| voucher(add_channel(&mut facts, number, 1), 1, 500, 0, true)).collect();
        let mut close_at = |number, node, deadline| {
            let id = add_channel(&mut facts, number, node);
            let channel = facts.channels.get_mut(&id).unwrap();
            (channel.status, channel.deadline) = (status::CLOSING, deadline);
            vouchers.push(voucher(id, node, 500, 0, node == 1));
            id
        };
        let [later, soon, sooner] = [close_at(30, 1, NOW + 90), close_at(31, 9, NOW + 60), close_at(32, 1, NOW + 30)];
        let planned = planner.plan(&facts, &vouchers, &HashSet::new());
        assert_eq!([planned[0].items[0].channel, planned[0].items[1].channel], [sooner, later]);
        assert_eq!(planned[1].items.iter().map(|item| item.channel).collect::<Vec<_>>(), [soon]);
        assert_eq!(planned.iter().map(|planned| planned.items.len()).sum::<usize>(), 33);
    }

    // r[verify settlement.urgent]
    #[test]
    fn urgent_is_what_is_closing_and_it_is_settled_even_where_a_close_is_asked() {
        let planner = planner();
        let mut facts = facts();
        let open = add_channel(&mut facts, 1, 1);
        let [closing, asked] = [2, 3].map(|number| {
            let id = add_channel(&mut facts, number, 1);
            let channel = facts.channels.get_mut(&id).unwrap();
            (channel.status, channel.deadline) = (status::CLOSING, NOW + 60);
            id
        });
        let stored =
            [voucher(open, 1, 9_999, 0, true), voucher(closing, 1, 101, 0, false), voucher(asked, 1, 101, 0, true)];
        let planned = planner.urgent(&facts, &stored, &HashSet::new());
        assert_eq!(kinds(&planned), [(Kind::Settle, 2)]);
        assert_eq!(planned[0].dues, [Due::Closing; 2]);
        assert_eq!(kinds(&planner.urgent(&facts, &stored, &HashSet::from([closing, asked]))), []);
        let planned = planner.plan(&facts, &stored, &HashSet::new());
        let dues: Vec<(Kind, Vec<Due>)> = planned.iter().map(|planned| (planned.kind, planned.dues.clone())).collect();
        assert_eq!(dues, [(Kind::Settle, vec![Due::Closing]), (Kind::Close, vec![Due::Closing, Due::Asked])]);
    }

    // r[verify settlement.close.said_anew]
    #[test]
    fn wish_in_doubt_closes_nothing_and_what_is_closing_is_settled_all_the_same() {
        let planner = planner();
        let mut facts = facts();
        let [open, closing] = [1, 2].map(|number| add_channel(&mut facts, number, 1));
        let channel = facts.channels.get_mut(&closing).unwrap();
        (channel.status, channel.deadline) = (status::CLOSING, NOW + 60);
        let doubted = |id| StoredVoucher { doubted: true, ..voucher(id, 1, 101, 0, true) };
        let stored = [doubted(open), doubted(closing)];
        let plan = |facts: &Facts| kinds(&planner.plan(facts, &stored, &HashSet::new()));
        assert_eq!(plan(&facts), [(Kind::Settle, 1)]);
        assert_eq!(kinds(&planner.urgent(&facts, &stored, &HashSet::new())), [(Kind::Settle, 1)]);
        facts.believes_old_wishes = true;
        assert_eq!(plan(&facts), [(Kind::Close, 2)]);
    }

    #[test]
    fn expired_voucher_closes_at_the_watermark_without_its_signature() {
        let planner = planner();
        let mut facts = facts();
        let id = add_channel(&mut facts, 1, 1);
        let planned = planner.plan(&facts, &[voucher(id, 1, 500, NOW - 1, true)], &HashSet::new());
        assert_eq!(planned[0].kind, Kind::Close);
        assert_eq!(planned[0].source.entries[0].voucher.1, NO_VOUCHER);
        assert_eq!(planned[0].items[0].voucher, Some(Amount::new(500)));
    }

    // r[verify settlement.close.best_voucher]
    #[test]
    fn close_carries_its_voucher_whatever_the_chain_is_said_to_have_settled() {
        let planner = planner();
        let mut facts = facts();
        let id = add_channel(&mut facts, 1, 1);
        facts.channels.get_mut(&id).unwrap().settled = 500;
        let stored = voucher(id, 1, 500, 0, true);
        let planned = planner.plan(&facts, &[stored], &HashSet::new());
        let entry = VoucherEntry { signature: stored.signed.signature, cumulative: 500 };
        assert_eq!((planned[0].kind, &planned[0].source.entries[0].voucher.1), (Kind::Close, &entry));
        assert_eq!(planned[0].items[0].trace.voucher_signature, None, "nothing is to be credited");
    }

    #[test]
    fn halves_hold_the_same_entries() {
        let planner = planner();
        let mut facts = facts();
        let vouchers: Vec<_> =
            (0..5).map(|number| voucher(add_channel(&mut facts, number, 1), 1, 500, 0, false)).collect();
        let planned = planner.plan(&facts, &vouchers, &HashSet::new());
        let [first, second] = planner.halves(&planned[0]).unwrap();
        assert_eq!([first.items.as_slice(), &second.items].concat(), planned[0].items);
        let [one, _] = planner.halves(&first).unwrap();
        assert!(planner.halves(&one).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn nothing_is_lost_doubled_or_mixed_up(
            channels in prop::collection::vec((0_u8..4, any::<bool>(), any::<bool>(), 0_u64..30), 0..120),
            v1: bool,
        ) {
            let format = if v1 { TransactionFormat::V1 } else { TransactionFormat::Legacy };
            let planner = Planner { format, ..planner() };
            let mut facts = facts();
            let mut expected = BTreeMap::new();
            let mut vouchers = Vec::new();
            for (number, (node, close, expires, rise)) in channels.into_iter().enumerate() {
                let id = add_channel(&mut facts, u16::try_from(number).unwrap(), node);
                let expires_at = if expires { NOW + 2 * SETTLE_MARGIN_S } else { 0 };
                vouchers.push(voucher(id, node, 100 + rise, expires_at, close));
                if close || rise >= 10 {
                    expected.insert(id, (close, node));
                }
            }
            for planned in planner.plan(&facts, &vouchers, &HashSet::new()) {
                let bytes = transaction_bytes(planner.format, &planner.authority, &planned.instruction);
                prop_assert!(bytes <= planner.format.max_bytes());
                prop_assert!(planned.items.len() <= MAX_BATCH);
                let node_slot = if planned.kind == Kind::Close { 1 } else { 0 };
                for item in &planned.items {
                    let (close, node) = expected.remove(&item.channel).expect("planned once, and due");
                    prop_assert_eq!(planned.kind == Kind::Close, close);
                    prop_assert_eq!(planned.instruction.accounts[node_slot].pubkey, node_address(node));
                }
            }
            prop_assert!(expected.is_empty());
        }
    }
}
