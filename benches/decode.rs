//! What a frame costs: the floor (SHA-256 of its blocks), our decoder, the peek, and other decoders doing the same work.
//!
//! `cargo bench --bench decode`. Each figure is for [`FRAMES`] commits of the simulated relay that create or update records, hot in
//! cache as fresh socket data is. After the tables the ratio of our decoder to the floor is measured in alternation and printed.

mod others;

use std::hint::black_box;
use std::time::{Duration, Instant};

use divan::Bencher;
use divan::counter::ItemsCount;
use penstock::decode::car::Car;
use penstock::decode::{DecodeOptions, Decoder, Event, Verify, check_record, peek, record_to_json};
use penstock_loadtest::{World, WorldSpec};
use sha2::{Digest, Sha256};

#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

/// Frames in one sample.
const FRAMES: usize = 32;
/// After every `rev` of the frames, in microseconds.
const NOW: u64 = 1_800_000_000_000_000;

fn main() {
    divan::main();
    if std::env::args().any(|arg| arg == "--bench") {
        print_ratio();
    }
}

/// The last frames of a simulated stream that are commits which only write.
fn frames() -> Vec<Vec<u8>> {
    let world = World::generate(&WorldSpec {
        repos: 20,
        events: 500,
        end: Some(NOW - 10_000_000),
        odd_records: 0.0,
        ..WorldSpec::default()
    });
    let mut decoder = decoder(Verify::None);
    let mut writes_only = |frame: &Vec<u8>| match decoder.decode(frame, NOW) {
        Ok(Event::Commit(commit)) => {
            !commit.ops.is_empty() && commit.ops.iter().all(|op| op.record.is_some())
        }
        _ => false,
    };
    let entries = (0..world.log.len()).rev();
    let payloads = entries.flat_map(|entry| world.log.payloads(entry).unwrap());
    payloads
        .map(|payload| payload.to_vec())
        .filter(|frame| writes_only(frame))
        .take(FRAMES)
        .collect()
}

/// The blocks of each frame.
fn blocks(frames: &[Vec<u8>]) -> Vec<Vec<&[u8]>> {
    let blocks_of = |frame| {
        let car = Car::parse(others::minicbor_payload(frame).blocks).unwrap();
        car.blocks().map(|block| block.unwrap().data).collect()
    };
    frames.iter().map(|frame| blocks_of(frame)).collect()
}

fn hash_all(blocks: &[Vec<&[u8]>]) {
    for block in blocks.iter().flatten() {
        black_box(Sha256::digest(black_box(block)));
    }
}

fn decode_all(decoder: &mut Decoder, frames: &[Vec<u8>], json: &mut Vec<u8>) {
    for frame in frames {
        let Ok(Event::Commit(commit)) = decoder.decode(black_box(frame), NOW) else {
            panic!()
        };
        for op in commit.ops.iter() {
            json.clear();
            let (_, record) = op.record.unwrap();
            black_box(record_to_json(record, json));
        }
        black_box(&json);
    }
}

/// A decoder that leaves the data model check to the pass that makes the JSON.
fn decoder(verify: Verify) -> Decoder {
    Decoder::new(DecodeOptions {
        verify,
        check_records: false,
        ..DecodeOptions::default()
    })
}

fn bench_decode(bencher: Bencher<'_, '_>, verify: Verify) {
    let frames = frames();
    let mut decoder = decoder(verify);
    let mut json = Vec::with_capacity(4096);
    decode_all(&mut decoder, &frames, &mut json);
    bencher
        .counter(ItemsCount::new(FRAMES))
        .bench_local(|| decode_all(&mut decoder, &frames, &mut json));
}

#[divan::bench]
fn a_sha256_of_the_blocks(bencher: Bencher<'_, '_>) {
    let frames = frames();
    let blocks = blocks(&frames);
    bencher
        .counter(ItemsCount::new(FRAMES))
        .bench_local(|| hash_all(&blocks));
}

#[divan::bench]
fn b_penstock(bencher: Bencher<'_, '_>) {
    bench_decode(bencher, Verify::All);
}

#[divan::bench]
fn b_penstock_verify_records(bencher: Bencher<'_, '_>) {
    bench_decode(bencher, Verify::Records);
}

#[divan::bench]
fn b_penstock_verify_none(bencher: Bencher<'_, '_>) {
    bench_decode(bencher, Verify::None);
}

#[divan::bench]
fn c_peek(bencher: Bencher<'_, '_>) {
    let frames = frames();
    bencher.counter(ItemsCount::new(FRAMES)).bench_local(|| {
        for frame in &frames {
            black_box(peek(black_box(frame)));
        }
    });
}

fn records(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut decoder = Decoder::default();
    let mut record_of = |frame: &Vec<u8>| {
        let Ok(Event::Commit(commit)) = decoder.decode(frame, NOW) else {
            panic!()
        };
        let op = commit.ops.iter().next().unwrap();
        op.record.unwrap().1.to_vec()
    };
    frames.iter().map(&mut record_of).collect()
}

#[divan::bench]
fn d_record_check(bencher: Bencher<'_, '_>) {
    let records = records(&frames());
    bencher.counter(ItemsCount::new(FRAMES)).bench_local(|| {
        for record in &records {
            black_box(check_record(black_box(record)));
        }
    });
}

#[divan::bench]
fn d_record_to_json(bencher: Bencher<'_, '_>) {
    let records = records(&frames());
    let mut json = Vec::with_capacity(4096);
    bencher.counter(ItemsCount::new(FRAMES)).bench_local(|| {
        for record in &records {
            json.clear();
            black_box(record_to_json(black_box(record), &mut json));
        }
    });
}

fn bench_other(bencher: Bencher<'_, '_>, decode: fn(&[u8], &mut Vec<u8>)) {
    let frames = frames();
    let mut json = Vec::with_capacity(4096);
    bencher.counter(ItemsCount::new(FRAMES)).bench_local(|| {
        for frame in &frames {
            json.clear();
            decode(black_box(frame), &mut json);
            black_box(&json);
        }
    });
}

#[divan::bench]
fn e_minicbor(bencher: Bencher<'_, '_>) {
    bench_other(bencher, others::minicbor);
}

#[divan::bench]
fn e_serde_ipld_dagcbor(bencher: Bencher<'_, '_>) {
    bench_other(bencher, others::dagcbor);
}

#[divan::bench]
fn e_ciborium(bencher: Bencher<'_, '_>) {
    bench_other(bencher, others::ciborium);
}

/// Measures floor and decoder in turns, so that a noisy machine disturbs both alike.
fn print_ratio() {
    const ROUNDS: usize = 2001;
    let frames = frames();
    let blocks = blocks(&frames);
    let mut decoder = decoder(Verify::All);
    let mut json = Vec::with_capacity(4096);
    let (mut floor, mut ours, mut peeks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        floor.push(timed(|| hash_all(&blocks)));
        ours.push(timed(|| decode_all(&mut decoder, &frames, &mut json)));
        peeks.push(timed(|| {
            for frame in &frames {
                black_box(peek(black_box(frame)));
            }
        }));
    }
    let [floor, ours, peek] = [floor, ours, peeks].map(median_per_frame);
    let bytes = frames.iter().map(Vec::len).sum::<usize>() / FRAMES;
    println!("\nmedians of {ROUNDS} alternating rounds, ns a frame of {bytes} bytes:");
    println!("sha-256 {floor:.0}, decode and JSON {ours:.0}, peek {peek:.0}");
    println!("decode to floor: {:.3} (goal: at most 1.35)", ours / floor);
    println!("{:.0} frames/s on one core", 1e9 / ours);
}

fn timed(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

fn median_per_frame(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_nanos() as f64 / FRAMES as f64
}
