//! The control stream: who is there, on which channel, and what they pay.

use aro_proto::channel::{SignedVoucher, Voucher, credit_window};
use aro_proto::identity::{Binding, Signed};
use aro_proto::limits::{MAX_REQUEST_STREAMS, RECEIPTS_SINCE};
use aro_proto::message::{
    Bind, Bound, Credit, DeliveryReceipt, Goaway, Hello, Message, NodeHello, Pay, PayRefused, PublishTerms, Refused,
    StreamEnd, VoucherOnWire,
};
use aro_proto::wire::decode_body;
use aro_proto::{AgentId, Amount, ByteCount, ChannelId, Refusal, RefusalCode, Tariff};
use quinn::{RecvStream, SendStream};
use settlement_chain::{Address as ChainAddress, Program, reads};
use settlement_interface::accounts::status;
use tokio::sync::watch;

use super::bytes::{read_frame, write};
use super::script::Script;
use super::{ScriptedNode, Shared};

impl ScriptedNode {
    pub(super) async fn control(self, mut send: SendStream, mut recv: RecvStream, shared: Shared) -> Option<()> {
        let Shared { exporter, paid, answers, delivered, bound: is_bound } = shared;
        let mut channel: Option<(ChannelId, AgentId)> = None;
        loop {
            let (kind, body) = read_frame(&mut recv).await?;
            let script = self.script();
            match kind {
                Hello::KIND => {
                    self.inner.seen.send_modify(|seen| seen.hellos += 1);
                    match &script {
                        Script::NoHello => continue,
                        Script::ControlBytes(bytes) => {
                            let _ = send.write_all(bytes).await;
                            continue;
                        }
                        Script::GoAway(code) => {
                            write(&mut send, &Goaway { refusal: Refusal::new(*code, "scripted") }).await?;
                            continue;
                        }
                        _ => {}
                    }
                    let minor_version = if matches!(script, Script::Receipts(_)) { RECEIPTS_SINCE } else { 0 };
                    let chain = if let Script::Chain(ids) = script { ids } else { self.inner.chain_ids };
                    // One that falls silent may do so in an upload, too.
                    let publish = matches!(self.script(), Script::RequestBytesAndStall(_))
                        .then_some(PublishTerms { tariff: Tariff::default(), max_content_bytes: u64::MAX });
                    let hello = NodeHello {
                        publish,
                        minor_version,
                        chain,
                        tariff: self.tariff(),
                        max_request_streams: MAX_REQUEST_STREAMS,
                        min_grace_s: 900,
                    };
                    write(&mut send, &hello).await?;
                }
                Signed::KIND if matches!(script, Script::NoHello | Script::ControlBytes(_)) => {}
                Signed::KIND => {
                    let binding = Binding { exporter, stream: 0 };
                    let bind = Signed::from_bytes(&body).unwrap().verify::<Bind>(&binding).expect("bound to stream 0");
                    self.inner.seen.send_modify(|seen| seen.binds.push(bind.message().clone()));
                    let id = bind.message().channel;
                    if let Script::BindRefused(code) = script {
                        write(&mut send, &Refused { refusal: Refusal::new(code, "scripted") }).await?;
                        continue;
                    }
                    let address = ChainAddress::new_from_array(id.to_bytes());
                    let account = reads::channel(&self.inner.chain, &Program::local(), &address).await.unwrap()?;
                    assert_eq!(&account.signer, bind.signer().as_bytes());
                    if account.status != status::OPEN {
                        let refusal = Refusal::new(RefusalCode::ChannelUnusable, "not open");
                        write(&mut send, &Refused { refusal }).await?;
                        continue;
                    }
                    channel = Some((id, bind.signer()));
                    self.take_up(id, &paid);
                    let best = *self.inner.best.lock().unwrap();
                    if let Script::Watermark(shown) = &script {
                        // It believes what it shows.
                        paid.send_modify(|paid| *paid = shown.cumulative.get().max(*paid));
                    }
                    let owed = Amount::new(*paid.borrow());
                    let bound = Bound {
                        channel: if matches!(script, Script::OtherChannelBound) {
                            ChannelId::from_bytes([1; 32])
                        } else {
                            id
                        },
                        watermark: match script {
                            Script::Watermark(shown) => Some(shown),
                            _ => best.map(on_wire),
                        },
                        billed: if let Script::Billed(billed) = script {
                            billed
                        } else {
                            *self.inner.billed.lock().unwrap()
                        },
                        deposit: Amount::new(account.deposit),
                        settled: Amount::new(account.settled),
                        window: credit_window(owed, &self.tariff()),
                    };
                    write(&mut send, &bound).await?;
                    is_bound.send_replace(true);
                }
                Pay::KIND => {
                    let pay: Pay = decode_body(kind, &body).unwrap();
                    let (id, signer) = channel.expect("bound before paying");
                    let VoucherOnWire { cumulative, expires_at, signature } = pay.voucher;
                    let voucher = SignedVoucher { voucher: Voucher { channel: id, cumulative, expires_at }, signature };
                    voucher.verify(&signer).expect("the channel's signer signed it");
                    self.inner.seen.send_modify(|seen| seen.vouchers.push(voucher));
                    let refused = match script {
                        Script::PayRefused(code) => Some(code),
                        Script::PayRefusedFirst(code, count) => {
                            (self.inner.seen.borrow().vouchers.len() <= count).then_some(code)
                        }
                        _ => None,
                    };
                    if let Some(code) = refused {
                        let refused =
                            PayRefused { cumulative, refusal: Refusal::new(code, "scripted"), watermark: None };
                        write(&mut send, &refused).await?;
                        continue;
                    }
                    paid.send_replace(cumulative.get());
                    let above = match script {
                        Script::NoCredit => continue,
                        Script::CreditAbove(above) => above,
                        _ => 0,
                    };
                    *self.inner.best.lock().unwrap() = Some(voucher);
                    let window = credit_window(cumulative, &self.tariff());
                    write(&mut send, &Credit { cumulative: Amount::new(cumulative.get() + above), window }).await?;
                    if let Script::Receipts(receipts) = &script {
                        let deliveries = std::mem::take(&mut *delivered.lock().unwrap());
                        let mut receipt = DeliveryReceipt { channel: id, cumulative, at: 1, deliveries };
                        (receipts.alter)(&mut receipt);
                        let receipt = receipt.sign(receipts.key.as_ref().unwrap_or(&self.inner.key));
                        for _ in 0..receipts.times {
                            write(&mut send, &receipt).await?;
                        }
                    }
                }
                StreamEnd::KIND => {
                    let end: StreamEnd = decode_body(kind, &body).unwrap();
                    let ended = answers.lock().unwrap().remove(&end.stream);
                    if let Some((answer, tariff)) = ended {
                        let unproven = tariff.charge(ByteCount::new(answer - end.proven_bytes));
                        *self.inner.billed.lock().unwrap() -= unproven.parts();
                        // Room for answers that wait.
                        paid.send_modify(|_| {});
                    }
                    self.inner.seen.send_modify(|seen| seen.ends.push(end));
                }
                _ => {}
            }
        }
    }

    /// Another channel begins at nothing.
    fn take_up(&self, channel: ChannelId, paid: &watch::Sender<u64>) {
        let mut best = self.inner.best.lock().unwrap();
        if best.is_some_and(|best| best.voucher.channel != channel) {
            *best = None;
            *self.inner.billed.lock().unwrap() = 0;
            paid.send_replace(0);
        }
    }
}

fn on_wire(signed: SignedVoucher) -> VoucherOnWire {
    let Voucher { cumulative, expires_at, .. } = signed.voucher;
    VoucherOnWire { cumulative, expires_at, signature: signed.signature }
}
