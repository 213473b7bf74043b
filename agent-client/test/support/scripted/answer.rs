//! Answers to requests: quotes, and content that is billed as it is sent.

use std::sync::Arc;
use std::time::Duration;

use aro_proto::channel::credit_window;
use aro_proto::identity::{Binding, Signed};
use aro_proto::merkle::{ByteRanges, GroupSize};
use aro_proto::message::{
    Delivery, Describe, Description, Fetch, FetchHead, Message, PublishName, Quote, Refused, list_id,
};
use aro_proto::{Amount, ByteCount, Charge, Refusal, RefusalCode, SecretKey, Tariff};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::sync::watch;

use super::bytes::{encode_of, place_of, read_frame, write};
use super::script::Script;
use super::{Answers, ScriptedNode, Shared, Stored};

impl ScriptedNode {
    pub(super) async fn request(self, mut send: SendStream, mut recv: RecvStream, shared: Shared) -> Option<()> {
        let (kind, body) = read_frame(&mut recv).await?;
        assert_eq!(kind, Signed::KIND);
        self.inner.seen.send_modify(|seen| seen.requests += 1);
        let binding = Binding { exporter: shared.exporter, stream: u64::from(VarInt::from(send.id())) };
        let signed = Signed::from_bytes(&body).unwrap();
        match self.script() {
            Script::RefuseFetch(..) if signed.kind() == Describe::KIND => {}
            Script::Refuse(code, amount) | Script::RefuseFetch(code, amount) => {
                let mut refusal = Refusal::new(code, "scripted");
                refusal.amount = amount.map(Amount::new);
                write(&mut send, &Refused { refusal }).await?;
                let _ = send.finish();
                return Some(());
            }
            Script::RequestBytesAndStall(bytes) => {
                let _ = send.write_all(&bytes).await;
                let _ = send.stopped().await;
                return Some(());
            }
            Script::NameBytes { publish, .. } if signed.kind() == PublishName::KIND => {
                let _ = send.write_all(&publish).await;
                let _ = send.finish();
                let _ = send.stopped().await;
                return Some(());
            }
            Script::RequestBytes(bytes) | Script::NameBytes { resolve: bytes, .. } => {
                let _ = send.write_all(&bytes).await;
                let _ = send.finish();
                let _ = send.stopped().await;
                return Some(());
            }
            _ => {}
        }
        if signed.kind() == Describe::KIND {
            let describe = signed.verify::<Describe>(&binding).unwrap().into_message();
            self.describe(&mut send, &describe).await?;
        } else {
            let fetch = signed.verify::<Fetch>(&binding).unwrap().into_message();
            self.fetch(&mut send, &fetch, shared).await?;
        }
        let _ = send.finish();
        let _ = send.stopped().await;
        Some(())
    }

    async fn describe(&self, send: &mut SendStream, describe: &Describe) -> Option<()> {
        let other = self.inner.others.lock().unwrap().get(&describe.content).cloned();
        let size = match (self.script(), other) {
            (Script::QuoteSize(size), _) => size,
            (_, Some(other)) => other.bytes.len() as u64,
            (_, None) => self.claimed_size(),
        };
        let answered = describe.ranges.answered(size, GroupSize::from_log2(describe.group_log2).unwrap());
        let content_bytes = ByteCount::new(answered.content_bytes());
        let mut price = self.tariff().price(content_bytes).unwrap();
        if let Script::QuotePrice(other) = self.script() {
            price = Amount::new(other);
        }
        let key = if matches!(self.script(), Script::QuoteKey) {
            SecretKey::from_bytes(&[99; 32])
        } else {
            self.inner.key.clone()
        };
        let quote = Quote {
            content: describe.content,
            size: ByteCount::new(size),
            content_bytes,
            price,
            tariff: self.tariff(),
            valid_until: 4_000_000_000,
        };
        write(send, &Description { quote: quote.sign(&key) }).await
    }

    /// What it has beside its one content, many at once.
    async fn fetch_others(&self, send: &mut SendStream, fetch: &Fetch, shared: Shared) -> Option<()> {
        let stream = u64::from(VarInt::from(send.id()));
        let group = GroupSize::from_log2(fetch.group_log2).unwrap();
        let find = |content| self.inner.others.lock().unwrap().get(content).cloned();
        let due: Vec<_> = fetch
            .items
            .iter()
            .map(|item| {
                let stored: Arc<Stored> = find(&item.content)?;
                let answered = item.ranges.answered(stored.bytes.len() as u64, group);
                Some((stored, answered))
            })
            .collect();
        let bytes = due.iter().flatten().map(|(_, answered)| answered.content_bytes()).sum();
        let price = self.tariff().price(ByteCount::new(bytes)).unwrap();
        if price > fetch.max_price {
            let refusal = Refusal::new(RefusalCode::PriceTooHigh, "too much").with_amount(price);
            return write(send, &Refused { refusal }).await;
        }
        shared.delivered.lock().unwrap().push(self.delivery(stream, fetch, bytes));
        let mut bill = Bill::open(self, &shared, stream, bytes);
        for due in due {
            let Some((stored, answered)) = due else {
                write(send, &Refused { refusal: Refusal::new(RefusalCode::NotFound, "not here") }).await?;
                continue;
            };
            let content_bytes = ByteCount::new(answered.content_bytes());
            let price = self.tariff().price(content_bytes).unwrap();
            write(send, &FetchHead { size: ByteCount::new(stored.bytes.len() as u64), content_bytes, price }).await?;
            let mut encoding = encode_of(&stored, answered.clone());
            if let Script::FlipContent(offset) = self.script()
                && let Some(at) = place_of(answered, offset)
            {
                encoding[at] ^= 1;
            }
            for piece in encoding.chunks(PIECE) {
                if self.before(piece, send).await? == Before::Stall {
                    return None;
                }
                bill.wait_for(piece.len() as u64).await?;
                send.write_all(piece).await.ok()?;
            }
        }
        Some(())
    }

    /// What the script has it do before it sends a piece. None once it is gone.
    async fn before(&self, piece: &[u8], send: &mut SendStream) -> Option<Before> {
        let in_all = {
            let mut in_all = self.inner.sent.lock().unwrap();
            *in_all += piece.len() as u64;
            *in_all
        };
        match self.script() {
            Script::StallAfter(most) if in_all > most => {
                let _ = send.stopped().await;
                return Some(Before::Stall);
            }
            Script::Slow(rate) => {
                tokio::time::sleep(Duration::from_millis(piece.len() as u64 * 1_000 / rate)).await;
            }
            Script::RaisesAfter(most, per_mib) if in_all > most => {
                *self.inner.tariff.lock().unwrap() = Tariff { per_mib };
            }
            Script::DiesAfter(most) if in_all > most => {
                self.die();
                return None;
            }
            _ => {}
        }
        Some(Before::Send)
    }

    /// What an honest node signs for, if all of it comes through.
    fn delivery(&self, stream: u64, fetch: &Fetch, bytes: u64) -> Delivery {
        let bytes = ByteCount::new(bytes);
        let (content, ranges) = match fetch.items.as_slice() {
            [one] => (one.content, one.ranges.clone()),
            several => (list_id(several.iter().map(|item| item.content)), ByteRanges::all()),
        };
        let contents = u32::try_from(fetch.items.len()).unwrap();
        Delivery { stream, content, contents, ranges, bytes, amount: self.tariff().price(bytes).unwrap() }
    }

    async fn fetch(&self, send: &mut SendStream, fetch: &Fetch, shared: Shared) -> Option<()> {
        if !self.tariff().is_free() {
            let found =
                tokio::time::timeout(BIND_WAIT, shared.bound.subscribe().wait_for(|bound| *bound)).await.is_ok();
            if !found {
                let refusal = Refusal::new(RefusalCode::NoChannel, "nothing is bound");
                return write(send, &Refused { refusal }).await;
            }
        }
        let script = self.script();
        let group = GroupSize::from_log2(fetch.group_log2).unwrap();
        let item = &fetch.items[0];
        let is_other = self.inner.others.lock().unwrap().contains_key(&item.content);
        if is_other || fetch.items.len() > 1 {
            return self.fetch_others(send, fetch, shared).await;
        }
        assert_eq!(item.content, self.content_id());
        let size = self.content().len() as u64;
        let answered = item.ranges.answered(size, group);
        let claimed_size = match script {
            Script::Size(size) | Script::Claims(size) => size,
            _ => size,
        };
        let claimed = item.ranges.answered(claimed_size, group);
        let bytes = ByteCount::new(claimed.content_bytes());
        let mut head = FetchHead {
            size: ByteCount::new(claimed_size),
            content_bytes: bytes,
            price: self.tariff().price(bytes).unwrap_or(Amount::new(u64::MAX)),
        };
        match script {
            Script::ContentBytes(bytes) => head.content_bytes = ByteCount::new(bytes),
            Script::Price(price) => head.price = Amount::new(price),
            _ => {}
        }
        let is_honest = !matches!(script, Script::Price(_) | Script::ContentBytes(_) | Script::Size(_));
        if is_honest && head.price > fetch.max_price {
            let refusal = Refusal::new(RefusalCode::PriceTooHigh, "too much").with_amount(head.price);
            return write(send, &Refused { refusal }).await;
        }
        let due = bytes.get().max(answered.content_bytes());
        let stream = u64::from(VarInt::from(send.id()));
        let mut bill = Bill::open(self, &shared, stream, due);
        shared.delivered.lock().unwrap().push(self.delivery(stream, fetch, due));
        write(send, &head).await?;
        let mut encoding = self.encode(answered.clone());
        let mut stop = usize::MAX;
        match script {
            Script::FlipBit { byte, bit } => encoding[byte] ^= 1 << bit,
            Script::CutAt(at) => encoding.truncate(at),
            Script::FlipContent(offset) => {
                if let Some(at) = place_of(answered, offset) {
                    encoding[at] ^= 1;
                }
            }
            Script::Claims(_) => encoding.resize(usize::try_from(claimed.encoded_len()).unwrap(), 0),
            Script::Append(len) => encoding.extend(std::iter::repeat_n(7, len)),
            Script::StallAt(at) | Script::ResetAt(at, _) => stop = at,
            _ => {}
        }
        let mut sent = 0;
        for piece in encoding[..stop.min(encoding.len())].chunks(PIECE) {
            sent += piece.len() as u64;
            if self.before(piece, send).await? == Before::Stall {
                return None;
            }
            bill.wait_for(piece.len() as u64).await?;
            if send.write_all(piece).await.is_err() {
                self.inner.seen.send_modify(|seen| seen.sent.push(sent));
                return None;
            }
        }
        self.inner.seen.send_modify(|seen| seen.sent.push(sent));
        match script {
            Script::StallAt(_) => {
                let _ = send.stopped().await;
                None
            }
            Script::ResetAt(_, code) => {
                let _ = send.reset(VarInt::from_u32(code));
                None
            }
            _ => Some(()),
        }
    }
}

/// Whether a piece is sent.
#[derive(PartialEq, Eq)]
enum Before {
    Send,
    Stall,
}

/// The bill of one answer: each piece is on it before it leaves, and leaves only within the credit window, as the protocol
/// has it. Whatever the node asks by then, an answer costs what its head says.
struct Bill<'a> {
    node: &'a ScriptedNode,
    paid: watch::Receiver<u64>,
    answers: Answers,
    stream: u64,
    tariff: Tariff,
    /// The most that may stand unpaid, within the window.
    lends: Amount,
    /// Content bytes that are still to be billed.
    left: u64,
}

impl<'a> Bill<'a> {
    fn open(node: &'a ScriptedNode, shared: &Shared, stream: u64, bytes: u64) -> Self {
        let (tariff, answers) = (node.tariff(), Answers::clone(&shared.answers));
        answers.lock().unwrap().insert(stream, (0, tariff));
        let lends = match node.script() {
            Script::Lends(bytes) => tariff.price(ByteCount::new(bytes)).unwrap(),
            _ => Amount::new(u64::MAX),
        };
        Self { node, paid: shared.paid.subscribe(), answers, stream, tariff, lends, left: bytes }
    }

    /// Waits until so many bytes more may leave, the hashes among them, and bills what they carry. None once nobody pays
    /// any more.
    async fn wait_for(&mut self, bytes: u64) -> Option<()> {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        let charge = self.tariff.charge(ByteCount::new(bytes));
        let within = |paid: &u64| {
            let mut answers = self.answers.lock().unwrap();
            // The agent has said how much of it it proved: the rest is free.
            let Some((billed, _)) = answers.get_mut(&self.stream) else { return true };
            let mut in_all = self.node.inner.billed.lock().unwrap();
            let after = Charge::from_parts(*in_all).checked_add(charge).unwrap();
            let window = credit_window(Amount::new(*paid), &self.tariff);
            let most = Amount::new(*paid).saturating_add(window.min(self.lends));
            let is_within = self.tariff.is_free() || after <= Charge::from_amount(most);
            if is_within {
                *in_all = after.parts();
                *billed += bytes;
            }
            is_within
        };
        self.paid.wait_for(within).await.ok().map(|_| ())
    }
}

/// How long a paid request waits for a binding.
const BIND_WAIT: Duration = Duration::from_secs(3);
/// Bytes that leave at once: a quarter of a quantum.
const PIECE: usize = 256 << 10;
