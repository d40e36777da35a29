//! Vectors that others wrote: CBOR, CIDs, identifiers, the data model, repository exports; and second opinions of ciborium and
//! serde_ipld_dagcbor on random values.

mod frame_builder;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use ciborium::Value;
use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER_PERMISSIVE};
use frame_builder::{encode, link};
use ipld_core::ipld::Ipld;
use penstock::decode::car::Car;
use penstock::decode::commit::CommitBlock;
use penstock::decode::{Cid, RecordFault, cbor, check_record, record_to_json, syntax, time};
use serde_json::Value as Json;

/// The bytes of a vector file; `None`, with a word on it, where there are no vectors.
fn vector(path: &str) -> Option<Vec<u8>> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/vectors");
    let root = std::env::var_os("VECTORS_DIR").map_or_else(|| default.into(), PathBuf::from);
    if !root.is_dir() {
        println!("skipped: no vectors in {}", root.display());
        return None;
    }
    let path = root.join(path);
    Some(fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

fn json_vector(path: &str) -> Option<Vec<Json>> {
    vector(path).map(|bytes| serde_json::from_slice(&bytes).unwrap())
}

/// The cases of a syntax file: its lines without empty ones and comments.
fn lines(name: &str) -> Option<Vec<String>> {
    let text = String::from_utf8(vector(&format!("interop/syntax/{name}.txt"))?).unwrap();
    let cases = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("# "));
    Some(cases.map(str::to_owned).collect())
}

/// Checks both files of an identifier. `exempt` are invalid ones that we accept, all of them.
fn check_syntax(name: &str, is: fn(&str) -> bool, exempt: &[&str]) {
    let Some(valid) = lines(&format!("{name}_syntax_valid")) else {
        return;
    };
    assert!(!valid.is_empty());
    for case in valid {
        assert!(is(&case), "{name} {case:?} is valid");
    }
    for case in lines(&format!("{name}_syntax_invalid")).unwrap() {
        assert_eq!(
            is(&case),
            exempt.contains(&case.as_str()),
            "{name} {case:?} is invalid"
        );
    }
}

#[test]
fn identifiers() {
    check_syntax("did", syntax::is_did, &[]);
    check_syntax("nsid", syntax::is_nsid, &[]);
    check_syntax("recordkey", syntax::is_rkey, &[]);
    check_syntax("tid", syntax::is_tid, &[]);
    check_syntax("handle", syntax::is_handle, &[]);
    check_syntax("aturi", syntax::is_aturi, &[]);
    check_syntax("uri", syntax::is_uri, &[]);
    check_syntax("cid", syntax::is_cid, &[]);
    check_syntax("datetime", syntax::is_datetime, &[]);
    check_syntax(
        "atidentifier",
        |text| syntax::is_did(text) || syntax::is_handle(text),
        &[],
    );
    // atrium-api's language tags accept these two; nothing depends on it.
    check_syntax("language", syntax::is_language, &["jaja", "JA"]);
}

#[test]
fn datetimes() {
    let Some(valid) = lines("datetime_syntax_valid") else {
        return;
    };
    let mut read = 0;
    for case in valid {
        let micros = time::parse_datetime(&case);
        // Versions are microseconds since 1970; nothing before that is a time to us.
        assert_eq!(micros.is_some(), case.as_str() >= "1970", "{case}");
        if let Some(micros) = micros {
            assert_eq!(
                time::parse_datetime(&time::format_datetime(micros)),
                Some(micros)
            );
            read += 1;
        }
    }
    assert!(read > 20);
    for case in lines("datetime_parse_invalid").unwrap() {
        assert_eq!(time::parse_datetime(&case), None, "{case}");
    }
}

fn to_json(record: &[u8]) -> (Option<RecordFault>, Json) {
    let mut out = Vec::new();
    let fault = record_to_json(record, &mut out);
    assert_eq!(check_record(record), fault);
    (fault, serde_json::from_slice(&out).unwrap_or(Json::Null))
}

/// CBOR of AT Protocol JSON; what only looks like a link or bytes stays a map.
fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => (*value).into(),
        Json::Number(number) => match (number.as_i64(), number.as_f64().unwrap()) {
            (Some(integer), _) => integer.into(),
            (None, float) if float.fract() == 0.0 => (float as i64).into(),
            (None, float) => float.into(),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => Value::Array(items.iter().map(from_json).collect()),
        Json::Object(fields) => {
            let only = |key: &str| fields.get(key).filter(|_| fields.len() == 1)?.as_str();
            if let Some(cid) = only("$link").and_then(Cid::parse) {
                return link(cid);
            }
            if let Some(text) = only("$bytes") {
                return Value::Bytes(BASE64_NOPAD.decode(text.as_bytes()).unwrap());
            }
            let fields = fields
                .iter()
                .map(|(key, value)| (key.as_str().into(), from_json(value)));
            Value::Map(fields.collect())
        }
    }
}

#[test]
fn data_model() {
    let Some(fixtures) = json_vector("interop/data-model/data-model-fixtures.json") else {
        return;
    };
    for fixture in &fixtures {
        let base64 = fixture["cbor_base64"].as_str().unwrap();
        let record = BASE64_NOPAD.decode(base64.as_bytes()).unwrap();
        assert_eq!(to_json(&record), (None, fixture["json"].clone()));
        assert_eq!(
            Cid::of_dag_cbor(&record).to_string(),
            fixture["cid"].as_str().unwrap()
        );
        assert_eq!(encode(&from_json(&fixture["json"])), record);
    }
    let valid = json_vector("interop/data-model/data-model-valid.json").unwrap();
    for case in &valid {
        let record = encode(&from_json(&case["json"]));
        assert_eq!(to_json(&record).0, None, "{}", case["note"]);
        assert_eq!(encode(&from_json(&to_json(&record).1)), record);
    }
    let invalid = json_vector("interop/data-model/data-model-invalid.json").unwrap();
    for case in &invalid {
        let record = encode(&from_json(&case["json"]));
        assert!(check_record(&record).is_some(), "{}", case["note"]);
    }
    assert_eq!((fixtures.len(), valid.len(), invalid.len()), (3, 5, 12));
}

#[test]
fn dasl() {
    const FILES: [&str; 11] = [
        "cid",
        "concat",
        "floats",
        "indefinite",
        "integer_range",
        "map_keys",
        "numeric_reduction",
        "short_form",
        "simple",
        "tags",
        "utf8",
    ];
    let mut checked = 0;
    for file in FILES {
        let Some(cases) = json_vector(&format!("dasl-testing/{file}.json")) else {
            return;
        };
        for case in cases {
            let ours = |tag: &Json| matches!(tag.as_str(), Some("basic" | "dag-cbor" | "dasl-cid"));
            if !case["tags"].as_array().unwrap().iter().any(ours) {
                continue;
            }
            let bytes = HEXLOWER_PERMISSIVE.decode(case["data"].as_str().unwrap().as_bytes());
            let bytes = bytes.unwrap();
            let name = case["name"].as_str().unwrap();
            match case["type"].as_str().unwrap() {
                // AT Protocol knows SHA-256 alone, DASL also BLAKE3.
                "roundtrip" if name == "Big DASL CID" => assert!(cbor::check(&bytes).is_err()),
                "roundtrip" => assert_eq!(cbor::check(&bytes), Ok(()), "{name}"),
                "invalid_in" => {
                    assert!(cbor::check(&bytes).is_err(), "{name}");
                    let as_record = check_record(&[b"\xa1\x61a", &bytes[..]].concat());
                    assert!(as_record.is_some(), "{name}");
                }
                // Of writers; we only read.
                other => assert_eq!(other, "invalid_out"),
            }
            checked += 1;
        }
    }
    assert!(checked > 70, "{checked}");
}

/// What ciborium makes of bytes if they are within DAG-CBOR as far as its model shows that.
fn within_dag_cbor(bytes: &[u8]) -> bool {
    fn fits(value: &Value) -> bool {
        match value {
            Value::Tag(..) | Value::Float(_) => false,
            Value::Array(items) => items.iter().all(fits),
            Value::Map(entries) => entries
                .iter()
                .all(|(key, value)| key.is_text() && fits(value)),
            _ => true,
        }
    }
    let mut rest = bytes;
    let Ok(value) = ciborium::from_reader::<Value, _>(&mut rest) else {
        return false;
    };
    let long_float = bytes.first() == Some(&0xfb)
        && matches!(value, Value::Float(float) if float.is_finite() && float.to_bits() != 1 << 63);
    rest.is_empty() && (long_float || (fits(&value) && encode(&value) == bytes))
}

#[test]
fn rfc8949() {
    let Some(cases) = json_vector("rfc8949-vectors.json") else {
        return;
    };
    let mut within = 0;
    for case in &cases {
        let bytes = HEXLOWER_PERMISSIVE
            .decode(case["hex"].as_str().unwrap().as_bytes())
            .unwrap();
        let valid = case["flags"].as_array().unwrap().contains(&"valid".into());
        let expected = valid && within_dag_cbor(&bytes);
        assert_eq!(cbor::check(&bytes).is_ok(), expected, "{case}");
        within += usize::from(expected);
        // Only what is not well-formed has no JSON.
        let fault = to_json(&bytes).0;
        let unreadable = matches!(fault, Some(RecordFault::NotCbor));
        assert!(!(valid && unreadable), "{case}");
        assert!(valid || fault.is_some(), "{case}");
    }
    assert_eq!(cases.len(), 778);
    assert!(within > 30, "{within}");
}

/// The blocks of an export, each checked against its CID, and its commit.
fn read_export(bytes: &[u8]) -> (HashMap<Cid, &[u8]>, CommitBlock<'_>, usize) {
    let car = Car::parse(bytes).unwrap();
    let blocks: Vec<_> = car.blocks().map(Result::unwrap).collect();
    assert!(blocks.iter().all(|block| block.verify()));
    let count = blocks.len();
    let blocks: HashMap<_, _> = blocks.iter().map(|block| (block.cid, block.data)).collect();
    let commit = CommitBlock::parse(blocks[&car.root]).unwrap();
    assert!(blocks.contains_key(&commit.data));
    assert!(blocks.values().all(|block| cbor::check(block).is_ok()));
    (blocks, commit, count)
}

#[test]
fn exports() {
    // Name, version, blocks (where stated), revision (where stated).
    let exports = [
        ("tiny.car", 3, Some(12), Some("3lscuqc52or2x")),
        ("little.car", 3, Some(375), None),
        ("empty.car", 3, None, None),
        ("paul_staging.repo.car", 2, None, None),
        ("fakermaker.repo.car", 2, None, None),
        ("repo_slice.car", 2, None, None),
    ];
    for (name, version, count, rev) in exports {
        let Some(bytes) = vector(&format!("cars/{name}")) else {
            return;
        };
        let (_, commit, blocks) = read_export(&bytes);
        println!(
            "{name}: {blocks} blocks, version {}, rev {:?}",
            commit.version, commit.rev
        );
        assert_eq!(commit.version, version, "{name}");
        assert_eq!(commit.sig.len(), 64);
        assert!(
            count.is_none_or(|count| count == blocks),
            "{name}: {blocks}"
        );
        if let Some(rev) = rev {
            assert_eq!(commit.rev.unwrap().to_string(), rev);
        }
        let cut = Car::parse(&bytes[..bytes.len() - 1]).unwrap();
        assert!(cut.blocks().any(|block| block.is_err()));
    }
}

#[test]
fn records_of_exports() {
    let lists = [
        ("tiny.car", "repo-stream__tiny.car", 8),
        ("little.car", "repo-stream__little.car", 278),
        (
            "paul_staging.repo.car",
            "indigo__testing__paul_staging.repo.car",
            185,
        ),
    ];
    for (name, list, count) in lists {
        let Some(bytes) = vector(&format!("cars/{name}")) else {
            return;
        };
        let list = vector(&format!("cars/{list}.records.tsv")).unwrap();
        let (blocks, ..) = read_export(&bytes);
        let list = String::from_utf8(list).unwrap();
        assert_eq!(list.lines().count(), count);
        let mut total = 0;
        for line in list.lines() {
            let [path, cid, len] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!()
            };
            let record = blocks[&Cid::parse(cid).unwrap()];
            assert_eq!(record.len().to_string(), len);
            let (collection, rkey) = path.split_once('/').unwrap();
            assert!(
                syntax::is_nsid(collection) && syntax::is_rkey(rkey),
                "{path}"
            );
            let (fault, json) = to_json(record);
            assert_eq!(fault, None, "{path}");
            assert_eq!(encode(&from_json(&json)), record, "{path}");
            total += record.len();
        }
        assert!(name != "little.car" || total == 246_960, "{total}");
    }
}

fn random_value(random: &mut fastrand::Rng, depth: usize) -> Value {
    let text = |random: &mut fastrand::Rng| -> String {
        (0..random.usize(0..12))
            .map(|_| random.char('\0'..='\u{2ff}'))
            .collect()
    };
    match random.u8(0..if depth > 3 { 6 } else { 8 }) {
        0 => Value::Null,
        1 => random.bool().into(),
        2 => (random.i64(..) >> random.u32(0..64)).into(),
        3 => text(random).into(),
        4 => Value::Bytes((0..random.usize(0..40)).map(|_| random.u8(..)).collect()),
        5 => link(Cid::of_dag_cbor(&[random.u8(..)])),
        6 => {
            let len = random.usize(0..7);
            Value::Array((0..len).map(|_| random_value(random, depth + 1)).collect())
        }
        _ => {
            let entries: HashMap<_, _> = (0..random.usize(0..7))
                .map(|_| (text(random), random_value(random, depth + 1)))
                .collect();
            Value::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| (key.into(), value))
                    .collect(),
            )
        }
    }
}

/// Whether serde_ipld_dagcbor reads the bytes and writes the same ones again.
fn dagcbor_agrees(bytes: &[u8]) -> bool {
    serde_ipld_dagcbor::from_slice::<Ipld>(bytes)
        .is_ok_and(|value| serde_ipld_dagcbor::to_vec(&value).is_ok_and(|again| again == bytes))
}

#[test]
fn second_opinions() {
    let scale: u64 = std::env::var("PENSTOCK_TEST_SCALE").map_or(1, |text| text.parse().unwrap());
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..2000 * scale {
        let mut random = fastrand::Rng::with_seed(seed);
        let value = Value::Map(vec![("value".into(), random_value(&mut random, 0))]);
        let mut bytes = encode(&value);
        assert_eq!(cbor::check(&bytes), Ok(()), "seed {seed}");
        assert!(dagcbor_agrees(&bytes), "seed {seed}");
        assert_eq!(ciborium_json(&bytes), to_json(&bytes).1, "seed {seed}");
        for _ in 0..20 {
            let at = random.usize(0..bytes.len());
            let before = std::mem::replace(&mut bytes[at], random.u8(..));
            let ours = cbor::check(&bytes);
            // They take any CID, we only those of AT Protocol.
            if ours != Err(cbor::CborError::BadTag) {
                assert_eq!(
                    ours.is_ok(),
                    dagcbor_agrees(&bytes),
                    "seed {seed}: {bytes:x?} {ours:?}"
                );
                *(if ours.is_ok() {
                    &mut accepted
                } else {
                    &mut refused
                }) += 1;
            }
            bytes[at] = before;
        }
    }
    assert!(accepted > 1000 && refused > 1000, "{accepted} {refused}");
}

/// AT Protocol JSON by way of ciborium and serde_json.
fn ciborium_json(bytes: &[u8]) -> Json {
    fn convert(value: &Value) -> Json {
        match value {
            Value::Null => Json::Null,
            Value::Bool(value) => (*value).into(),
            Value::Integer(value) => i64::try_from(*value).unwrap().into(),
            Value::Text(text) => text.as_str().into(),
            Value::Bytes(bytes) => {
                let base64 = BASE64.encode(bytes);
                serde_json::json!({ "$bytes": base64.trim_end_matches('=') })
            }
            Value::Tag(42, cid) => {
                let cid = ipld_core::cid::Cid::try_from(&cid.as_bytes().unwrap()[1..]).unwrap();
                serde_json::json!({ "$link": cid.to_string() })
            }
            Value::Array(items) => items.iter().map(convert).collect(),
            Value::Map(entries) => {
                let entry = |(key, value): &(Value, Value)| {
                    (key.as_text().unwrap().to_owned(), convert(value))
                };
                Json::Object(entries.iter().map(entry).collect())
            }
            other => panic!("{other:?}"),
        }
    }
    convert(&ciborium::from_reader(bytes).unwrap())
}
