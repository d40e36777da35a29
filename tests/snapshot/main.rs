//! Snapshots: exports that others made, repositories of the simulator, and what hosts send to break a reader.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod bytes;
mod exports;
mod hostile;
mod repository;
mod since;
mod trails;

use penstock::backfill::snapshot::{
    Blocks, Budget, CarLimits, CarReader, Mode, Snapshot, SnapshotError, SnapshotLimits, Verified,
};
use penstock::config::CollectionFilter;
use penstock::decode::Cid;
use penstock::decode::car::Car;
use penstock::decode::commit::CommitBlock;

/// After every `rev` of the repositories, in microseconds.
const NOW: u64 = 1_800_000_000_000_000;

/// Old exports are of version 2.
const ANY_VERSION: SnapshotLimits = SnapshotLimits {
    version_2: true,
    tree: penstock::backfill::snapshot::TreeLimits {
        depth: 64,
        node_entries: 1024,
        records: 1_000_000,
    },
    collections: 1000,
};

/// A record as a visitor gets it.
type Seen = (String, Cid, Option<Vec<u8>>);

/// Takes a CAR in pieces of this many bytes.
fn read_in(car: &[u8], piece: usize, budget: &Budget) -> Result<Blocks, SnapshotError> {
    let mut reader = CarReader::new(budget, std::env::temp_dir(), CarLimits::default());
    for piece in car.chunks(piece) {
        reader.push(piece)?;
    }
    reader.finish()
}

fn read(car: &[u8]) -> Result<Blocks, SnapshotError> {
    read_in(car, usize::MAX, &Budget::new(1 << 30))
}

fn open(car: &[u8], did: &str) -> Result<Snapshot, SnapshotError> {
    Snapshot::open(read(car)?, did, NOW, ANY_VERSION)
}

/// All that a full snapshot has to pass.
fn check(car: &[u8], did: &str) -> Result<Verified, SnapshotError> {
    open(car, did)?.verify(Mode::Full, || true)
}

/// The repository that a CAR says it is of.
fn did_of(car: &[u8]) -> String {
    let car = Car::parse(car).unwrap();
    let root = car
        .blocks()
        .map(Result::unwrap)
        .find(|block| block.cid == car.root);
    CommitBlock::parse(root.unwrap().data)
        .unwrap()
        .did
        .to_owned()
}

fn records(snapshot: &Snapshot, mode: Mode) -> Vec<Seen> {
    try_records(snapshot, mode).unwrap()
}

fn try_records(snapshot: &Snapshot, mode: Mode) -> Result<Vec<Seen>, SnapshotError> {
    let mut seen = Vec::new();
    snapshot.records(mode, &CollectionFilter::ALL, |leaf| {
        let path = format!("{}/{}", leaf.collection, leaf.rkey);
        seen.push((path, leaf.cid, leaf.record.map(<[u8]>::to_vec)));
        std::ops::ControlFlow::Continue(())
    })?;
    Ok(seen)
}
