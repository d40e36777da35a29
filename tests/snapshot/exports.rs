//! Exports that others made (`cars/` of the vectors), and signatures.

use std::path::PathBuf;

use data_encoding::BASE64_NOPAD;
use penstock::backfill::snapshot::{Mode, Snapshot};
use penstock::decode::signature::{SignatureError, verify_hash};
use penstock::decode::{Cid, SigningKey, check_record};
use penstock_loadtest::repo::Curve;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use super::{ANY_VERSION, NOW, SnapshotLimits, check, did_of, open, read, records, repository};

/// The bytes of a vector file; `None`, with a word on it, where there are no vectors.
pub fn vector(path: &str) -> Option<Vec<u8>> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/vectors");
    let root = std::env::var_os("VECTORS_DIR").map_or_else(|| default.into(), PathBuf::from);
    if !root.is_dir() {
        println!("skipped: no vectors in {}", root.display());
        return None;
    }
    Some(std::fs::read(root.join(path)).unwrap())
}

#[test]
fn give_exactly_their_records() {
    for (name, lines, count, bytes) in [
        ("tiny.car", Some("repo-stream__tiny.car"), 8, None),
        (
            "little.car",
            Some("repo-stream__little.car"),
            278,
            Some(246_960),
        ),
        (
            "paul_staging.repo.car",
            Some("indigo__testing__paul_staging.repo.car"),
            185,
            None,
        ),
        ("fakermaker.repo.car", None, 142, None),
        ("empty.car", None, 0, Some(0)),
    ] {
        let Some(car) = vector(&format!("cars/{name}")) else {
            return;
        };
        let mut snapshot = open(&car, &did_of(&car)).unwrap();
        let verified = snapshot.verify(Mode::Full, || true).unwrap();
        assert_eq!(verified.total.records, count, "{name}");
        assert!(!verified.anything_absent(), "{name}");
        assert!(
            bytes.is_none_or(|bytes| verified.total.bytes == bytes),
            "{name}"
        );
        let sum: u64 = verified
            .collections
            .iter()
            .map(|(_, counts)| counts.records)
            .sum();
        assert_eq!(sum, count, "{name}");
        assert!(name != "little.car" || verified.collections.len() == 24);
        let seen = records(&snapshot, Mode::Full);
        for (_, cid, record) in &seen {
            let record = record.as_ref().unwrap();
            assert_eq!(Cid::of_dag_cbor(record), *cid);
            assert_eq!(check_record(record), None, "{name}");
        }
        if let Some(lines) = lines {
            let expected = vector(&format!("cars/{lines}.records.tsv")).unwrap();
            let line = |(path, cid, record): &super::Seen| {
                format!("{path}\t{cid}\t{}\n", record.as_ref().unwrap().len())
            };
            let seen: String = seen.iter().map(line).collect();
            assert_eq!(seen, String::from_utf8(expected).unwrap(), "{name}");
        }
    }
}

#[test]
fn a_slice_is_a_repository_only_in_part() {
    let Some(car) = vector("cars/repo_slice.car") else {
        return;
    };
    let did = did_of(&car);
    assert_eq!(check(&car, &did).unwrap_err().reason(), "missing_block");
    let mut snapshot = open(&car, &did).unwrap();
    let verified = snapshot.verify(Mode::Windowed, || true).unwrap();
    assert_eq!((verified.absent_nodes, verified.total.absent), (1, 4));
    let absent = records(&snapshot, Mode::Windowed);
    assert_eq!(absent.iter().filter(|seen| seen.2.is_none()).count(), 4);
}

#[test]
fn of_another_repository_or_version_are_refused() {
    let Some(tiny) = vector("cars/tiny.car") else {
        return;
    };
    assert_eq!(
        open(&tiny, "did:plc:other").unwrap_err().reason(),
        "wrong_did"
    );
    let rev = open(&tiny, &did_of(&tiny)).unwrap().rev();
    assert_eq!(rev.to_string(), "3lscuqc52or2x");
    let open_at = |now| Snapshot::open(read(&tiny).unwrap(), &did_of(&tiny), now, ANY_VERSION);
    let five_minutes = 5 * 60 * 1_000_000;
    assert!(open_at(rev.micros() - five_minutes).is_ok());
    assert_eq!(
        open_at(rev.micros() - five_minutes - 1)
            .unwrap_err()
            .reason(),
        "rev_ahead"
    );
    let old = vector("cars/paul_staging.repo.car").unwrap();
    let opened = Snapshot::open(
        read(&old).unwrap(),
        &did_of(&old),
        NOW,
        SnapshotLimits::default(),
    );
    assert_eq!(opened.unwrap_err().reason(), "bad_commit");
}

fn base58(text: &str) -> Vec<u8> {
    const ALPHABET: &str = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut bytes: Vec<u8> = Vec::new();
    for digit in text.chars() {
        let mut carry = ALPHABET.find(digit).unwrap();
        for byte in bytes.iter_mut().rev() {
            carry += usize::from(*byte) * 58;
            *byte = carry as u8;
            carry >>= 8;
        }
        if carry > 0 {
            bytes.insert(0, carry as u8);
        }
    }
    bytes
}

/// A compressed point of a point in either form.
fn compressed(point: &[u8]) -> [u8; 33] {
    match point {
        [4, both @ ..] => {
            let mut point = vec![2 + (both[63] & 1)];
            point.extend_from_slice(&both[..32]);
            point.try_into().unwrap()
        }
        point => point.try_into().unwrap(),
    }
}

/// The only key of a DID document of old.
fn old_key(document: &[u8]) -> SigningKey {
    let document: Json = serde_json::from_slice(document).unwrap();
    let method = &document["verificationMethod"][0];
    let text = method["publicKeyMultibase"].as_str().unwrap();
    let point = compressed(&base58(text.strip_prefix('z').unwrap()));
    if method["type"].as_str().unwrap().contains("256k1") {
        SigningKey::K256(point)
    } else {
        SigningKey::P256(point)
    }
}

#[test]
fn signatures_of_exports() {
    let Some(paul) = vector("cars/paul_staging.repo.car") else {
        return;
    };
    let paul = open(&paul, &did_of(&paul)).unwrap();
    let key = old_key(&vector("cars/paul_staging.didDoc.json").unwrap());
    let faker = vector("cars/fakermaker.repo.car").unwrap();
    let faker = open(&faker, &did_of(&faker)).unwrap();
    let high = old_key(&vector("cars/fakermaker.didDoc.json").unwrap());
    assert_eq!(paul.verify_signature(&[high, key]).unwrap(), key);
    for refused in [paul.verify_signature(&[high]), paul.verify_signature(&[])] {
        assert_eq!(refused.unwrap_err().reason(), "bad_signature");
    }
    let refused = faker.verify_signature(&[high]).unwrap_err().to_string();
    assert!(refused.contains("low-S"), "{refused}");
}

#[test]
fn signatures_of_the_simulator() {
    let (_, parts) = repository::repository(3, 10);
    let snapshot = open(&parts.car(), repository::DID).unwrap();
    let point = |curve| {
        let text = repository::key(curve).multibase();
        let bytes = base58(text.strip_prefix('z').unwrap());
        compressed(&bytes[2..])
    };
    let key = SigningKey::K256(point(Curve::K256));
    assert_eq!(snapshot.verify_signature(&[key]).unwrap(), key);
    let hash = Sha256::digest(b"message").into();
    let sig = repository::key(Curve::P256).sign(b"message");
    let other = SigningKey::P256(point(Curve::P256));
    assert_eq!(verify_hash(&hash, &sig, &other), Ok(()));
    assert_eq!(
        verify_hash(&[0; 32], &sig, &other),
        Err(SignatureError::Mismatch)
    );
}

#[test]
fn signature_fixtures() {
    let Some(fixtures) = vector("interop/crypto/signature-fixtures.json") else {
        return;
    };
    let fixtures: Vec<Json> = serde_json::from_slice(&fixtures).unwrap();
    assert!(!fixtures.is_empty());
    for fixture in fixtures {
        let text = |name: &str| fixture[name].as_str().unwrap();
        let decode = |name| BASE64_NOPAD.decode(text(name).trim_end_matches('=').as_bytes());
        let did_key = text("publicKeyDid").strip_prefix("did:key:z").unwrap();
        let point = compressed(&base58(did_key)[2..]);
        let key = match text("algorithm") {
            "ES256K" => SigningKey::K256(point),
            _ => SigningKey::P256(point),
        };
        let hash = Sha256::digest(decode("messageBase64").unwrap()).into();
        let verified = verify_hash(&hash, &decode("signatureBase64").unwrap(), &key);
        let valid = fixture["validSignature"].as_bool().unwrap();
        assert_eq!(verified.is_ok(), valid, "{}: {verified:?}", text("comment"));
    }
}
