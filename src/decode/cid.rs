//! Content identifiers as AT Protocol uses them: CIDv1, dag-cbor or raw, SHA-256 (protocol.md, section 6).

use std::fmt;

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

/// Codec of dag-cbor: commits, tree nodes, records.
pub const DAG_CBOR: u8 = 0x71;
/// Codec of raw bytes: blobs.
pub const RAW: u8 = 0x55;

/// A CID: the codec and the SHA-256 of the block. 36 bytes in binary form, 59 characters as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cid {
    codec: u8,
    hash: [u8; 32],
}

impl Cid {
    /// Length of the binary form.
    pub const LEN: usize = 36;

    /// A CID of its codec ([`DAG_CBOR`] or [`RAW`]) and hash.
    pub fn new(codec: u8, hash: [u8; 32]) -> Self {
        Self { codec, hash }
    }

    /// The CID of a block of DAG-CBOR.
    pub fn of_dag_cbor(block: &[u8]) -> Self {
        Self::new(DAG_CBOR, Sha256::digest(block).into())
    }

    /// Parses the 36 bytes of the binary form; `None` if they are anything but CIDv1, dag-cbor or raw, sha2-256.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [1, codec @ (DAG_CBOR | RAW), 0x12, 0x20, hash @ ..] => {
                Some(Self::new(*codec, hash.try_into().ok()?))
            }
            _ => None,
        }
    }

    /// The 36 bytes of the binary form.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (head, hash) = bytes.split_at_mut(4);
        head.copy_from_slice(&[1, self.codec, 0x12, 0x20]);
        hash.copy_from_slice(&self.hash);
        bytes
    }

    /// Parses the text form: `b` and lowercase unpadded base32.
    pub fn parse(text: &str) -> Option<Self> {
        let base32 = text.strip_prefix('b')?;
        if base32.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let bytes = BASE32_NOPAD
            .decode(base32.to_ascii_uppercase().as_bytes())
            .ok()?;
        Self::from_bytes(&bytes)
    }

    /// The codec: [`DAG_CBOR`] or [`RAW`].
    pub fn codec(&self) -> u8 {
        self.codec
    }

    /// The SHA-256 of the block.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "b{}",
            BASE32_NOPAD.encode(&self.to_bytes()).to_ascii_lowercase()
        )
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
