//! With ciborium: typed messages, records as `Value`.

use ciborium::Value;
use ciborium::tag::Required;
use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::{blocks, check_order, check_path, find, write_bytes, write_link, write_text};

#[derive(Deserialize)]
struct Header {
    op: i64,
    t: String,
}

#[derive(Deserialize)]
struct Payload {
    seq: u64,
    repo: String,
    rev: String,
    commit: Required<Bytes, 42>,
    ops: Vec<Op>,
    blocks: Bytes,
}

#[derive(Deserialize)]
struct Op {
    action: String,
    path: String,
    cid: Option<Required<Bytes, 42>>,
}

#[derive(Deserialize)]
struct Commit {
    did: String,
    rev: String,
}

struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Bytes;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Read)
    }
}

/// Does what our decoder does.
pub fn decode(frame: &[u8], out: &mut Vec<u8>) {
    let mut rest = frame;
    let header: Header = ciborium::from_reader(&mut rest).unwrap();
    assert_eq!((header.op, header.t.as_str()), (1, "#commit"));
    let payload: Payload = ciborium::from_reader(&mut rest).unwrap();
    assert!(rest.is_empty() && payload.seq > 0);
    let blocks = blocks(&payload.blocks.0);
    let commit: Commit = ciborium::from_reader(find(&blocks, &payload.commit.0.0[1..])).unwrap();
    assert_eq!((commit.did, commit.rev), (payload.repo, payload.rev));
    for op in payload.ops {
        assert_eq!(op.action, "create");
        check_path(&op.path);
        let record = find(&blocks, &op.cid.unwrap().0.0[1..]);
        json(&ciborium::from_reader(record).unwrap(), out);
    }
}

fn json(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(value) => serde_json::to_writer(out, value).unwrap(),
        Value::Integer(value) => serde_json::to_writer(out, &i128::from(*value)).unwrap(),
        Value::Text(text) => write_text(text, out),
        Value::Bytes(bytes) => write_bytes(bytes, out),
        Value::Tag(42, inner) => write_link(&inner.as_bytes().unwrap()[1..], out),
        Value::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                json(item, out);
            }
            out.push(b']');
        }
        Value::Map(entries) => {
            out.push(b'{');
            let mut last = None;
            for (at, (key, value)) in entries.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                let key = key.as_text().unwrap();
                check_order(&mut last, key);
                write_text(key, out);
                out.push(b':');
                json(value, out);
            }
            out.push(b'}');
        }
        other => panic!("{other:?}"),
    }
}
