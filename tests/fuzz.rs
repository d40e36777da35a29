//! Hostile bytes: no panic, no hang, no allocation beyond a stated multiple of the input.
//!
//! Runs for `PENSTOCK_FUZZ_SECONDS` (60). Input n of a seed is always the same: what fails prints both, and
//! `PENSTOCK_FUZZ_SEED` with `PENSTOCK_FUZZ_FIRST=n` tries it again.

mod frame_builder;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

use ciborium::Value;
use frame_builder::{
    CommitFrame, NOW, block, encode, encode_as_is, live_frame, map, message, op, plain_frame,
    sync_frame,
};
use penstock::decode::car::Car;
use penstock::decode::commit::CommitBlock;
use penstock::decode::{
    Cid, DecodeOptions, Decoder, Event, Kind, RecordFault, Verify, cbor, check_record, peek,
    record_to_json,
};

/// What one call may hold at its peak: this many times its input, and a constant.
const PEAK_FACTOR: usize = 64;
const PEAK_CONSTANT: usize = 16 << 10;
/// What one call may take; generous, since test machines are busy.
const TIME_BOUND: Duration = Duration::from_secs(2);

struct Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn count(size: usize) {
    CALLS.set(CALLS.get() + 1);
    LIVE.set(LIVE.get().wrapping_add(size));
    if (LIVE.get() as isize) > PEAK.get() as isize {
        PEAK.set(LIVE.get());
    }
}

#[expect(
    unsafe_code,
    reason = "counts and hands on; there is no other way to see allocations"
)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().wrapping_sub(layout.size()));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs a call within the bounds for an input of `len` bytes.
fn bounded<T>(what: &str, len: usize, call: impl FnOnce() -> T) -> T {
    let before = LIVE.get();
    PEAK.set(before);
    let start = Instant::now();
    let result = call();
    let (took, peak) = (start.elapsed(), PEAK.get().wrapping_sub(before));
    assert!(took < TIME_BOUND, "{what} of {len} bytes took {took:?}");
    assert!(
        peak <= PEAK_FACTOR * len + PEAK_CONSTANT,
        "{what} of {len} bytes held {peak}"
    );
    result
}

#[test]
fn good_frames_allocate_nothing() {
    let frames: Vec<_> = (0..32).map(live_frame).collect();
    let mut decoder = Decoder::default();
    let mut json = Vec::with_capacity(4096);
    let mut round = || {
        let before = CALLS.get();
        for frame in &frames {
            assert_eq!(peek(frame).kind, Kind::Commit);
            let Ok(Event::Commit(commit)) = decoder.decode(frame, NOW) else {
                panic!()
            };
            for op in commit.ops.iter() {
                json.clear();
                assert_eq!(record_to_json(op.record.unwrap().1, &mut json), None);
            }
        }
        CALLS.get() - before
    };
    assert!(
        round() > 0,
        "the counter counts the decoder's first buffers"
    );
    assert_eq!(round(), 0);
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn hostile_bytes() {
    let seconds = Duration::from_secs(variable("PENSTOCK_FUZZ_SECONDS", 60));
    let seed = variable("PENSTOCK_FUZZ_SEED", 20_260_926);
    let first = variable("PENSTOCK_FUZZ_FIRST", 0);
    let corpus = corpus();
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut at = first;
    while at == first || start.elapsed() < seconds {
        let mut random = fastrand::Rng::with_seed(seed ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let input = input(&mut random, &corpus);
        let run = || try_input(&input, &mut tally);
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
            println!(
                "seed {seed}, input {at}: {}",
                data_encoding::HEXLOWER.encode(&input)
            );
            std::panic::resume_unwind(panic);
        }
        at += 1;
    }
    println!("seed {seed}, inputs {first} to {at}: {tally:?}");
    let enough = seconds < Duration::from_secs(5) || (tally.events > 100 && tally.refused > 1000);
    assert!(enough && tally.json > 0, "{tally:?}");
}

/// What became of the inputs.
#[derive(Debug, Default)]
struct Tally {
    events: u64,
    refused: u64,
    json: u64,
    faulty: u64,
    blocks: u64,
}

fn try_input(input: &[u8], tally: &mut Tally) {
    let len = input.len();
    let seen = bounded("peek", len, || peek(input));
    for verify in [Verify::All, Verify::Records, Verify::None] {
        let options = DecodeOptions {
            verify,
            ..DecodeOptions::default()
        };
        let mut decoder = Decoder::new(options);
        match bounded("decode", len, || decoder.decode(input, NOW)) {
            Ok(event) => {
                tally.events += 1;
                check_event(event, seen, verify, tally);
            }
            Err(error) => {
                tally.refused += 1;
                assert!(error.detail.len() < 500);
            }
        }
    }
    try_record(input, tally);
    let _ = bounded("check", len, || cbor::check(input));
    let _ = bounded("commit", len, || CommitBlock::parse(input).is_ok());
    tally.blocks += bounded("car", len, || match Car::parse(input) {
        Ok(car) => car.blocks().filter(|block| block.is_ok()).count() as u64,
        Err(_) => 0,
    });
}

fn check_event(
    event: Event<'_>,
    seen: penstock::decode::Peek<'_>,
    verify: Verify,
    tally: &mut Tally,
) {
    let (kind, did, seq) = match &event {
        Event::Commit(commit) => (Kind::Commit, Some(commit.repo), Some(commit.seq)),
        Event::Sync(sync) => (Kind::Sync, Some(sync.did), Some(sync.seq)),
        Event::Identity(identity) => (Kind::Identity, Some(identity.did), Some(identity.seq)),
        Event::Account(account) => (Kind::Account, Some(account.did), Some(account.seq)),
        Event::Info(_) => (Kind::Info, None, None),
        Event::Unknown { .. } => (Kind::Unknown, seen.did, seen.seq),
        Event::Error { .. } => (Kind::Error, None, None),
    };
    assert_eq!(
        (seen.kind, seen.did, seen.seq),
        (kind, did, seq),
        "peek and decode agree"
    );
    let Event::Commit(commit) = event else { return };
    assert_eq!(commit.ops.iter().count(), commit.ops.len());
    for op in commit.ops.iter() {
        let Some((cid, record)) = op.record else {
            continue;
        };
        assert!(verify == Verify::None || *Cid::of_dag_cbor(record).hash() == *cid.hash());
        assert_eq!(try_record(record, tally), op.fault);
    }
}

fn try_record(record: &[u8], tally: &mut Tally) -> Option<RecordFault> {
    let mut json = Vec::new();
    let fault = bounded("json", record.len(), || record_to_json(record, &mut json));
    assert_eq!(
        bounded("check", record.len(), || check_record(record)),
        fault
    );
    if matches!(fault, Some(RecordFault::NotCbor | RecordFault::TooDeep)) {
        assert!(json.is_empty());
        return fault;
    }
    assert!(json.len() <= 16 * record.len());
    let text = std::str::from_utf8(&json).unwrap();
    let parsed = serde_json::from_str::<serde::de::IgnoredAny>(text);
    assert!(parsed.is_ok(), "{parsed:?}: {text}");
    tally.json += 1;
    tally.faulty += u64::from(fault.is_some());
    if fault.is_none() {
        assert_eq!(
            cbor::check(record),
            Ok(()),
            "a record without fault is DAG-CBOR"
        );
    }
    fault
}

fn corpus() -> Vec<Vec<u8>> {
    let mut frames: Vec<_> = (0..4).map(live_frame).collect();
    let blocks: Vec<_> = (0..30)
        .map(|n: u64| block(&map([("n", n.into())])))
        .collect();
    let action = |n: usize| match n % 3 {
        0 => op("create", &format!("a.b.c/{}", n % 20), Some(blocks[n].0)),
        1 => op("update", &format!("a.b.c/{}", n % 20), Some(blocks[n].0)),
        _ => op("delete", &format!("a.b.c/{}", n % 20), None),
    };
    let many = || CommitFrame::new((0..30).map(action).collect(), blocks.clone());
    frames.push(many().build());
    frames.push(
        many()
            .set("tooBig", true)
            .set("blocks", Value::Bytes(Vec::new()))
            .build(),
    );
    frames.push(sync_frame());
    frames.push(plain_frame("#identity", [("handle", "a.example".into())]));
    frames.push(plain_frame(
        "#account",
        [("active", false.into()), ("status", "x".into())],
    ));
    frames.push(plain_frame("#handle", [("handle", "a.example".into())]));
    frames.push(message("#info", &map([("name", "OutdatedCursor".into())])));
    frames.push(frame_builder::frame(
        &map([("op", (-1).into())]),
        &map([("error", "FutureCursor".into()), ("message", Value::Null)]),
    ));
    let many = many();
    frames.push(frame_builder::car(many.commit, &many.blocks));
    frames.push(many.blocks[30].1.clone());
    frames.push(frame_builder::post(&mut fastrand::Rng::with_seed(1)));
    frames
}

fn input(random: &mut fastrand::Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    match random.u8(0..10) {
        0 => bytes(random, 300),
        1 => {
            let mut item = Vec::new();
            put_item(random, 0, &mut item);
            item
        }
        // A frame that is good but for its record.
        2 | 3 => {
            let mut record = if random.bool() {
                frame_builder::post(random)
            } else {
                let mut record = b"\xa1\x61x".to_vec();
                put_item(random, 0, &mut record);
                record
            };
            if random.bool() {
                mutate(random, corpus, &mut record);
            }
            CommitFrame::create("app.bsky.feed.post/3mwgncrrtze23", &record).build()
        }
        // A message of random fields.
        4 => {
            let mut payload = Vec::new();
            put_item(random, 0, &mut payload);
            let names = ["#commit", "#sync", "#account", "#identity", "#info", "#x"];
            let t = *random.choice(names.iter()).unwrap();
            [encode(&map([("t", t.into()), ("op", 1.into())])), payload].concat()
        }
        _ => {
            let mut frame = random.choice(corpus).unwrap().clone();
            for _ in 0..=random.u8(0..3) {
                mutate(random, corpus, &mut frame);
            }
            frame
        }
    }
}

fn bytes(random: &mut fastrand::Rng, most: usize) -> Vec<u8> {
    (0..random.usize(0..=most)).map(|_| random.u8(..)).collect()
}

fn mutate(random: &mut fastrand::Rng, corpus: &[Vec<u8>], frame: &mut Vec<u8>) {
    let at = random.usize(0..=frame.len());
    let to = (at + random.usize(0..60)).min(frame.len());
    match random.u8(0..8) {
        0 if at < frame.len() => frame[at] ^= 1 << random.u8(0..8),
        1 if at < frame.len() => frame[at] = random.u8(..),
        2 => frame.truncate(at),
        3 => drop(frame.drain(at..to)),
        4 => {
            let again = frame[at..to].to_vec();
            frame.splice(at..at, again);
        }
        // A length: any major type, any width, mostly absurd.
        5 => {
            let mut head = vec![random.u8(0..8) << 5 | random.u8(24..32)];
            head.extend(bytes(random, 8));
            frame.splice(at..(at + head.len()).min(frame.len()), head);
        }
        6 => {
            let mut item = Vec::new();
            put_item(random, 3, &mut item);
            frame.splice(at..to, item);
        }
        _ => {
            let other = random.choice(corpus).unwrap();
            frame.truncate(at);
            frame.extend_from_slice(&other[random.usize(0..=other.len())..]);
        }
    }
}

/// Appends a random item of CBOR, well-formed or nearly so, canonical or not.
fn put_item(random: &mut fastrand::Rng, depth: usize, out: &mut Vec<u8>) {
    let keys = [
        "$type", "$link", "$bytes", "ref", "size", "mimeType", "ops", "seq", "blocks", "a",
    ];
    match random.u8(0..if depth > 5 { 7 } else { 12 }) {
        0 => out.push(random.u8(..)),
        1 => out.extend(encode_as_is(&(random.i64(..) >> random.u32(0..64)).into())),
        2 => out.extend(encode_as_is(&random.f64().into())),
        3 => out.extend(encode_as_is(&Value::Bytes(bytes(random, 50)))),
        4 => {
            let text = bytes(random, 20);
            out.push(0x60 + text.len() as u8);
            out.extend(text);
        }
        5 => out.extend(encode_as_is(&(*random.choice(keys.iter()).unwrap()).into())),
        6 => out.extend(encode_as_is(&frame_builder::link(Cid::of_dag_cbor(b"x")))),
        7 => {
            out.push(*random.choice(&[0x5f, 0x7f, 0xc0, 0xf8]).unwrap());
            put_item(random, depth + 1, out);
            out.push(0xff);
        }
        8 => out.extend(vec![0x81; random.usize(0..50)]),
        9 => {
            let len = random.u8(0..6);
            out.push(if len == 5 { 0x9f } else { 0x80 + len });
            (0..len).for_each(|_| put_item(random, depth + 1, out));
            out.extend((len == 5).then_some(0xff));
        }
        _ => {
            let len = random.u8(0..6);
            out.push(if len == 5 { 0xbf } else { 0xa0 + len });
            for _ in 0..len {
                if random.u8(0..10) == 0 {
                    put_item(random, depth + 1, out);
                } else {
                    out.extend(encode_as_is(&(*random.choice(keys.iter()).unwrap()).into()));
                }
                put_item(random, depth + 1, out);
            }
            out.extend((len == 5).then_some(0xff));
        }
    }
}
