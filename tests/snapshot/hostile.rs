//! What a hostile host may send.

use std::ops::ControlFlow;

use penstock::backfill::snapshot::{
    Budget, CarLimits, CarReader, Mode, Snapshot, SnapshotError, SnapshotLimits, TreeLimits,
};
use penstock::config::CollectionFilter;
use penstock_loadtest::Tid;
use penstock_loadtest::dagcbor::Cid;
use proptest::prelude::*;

use super::repository::{DID, commit, node, repository};
use super::{ANY_VERSION, NOW, check, open, read};

/// The reason that a tree of these nodes, the first of them its root, is refused for.
fn refused(nodes: Vec<(Cid, Vec<u8>)>) -> &'static str {
    let parts = commit(nodes[0].0, Tid::new(NOW, 0), nodes);
    check(&parts.car(), DID).unwrap_err().reason()
}

fn limited(limits: CarLimits, car: &[u8]) -> SnapshotError {
    let mut reader = CarReader::new(&Budget::new(1 << 20), std::env::temp_dir(), limits);
    reader.push(car).unwrap_err()
}

#[test]
fn lengths_that_lie() {
    for (bytes, reason) in [
        (&[0xff; 5][..], "bad_car"),
        (&[0xff; 20], "bad_car"),
        (&[0x80, 0], "bad_car"),
        (&[0], "bad_car"),
        (&[0xff, 0xff, 0xff, 0xff, 0x0f], "too_large"),
        (&[2, 0xa0, 0], "bad_car"),
        (&[], "truncated"),
    ] {
        assert_eq!(read(bytes).unwrap_err().reason(), reason, "{bytes:x?}");
    }
    let (_, parts) = repository(1, 1);
    let good = parts.car();
    let with = |tail: &[u8]| read(&[&good, tail].concat()).unwrap_err().reason();
    assert_eq!(with(&[0xff; 9]), "bad_car");
    assert_eq!(with(&[0]), "bad_car");
    assert_eq!(with(&[35]), "bad_car");
    assert_eq!(with(&[0xff, 0xff, 0xff, 0x07]), "too_large");
    assert_eq!(with(&[0xa0]), "truncated");
    let no_cid = [&[40][..], &[0; 40]].concat();
    assert_eq!(with(&no_cid), "bad_car");
}

#[test]
fn more_than_is_allowed() {
    let (_, parts) = repository(50, 1000);
    let car = parts.car();
    let limits = CarLimits::default();
    let reason = |limits| limited(limits, &car).reason();
    assert_eq!(
        reason(CarLimits {
            bytes: 10_000,
            ..limits
        }),
        "too_large"
    );
    assert_eq!(
        reason(CarLimits {
            blocks: 50,
            ..limits
        }),
        "too_many_blocks"
    );
    assert_eq!(
        reason(CarLimits {
            block_bytes: 999,
            ..limits
        }),
        "too_large"
    );
    assert_eq!(
        reason(CarLimits {
            header_bytes: 10,
            ..limits
        }),
        "too_large"
    );
    let verify = |limits| {
        let mut snapshot = Snapshot::open(read(&car).unwrap(), DID, NOW, limits).unwrap();
        snapshot.verify(Mode::Full, || true).unwrap_err().reason()
    };
    let (limits, tree) = (SnapshotLimits::default(), TreeLimits::default());
    let of_tree = |tree| SnapshotLimits { tree, ..limits };
    assert_eq!(
        verify(of_tree(TreeLimits { depth: 1, ..tree })),
        "too_large"
    );
    assert_eq!(
        verify(of_tree(TreeLimits {
            records: 49,
            ..tree
        })),
        "too_large"
    );
    assert_eq!(
        verify(of_tree(TreeLimits {
            node_entries: 1,
            ..tree
        })),
        "too_large"
    );
    assert_eq!(
        verify(SnapshotLimits {
            collections: 6,
            ..limits
        }),
        "too_large"
    );
}

#[test]
fn a_chain_that_is_too_deep() {
    let mut nodes = vec![node(None, &[])];
    for _ in 0..100 {
        let below = nodes[0].0;
        nodes.insert(0, node(Some(below), &[]));
    }
    assert_eq!(refused(nodes), "too_large");
}

#[test]
fn keys_that_are_out_of_order_or_no_paths() {
    let record = (Cid::of(&[0xa0]), vec![0xa0]);
    let of = |entries: &[(u64, &str, Cid, Option<Cid>)]| {
        refused(vec![node(None, entries), record.clone()])
    };
    let cid = record.0;
    for entries in [
        &[(0, "a.b.c/2", cid, None), (0, "a.b.c/1", cid, None)][..],
        &[(0, "a.b.c/1", cid, None), (7, "", cid, None)],
        &[(0, "a.b.c", cid, None)],
        &[(0, "a.b/1", cid, None)],
        &[(0, "a.b.c/", cid, None)],
        &[(0, "a.b.c/1/2", cid, None)],
        &[(0, "a.b.c/..", cid, None)],
        &[(0, "a.b.c/é", cid, None)],
        &[(0, "", cid, None)],
        &[(1, "a.b.c/1", cid, None)],
        &[(0, "a.b.c/1", cid, None), (8, "2", cid, None)],
    ] {
        assert_eq!(of(entries), "bad_tree", "{entries:?}");
    }
    let long = format!("a.b.c/{}", "x".repeat(513));
    assert_eq!(of(&[(0, &long, cid, None)]), "bad_tree");
    // The record as a node, a node as the commit.
    assert_eq!(refused(vec![record.clone()]), "bad_tree");
    let mut parts = commit(cid, Tid::new(NOW, 0), vec![record]);
    parts.root = cid;
    assert_eq!(check(&parts.car(), DID).unwrap_err().reason(), "bad_commit");
}

#[test]
fn keys_of_a_subtree_that_lie_outside_of_it() {
    let record = (Cid::of(&[0xa0]), vec![0xa0]);
    let cid = record.0;
    let before = node(None, &[(0, "a.b.c/1", cid, None)]);
    let after = node(None, &[(0, "a.b.d/9", cid, None)]);
    let keys = [(0, "a.b.c/5", cid, Some(before.0)), (6, "7", cid, None)];
    assert_eq!(
        refused(vec![node(None, &keys), before.clone(), record.clone()]),
        "bad_tree"
    );
    let keys = [(0, "a.b.c/5", cid, Some(after.0)), (6, "7", cid, None)];
    assert_eq!(
        refused(vec![node(None, &keys), after, record.clone()]),
        "bad_tree"
    );
    // The same subtree twice.
    let keys = [(0, "a.b.c/5", cid, None)];
    let twice = node(Some(before.0), &[(0, "a.b.c/5", cid, Some(before.0))]);
    assert_eq!(
        refused(vec![twice, before.clone(), record.clone()]),
        "bad_tree"
    );
    let good = node(Some(before.0), &keys);
    let parts = commit(good.0, Tid::new(NOW, 0), vec![good, before, record]);
    assert_eq!(check(&parts.car(), DID).unwrap().total.records, 2);
}

/// Without keys nothing is out of order; going through all of it would take 1000 to the power of the depth.
#[test]
fn empty_subtrees_that_repeat() {
    let record = (Cid::of(&[0xa0]), vec![0xa0]);
    let bottom = node(None, &[]);
    let names: Vec<String> = (0..1000).map(|n| format!("a.b.c/{n:04}")).collect();
    let entry = |name| (0, name, record.0, Some(bottom.0));
    let entries: Vec<_> = names.iter().map(|name| entry(name.as_str())).collect();
    let root = node(Some(bottom.0), &entries);
    assert_eq!(refused(vec![root, bottom, record]), "bad_tree");
}

#[test]
fn a_walk_stops_when_asked() {
    let (_, parts) = repository(3000, 1);
    let mut snapshot = open(&parts.car(), DID).unwrap();
    let mut asked = 0;
    let stopped = snapshot.verify(Mode::Full, || {
        asked += 1;
        asked < 2
    });
    assert_eq!((stopped.unwrap_err().reason(), asked), ("cancelled", 2));
    let filter = CollectionFilter::new(["com.example.kind3"]).unwrap();
    let mut seen = 0;
    let all = snapshot.records(Mode::Full, &filter, |leaf| {
        assert_eq!(leaf.collection, "com.example.kind3");
        seen += 1;
        ControlFlow::Continue(())
    });
    assert!(all.is_ok() && (428..=429).contains(&seen), "{seen}");
    let stopped = snapshot.records(Mode::Full, &filter, |_| ControlFlow::Break(()));
    assert_eq!(stopped.unwrap_err().reason(), "cancelled");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Bytes are changed, and the hashes made right again, so that the tree's reader sees them.
    #[test]
    fn changed_blocks_never_panic(seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let (_, mut parts) = repository(40, 10);
        for _ in 0..random.usize(1..4) {
            let at = random.usize(0..parts.blocks.len());
            let before = parts.blocks[at].0;
            let block = &mut parts.blocks[at].1;
            match random.u8(0..4) {
                0 => block.truncate(random.usize(0..=block.len())),
                1 => block.insert(random.usize(0..=block.len()), random.u8(..)),
                // Nothing of a block that was cut to nothing before.
                _ if block.is_empty() => {}
                _ => {
                    let at = random.usize(0..block.len());
                    block[at] = random.u8(..);
                }
            }
            rehash(&mut parts, at, before);
        }
        let car = parts.car();
        for mode in [Mode::Full, Mode::Windowed] {
            if let Ok(mut snapshot) = Snapshot::open(read(&car).unwrap(), DID, NOW, ANY_VERSION) {
                let _ = snapshot.verify(mode, || true);
            }
        }
    }

    #[test]
    fn any_bytes_never_panic(bytes: Vec<u8>, at: usize) {
        let mut car = repository(5, 10).1.car();
        let at = at % car.len();
        car.splice(at..(at + bytes.len()).min(car.len()), bytes);
        let _ = check(&car, DID);
    }
}

/// Writes the new CID of a changed block wherever the old one was named, up to the root.
fn rehash(parts: &mut super::repository::Parts, at: usize, before: Cid) {
    let mut changed = vec![(at, before)];
    while let Some((at, before)) = changed.pop() {
        let cid = Cid::of(&parts.blocks[at].1);
        parts.blocks[at].0 = cid;
        if parts.root == before {
            parts.root = cid;
        }
        let (old, new) = (before.to_bytes(), cid.to_bytes());
        for (place, (own, block)) in parts.blocks.iter_mut().enumerate() {
            let found = block.windows(old.len()).position(|window| window == old);
            if let Some(found) = found.filter(|_| place != at) {
                block[found..found + new.len()].copy_from_slice(&new);
                changed.push((place, *own));
            }
        }
    }
}
