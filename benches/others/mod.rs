//! Other public CBOR decoders doing what ours does: parse the frame, hash all blocks, check the commit and the record, write
//! the record as JSON. The CAR is read by hand for all of them.

mod ciborium;
mod dagcbor;
mod minicbor;

pub use ciborium::decode as ciborium;
pub use dagcbor::decode as dagcbor;
pub use minicbor::{decode as minicbor, payload as minicbor_payload};

use data_encoding::BASE64_NOPAD;
use sha2::{Digest, Sha256};

/// Splits the blocks of a CAR, hashes each, and gives (CID, bytes).
fn blocks(car: &[u8]) -> Vec<([u8; 36], &[u8])> {
    let (header, mut rest) = section(car);
    assert!(!header.is_empty());
    let mut blocks = Vec::with_capacity(16);
    while !rest.is_empty() {
        let (content, after) = section(rest);
        let (cid, data) = content.split_first_chunk::<36>().unwrap();
        assert_eq!(cid[4..], Sha256::digest(data)[..]);
        blocks.push((*cid, data));
        rest = after;
    }
    blocks
}

fn section(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (mut len, mut at) = (0, 0);
    loop {
        len |= usize::from(bytes[at] & 127) << (7 * at);
        at += 1;
        if bytes[at - 1] & 128 == 0 {
            return bytes[at..].split_at(len);
        }
    }
}

fn find<'a>(blocks: &[([u8; 36], &'a [u8])], cid: &[u8]) -> &'a [u8] {
    blocks.iter().find(|block| block.0 == cid).unwrap().1
}

fn check_path(path: &str) {
    let (collection, rkey) = path.split_once('/').unwrap();
    assert!(penstock::decode::syntax::is_nsid(collection));
    assert!(penstock::decode::syntax::is_rkey(rkey));
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).unwrap();
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"$bytes\":\"");
    out.extend_from_slice(BASE64_NOPAD.encode(bytes).as_bytes());
    out.extend_from_slice(b"\"}");
}

fn write_link(cid: &[u8], out: &mut Vec<u8>) {
    let cid = penstock::decode::Cid::from_bytes(cid).unwrap();
    out.extend_from_slice(b"{\"$link\":\"");
    out.extend_from_slice(&cid.encode());
    out.extend_from_slice(b"\"}");
}

/// The canonical order of keys, which two of the three do not check.
fn check_order(last: &mut Option<(usize, String)>, key: &str) {
    let key = (key.len(), key.to_owned());
    assert!(last.as_ref().is_none_or(|last| *last < key));
    *last = Some(key);
}
