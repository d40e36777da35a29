//! What the simulator makes, read back by means that are not its own encoder.

use std::collections::{BTreeMap, HashMap};

use ciborium::Value as Cbor;
use penstock_loadtest::dagcbor::Cid;
use penstock_loadtest::mst::{Mst, TreeError};
use penstock_loadtest::{StreamFaults, World, WorldSpec};
use sha2::{Digest, Sha256};

const END: u64 = 1_790_000_000_000_000;

fn spec(seed: u64, repos: usize, events: u64) -> WorldSpec {
    WorldSpec {
        seed,
        repos,
        events,
        end: Some(END),
        prefill: 600,
        ..WorldSpec::default()
    }
}

fn field<'a>(map: &'a Cbor, name: &str) -> Option<&'a Cbor> {
    let pairs = map.as_map()?;
    pairs
        .iter()
        .find(|(key, _)| key.as_text() == Some(name))
        .map(|(_, value)| value)
}

fn link(value: &Cbor) -> Option<Cid> {
    match value {
        Cbor::Tag(42, inner) => Cid::from_bytes(&inner.as_bytes()?[1..]),
        _ => None,
    }
}

fn text<'a>(map: &'a Cbor, name: &str) -> &'a str {
    field(map, name).and_then(Cbor::as_text).unwrap()
}

/// Every map's keys must be sorted by length, then bytes, and unique.
fn assert_sorted(value: &Cbor) {
    match value {
        Cbor::Map(pairs) => {
            let keys: Vec<_> = pairs
                .iter()
                .map(|(key, _)| key.as_text().unwrap())
                .map(|key| (key.len(), key))
                .collect();
            assert!(keys.windows(2).all(|pair| pair[0] < pair[1]), "{keys:?}");
            pairs.iter().for_each(|(_, value)| assert_sorted(value));
        }
        Cbor::Array(items) => items.iter().for_each(assert_sorted),
        Cbor::Tag(_, inner) => assert_sorted(inner),
        _ => {}
    }
}

fn uvarint(bytes: &mut &[u8]) -> usize {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return value;
        }
    }
}

/// Root and blocks of a CAR; every CID is recomputed.
fn read_car(mut bytes: &[u8]) -> (Cid, HashMap<Cid, Vec<u8>>) {
    let len = uvarint(&mut bytes);
    let header: Cbor = ciborium::from_reader(&bytes[..len]).unwrap();
    bytes = &bytes[len..];
    assert_eq!(
        field(&header, "version").unwrap().as_integer(),
        Some(1.into())
    );
    let root = link(&field(&header, "roots").unwrap().as_array().unwrap()[0]).unwrap();
    let mut blocks = HashMap::new();
    while !bytes.is_empty() {
        let len = uvarint(&mut bytes);
        let (cid, block) = bytes[..len].split_at(36);
        assert_eq!(&cid[..4], [1, 0x71, 0x12, 0x20]);
        assert_eq!(&cid[4..], &Sha256::digest(block)[..], "a block's CID");
        blocks.insert(Cid::from_bytes(cid).unwrap(), block.to_vec());
        bytes = &bytes[len..];
    }
    (root, blocks)
}

fn messages(world: &World) -> Vec<(Cbor, Cbor)> {
    let mut out = Vec::new();
    for at in 0..world.log.len() {
        for payload in world.log.payloads(at).unwrap() {
            let mut rest = &payload[..];
            let header: Cbor = ciborium::from_reader(&mut rest).unwrap();
            let body: Cbor = ciborium::from_reader(&mut rest).unwrap();
            assert!(rest.is_empty());
            assert_sorted(&header);
            assert_sorted(&body);
            out.push((header, body));
        }
    }
    out
}

fn verify(multibase: &str, message: &[u8], signature: &[u8]) {
    use k256::ecdsa::signature::Verifier;
    const ALPHABET: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut bytes = [0u8; 35];
    for letter in multibase.strip_prefix('z').unwrap().bytes() {
        let mut carry = ALPHABET.iter().position(|known| *known == letter).unwrap();
        for byte in bytes.iter_mut().rev() {
            carry += usize::from(*byte) * 58;
            *byte = (carry & 0xff) as u8;
            carry >>= 8;
        }
        assert_eq!(carry, 0);
    }
    match bytes[..2] {
        [0xe7, 0x01] => {
            let key = k256::ecdsa::VerifyingKey::from_sec1_bytes(&bytes[2..]).unwrap();
            let signature = k256::ecdsa::Signature::from_slice(signature).unwrap();
            assert_eq!(signature.normalize_s(), signature, "low S");
            key.verify(message, &signature).unwrap();
        }
        [0x80, 0x24] => {
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&bytes[2..]).unwrap();
            let signature = p256::ecdsa::Signature::from_slice(signature).unwrap();
            assert_eq!(signature.normalize_s(), signature, "low S");
            key.verify(message, &signature).unwrap();
        }
        _ => panic!("unknown key type"),
    }
}

/// Undoes the operations on the tree of a commit's blocks, greatest path first.
fn invert(body: &Cbor, data: Cid, blocks: &HashMap<Cid, Vec<u8>>) -> Result<Cid, TreeError> {
    let mut tree = Mst::from_blocks(data, blocks)?;
    let mut ops: Vec<&Cbor> = field(body, "ops")
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .collect();
    ops.sort_by_key(|op| std::cmp::Reverse(text(op, "path")));
    for op in ops {
        let path = text(op, "path");
        match field(op, "prev").and_then(link) {
            Some(prev) => tree.insert(path, prev)?,
            None => {
                tree.remove(path)?;
            }
        }
    }
    Ok(tree.root())
}

#[test]
fn commits_are_signed_chained_and_proven() {
    let world = World::generate(&WorldSpec {
        p256: 0.5,
        ..spec(11, 12, 2_000)
    });
    let mut curves = BTreeMap::<bool, u32>::new();
    let mut heads: HashMap<String, (String, Cid)> = HashMap::new();
    let (mut commits, mut proven, mut bytes) = (0, 0, 0);
    for (header, body) in messages(&world) {
        let kind = text(&header, "t");
        if !matches!(kind, "#commit" | "#sync") {
            continue;
        }
        let did = text(&body, if kind == "#commit" { "repo" } else { "did" });
        let car = field(&body, "blocks").unwrap().as_bytes().unwrap();
        bytes += car.len();
        let (root, blocks) = read_car(car);
        let commit: Cbor = ciborium::from_reader(blocks[&root].as_slice()).unwrap();
        assert_eq!(
            (text(&commit, "did"), text(&commit, "rev")),
            (did, text(&body, "rev"))
        );
        let data = field(&commit, "data").and_then(link).unwrap();

        let mut unsigned = commit.as_map().unwrap().clone();
        unsigned.retain(|(key, _)| key.as_text() != Some("sig"));
        let mut message = Vec::new();
        ciborium::into_writer(&Cbor::Map(unsigned), &mut message).unwrap();
        let account = world.accounts.get(did).unwrap();
        verify(
            &account.key,
            &message,
            field(&commit, "sig").unwrap().as_bytes().unwrap(),
        );
        *curves.entry(account.p256).or_default() += 1;

        let before = heads.insert(did.to_owned(), (text(&body, "rev").to_owned(), data));
        if let Some((rev, _)) = &before {
            assert!(rev.as_str() < text(&body, "rev"), "revisions grow");
        }
        if kind == "#sync" {
            assert_eq!(blocks.len(), 1);
            continue;
        }
        commits += 1;
        assert_eq!(field(&body, "commit").and_then(link), Some(root));
        let tree = Mst::from_blocks(data, &blocks).unwrap();
        for op in field(&body, "ops").unwrap().as_array().unwrap() {
            let held = tree.get(text(op, "path")).unwrap();
            let cid = field(op, "cid").and_then(link);
            assert_eq!(held, cid, "the tree says what the operation says");
            assert!(
                cid.is_none_or(|cid| blocks.contains_key(&cid)),
                "the record is there"
            );
        }
        if let Some(prev_data) = field(&body, "prevData").and_then(link) {
            assert!(
                before.as_ref().is_none_or(|(_, data)| *data == prev_data),
                "the chain"
            );
            assert_eq!(invert(&body, data, &blocks), Ok(prev_data), "{body:?}");
            proven += 1;
        }
        if let (Some((rev, _)), Some(since @ 1..)) = (
            &before,
            field(&body, "since").and_then(Cbor::as_text).map(str::len),
        ) {
            assert_eq!((since, text(&body, "since")), (13, rev.as_str()));
        }
    }
    assert!(
        commits > 1_800 && proven > 1_700,
        "{commits} commits, {proven} proven"
    );
    assert!(curves.len() == 2, "{curves:?}");
    println!("mean CAR {} bytes, {:?}", bytes / commits, world.summary);
}

#[test]
fn batches_can_be_undone() {
    // Small trees change their height often.
    for seed in 0..6 {
        let world = World::generate(&WorldSpec {
            fresh: 1.0,
            ..spec(seed, 8, 1_500)
        });
        let mut batches = 0;
        for (header, body) in messages(&world) {
            if text(&header, "t") != "#commit" {
                continue;
            }
            let (root, blocks) = read_car(field(&body, "blocks").unwrap().as_bytes().unwrap());
            let commit: Cbor = ciborium::from_reader(blocks[&root].as_slice()).unwrap();
            let data = field(&commit, "data").and_then(link).unwrap();
            let ops = field(&body, "ops").unwrap().as_array().unwrap();
            batches += usize::from(ops.len() > 1);
            if let Some(prev_data) = field(&body, "prevData").and_then(link) {
                assert_eq!(invert(&body, data, &blocks), Ok(prev_data), "seed {seed}");
            }
        }
        assert!(batches > 5, "{batches}");
    }
}

#[test]
fn the_oracle_is_what_a_slow_reader_finds() {
    let world = World::generate(&WorldSpec {
        faults: StreamFaults {
            duplicates: 0.05,
            renumbered: 0.05,
            gaps: 0.02,
            reordered: 0.2,
            infos: 0.01,
            ..StreamFaults::default()
        },
        ..spec(5, 30, 3_000)
    });
    let mut records: BTreeMap<(String, String), (String, Cid, Vec<u8>)> = BTreeMap::new();
    let mut revs: HashMap<(String, String), String> = HashMap::new();
    let mut dids = std::collections::HashSet::new();
    for (header, body) in messages(&world) {
        if text(&header, "t") != "#commit" {
            continue;
        }
        let (did, rev) = (text(&body, "repo"), text(&body, "rev"));
        dids.insert(did.to_owned());
        let (_, blocks) = read_car(field(&body, "blocks").unwrap().as_bytes().unwrap());
        for op in field(&body, "ops").unwrap().as_array().unwrap() {
            let key = (did.to_owned(), text(op, "path").to_owned());
            if revs.get(&key).is_some_and(|last| last.as_str() >= rev) {
                continue;
            }
            revs.insert(key.clone(), rev.to_owned());
            match field(op, "cid").and_then(link) {
                Some(cid) => records.insert(key, (rev.to_owned(), cid, blocks[&cid].clone())),
                None => records.remove(&key),
            };
        }
    }
    assert_eq!(records.len(), world.oracle.records.len());
    for (((did, path), (rev, cid, block)), held) in
        records.iter().zip(world.oracle.records.values())
    {
        assert_eq!(
            (did, path),
            (&held.did, &format!("{}/{}", held.collection, held.rkey))
        );
        assert_eq!((rev, &cid.to_string()), (&held.rev, &held.cid));
        let value: Cbor = ciborium::from_reader(block.as_slice()).unwrap();
        assert_eq!(json(&value), held.value);
    }
    assert!(dids.iter().all(|did| world.oracle.repos.contains_key(did)));
    assert!(
        world.summary.duplicates > 0 && world.summary.renumbered > 0 && world.summary.reordered > 0
    );
    let lines = world.oracle.to_lines();
    assert_eq!(
        penstock_loadtest::Oracle::read(lines.as_slice()).unwrap(),
        *world.oracle
    );
}

fn json(value: &Cbor) -> serde_json::Value {
    use data_encoding::BASE64_NOPAD;
    match value {
        Cbor::Null => serde_json::Value::Null,
        Cbor::Bool(value) => (*value).into(),
        Cbor::Integer(value) => i64::try_from(*value).unwrap().into(),
        Cbor::Float(value) => (*value).into(),
        Cbor::Bytes(bytes) => serde_json::json!({ "$bytes": BASE64_NOPAD.encode(bytes) }),
        Cbor::Text(text) => text.as_str().into(),
        Cbor::Tag(..) => serde_json::json!({ "$link": link(value).unwrap().to_string() }),
        Cbor::Array(items) => items.iter().map(json).collect(),
        Cbor::Map(pairs) => pairs
            .iter()
            .map(|(key, value)| (key.as_text().unwrap().to_owned(), json(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        _ => panic!("{value:?}"),
    }
}

#[test]
fn the_same_seed_makes_the_same_bytes() {
    let make = |seed| {
        let faults = StreamFaults {
            corrupt: 0.05,
            gaps: 0.05,
            reordered: 0.1,
            ..StreamFaults::default()
        };
        let world = World::generate(&WorldSpec {
            faults,
            ..spec(seed, 10, 400)
        });
        let all = world.log.read(0..world.log.len()).unwrap();
        (all, world.oracle.to_lines(), world.summary)
    };
    // The clock of the machine has a part in frames from the future alone.
    let (a, b, c) = (make(3), make(3), make(4));
    assert_eq!((&a.1, &a.2), (&b.1, &b.2));
    assert_eq!(a.0.len(), b.0.len());
    assert!(a.0 != c.0 && a.1 != c.1);
}

#[test]
fn prepared_equals_generated() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(9, 20, 1_000);
    let world = World::generate(&spec);
    penstock_loadtest::prepare(&spec, dir.path(), |_| Ok(())).unwrap();
    let prepared = penstock_loadtest::Prepared::open(dir.path()).unwrap();
    assert_eq!(prepared.manifest.summary, world.summary);
    assert_eq!(prepared.log.entries(), world.log.entries());
    assert_eq!(
        prepared.log.read(0..1_000).unwrap(),
        world.log.read(0..1_000).unwrap()
    );
    let lines = std::fs::read(&prepared.oracle).unwrap();
    assert!(penstock_loadtest::Oracle::read(lines.as_slice()).unwrap() == *world.oracle);
    let did = world.accounts.dids().next().unwrap();
    assert_eq!(
        prepared.accounts.document(did, "x"),
        world.accounts.document(did, "x")
    );
    assert!(!dir.path().join("values.tmp").exists());
}
