//! Repositories of the simulator, as CARs whose blocks a test can move, drop and repeat.

use penstock_loadtest::Tid;
use penstock_loadtest::dagcbor::{self, Cid, Value};
use penstock_loadtest::mst::Mst;
use penstock_loadtest::repo::{Curve, Key, car, commit_bytes};

use super::NOW;

pub const DID: &str = "did:web:repository.example";

/// The parts of a CAR.
#[derive(Clone)]
pub struct Parts {
    pub root: Cid,
    pub blocks: Vec<(Cid, Vec<u8>)>,
}

impl Parts {
    pub fn car(&self) -> Vec<u8> {
        car(
            &self.root,
            self.blocks
                .iter()
                .map(|(cid, block)| (cid, block.as_slice())),
        )
    }

    pub fn without(&self, cid: Cid) -> Self {
        let mut parts = self.clone();
        parts.blocks.retain(|(own, _)| *own != cid);
        assert!(parts.blocks.len() < self.blocks.len());
        parts
    }
}

pub fn key(curve: Curve) -> Key {
    Key::new(curve, [7; 32])
}

/// A commit of this tree, before these blocks.
pub fn commit(data: Cid, rev: Tid, blocks: Vec<(Cid, Vec<u8>)>) -> Parts {
    let sig = key(Curve::K256).sign(&commit_bytes(DID, rev, None, &data));
    let block = commit_bytes(DID, rev, Some(&sig), &data);
    let root = Cid::of(&block);
    let blocks = std::iter::once((root, block)).chain(blocks).collect();
    Parts { root, blocks }
}

/// A repository of so many records of some bytes each: path and CID in order, and the parts, nodes first.
pub fn repository(records: u64, bytes: usize) -> (Vec<(String, Cid)>, Parts) {
    let mut tree = Mst::default();
    let mut blocks = Vec::new();
    let mut paths = Vec::new();
    for n in 0..records {
        let rkey = Tid::new(NOW - 1_000_000_000 * n, n % 1024);
        let path = format!("com.example.kind{}/{rkey}", n % 7);
        let record = Value::map([
            ("n", Value::text(n.to_string())),
            ("text", Value::text("x".repeat(bytes))),
        ])
        .encode();
        let cid = Cid::of(&record);
        tree.insert(path.as_str(), cid).unwrap();
        paths.push((path, cid));
        blocks.push((cid, record));
    }
    paths.sort();
    let mut all = tree.proof(paths.iter().map(|(path, _)| path.as_str()));
    all.extend(blocks);
    (paths, commit(tree.root(), Tid::new(NOW, 1), all))
}

/// A node of these entries (shared bytes, suffix, record, right subtree) and its CID.
pub fn node(left: Option<Cid>, entries: &[(u64, &str, Cid, Option<Cid>)]) -> (Cid, Vec<u8>) {
    let mut out = vec![0xa2, 0x61, b'e'];
    dagcbor::head(&mut out, 4, entries.len() as u64);
    for (shared, suffix, value, right) in entries {
        out.extend_from_slice(&[0xa4, 0x61, b'k']);
        dagcbor::bytes(&mut out, suffix.as_bytes());
        out.extend_from_slice(&[0x61, b'p']);
        dagcbor::head(&mut out, 0, *shared);
        out.extend_from_slice(&[0x61, b't']);
        dagcbor::link_or_null(&mut out, right.as_ref());
        out.extend_from_slice(&[0x61, b'v']);
        dagcbor::link(&mut out, value);
    }
    out.extend_from_slice(&[0x61, b'l']);
    dagcbor::link_or_null(&mut out, left.as_ref());
    (Cid::of(&out), out)
}
