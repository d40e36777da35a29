//! The simulator's tree against the interop vectors, at its edges and in its proofs.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use penstock_loadtest::dagcbor::Cid;
use penstock_loadtest::mst::{Mst, height};
use serde_json::Value as Json;

/// A vector file; `None`, with a word on it, where there are no vectors.
fn vectors(name: &str) -> Option<Json> {
    let dir = std::env::var_os("VECTORS_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors")),
        PathBuf::from,
    );
    let found = std::fs::read(dir.join(name)).ok();
    if found.is_none() {
        println!("skipped: {name} is not in ../shared/vectors nor in VECTORS_DIR");
    }
    serde_json::from_slice(&found?).unwrap()
}

#[test]
fn the_empty_tree() {
    let known = "bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm";
    assert_eq!(Mst::default().root().to_string(), known);
    let mut tree = Mst::default();
    let some = tree.root();
    for key in ["a/1", "a/2", "a/3"] {
        tree.insert(key, some).unwrap();
    }
    for key in ["a/2", "a/1", "a/3"] {
        tree.remove(key).unwrap();
    }
    assert_eq!(tree.root().to_string(), known);
}

#[test]
fn key_heights() {
    let Some(cases) = vectors("interop/mst/key_heights.json") else {
        return;
    };
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 9);
    for case in cases {
        let key = case["key"].as_str().unwrap();
        assert_eq!(
            u64::from(height(key)),
            case["height"].as_u64().unwrap(),
            "{key}"
        );
    }
}

#[test]
fn commit_proofs() {
    let Some(cases) = vectors("interop/firehose/commit-proof-fixtures.json") else {
        return;
    };
    let texts = |value: &Json| -> Vec<String> {
        let items = value.as_array().unwrap().iter();
        items
            .map(|item| item.as_str().unwrap().to_owned())
            .collect()
    };
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let name = case["comment"].as_str().unwrap();
        let leaf = Cid::parse(case["leafValue"].as_str().unwrap()).unwrap();
        let (adds, dels) = (texts(&case["adds"]), texts(&case["dels"]));
        let mut tree = Mst::default();
        for key in texts(&case["keys"]) {
            tree.insert(key, leaf).unwrap();
        }
        assert_eq!(tree.root().to_string(), case["rootBeforeCommit"], "{name}");
        let before = tree.root();
        for key in &adds {
            tree.insert(key.as_str(), leaf).unwrap();
        }
        for key in &dels {
            tree.remove(key).unwrap();
        }
        assert_eq!(tree.root().to_string(), case["rootAfterCommit"], "{name}");

        let touched = || adds.iter().chain(&dels).map(String::as_str);
        let proof: HashMap<Cid, Vec<u8>> = tree.proof(touched()).into_iter().collect();
        let ours: HashSet<String> = proof.keys().map(Cid::to_string).collect();
        for block in texts(&case["blocksInProof"]) {
            assert!(ours.contains(&block), "{name}: {block} is not in the proof");
        }

        let mut partial = Mst::from_blocks(tree.root(), &proof).unwrap();
        let mut keys: Vec<&str> = touched().collect();
        keys.sort_unstable_by(|a, b| b.cmp(a));
        for key in keys {
            match dels.iter().any(|del| del == key) {
                true => partial.insert(key, leaf).unwrap(),
                false => drop(partial.remove(key).unwrap()),
            }
        }
        assert_eq!(partial.root(), before, "{name}");
    }
}
