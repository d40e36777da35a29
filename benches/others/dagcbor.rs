//! With serde_ipld_dagcbor: typed messages that borrow, records as `Ipld`.

use std::io::Cursor;

use ipld_core::cid::Cid;
use ipld_core::ipld::Ipld;
use serde::Deserialize;
use serde_ipld_dagcbor::de::Deserializer;

use super::{blocks, check_path, find, write_bytes, write_link, write_text};

#[derive(Deserialize)]
struct Header<'a> {
    op: i64,
    t: &'a str,
}

#[derive(Deserialize)]
struct Payload<'a> {
    seq: u64,
    repo: &'a str,
    rev: &'a str,
    commit: Cid,
    #[serde(borrow)]
    ops: Vec<Op<'a>>,
    blocks: &'a [u8],
}

#[derive(Deserialize)]
struct Op<'a> {
    action: &'a str,
    path: &'a str,
    cid: Option<Cid>,
}

#[derive(Deserialize)]
struct Commit<'a> {
    did: &'a str,
    rev: &'a str,
}

/// Does what our decoder does.
pub fn decode(frame: &[u8], out: &mut Vec<u8>) {
    let mut cursor = Cursor::new(frame);
    let _: serde::de::IgnoredAny = serde_ipld_dagcbor::de::from_reader_once(&mut cursor).unwrap();
    let (header, payload) = frame.split_at(cursor.position() as usize);
    let header: Header<'_> = serde_ipld_dagcbor::from_slice(header).unwrap();
    assert_eq!((header.op, header.t), (1, "#commit"));
    let mut deserializer = Deserializer::from_slice(payload);
    let payload = Payload::deserialize(&mut deserializer).unwrap();
    assert!(payload.seq > 0);
    let blocks = blocks(payload.blocks);
    let commit = find(&blocks, &payload.commit.to_bytes());
    let commit: Commit<'_> = serde_ipld_dagcbor::from_slice(commit).unwrap();
    assert_eq!((commit.did, commit.rev), (payload.repo, payload.rev));
    for op in payload.ops {
        assert_eq!(op.action, "create");
        check_path(op.path);
        let record = find(&blocks, &op.cid.unwrap().to_bytes());
        json(&serde_ipld_dagcbor::from_slice(record).unwrap(), out);
    }
}

fn json(value: &Ipld, out: &mut Vec<u8>) {
    match value {
        Ipld::Null => out.extend_from_slice(b"null"),
        Ipld::Bool(value) => serde_json::to_writer(out, value).unwrap(),
        Ipld::Integer(value) => serde_json::to_writer(out, value).unwrap(),
        Ipld::Float(_) => panic!("a float"),
        Ipld::String(text) => write_text(text, out),
        Ipld::Bytes(bytes) => write_bytes(bytes, out),
        Ipld::Link(cid) => write_link(&cid.to_bytes(), out),
        Ipld::List(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                json(item, out);
            }
            out.push(b']');
        }
        Ipld::Map(entries) => {
            out.push(b'{');
            for (at, (key, value)) in entries.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_text(key, out);
                out.push(b':');
                json(value, out);
            }
            out.push(b'}');
        }
    }
}
