//! What a scripted node does wrong, and what it has seen.

use aro_proto::channel::SignedVoucher;
use aro_proto::message::{Bind, ChainIds, DeliveryReceipt, StreamEnd, VoucherOnWire};
use aro_proto::{RefusalCode, SecretKey};

/// Where the node departs from the protocol.
#[derive(Clone, Debug, Default)]
pub enum Script {
    #[default]
    Honest,
    // In the encoding.
    FlipBit {
        byte: usize,
        bit: u8,
    },
    CutAt(usize),
    Append(usize),
    StallAt(usize),
    ResetAt(usize, u32),
    /// A bit of the content byte at this offset, in whichever answer it is.
    FlipContent(u64),
    /// Stalls for ever once it has sent so many content bytes in all.
    StallAfter(u64),
    /// So many bytes a second.
    Slow(u64),
    /// Goes away for good once it has sent so many content bytes in all.
    DiesAfter(u64),
    /// Claims this size in quotes and heads, and sends what it has, and zeros for what it does not.
    Claims(u64),
    /// From so many content bytes on, it asks this much per MiB.
    RaisesAfter(u64, u64),
    /// Lets no more content stand unpaid than these bytes, whatever window it states: others fill the rest.
    Lends(u64),
    // In the head.
    Size(u64),
    ContentBytes(u64),
    Price(u64),
    // Instead of an answer.
    Refuse(RefusalCode, Option<u64>),
    /// The same for whoever fetches; quotes are given.
    RefuseFetch(RefusalCode, Option<u64>),
    RequestBytes(Vec<u8>),
    /// One answer to whoever publishes a name, another to everybody else.
    NameBytes {
        publish: Vec<u8>,
        resolve: Vec<u8>,
    },
    /// The same, and then nothing more, without an end.
    RequestBytesAndStall(Vec<u8>),
    // On the control stream.
    Chain(ChainIds),
    ControlBytes(Vec<u8>),
    NoHello,
    GoAway(RefusalCode),
    BindRefused(RefusalCode),
    OtherChannelBound,
    Watermark(VoucherOnWire),
    Billed(u128),
    NoCredit,
    CreditAbove(u64),
    PayRefused(RefusalCode),
    /// So many vouchers are refused, then all is right.
    PayRefusedFirst(RefusalCode, usize),
    /// A node that knows of receipts, and what it does about them.
    Receipts(Receipts),
    // In the quote.
    QuotePrice(u64),
    QuoteKey,
    QuoteSize(u64),
}

/// How a node signs for what a voucher has paid.
#[derive(Clone, Debug)]
pub struct Receipts {
    /// What is wrong with it.
    pub alter: fn(&mut DeliveryReceipt),
    /// The key that signs it; its own if there is none.
    pub key: Option<SecretKey>,
    /// How often it is sent.
    pub times: usize,
}

impl Default for Receipts {
    fn default() -> Self {
        Self { alter: |_| {}, key: None, times: 1 }
    }
}

/// What the node saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub hellos: usize,
    pub binds: Vec<Bind>,
    pub vouchers: Vec<SignedVoucher>,
    pub ends: Vec<StreamEnd>,
    pub requests: usize,
    pub closes: Vec<u64>,
    /// Content bytes sent of each answer.
    pub sent: Vec<u64>,
}

impl Seen {
    pub fn paid(&self) -> u64 {
        self.vouchers.last().map_or(0, |signed| signed.voucher.cumulative.get())
    }
}
