//! Walks that follow the one that verified a snapshot give exactly what those give that search for every block.

use penstock::backfill::snapshot::window::Window;
use penstock::backfill::snapshot::{Budget, Mode, Share, Snapshot, SnapshotError};
use penstock::config::CollectionFilter;
use penstock_loadtest::Tid;
use penstock_loadtest::dagcbor::{Cid, Value};
use penstock_loadtest::mst::Mst;
use proptest::prelude::*;

use super::repository::{DID, Parts, commit, repository};
use super::{ANY_VERSION, NOW, Seen, open, read_in, records, try_records};

const ALL: u64 = 16 << 20;

/// Reads while others have left this much of a budget of [`ALL`] to great fetches.
fn open_in(car: &[u8], left: u64) -> (Snapshot, Budget) {
    let budget = Budget::new(ALL);
    let mut others = budget.share();
    assert!(others.try_take(ALL / 4 * 3 - left));
    let blocks = read_in(car, 16 << 10, &budget).unwrap();
    let snapshot = Snapshot::open(blocks, DID, NOW, ANY_VERSION).unwrap();
    (snapshot, budget)
}

/// All that is left of a budget.
fn rest_of(budget: &Budget) -> Vec<Share> {
    let (mut shares, mut bytes) = (Vec::new(), ALL);
    while budget.used() < ALL {
        let mut share = budget.share();
        bytes = bytes.min(ALL - budget.used());
        match share.try_take(bytes) {
            true => shares.push(share),
            false => bytes /= 2,
        }
    }
    shares
}

/// Random keys and sizes; some records are the same, so that more links than blocks are noted.
fn random_repository(random: &mut fastrand::Rng) -> Parts {
    let mut tree = Mst::default();
    let (mut blocks, mut paths) = (Vec::new(), Vec::new());
    let kinds = random.u64(1..500);
    for _ in 0..random.u64(0..800) {
        let rkey = Tid::new(NOW - random.u64(0..NOW / 2), 0);
        let path = format!("com.example.kind{}/{rkey}", random.u8(0..4));
        let kind = random.u64(0..kinds);
        let text = "x".repeat(usize::try_from(kind * 7 % 3000).unwrap());
        let record = Value::map([
            ("n", Value::text(kind.to_string())),
            ("text", Value::text(text)),
        ])
        .encode();
        let cid = Cid::of(&record);
        if tree.insert(path.as_str(), cid).is_ok() {
            paths.push(path);
            blocks.push((cid, record));
        }
    }
    let mut all = tree.proof(paths.iter().map(String::as_str));
    all.extend(blocks);
    commit(tree.root(), Tid::new(NOW, 1), all)
}

/// What a walk of either kind gives.
fn all_of(snapshot: &Snapshot) -> [Result<Vec<Seen>, String>; 2] {
    [Mode::Full, Mode::Windowed]
        .map(|mode| try_records(snapshot, mode).map_err(|error| error.to_string()))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn following_gives_what_searching_gives(seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut parts = random_repository(&mut random);
        random.shuffle(&mut parts.blocks);
        let absent = if random.bool() { 0 } else { random.usize(0..20) };
        for _ in 0..absent {
            let at = random.usize(0..parts.blocks.len());
            if parts.blocks[at].0 != parts.root {
                parts.blocks.remove(at);
            }
        }
        let car = parts.car();
        // All in memory, or some of it in a file.
        let left = if random.bool() { ALL / 4 * 3 } else { random.u64(100 << 10..1 << 20) };
        let (mut snapshot, budget) = open_in(&car, left);
        let searched = all_of(&snapshot);
        let used = budget.used();
        let rest = random.bool().then(|| rest_of(&budget));
        for mode in [Mode::Full, Mode::Windowed] {
            let verified = snapshot.verify(mode, || true);
            match (&rest, &verified) {
                (Some(_), _) => prop_assert_eq!(budget.used(), ALL),
                (None, Ok(_)) => prop_assert!(budget.used() > used),
                (None, Err(_)) => prop_assert_eq!(budget.used(), used),
            }
            prop_assert_eq!(all_of(&snapshot), searched.clone());
            if let Ok(verified) = verified {
                let unverified = open(&car, DID).unwrap();
                for start in [0, NOW / 2, NOW] {
                    let window = Window::of(&snapshot, start, &verified).unwrap();
                    prop_assert_eq!(window, Window::of(&unverified, start, &verified).unwrap());
                    let lacking = |of| window.lacking(of, &CollectionFilter::ALL).unwrap();
                    prop_assert_eq!(lacking(&snapshot), lacking(&unverified));
                }
            }
        }
        drop((snapshot, rest));
        prop_assert_eq!(budget.used(), 0);
    }
}

#[test]
fn absent_blocks_are_noted_as_absent() {
    let (paths, parts) = repository(200, 20);
    let without = parts.without(paths[77].1).without(parts.blocks[5].0);
    let mut snapshot = open(&without.car(), DID).unwrap();
    let searched = records(&snapshot, Mode::Windowed);
    let verified = snapshot.verify(Mode::Windowed, || true).unwrap();
    assert_eq!((verified.absent_nodes, verified.total.absent), (1, 1));
    assert_eq!(records(&snapshot, Mode::Windowed), searched);
    let error = try_records(&snapshot, Mode::Full).unwrap_err();
    assert!(matches!(error, SnapshotError::MissingBlock { .. }));
}

#[test]
fn what_lies_in_a_file_is_found_again() {
    let (_, parts) = repository(8000, 700);
    let car = parts.car();
    let (mut snapshot, budget) = open_in(&car, 2 << 20);
    assert!(snapshot.blocks().spilled());
    let searched = records(&snapshot, Mode::Full);
    let used = budget.used();
    snapshot.verify(Mode::Full, || true).unwrap();
    assert_eq!(budget.used(), used + 8 * snapshot.blocks().len());
    assert_eq!(records(&snapshot, Mode::Full), searched);
}

#[test]
fn without_memory_nothing_is_noted() {
    let (_, parts) = repository(3000, 20);
    let (mut snapshot, budget) = open_in(&parts.car(), ALL / 4 * 3);
    let searched = records(&snapshot, Mode::Full);
    let used = budget.used();
    let rest = rest_of(&budget);
    snapshot.verify(Mode::Full, || true).unwrap();
    assert_eq!(budget.used(), ALL);
    assert_eq!(records(&snapshot, Mode::Full), searched);
    drop(rest);
    // A walk that was stopped leaves no trail and holds no memory.
    assert!(snapshot.verify(Mode::Full, || false).is_err());
    assert_eq!(budget.used(), used);
    for _ in 0..2 {
        snapshot.verify(Mode::Full, || true).unwrap();
        assert_eq!(budget.used(), used + 8 * snapshot.blocks().len());
    }
    assert!(snapshot.verify(Mode::Full, || false).is_err());
    assert_eq!(budget.used(), used);
    assert_eq!(records(&snapshot, Mode::Full), searched);
}
