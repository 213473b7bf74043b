//! What it costs to take a content into the store, and to find one that is open.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use node_server::ContentStore;
use tempfile::TempDir;

/// Hashed, written, synced and named.
fn add(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store");
    group.sample_size(10);
    for size in [16 << 10, 4 << 20] {
        let home = TempDir::new().expect("a temporary folder");
        let path = home.path().join("file");
        std::fs::write(&path, content(size)).expect("written");
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("add a file", size), |bencher| {
            bencher.iter_batched(
                // A new store each time, or the content would be there already.
                || {
                    let folder = TempDir::new_in(home.path()).expect("a temporary folder");
                    let store = ContentStore::open(folder.path()).expect("a store");
                    (folder, store)
                },
                |(folder, store)| {
                    store.add_file(&path).expect("added");
                    folder
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn get(criterion: &mut Criterion) {
    let home = TempDir::new().expect("a temporary folder");
    let path = home.path().join("file");
    std::fs::write(&path, content(100_000)).expect("written");
    let store = ContentStore::open(home.path()).expect("a store");
    let id = store.add_file(&path).expect("added").id;
    criterion.bench_function("store/get an open content", |bencher| bencher.iter(|| store.get(black_box(id))));
}

fn content(size: usize) -> Vec<u8> {
    (0..size as u64).map(|place| (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

criterion_group!(benches, add, get);
criterion_main!(benches);
