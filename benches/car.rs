//! What a repository costs: the floor (SHA-256 of its blocks), our snapshot, in memory and mostly in a file, and repo-stream.
//!
//! `cargo bench --bench car`. Each reads the CAR in pieces of 16 KiB, hashes every block, walks the tree and looks at every record.
//! `verified` also walks once more before that, as a job does; `checked` then checks each record against the data model, as a job does
//! with those that it writes, and repo-stream with none. After the table all are measured in alternation, on one core, unless there is
//! a filter. `little.car` of the vectors is used where there are vectors.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use divan::Bencher;
use divan::counter::BytesCount;
use penstock::backfill::snapshot::{Budget, CarLimits, CarReader, Mode, Snapshot, SnapshotLimits};
use penstock::config::CollectionFilter;
use penstock::decode::car::Car;
use penstock::decode::check_record;
use penstock::decode::commit::CommitBlock;
use penstock_loadtest::Tid;
use penstock_loadtest::dagcbor::{Cid, Value};
use penstock_loadtest::mst::Mst;
use penstock_loadtest::repo::{car, commit_bytes};
use sha2::{Digest, Sha256};

/// The daemon's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// After every `rev`, in microseconds.
const NOW: u64 = 1_800_000_000_000_000;
/// Records of the repository that is made for this.
const RECORDS: u64 = 200_000;
/// Bytes of a piece, as they come from a socket.
const PIECE: usize = 16 << 10;
const MEMORY: u64 = 1 << 30;
/// Little memory: most of the great repository has to wait in a file.
const LITTLE_MEMORY: u64 = 16 << 20;

fn main() {
    divan::main();
    // With a filter, someone looks at one bench alone.
    if std::env::args().skip(1).eq(["--bench"]) {
        for name in ["little", "great"] {
            if let Some(car) = repository(name) {
                print_ratios(name, &car);
            }
        }
    }
}

fn repository(name: &str) -> Option<Vec<u8>> {
    match name {
        "great" => Some(great()),
        _ => std::fs::read(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../shared/vectors/cars/little.car"
        ))
        .ok(),
    }
}

/// A repository of likes and posts, nodes first.
fn great() -> Vec<u8> {
    let mut tree = Mst::default();
    let mut records = Vec::new();
    let mut paths = Vec::new();
    for n in 0..RECORDS {
        let rkey = Tid::new(NOW - 1_000_000 * n, n % 1024);
        let kind = if n % 4 == 0 { "post" } else { "like" };
        let text = "x".repeat(usize::try_from(if n % 4 == 0 { n % 300 } else { 40 }).unwrap());
        let record = Value::map([
            ("n", Value::text(n.to_string())),
            ("text", Value::text(text)),
            ("$type", Value::text(format!("app.bsky.feed.{kind}"))),
            ("createdAt", Value::text("2026-09-21T14:13:20.000Z")),
            (
                "subject",
                Value::text(
                    "at://did:plc:abcdefghijklmnopqrstuvwx/app.bsky.feed.post/3mwgncrrtze23",
                ),
            ),
        ])
        .encode();
        let cid = Cid::of(&record);
        let path = format!("app.bsky.feed.{kind}/{rkey}");
        tree.insert(path.as_str(), cid).unwrap();
        records.push((cid, record));
        paths.push(path);
    }
    let mut blocks = tree.proof(paths.iter().map(String::as_str));
    blocks.extend(records);
    let commit = commit_bytes(
        "did:web:great.example",
        Tid::new(NOW, 0),
        Some(&[0; 64]),
        &tree.root(),
    );
    let root = Cid::of(&commit);
    blocks.insert(0, (root, commit));
    car(
        &root,
        blocks.iter().map(|(cid, block)| (cid, block.as_slice())),
    )
}

fn hash_all(bytes: &[u8]) {
    for block in Car::parse(bytes).unwrap().blocks() {
        black_box(Sha256::digest(block.unwrap().data));
    }
}

fn did_of(bytes: &[u8]) -> String {
    let car = Car::parse(bytes).unwrap();
    let root = car
        .blocks()
        .map(Result::unwrap)
        .find(|block| block.cid == car.root);
    CommitBlock::parse(root.unwrap().data)
        .unwrap()
        .did
        .to_owned()
}

/// How much is done with a repository.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Care {
    Walked,
    Verified,
    Checked,
}

/// Reads and visits; gives the number of records.
fn ours(bytes: &[u8], did: &str, memory: u64, care: Care) -> u64 {
    let budget = Budget::new(memory);
    let mut reader = CarReader::new(&budget, std::env::temp_dir(), CarLimits::default());
    for piece in bytes.chunks(PIECE) {
        reader.push(piece).unwrap();
    }
    let blocks = reader.finish().unwrap();
    let mut snapshot = Snapshot::open(blocks, did, NOW, SnapshotLimits::default()).unwrap();
    if care >= Care::Verified {
        black_box(snapshot.verify(Mode::Full, || true).unwrap());
    }
    let mut records = 0;
    let visited = snapshot.records(Mode::Full, &CollectionFilter::ALL, |leaf| {
        if care >= Care::Checked {
            black_box(leaf.record.and_then(check_record));
        }
        black_box(leaf);
        records += 1;
        ControlFlow::Continue(())
    });
    visited.unwrap();
    records
}

fn theirs(bytes: &[u8]) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let load = async {
        repo_stream::DriverBuilder::new()
            .with_mem_limit_mb(1024)
            .load_car(bytes)
            .await
    };
    let Ok(mut loaded) = runtime.block_on(load) else {
        panic!("repo-stream reads it")
    };
    let mut records = 0;
    while let Some(chunk) = loaded.next_chunk_strict(256).unwrap() {
        records += chunk.len() as u64;
        black_box(chunk);
    }
    records
}

fn bench<T>(bencher: Bencher<'_, '_>, name: &str, run: impl Fn(&[u8], &str) -> T) {
    let Some(bytes) = repository(name) else {
        return;
    };
    let did = did_of(&bytes);
    bencher
        .counter(BytesCount::new(bytes.len()))
        .bench_local(|| run(&bytes, &did));
}

#[divan::bench(args = ["little", "great"], sample_count = 20)]
fn a_sha256_of_the_blocks(bencher: Bencher<'_, '_>, name: &str) {
    bench(bencher, name, |bytes, _| hash_all(bytes));
}

#[divan::bench(args = ["little", "great"], sample_count = 20)]
fn b_penstock(bencher: Bencher<'_, '_>, name: &str) {
    bench(bencher, name, |bytes, did| {
        ours(bytes, did, MEMORY, Care::Walked)
    });
}

#[divan::bench(args = ["little", "great"], sample_count = 20)]
fn b_penstock_verified(bencher: Bencher<'_, '_>, name: &str) {
    bench(bencher, name, |bytes, did| {
        ours(bytes, did, MEMORY, Care::Verified)
    });
}

#[divan::bench(args = ["great"], sample_count = 20)]
fn b_penstock_verified_in_a_file(bencher: Bencher<'_, '_>, name: &str) {
    bench(bencher, name, |bytes, did| {
        ours(bytes, did, LITTLE_MEMORY, Care::Verified)
    });
}

#[divan::bench(args = ["little", "great"], sample_count = 20)]
fn c_repo_stream(bencher: Bencher<'_, '_>, name: &str) {
    bench(bencher, name, |bytes, _| theirs(bytes));
}

/// Measures all in turns, so that a noisy machine disturbs them alike.
fn print_ratios(name: &str, bytes: &[u8]) {
    const ROUNDS: usize = 11;
    let did = did_of(bytes);
    let records = ours(bytes, &did, MEMORY, Care::Verified);
    assert_eq!(records, theirs(bytes));
    let mut times = [const { Vec::new() }; 6];
    for _ in 0..ROUNDS {
        times[0].push(timed(|| hash_all(bytes)));
        times[1].push(timed(|| ours(bytes, &did, MEMORY, Care::Walked)));
        times[2].push(timed(|| ours(bytes, &did, MEMORY, Care::Verified)));
        times[3].push(timed(|| ours(bytes, &did, LITTLE_MEMORY, Care::Verified)));
        times[4].push(timed(|| ours(bytes, &did, MEMORY, Care::Checked)));
        times[5].push(timed(|| theirs(bytes)));
    }
    let size = bytes.len();
    println!("\n{name}: {records} records, {size} bytes, medians of {ROUNDS} alternating rounds");
    let readers = [
        "sha-256",
        "penstock",
        "penstock, verified",
        "penstock, verified, little memory",
        "penstock, verified, checked",
        "repo-stream",
    ];
    let seconds = times.map(median);
    for (reader, seconds) in readers.iter().zip(seconds) {
        let (each, megabytes) = (records as f64 / seconds, size as f64 / 1e6 / seconds);
        println!("{reader}: {each:.0} records/s, {megabytes:.0} MB/s");
    }
    let [_, once, verified, _, _, other] = seconds;
    let (once, verified) = (other / once, other / verified);
    println!("times the speed of repo-stream: {once:.2}, verified {verified:.2}");
}

fn timed<T>(run: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    black_box(run());
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}
