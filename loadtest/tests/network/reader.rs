//! Reads CARs, trees and signatures by means that are not the simulator's own, and refuses what is wrong.

use std::collections::{BTreeMap, HashMap};

use ciborium::Value as Cbor;
use penstock_loadtest::network::Failure;
use sha2::{Digest, Sha256};

/// 36 bytes.
pub type CidBytes = Vec<u8>;

/// A repository that was read.
#[derive(Debug)]
pub struct Repository {
    pub rev: String,
    /// CIDs as text, by path.
    pub records: BTreeMap<String, String>,
}

/// The parts of a CAR.
pub struct Car {
    pub root: CidBytes,
    /// In the order in which they came.
    pub blocks: Vec<(CidBytes, Vec<u8>)>,
}

pub fn field<'a>(map: &'a Cbor, name: &str) -> Option<&'a Cbor> {
    let mut pairs = map.as_map()?.iter();
    pairs
        .find(|(key, _)| key.as_text() == Some(name))
        .map(|(_, value)| value)
}

fn link(value: &Cbor) -> Option<CidBytes> {
    match value {
        Cbor::Tag(42, inner) => Some(inner.as_bytes()?.get(1..)?.to_vec()),
        _ => None,
    }
}

pub fn text(cid: &[u8]) -> String {
    let text = data_encoding::BASE32_NOPAD.encode(cid);
    format!("b{}", text.to_ascii_lowercase())
}

fn uvarint(bytes: &mut &[u8]) -> Result<usize, Failure> {
    let (mut value, mut shift) = (0u64, 0);
    loop {
        let (byte, rest) = bytes.split_first().ok_or(Failure::Truncated)?;
        *bytes = rest;
        if shift > 28 {
            return Err(Failure::Hostile);
        }
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return Ok(value as usize);
        }
    }
}

fn section<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Failure> {
    let len = uvarint(bytes)?;
    if len > bytes.len() {
        return Err(Failure::Truncated);
    }
    let (section, rest) = bytes.split_at(len);
    *bytes = rest;
    Ok(section)
}

pub fn car(mut bytes: &[u8]) -> Result<Car, Failure> {
    let header: Cbor = ciborium::from_reader(section(&mut bytes)?).unwrap();
    assert_eq!(field(&header, "version"), Some(&Cbor::from(1)));
    let root = link(&field(&header, "roots").unwrap().as_array().unwrap()[0]).unwrap();
    let mut blocks = Vec::new();
    while !bytes.is_empty() {
        let (cid, block) = section(&mut bytes)?.split_at(36);
        assert_eq!(cid[..4], [1, 0x71, 0x12, 0x20]);
        if cid[4..] != Sha256::digest(block)[..] {
            return Err(Failure::Corrupt);
        }
        blocks.push((cid.to_vec(), block.to_vec()));
    }
    Ok(Car { root, blocks })
}

/// Everything of a full CAR, checked; `key` is what the DID document names.
pub fn repository(bytes: &[u8], did: &str, keys: &[String]) -> Result<Repository, Failure> {
    let car = car(bytes)?;
    let blocks: HashMap<_, _> = car.blocks.into_iter().collect();
    let block = blocks.get(&car.root).ok_or(Failure::MissingBlock)?;
    let commit: Cbor = ciborium::from_reader(&block[..]).unwrap();
    if field(&commit, "did").and_then(Cbor::as_text) != Some(did) {
        return Err(Failure::WrongDid);
    }
    let Cbor::Map(mut unsigned) = commit.clone() else {
        panic!("a commit is a map");
    };
    unsigned.retain(|(key, _)| key.as_text() != Some("sig"));
    let mut message = Vec::new();
    ciborium::into_writer(&Cbor::Map(unsigned), &mut message).unwrap();
    let signature = field(&commit, "sig").unwrap().as_bytes().unwrap();
    if !keys.iter().any(|key| holds(key, &message, signature)) {
        return Err(Failure::BadSignature);
    }
    let mut records = BTreeMap::new();
    let root = link(field(&commit, "data").unwrap()).unwrap();
    walk(&root, &blocks, 0, &mut records)?;
    let rev = field(&commit, "rev").unwrap().as_text().unwrap().to_owned();
    Ok(Repository { rev, records })
}

fn walk(
    cid: &[u8],
    blocks: &HashMap<CidBytes, Vec<u8>>,
    depth: usize,
    records: &mut BTreeMap<String, String>,
) -> Result<(), Failure> {
    let block = blocks.get(cid).ok_or(Failure::MissingBlock)?;
    if depth > 64 || block.len() > 1_000_000 {
        return Err(Failure::Hostile);
    }
    let node: Cbor = ciborium::from_reader(&block[..]).unwrap();
    if let Some(left) = link(field(&node, "l").unwrap()) {
        walk(&left, blocks, depth + 1, records)?;
    }
    let mut key = Vec::new();
    for entry in field(&node, "e").unwrap().as_array().unwrap() {
        let shared = field(entry, "p").unwrap().as_integer().unwrap();
        key.truncate(usize::try_from(shared).unwrap());
        key.extend_from_slice(field(entry, "k").unwrap().as_bytes().unwrap());
        let path = String::from_utf8(key.clone()).unwrap();
        let value = link(field(entry, "v").unwrap()).unwrap();
        if !blocks.contains_key(&value) {
            return Err(Failure::MissingBlock);
        }
        let last = records.last_key_value();
        assert!(
            last.is_none_or(|(last, _)| *last < path),
            "keys are in order"
        );
        records.insert(path, text(&value));
        if let Some(right) = link(field(entry, "t").unwrap()) {
            walk(&right, blocks, depth + 1, records)?;
        }
    }
    Ok(())
}

/// Whether a low-S signature is of this `publicKeyMultibase`.
fn holds(multibase: &str, message: &[u8], signature: &[u8]) -> bool {
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
    }
    match bytes[..2] {
        [0xe7, 0x01] => {
            let key = k256::ecdsa::VerifyingKey::from_sec1_bytes(&bytes[2..]).unwrap();
            let signature = k256::ecdsa::Signature::from_slice(signature).unwrap();
            signature.normalize_s() == signature && key.verify(message, &signature).is_ok()
        }
        [0x80, 0x24] => {
            let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&bytes[2..]).unwrap();
            let signature = p256::ecdsa::Signature::from_slice(signature).unwrap();
            signature.normalize_s() == signature && key.verify(message, &signature).is_ok()
        }
        _ => panic!("unknown key type"),
    }
}
