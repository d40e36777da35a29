//! CARs of repositories, whole and broken.

use std::sync::Arc;

use bytes::Bytes;

use super::content::{Block, Built};
use super::fault::Fault;
use crate::dagcbor::{self, Cid};
use crate::repo::{self, Curve, Key};
use crate::tid::Tid;

/// How large the pieces are that a CAR is sent in.
const PIECE: usize = 64 * 1024;

/// The blocks that are newer than `since`, piece by piece.
pub(super) fn pieces(built: Arc<Built>, since: Option<String>) -> impl Iterator<Item = Bytes> {
    let mut next = Some(0);
    std::iter::from_fn(move || {
        let mut at = next?;
        let mut out = Vec::with_capacity(PIECE);
        if at == 0 {
            repo::car_header(&mut out, &built.commit);
        }
        while out.len() < PIECE {
            // Newest first: the first old one ends it.
            let block = built.blocks.get(at).filter(|block| newer(block, &since));
            let Some(block) = block else {
                next = None;
                return (!out.is_empty()).then(|| out.into());
            };
            repo::car_block(&mut out, &block.cid, &block.bytes);
            at += 1;
        }
        next = Some(at);
        Some(out.into())
    })
}

fn newer(block: &Block, since: &Option<String>) -> bool {
    since
        .as_ref()
        .is_none_or(|since| block.rev.to_string() > *since)
}

/// The same CAR as one, made wrong. `other` is a key that is not the account's.
pub(super) fn broken(
    did: &str,
    built: &Built,
    since: Option<String>,
    fault: Fault,
    other: &Key,
) -> Vec<u8> {
    let commit = |did: &str, key: &Key, data: &Cid| signed(did, built.rev, key, data);
    let data = built.tree.root();
    let mut root = built.commit;
    let chosen = built.blocks.iter().filter(|block| newer(block, &since));
    let mut blocks: Vec<Block> = chosen.cloned().collect();
    let mut resign = |bytes: Vec<u8>| {
        root = Cid::of(&bytes);
        for block in blocks.iter_mut().filter(|block| block.cid == built.commit) {
            (block.cid, block.bytes) = (root, bytes.clone().into());
        }
    };
    match fault {
        Fault::WrongDid => resign(commit(
            "did:plc:wrongwrongwrongwrongwron",
            &built.key,
            &data,
        )),
        Fault::BadSignature => resign(commit(did, other, &data)),
        Fault::HighS => resign(high_s(did, built, &data)),
        Fault::MissingBlock => {
            let newest = built.newest().map(|(_, cid)| cid);
            blocks.retain(|block| Some(block.cid) != newest);
        }
        Fault::MissingNode => blocks.retain(|block| block.cid != data),
        Fault::CorruptBlock => {
            let newest = built.newest().map_or(data, |(_, cid)| cid);
            for block in blocks.iter_mut().filter(|block| block.cid == newest) {
                let mut bytes = block.bytes.to_vec();
                bytes.last_mut().into_iter().for_each(|last| *last ^= 1);
                block.bytes = bytes.into();
            }
        }
        _ => {}
    }
    let mut car = repo::car(
        &root,
        blocks.iter().map(|block| (&block.cid, &block.bytes[..])),
    );
    if fault == Fault::Truncated {
        car.truncate(car.len() - 7);
    }
    car
}

/// A signed commit block.
fn signed(did: &str, rev: Tid, key: &Key, data: &Cid) -> Vec<u8> {
    let sig = key.sign(&repo::commit_bytes(did, rev, None, data));
    repo::commit_bytes(did, rev, Some(&sig), data)
}

/// The commit with the other S that the curve's equation holds for: the order minus S.
fn high_s(did: &str, built: &Built, data: &Cid) -> Vec<u8> {
    let mut sig = built
        .key
        .sign(&repo::commit_bytes(did, built.rev, None, data));
    let order = match built.key.curve() {
        Curve::K256 => "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
        Curve::P256 => "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
    };
    let order = data_encoding::HEXLOWER.decode(order.as_bytes());
    let order = order.expect("the orders are in hexadecimal");
    let mut borrow = 0;
    for at in (0..32).rev() {
        let difference = i16::from(order[at]) - i16::from(sig[32 + at]) - borrow;
        borrow = i16::from(difference < 0);
        sig[32 + at] = difference.rem_euclid(256) as u8;
    }
    repo::commit_bytes(did, built.rev, Some(&sig), data)
}

/// A CAR that is an attack, and what comes again and again after it.
pub(super) fn hostile(did: &str, built: &Built, fault: Fault) -> (Vec<u8>, Option<Bytes>) {
    let mut out = Vec::new();
    match fault {
        Fault::HugeVarint => {
            repo::car_header(&mut out, &built.commit);
            out.extend_from_slice(&[0xff; 8]);
            out.extend_from_slice(&[0x7f; 100]);
            (out, None)
        }
        Fault::DeepChain => (tree(did, built, chain(4_000)), None),
        Fault::HugeNode => (tree(did, built, vec![wide(150_000)]), None),
        _ => {
            let commit = built.block(&built.commit).expect("a commit has a block");
            repo::car_header(&mut out, &built.commit);
            repo::car_block(&mut out, &commit.cid, &commit.bytes);
            let mut again = Vec::new();
            for number in 0..16 {
                let block = dagcbor::Value::Bytes(vec![number; 4_000]).encode();
                repo::car_block(&mut again, &Cid::of(&block), &block);
            }
            (out, Some(again.into()))
        }
    }
}

/// A CAR of a signed commit over these blocks, the root first.
fn tree(did: &str, built: &Built, nodes: Vec<Vec<u8>>) -> Vec<u8> {
    let cids: Vec<Cid> = nodes.iter().map(|node| Cid::of(node)).collect();
    let commit = signed(did, built.rev, &built.key, &cids[0]);
    let root = Cid::of(&commit);
    let blocks = cids.iter().zip(nodes.iter().map(Vec::as_slice));
    repo::car(&root, std::iter::once((&root, &commit[..])).chain(blocks))
}

/// Nodes without entries, each the left subtree of the one before it.
fn chain(len: usize) -> Vec<Vec<u8>> {
    let mut nodes = Vec::with_capacity(len);
    let mut below: Option<Cid> = None;
    for _ in 0..len {
        let mut node = vec![0xa2, 0x61, b'e', 0x80, 0x61, b'l'];
        dagcbor::link_or_null(&mut node, below.as_ref());
        below = Some(Cid::of(&node));
        nodes.push(node);
    }
    nodes.reverse();
    nodes
}

/// A node with many entries, in order.
fn wide(entries: u64) -> Vec<u8> {
    let value = Cid::of(b"no block");
    let mut node = vec![0xa2, 0x61, b'e'];
    dagcbor::head(&mut node, 4, entries);
    for at in 0..entries {
        node.extend_from_slice(&[0xa4, 0x61, b'k']);
        let key = format!("{at:08}");
        match at {
            0 => dagcbor::bytes(&mut node, format!("com.example.wide/{key}").as_bytes()),
            _ => dagcbor::bytes(&mut node, key.as_bytes()),
        }
        node.extend_from_slice(&[0x61, b'p']);
        dagcbor::head(&mut node, 0, if at == 0 { 0 } else { 17 });
        node.extend_from_slice(&[0x61, b't', 0xf6, 0x61, b'v']);
        dagcbor::link(&mut node, &value);
    }
    node.extend_from_slice(&[0x61, b'l', 0xf6]);
    node
}
