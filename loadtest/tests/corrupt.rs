//! Every corrupt frame is one that a strict reader refuses, and no good one is.

use std::collections::HashSet;

use ciborium::Value as Cbor;
use penstock_loadtest::dagcbor::Cid;
use penstock_loadtest::{Corruption, Signatures, StreamFaults, World, WorldSpec, now_micros};
use sha2::{Digest, Sha256};

fn field<'a>(map: &'a Cbor, name: &str) -> Result<&'a Cbor, String> {
    let pairs = map.as_map().ok_or("not a map")?;
    let pair = pairs.iter().find(|(key, _)| key.as_text() == Some(name));
    pair.map(|(_, value)| value).ok_or(format!("no {name}"))
}

fn text<'a>(map: &'a Cbor, name: &str) -> Result<&'a str, String> {
    field(map, name)?
        .as_text()
        .ok_or(format!("{name} is no text"))
}

fn link(value: &Cbor) -> Result<Cid, String> {
    match value {
        Cbor::Tag(42, inner) => inner
            .as_bytes()
            .and_then(|bytes| Cid::from_bytes(bytes.get(1..)?)),
        _ => None,
    }
    .ok_or("not a link".to_owned())
}

fn sorted(value: &Cbor) -> bool {
    match value {
        Cbor::Map(pairs) => {
            let keys: Option<Vec<&str>> = pairs.iter().map(|(key, _)| key.as_text()).collect();
            let keys = keys.unwrap_or_default();
            keys.len() == pairs.len()
                && keys
                    .windows(2)
                    .all(|pair| (pair[0].len(), pair[0]) < (pair[1].len(), pair[1]))
                && pairs.iter().all(|(_, value)| sorted(value))
        }
        Cbor::Array(items) => items.iter().all(sorted),
        _ => true,
    }
}

/// One item, which must be canonical: what ciborium writes again is the same.
fn item(rest: &mut &[u8]) -> Result<Cbor, String> {
    let before = *rest;
    let value: Cbor = ciborium::from_reader(&mut *rest).map_err(|error| error.to_string())?;
    let mut again = Vec::new();
    ciborium::into_writer(&value, &mut again).map_err(|error| error.to_string())?;
    if again != before[..before.len() - rest.len()] || !sorted(&value) {
        return Err("not canonical".to_owned());
    }
    Ok(value)
}

fn take<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], String> {
    let (mut len, mut shift) = (0usize, 0);
    loop {
        let (first, rest) = bytes.split_first().ok_or("the CAR ends in a length")?;
        *bytes = rest;
        len |= usize::from(first & 0x7f) << shift;
        shift += 7;
        if first & 0x80 == 0 {
            break;
        }
    }
    let (section, rest) = bytes
        .split_at_checked(len)
        .ok_or("the CAR ends in a block")?;
    *bytes = rest;
    Ok(section)
}

fn accept(frame: &[u8]) -> Result<(), String> {
    let mut rest = frame;
    let header = item(&mut rest)?;
    let body = item(&mut rest)?;
    if !rest.is_empty() {
        return Err("surplus".to_owned());
    }
    if field(&header, "t").is_err() {
        return text(&body, "error").map(drop);
    }
    match text(&header, "t")? {
        "#commit" => {}
        "#info" => return text(&body, "name").map(drop),
        _ => return Ok(()),
    }
    let did = text(&body, "repo")?;
    let parts: Vec<&str> = did.splitn(3, ':').collect();
    let method = parts
        .get(1)
        .is_some_and(|method| !method.is_empty() && method.bytes().all(|b| b.is_ascii_lowercase()));
    if parts[0] != "did" || !method || parts.get(2).is_none_or(|id| id.is_empty()) {
        return Err("not a DID".to_owned());
    }
    field(&body, "seq")?
        .as_integer()
        .ok_or("seq is no integer")?;
    let rev = text(&body, "rev")?;
    if rev
        > penstock_loadtest::Tid::new(now_micros() + 300_000_000, 0)
            .to_string()
            .as_str()
    {
        return Err("from the future".to_owned());
    }
    let mut car = field(&body, "blocks")?
        .as_bytes()
        .ok_or("blocks are no bytes")?
        .as_slice();
    let roots = item(&mut take(&mut car)?)?;
    let root = link(&field(&roots, "roots")?.as_array().ok_or("roots")?[0])?;
    if root != link(field(&body, "commit")?)? {
        return Err("another root".to_owned());
    }
    let (mut commit, mut cids) = (None, HashSet::new());
    while !car.is_empty() {
        let section = take(&mut car)?;
        let (cid, block) = section.split_at_checked(36).ok_or("no CID")?;
        if cid[4..] != Sha256::digest(block)[..] {
            return Err("CID mismatch".to_owned());
        }
        let cid = Cid::from_bytes(cid).ok_or("no CID")?;
        cids.insert(cid);
        if cid == root {
            commit = Some(block);
        }
    }
    let commit = item(&mut commit.ok_or("no commit block")?)?;
    if text(&commit, "rev")? != rev || text(&commit, "did")? != did {
        return Err("another commit".to_owned());
    }
    for op in field(&body, "ops")?.as_array().ok_or("ops")? {
        match field(op, "cid")? {
            Cbor::Null => {}
            cid if cids.contains(&link(cid)?) => {}
            _ => return Err("no record block".to_owned()),
        }
    }
    Ok(())
}

#[test]
fn every_class_is_refused() {
    for class in Corruption::ALL {
        let world = World::generate(&WorldSpec {
            seed: 21,
            repos: 10,
            events: 60,
            prefill: 60,
            signatures: Signatures::Random,
            faults: StreamFaults {
                corrupt: 1.0,
                corrupt_classes: vec![*class],
                ..StreamFaults::default()
            },
            ..WorldSpec::default()
        });
        let corrupt: HashSet<u64> = world.summary.corrupt_seqs.iter().copied().collect();
        assert!(corrupt.len() > 40);
        assert_eq!(world.summary.corrupt[class.name()], corrupt.len() as u64);
        let mut reasons = HashSet::new();
        for (at, entry) in world.log.entries().iter().enumerate() {
            let payload = &world.log.payloads(at).unwrap()[0];
            match (accept(payload), corrupt.contains(&entry.seq)) {
                (Ok(()), true) => panic!("{class:?} at {} is not refused", entry.seq),
                (Err(reason), false) => panic!("good frame {}: {reason}", entry.seq),
                (Err(reason), true) => drop(reasons.insert(reason)),
                (Ok(()), false) => {}
            }
        }
        reasons.remove("");
        println!("{}: {:.200}", class.name(), format!("{reasons:?}"));
    }
}
