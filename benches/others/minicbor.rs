//! With minicbor's borrowing decoder.

use minicbor::Decoder;
use minicbor::data::Type;

use super::{blocks, check_path, find, write_bytes, write_link, write_text};

/// What is needed of a `#commit`.
#[derive(Default)]
pub struct Payload<'a> {
    seq: u64,
    repo: &'a str,
    rev: &'a str,
    commit: &'a [u8],
    ops: Vec<(&'a str, &'a str, &'a [u8])>,
    /// The CAR.
    pub blocks: &'a [u8],
}

/// Reads header and payload.
pub fn payload(frame: &[u8]) -> Payload<'_> {
    let mut decoder = Decoder::new(frame);
    decoder.skip().unwrap();
    let mut payload = Payload::default();
    for _ in 0..decoder.map().unwrap().unwrap() {
        match decoder.str().unwrap() {
            "seq" => payload.seq = decoder.u64().unwrap(),
            "repo" => payload.repo = decoder.str().unwrap(),
            "rev" => payload.rev = decoder.str().unwrap(),
            "commit" => payload.commit = cid(&mut decoder),
            "blocks" => payload.blocks = decoder.bytes().unwrap(),
            "ops" => {
                for _ in 0..decoder.array().unwrap().unwrap() {
                    payload.ops.push(op(&mut decoder));
                }
            }
            _ => decoder.skip().unwrap(),
        }
    }
    payload
}

fn op<'a>(decoder: &mut Decoder<'a>) -> (&'a str, &'a str, &'a [u8]) {
    let (mut action, mut path, mut link) = ("", "", &[][..]);
    for _ in 0..decoder.map().unwrap().unwrap() {
        match decoder.str().unwrap() {
            "action" => action = decoder.str().unwrap(),
            "path" => path = decoder.str().unwrap(),
            "cid" => link = cid(decoder),
            _ => decoder.skip().unwrap(),
        }
    }
    (action, path, link)
}

fn cid<'a>(decoder: &mut Decoder<'a>) -> &'a [u8] {
    assert_eq!(decoder.tag().unwrap().as_u64(), 42);
    &decoder.bytes().unwrap()[1..]
}

/// Does what our decoder does.
pub fn decode(frame: &[u8], out: &mut Vec<u8>) {
    let payload = payload(frame);
    assert!(payload.seq > 0);
    let blocks = blocks(payload.blocks);
    let mut commit = Decoder::new(find(&blocks, payload.commit));
    for _ in 0..commit.map().unwrap().unwrap() {
        match commit.str().unwrap() {
            "did" => assert_eq!(commit.str().unwrap(), payload.repo),
            "rev" => assert_eq!(commit.str().unwrap(), payload.rev),
            _ => commit.skip().unwrap(),
        }
    }
    for (action, path, link) in payload.ops {
        assert_eq!(action, "create");
        check_path(path);
        json(&mut Decoder::new(find(&blocks, link)), out);
    }
}

fn json(decoder: &mut Decoder<'_>, out: &mut Vec<u8>) {
    match decoder.datatype().unwrap() {
        Type::Map => {
            out.push(b'{');
            let mut last = "";
            for at in 0..decoder.map().unwrap().unwrap() {
                if at > 0 {
                    out.push(b',');
                }
                let key = decoder.str().unwrap();
                assert!((last.len(), last) < (key.len(), key));
                last = key;
                write_text(key, out);
                out.push(b':');
                json(decoder, out);
            }
            out.push(b'}');
        }
        Type::Array => {
            out.push(b'[');
            for at in 0..decoder.array().unwrap().unwrap() {
                if at > 0 {
                    out.push(b',');
                }
                json(decoder, out);
            }
            out.push(b']');
        }
        Type::String => write_text(decoder.str().unwrap(), out),
        Type::Bytes => write_bytes(decoder.bytes().unwrap(), out),
        Type::Tag => write_link(cid(decoder), out),
        Type::Bool => serde_json::to_writer(out, &decoder.bool().unwrap()).unwrap(),
        Type::Null => {
            decoder.null().unwrap();
            out.extend_from_slice(b"null");
        }
        _ => serde_json::to_writer(out, &decoder.i64().unwrap()).unwrap(),
    }
}
