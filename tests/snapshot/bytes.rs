//! How the bytes of a CAR arrive, and where they are kept, makes no difference; what is broken in them is found.

use penstock::backfill::snapshot::{Budget, CarLimits, CarReader, Mode, Snapshot, SnapshotError};
use penstock::decode::car::Car;

use super::exports::vector;
use super::repository::{DID, repository};
use super::{ANY_VERSION, NOW, check, did_of, open, read, read_in, records};

#[test]
fn pieces_of_any_size_give_the_same() {
    let (paths, parts) = repository(300, 200);
    let car = parts.car();
    let expected = records(&open(&car, DID).unwrap(), Mode::Full);
    let seen = expected
        .iter()
        .map(|(path, cid, _)| (path.clone(), cid.to_string()));
    let seen: Vec<_> = seen.collect();
    let paths: Vec<_> = paths
        .into_iter()
        .map(|(path, cid)| (path, cid.to_string()))
        .collect();
    assert_eq!(seen, paths);
    for piece in [1, 2, 3, 7, 36, 37, 1000, 4096] {
        let blocks = read_in(&car, piece, &Budget::new(1 << 30)).unwrap();
        assert_eq!(
            (blocks.bytes(), blocks.spilled()),
            (car.len() as u64, false)
        );
        let snapshot = Snapshot::open(blocks, DID, NOW, ANY_VERSION).unwrap();
        assert_eq!(
            records(&snapshot, Mode::Full),
            expected,
            "in pieces of {piece}"
        );
    }
}

#[test]
fn blocks_in_any_order_and_repeated_give_the_same() {
    let (_, mut parts) = repository(500, 50);
    let expected = records(&open(&parts.car(), DID).unwrap(), Mode::Full);
    let mut random = fastrand::Rng::with_seed(5);
    let distinct = parts.blocks.len();
    for _ in 0..3 {
        let again = parts.blocks[random.usize(0..distinct)].clone();
        parts.blocks.extend(vec![again; 100]);
        random.shuffle(&mut parts.blocks);
        let snapshot = open(&parts.car(), DID).unwrap();
        assert_eq!(snapshot.blocks().len(), distinct as u64);
        assert_eq!(records(&snapshot, Mode::Full), expected);
    }
}

#[test]
fn what_memory_does_not_hold_waits_in_a_file() {
    let (_, parts) = repository(8000, 700);
    let car = parts.car();
    let expected = records(&open(&car, DID).unwrap(), Mode::Full);
    // Half of it, the index and some, the index and one chunk.
    for max in [4 << 20, 2 << 20, 1 << 20] {
        let budget = Budget::new(max);
        let mut reader = CarReader::new(&budget, std::env::temp_dir(), CarLimits::default());
        for piece in car.chunks(10_000) {
            reader.push(piece).unwrap();
            assert!(budget.used() <= max);
        }
        let snapshot = Snapshot::open(reader.finish().unwrap(), DID, NOW, ANY_VERSION).unwrap();
        assert!(snapshot.blocks().spilled(), "{max}");
        assert_eq!(records(&snapshot, Mode::Full), expected, "{max}");
        assert!(budget.used() > 0);
        drop(snapshot);
        assert_eq!(budget.used(), 0);
    }
    let error = read_in(&car, 10_000, &Budget::new(100 << 10)).unwrap_err();
    assert_eq!(error.reason(), "no_memory");
    assert!(error.is_ours());
}

#[test]
fn temporary_files_have_a_limit_together() {
    let (_, parts) = repository(8000, 700);
    let car = parts.car();
    let read = |on_disk| read_in(&car, 10_000, &Budget::with_disk(2 << 20, on_disk));
    let error = read(1 << 20).unwrap_err();
    assert_eq!(error.reason(), "spill");
    assert!(error.is_ours());
    // What one gives back another may have.
    let budget = Budget::with_disk(2 << 20, car.len() as u64);
    for _ in 0..3 {
        let blocks = read_in(&car, 10_000, &budget).unwrap();
        assert!(blocks.spilled());
    }
}

#[test]
fn a_folder_that_is_not_there_is_our_trouble() {
    let (_, parts) = repository(8000, 700);
    let mut reader = CarReader::new(&Budget::new(1 << 20), "/nonexistent", CarLimits::default());
    let error = reader.push(&parts.car()).unwrap_err();
    assert!(matches!(error, SnapshotError::Spill(_)) && error.is_ours());
    assert_eq!(reader.push(&[]).unwrap_err().reason(), "truncated");
}

/// Where the sections of a CAR begin.
fn boundaries(car: &[u8]) -> Vec<usize> {
    let mut blocks = Car::parse(car).unwrap().blocks();
    let mut found = vec![0, car.len() - blocks.remaining()];
    while blocks.next().is_some() {
        found.push(car.len() - blocks.remaining());
    }
    found
}

#[test]
fn a_cut_is_found_wherever_it_is() {
    let Some(car) = vector("cars/little.car") else {
        return;
    };
    let did = did_of(&car);
    let boundaries = boundaries(&car);
    assert_eq!(boundaries.len(), 2 + 375);
    for at in boundaries.iter().copied().filter(|at| *at < car.len()) {
        let reason = check(&car[..at], &did).unwrap_err().reason();
        assert!(
            ["truncated", "missing_block", "root_absent"].contains(&reason),
            "{at} {reason}"
        );
        for after in [1, 2, 30, 40] {
            if !boundaries.contains(&(at + after)) {
                let cut = read(&car[..at + after]).unwrap_err();
                assert_eq!(cut.reason(), "truncated", "{at} + {after}");
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let Some(mut car) = vector("cars/tiny.car") else {
        return;
    };
    let did = did_of(&car);
    check(&car, &did).unwrap();
    for at in 0..car.len() {
        for bit in [1, 0x10, 0x80] {
            car[at] ^= bit;
            assert!(check(&car, &did).is_err(), "{bit:#x} at {at}");
            car[at] ^= bit;
        }
    }
}
