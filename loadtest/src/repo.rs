//! Repositories that sign: keys, commits, CARs (protocol.md, sections 2 and 6).

use std::sync::OnceLock;

use k256::ecdsa::signature::Signer;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::dagcbor::{self, Cid};
use crate::mst::Mst;
use crate::tid::Tid;

/// The curve of a signing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// secp256k1
    K256,
    /// NIST P-256
    P256,
}

#[derive(Debug, Clone)]
enum Pair {
    K256(Box<k256::ecdsa::SigningKey>),
    P256(Box<p256::ecdsa::SigningKey>),
}

/// A signing key; the points of the curve are computed when they are first needed.
#[derive(Debug, Clone)]
pub struct Key {
    curve: Curve,
    secret: [u8; 32],
    pair: OnceLock<Pair>,
}

impl Key {
    /// A key of these 32 bytes, which must lie within both curves' orders.
    pub fn new(curve: Curve, mut secret: [u8; 32]) -> Self {
        secret[0] &= 0x7f;
        secret[31] |= 1;
        Self {
            curve,
            secret,
            pair: OnceLock::new(),
        }
    }

    /// Whose curve it is.
    pub fn curve(&self) -> Curve {
        self.curve
    }

    fn pair(&self) -> &Pair {
        self.pair.get_or_init(|| {
            let known = "a number between 1 and 2^255 is a key of both curves";
            match self.curve {
                Curve::K256 => Pair::K256(Box::new(
                    k256::ecdsa::SigningKey::from_slice(&self.secret).expect(known),
                )),
                Curve::P256 => Pair::P256(Box::new(
                    p256::ecdsa::SigningKey::from_slice(&self.secret).expect(known),
                )),
            }
        })
    }

    /// The 64 bytes r and s, low-S, over the SHA-256 of the message.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        match self.pair() {
            Pair::K256(key) => {
                let signature: k256::ecdsa::Signature = key.sign(message);
                signature.normalize_s().to_bytes().into()
            }
            Pair::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(message);
                signature.normalize_s().to_bytes().into()
            }
        }
    }

    /// The `publicKeyMultibase` of a DID document.
    pub fn multibase(&self) -> String {
        let (prefix, point) = match self.pair() {
            Pair::K256(key) => (
                [0xe7, 0x01],
                key.verifying_key().to_sec1_point(true).as_bytes().to_vec(),
            ),
            Pair::P256(key) => (
                [0x80, 0x24],
                key.verifying_key().to_sec1_point(true).as_bytes().to_vec(),
            ),
        };
        format!("z{}", base58(&[&prefix[..], &point].concat()))
    }
}

/// Base58 as Bitcoin spells it.
fn base58(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut digits: Vec<u8> = Vec::new();
    for byte in bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            carry += u32::from(*digit) << 8;
            *digit = (carry % 58) as u8;
            carry /= 58;
        }
        while carry > 0 {
            digits.push((carry % 58) as u8);
            carry /= 58;
        }
    }
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let ones = std::iter::repeat_n('1', zeros);
    ones.chain(
        digits
            .iter()
            .rev()
            .map(|d| ALPHABET[usize::from(*d)] as char),
    )
    .collect()
}

/// How commits are signed.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Signatures {
    /// Real ones, of the repository's key.
    #[default]
    Real,
    /// 64 random bytes: for load, where nothing checks them.
    Random,
}

/// A repository as its host has it.
#[derive(Debug, Clone)]
pub struct Repo {
    /// The DID.
    pub did: String,
    /// Its signing key.
    pub key: Key,
    /// Its records.
    pub tree: Mst,
    /// Revision and root of the last commit; none before the first.
    pub head: Option<(Tid, Cid)>,
}

/// A signed commit block.
#[derive(Debug, Clone)]
pub struct CommitBlock {
    /// Its CID.
    pub cid: Cid,
    /// Its bytes.
    pub block: Vec<u8>,
    /// Root of the tree.
    pub data: Cid,
}

impl Repo {
    /// Signs the tree as it is at `rev`, which must be newer than the last one.
    pub fn commit(&mut self, rev: Tid, how: Signatures, rng: &mut ChaCha8Rng) -> CommitBlock {
        let data = self.tree.root();
        let signature = match how {
            Signatures::Real => self.key.sign(&commit_bytes(&self.did, rev, None, &data)),
            Signatures::Random => {
                let mut bytes = [0; 64];
                rng.fill_bytes(&mut bytes);
                bytes
            }
        };
        let block = commit_bytes(&self.did, rev, Some(&signature), &data);
        self.head = Some((rev, data));
        CommitBlock {
            cid: Cid::of(&block),
            block,
            data,
        }
    }
}

/// A commit of version 3, with or without its signature.
pub fn commit_bytes(did: &str, rev: Tid, sig: Option<&[u8; 64]>, data: &Cid) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    dagcbor::head(&mut out, 5, if sig.is_some() { 6 } else { 5 });
    dagcbor::text(&mut out, "did");
    dagcbor::text(&mut out, did);
    dagcbor::text(&mut out, "rev");
    dagcbor::text(&mut out, &rev.to_string());
    if let Some(sig) = sig {
        dagcbor::text(&mut out, "sig");
        dagcbor::bytes(&mut out, sig);
    }
    dagcbor::text(&mut out, "data");
    dagcbor::link(&mut out, data);
    dagcbor::text(&mut out, "prev");
    dagcbor::null(&mut out);
    dagcbor::text(&mut out, "version");
    dagcbor::int(&mut out, 3);
    out
}

/// A CAR with one root.
pub fn car<'a>(root: &Cid, blocks: impl IntoIterator<Item = (&'a Cid, &'a [u8])>) -> Vec<u8> {
    let mut out = Vec::with_capacity(6 * 1024);
    car_header(&mut out, root);
    for (cid, block) in blocks {
        car_block(&mut out, cid, block);
    }
    out
}

/// Appends the header of a CAR.
pub(crate) fn car_header(out: &mut Vec<u8>, root: &Cid) {
    let mut header = Vec::with_capacity(64);
    dagcbor::head(&mut header, 5, 2);
    dagcbor::text(&mut header, "roots");
    dagcbor::head(&mut header, 4, 1);
    dagcbor::link(&mut header, root);
    dagcbor::text(&mut header, "version");
    dagcbor::int(&mut header, 1);
    uvarint(out, header.len());
    out.extend_from_slice(&header);
}

/// Appends a block of a CAR.
pub(crate) fn car_block(out: &mut Vec<u8>, cid: &Cid, block: &[u8]) {
    uvarint(out, 36 + block.len());
    out.extend_from_slice(&cid.to_bytes());
    out.extend_from_slice(block);
}

/// Appends an unsigned LEB128.
pub(crate) fn uvarint(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
