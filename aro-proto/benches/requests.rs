//! What a request and a voucher cost: frames, signatures, and the payee's look at a voucher.

use std::hint::black_box;

use aro_proto::channel::{ChannelState, ChannelTerms, Offer, Payee, SignedVoucher, StreamKey, Voucher};
use aro_proto::identity::{Binding, Signed, Verifier, VerifyingKey};
use aro_proto::merkle::ByteRanges;
use aro_proto::message::{Fetch, FetchHead, FetchItem, Message};
use aro_proto::wire::{FRAME_HEAD, decode_body, encode_frame};
use aro_proto::{Amount, ByteCount, ChannelId, ContentId, SecretKey, Tariff};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn frames(criterion: &mut Criterion) {
    let head =
        FetchHead { size: ByteCount::new(1 << 30), content_bytes: ByteCount::new(1 << 20), price: Amount::new(7) };
    let frame = encode_frame(&head).expect("it fits");
    criterion.bench_function("frames/encode a head", |bencher| bencher.iter(|| encode_frame(black_box(&head))));
    criterion.bench_function("frames/decode a head", |bencher| {
        bencher.iter(|| decode_body::<FetchHead>(FetchHead::KIND, black_box(&frame[FRAME_HEAD..])));
    });
}

/// One signature for so many contents.
fn signing(criterion: &mut Criterion) {
    let key = SecretKey::from_bytes(&[7; 32]);
    let binding = Binding { exporter: [1; 32], stream: 4 };
    let mut group = criterion.benchmark_group("signing");
    for contents in [1, 16, 256] {
        let fetch = Fetch {
            items: (0..contents).map(|number| item(number as u8)).collect(),
            group_log2: 6,
            max_price: Amount::new(u64::MAX),
        };
        group.throughput(Throughput::Elements(contents));
        group.bench_function(BenchmarkId::new("sign", contents), |bencher| {
            bencher.iter(|| Signed::new(black_box(&fetch), &key, &binding));
        });
        let signed = Signed::new(&fetch, &key, &binding).expect("it fits");
        group.bench_function(BenchmarkId::new("verify", contents), |bencher| {
            bencher.iter(|| black_box(&signed).verify::<Fetch>(&binding).expect("it holds"));
        });
    }
    group.finish();
}

fn vouchers(criterion: &mut Criterion) {
    let key = SecretKey::from_bytes(&[7; 32]);
    let channel = ChannelId::from_bytes([9; 32]);
    let terms = ChannelTerms {
        channel,
        signer: key.agent_id(),
        deposit: Amount::new(1_000_000),
        settled: Amount::ZERO,
        state: ChannelState::Open,
    };
    let voucher = Voucher { channel, cumulative: Amount::new(100), expires_at: 0 };
    let signed = voucher.sign(&key);
    let mut payee = Payee::new(terms, Tariff { per_mib: 100 }, None);
    payee.begin(StreamKey(0), ByteCount::new(64 << 20)).expect("the deposit covers it");
    let signer = VerifyingKey::from_bytes(&key.public()).expect("it is sound");
    let verifier = Verifier::default();
    verifier.warm(&signer);
    criterion.bench_function("vouchers/verify", |bencher| bencher.iter(|| black_box(&signed).verify_with(&signer)));
    criterion.bench_function("vouchers/verify, a warm key", |bencher| {
        bencher.iter(|| black_box(&signed).verify_by(&verifier, &signer));
    });
    let many = [(signed, &signer); 64];
    criterion.bench_function("vouchers/verify 64, a warm key", |bencher| {
        bencher.iter(|| SignedVoucher::verify_all(&verifier, black_box(&many)));
    });
    criterion.bench_function("vouchers/warm a key", |bencher| bencher.iter(|| verifier.warm(black_box(&signer))));
    criterion.bench_function("vouchers/sign", |bencher| bencher.iter(|| black_box(&voucher).sign(&key)));
    criterion.bench_function("vouchers/accept", |bencher| {
        bencher.iter_batched_ref(
            || payee.clone(),
            |payee| assert!(matches!(payee.offer(black_box(&signed), 1_800_000_000), Ok(Offer::Fresh(_)))),
            BatchSize::SmallInput,
        );
    });
}

fn item(number: u8) -> FetchItem {
    FetchItem { content: ContentId::of(&[number]), ranges: ByteRanges::all() }
}

criterion_group!(benches, frames, signing, vouchers);
criterion_main!(benches);
