//! What a byte costs on its way: hashing, building hashes, encoding, decoding with proof.

use std::hint::black_box;

use aro_proto::ContentId;
use aro_proto::merkle::{ByteRanges, Decoder, Encoder, GroupSize, Outboard, OutboardBuilder, PreOrderOutboard, Step};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn hashing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hashing");
    for size in [16 << 10, 64 << 10, 1 << 20] {
        let bytes = content(size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::new("root", size), &bytes, |bencher, bytes| {
            bencher.iter(|| ContentId::of(black_box(bytes)));
        });
        group.bench_with_input(BenchmarkId::new("outboard", size), &bytes, |bencher, bytes| {
            bencher.iter(|| {
                let mut builder = OutboardBuilder::new(bytes.len() as u64);
                builder.update(black_box(bytes), |_, run| {
                    black_box(run);
                });
                builder.finish()
            });
        });
    }
    group.finish();
}

/// The walk alone: what a response holds, without its bytes.
fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for (name, size, ranges) in [
        ("16 KiB", 16 << 10, ByteRanges::all()),
        ("16 MiB", 16 << 20, ByteRanges::all()),
        ("a range of 16 MiB", 16 << 20, ByteRanges::single(5 << 20, (5 << 20) + 65_536).expect("it is not empty")),
    ] {
        let answered = ranges.answered(size, GroupSize::KIB64);
        group.throughput(Throughput::Bytes(answered.content_bytes()));
        group.bench_function(name, |bencher| {
            bencher.iter(|| Encoder::new(black_box(answered.clone())).count());
        });
    }
    group.finish();
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for size in [16 << 10, 64 << 10, 1 << 20] {
        let bytes = content(size);
        let outboard = PreOrderOutboard::build(&bytes);
        let answered = ByteRanges::all().answered(size as u64, GroupSize::KIB64);
        let items: Vec<Vec<u8>> = Encoder::new(answered.clone())
            .map(|step| match step {
                Step::Parent(node) => outboard.parent(node).expect("it is in the tree").to_vec(),
                Step::Leaf { offset, len } => bytes[offset as usize..][..len as usize].to_vec(),
            })
            .collect();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                let mut decoder = Decoder::new(outboard.root(), answered.clone()).expect("it is not too large");
                for item in &items {
                    decoder.accept(black_box(item)).expect("it proves");
                }
                decoder.finish().expect("it is whole");
            });
        });
    }
    group.finish();
}

fn content(size: usize) -> Vec<u8> {
    (0..size as u64).map(|place| (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

criterion_group!(benches, hashing, encode, decode);
criterion_main!(benches);
